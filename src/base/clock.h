/* clock.h -- the two clocks. */
#ifndef CD_BASE_CLOCK_H
#define CD_BASE_CLOCK_H

#include <stdint.h>

int64_t cd_wall_ms(void); /* since the epoch; may jump */
int64_t cd_mono_ms(void); /* monotonic; for timers and ages */
int64_t cd_mono_us(void);

#endif

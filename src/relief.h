/* relief.h -- what happens when the memory budget is used up. */
#ifndef CD_RELIEF_H
#define CD_RELIEF_H

#include "core.h"

/** Set the budget of limits.memory_mb up: beyond it, while queues hold much of it, the owner of the largest is
 * closed, one a turn. @param core  must live as long as anything takes from the budget */
void cd_relief_setup(struct cd_core *core);

#endif

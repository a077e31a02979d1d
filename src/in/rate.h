/* rate.h -- so many a second by key (address, user), with a burst: cheap, and bounded in memory. */
#ifndef CD_IN_RATE_H
#define CD_IN_RATE_H

#include <stdint.h>

#define CD_RATE_BURST_S 10 /* seconds' worth that may come at once */

/** One key's state; zero-filled: nothing has come yet. */
struct cd_rate_mark {
    int64_t due_us; /* monotonic: when what has come so far would be used up */
};

/** Take one.
 * @param per_second  0: no limit
 * @return 0 when allowed and counted, else milliseconds to wait (not counted) */
int64_t cd_rate_mark_take(struct cd_rate_mark *m, unsigned per_second, int64_t now_us);

struct cd_rate;

/** @param max_keys  size of the table; the longest idle key makes room */
struct cd_rate *cd_rate_new(unsigned max_keys);
void cd_rate_free(struct cd_rate *r); /* NULL is allowed */
/** Take one of @p key; as cd_rate_mark_take(). Without memory for a new key it passes. */
int64_t cd_rate_take(struct cd_rate *r, const char *key, unsigned per_second, int64_t now_us);

#endif

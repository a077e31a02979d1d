/* limit.h -- token buckets by key (address, user, room): bounded tables, oldest idle entry evicted. */
#ifndef CD_IN_LIMIT_H
#define CD_IN_LIMIT_H

#include <stdint.h>

struct cd_limit;

/** @param per_window  events allowed in @p window_ms (also the burst); 0: no limit
 *  @param max_keys    size of the table */
struct cd_limit *cd_limit_new(unsigned per_window, int64_t window_ms, unsigned max_keys);
void cd_limit_free(struct cd_limit *l);
/** Would an event be allowed? @return 0, or milliseconds to wait */
int64_t cd_limit_peek(struct cd_limit *l, const char *key, int64_t now_ms);
/** Take one. @return 0 when allowed and counted, else milliseconds to wait (not counted) */
int64_t cd_limit_take(struct cd_limit *l, const char *key, int64_t now_ms);

#endif

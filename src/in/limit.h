/* limit.h -- how often by key (address, user, room): an exact sliding window, in a bounded table
 * whose longest idle entry makes room. */
#ifndef CD_IN_LIMIT_H
#define CD_IN_LIMIT_H

#include <stdint.h>

struct cd_limit;

/** @param per_window  events allowed within any @p window_ms (also the burst), at most 4096; 0:
 * no limit
 * @param max_keys    size of the table */
struct cd_limit *cd_limit_new(unsigned per_window, int64_t window_ms, unsigned max_keys);
unsigned cd_limit_per_window(const struct cd_limit *l);
void cd_limit_free(struct cd_limit *l);
/** Would an event be allowed? @return 0, or milliseconds to wait */
int64_t cd_limit_peek(struct cd_limit *l, const char *key, int64_t now_ms);
/** Take one. @return 0 when allowed and counted, else milliseconds to wait (not counted) */
int64_t cd_limit_take(struct cd_limit *l, const char *key, int64_t now_ms);
/** Give back the event of @p key that was counted at @p at_ms: it turned out not to count. */
void cd_limit_refund(struct cd_limit *l, const char *key, int64_t at_ms);

#endif

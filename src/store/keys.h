/* keys.h -- answers kept under an Idempotency-Key, in memory: the newest ones, within limits. */
#ifndef CD_STORE_KEYS_H
#define CD_STORE_KEYS_H

#include "base/map.h"
#include "store/store_int.h"

#define CD_KEYS_BUDGET_PART 8 /* never more than this part of the memory budget */

/** What goes beyond one of them drops the oldest. */
struct cd_keys_limits {
    size_t rows, rows_a_user;
    size_t bytes;
    int64_t age_ms; /* since a row was put here */
};

struct cd_key;
struct cd_keys {
    struct cd_keys_limits max;
    struct cd_map users;
    struct cd_key *oldest, *newest;
    size_t rows, bytes; /* the bytes are taken from the memory budget */
};

/** @return the row that is honoured at @p now_ms (wall), borrowed, or NULL; never fails for want of memory */
const struct cd_idem_row *cd_keys_find(const struct cd_keys *k, const char *user, const char *key,
                                       int64_t now_ms);
/** Keep @p row (taken over). One that is there and still honoured stays, as the first answer is the answer.
 * @param now_ms  wall: what is too old by then goes. @return false: out of memory, it was freed */
bool cd_keys_put(struct cd_keys *k, struct cd_idem_row *row, int64_t now_ms);
/** Memory for @p row, in two steps: what can fail first. To be added or dropped before anything else happens
 * to @p k. @return NULL out of memory */
struct cd_key *cd_keys_plan(struct cd_keys *k, const struct cd_idem_row *row);
/** As cd_keys_put; takes over @p plan, which was made for this row. */
void cd_keys_add(struct cd_keys *k, struct cd_key *plan, struct cd_idem_row *row, int64_t now_ms);
/** NULL is allowed. */
void cd_keys_plan_drop(struct cd_key *plan);
/** Forget that key: its answer did not become true. */
void cd_keys_del(struct cd_keys *k, const char *user, const char *key);
/** Drop what is too old. */
void cd_keys_age(struct cd_keys *k, int64_t now_ms);
/** All of @p from, which is empty afterwards, instead of what @p to has; each keeps its limits. */
void cd_keys_move(struct cd_keys *to, struct cd_keys *from);
void cd_keys_done(struct cd_keys *k);

#endif

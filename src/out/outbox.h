/* outbox.h -- sends the rows of matrix_outbox into rooms with their users' own tokens: in order,
 * with stable transaction ids, within rate limits and deadlines (design, the Matrix side). */
#ifndef CD_OUT_OUTBOX_H
#define CD_OUT_OUTBOX_H

#include "in/auth.h"
#include "out/fetch.h"
#include "store/store.h"

struct cd_outbox;

enum cd_sent_rc {
    CD_SENT_OK,
    CD_SENT_EXPIRED,  /* deadline passed before it could be sent, or before anybody knew whether it was */
    CD_SENT_REFUSED,  /* the homeserver said 4xx other than 401 and 429 */
    CD_SENT_NO_TOKEN  /* the user's token is gone or was refused, none came within the deadline */
};

struct cd_outbox_ops {
    /** A usable token of that user now, or NULL (borrowed). */
    struct cd_principal *(*token)(void *self, const char *user_id);
    /** The homeserver refused this token (401). */
    void (*token_refused)(void *self, const char *user_id, struct cd_principal *p);
    /** First attempt is about to be made (the invite counts as tried from here). */
    void (*tried)(void *self, const struct cd_outbox_row *row);
    /** A row is finished. event_id may be NULL. The row is freed afterwards. */
    void (*finished)(void *self, const struct cd_outbox_row *row, enum cd_sent_rc rc,
                     const char *event_id);
};

struct cd_outbox *cd_outbox_new(struct cd_loop *loop, struct cd_fetch_pool *pool,
                                struct cd_store *store,
                                const char *homeserver_url, const struct cd_outbox_ops *ops,
                                    void *self);
void cd_outbox_free(struct cd_outbox *o);
/** Queue committed rows (copied). Order: within a user by (rank 2 and 3 of any call first, then
 * age); within a call by rank, then ord, over both users; rank 9 waits for not_before (several
 * rows of kind m.call.candidates of one call and user that are due together are sent as one
 * event, txn id of the first). One request in flight a call and one a user; 8 users at once.
 * 429: retry_after; 5xx and transport errors: back-off 1, 2, 4 .. 15 s with jitter; never after
 * the deadline. While the homeserver is away (no answer, or a proxy's 502, 503, 504) one request at a
 * time asks whether it is back. An event that may have arrived without our hearing of it (no answer; a
 * restored row) is looked for in the room before it is sent again: found, it counts as sent.
 * A row of rank 3 cuts the deadline of its call's answers to 10 s after it: an answer whose token is
 * gone must not hold the hang-up back. finished() may run inside when the
 * queue is full (20000 rows). */
void cd_outbox_add(struct cd_outbox *o, const struct cd_outbox_row *rows, size_t n);
/** Drop what was never tried, without finished(). Rows of rank 9 that were tried and wait for another
 * attempt go as well, and one that is on its way is not repeated: nothing of rank 9 follows a
 * hang-up. @param all  every rank, stored rows too; else only rank 9, and the owner's change deletes
 * the stored rows that were never tried */
void cd_outbox_drop(struct cd_outbox *o, const char *call_id, bool all);
/** The call is over. Take its invite back if no request for it was ever begun: then all rows of the
 * call go, here and in the store.
 * @param rows  of the change that ended it, which are not queued yet
 * @return false: the invite is on its way or was sent; nothing was changed */
bool cd_outbox_take_back(struct cd_outbox *o, const char *call_id, const struct cd_outbox_row *rows,
                         size_t n);
/** Another daemon sends this call's rows from now on: they go, here alone. One that is on its way is not
 * repeated. */
void cd_outbox_forget(struct cd_outbox *o, const char *call_id);
/** A token of that user became available (another one, or the same again): wake its rows. */
void cd_outbox_token_ready(struct cd_outbox *o, const char *user_id);
/** Rows of that call left? */
size_t cd_outbox_pending(const struct cd_outbox *o, const char *call_id);
size_t cd_outbox_pending_user(const struct cd_outbox *o, const char *user_id);

struct cd_outbox_stats {
    uint64_t sent, expired, refused, no_token, retries, rate_limited;
    uint64_t echoes_found;   /* of events whose outcome was unknown: the room had them */
    uint64_t echoes_missing; /* it had not: sent again */
    size_t waiting;
    int64_t oldest_ms;   /* how long the longest waiting event could have been sent, 0: none waits */
    int64_t back_off_ms; /* until the next attempt to reach a homeserver that is away; 0: not away, or now */
    bool away;
    bool homeserver_up; /* the last attempt reached it */
};
void cd_outbox_stats(const struct cd_outbox *o, struct cd_outbox_stats *out);

#endif

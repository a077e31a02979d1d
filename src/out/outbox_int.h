/* outbox_int.h -- what outbox.c, outbox_queue.c, outbox_send.c and outbox_batch.c share. */
#ifndef CD_OUT_OUTBOX_INT_H
#define CD_OUT_OUTBOX_INT_H

#include "base/map.h"
#include "loop/loop.h"
#include "out/outbox.h"

#define CD_RANK_HANGUP 3
#define CD_RANK_DROPPABLE 9
#define CD_BATCH_MAX 64 /* rows that become one event */

struct cd_ob_call;
struct cd_ob_user;
struct cd_ob_mark;

struct cd_ob_item {
    struct cd_outbox_row row; /* strings are owned */
    struct cd_ob_call *call;
    struct cd_ob_user *user;
    struct cd_ob_item *call_next, *call_prev; /* by rank, ord, arrival */
    struct cd_ob_item *user_next, *user_prev; /* by arrival */
    struct cd_ob_item *batch;  /* next row that is part of the same event */
    struct cd_ob_item *leader; /* the row whose event this one is part of, NULL: its own */
    uint64_t seq;
    bool in_flight;
    bool dropped; /* not repeated when this attempt fails */
    bool forgotten; /* the same, and its stored row is another daemon's */
    bool unknown; /* it may have arrived without our hearing of it: look before it is sent again */
};

struct cd_ob_call {
    char id[CD_CALL_ID_LEN + 1];
    struct cd_ob_item *items;
    size_t n;
    bool busy; /* one of its rows is on its way */
};

struct cd_ob_user {
    struct cd_ob_user *next; /* in the ready or the starved queue */
    struct cd_outbox *outbox;
    char *id;
    struct cd_ob_item *first, *last;
    size_t n;
    struct cd_ob_item *sending;
    struct cd_principal *principal; /* of the attempt that runs */
    struct cd_ob_mark *mark;        /* the store notes the attempt first */
    uint64_t fetch;
    int64_t began_ms; /* monotonic: the request that runs */
    bool probing;     /* that request asks whether the homeserver is back */
    int64_t blocked_until_ms; /* monotonic: rate limit or back-off */
    unsigned failures;        /* in a row */
    uint8_t refused[16];      /* hash of the token that got a 401 */
    bool has_refused, queued;
    struct cd_timer timer;
};

struct cd_ob_queue {
    struct cd_ob_user *first, *last;
};

#define CD_OB_MISSED_MAX 64
#define CD_OB_DONE_MAX 4096 /* power of two */

struct cd_outbox {
    char missed[CD_OB_MISSED_MAX][CD_CALL_ID_LEN + 1]; /* calls with rows that found no memory */
    size_t n_missed;
    bool missed_more, reading_missed; /* more than those; one or all are being read */
    struct cd_timer missed_timer;
    struct cd_loop *loop;
    struct cd_fetch_pool *pool;
    struct cd_store *store;
    char *base; /* homeserver URL without a slash at its end */
    const struct cd_outbox_ops *ops;
    void *self;
    struct cd_map txns, calls, users;
    struct cd_ob_queue ready, starved;
    struct cd_timer kick;
    unsigned sending; /* users with a request on its way */
    bool away, probing;      /* outbox_away.c */
    unsigned away_failures;  /* in a row */
    int64_t away_until_ms;   /* monotonic: the next probe */
    int64_t reached_ms;      /* monotonic: the last answer */
    struct cd_timer probe;
    uint64_t last_seq;
    /* rows finished lately: what is read back meanwhile may hold them still */
    uint64_t *done; /* hashes of transaction ids, a ring; NULL: none yet */
    size_t done_at;
    struct cd_outbox_stats stats;
};

/* --- outbox_queue.c: the rows and their order --------------------------------------------- */
/** Copy a row in. @return NULL: there already, or out of memory: then it is read again from the store */
struct cd_ob_item *cd_ob_insert(struct cd_outbox *o, const struct cd_outbox_row *row);
/** Never take this row in again. */
void cd_ob_done(struct cd_outbox *o, const char *txn_id);
/** Take it out of all lists and free it. Its user stays. */
void cd_ob_remove(struct cd_outbox *o, struct cd_ob_item *it);
/** The row of @p u that goes next. @param wake_at  earliest wall time at which that may change;
 * only ever lowered */
struct cd_ob_item *cd_ob_choose(const struct cd_ob_user *u, int64_t wall_ms, int64_t *wake_at);
/** Chain rows that are due with @p leader and can be one event with it. */
void cd_ob_gather(struct cd_ob_item *leader, int64_t wall_ms);
struct cd_ob_user *cd_ob_user_get(const struct cd_outbox *o, const char *user_id);
void cd_ob_user_free(struct cd_outbox *o, struct cd_ob_user *u);

/* --- outbox_missed.c ---------------------------------------------------------------------- */
/** Rows of that call found no memory: read them again, soon. */
void cd_ob_missed(struct cd_outbox *o, const char *call_id);

/* --- outbox_send.c: one attempt ----------------------------------------------------------- */
/** @param p  the token to use */
void cd_ob_start(struct cd_outbox *o, struct cd_ob_item *it, struct cd_principal *p);
void cd_ob_stop(struct cd_outbox *o, struct cd_ob_user *u); /* forget the attempt that runs */

/* --- outbox_away.c: is the homeserver there? ------------------------------------------------ */
/** May a request begin now? While it is away: one at a time, and not before its time. */
bool cd_ob_gate_open(const struct cd_outbox *o);
/** An attempt begins, or is over without an answer to be judged. */
void cd_ob_attempt_begins(struct cd_outbox *o, struct cd_ob_user *u);
void cd_ob_attempt_ends(struct cd_outbox *o, struct cd_ob_user *u);
/** Judge the answer of @p u's attempt, after cd_ob_attempt_ends. */
void cd_ob_judge(struct cd_outbox *o, const struct cd_ob_user *u, const struct cd_fetch_res *res);
/** Wait before the next attempt after so many failures in a row [ms], jitter included. */
int64_t cd_ob_back_off_ms(unsigned failures);

/* --- outbox_echo.c: did it arrive? ---------------------------------------------------------- */
/** The request that reads the newest events of that type and sender. @return to be freed, or NULL */
char *cd_ob_echo_url(const struct cd_outbox *o, const struct cd_outbox_row *row);
/** Does that answer hold our event (and those that were part of it)? */
bool cd_ob_echo_in(const struct cd_ob_item *it, struct cd_str body);

/* --- outbox.c ----------------------------------------------------------------------------- */
/** The row is finished: store, owner, memory; its followers too. */
void cd_ob_finish(struct cd_outbox *o, struct cd_ob_item *it, enum cd_sent_rc rc,
                  const char *event_id);
/** The row goes, and those that are one event with it; in memory alone. */
void cd_ob_discard(struct cd_outbox *o, struct cd_ob_item *it);
void cd_ob_wake(struct cd_outbox *o, struct cd_ob_user *u);
void cd_ob_wake_call(struct cd_outbox *o, struct cd_ob_call *call);

/* --- outbox_batch.c: several m.call.candidates as one ------------------------------------- */
bool cd_batch_fits(struct cd_str a, struct cd_str b);
/** @return one content with all candidates, to be freed; NULL: too large */
char *cd_batch_merge(const struct cd_ob_item *leader);

#endif

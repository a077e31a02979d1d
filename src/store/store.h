/* store.h -- the door to durability. One contract, two stores: PostgreSQL and memory. Callbacks run
 * on the loop, never inside the submitting call. */
#ifndef CD_STORE_STORE_H
#define CD_STORE_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/str.h"
#include "call/call.h"

struct cd_loop;
struct cd_store;

/** A row of call_events: append only, never SDP or candidates. */
struct cd_event_row {
    uint64_t seq;        /* number within the call */
    const char *type;    /* literal: initiated answered rejected ended connected missed joined left ... */
    char *user_id;       /* actor; NULL: the daemon */
    char *data;          /* JSON object text; NULL: {} */
    int64_t at;          /* wall ms */
    bool has_mx_hash;    /* made by a Matrix event: dedupe by the hash of its event id */
    uint8_t mx_hash[16]; /* unique over the table */
};

/** A row of matrix_outbox: one event to be sent into the room as one user. */
struct cd_outbox_row {
    char *txn_id;      /* primary key and Matrix transaction id: stable over all retries */
    char call_id[CD_CALL_ID_LEN + 1];
    char *room_id;
    char *user_id;     /* sender: whose token it is sent with */
    char *event_type;  /* m.call.* */
    char *content;     /* JSON text */
    int rank;          /* order within the call over both users: 0 invite, 1 answer, 2 select_answer and
                        * reject, 3 hangup, 9 what may be dropped (candidates, negotiate, metadata) */
    int64_t ord;       /* order within equal rank */
    int64_t created_at, not_before, deadline; /* wall ms */
    bool tried;        /* at least one attempt was made: outcome may be unknown */
    bool unwritten;    /* the store could not take it: not of the row itself */
    bool restored;     /* not a column: another process had it, whose last attempts may have gone unnoted */
    int attempts;
};

/** A row of call_signals: offers, answers and candidates while the call lives. */
struct cd_signal_row {
    uint64_t seq;
    char *kind; /* "webrtc-offer", "webrtc-answer", "ice-candidate" */
    char *from_user, *from_party;
    char *to;      /* user or party, NULL: everyone */
    char *payload; /* JSON members as sent, e.g. {"offer":{...}} */
};

/** Remembers the answer to a POST with Idempotency-Key for 24 h. */
struct cd_idem_row {
    char *user_id, *key;
    uint8_t request_hash[16];
    int status;
    char *response; /* JSON text without credentials and SDP */
    char call_id[CD_CALL_ID_LEN + 1];
    int64_t at;
};

#define CD_CHANGE_EVENTS 8
#define CD_CHANGE_OUTBOX 8
#define CD_CHANGE_SIGNALS 16

/** One transaction: all of it becomes durable, or none. Everything but `call` is owned by it. */
struct cd_change {
    const struct cd_call *call;     /* whole row and participants to write; NULL: no transition; borrowed
                                     * until the callback */
    uint64_t expect_version;        /* 0: insert; else UPDATE ... WHERE version = this */
    char call_id[CD_CALL_ID_LEN + 1]; /* always set */
    size_t n_events;
    struct cd_event_row events[CD_CHANGE_EVENTS];
    size_t n_outbox;
    struct cd_outbox_row outbox[CD_CHANGE_OUTBOX];
    size_t n_signals;
    struct cd_signal_row signals[CD_CHANGE_SIGNALS];
    bool drop_untried_droppable; /* delete this call's outbox rows of rank 9 that were never tried */
    bool drop_untried_all; /* unless its invite was tried: delete all outbox rows of the call, those of
                            * this change as well. The store knows best: it orders the note of the
                            * attempt and this change */
    bool drop_signals;           /* the call ended: its signals go */
    bool elsewhere; /* another daemon owns the call: its timers and outbox rows are that one's. In: as far
                     * as is known; the callback sees how it is */
    bool incomplete; /* a module had no memory for its rows: it must not be committed */
    struct cd_idem_row *idem;    /* may be NULL */
};

struct cd_change *cd_change_new(const char *call_id);
void cd_change_free(struct cd_change *ch);
/** Append; strings are copied. @return false: full or out of memory */
bool cd_change_event(struct cd_change *ch, uint64_t seq, const char *type, const char *user,
                     const char *data_json, int64_t at);
struct cd_outbox_row *cd_change_outbox(struct cd_change *ch); /* zeroed row to fill, NULL: full */
struct cd_signal_row *cd_change_signal(struct cd_change *ch);
void cd_outbox_row_done(struct cd_outbox_row *r);
void cd_signal_row_done(struct cd_signal_row *r);
/** An idempotency row and its strings; NULL is allowed. */
void cd_idem_row_free(struct cd_idem_row *r);
/** @return NULL out of memory */
struct cd_idem_row *cd_idem_row_copy(const struct cd_idem_row *r);

enum cd_store_rc {
    CD_STORE_OK,
    CD_STORE_LOST_RACE,   /* version moved on, or an idempotency row exists: reload and decide again */
    CD_STORE_CALL_EXISTS, /* the partial unique index says so: live_call_id is filled */
    CD_STORE_DUPLICATE,   /* the Matrix event was applied before */
    CD_STORE_DOWN,        /* not durable, outcome unknown to be negative: nothing was written */
    CD_STORE_FULL,        /* queue cap reached */
    CD_STORE_REFUSED,     /* cannot be stored, ever: invalid UTF-8 or JSON, U+0000; nothing was written */
    CD_STORE_MORE         /* members_load alone: as OK, and the rest follows in further calls */
};

typedef void (*cd_commit_fn)(void *arg, enum cd_store_rc rc, const char *live_call_id);

/** Everything of a call that a restart or a late reader needs. Freed by the receiver. */
struct cd_stored_call {
    struct cd_call *call;
    size_t n_events;
    struct cd_event_row *events;
    size_t n_signals;
    struct cd_signal_row *signals;
    size_t n_outbox;
    struct cd_outbox_row *outbox;
    bool elsewhere; /* another daemon owns it */
};
void cd_stored_call_free(struct cd_stored_call *sc);
typedef void (*cd_load_fn)(void *arg, enum cd_store_rc rc, struct cd_stored_call *sc); /* NULL: none */
typedef void (*cd_load_all_fn)(void *arg, enum cd_store_rc rc, struct cd_stored_call **calls, size_t n);

#define CD_MEMBERS_MAX 200000 /* memberships that are kept in memory */

struct cd_member_row {
    char *room_id, *user_id;
    bool joined;
    char *display_name, *avatar_url; /* may be NULL */
};
typedef void (*cd_members_fn)(void *arg, enum cd_store_rc rc, const struct cd_member_row *rows, size_t n);
typedef void (*cd_idem_fn)(void *arg, enum cd_store_rc rc, const struct cd_idem_row *row); /* NULL: none */
typedef void (*cd_token_fn)(void *arg, enum cd_store_rc rc, const uint8_t *sealed, size_t n);
typedef void (*cd_done_fn)(void *arg, enum cd_store_rc rc);

/** Several daemons on one database: what each must hear of the others. Callbacks run on the loop. */
struct cd_store_watch {
    /** Is there anything that other daemons must not act for? */
    bool (*holds)(void *arg);
    /** Calls of a daemon that is gone are ours now: act for them as after a start. Taken over. */
    void (*taken)(void *arg, struct cd_stored_call **calls, size_t n);
    /** Another daemon wrote into a call of ours: read it again. */
    void (*touched)(void *arg, const char *call_id);
    /** Read all calls of ours again, by load_live. @param robbed  our lease had run out, and others may
     * have taken what we hold: act for none of it until it comes back */
    void (*resync)(void *arg, bool robbed);
    /** The call's rows were changed by hand, as by erase-user: what is in memory of it, when it is over, must go. */
    void (*forget)(void *arg, const char *call_id);
};

struct cd_store_stats {
    uint64_t commits, batches, batch_reruns, lost_races, reconnects, queue_now, reads;
    bool connected; /* and answers: nothing has waited for longer than 2 s */
    /* of a store that goes on without its database: */
    bool spooling;   /* changes are kept in files now */
    bool spool_full; /* and nothing new has room there */
    uint64_t spool_bytes, spool_records;      /* not yet in the database */
    int64_t spool_oldest_at;                  /* wall ms of the oldest of them, 0: none */
    uint64_t spool_replayed, spool_rejected;  /* records, since start */
    uint64_t spool_displaced; /* calls that ended because another one stood in their place, since start */
    uint64_t expired_rows; /* deleted because they were older than they are kept */
    uint64_t calls_taken; /* from daemons that are gone */
    unsigned peers;       /* other daemons on this database */
};

struct cd_store_ops {
    const char *name; /* "postgresql" or "memory" */
    /** Precedence when several hold: REFUSED, DUPLICATE, LOST_RACE by the idempotency key, CALL_EXISTS,
     * LOST_RACE. A second insert of the same (room, matrix_call_id) is LOST_RACE, and so are events or
     * outbox rows of an unknown call, outbox rows without a transition of a final one, and a transaction id
     * that is there already; signals of an unknown or final call are dropped silently.
     * @param change  taken over, freed by the store after the callback */
    void (*commit)(struct cd_store *s, struct cd_change *change, cd_commit_fn fn, void *arg);
    void (*load_call)(struct cd_store *s, const char *call_id, cd_load_fn fn, void *arg);
    void (*load_by_matrix)(struct cd_store *s, const char *room_id, const char *matrix_call_id,
                           cd_load_fn fn, void *arg);
    /** Start-up: every call that is not final, and every call with outbox rows left; of several daemons on
     * one database each gets its own, and those of daemons that are gone, which become its own. */
    void (*load_live)(struct cd_store *s, cd_load_all_fn fn, void *arg);
    void (*idem_get)(struct cd_store *s, const char *user, const char *key, cd_idem_fn fn, void *arg);
    /* outbox bookkeeping, written with the next batch; CD_STORE_LOST_RACE: there is no such row any more */
    void (*outbox_tried)(struct cd_store *s, const char *txn_id, int attempts, cd_done_fn fn, void *arg);
    /** Sent or past its deadline: delete. Of an invite that was tried, invite_tried stays with its call. */
    void (*outbox_done)(struct cd_store *s, const char *txn_id);
    /* sealed Matrix tokens: (user, device) */
    void (*token_put)(struct cd_store *s, const char *user, const char *device, const uint8_t *sealed,
                      size_t n);
    void (*token_get)(struct cd_store *s, const char *user, cd_token_fn fn, void *arg); /* newest */
    void (*token_del)(struct cd_store *s, const char *user);
    /* membership cache */
    /* Who is not joined is forgotten. */
    void (*members_put)(struct cd_store *s, const struct cd_member_row *rows, size_t n);
    /* Who is joined, at start: in slices, CD_MEMBERS_MAX at most, those that were heard of last. */
    void (*members_load)(struct cd_store *s, cd_members_fn fn, void *arg);
    /* Matrix events that make no row of their own: hash of the event id, with the next batch */
    void (*seen_put)(struct cd_store *s, const uint8_t hash[16], cd_commit_fn fn, void *arg);
    void (*quarantine)(struct cd_store *s, const char *reason, struct cd_str raw, cd_done_fn fn, void *arg);
    void (*stats)(const struct cd_store *s, struct cd_store_stats *out);
    /** Flush what waits, then call back (CD_STORE_DOWN: some of it could not be written). */
    void (*flush)(struct cd_store *s, cd_done_fn fn, void *arg);
    /** Flush first: callbacks still pending are dropped. */
    void (*close)(struct cd_store *s);
    /* Only where several daemons may share a store, else NULL; ask by the functions below. */
    /** @param w  copied */
    void (*watch)(struct cd_store *s, const struct cd_store_watch *w, void *arg);
    bool (*may_act)(const struct cd_store *s, const char *call_id);
    /** For good: other daemons take our calls over at once. */
    void (*leave)(struct cd_store *s, cd_done_fn fn, void *arg);
};

/** First member of each store. */
struct cd_store {
    const struct cd_store_ops *ops;
};

/** May outbox rows of that call still be sent? Not once other daemons may believe us dead and have taken it. */
bool cd_store_may_act(const struct cd_store *s, const char *call_id);

/** Are there other daemons on it just now, as far as is known? */
bool cd_store_is_shared(const struct cd_store *s);

/** The memory store: calls of this process only. */
struct cd_store *cd_store_mem_open(struct cd_loop *loop);

/** How many days rows are kept; 0: for ever. */
struct cd_keep {
    bool on; /* false: nothing is ever deleted because of its age */
    long calls_days; /* with their participants and events */
    long stats_days, seen_days, inbox_days;
    long members_days; /* since it was last confirmed */
};

struct cd_pg_conf {
    const char *url;    /* libpq URI or conninfo */
    const char *schema; /* "calld" */
    size_t max_queue;   /* changes waiting, 0: 20000 */
    const char *node;   /* stable owner id of this installation, CD_PARTY_ID_LEN letters and digits;
                         * NULL: a random one */
    struct cd_keep keep;
    bool offline;       /* do not connect yet: the schema is not known to fit */
};
/** Starts connecting; commits wait until it has. @param ready  called once, when the first connection
 * stands (CD_STORE_OK) or failed (CD_STORE_DOWN; it goes on trying) */
struct cd_store *cd_store_pg_open(struct cd_loop *loop, const struct cd_pg_conf *conf, cd_done_fn ready,
                                  void *arg);

/* --- migrations: synchronous, before the loop runs -------------------------------------------- */
struct cd_migrate_conf {
    const char *url, *schema;
    bool dry_run;
    int to;    /* -1: the newest; else up or down to that number */
    bool wait; /* take the advisory lock, waiting for another daemon */
    bool complete; /* fail when something is missing (dry_run) */
    int connect_s; /* for each address; 0: 10 */
};
/** Apply (or print, dry_run) what is missing. Prints one line a migration to @p out.
 * @return CD_OK, or an error whose text names the cause and the fix (newer schema, foreign table of
 * the same name with its columns, checksum differs). CD_E_OVERLOADED: no server answers, or not yet; what
 * is wrong with the connection may pass by itself */
enum cd_rc cd_migrate(const struct cd_migrate_conf *conf, void *out_file, struct cd_err *err);

#endif

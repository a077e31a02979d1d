/* spool_priv.h -- the spooling store's own structures: spool.c decides, spool_shadow.c knows what the database
 * would say, spool_read.c answers reads, spool_keys.c knows what was answered of late, spool_offline.c finds the
 * database that was not there at the start, spool_replay.c writes to it what was spooled. */
#ifndef CD_STORE_SPOOL_PRIV_H
#define CD_STORE_SPOOL_PRIV_H

#include "store/mem.h"
#include "store/spool.h"
#include "store/spool_log.h"

enum spool_mode {
    SPOOL_START,  /* connecting for the first time; nothing was submitted yet */
    SPOOL_NORMAL, /* the database takes everything */
    SPOOL_AWAY,   /* everything goes to the files */
    SPOOL_REPLAY, /* the same, while the database gets what the files hold */
    SPOOL_LAST    /* little is left: what is submitted waits for the end of it */
};

struct spool_replay; /* spool_replay.c */
struct spool_ask;    /* spool_read.c: a read that the database has not answered yet */
struct spool_migration; /* spool_offline.c */

struct spool_store {
    struct cd_store base; /* first */
    struct cd_loop *loop;
    struct cd_later *later;
    struct cd_store *pg;
    struct pg_watch watch;
    struct mem_store *shadow; /* what degraded mode knows; NULL in normal mode */
    struct mem_store *old;    /* one that is not needed any more */
    struct cd_keys keys;      /* answered of late; in normal mode: else the shadow has them */
    struct cd_timer keys_timer;
    struct spool_log *log;
    struct spool_replay *replay; /* NULL: none under way */
    struct spool_ask *asks;
    struct spool_migration *migration; /* under way on the helper thread */
    struct cd_spool_conf conf;
    char *url, *schema;
    enum spool_mode mode;
    bool offline;   /* not connecting yet: the schema has to be looked at first */
    bool up;        /* the connection stands */
    bool unloaded;  /* load_live was answered from the files */
    bool was_full;
    bool unseeded;           /* a call found no memory in the shadow */
    bool taking_back; /* what the database may have got before it went away */
    unsigned failures;        /* of replays, in a row */
    struct cd_timer timer;
    struct pg_op *held, **held_end; /* SPOOL_LAST: submitted meanwhile */
    size_t n_held;
    int64_t since_ms;         /* monotonic: since when degraded */
    struct cd_store_stats stats; /* of what was done here */
    uint64_t spooled, replayed, rejected; /* records; since start */
    uint64_t displaced; /* calls; since start */
    char yielding[CD_CALL_ID_LEN + 1]; /* the call that is being ended to make room: it is in the database */
    uint64_t spooled_at, replayed_at, rejected_at; /* the same when degraded mode began */
};

static inline struct spool_store *spool_of(struct cd_store *s)
{
    return (struct spool_store *)(void *)s;
}

/* spool.c */
/** The database does not answer: from now on without it. Takes back what it holds. */
void spool_leave(struct spool_store *s, const char *why);
/** A replay met what only the rest of the daemon can solve, and that waits for us: begin with the files. */
void spool_begin_without(struct spool_store *s);
/** All is written: normal mode. */
void spool_return(struct spool_store *s);
/** The replay did not get through: again after a while. */
void spool_replay_failed(struct spool_store *s);

/* spool_shadow.c */
/** A shadow that knows nothing yet. @return false out of memory */
bool spool_shadow_open(struct spool_store *s);
/** Have a shadow that knows the keys of late and, with @p live, the calls in memory.
 * @return false out of memory: there is none */
bool spool_shadow_fill(struct spool_store *s, bool live);
/** It goes with the next tick (spool_shadow_close_old): answers that it has queued come first. */
void spool_shadow_drop(struct spool_store *s);
void spool_shadow_close_old(struct spool_store *s);
/** A record that a former process left; spool_log_ops.found. Out of memory: s->unseeded. */
void spool_shadow_found(void *self, const struct cd_spool_rec *rec);
/** The call as it is kept, borrowed; NULL: not known. */
const struct cd_call *spool_shadow_call(const struct spool_store *s, const char *call_id);
/** What the database's constraints would say; fills op->live. */
enum cd_store_rc spool_shadow_judge(const struct spool_store *s, struct pg_op *op);
/** The record into the log, and what is known from it: both, or neither. @return false out of memory or full */
bool spool_shadow_keep(struct spool_store *s, enum spool_class cls, struct pg_op *op, const struct cd_buf *rec);
/** The disk refused what was kept: who hears that may try again, and must not meet it as done. */
void spool_shadow_unlearn(struct spool_store *s, const struct pg_op *op);
/** No database ever heard of this call. */
bool spool_shadow_unshared(const struct spool_store *s, const char *call_id);
/** From now on the database may hold this call. */
void spool_shadow_shared(struct spool_store *s, const char *call_id);

/* spool_offline.c */
/** Bring the schema up to date on a helper thread, then connect. Out of memory: nothing, until it is called again. */
void spool_offline_migrate(struct spool_store *s);
/** The store is being closed. */
void spool_offline_leave(struct spool_store *s);

/* spool_read.c */
void spool_load_call(struct cd_store *b, const char *id, cd_load_fn fn, void *arg);
void spool_load_by_matrix(struct cd_store *b, const char *room, const char *matrix_call_id, cd_load_fn fn,
                          void *arg);
void spool_load_live(struct cd_store *b, cd_load_all_fn fn, void *arg);
void spool_idem_get(struct cd_store *b, const char *user, const char *key, cd_idem_fn fn, void *arg);
void spool_token_get(struct cd_store *b, const char *user, cd_token_fn fn, void *arg);
void spool_members_load(struct cd_store *b, cd_members_fn fn, void *arg);
/** Drop the reads under way. */
void spool_asks_free(struct spool_store *s);

/* spool_keys.c */
void spool_keys_init(struct spool_store *s);
/** A key was answered (@p row is taken over); a pg_watch's `kept`. */
void spool_keys_kept(void *arg, struct cd_idem_row *row);
/** The database had a key that was asked for. */
void spool_keys_seen(struct spool_store *s, const struct cd_idem_row *row);
/** To the shadow, which is new: the database is away; and back from it. */
void spool_keys_lend(struct spool_store *s);
void spool_keys_take_back(struct spool_store *s);
void spool_keys_done(struct spool_store *s);

/* spool_replay.c */
/** Begin, or go on after something was written. */
void spool_replay_go(struct spool_store *s);
/** A chunk of the log. */
void spool_replay_chunk(struct spool_store *s, const uint8_t *p, size_t n);
/** Give it up; what is under way may still call back, and finds itself given up. */
void spool_replay_stop(struct spool_store *s);

#endif

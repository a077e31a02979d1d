/* pg.h -- the PostgreSQL store's own structures: pg.c queues, pg_batch.c writes, pg_load.c reads. */
#ifndef CD_STORE_PG_H
#define CD_STORE_PG_H

#include "loop/loop.h"
#include "store/later.h"
#include "store/pg_conn.h"
#include "store/pg_keep.h"
#include "store/pg_stmt.h"

#define PG_BATCH_MAX 256
#define PG_BATCH_BYTES (4u << 20)
#define PG_READS_SENT_MAX 32
#define PG_READS_WAITING_MAX 2000

enum pg_op_kind {
    PG_OP_CHANGE,
    PG_OP_TRIED,
    PG_OP_DONE,
    PG_OP_TOKEN_PUT,
    PG_OP_TOKEN_DEL,
    PG_OP_MEMBERS,
    PG_OP_SEEN,
    PG_OP_QUARANTINE,
    PG_OP_PURGE,
    PG_OP_FLUSH,
    /* of the database's own, never spooled: */
    PG_OP_CLAIM, /* and PEERS */
    PG_OP_PEERS,
    PG_OP_LEAVE
};

/** One thing to write. Owns what it points to. */
struct pg_op {
    struct pg_op *next;
    enum pg_op_kind kind;
    int64_t queued_ms; /* monotonic */
    size_t bytes;      /* rough size on the wire */
    cd_commit_fn commit_fn; /* CHANGE, SEEN */
    cd_done_fn done_fn;     /* the others; may be NULL */
    void *arg;
    struct cd_change *change;
    char *key, *device; /* txn id, user id or reason; device id */
    char short_key[48]; /* where key stands when it is a transaction id: noting what was sent needs no memory */
    int number;         /* attempts, or size of the quarantined event */
    uint8_t *data;      /* sealed token, hash, quarantined bytes */
    size_t n_data;
    struct cd_member_row *members;
    size_t n_members;
    /* filled while it is written */
    int64_t mark; /* number of its last transaction */
    unsigned retries;
    enum cd_store_rc rc;
    char live[CD_CALL_ID_LEN + 1];
    bool failed;
    enum cd_pg_stmt failed_at;
    char sqlstate[6];
};

/** What the next result answers. */
struct pg_expect {
    uint8_t what; /* enum cd_pg_stmt or one of the following */
    uint16_t op;  /* index in the batch; group transactions: 0 */
};
enum { PG_X_SYNC = CD_PG_STMT_COUNT, PG_X_PREPARE, PG_X_FENCE, PG_X_PEERS };

enum pg_phase {
    PG_DOWN,    /* no connection */
    PG_PREPARE, /* statements are being prepared, the epoch raised */
    PG_IDLE,
    PG_GROUP,   /* the batch is one transaction */
    PG_SINGLES, /* it failed: each op is one */
    PG_DIAG     /* asking why some failed */
};

struct pg_reads;

/** Who takes over when the database does not answer: spool.c. */
struct pg_watch {
    /** An op that was submitted while `divert` is set; taken over. */
    void (*take)(void *arg, struct pg_op *op);
    /** Something has waited for 2 s, or there was no connection for as long. Not told while suspended. */
    void (*away)(void *arg, const char *why);
    /** A connection stands again while the store is suspended. */
    void (*back)(void *arg);
    /** A change is durable that had this row, which is taken over; before its receiver hears of it. */
    void (*kept)(void *arg, struct cd_idem_row *row);
    void *arg;
};

#define PG_LOADS_MAX 4

/** Our part in a database that several daemons use: pg_lease.c. All times monotonic. */
struct pg_lease {
    struct cd_store_watch watch; /* NULLs: nobody watches */
    void *arg;
    int64_t renewed_ms; /* when the last transaction that is in was sent */
    int64_t ticked_ms, stalled_ms, up_ms, claimed_ms;
    unsigned peers;     /* other daemons, as far as is known */
    bool stalled;       /* the loop stood still, and no transaction is in since */
    bool left;
    bool asking;        /* a claim or a heartbeat waits or is under way */
    bool deaf;          /* something was not heard: read all again at the next chance */
    char *ids;          /* '{..}' of what the last claim took, NULL: nothing */
    unsigned long long n_ids;
    size_t n_loads;     /* load_live's that wait for their claim */
    struct {
        cd_load_all_fn fn;
        void *arg;
    } loads[PG_LOADS_MAX];
};

struct pg_store {
    struct cd_store base; /* first */
    struct cd_loop *loop;
    struct cd_later *later;
    struct cd_pgconn *write;
    struct pg_reads *reads;
    struct pg_kick *kick; /* the loop was asked to start a batch */
    struct cd_timer tick;
    struct pg_keep keep;
    cd_done_fn ready_fn; /* NULL once called */
    void *ready_arg;
    char *url, *schema;
    const struct pg_watch *watch; /* NULL: nobody */
    bool divert;      /* the watcher takes what is submitted */
    bool away;        /* suspended */
    int64_t lost_ms;  /* monotonic: up to then there was a connection */
    bool delivering, closed; /* callbacks run; one of them closed the store */
    /* what waits, oldest first */
    struct pg_op *head, *last;
    size_t n_queued, max_queue;
    /* what is being written */
    enum pg_phase phase;
    int64_t sent_ms;  /* when this phase began, monotonic */
    bool unknown;     /* the batch was sent over a connection that is lost */
    char owner[CD_PARTY_ID_LEN + 1];
    int64_t epoch, next_mark;
    char unable[6]; /* why the server could not write the last batch; "": it could */
    bool robbed; /* somebody else raised the epoch */
    struct pg_lease lease;
    struct pg_op *batch[PG_BATCH_MAX];
    size_t n_batch;
    struct pg_expect *expect;
    size_t n_expect, cap_expect, at_expect;
    struct cd_pg_rows rows;
    struct cd_store_stats stats;
};

static inline struct pg_store *pg_of(struct cd_store *s)
{
    return (struct pg_store *)(void *)s;
}

/* pg.c */
void pg_op_free(struct pg_op *op);
/** Call the receiver and free. */
void pg_op_finish(struct pg_op *op);
/** Answer @p op (taken over) in the loop's next turn, never within the submitting call; its change lives
 * until then. */
void pg_op_answer(struct cd_later *later, struct pg_op *op, enum cd_store_rc rc);
/** Finish them all; the store may be gone afterwards, because a receiver closed it. */
void pg_deliver(struct pg_store *s, struct pg_op *const *ops, size_t n);
/** Put the batch's ops from @p from on back to the head of the queue, in their order. */
void pg_requeue(struct pg_store *s, struct pg_op *const *ops, size_t n);
/** Queue an op without data of its own. @return false: no memory, @p fn will not be called */
bool pg_submit_plain(struct pg_store *s, enum pg_op_kind kind, cd_done_fn fn);
void pg_submit_leave(struct pg_store *s, cd_done_fn fn, void *arg);
/** The first connection stands, or the first attempt failed. */
void pg_tell_ready(struct pg_store *s, enum cd_store_rc rc);

/** Answer @p op (taken over) with DOWN. */
void pg_refuse(struct pg_store *s, struct pg_op *op);
/** Queue @p op (taken over), diverted or not. */
void pg_put(struct pg_store *s, struct pg_op *op);
/** Connect a store that was opened offline. @return false: out of memory, or the URL is none */
bool pg_connect(struct pg_store *s);

/* pg_away.c */
bool pg_hangs(const struct pg_store *s);
/** @param watch  borrowed until it is replaced (NULL) or the store closed */
void cd_pg_watch(struct cd_store *b, const struct pg_watch *watch);
/** With each tick: tell the watcher when nothing is answered. */
void pg_look(struct pg_store *s, int64_t now);
/** The server could not write the last batch, whose other receivers have been told: tell the watcher.
 * @return true: it took over what waits */
bool pg_gives_up(struct pg_store *s);
/** Give up what is under way: every op is handed back in its order, whether its outcome is known or not;
 * reads are answered DOWN; the connections are made anew. @return a list by `next` */
struct pg_op *pg_suspend(struct pg_store *s);
/** Watch again: ops are being put. */
void pg_resume(struct pg_store *s);

/* pg_batch.c */
/** Callbacks of the write connection. */
extern const struct cd_pgconn_ops pg_write_ops;
/** Send what stands in the batch as one transaction. */
void pg_send_group(struct pg_store *s);

/* pg_load.c */
struct pg_reads *pg_reads_new(struct pg_store *s, const struct cd_pgconn_conf *conf);
void pg_reads_free(struct pg_reads *r);
/** Answer reads that waited longer than CD_STORE_WAIT_MS with DOWN. @return reads that wait still */
size_t pg_reads_expire(struct pg_reads *r, int64_t now_ms);
/** How long the oldest read has waited [ms]; 0 while one that may take its time is among them. */
int64_t pg_reads_oldest(const struct pg_reads *r, int64_t now_ms);
/** Ask for nothing when there was nothing to ask for @p every_ms: a server that hangs is found out. */
void pg_reads_ping(struct pg_reads *r, int64_t now_ms, int64_t every_ms);
void pg_load_call(struct cd_store *b, const char *id, cd_load_fn fn, void *arg);
void pg_load_by_matrix(struct cd_store *b, const char *room, const char *matrix_call_id, cd_load_fn fn,
                       void *arg);
/** All calls that are ours. @param rc  not OK: only answer that */
void pg_read_live(struct pg_store *s, enum cd_store_rc rc, cd_load_all_fn fn, void *arg);
/** Calls by their ids. @param ids  '{a,b}', copied */
void pg_read_ids(struct pg_store *s, const char *ids, cd_load_all_fn fn, void *arg);
void pg_idem_get(struct cd_store *b, const char *user, const char *key, cd_idem_fn fn, void *arg);
void pg_token_get(struct cd_store *b, const char *user, cd_token_fn fn, void *arg);
void pg_members_load(struct cd_store *b, cd_members_fn fn, void *arg);

/* pg_lease.c */
void pg_lease_tick(struct pg_store *s, int64_t now_ms);
/** The batch that was sent at sent_ms is in. */
void pg_lease_renewed(struct pg_store *s);
/** The write connection stands. */
void pg_lease_up(struct pg_store *s, bool robbed);
void pg_lease_heard(struct pg_store *s, const char *channel, const char *payload);
/** Notifications may have been missed. */
void pg_lease_missed(struct pg_store *s);
void pg_take_claim(struct pg_store *s, const PGresult *res);
void pg_take_peers(struct pg_store *s, const PGresult *res);
void pg_load_live(struct cd_store *b, cd_load_all_fn fn, void *arg);
void pg_watch(struct cd_store *b, const struct cd_store_watch *w, void *arg);
bool pg_may_act(const struct cd_store *b, const char *call_id);
void pg_leave(struct cd_store *b, cd_done_fn fn, void *arg);

#endif

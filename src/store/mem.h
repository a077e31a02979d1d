/* mem.h -- the memory store's tables: mem.c (calls), mem_apply.c (writing), mem_kv.c (everything small). */
#ifndef CD_STORE_MEM_H
#define CD_STORE_MEM_H

#include "base/map.h"
#include "store/keys.h"
#include "store/later.h"

#define MEM_ENDED_MAX 10000   /* ended calls kept: the newest */
#define MEM_LIVE_MAX 100000   /* calls that are not final */
#define MEM_HASH_MAX 100000   /* remembered Matrix events, each kind */
#define MEM_KEYS_MAX 100000
#define MEM_KEYS_A_USER 1000     /* and of each user: nobody pushes out the others' */
#define MEM_KEYS_BYTES (64u << 20)
#define MEM_TOKENS_MAX 100000
#define MEM_MEMBERS_MAX 500000
#define MEM_EVENTS_MAX 10000  /* rows of one call */
#define MEM_SIGNALS_MAX 4096  /* of one call */
#define MEM_OUTBOX_MAX 4096   /* of one call */

struct mem_out {
    struct cd_outbox_row row;
    struct mem_call *owner;
    struct mem_out *next; /* of the same call */
};

struct mem_call {
    struct cd_call *call;  /* never NULL in the table */
    char *matrix_key;      /* NULL: not started by a Matrix client */
    char *active_key;      /* NULL: not under the one-active-call rule */
    struct cd_event_row *events;
    size_t n_events, cap_events;
    struct cd_signal_row *signals;
    size_t n_signals, cap_signals;
    struct mem_out *outbox;
    size_t n_outbox;
    struct mem_call *ended_next; /* in the order they ended */
    bool ended;
    bool unshared; /* no other daemon can know of it: spool.c */
};

/** Hashes of event ids, oldest forgotten first. */
struct mem_hash;
struct mem_hashes {
    struct cd_map map;
    struct mem_hash *oldest, *newest;
};

struct mem_token;

struct mem_store {
    struct cd_store base; /* first */
    struct cd_loop *loop;
    struct cd_later *later;
    struct cd_map calls, by_matrix, active, outbox; /* by id, (room, matrix id), active key, txn id */
    struct mem_call *ended_oldest, *ended_newest;
    size_t n_ended, n_live;
    struct mem_hashes applied, seen;
    struct cd_keys keys;
    struct cd_map tokens, members;
    struct cd_store_stats stats;
};

static inline struct mem_store *mem_of(struct cd_store *s)
{
    return (struct mem_store *)(void *)s;
}

#define MEM_KEY_MAX 1024 /* of two ids, each capped where it comes in */
/** a, a byte that no UTF-8 text holds, b. @return false: longer than @p room */
bool mem_put_key2(char *to, size_t room, const char *a, const char *b);
/** The same. @return NULL out of memory */
char *mem_key2(const char *a, const char *b);

struct cd_answer *mem_answer(enum cd_store_rc rc, void *arg);

bool mem_hash_has(const struct mem_hashes *t, const uint8_t hash[16]);
/** Put a hash into a list that mem_hash_add takes. @return false out of memory */
bool mem_hash_plan(struct mem_hash **list, const uint8_t hash[16]);
/** Take a planned list over; the map has room. */
void mem_hash_add(struct mem_hashes *t, struct mem_hash *list);
void mem_hash_drop(struct mem_hash *list);
/** @return false out of memory */
bool mem_hash_put(struct mem_hashes *t, const uint8_t hash[16]);
/** Takes its time: it is for what was refused. */
void mem_hash_del(struct mem_hashes *t, const uint8_t hash[16]);
void mem_hashes_done(struct mem_hashes *t);

/** Free idempotency rows, tokens and members. */
void mem_kv_done(struct mem_store *s);

/* a call and its rows (mem_apply.c) */

/** Everything that a change needs, before anything is changed. */
struct mem_plan {
    struct mem_call *call;  /* NULL: the change is of none */
    struct mem_call *fresh; /* the same, when it is new */
    struct cd_call *copy;   /* NULL: the row stays as it is */
    char *active_key;
    struct mem_out *outs;
    struct mem_hash *hashes;
    struct cd_key *idem;
};

struct mem_call *mem_find(const struct mem_store *s, const char *id);
struct mem_call *mem_find_matrix(const struct mem_store *s, const char *room, const char *matrix_call_id);
/** What the one-active-call rule counts by. @return NULL out of memory */
char *mem_active_key(const struct cd_call *c);
void mem_call_remove(struct mem_store *s, struct mem_call *m);
/** As if it had never been written. Takes its time. */
void mem_forget(struct mem_store *s, struct mem_call *m);
/** Remove the row that @p at points to, in its call's list. */
void mem_out_remove(struct mem_store *s, struct mem_out **at);
/** @return false out of memory: cd_outbox_row_done frees what is there */
bool mem_copy_row(struct cd_outbox_row *to, const struct cd_outbox_row *from);
/** Ask for all that writing @p ch takes. @return false out of memory: nothing has changed */
bool mem_plan(struct mem_store *s, const struct cd_change *ch, struct mem_plan *p);
/** Write it; cannot fail. Nothing may be written between mem_plan and this. The rows move out of @p ch. */
void mem_write(struct mem_store *s, struct cd_change *ch, struct mem_plan *p);
void mem_plan_drop(struct mem_plan *p);

/** What commit would answer. @param live  filled for CALL_EXISTS, CD_CALL_ID_LEN + 1 bytes */
enum cd_store_rc mem_judge(struct mem_store *s, const struct cd_change *ch, char *live);
/** Write it, judged or not; the rows move out of @p ch. @return CD_STORE_OK, or CD_STORE_FULL: nothing was written */
enum cd_store_rc mem_apply(struct mem_store *s, struct cd_change *ch);

/* operations of mem_kv.c */
void mem_idem_get(struct cd_store *b, const char *user, const char *key, cd_idem_fn fn, void *arg);
void mem_token_put(struct cd_store *b, const char *user, const char *device, const uint8_t *sealed,
                   size_t n);
void mem_token_get(struct cd_store *b, const char *user, cd_token_fn fn, void *arg);
void mem_token_del(struct cd_store *b, const char *user);
void mem_members_put(struct cd_store *b, const struct cd_member_row *rows, size_t n);
void mem_members_load(struct cd_store *b, cd_members_fn fn, void *arg);
void mem_seen_put(struct cd_store *b, const uint8_t hash[16], cd_commit_fn fn, void *arg);
void mem_quarantine(struct cd_store *b, const char *reason, struct cd_str raw, cd_done_fn fn,
                    void *arg);

#endif

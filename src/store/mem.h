/* mem.h -- the memory store's tables, shared by mem.c (calls) and mem_kv.c (everything small). */
#ifndef CD_STORE_MEM_H
#define CD_STORE_MEM_H

#include "base/map.h"
#include "store/later.h"

#define MEM_ENDED_MAX 10000   /* ended calls kept: the newest */
#define MEM_LIVE_MAX 100000   /* calls that are not final */
#define MEM_HASH_MAX 100000   /* remembered Matrix events, each kind */
#define MEM_IDEM_MAX 100000
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
};

/** Hashes of event ids, oldest forgotten first. */
struct mem_hash;
struct mem_hashes {
    struct cd_map map;
    struct mem_hash *oldest, *newest;
};

struct mem_idem;
struct mem_token;

struct mem_store {
    struct cd_store base; /* first */
    struct cd_loop *loop;
    struct cd_later *later;
    struct cd_map calls, by_matrix, active, outbox; /* by id, (room, matrix id), active key, txn id */
    struct mem_call *ended_oldest, *ended_newest;
    size_t n_ended, n_live;
    struct mem_hashes applied, seen;
    struct cd_map idem;
    struct mem_idem *idem_oldest, *idem_newest;
    struct cd_map tokens, members;
    struct cd_store_stats stats;
};

static inline struct mem_store *mem_of(struct cd_store *s)
{
    return (struct mem_store *)(void *)s;
}

/** a, a byte that no UTF-8 text holds, b. @return NULL out of memory */
char *mem_key2(const char *a, const char *b);

struct cd_answer *mem_answer(enum cd_store_rc rc, void *arg);

bool mem_hash_has(const struct mem_hashes *t, const uint8_t hash[16]);
/** @return false out of memory */
bool mem_hash_put(struct mem_hashes *t, const uint8_t hash[16]);
void mem_hashes_done(struct mem_hashes *t);

/** @return the live row of that key, or NULL; expired ones are removed */
const struct cd_idem_row *mem_idem_find(struct mem_store *s, const char *user, const char *key,
                                        int64_t now_ms);
/** Takes @p row over. @return false out of memory (row freed) */
bool mem_idem_put(struct mem_store *s, struct cd_idem_row *row);
/** Free idempotency rows, tokens and members. */
void mem_kv_done(struct mem_store *s);

/** What commit would answer. @param live  filled for CALL_EXISTS, CD_CALL_ID_LEN + 1 bytes */
enum cd_store_rc mem_judge(struct mem_store *s, const struct cd_change *ch, char *live);
/** Write it, judged or not; the rows move out of @p ch. @return CD_STORE_OK or CD_STORE_FULL */
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

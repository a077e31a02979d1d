/* spool_read.c -- reads of the spooling store: from the database, or from what degraded mode knows.
 * In: loads. Out: answers, at once when the database is away. Why: a read that was under way when it went
 * must not cost a caller ten seconds. State: the reads under way. Owns: these. Blocks: never. */
#include "store/spool_priv.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"

enum ask_kind { ASK_CALL, ASK_MATRIX, ASK_IDEM, ASK_TOKEN, ASK_LIVE, ASK_MEMBERS };

union ask_fn {
    cd_load_fn load;
    cd_load_all_fn load_all;
    cd_idem_fn idem;
    cd_token_fn token;
    cd_members_fn members;
};

struct spool_ask {
    struct spool_ask *next, **prev;
    struct spool_store *store;
    enum ask_kind kind;
    char *a, *b;
    union ask_fn fn;
    void *arg;
};

static void unlink_ask(struct spool_ask *q)
{
    *q->prev = q->next;
    if (q->next)
        q->next->prev = q->prev;
}

static void ask_free(struct spool_ask *q)
{
    free(q->a);
    free(q->b);
    free(q);
}

void spool_asks_free(struct spool_store *s)
{
    while (s->asks) {
        struct spool_ask *q = s->asks;

        unlink_ask(q);
        ask_free(q);
    }
}

static struct spool_ask *ask_new(struct cd_store *b, enum ask_kind kind, const char *x, const char *y, void *arg)
{
    struct spool_store *s = spool_of(b);
    struct spool_ask *q = calloc(1, sizeof *q);

    if (q && cd_dup(&q->a, x) && cd_dup(&q->b, y)) {
        q->store = s;
        q->kind = kind;
        q->arg = arg;
        q->next = s->asks;
        q->prev = &s->asks;
        if (q->next)
            q->next->prev = &q->next;
        s->asks = q;
        return q;
    }
    if (q)
        ask_free(q);
    cd_log(CD_LOG_ERROR, "store", "read.lost", NULL, "out of memory");
    return NULL;
}

/* --- from what degraded mode knows -------------------------------------------------------------- */

static bool knows(const struct spool_store *s, const struct spool_ask *q)
{
    switch (q->kind) {
    case ASK_CALL:
        return cd_map_get(&s->shadow->calls, cd_str_of(q->a)) != NULL;
    case ASK_MATRIX:
        return mem_find_matrix(s->shadow, q->a, q->b) != NULL;
    case ASK_IDEM:
        return cd_keys_find(&s->shadow->keys, q->a, q->b, 0) != NULL;
    case ASK_TOKEN:
        return cd_map_get(&s->shadow->tokens, cd_str_of(q->a)) != NULL;
    case ASK_LIVE:
    case ASK_MEMBERS:
        break;
    }
    return s->mode != SPOOL_START; /* of these the files hold a part, which is better than nothing */
}

/* A Matrix call or a key that is not known (of the keys answered of late those are) is answered as new:
 * events and commands must go on, and what the database knew better shows when it is back. For other things
 * it has to be asked. */
static bool is_none(const struct spool_ask *q)
{
    return q->kind == ASK_MATRIX || q->kind == ASK_IDEM;
}

static void answer_now(struct spool_store *s, enum ask_kind kind, union ask_fn fn, void *arg, enum cd_store_rc rc)
{
    struct cd_answer *a = cd_answer_new();

    if (a) {
        a->rc = rc;
        a->arg = arg;
        switch (kind) {
        case ASK_CALL:
        case ASK_MATRIX:
            a->kind = CD_A_LOAD;
            a->fn.load = fn.load;
            break;
        case ASK_IDEM:
            a->kind = CD_A_IDEM;
            a->fn.idem = fn.idem;
            break;
        case ASK_TOKEN:
            a->kind = CD_A_TOKEN;
            a->fn.token = fn.token;
            break;
        case ASK_LIVE:
            a->kind = CD_A_LOAD_ALL;
            a->fn.load_all = fn.load_all;
            break;
        case ASK_MEMBERS:
            a->kind = CD_A_MEMBERS;
            a->fn.members = fn.members;
            break;
        }
    }
    s->stats.reads++;
    cd_later_push(s->later, a);
}

static void ask_shadow(struct spool_store *s, const struct spool_ask *q)
{
    struct cd_store *m = &s->shadow->base;

    s->stats.reads++;
    switch (q->kind) {
    case ASK_CALL:
        m->ops->load_call(m, q->a, q->fn.load, q->arg);
        break;
    case ASK_MATRIX:
        m->ops->load_by_matrix(m, q->a, q->b, q->fn.load, q->arg);
        break;
    case ASK_IDEM:
        m->ops->idem_get(m, q->a, q->b, q->fn.idem, q->arg);
        break;
    case ASK_TOKEN:
        m->ops->token_get(m, q->a, q->fn.token, q->arg);
        break;
    case ASK_LIVE:
        s->unloaded = true;
        m->ops->load_live(m, q->fn.load_all, q->arg);
        break;
    case ASK_MEMBERS:
        m->ops->members_load(m, q->fn.members, q->arg);
        break;
    }
}

/* --- from the database ------------------------------------------------------------------------ */

static void ask(struct spool_ask *q);

/* It went away while it was asked: then what is known here answers. @return true: asked again */
static bool again(struct spool_ask *q, enum cd_store_rc rc)
{
    if (rc != CD_STORE_DOWN || !q->store->shadow || q->store->mode == SPOOL_START)
        return false;
    ask(q);
    return true;
}

static void on_load(void *arg, enum cd_store_rc rc, struct cd_stored_call *sc)
{
    struct spool_ask q = *(struct spool_ask *)arg;

    if (again(arg, rc))
        return;
    unlink_ask(arg);
    ask_free(arg);
    q.fn.load(q.arg, rc, sc);
}

static void on_load_all(void *arg, enum cd_store_rc rc, struct cd_stored_call **calls, size_t n)
{
    struct spool_ask q = *(struct spool_ask *)arg;

    if (again(arg, rc))
        return;
    unlink_ask(arg);
    ask_free(arg);
    q.fn.load_all(q.arg, rc, calls, n);
}

static void on_idem(void *arg, enum cd_store_rc rc, const struct cd_idem_row *row)
{
    struct spool_ask q = *(struct spool_ask *)arg;

    if (again(arg, rc))
        return;
    unlink_ask(arg);
    ask_free(arg);
    if (rc == CD_STORE_OK && row)
        spool_keys_seen(q.store, row);
    q.fn.idem(q.arg, rc, row);
}

static void on_token(void *arg, enum cd_store_rc rc, const uint8_t *sealed, size_t n)
{
    struct spool_ask q = *(struct spool_ask *)arg;

    if (again(arg, rc))
        return;
    unlink_ask(arg);
    ask_free(arg);
    q.fn.token(q.arg, rc, sealed, n);
}

static void on_members(void *arg, enum cd_store_rc rc, const struct cd_member_row *rows, size_t n)
{
    struct spool_ask q = *(struct spool_ask *)arg;

    if (again(arg, rc))
        return;
    if (rc != CD_STORE_MORE) {
        unlink_ask(arg);
        ask_free(arg);
    }
    q.fn.members(q.arg, rc, rows, n);
}

static void ask_pg(struct spool_ask *q)
{
    struct cd_store *pg = q->store->pg;

    switch (q->kind) {
    case ASK_CALL:
        pg->ops->load_call(pg, q->a, on_load, q);
        break;
    case ASK_MATRIX:
        pg->ops->load_by_matrix(pg, q->a, q->b, on_load, q);
        break;
    case ASK_IDEM:
        pg->ops->idem_get(pg, q->a, q->b, on_idem, q);
        break;
    case ASK_TOKEN:
        pg->ops->token_get(pg, q->a, on_token, q);
        break;
    case ASK_LIVE:
        pg->ops->load_live(pg, on_load_all, q);
        break;
    case ASK_MEMBERS:
        pg->ops->members_load(pg, on_members, q);
        break;
    }
}

/* While the files are being replayed the database knows everything but what they hold. */
static void ask(struct spool_ask *q)
{
    struct spool_store *s = q->store;
    bool bulk = q->kind == ASK_LIVE || q->kind == ASK_MEMBERS;
    bool away = s->mode == SPOOL_AWAY || (bulk && s->mode != SPOOL_NORMAL && s->mode != SPOOL_START);
    bool here = s->shadow && s->mode != SPOOL_NORMAL && (away || !bulk) && knows(s, q);

    if (!away && !here) {
        ask_pg(q);
        return;
    }
    if (here)
        ask_shadow(s, q);
    else
        answer_now(s, q->kind, q->fn, q->arg, is_none(q) ? CD_STORE_OK : CD_STORE_DOWN);
    unlink_ask(q);
    ask_free(q);
}

/* The one way in: an answer comes in any case. */
static void ask_for(struct cd_store *b, enum ask_kind kind, const char *x, const char *y, union ask_fn fn, void *arg)
{
    struct spool_ask *q = ask_new(b, kind, x, y, arg);

    if (!q) {
        answer_now(spool_of(b), kind, fn, arg, CD_STORE_FULL);
        return;
    }
    q->fn = fn;
    ask(q);
}

void spool_load_call(struct cd_store *b, const char *id, cd_load_fn fn, void *arg)
{
    ask_for(b, ASK_CALL, id, NULL, (union ask_fn){.load = fn}, arg);
}

void spool_load_by_matrix(struct cd_store *b, const char *room, const char *matrix_call_id, cd_load_fn fn,
                          void *arg)
{
    ask_for(b, ASK_MATRIX, room, matrix_call_id, (union ask_fn){.load = fn}, arg);
}

void spool_load_live(struct cd_store *b, cd_load_all_fn fn, void *arg)
{
    ask_for(b, ASK_LIVE, NULL, NULL, (union ask_fn){.load_all = fn}, arg);
}

void spool_idem_get(struct cd_store *b, const char *user, const char *key, cd_idem_fn fn, void *arg)
{
    ask_for(b, ASK_IDEM, user, key, (union ask_fn){.idem = fn}, arg);
}

void spool_token_get(struct cd_store *b, const char *user, cd_token_fn fn, void *arg)
{
    ask_for(b, ASK_TOKEN, user, NULL, (union ask_fn){.token = fn}, arg);
}

void spool_members_load(struct cd_store *b, cd_members_fn fn, void *arg)
{
    ask_for(b, ASK_MEMBERS, NULL, NULL, (union ask_fn){.members = fn}, arg);
}

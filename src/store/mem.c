/* mem.c -- the memory store: the same promises as PostgreSQL's, for this process's life only.
 * In: changes and loads. Out: answers on the loop. Why: runs without a database, tests of everything
 * above the store. State: struct mem_store. Owns: copies of calls, rows moved out of the changes.
 * Blocks: never. */
#include "store/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

struct mem_call *mem_find(const struct mem_store *s, const char *id)
{
    return cd_map_get(&s->calls, cd_str_of(id));
}

struct mem_call *mem_find_matrix(const struct mem_store *s, const char *room, const char *matrix_call_id)
{
    char key[MEM_KEY_MAX];

    return mem_put_key2(key, sizeof key, room, matrix_call_id) ? cd_map_get(&s->by_matrix, cd_str_of(key)) : NULL;
}

/* --- commit ----------------------------------------------------------------------------------- */

static bool is_duplicate(const struct mem_store *s, const struct cd_change *ch)
{
    for (size_t i = 0; i < ch->n_events; i++)
        if (ch->events[i].has_mx_hash && mem_hash_has(&s->applied, ch->events[i].mx_hash))
            return true;
    return false;
}

static bool has_txn(const struct mem_store *s, const struct cd_change *ch)
{
    for (size_t i = 0; i < ch->n_outbox; i++)
        if (cd_map_get(&s->outbox, cd_str_of(ch->outbox[i].txn_id)))
            return true;
    return false;
}

static enum cd_store_rc judge_insert(struct mem_store *s, const struct cd_call *c, char *live)
{
    enum cd_store_rc rc = CD_STORE_OK;
    char *key = cd_call_holds_active(c) ? mem_active_key(c) : NULL;
    const struct mem_call *other = key ? cd_map_get(&s->active, cd_str_of(key)) : NULL;

    if (!key && cd_call_holds_active(c))
        return CD_STORE_FULL; /* who else is in a call cannot be looked up */
    free(key);
    if (other && !mem_find(s, c->id)) {
        memcpy(live, other->call->id, sizeof other->call->id);
        return CD_STORE_CALL_EXISTS;
    }
    if (mem_find(s, c->id))
        return CD_STORE_LOST_RACE;
    if (c->matrix_call_id) {
        if (mem_find_matrix(s, c->room_id, c->matrix_call_id))
            rc = CD_STORE_LOST_RACE;
    }
    return rc == CD_STORE_OK && s->n_live >= MEM_LIVE_MAX ? CD_STORE_FULL : rc;
}

enum cd_store_rc mem_judge(struct mem_store *s, const struct cd_change *ch, char *live)
{
    const struct mem_call *m = mem_find(s, ch->call_id);

    if (!cd_change_check(ch))
        return CD_STORE_REFUSED;
    if (is_duplicate(s, ch))
        return CD_STORE_DUPLICATE;
    if (ch->idem && cd_keys_find(&s->keys, ch->idem->user_id, ch->idem->key, ch->idem->at))
        return CD_STORE_LOST_RACE;
    if (ch->call && ch->expect_version == 0) {
        enum cd_store_rc rc = judge_insert(s, ch->call, live);

        return rc == CD_STORE_OK && has_txn(s, ch) ? CD_STORE_LOST_RACE : rc;
    }
    if (ch->call && (!m || m->call->version != ch->expect_version))
        return CD_STORE_LOST_RACE;
    if (has_txn(s, ch) || (!m && (ch->n_events || ch->n_outbox)))
        return CD_STORE_LOST_RACE;
    if (!ch->call && ch->n_outbox && cd_status_final(m->call->status))
        return CD_STORE_LOST_RACE;
    if (m && (m->n_events + ch->n_events > MEM_EVENTS_MAX ||
              m->n_outbox + ch->n_outbox > MEM_OUTBOX_MAX))
        return CD_STORE_FULL;
    return CD_STORE_OK;
}

static void commit(struct cd_store *b, struct cd_change *ch, cd_commit_fn fn, void *arg)
{
    struct mem_store *s = mem_of(b);
    struct cd_answer *a = mem_answer(CD_STORE_FULL, arg);

    if (!a) {
        cd_change_free(ch);
        return;
    }
    a->kind = CD_A_COMMIT;
    a->fn.commit = fn;
    a->change = ch;
    a->rc = mem_judge(s, ch, a->live);
    if (a->rc == CD_STORE_OK)
        a->rc = mem_apply(s, ch);
    s->stats.commits += a->rc == CD_STORE_OK;
    s->stats.lost_races += a->rc == CD_STORE_LOST_RACE;
    s->stats.batches++;
    cd_later_push(s->later, a);
}

/* --- loads ------------------------------------------------------------------------------------ */

static bool copy_events(struct cd_stored_call *sc, const struct mem_call *m)
{
    sc->events = calloc(m->n_events + 1, sizeof *sc->events);
    for (size_t i = 0; sc->events && i < m->n_events; i++) {
        struct cd_event_row *to = &sc->events[sc->n_events++];

        *to = m->events[i];
        to->user_id = to->data = NULL;
        if (!cd_dup(&to->user_id, m->events[i].user_id) || !cd_dup(&to->data, m->events[i].data))
            return false;
    }
    return sc->events != NULL;
}

static bool copy_signals(struct cd_stored_call *sc, const struct mem_call *m)
{
    sc->signals = calloc(m->n_signals + 1, sizeof *sc->signals);
    for (size_t i = 0; sc->signals && i < m->n_signals; i++) {
        const struct cd_signal_row *from = &m->signals[i];
        struct cd_signal_row *to = &sc->signals[sc->n_signals++];

        to->seq = from->seq;
        if (!cd_dup(&to->kind, from->kind) || !cd_dup(&to->from_user, from->from_user) ||
            !cd_dup(&to->from_party, from->from_party) || !cd_dup(&to->to, from->to) ||
            !cd_dup(&to->payload, from->payload))
            return false;
    }
    return sc->signals != NULL;
}

static bool copy_outbox(struct cd_stored_call *sc, const struct mem_call *m)
{
    sc->outbox = calloc(m->n_outbox + 1, sizeof *sc->outbox);
    for (const struct mem_out *o = m->outbox; sc->outbox && o; o = o->next) {
        if (!mem_copy_row(&sc->outbox[sc->n_outbox++], &o->row))
            return false;
    }
    return sc->outbox != NULL;
}

static struct cd_stored_call *copy_stored(const struct mem_call *m)
{
    struct cd_stored_call *sc = calloc(1, sizeof *sc);

    if (!sc)
        return NULL;
    sc->call = cd_call_clone(m->call);
    if (!sc->call || !copy_events(sc, m) || !copy_signals(sc, m) || !copy_outbox(sc, m)) {
        cd_stored_call_free(sc);
        return NULL;
    }
    return sc;
}

static void answer_load(struct mem_store *s, const struct mem_call *m, cd_load_fn fn, void *arg)
{
    struct cd_answer *a = mem_answer(CD_STORE_OK, arg);

    s->stats.reads++;
    if (!a)
        return;
    a->kind = CD_A_LOAD;
    a->fn.load = fn;
    if (m && !(a->call = copy_stored(m)))
        a->rc = CD_STORE_DOWN;
    cd_later_push(s->later, a);
}

static void load_call(struct cd_store *b, const char *id, cd_load_fn fn, void *arg)
{
    answer_load(mem_of(b), mem_find(mem_of(b), id), fn, arg);
}

static void load_by_matrix(struct cd_store *b, const char *room, const char *matrix_call_id,
                           cd_load_fn fn, void *arg)
{
    struct mem_store *s = mem_of(b);

    answer_load(s, mem_find_matrix(s, room, matrix_call_id), fn, arg);
}

static void load_live(struct cd_store *b, cd_load_all_fn fn, void *arg)
{
    struct mem_store *s = mem_of(b);
    struct cd_answer *a = mem_answer(CD_STORE_OK, arg);
    const struct mem_call *m;
    size_t pos = 0;

    s->stats.reads++;
    if (!a)
        return;
    a->kind = CD_A_LOAD_ALL;
    a->fn.load_all = fn;
    a->calls = calloc(s->calls.count + 1, sizeof *a->calls);
    while (a->calls && a->rc == CD_STORE_OK && (m = cd_map_next(&s->calls, &pos)))
        if (!cd_status_final(m->call->status) || m->outbox) {
            if ((a->calls[a->n] = copy_stored(m)))
                a->n++;
            else
                a->rc = CD_STORE_DOWN;
        }
    if (!a->calls)
        a->rc = CD_STORE_DOWN;
    cd_later_push(s->later, a);
}

/* --- outbox bookkeeping, life ----------------------------------------------------------------- */

static void answer_done(struct mem_store *s, cd_done_fn fn, void *arg, enum cd_store_rc rc)
{
    struct cd_answer *a = fn ? mem_answer(rc, arg) : NULL;

    if (!a)
        return;
    a->kind = CD_A_DONE;
    a->fn.done = fn;
    cd_later_push(s->later, a);
}

static void outbox_tried(struct cd_store *b, const char *txn_id, int attempts, cd_done_fn fn, void *arg)
{
    struct mem_store *s = mem_of(b);
    struct mem_out *o = cd_map_get(&s->outbox, cd_str_of(txn_id));

    if (o) {
        o->row.tried = true;
        o->row.attempts = attempts;
    }
    answer_done(s, fn, arg, o ? CD_STORE_OK : CD_STORE_LOST_RACE);
}

static void outbox_done(struct cd_store *b, const char *txn_id)
{
    struct mem_store *s = mem_of(b);
    struct mem_out *o = cd_map_get(&s->outbox, cd_str_of(txn_id));
    struct mem_out **p = o ? &o->owner->outbox : NULL;

    if (o && o->row.rank == 0 && o->row.tried)
        o->owner->call->invite_tried = true;
    while (p && *p != o)
        p = &(*p)->next;
    if (p)
        mem_out_remove(s, p);
}

static void stats(const struct cd_store *b, struct cd_store_stats *out)
{
    const struct mem_store *s = (const struct mem_store *)(const void *)b;

    *out = s->stats;
    out->connected = true;
}

static void flush(struct cd_store *b, cd_done_fn fn, void *arg)
{
    answer_done(mem_of(b), fn, arg, CD_STORE_OK);
}

static void close_store(struct cd_store *b)
{
    struct mem_store *s = mem_of(b);
    struct mem_call *m;
    size_t pos = 0;

    cd_later_free(s->later);
    while ((m = cd_map_next(&s->calls, &pos)))
        mem_call_remove(s, m);
    cd_map_done(&s->calls);
    cd_map_done(&s->by_matrix);
    cd_map_done(&s->active);
    cd_map_done(&s->outbox);
    mem_hashes_done(&s->applied);
    mem_hashes_done(&s->seen);
    mem_kv_done(s);
    free(s);
}

static const struct cd_store_ops ops = {
    .name = "memory",
    .commit = commit,
    .load_call = load_call,
    .load_by_matrix = load_by_matrix,
    .load_live = load_live,
    .idem_get = mem_idem_get,
    .outbox_tried = outbox_tried,
    .outbox_done = outbox_done,
    .token_put = mem_token_put,
    .token_get = mem_token_get,
    .token_del = mem_token_del,
    .members_put = mem_members_put,
    .members_load = mem_members_load,
    .seen_put = mem_seen_put,
    .quarantine = mem_quarantine,
    .stats = stats,
    .flush = flush,
    .close = close_store,
};

struct cd_store *cd_store_mem_open(struct cd_loop *loop)
{
    struct mem_store *s = calloc(1, sizeof *s);

    if (!s)
        return NULL;
    s->base.ops = &ops;
    s->loop = loop;
    s->keys.max = (struct cd_keys_limits){MEM_KEYS_MAX, MEM_KEYS_A_USER, MEM_KEYS_BYTES, CD_IDEM_TTL_MS};
    s->later = cd_later_new(loop);
    if (!s->later) {
        free(s);
        return NULL;
    }
    return &s->base;
}

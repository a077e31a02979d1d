/* mem.c -- the memory store: the same promises as PostgreSQL's, for this process's life only.
 * In: changes and loads. Out: answers on the loop. Why: runs without a database, tests of everything
 * above the store. State: struct mem_store. Owns: copies of calls, rows moved out of the changes.
 * Blocks: never. */
#include "store/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

static struct mem_call *find_call(const struct mem_store *s, const char *id)
{
    return cd_map_get(&s->calls, cd_str_of(id));
}

/* --- keys ------------------------------------------------------------------------------------- */

static char *matrix_key(const struct cd_call *c)
{
    return mem_key2(c->room_id, c->matrix_call_id);
}

static char *active_key(const struct cd_call *c)
{
    bool caller_first = c->callee && strcmp(c->caller, c->callee) < 0;
    char *pair, *key;

    if (c->kind == CD_GROUP)
        return mem_key2(c->room_id, "");
    pair = caller_first ? mem_key2(c->caller, c->callee) : mem_key2(c->callee, c->caller);
    key = pair ? mem_key2(c->room_id, pair) : NULL;
    free(pair);
    return key;
}

static void clear_active(struct mem_store *s, struct mem_call *m)
{
    if (m->active_key && cd_map_get(&s->active, cd_str_of(m->active_key)) == m)
        cd_map_del(&s->active, cd_str_of(m->active_key));
    free(m->active_key);
    m->active_key = NULL;
}

/* --- rows of one call ------------------------------------------------------------------------- */

static void drop_signals(struct mem_call *m)
{
    for (size_t i = 0; i < m->n_signals; i++)
        cd_signal_row_done(&m->signals[i]);
    m->n_signals = 0;
}

static void free_out(struct mem_store *s, struct mem_out **at)
{
    struct mem_out *o = *at;

    *at = o->next;
    o->owner->n_outbox--;
    cd_map_del(&s->outbox, cd_str_of(o->row.txn_id));
    cd_outbox_row_done(&o->row);
    free(o);
}

static void drop_outbox(struct mem_store *s, struct mem_call *m, bool all)
{
    for (struct mem_out **p = &m->outbox; *p;) {
        const struct cd_outbox_row *r = &(*p)->row;

        if (all || (!r->tried && r->rank == 9))
            free_out(s, p);
        else
            p = &(*p)->next;
    }
}

static void free_call(struct mem_store *s, struct mem_call *m)
{
    cd_map_del(&s->calls, cd_str_of(m->call->id));
    if (m->matrix_key)
        cd_map_del(&s->by_matrix, cd_str_of(m->matrix_key));
    free(m->matrix_key);
    clear_active(s, m);
    drop_outbox(s, m, true);
    drop_signals(m);
    for (size_t i = 0; i < m->n_events; i++)
        cd_event_row_done(&m->events[i]);
    free(m->events);
    free(m->signals);
    cd_call_free(m->call);
    free(m);
}

static void list_ended(struct mem_store *s, struct mem_call *m)
{
    m->ended_next = NULL;
    if (s->ended_newest)
        s->ended_newest->ended_next = m;
    else
        s->ended_oldest = m;
    s->ended_newest = m;
}

/* The oldest ended call goes; one that still has something to send moves to the end of the line. */
static void trim_ended(struct mem_store *s)
{
    struct mem_call *m = s->ended_oldest;

    if (s->n_ended <= MEM_ENDED_MAX)
        return;
    s->ended_oldest = m->ended_next;
    if (!s->ended_oldest)
        s->ended_newest = NULL;
    if (m->outbox && s->n_ended <= MEM_ENDED_MAX * 2) {
        list_ended(s, m);
        return;
    }
    s->n_ended--;
    free_call(s, m);
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
    char *key = cd_call_holds_active(c) ? active_key(c) : NULL;
    const struct mem_call *other = key ? cd_map_get(&s->active, cd_str_of(key)) : NULL;

    free(key);
    if (other && !find_call(s, c->id)) {
        memcpy(live, other->call->id, sizeof other->call->id);
        return CD_STORE_CALL_EXISTS;
    }
    if (find_call(s, c->id))
        return CD_STORE_LOST_RACE;
    if (c->matrix_call_id) {
        key = matrix_key(c);
        if (!key || cd_map_get(&s->by_matrix, cd_str_of(key)))
            rc = CD_STORE_LOST_RACE;
        free(key);
    }
    return rc == CD_STORE_OK && s->n_live >= MEM_LIVE_MAX ? CD_STORE_FULL : rc;
}

enum cd_store_rc mem_judge(struct mem_store *s, const struct cd_change *ch, char *live)
{
    const struct mem_call *m = find_call(s, ch->call_id);

    if (!cd_change_check(ch))
        return CD_STORE_REFUSED;
    if (is_duplicate(s, ch))
        return CD_STORE_DUPLICATE;
    if (ch->idem && mem_idem_find(s, ch->idem->user_id, ch->idem->key, ch->idem->at))
        return CD_STORE_LOST_RACE;
    if (ch->call && ch->expect_version == 0) {
        enum cd_store_rc rc = judge_insert(s, ch->call, live);

        return rc == CD_STORE_OK && has_txn(s, ch) ? CD_STORE_LOST_RACE : rc;
    }
    if (ch->call && (!m || m->call->version != ch->expect_version))
        return CD_STORE_LOST_RACE;
    if (has_txn(s, ch) || (!m && (ch->n_events || ch->n_outbox)))
        return CD_STORE_LOST_RACE;
    if (m && (m->n_events + ch->n_events > MEM_EVENTS_MAX ||
              m->n_outbox + ch->n_outbox > MEM_OUTBOX_MAX))
        return CD_STORE_FULL;
    return CD_STORE_OK;
}

static struct mem_call *insert_call(struct mem_store *s, struct cd_call *copy)
{
    struct mem_call *m = calloc(1, sizeof *m);

    if (!m)
        return NULL;
    m->call = copy;
    m->matrix_key = copy->matrix_call_id ? matrix_key(copy) : NULL;
    if ((copy->matrix_call_id && !m->matrix_key) ||
        cd_map_put(&s->calls, cd_str_of(copy->id), m) < 0) {
        free(m->matrix_key);
        free(m);
        return NULL;
    }
    if (m->matrix_key && cd_map_put(&s->by_matrix, cd_str_of(m->matrix_key), m) < 0) {
        cd_map_del(&s->calls, cd_str_of(copy->id));
        free(m->matrix_key);
        free(m);
        return NULL;
    }
    s->n_live++;
    return m;
}

/* The table's key points into the call's own id, so a new copy moves the key too. */
static bool replace_call(struct mem_store *s, struct mem_call *m, struct cd_call *copy)
{
    struct cd_call *old = m->call;

    cd_map_del(&s->calls, cd_str_of(old->id));
    m->call = copy;
    if (cd_map_put(&s->calls, cd_str_of(copy->id), m) < 0) {
        m->call = old;
        cd_map_put(&s->calls, cd_str_of(old->id), m); /* into the slot just freed */
        return false;
    }
    copy->invite_tried = copy->invite_tried || old->invite_tried;
    cd_call_free(old);
    return true;
}

/* What follows from the new state: the active key, the line of ended calls. */
static void note_status(struct mem_store *s, struct mem_call *m)
{
    clear_active(s, m);
    if (cd_call_holds_active(m->call)) {
        m->active_key = active_key(m->call);
        if (m->active_key)
            cd_map_put(&s->active, cd_str_of(m->active_key), m);
    }
    if (cd_status_final(m->call->status) && !m->ended) {
        m->ended = true;
        s->n_live--;
        s->n_ended++;
        list_ended(s, m);
    }
}

static struct mem_call *write_call(struct mem_store *s, const struct cd_change *ch)
{
    struct mem_call *m = find_call(s, ch->call_id);
    struct cd_call *copy;

    if (!ch->call)
        return m;
    copy = cd_call_clone(ch->call);
    if (!copy)
        return NULL;
    if (m ? !replace_call(s, m, copy) : !(m = insert_call(s, copy))) {
        cd_call_free(copy);
        return NULL;
    }
    note_status(s, m);
    return m;
}

static void add_events(struct mem_store *s, struct mem_call *m, struct cd_change *ch)
{
    for (size_t i = 0; i < ch->n_events; i++) {
        struct cd_event_row *from = &ch->events[i];
        size_t k = m->n_events;

        if (!cd_grow((void **)&m->events, &m->n_events, &m->cap_events, sizeof *m->events))
            return;
        for (; k > 0 && m->events[k - 1].seq > from->seq; k--)
            m->events[k] = m->events[k - 1];
        m->events[k] = *from;
        m->events[k].type = cd_event_type_intern(from->type);
        if (from->has_mx_hash)
            mem_hash_put(&s->applied, from->mx_hash);
        from->user_id = from->data = NULL;
    }
}

static void add_signals(struct mem_call *m, struct cd_change *ch)
{
    for (size_t i = 0; i < ch->n_signals; i++) {
        struct cd_signal_row *from = &ch->signals[i];
        size_t k = m->n_signals;

        while (k > 0 && m->signals[k - 1].seq > from->seq)
            k--;
        if ((k > 0 && m->signals[k - 1].seq == from->seq) || m->n_signals == MEM_SIGNALS_MAX)
            continue;
        if (!cd_grow((void **)&m->signals, &m->n_signals, &m->cap_signals, sizeof *m->signals))
            return;
        memmove(&m->signals[k + 1], &m->signals[k], (m->n_signals - 1 - k) * sizeof *m->signals);
        m->signals[k] = *from;
        memset(from, 0, sizeof *from);
    }
}

static bool outbox_before(const struct cd_outbox_row *a, const struct cd_outbox_row *b)
{
    if (a->rank != b->rank)
        return a->rank < b->rank;
    if (a->ord != b->ord)
        return a->ord < b->ord;
    return strcmp(a->txn_id, b->txn_id) < 0;
}

static bool copy_row(struct cd_outbox_row *to, const struct cd_outbox_row *from)
{
    *to = *from;
    to->txn_id = to->room_id = to->user_id = to->event_type = to->content = NULL;
    return cd_dup(&to->txn_id, from->txn_id) && cd_dup(&to->room_id, from->room_id) &&
           cd_dup(&to->user_id, from->user_id) && cd_dup(&to->content, from->content) &&
           cd_dup(&to->event_type, from->event_type);
}

/* Copies: the submitter hands the same rows to the sender once they are durable. */
static void add_outbox(struct mem_store *s, struct mem_call *m, const struct cd_change *ch)
{
    for (size_t i = 0; i < ch->n_outbox; i++) {
        struct mem_out **p = &m->outbox;
        struct mem_out *o;

        if (cd_map_get(&s->outbox, cd_str_of(ch->outbox[i].txn_id)) || !(o = calloc(1, sizeof *o)))
            continue;
        if (!copy_row(&o->row, &ch->outbox[i]) ||
            cd_map_put(&s->outbox, cd_str_of(o->row.txn_id), o) < 0) {
            cd_outbox_row_done(&o->row);
            free(o);
            continue;
        }
        o->owner = m;
        while (*p && outbox_before(&(*p)->row, &o->row))
            p = &(*p)->next;
        o->next = *p;
        *p = o;
        m->n_outbox++;
    }
}

static bool is_untold(const struct mem_call *m)
{
    for (const struct mem_out *o = m->outbox; o; o = o->next)
        if (o->row.rank == 0 && o->row.tried)
            return false;
    return !m->call->invite_tried;
}

enum cd_store_rc mem_apply(struct mem_store *s, struct cd_change *ch)
{
    struct mem_call *m = write_call(s, ch);

    if (ch->call && !m)
        return CD_STORE_FULL;
    if (m) {
        if (ch->drop_untried_droppable)
            drop_outbox(s, m, false);
        add_events(s, m, ch);
        add_outbox(s, m, ch);
        if (ch->drop_untried_all && is_untold(m))
            drop_outbox(s, m, true);
        if (!cd_status_final(m->call->status))
            add_signals(m, ch);
        if (ch->drop_signals)
            drop_signals(m);
    }
    if (ch->idem) {
        struct cd_idem_row *row = ch->idem;

        ch->idem = NULL;
        mem_idem_put(s, row);
    }
    trim_ended(s);
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
        if (!copy_row(&sc->outbox[sc->n_outbox++], &o->row))
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
    answer_load(mem_of(b), find_call(mem_of(b), id), fn, arg);
}

static void load_by_matrix(struct cd_store *b, const char *room, const char *matrix_call_id,
                           cd_load_fn fn, void *arg)
{
    struct mem_store *s = mem_of(b);
    char *key = mem_key2(room, matrix_call_id);

    answer_load(s, key ? cd_map_get(&s->by_matrix, cd_str_of(key)) : NULL, fn, arg);
    free(key);
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
    while (a->calls && (m = cd_map_next(&s->calls, &pos)))
        if (!cd_status_final(m->call->status) || m->outbox)
            if ((a->calls[a->n] = copy_stored(m)))
                a->n++;
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
        free_out(s, p);
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
        free_call(s, m);
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
    s->later = cd_later_new(loop);
    if (!s->later) {
        free(s);
        return NULL;
    }
    return &s->base;
}

/* mem_apply.c -- the memory store writes a change: all of it, or nothing.
 * In: a change. Out: rows. Why in two steps: what can fail, memory, is asked for first; what follows cannot.
 * State: struct mem_store. Owns: copies of calls, rows moved out of the changes. Blocks: never. */
#include <stdlib.h>
#include <string.h>

#include "store/mem.h"

/* --- keys ------------------------------------------------------------------------------------- */

static char *matrix_key(const struct cd_call *c)
{
    return mem_key2(c->room_id, c->matrix_call_id);
}

char *mem_active_key(const struct cd_call *c)
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

static void out_free(struct mem_out *o)
{
    cd_outbox_row_done(&o->row);
    free(o);
}

void mem_out_remove(struct mem_store *s, struct mem_out **at)
{
    struct mem_out *o = *at;

    *at = o->next;
    o->owner->n_outbox--;
    cd_map_del(&s->outbox, cd_str_of(o->row.txn_id));
    out_free(o);
}

static void drop_outbox(struct mem_store *s, struct mem_call *m, bool all)
{
    for (struct mem_out **p = &m->outbox; *p;) {
        const struct cd_outbox_row *r = &(*p)->row;

        if (all || (!r->tried && r->rank == 9))
            mem_out_remove(s, p);
        else
            p = &(*p)->next;
    }
}

/* One that stands in no table. */
static void bare_free(struct mem_call *m)
{
    free(m->matrix_key);
    free(m->active_key);
    for (size_t i = 0; i < m->n_events; i++)
        cd_event_row_done(&m->events[i]);
    free(m->events);
    drop_signals(m);
    free(m->signals);
    cd_call_free(m->call);
    free(m);
}

void mem_call_remove(struct mem_store *s, struct mem_call *m)
{
    cd_map_del(&s->calls, cd_str_of(m->call->id));
    if (m->matrix_key)
        cd_map_del(&s->by_matrix, cd_str_of(m->matrix_key));
    clear_active(s, m);
    drop_outbox(s, m, true);
    bare_free(m);
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

void mem_forget(struct mem_store *s, struct mem_call *m)
{
    struct mem_call *before = NULL;

    if (m->ended) {
        for (struct mem_call *at = s->ended_oldest; at != m; at = at->ended_next)
            before = at;
        *(before ? &before->ended_next : &s->ended_oldest) = m->ended_next;
        if (s->ended_newest == m)
            s->ended_newest = before;
        s->n_ended--;
    } else {
        s->n_live--;
    }
    mem_call_remove(s, m);
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
    mem_call_remove(s, m);
}

/* --- everything that needs memory ---------------------------------------------------------------- */

bool mem_copy_row(struct cd_outbox_row *to, const struct cd_outbox_row *from)
{
    *to = *from;
    to->txn_id = to->room_id = to->user_id = to->event_type = to->content = NULL;
    return cd_dup(&to->txn_id, from->txn_id) && cd_dup(&to->room_id, from->room_id) &&
           cd_dup(&to->user_id, from->user_id) && cd_dup(&to->content, from->content) &&
           cd_dup(&to->event_type, from->event_type);
}

static bool reserve(void **base, size_t n, size_t *cap, size_t elem_bytes)
{
    size_t more = *cap ? *cap : 4;
    void *p;

    while (more < n)
        more *= 2;
    if (*base && more == *cap)
        return true;
    p = realloc(*base, more * elem_bytes);
    if (!p)
        return false;
    *base = p;
    *cap = more;
    return true;
}

static bool plan_new(struct mem_store *s, struct mem_plan *p, const struct cd_call *c)
{
    struct mem_call *m = calloc(1, sizeof *m);

    p->call = p->fresh = m;
    if (!m || (c->matrix_call_id && !(m->matrix_key = matrix_key(c))))
        return false;
    return cd_map_reserve(&s->calls, 1) == 0 && cd_map_reserve(&s->by_matrix, 1) == 0;
}

static bool plan_call(struct mem_store *s, struct mem_plan *p, const struct cd_change *ch)
{
    p->call = mem_find(s, ch->call_id);
    if (!ch->call)
        return true;
    p->copy = cd_call_clone(ch->call);
    if (!p->copy || (!p->call && !plan_new(s, p, ch->call)))
        return false;
    if (!cd_call_holds_active(ch->call))
        return true;
    p->active_key = mem_active_key(ch->call);
    return p->active_key && cd_map_reserve(&s->active, 1) == 0;
}

/* Copies: the submitter hands the same rows to the sender once they are durable. */
static bool plan_outbox(struct mem_store *s, struct mem_plan *p, const struct cd_change *ch)
{
    for (size_t i = 0; i < ch->n_outbox; i++) {
        struct mem_out *o = calloc(1, sizeof *o);

        if (!o)
            return false;
        o->next = p->outs;
        p->outs = o;
        if (!mem_copy_row(&o->row, &ch->outbox[i]))
            return false;
    }
    return cd_map_reserve(&s->outbox, ch->n_outbox) == 0;
}

static bool plan_rows(struct mem_plan *p, const struct cd_change *ch)
{
    struct mem_call *m = p->call;

    return (!ch->n_events || reserve((void **)&m->events, m->n_events + ch->n_events, &m->cap_events,
                                     sizeof *m->events)) &&
           (!ch->n_signals || reserve((void **)&m->signals, m->n_signals + ch->n_signals, &m->cap_signals,
                                      sizeof *m->signals));
}

static bool plan_hashes(struct mem_store *s, struct mem_plan *p, const struct cd_change *ch)
{
    for (size_t i = 0; i < ch->n_events; i++)
        if (ch->events[i].has_mx_hash && !mem_hash_plan(&p->hashes, ch->events[i].mx_hash))
            return false;
    return cd_map_reserve(&s->applied.map, ch->n_events) == 0;
}

bool mem_plan(struct mem_store *s, const struct cd_change *ch, struct mem_plan *p)
{
    *p = (struct mem_plan){0};
    if (plan_call(s, p, ch) &&
        (!p->call || (plan_rows(p, ch) && plan_outbox(s, p, ch) && plan_hashes(s, p, ch))) &&
        (!ch->idem || (p->idem = cd_keys_plan(&s->keys, ch->idem))))
        return true;
    mem_plan_drop(p);
    return false;
}

void mem_plan_drop(struct mem_plan *p)
{
    if (p->fresh)
        bare_free(p->fresh);
    cd_call_free(p->copy);
    free(p->active_key);
    while (p->outs) {
        struct mem_out *o = p->outs;

        p->outs = o->next;
        out_free(o);
    }
    mem_hash_drop(p->hashes);
    cd_keys_plan_drop(p->idem);
    *p = (struct mem_plan){0};
}

/* --- what cannot fail ------------------------------------------------------------------------------ */

/* The table's key points into the call's own id, so a new copy moves the key too. */
static void write_call(struct mem_store *s, struct mem_plan *p)
{
    struct mem_call *m = p->call;
    struct cd_call *old = m->call;

    m->call = p->copy;
    cd_map_put(&s->calls, cd_str_of(m->call->id), m);
    if (old) {
        m->call->invite_tried = m->call->invite_tried || old->invite_tried;
        cd_call_free(old);
    } else {
        s->n_live++;
        if (m->matrix_key)
            cd_map_put(&s->by_matrix, cd_str_of(m->matrix_key), m);
    }
    clear_active(s, m);
    m->active_key = p->active_key;
    if (m->active_key)
        cd_map_put(&s->active, cd_str_of(m->active_key), m);
    if (cd_status_final(m->call->status) && !m->ended) {
        m->ended = true;
        s->n_live--;
        s->n_ended++;
        list_ended(s, m);
    }
    p->copy = NULL;
    p->fresh = NULL;
    p->active_key = NULL;
}

static void add_events(struct mem_call *m, struct cd_change *ch)
{
    for (size_t i = 0; i < ch->n_events; i++) {
        struct cd_event_row *from = &ch->events[i];
        size_t k = m->n_events++;

        for (; k > 0 && m->events[k - 1].seq > from->seq; k--)
            m->events[k] = m->events[k - 1];
        m->events[k] = *from;
        m->events[k].type = cd_event_type_intern(from->type);
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
        memmove(&m->signals[k + 1], &m->signals[k], (m->n_signals - k) * sizeof *m->signals);
        m->n_signals++;
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

static void add_outbox(struct mem_store *s, struct mem_plan *plan)
{
    struct mem_call *m = plan->call;

    while (plan->outs) {
        struct mem_out *o = plan->outs, **p = &m->outbox;

        plan->outs = o->next;
        if (cd_map_get(&s->outbox, cd_str_of(o->row.txn_id))) {
            out_free(o);
            continue;
        }
        cd_map_put(&s->outbox, cd_str_of(o->row.txn_id), o);
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

void mem_write(struct mem_store *s, struct cd_change *ch, struct mem_plan *p)
{
    struct mem_call *m = p->call;

    if (p->copy)
        write_call(s, p);
    if (m) {
        if (ch->drop_untried_droppable)
            drop_outbox(s, m, false);
        add_events(m, ch);
        mem_hash_add(&s->applied, p->hashes);
        p->hashes = NULL;
        add_outbox(s, p);
        if (ch->drop_untried_all && is_untold(m))
            drop_outbox(s, m, true);
        if (!cd_status_final(m->call->status))
            add_signals(m, ch);
        if (ch->drop_signals)
            drop_signals(m);
    }
    if (p->idem) {
        cd_keys_add(&s->keys, p->idem, ch->idem, ch->idem->at);
        ch->idem = NULL;
        p->idem = NULL;
    }
    trim_ended(s);
}

enum cd_store_rc mem_apply(struct mem_store *s, struct cd_change *ch)
{
    struct mem_plan p;

    if (!mem_plan(s, ch, &p))
        return CD_STORE_FULL;
    mem_write(s, ch, &p);
    return CD_STORE_OK;
}

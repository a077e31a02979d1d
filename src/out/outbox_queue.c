/* outbox_queue.c -- the rows that wait, and which of them may go.
 * In: rows.  Out: the next row of a user.
 * Why: order within a call holds over both users' queues; within a user what ends ringing goes
 * first.
 * State: each row is in its call's and its user's list.  Owns: copies of the rows.  Blocks:
 * never. */
#include <stdlib.h>
#include <string.h>

#include "out/outbox_int.h"

#define LEASE_AGAIN_MS 1000
#define BATCH_BYTES 40960

/* --- in and out --------------------------------------------------------------------------- */

static char *copy(const char *s, bool *failed)
{
    char *p = strdup(s ? s : "");

    if (!p)
        *failed = true;
    return p;
}

static struct cd_ob_item *item_new(const struct cd_outbox_row *row)
{
    struct cd_ob_item *it = calloc(1, sizeof(*it));
    bool failed = false;

    if (!it)
        return NULL;
    it->row = *row;
    it->unknown = row->tried || row->restored;
    it->row.txn_id = copy(row->txn_id, &failed);
    it->row.room_id = copy(row->room_id, &failed);
    it->row.user_id = copy(row->user_id, &failed);
    it->row.event_type = copy(row->event_type, &failed);
    it->row.content = copy(row->content, &failed);
    if (failed) {
        cd_outbox_row_done(&it->row);
        free(it);
        return NULL;
    }
    return it;
}

static struct cd_ob_call *call_for(struct cd_outbox *o, const char *id)
{
    struct cd_ob_call *call = cd_map_get(&o->calls, cd_str_of(id));

    if (call)
        return call;
    call = calloc(1, sizeof(*call));
    if (!call)
        return NULL;
    memcpy(call->id, id, strnlen(id, CD_CALL_ID_LEN));
    if (cd_map_put(&o->calls, cd_str_of(call->id), call) != 0) {
        free(call);
        return NULL;
    }
    return call;
}

struct cd_ob_user *cd_ob_user_get(const struct cd_outbox *o, const char *user_id)
{
    return cd_map_get(&o->users, cd_str_of(user_id));
}

static struct cd_ob_user *user_for(struct cd_outbox *o, const char *id)
{
    struct cd_ob_user *u = cd_ob_user_get(o, id);

    if (u)
        return u;
    u = calloc(1, sizeof(*u));
    if (!u)
        return NULL;
    u->outbox = o;
    u->id = strdup(id);
    if (!u->id || cd_map_put(&o->users, cd_str_of(u->id), u) != 0) {
        free(u->id);
        free(u);
        return NULL;
    }
    return u;
}

void cd_ob_user_free(struct cd_outbox *o, struct cd_ob_user *u)
{
    cd_map_del(&o->users, cd_str_of(u->id));
    cd_timer_cancel(o->loop, &u->timer);
    free(u->id);
    free(u);
}

static void call_release(struct cd_outbox *o, struct cd_ob_call *call)
{
    if (call->n > 0)
        return;
    cd_map_del(&o->calls, cd_str_of(call->id));
    free(call);
}

static bool before(const struct cd_ob_item *a, const struct cd_ob_item *b)
{
    if (a->row.rank != b->row.rank)
        return a->row.rank < b->row.rank;
    if (a->row.ord != b->row.ord)
        return a->row.ord < b->row.ord;
    return a->seq < b->seq;
}

static void link_call(struct cd_ob_call *call, struct cd_ob_item *it)
{
    struct cd_ob_item **at = &call->items, *prev = NULL;

    while (*at && before(*at, it)) {
        prev = *at;
        at = &prev->call_next;
    }
    it->call_next = *at;
    it->call_prev = prev;
    if (*at)
        (*at)->call_prev = it;
    *at = it;
    it->call = call;
    call->n++;
}

static void link_user(struct cd_ob_user *u, struct cd_ob_item *it)
{
    it->user_prev = u->last;
    if (u->last)
        u->last->user_next = it;
    else
        u->first = it;
    u->last = it;
    it->user = u;
    u->n++;
}

static uint64_t hash_of(const char *txn_id)
{
    uint64_t h = 1469598103934665603u;

    for (const char *p = txn_id; *p; p++)
        h = (h ^ (unsigned char)*p) * 1099511628211u;
    return h ? h : 1;
}

void cd_ob_done(struct cd_outbox *o, const char *txn_id)
{
    if (!o->done)
        o->done = calloc(CD_OB_DONE_MAX, sizeof(*o->done));
    if (o->done)
        o->done[o->done_at++ % CD_OB_DONE_MAX] = hash_of(txn_id);
}

static bool is_done(const struct cd_outbox *o, const char *txn_id)
{
    uint64_t h = hash_of(txn_id);

    for (size_t i = 0; o->done && i < CD_OB_DONE_MAX; i++)
        if (o->done[i] == h)
            return true;
    return false;
}

struct cd_ob_item *cd_ob_insert(struct cd_outbox *o, const struct cd_outbox_row *row)
{
    struct cd_ob_call *call;
    struct cd_ob_user *u;
    struct cd_ob_item *it;

    if (cd_map_get(&o->txns, cd_str_of(row->txn_id)) || is_done(o, row->txn_id))
        return NULL;
    it = item_new(row);
    call = it ? call_for(o, row->call_id) : NULL;
    u = call ? user_for(o, row->user_id) : NULL;
    if (!u || cd_map_put(&o->txns, cd_str_of(it->row.txn_id), it) != 0) {
        if (call)
            call_release(o, call);
        if (it)
            cd_outbox_row_done(&it->row);
        free(it);
        cd_ob_missed(o, row->call_id);
        return NULL;
    }
    it->seq = ++o->last_seq;
    link_call(call, it);
    link_user(u, it);
    o->stats.waiting++;
    return it;
}

void cd_ob_remove(struct cd_outbox *o, struct cd_ob_item *it)
{
    struct cd_ob_user *u = it->user;
    struct cd_ob_call *call = it->call;

    cd_map_del(&o->txns, cd_str_of(it->row.txn_id));
    if (it->call_prev)
        it->call_prev->call_next = it->call_next;
    else
        call->items = it->call_next;
    if (it->call_next)
        it->call_next->call_prev = it->call_prev;
    if (it->user_prev)
        it->user_prev->user_next = it->user_next;
    else
        u->first = it->user_next;
    if (it->user_next)
        it->user_next->user_prev = it->user_prev;
    else
        u->last = it->user_prev;
    u->n--;
    call->n--;
    call_release(o, call);
    o->stats.waiting--;
    cd_outbox_row_done(&it->row);
    free(it);
}

/* --- order -------------------------------------------------------------------------------- */

static bool is_candidates(const struct cd_ob_item *it)
{
    return strcmp(it->row.event_type, "m.call.candidates") == 0;
}

/* Does @p x, of the same call, have to go before @p it? */
static bool holds_back(const struct cd_ob_item *x, const struct cd_ob_item *it)
{
    if (x == it || x->leader)
        return false;
    if (it->row.rank < CD_RANK_DROPPABLE)
        return x->row.rank < CD_RANK_DROPPABLE && before(x, it);
    if (x->row.rank == 0)
        return true;
    if (x->user != it->user)
        return false;
    /* A negotiation must come before the candidates that belong to it. */
    return x->row.rank < CD_RANK_DROPPABLE || (!is_candidates(x) && before(x, it));
}

static bool may_go(const struct cd_ob_item *it)
{
    if (it->leader || it->call->busy)
        return false;
    for (const struct cd_ob_item *x = it->call->items; x; x = x->call_next) {
        if (holds_back(x, it))
            return false;
    }
    return true;
}

static bool ends_ringing(const struct cd_ob_item *it)
{
    return it->row.rank == 2 || it->row.rank == CD_RANK_HANGUP;
}

static bool better(const struct cd_ob_item *a, const struct cd_ob_item *b)
{
    if (ends_ringing(a) != ends_ringing(b))
        return ends_ringing(a);
    if (a->row.created_at != b->row.created_at)
        return a->row.created_at < b->row.created_at;
    return a->seq < b->seq;
}

struct cd_ob_item *cd_ob_choose(const struct cd_ob_user *u, int64_t wall_ms, int64_t *wake_at)
{
    struct cd_ob_item *best = NULL;

    for (struct cd_ob_item *it = u->first; it; it = it->user_next) {
        if (it->row.not_before > wall_ms) {
            if (it->row.not_before < *wake_at)
                *wake_at = it->row.not_before;
        } else if ((!best || better(it, best)) && may_go(it)) {
            if (cd_store_may_act(u->outbox->store, it->row.call_id))
                best = it;
            else if (*wake_at > wall_ms + LEASE_AGAIN_MS) /* it may be another daemon's by now */
                *wake_at = wall_ms + LEASE_AGAIN_MS;
        }
    }
    return best;
}

void cd_ob_gather(struct cd_ob_item *leader, int64_t wall_ms)
{
    struct cd_ob_item *tail = leader;
    size_t bytes = strlen(leader->row.content), n = 1;

    /* Once tried, an event keeps its content: the homeserver may have it under this transaction
     * id. */
    if (leader->row.tried || leader->unknown || !is_candidates(leader))
        return;
    for (struct cd_ob_item *it = leader->call_next; it && n < CD_BATCH_MAX; it = it->call_next) {
        size_t len = strlen(it->row.content);

        if (it->user != leader->user || it->row.tried || it->unknown ||
            it->row.not_before > wall_ms || !is_candidates(it) || !may_go(it) || bytes + len > BATCH_BYTES ||
            !cd_batch_fits(cd_str_of(leader->row.content), cd_str_of(it->row.content)))
            continue;
        it->leader = leader;
        tail->batch = it;
        tail = it;
        bytes += len;
        n++;
    }
}

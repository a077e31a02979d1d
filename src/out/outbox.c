/* outbox.c -- sends the rows of matrix_outbox: who may send now, who waits, what is too late.
 * In: committed rows; tokens; time.  Out: one finished() a row.
 * Why: a queue a user, because tokens, rate limits and back-off belong to users; at most eight
 * requests at once, so that a burst of calls does not crowd out whoami.
 * State: users that are ready (looked at once a turn) and starved (ready, but no slot).
 * Owns: outbox_queue.c's rows.  Blocks: never; everything else is a timer. */
#include "out/outbox.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/secret.h"
#include "out/outbox_int.h"

#define USERS_AT_ONCE 8
#define ROWS_MAX 20000
#define ANSWER_GRACE_MS 10000
#define LONGEST_SLEEP_MS 60000 /* the wall clock may have jumped meanwhile */

/* --- queues of users ---------------------------------------------------------------------- */

static void queue_push(struct cd_ob_queue *q, struct cd_ob_user *u)
{
    u->queued = true;
    u->next = NULL;
    if (q->last)
        q->last->next = u;
    else
        q->first = u;
    q->last = u;
}

static struct cd_ob_user *queue_pop(struct cd_ob_queue *q)
{
    struct cd_ob_user *u = q->first;

    if (!u)
        return NULL;
    q->first = u->next;
    if (!q->first)
        q->last = NULL;
    u->queued = false;
    return u;
}

static void on_kick(void *arg);

void cd_ob_wake(struct cd_outbox *o, struct cd_ob_user *u)
{
    if (u->queued)
        return;
    queue_push(&o->ready, u);
    if (o->kick.slot == 0)
        cd_timer_set(o->loop, &o->kick, 0, on_kick, o);
}

void cd_ob_wake_call(struct cd_outbox *o, struct cd_ob_call *call)
{
    for (struct cd_ob_item *it = call->items; it; it = it->call_next)
        cd_ob_wake(o, it->user);
}

static void on_user_timer(void *arg)
{
    struct cd_ob_user *u = arg;

    cd_ob_wake(u->outbox, u);
}

/* --- the end of a row --------------------------------------------------------------------- */

static void count(struct cd_outbox *o, enum cd_sent_rc rc)
{
    switch (rc) {
    case CD_SENT_OK:
        o->stats.sent++;
        break;
    case CD_SENT_EXPIRED:
        o->stats.expired++;
        break;
    case CD_SENT_REFUSED:
        o->stats.refused++;
        break;
    case CD_SENT_NO_TOKEN:
        o->stats.no_token++;
        break;
    default:
        break;
    }
}

/* The owner is told when the row is out of the queue, so that it sees how many are left. */
static void finish_one(struct cd_outbox *o, struct cd_ob_item *it, enum cd_sent_rc rc,
                       const char *event_id)
{
    struct cd_outbox_row row = it->row;

    count(o, rc);
    o->store->ops->outbox_done(o->store, row.txn_id);
    cd_ob_done(o, row.txn_id);
    cd_map_del(&o->txns, cd_str_of(row.txn_id)); /* its key goes out of the item with the row */
    it->row = (struct cd_outbox_row){.rank = row.rank, .ord = row.ord};
    cd_ob_wake_call(o, it->call);
    cd_ob_remove(o, it);
    o->ops->finished(o->self, &row, rc, event_id);
    cd_outbox_row_done(&row);
}

void cd_ob_finish(struct cd_outbox *o, struct cd_ob_item *it, enum cd_sent_rc rc,
                  const char *event_id)
{
    struct cd_ob_item *list[CD_BATCH_MAX];
    size_t n = 0;

    for (; it && n < CD_BATCH_MAX; it = it->batch)
        list[n++] = it;
    for (size_t i = 0; i < n; i++)
        list[i]->in_flight = true; /* the owner's drop, from finished(), leaves them to this loop */
    for (size_t i = 0; i < n; i++)
        finish_one(o, list[i], rc, event_id);
}

/* --- what a user does now ----------------------------------------------------------------- */

static struct cd_principal *usable_token(struct cd_outbox *o, struct cd_ob_user *u)
{
    struct cd_principal *p = o->ops->token(o->self, u->id);
    uint8_t hash[16];

    if (!p || !p->matrix_token)
        return NULL;
    if (u->has_refused) {
        cd_secret_hash16(cd_str_of(p->matrix_token), hash);
        if (memcmp(hash, u->refused, sizeof(hash)) == 0)
            return NULL;
    }
    return p;
}

void cd_ob_discard(struct cd_outbox *o, struct cd_ob_item *it)
{
    while (it) {
        struct cd_ob_item *next = it->batch;

        cd_ob_wake_call(o, it->call);
        cd_ob_remove(o, it);
        it = next;
    }
}

/* What was tried may have arrived, whatever became of its token since: after a restart that is not
 * even loaded yet. Its call's hang-up must follow. */
static enum cd_sent_rc late(struct cd_outbox *o, struct cd_ob_user *u, const struct cd_ob_item *it)
{
    return it->row.tried || usable_token(o, u) ? CD_SENT_EXPIRED : CD_SENT_NO_TOKEN;
}

static bool expire_one(struct cd_outbox *o, struct cd_ob_user *u, int64_t wall_ms)
{
    for (struct cd_ob_item *it = u->first; it; it = it->user_next) {
        if (it->leader || it->in_flight || it->row.deadline == 0 || it->row.deadline > wall_ms)
            continue;
        cd_ob_finish(o, it, late(o, u, it), NULL);
        return true;
    }
    return false;
}

static void sleep_until(struct cd_outbox *o, struct cd_ob_user *u, int64_t wake_at, int64_t wall_ms)
{
    int64_t delay;

    for (const struct cd_ob_item *it = u->first; it; it = it->user_next) {
        if (it->row.deadline > 0 && it->row.deadline < wake_at)
            wake_at = it->row.deadline;
    }
    delay = wake_at - wall_ms;
    if (delay < 1)
        delay = 1;
    if (delay > LONGEST_SLEEP_MS)
        delay = LONGEST_SLEEP_MS;
    cd_timer_set(o->loop, &u->timer, delay, on_user_timer, u);
}

static void look_at(struct cd_outbox *o, struct cd_ob_user *u)
{
    int64_t wall = cd_wall_ms(), blocked = u->blocked_until_ms - cd_mono_ms();
    int64_t wake_at = INT64_MAX;
    struct cd_ob_item *it = NULL;
    struct cd_principal *p;

    if (u->sending)
        return;
    while (expire_one(o, u, wall))
        ;
    if (u->n == 0 && blocked <= 0) {
        if (!u->queued)
            cd_ob_user_free(o, u);
        return;
    }
    if (blocked > 0)
        wake_at = wall + blocked;
    else
        it = cd_ob_choose(u, wall, &wake_at);
    if (it && !cd_ob_gate_open(o))
        it = NULL;
    if (it && o->sending >= USERS_AT_ONCE) {
        if (!u->queued)
            queue_push(&o->starved, u);
        it = NULL;
    }
    p = it ? usable_token(o, u) : NULL;
    if (p)
        cd_ob_start(o, it, p);
    else
        sleep_until(o, u, wake_at, wall);
}

static void on_kick(void *arg)
{
    struct cd_outbox *o = arg;
    struct cd_ob_queue now = o->ready;
    struct cd_ob_user *u;

    /* Whoever is woken from here on is looked at in the next turn. */
    o->ready = (struct cd_ob_queue){NULL, NULL};
    while ((u = queue_pop(&now)))
        look_at(o, u);
    while (o->sending < USERS_AT_ONCE && (u = queue_pop(&o->starved)))
        look_at(o, u);
}

/* --- the door ----------------------------------------------------------------------------- */

/* Without this an answer whose user has gone would keep the hang-up from ever being sent. */
static void hurry_answers(struct cd_ob_item *hangup)
{
    int64_t limit = hangup->row.created_at + ANSWER_GRACE_MS;

    for (struct cd_ob_item *it = hangup->call->items; it; it = it->call_next) {
        if (it->row.rank == 1 && (it->row.deadline == 0 || it->row.deadline > limit))
            it->row.deadline = limit;
    }
}

void cd_outbox_add(struct cd_outbox *o, const struct cd_outbox_row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct cd_ob_item *it;

        if (o->stats.waiting >= ROWS_MAX) {
            cd_log(CD_LOG_ERROR, "outbox", "queue.full", NULL, "%zu rows wait", o->stats.waiting);
            o->store->ops->outbox_done(o->store, rows[i].txn_id);
            count(o, CD_SENT_EXPIRED);
            o->ops->finished(o->self, &rows[i], CD_SENT_EXPIRED, NULL);
            continue;
        }
        it = cd_ob_insert(o, &rows[i]);
        if (!it)
            continue;
        if (it->row.rank == CD_RANK_HANGUP) {
            hurry_answers(it);
            cd_ob_wake_call(o, it->call);
        }
        cd_ob_wake(o, it->user);
    }
}

void cd_outbox_drop(struct cd_outbox *o, const char *call_id, bool all)
{
    struct cd_ob_call *call = cd_map_get(&o->calls, cd_str_of(call_id));
    struct cd_ob_item *it = call ? call->items : NULL, *next;

    if (call)
        cd_ob_wake_call(o, call);
    for (; it; it = next) {
        bool droppable = it->row.rank == CD_RANK_DROPPABLE;

        next = it->call_next; /* the last row takes the call with it */
        if (it->in_flight) {
            it->dropped = it->dropped || droppable;
        } else if (droppable || (all && !it->row.tried)) {
            if (it->row.tried || all)
                o->store->ops->outbox_done(o->store, it->row.txn_id);
            cd_ob_remove(o, it);
        }
    }
}

/* Noted in the store, or about to be, but not handed to the homeserver: that waits for the note. */
static bool is_unbegun(const struct cd_ob_item *it)
{
    return !it->row.tried || (it->user->sending == it && it->user->mark);
}

static const struct cd_ob_item *invite_of(const struct cd_ob_call *call)
{
    const struct cd_ob_item *it = call ? call->items : NULL;

    while (it && it->row.rank != 0)
        it = it->call_next;
    return it;
}

bool cd_outbox_take_back(struct cd_outbox *o, const char *call_id, const struct cd_outbox_row *rows,
                         size_t n)
{
    struct cd_ob_call *call = cd_map_get(&o->calls, cd_str_of(call_id));
    const struct cd_ob_item *invite = invite_of(call);
    struct cd_ob_item *it, *next;

    if (!invite || !is_unbegun(invite))
        return false;
    cd_ob_wake_call(o, call);
    if (invite->user->sending == invite)
        cd_ob_stop(o, invite->user);
    cd_ob_wake(o, invite->user);
    for (it = call->items; it; it = next) {
        next = it->call_next; /* the last row takes the call with it */
        o->store->ops->outbox_done(o->store, it->row.txn_id);
        cd_ob_remove(o, it);
    }
    for (size_t i = 0; i < n; i++) /* kept by the store if the note came first */
        o->store->ops->outbox_done(o->store, rows[i].txn_id);
    return true;
}

void cd_outbox_forget(struct cd_outbox *o, const char *call_id)
{
    struct cd_ob_call *call = cd_map_get(&o->calls, cd_str_of(call_id));
    struct cd_ob_item *it = call ? call->items : NULL, *next;

    for (; it; it = next) {
        next = it->call_next; /* the last row takes the call with it */
        if (it->user->sending == it && it->user->mark)
            cd_ob_stop(o, it->user); /* no request was begun */
        if (it->in_flight)
            it->forgotten = true;
        else
            cd_ob_remove(o, it);
    }
}

void cd_outbox_token_ready(struct cd_outbox *o, const char *user_id)
{
    struct cd_ob_user *u = cd_ob_user_get(o, user_id);

    if (!u)
        return;
    u->has_refused = false;
    cd_ob_wake(o, u);
}

size_t cd_outbox_pending(const struct cd_outbox *o, const char *call_id)
{
    const struct cd_ob_call *call = cd_map_get(&o->calls, cd_str_of(call_id));

    return call ? call->n : 0;
}

size_t cd_outbox_pending_user(const struct cd_outbox *o, const char *user_id)
{
    const struct cd_ob_user *u = cd_ob_user_get(o, user_id);

    return u ? u->n : 0;
}

void cd_outbox_stats(const struct cd_outbox *o, struct cd_outbox_stats *out)
{
    int64_t now = cd_wall_ms();
    const struct cd_ob_user *u;
    size_t pos = 0;

    *out = o->stats;
    while ((u = cd_map_next(&o->users, &pos))) {
        for (const struct cd_ob_item *it = u->first; it; it = it->user_next) {
            int64_t since = now - (it->row.not_before > it->row.created_at ? it->row.not_before
                                                                           : it->row.created_at);
            if (since > out->oldest_ms)
                out->oldest_ms = since;
        }
    }
    out->away = o->away;
    if (o->away && o->away_until_ms > cd_mono_ms())
        out->back_off_ms = o->away_until_ms - cd_mono_ms();
}

struct cd_outbox *cd_outbox_new(struct cd_loop *loop, struct cd_fetch_pool *pool,
                                struct cd_store *store,
                                const char *homeserver_url, const struct cd_outbox_ops *ops,
                                    void *self)
{
    struct cd_outbox *o = calloc(1, sizeof(*o));
    size_t n = strlen(homeserver_url);

    if (!o)
        return NULL;
    while (n > 0 && homeserver_url[n - 1] == '/')
        n--;
    o->loop = loop;
    o->pool = pool;
    o->store = store;
    o->base = strndup(homeserver_url, n);
    o->ops = ops;
    o->self = self;
    o->stats.homeserver_up = true;
    cd_map_init(&o->txns);
    cd_map_init(&o->calls);
    cd_map_init(&o->users);
    if (!o->base) {
        cd_outbox_free(o);
        return NULL;
    }
    return o;
}

void cd_outbox_free(struct cd_outbox *o)
{
    struct cd_ob_user *u;
    size_t pos = 0;

    if (!o)
        return;
    cd_timer_cancel(o->loop, &o->missed_timer);
    while ((u = cd_map_next(&o->users, &pos))) {
        cd_ob_stop(o, u);
        while (u->first)
            cd_ob_remove(o, u->first);
        cd_ob_user_free(o, u);
    }
    cd_timer_cancel(o->loop, &o->kick);
    cd_timer_cancel(o->loop, &o->probe);
    cd_map_done(&o->txns);
    cd_map_done(&o->calls);
    cd_map_done(&o->users);
    free(o->done);
    free(o->base);
    free(o);
}

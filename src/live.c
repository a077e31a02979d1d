/* live.c -- the registry of calls in memory, their logs and their way back from the store.
 *
 * State: core->calls by id, core->mx_calls by room and Matrix call id. Owns: every cd_live.
 * Why a log: a late joiner, a reconnecting socket and REST clients read what they missed. */
#include "live.h"

#include <stdlib.h>

#include "base/budget.h"
#include "base/clock.h"
#include "base/log.h"
#include "nodes.h"
#include "restore.h"

/* Numbers that the process before us may have given out and not written: clients ask for what follows
 * the last one they saw, so ours must be greater. */
#define SEQ_GAP 1000
#define RETIRE_MS 60000 /* a final call stays this long for late questions */
#define FORGET_MS 100   /* what is to go looks again whether it can */

#define MX_KEY_MAX 1024 /* a room and a call id; both are capped where they come in */

/* Needs no memory: who asks for a call must not hear that there is none because there is no memory. */
static bool mx_key_of(char key[MX_KEY_MAX], const char *room_id, const char *mx_call_id)
{
    int n = snprintf(key, MX_KEY_MAX, "%s\n%s", room_id, mx_call_id);

    return n > 0 && n < MX_KEY_MAX;
}

/* --- the calls of a user -------------------------------------------------------------------------- */

struct user_calls {
    char *user;
    size_t n, cap;
    struct cd_live **calls;
};

static void user_calls_free(struct user_calls *u)
{
    if (u)
        free(u->user);
    free(u ? u->calls : NULL);
    free(u);
}

static struct user_calls *user_calls_get(struct cd_core *core, const char *user)
{
    struct user_calls *u = cd_map_get(&core->by_user, cd_str_of(user));

    if (u)
        return u;
    u = calloc(1, sizeof(*u));
    if (u && (u->user = strdup(user)) && cd_map_put(&core->by_user, cd_str_of(u->user), u) == 0)
        return u;
    user_calls_free(u);
    return NULL;
}

static bool index_user(struct cd_live *l, const char *user)
{
    struct user_calls *u = user_calls_get(l->core, user);

    if (!u)
        return false;
    if (u->n == u->cap) {
        size_t cap = u->cap ? u->cap * 2 : 2;
        struct cd_live **grown = realloc(u->calls, cap * sizeof(*grown));
        if (!grown)
            return false;
        u->calls = grown;
        u->cap = cap;
    }
    u->calls[u->n++] = l;
    return true;
}

static void unindex_user(struct cd_live *l, const char *user)
{
    struct user_calls *u = cd_map_get(&l->core->by_user, cd_str_of(user));

    for (size_t i = 0; u && i < u->n; i++)
        if (u->calls[i] == l)
            u->calls[i--] = u->calls[--u->n];
    if (u && u->n == 0) {
        cd_map_del(&l->core->by_user, cd_str_of(user));
        user_calls_free(u);
    }
}

struct cd_live *const *cd_live_of_user(const struct cd_core *core, const char *user, size_t *n)
{
    const struct user_calls *u = cd_map_get(&core->by_user, cd_str_of(user));

    *n = u ? u->n : 0;
    return u ? u->calls : NULL;
}

static bool index_users(struct cd_live *l, const struct cd_call *c)
{
    for (size_t i = 0; i < c->n_participants; i++)
        if (!index_user(l, c->participants[i].user_id))
            return false;
    return true;
}

struct cd_live *cd_live_new(struct cd_core *core, struct cd_call *call, bool being_created)
{
    struct cd_live *l = calloc(1, sizeof(*l));
    char key[MX_KEY_MAX];

    if (!l) {
        cd_call_free(call);
        return NULL;
    }
    l->core = core;
    l->jobs_tail = &l->jobs;
    memcpy(l->id, call->id, sizeof(l->id));
    l->mx_state = call->mx_state;
    l->invite_tried = call->invite_tried;
    l->seq = call->seq;
    l->touched_ms = cd_mono_ms();
    for (size_t i = 0; i < CD_MAX_PARTICIPANTS; i++)
        l->seats[i].live = l;
    if (being_created)
        l->born = call;
    else
        l->cur = call;
    l->mx_key = mx_key_of(key, call->room_id, cd_call_mx_id(call)) ? strdup(key) : NULL;
    if (!l->mx_key || cd_map_put(&core->calls, cd_str_of(l->id), l) != 0) {
        cd_live_unlink(l);
        return NULL;
    }
    if (cd_map_put(&core->mx_calls, cd_str_of(l->mx_key), l) != 0 || !index_users(l, call)) {
        cd_live_unlink(l);
        return NULL;
    }
    return l;
}

static void cancel_timers(struct cd_live *l)
{
    struct cd_loop *loop = l->core->loop;

    cd_timer_cancel(loop, &l->ring);
    cd_timer_cancel(loop, &l->max_age);
    cd_timer_cancel(loop, &l->unattended);
    cd_timer_cancel(loop, &l->infer);
    cd_timer_cancel(loop, &l->evict);
    for (size_t i = 0; i < CD_MAX_PARTICIPANTS; i++)
        cd_timer_cancel(loop, &l->seats[i].grace);
}

static void log_entry_done(struct cd_log_entry *e)
{
    cd_budget_give(CD_BUDGET_REPLAY, e->payload_n);
    free(e->payload);
    free(e->from_user);
    free(e->from_party);
    free(e->to);
}

static void live_free(struct cd_live *l)
{
    cancel_timers(l);
    for (size_t i = 0; i < l->n_log; i++)
        log_entry_done(&l->log[i]);
    free(l->log);
    cd_call_free(l->cur);
    cd_call_free(l->born);
    free(l->mx_key);
    free(l);
}

void cd_live_maybe_free(struct cd_live *l)
{
    if (l->gone && !l->busy && l->n_jobs == 0 && !l->flush_queued)
        live_free(l);
}

void cd_live_unlink(struct cd_live *l)
{
    struct cd_core *core = l->core;
    struct cd_str id = cd_str_of(cd_live_id(l));

    if (l->gone)
        return;
    l->gone = true;
    for (size_t i = 0; cd_modules[i]; i++)
        if (cd_modules[i]->on_gone)
            cd_modules[i]->on_gone(core, l);
    if (cd_map_get(&core->calls, id) == l)
        cd_map_del(&core->calls, id);
    if (l->mx_key && cd_map_get(&core->mx_calls, cd_str_of(l->mx_key)) == l)
        cd_map_del(&core->mx_calls, cd_str_of(l->mx_key));
    const struct cd_call *c = cd_live_call(l);
    for (size_t i = 0; i < c->n_participants; i++)
        unindex_user(l, c->participants[i].user_id);
    cancel_timers(l);
    cd_live_maybe_free(l);
}

void cd_live_free_all(struct cd_core *core)
{
    size_t pos = 0;
    struct cd_live *l;

    core->flush_first = NULL;
    while ((l = cd_map_next(&core->calls, &pos))) {
        l->busy = l->flush_queued = false;
        cd_live_unlink(l);
    }
}

static bool is_watched(const struct cd_live *l)
{
    for (size_t i = 0; i < CD_MAX_PARTICIPANTS; i++)
        if (l->seats[i].sock_id)
            return true;
    return false;
}

static void evict(void *arg)
{
    struct cd_live *l = arg;

    if (l->elsewhere && l->cur && !cd_status_final(l->cur->status) && is_watched(l)) {
        cd_nodes_reload(l->core, cd_live_id(l)); /* its sockets must hear of the end */
        cd_live_retire(l);
    } else if (l->busy || l->n_jobs || l->flush_queued ||
        (l->core->outbox && cd_outbox_pending(l->core->outbox, cd_live_id(l))))
        cd_live_retire(l);
    else
        cd_live_unlink(l);
}

void cd_live_retire(struct cd_live *l)
{
    if (!l->gone)
        cd_timer_set(l->core->loop, &l->evict, RETIRE_MS, evict, l);
}

static void forget_again(void *arg)
{
    cd_live_forget(arg);
}

void cd_live_forget(struct cd_live *l)
{
    if (l->gone)
        return;
    if (l->busy || l->n_jobs || l->flush_queued)
        cd_timer_set(l->core->loop, &l->evict, FORGET_MS, forget_again, l);
    else
        cd_live_unlink(l);
}

/* --- the log -------------------------------------------------------------------------------------- */

/* Make room for one more entry of n bytes: the oldest entry goes, the first SDPs stay. */
static void make_room(struct cd_live *l, size_t n)
{
    const struct cd_conf *f = l->core->conf;
    size_t seats = cd_live_call(l)->n_participants;
    size_t messages = seats * (size_t)f->limits.buffered_signals, bytes = seats * (size_t)f->limits.buffered_bytes;

    while (l->n_log && (l->n_log >= messages || l->log_bytes + n > bytes)) {
        size_t i = 0;

        while (i < l->n_log && (i + 1 == l->first_offer || i + 1 == l->first_answer))
            i++;
        if (i == l->n_log)
            return;
        l->log_bytes -= l->log[i].payload_n;
        l->n_unwritten -= l->log[i].signal && !l->log[i].written;
        log_entry_done(&l->log[i]);
        memmove(&l->log[i], &l->log[i + 1], (l->n_log - i - 1) * sizeof(l->log[0]));
        l->n_log--;
        if (l->first_offer > i + 1)
            l->first_offer--;
        if (l->first_answer > i + 1)
            l->first_answer--;
    }
}

struct cd_log_entry *cd_live_log(struct cd_live *l, uint64_t seq, const char *event, char *payload,
                                 size_t payload_n)
{
    make_room(l, payload_n);
    if (l->n_log == l->log_cap) {
        size_t cap = l->log_cap ? l->log_cap * 2 : 8;
        struct cd_log_entry *grown = realloc(l->log, cap * sizeof(*grown));

        if (!grown) {
            free(payload);
            return NULL;
        }
        l->log = grown;
        l->log_cap = cap;
    }
    /* in the order of numbers: a transition takes its number before its commit, signals overtake it */
    size_t at = l->n_log++;
    for (; at > 0 && l->log[at - 1].seq > seq; at--)
        l->log[at] = l->log[at - 1];
    if (l->first_offer > at)
        l->first_offer++;
    if (l->first_answer > at)
        l->first_answer++;
    struct cd_log_entry *e = &l->log[at];
    *e = (struct cd_log_entry){.seq = seq, .payload = payload, .payload_n = payload_n};
    size_t n = strlen(event);
    memcpy(e->event, event, n < sizeof(e->event) ? n : sizeof(e->event) - 1);
    l->log_bytes += payload_n;
    cd_budget_take(CD_BUDGET_REPLAY, payload_n);
    return e;
}

void cd_log_record(struct cd_live *live, uint64_t seq, const char *event, struct cd_str payload,
                   const char *from_user)
{
    char *copy = payload.n ? malloc(payload.n + 1) : NULL;
    char *from = from_user ? strdup(from_user) : NULL;
    struct cd_log_entry *e = NULL;

    if (copy && (from || !from_user)) {
        memcpy(copy, payload.p, payload.n);
        copy[payload.n] = '\0';
        e = cd_live_log(live, seq, event, copy, payload.n);
        copy = NULL;
    }
    if (!e) {
        cd_log(CD_LOG_WARN, "live", "record.lost", &(struct cd_log_ctx){.call_id = live->id},
               "out of memory: who joins later will not be told of %s", event);
        free(copy);
        free(from);
        return;
    }
    e->written = true;
    e->from_user = from;
}

uint64_t cd_take_seq(struct cd_live *live)
{
    return ++live->seq;
}

/* --- finding -------------------------------------------------------------------------------------- */

struct cd_live *cd_live_get(struct cd_core *core, const char *call_id)
{
    return cd_map_get(&core->calls, cd_str_of(call_id));
}

struct cd_live *cd_live_get_mx(struct cd_core *core, const char *room_id, const char *mx_call_id)
{
    char key[MX_KEY_MAX];

    return mx_key_of(key, room_id, mx_call_id) ? cd_map_get(&core->mx_calls, cd_str_of(key)) : NULL;
}

struct cd_live *cd_live_next(struct cd_core *core, size_t *pos)
{
    return cd_map_next(&core->calls, pos);
}

int cd_live_seat_of(const struct cd_live *l, const char *user)
{
    const struct cd_call *c = cd_live_call(l);

    for (size_t i = 0; user && i < c->n_participants; i++)
        if (strcmp(c->participants[i].user_id, user) == 0)
            return (int)i;
    return -1;
}

struct finder {
    struct cd_core *core;
    cd_live_fn fn;
    void *arg;
};

static void on_loaded(void *arg, enum cd_store_rc rc, struct cd_stored_call *sc)
{
    struct finder f = *(struct finder *)arg;
    struct cd_live *l = NULL;

    free(arg);
    if (rc == CD_STORE_OK && sc) {
        l = cd_live_get(f.core, sc->call->id); /* somebody else may have loaded it meanwhile */
        if (l && l->elsewhere && l->cur)
            cd_nodes_adopt(l, sc);
        else if (l)
            cd_stored_call_free(sc);
        else
            l = sc->elsewhere && !cd_status_final(sc->call->status) ? cd_restore_one(f.core, sc)
                                                                    : cd_live_restore(f.core, sc);
        f.fn(f.arg, l ? CD_OK : CD_E_NO_MEMORY, l);
        return;
    }
    f.fn(f.arg, rc == CD_STORE_OK ? CD_E_NOT_FOUND : CD_E_OVERLOADED, NULL);
}

static struct finder *finder_new(struct cd_core *core, cd_live_fn fn, void *arg)
{
    struct finder *f = malloc(sizeof(*f));

    if (f)
        *f = (struct finder){core, fn, arg};
    else
        fn(arg, CD_E_NO_MEMORY, NULL);
    return f;
}

/* What another daemon owns may have moved on there. */
static bool is_known(const struct cd_live *l)
{
    return !l->elsewhere || l->busy || cd_status_final(cd_live_call(l)->status);
}

void cd_live_find(struct cd_core *core, const char *call_id, cd_live_fn fn, void *arg)
{
    struct cd_live *l = cd_live_get(core, call_id);

    if (l && is_known(l)) {
        fn(arg, CD_OK, l);
        return;
    }
    struct finder *f = finder_new(core, fn, arg);
    if (f)
        core->store->ops->load_call(core->store, call_id, on_loaded, f);
}

void cd_live_find_mx(struct cd_core *core, const char *room_id, const char *mx_call_id, cd_live_fn fn,
                     void *arg)
{
    struct cd_live *l = cd_live_get_mx(core, room_id, mx_call_id);

    if (l && is_known(l)) {
        fn(arg, CD_OK, l);
        return;
    }
    struct finder *f = finder_new(core, fn, arg);
    if (f)
        core->store->ops->load_by_matrix(core->store, room_id, mx_call_id, on_loaded, f);
}

/* --- restoring ------------------------------------------------------------------------------------ */

/* A signal row as the socket payload it once was. */
static void restore_signal(struct cd_live *l, const struct cd_signal_row *r)
{
    struct cd_buf b;
    size_t body_at, n;

    cd_buf_init(&b, 256 * 1024);
    cd_buf_adds(&b, "{\"callId\":");
    cd_buf_add_jsons(&b, cd_live_id(l));
    cd_buf_addf(&b, ",\"seq\":%llu,\"from\":", (unsigned long long)r->seq);
    cd_buf_add_jsons(&b, r->from_user);
    cd_buf_adds(&b, ",\"fromParty\":");
    cd_buf_add_jsons(&b, r->from_party);
    cd_buf_addc(&b, ',');
    body_at = b.n;
    struct cd_str body = cd_str_trim(cd_str_of(r->payload));
    if (body.n >= 2) /* stored as an object: its members go in */
        cd_buf_add(&b, body.p + 1, body.n - 2);
    size_t body_n = b.n - body_at;
    cd_buf_addc(&b, '}');
    char *payload = cd_buf_steal(&b, &n);
    struct cd_log_entry *e = payload ? cd_live_log(l, r->seq, r->kind, payload, n) : NULL;
    if (!e)
        return;
    e->signal = e->written = true;
    e->body_at = body_at;
    e->body_n = body_n;
    e->from_user = r->from_user ? strdup(r->from_user) : NULL;
    e->from_party = r->from_party ? strdup(r->from_party) : NULL;
    e->to = r->to ? strdup(r->to) : NULL;
    size_t place = (size_t)(e - l->log) + 1;
    if (strcmp(r->kind, "webrtc-offer") == 0 && !l->first_offer)
        l->first_offer = place;
    if (strcmp(r->kind, "webrtc-answer") == 0 && !l->first_answer)
        l->first_answer = place;
}

static bool has_signal(const struct cd_live *l, uint64_t seq)
{
    for (size_t i = 0; i < l->n_log; i++)
        if (l->log[i].seq == seq)
            return true;
    return false;
}

void cd_live_merge(struct cd_live *l, const struct cd_stored_call *sc)
{
    for (size_t i = 0; i < sc->n_signals; i++) {
        if (!has_signal(l, sc->signals[i].seq))
            restore_signal(l, &sc->signals[i]);
        if (sc->signals[i].seq > l->seq)
            l->seq = sc->signals[i].seq;
    }
    for (size_t i = 0; i < sc->n_events; i++)
        if (sc->events[i].seq > l->seq)
            l->seq = sc->events[i].seq;
}

struct cd_live *cd_live_restore(struct cd_core *core, struct cd_stored_call *sc)
{
    struct cd_call *call = sc->call;

    sc->call = NULL;
    struct cd_live *l = cd_live_new(core, call, false);
    if (l) {
        l->elsewhere = sc->elsewhere;
        cd_live_merge(l, sc);
        cd_records_restore(l, sc->events, sc->n_events);
        if (cd_status_final(l->cur->status) || l->elsewhere)
            cd_live_retire(l);
        if (!cd_status_final(l->cur->status))
            l->seq += SEQ_GAP;
    }
    cd_stored_call_free(sc);
    return l;
}

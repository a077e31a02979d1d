/* flow.c -- carries a command through: decide, write, commit, reply, fan out.
 *
 * In: commands from REST, sockets, Matrix and timers. Out: answers and the modules' after_commit, both
 * only once the store says it is durable. Order: one commit a call is in flight; later commands of that
 * call wait and decide on what it left. Blocks: never. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "live.h"
#include "nodes.h"

#define MAX_JOBS 64   /* commands of one call that may wait */
#define MAX_SWITCHES 5000 /* transitions of a call after which it can only move on, not be switched */
#define MAX_RETRIES 4 /* lost races with another daemon before giving up */

struct cd_job {
    struct cd_job *next;
    struct cd_live *live;
    struct cd_cmd cmd; /* strings are owned copies */
    char *user, *client, *party_id;
    bool has_hash, creating;
    uint8_t mx_hash[16];
    struct cd_idem_row *idem;
    cd_cmd_fn fn;
    void *arg;
    unsigned tries;
    bool rebase;   /* the stored row is older than what was committed, or gone: */
    uint64_t base; /* its version; 0: gone */
    struct cd_call *next_state; /* while its commit is in flight */
    struct cd_change *change;   /* the same; owned by the store */
};

static void run_next(struct cd_live *l);

static void job_free(struct cd_job *j)
{
    free(j->user);
    free(j->client);
    free(j->party_id);
    cd_idem_row_free(j->idem);
    cd_call_free(j->next_state);
    free(j);
}

static char *dup_or_null(const char *s, bool *ok)
{
    char *copy = s ? strdup(s) : NULL;

    if (s && !copy)
        *ok = false;
    return copy;
}

static struct cd_job *job_new(struct cd_live *l, const struct cd_cmd *cmd, const struct cd_extra *extra,
                              cd_cmd_fn fn, void *arg)
{
    struct cd_job *j = calloc(1, sizeof(*j));
    bool ok = true;

    if (!j) {
        if (extra)
            cd_idem_row_free(extra->idem);
        return NULL;
    }
    j->live = l;
    j->fn = fn;
    j->arg = arg;
    j->cmd = *cmd;
    j->cmd.user = j->user = dup_or_null(cmd->user, &ok);
    j->cmd.client = j->client = dup_or_null(cmd->client, &ok);
    j->cmd.party_id = j->party_id = dup_or_null(cmd->party_id, &ok);
    if (extra) {
        j->idem = extra->idem;
        j->has_hash = extra->mx_hash != NULL;
        if (extra->mx_hash)
            memcpy(j->mx_hash, extra->mx_hash, sizeof(j->mx_hash));
    }
    if (ok)
        return j;
    job_free(j);
    return NULL;
}

/* Tell the one who asked, then forget the job. */
static void finish_job(struct cd_job *j, struct cd_result *res)
{
    res->live = j->live;
    if (res->rc != CD_OK && res->err.rc != res->rc)
        cd_fail(&res->err, res->rc, NULL);
    if (j->fn)
        j->fn(j->arg, res);
    job_free(j);
}

static void fail_job(struct cd_job *j, enum cd_rc rc, const char *text)
{
    struct cd_result res = {.rc = rc};

    cd_fail(&res.err, rc, "%s", text ? text : cd_rc_text(rc));
    finish_job(j, &res);
}

enum cd_rc cd_fail_state(struct cd_err *err, const struct cd_call *c)
{
    const char *reason = cd_reason_name(c->end_reason);

    cd_fail(err, CD_E_INVALID_STATE, "The call is %s; this is not possible now.", cd_status_name(c->status));
    if (err)
        snprintf(err->extra, sizeof(err->extra), "\"status\":\"%s\",\"endReason\":%s%s%s",
                 cd_status_name(c->status), reason ? "\"" : "", reason ? reason : "null", reason ? "\"" : "");
    return CD_E_INVALID_STATE;
}

static void refuse_job(struct cd_job *j)
{
    const struct cd_call *c = cd_live_call(j->live);
    struct cd_result res = {.rc = CD_E_INVALID_STATE};

    if (j->cmd.source == CD_S_REST || j->cmd.source == CD_S_SOCKET)
        j->live->core->counts.refused++;
    else
        j->live->core->counts.ignored++;
    cd_fail_state(&res.err, c);
    finish_job(j, &res);
}

/* What a toggle was set to, for those who read of it after a restart; "" for other commands. */
static const char *toggled_to(const struct cd_call *next, const struct cd_cmd *cmd)
{
    const struct cd_participant *p = cmd->user ? cd_call_participant_const(next, cmd->user) : NULL;
    bool on = false;

    if (p && cmd->ev == CD_EV_TOGGLE_AUDIO)
        on = p->audio_enabled;
    else if (p && cmd->ev == CD_EV_TOGGLE_VIDEO)
        on = p->video_enabled;
    else if (p && cmd->ev == CD_EV_TOGGLE_SCREEN)
        on = p->screen_sharing;
    else
        return "";
    return on ? ",\"enabled\":true" : ",\"enabled\":false";
}

static const char *event_data(const struct cd_call *next, const struct cd_cmd *cmd, char *buf, size_t size)
{
    const char *reason = cd_reason_name(next->end_reason);

    snprintf(buf, size, "{\"status\":\"%s\"%s%s%s%s}", cd_status_name(next->status),
             reason ? ",\"endReason\":\"" : "", reason ? reason : "", reason ? "\"" : "",
             toggled_to(next, cmd));
    return buf;
}

/* The rows that every transition writes; modules add theirs. */
static struct cd_change *build_change(struct cd_job *j, const struct cd_call *prev, struct cd_call *next,
                                      const char *event_type)
{
    struct cd_live *l = j->live;
    struct cd_change *ch = cd_change_new(next->id);
    char data[128];

    if (!ch || l->starved) {
        cd_change_free(ch);
        return NULL;
    }
    ch->call = next;
    ch->expect_version = j->rebase ? j->base : prev ? prev->version : 0;
    if (!cd_change_event(ch, cd_take_seq(l), event_type, j->cmd.user,
                         event_data(next, &j->cmd, data, sizeof(data)), j->cmd.now_ms)) {
        cd_change_free(ch);
        return NULL;
    }
    if (j->has_hash) {
        ch->events[0].has_mx_hash = true;
        memcpy(ch->events[0].mx_hash, j->mx_hash, sizeof(j->mx_hash));
    }
    ch->drop_signals = cd_status_final(next->status);
    ch->elsewhere = l->elsewhere;
    if (j->idem && !(ch->idem = cd_idem_row_copy(j->idem))) { /* the job keeps its own: it may be decided again */
        cd_change_free(ch);
        return NULL;
    }
    size_t n = 0;
    while (cd_modules[n])
        n++;
    while (n-- > 0) /* the last one first: what the first keeps as the answer shows what the others did */
        if (cd_modules[n]->before_commit)
            cd_modules[n]->before_commit(l->core, l, prev, next, &j->cmd, ch);
    if (ch->incomplete) {
        cd_change_free(ch);
        return NULL;
    }
    next->mx_state = l->mx_state; /* a module may have queued the invite just now */
    next->invite_tried = l->invite_tried;
    next->seq = l->seq;
    return ch;
}

static void count_transition(struct cd_core *core, const struct cd_call *c)
{
    core->counts.transitions++;
    if (cd_status_final(c->status))
        core->counts.final_by_status[c->status]++;
}

static void committed(struct cd_job *j)
{
    struct cd_live *l = j->live;
    struct cd_core *core = l->core;
    struct cd_call *prev = l->cur;
    struct cd_change *ch = j->change; /* still alive: the store frees it after this callback */
    struct cd_result res = {.rc = CD_OK, .live = l, .moved = true};

    l->cur = j->next_state;
    j->next_state = NULL;
    if (ch->elsewhere && !l->elsewhere) /* taken from us just now; the way back is a claim's */
        cd_nodes_lose(l);
    l->event_seq = ch->events[0].seq;
    if (j->creating) {
        l->born = NULL;
        core->counts.calls_created++;
        cd_signal_flush_soon(l); /* what was signalled meanwhile waited for the row */
    } else {
        count_transition(core, l->cur);
    }
    if (j->fn)
        j->fn(j->arg, &res);
    for (size_t i = 0; cd_modules[i]; i++)
        if (cd_modules[i]->after_commit)
            cd_modules[i]->after_commit(core, l, prev, &j->cmd, ch);
    cd_call_free(prev);
    job_free(j);
    if (!cd_status_final(l->cur->status))
        return;
    /* only now: the modules have queued what is still to be sent with these tokens */
    for (size_t i = 0; i < l->cur->n_participants; i++)
        cd_tokens_release(core, l->cur->participants[i].user_id);
    cd_live_retire(l);
}

/* Creation failed: nobody ever saw the call. */
static void creation_failed(struct cd_job *j, enum cd_store_rc rc, const char *live_call_id)
{
    struct cd_live *l = j->live;
    struct cd_core *core = l->core;
    struct cd_result res = {.rc = CD_E_OVERLOADED, .live = l};
    char *caller = j->user;

    if (rc == CD_STORE_CALL_EXISTS) {
        res.rc = CD_E_CALL_EXISTS;
        cd_fail(&res.err, res.rc, NULL);
        if (live_call_id)
            snprintf(res.err.extra, sizeof(res.err.extra), "\"callId\":\"%.40s\"", live_call_id);
    } else if (rc == CD_STORE_DUPLICATE) {
        res.rc = CD_OK; /* applied before: nothing to do, nothing to show */
    } else {
        res.key_taken = rc == CD_STORE_LOST_RACE && j->idem;
        cd_fail(&res.err, res.rc, "The call could not be stored; try again.");
    }
    j->next_state = NULL; /* it is l->born, which goes with the live call */
    if (j->fn)
        j->fn(j->arg, &res);
    j->user = NULL; /* kept a little longer */
    job_free(j);
    while (l->jobs) { /* what arrived meanwhile has no call to act on */
        struct cd_job *waiting = l->jobs;
        l->jobs = waiting->next;
        l->n_jobs--;
        fail_job(waiting, CD_E_NOT_FOUND, NULL);
    }
    cd_live_unlink(l);
    if (caller) /* held for a call that never was */
        cd_tokens_release(core, caller);
    free(caller);
}

/* It is decided again, before all others. */
static void put_first(struct cd_job *j)
{
    struct cd_live *l = j->live;

    cd_call_free(j->next_state);
    j->next_state = NULL;
    j->next = l->jobs;
    l->jobs = j;
    if (!j->next)
        l->jobs_tail = &j->next;
    l->n_jobs++;
}

/* The call's row is not there, and another call stands where it belongs: it ends here, and what was asked
 * is decided on that. */
static void outdone(struct cd_job *j)
{
    const struct cd_cmd cmd = {.ev = CD_EV_DISPLACED, .source = CD_S_TIMER, .mx_version = 1,
                               .now_ms = cd_wall_ms()};
    struct cd_job *end = job_new(j->live, &cmd, NULL, NULL, NULL);

    if (!end) {
        fail_job(j, CD_E_NO_MEMORY, NULL);
        return;
    }
    end->rebase = true;
    put_first(j);
    put_first(end);
}

/* Its end cannot be written, because something else bears its name there; it ends all the same. What it
 * would tell the room would be about that. */
static void end_unwritten(struct cd_job *j)
{
    cd_log(CD_LOG_ERROR, "flow", "call.unwritten", &(struct cd_log_ctx){.call_id = cd_live_id(j->live)},
           "the end of a call could not be stored: its row is gone, and another one stands there");
    while (j->change->n_outbox)
        cd_outbox_row_done(&j->change->outbox[--j->change->n_outbox]);
    committed(j);
}

/* Another daemon moved the call: take over what it wrote. Or the database went back in time, as after a
 * failover or from a backup: then what was acknowledged here counts, unless the call is over there. */
static void take_stored(struct cd_job *j, struct cd_stored_call *sc)
{
    struct cd_live *l = j->live;
    bool over = cd_status_final(sc->call->status) && !cd_status_final(l->cur->status);

    if (over && sc->call->version <= l->cur->version)
        sc->call->version = l->cur->version + 1;
    j->rebase = sc->call->version < l->cur->version;
    j->base = sc->call->version;
    cd_nodes_adopt(l, sc);
    put_first(j);
}

/* The row is gone. The owner writes it anew; what others see of it ends, so that it rings for nobody. */
static void take_absence(struct cd_job *j)
{
    struct cd_live *l = j->live;
    bool guest = l->elsewhere && j->cmd.ev != CD_EV_DISPLACED;

    cd_log(CD_LOG_WARN, "flow", "row.gone", &(struct cd_log_ctx){.call_id = cd_live_id(l)},
           "the row of a running call is not in the database any more: %s",
           l->elsewhere ? "the call ends" : "it is written anew");
    l->elsewhere = false;
    if (guest) {
        outdone(j);
        return;
    }
    j->rebase = true;
    j->base = 0;
    put_first(j);
}

static void on_reloaded(void *arg, enum cd_store_rc rc, struct cd_stored_call *sc)
{
    struct cd_job *j = arg;
    struct cd_live *l = j->live;

    l->busy = false;
    if (rc == CD_STORE_OK && sc && sc->call) {
        take_stored(j, sc);
    } else if (rc == CD_STORE_OK && !sc) {
        take_absence(j);
    } else {
        cd_stored_call_free(sc);
        fail_job(j, CD_E_OVERLOADED, "The call could not be read back; try again.");
    }
    run_next(l);
}

static void reload(struct cd_job *j)
{
    struct cd_store *store = j->live->core->store;

    store->ops->load_call(store, cd_live_id(j->live), on_reloaded, j);
}

/* Was the race lost to the same request, at another daemon? Then that one's answer is the answer. */
static void on_key_looked_up(void *arg, enum cd_store_rc rc, const struct cd_idem_row *row)
{
    struct cd_job *j = arg;
    struct cd_live *l = j->live;
    struct cd_result res = {.rc = CD_E_OVERLOADED, .key_taken = true};

    if (rc != CD_STORE_OK || !row) {
        reload(j);
        return;
    }
    l->busy = false;
    finish_job(j, &res);
    run_next(l);
}

static void lost_race(struct cd_job *j)
{
    struct cd_live *l = j->live;
    struct cd_store *store = l->core->store;

    cd_call_free(j->next_state);
    j->next_state = NULL;
    l->busy = true;
    if (j->idem)
        store->ops->idem_get(store, j->idem->user_id, j->idem->key, on_key_looked_up, j);
    else
        reload(j);
}

static void on_committed(void *arg, enum cd_store_rc rc, const char *live_call_id)
{
    struct cd_job *j = arg;
    struct cd_live *l = j->live;

    l->busy = false;
    if (rc == CD_STORE_OK) {
        committed(j);
    } else if (j->creating) {
        creation_failed(j, rc, live_call_id);
        return;
    } else if (rc == CD_STORE_LOST_RACE && ++j->tries < MAX_RETRIES) {
        lost_race(j);
        return;
    } else if (rc == CD_STORE_CALL_EXISTS || (rc == CD_STORE_LOST_RACE && j->rebase && !j->base)) {
        if (j->cmd.ev == CD_EV_DISPLACED)
            end_unwritten(j);
        else
            outdone(j);
    } else if (rc == CD_STORE_DUPLICATE) {
        struct cd_result res = {.rc = CD_OK};
        finish_job(j, &res);
    } else {
        fail_job(j, CD_E_OVERLOADED, "The call could not be stored; try again.");
    }
    run_next(l);
}

static void start_commit(struct cd_job *j, const struct cd_call *prev, struct cd_call *next,
                         const char *event_type)
{
    struct cd_live *l = j->live;

    j->next_state = next;
    j->change = build_change(j, prev, next, event_type);
    l->busy = true;
    if (j->change)
        l->core->store->ops->commit(l->core->store, j->change, on_committed, j);
    else
        on_committed(j, CD_STORE_FULL, NULL);
}

/* Each switch writes a row: a client that toggles for ever must not fill the store, whose cap for a
 * call would then refuse its end, too. */
static bool is_too_much(const struct cd_call *cur, const struct cd_call *next)
{
    return next->version > MAX_SWITCHES && next->status == cur->status;
}

static void run_job(struct cd_job *j)
{
    struct cd_decision d = cd_fsm_decide(j->live->cur, &j->cmd);
    struct cd_result ok = {.rc = CD_OK};

    switch (d.verdict) {
    case CD_V_MOVED:
        if (is_too_much(j->live->cur, d.next)) {
            cd_call_free(d.next);
            fail_job(j, CD_E_INVALID_STATE, "This call has changed too often; end it and start another.");
            break;
        }
        start_commit(j, j->live->cur, d.next, d.event_type);
        break;
    case CD_V_SAME:
        finish_job(j, &ok);
        break;
    case CD_V_REFUSED:
        refuse_job(j);
        break;
    case CD_V_FORBIDDEN:
        fail_job(j, CD_E_FORBIDDEN,
                 cd_call_participant_const(j->live->cur, j->cmd.user)
                     ? "Only the one who was invited can do this."
                     : NULL);
        break;
    case CD_V_NO_MEMORY:
        fail_job(j, CD_E_NO_MEMORY, NULL);
        break;
    }
}

static void run_next(struct cd_live *l)
{
    while (!l->busy && l->jobs && l->cur) {
        struct cd_job *j = l->jobs;

        l->jobs = j->next;
        if (!l->jobs)
            l->jobs_tail = &l->jobs;
        l->n_jobs--;
        j->next = NULL;
        run_job(j);
    }
    cd_live_maybe_free(l);
}

void cd_submit(struct cd_core *core, struct cd_live *live, const struct cd_cmd *cmd,
               const struct cd_extra *extra, cd_cmd_fn fn, void *arg)
{
    struct cd_job *j = job_new(live, cmd, extra, fn, arg);
    struct cd_result res = {.rc = CD_E_NO_MEMORY, .live = live};

    (void)core;
    if (j && live->n_jobs >= MAX_JOBS) {
        fail_job(j, CD_E_OVERLOADED, "Too many commands wait for this call.");
        return;
    }
    if (!j) {
        cd_fail(&res.err, res.rc, NULL);
        if (fn)
            fn(arg, &res);
        return;
    }
    *live->jobs_tail = j;
    live->jobs_tail = &j->next;
    live->n_jobs++;
    run_next(live);
}

struct cd_live *cd_create(struct cd_core *core, struct cd_call *born, const struct cd_extra *extra,
                          cd_cmd_fn fn, void *arg)
{
    struct cd_cmd cmd = {.ev = CD_EV_COUNT, .source = CD_S_REST, .user = born->caller,
                         .now_ms = born->initiated_at, .mx_version = 1};
    if (born->origin == CD_O_MATRIX)
        cmd.source = CD_S_MATRIX;
    else if (born->origin == CD_O_SOCKET)
        cmd.source = CD_S_SOCKET;
    struct cd_live *l = cd_live_new(core, born, true);
    struct cd_job *j = l ? job_new(l, &cmd, extra, fn, arg) : NULL;
    if (!j) {
        struct cd_result res = {.rc = CD_E_NO_MEMORY};
        if (!l && extra)
            cd_idem_row_free(extra->idem);
        if (l)
            cd_live_unlink(l);
        cd_fail(&res.err, res.rc, NULL);
        fn(arg, &res);
        return NULL;
    }
    j->creating = true;
    born->version = 1;
    l->busy = true;
    j->next_state = born;
    /* the caller may attach signals (an offer) before the rows are built */
    if (cd_loop_defer(core->loop, cd_flow_start_creation, j) == 0)
        return l;
    on_committed(j, CD_STORE_FULL, NULL);
    return NULL;
}

void cd_flow_start_creation(void *arg)
{
    struct cd_job *j = arg;
    struct cd_call *born = j->next_state;

    start_commit(j, NULL, born, "initiated");
}

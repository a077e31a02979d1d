/* timers.c -- the clocks of a call: ring time, longest duration, nobody there, connection inferred.
 *
 * In: committed transitions. Out: commands of the daemon's own, judged by the same table as all others. */
#include <stdlib.h>

#include "base/clock.h"
#include "calls.h"

#define INFER_MS (30 * 1000)
#define AGAIN_MS (5 * 1000) /* the store took it not: a call must not ring, or hold its pair, for ever */

/** What to do when a command of the daemon's own could not be stored. */
struct own {
    struct cd_timer *t;
    void (*again)(void *arg);
    void *arg;
};

static void own_done(void *arg, const struct cd_result *res)
{
    struct own *o = arg;
    const struct cd_live *l = res->live;
    bool failed = res->rc == CD_E_OVERLOADED || res->rc == CD_E_NO_MEMORY;

    if (o && failed && !l->gone && !o->t->due_ms && !cd_status_final(cd_live_call(l)->status))
        cd_timer_set(l->core->loop, o->t, AGAIN_MS, o->again, o->arg);
    free(o);
}

void calls_submit_own(struct cd_live *l, enum cd_ev ev, const char *user, struct cd_timer *t,
                      void (*again)(void *arg), void *arg)
{
    struct cd_cmd cmd = {.ev = ev, .source = CD_S_TIMER, .user = user, .mx_version = 1, .now_ms = cd_wall_ms()};
    struct own *o = malloc(sizeof(*o));

    if (o)
        *o = (struct own){t, again, arg};
    cd_submit(l->core, l, &cmd, NULL, own_done, o);
}

static void ring_over(void *arg)
{
    struct cd_live *l = arg;

    calls_submit_own(l, CD_EV_RING_TIMEOUT, NULL, &l->ring, ring_over, l);
}

static void too_long(void *arg)
{
    struct cd_live *l = arg;

    calls_submit_own(l, CD_EV_MAX_MINUTES, NULL, &l->max_age, too_long, l);
}

static int64_t patience_ms(const struct cd_core *core)
{
    return core->conf->calls.unattended_seconds * 1000;
}

/* Nobody on a socket, nobody on Matrix, no request for a while. */
static bool attended(const struct cd_live *l)
{
    const struct cd_call *c = l->cur;

    for (size_t i = 0; i < c->n_participants; i++)
        if (l->seats[i].sock_id || l->seats[i].grace.due_ms ||
            (c->participants[i].side == CD_SIDE_MATRIX && c->participants[i].state == CD_P_JOINED))
            return true;
    return cd_mono_ms() - l->touched_ms < patience_ms(l->core);
}

static void look_after(void *arg)
{
    struct cd_live *l = arg;

    if (attended(l))
        cd_timer_set(l->core->loop, &l->unattended, patience_ms(l->core) / 4, look_after, l);
    else
        calls_submit_own(l, CD_EV_UNATTENDED, NULL, &l->unattended, look_after, l);
}

/* Clients that never say "connected" but sit there half a minute after the answer are. */
static void infer_connected(void *arg)
{
    struct cd_live *l = arg;
    unsigned held = 0;

    for (size_t i = 0; i < l->cur->n_participants; i++)
        held += l->seats[i].sock_id != 0;
    if (held >= 2)
        calls_submit_own(l, CD_EV_CONNECTED, NULL, &l->infer, infer_connected, l);
}

static void arm(struct cd_live *l, struct cd_timer *t, int64_t at_wall_ms, void (*fn)(void *arg))
{
    int64_t delay = at_wall_ms - cd_wall_ms();

    /* one more: both clocks are cut to milliseconds, and a call must never ring too short */
    cd_timer_set(l->core->loop, t, delay > 0 ? delay + 1 : 0, fn, l);
}

void calls_timers(struct cd_core *core, struct cd_live *l, const struct cd_call *prev)
{
    const struct cd_call *c = l->cur;

    if (cd_status_final(c->status) || l->elsewhere) {
        cd_timer_cancel(core->loop, &l->ring);
        cd_timer_cancel(core->loop, &l->max_age);
        cd_timer_cancel(core->loop, &l->unattended);
        cd_timer_cancel(core->loop, &l->infer);
        return;
    }
    if (c->status == CD_RINGING) {
        arm(l, &l->ring, c->ring_expires_at, ring_over);
        return;
    }
    cd_timer_cancel(core->loop, &l->ring);
    if (prev && prev->status == c->status)
        return;
    arm(l, &l->max_age, c->initiated_at + core->conf->calls.max_minutes * 60000, too_long);
    if (c->status == CD_ACCEPTED) {
        cd_timer_set(core->loop, &l->unattended, patience_ms(core), look_after, l);
        cd_timer_set(core->loop, &l->infer, INFER_MS, infer_connected, l);
    } else {
        cd_timer_cancel(core->loop, &l->unattended);
        cd_timer_cancel(core->loop, &l->infer);
    }
}

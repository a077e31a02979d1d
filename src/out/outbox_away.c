/* outbox_away.c -- the homeserver is away: one request at a time asks whether it is back.
 * In: answers, and their absence.  Out: may a request begin.
 * Why: with a back-off a user alone, a thousand waiting users would all knock, and none at the moment
 * it is back. Each user backs off as well, so that probes go through different rooms: one that
 * always hangs must not hold up the rest.
 * State: in struct cd_outbox.  Owns: its timer.  Blocks: never. */
#include "base/clock.h"
#include "base/log.h"
#include "base/secret.h"
#include "out/outbox_int.h"

#define BACKOFF_FIRST_MS 1000
#define BACKOFF_MAX_MS 15000
#define LISTEN_MS 1000 /* others may have reached it meanwhile */

int64_t cd_ob_back_off_ms(unsigned failures)
{
    int64_t wait_ms = failures < 4 ? (int64_t)BACKOFF_FIRST_MS << failures : BACKOFF_MAX_MS;
    uint32_t x;

    cd_random(&x, sizeof(x));
    return wait_ms + (int64_t)x % (wait_ms / 4);
}

bool cd_ob_gate_open(const struct cd_outbox *o)
{
    return !o->away || (!o->probing && cd_mono_ms() >= o->away_until_ms);
}

void cd_ob_attempt_begins(struct cd_outbox *o, struct cd_ob_user *u)
{
    u->began_ms = cd_mono_ms();
    u->probing = o->away;
    o->probing = o->probing || o->away;
}

static void wake_all(struct cd_outbox *o, bool forgive)
{
    struct cd_ob_user *u;
    size_t pos = 0;

    while ((u = cd_map_next(&o->users, &pos))) {
        if (forgive && u->failures > 0) {
            u->failures = 0;
            u->blocked_until_ms = 0;
        }
        cd_ob_wake(o, u);
    }
}

static void on_probe_time(void *arg)
{
    struct cd_outbox *o = arg;
    int64_t left = o->away_until_ms - cd_mono_ms();
    bool heard = cd_fetch_reachable(o->pool);

    if (!o->away || o->probing)
        return;
    if (left > 0 && !heard) {
        cd_timer_set(o->loop, &o->probe, left < LISTEN_MS ? left : LISTEN_MS, on_probe_time, o);
        return;
    }
    o->away_until_ms = 0;
    wake_all(o, heard);
}

/* Also of a probe that was taken back: somebody else has to ask. */
void cd_ob_attempt_ends(struct cd_outbox *o, struct cd_ob_user *u)
{
    if (u->probing) {
        o->probing = false;
        cd_timer_set(o->loop, &o->probe, 0, on_probe_time, o);
    }
    u->probing = false;
}

static void reached(struct cd_outbox *o)
{
    o->reached_ms = cd_mono_ms();
    if (!o->away)
        return;
    cd_log(CD_LOG_INFO, "outbox", "homeserver.back", NULL, "the homeserver answers: %zu events waited",
           o->stats.waiting);
    o->away = false;
    o->away_failures = 0;
    cd_timer_cancel(o->loop, &o->probe);
    wake_all(o, true);
}

static void missed(struct cd_outbox *o)
{
    int64_t wait_ms = cd_ob_back_off_ms(o->away_failures++);

    if (!o->away)
        cd_log(CD_LOG_WARN, "outbox", "homeserver.away", NULL,
               "the homeserver does not answer: %zu events wait", o->stats.waiting);
    o->away = true;
    o->away_until_ms = cd_mono_ms() + wait_ms;
    cd_timer_set(o->loop, &o->probe, wait_ms < LISTEN_MS ? wait_ms : LISTEN_MS, on_probe_time, o);
}

void cd_ob_judge(struct cd_outbox *o, const struct cd_ob_user *u, const struct cd_fetch_res *res)
{
    bool gone = res->status == 0 ? !res->too_large : res->status >= 502 && res->status <= 504;
    /* on its way when another was answered, or when another had missed it already */
    bool is_old = u->began_ms < o->reached_ms || cd_mono_ms() < o->away_until_ms;

    if (!gone && res->status < 500)
        reached(o);
    else if ((gone || o->away) && !o->probing && !is_old)
        missed(o);
}

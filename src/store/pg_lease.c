/* pg_lease.c -- several daemons on one database: who acts for which call.
 * In: time, each committed batch, notifications. Out: heartbeats, claims, what the watch is told.
 * Why: a call's owner alone arms its timers and sends its outbox rows. The lease belongs to the owner, not
 *      to its rows: store_writers.seen_at, which every transaction renews. Whoever claims the calls of an
 *      owner that was not seen for 30 s raises its epoch in the same statement: then either its next
 *      transaction fails and it finds out, or that came first and it was seen.
 * State: struct pg_lease of the store. Owns: nothing more. Blocks: never. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "store/pg.h"

#define LEASE_MS 30000 /* as in the statement that claims */
#define ACT_MS 25000   /* we act no longer than this after we were seen: clocks and requests take time */
#define BEAT_MS 10000
#define PRESENCE_MS (5 * 60 * 1000) /* with nothing to lose: so that others know that we are there */
#define CLAIM_MS 3000
#define SETTLE_MS 10000 /* when a database comes back, all its daemons get the time to say so */
#define STALL_MS 10000  /* a loop that stood still this long may have been taken for dead */

/* --- renewing --------------------------------------------------------------------------------- */

static bool is_writing(const struct pg_store *s)
{
    return s->phase != PG_DOWN && s->phase != PG_PREPARE;
}

void pg_lease_renewed(struct pg_store *s)
{
    struct pg_lease *l = &s->lease;

    l->renewed_ms = s->sent_ms;
    if (l->stalled && s->sent_ms >= l->stalled_ms)
        l->stalled = false;
}

static void asked(void *arg, enum cd_store_rc rc)
{
    struct pg_store *s = arg;

    (void)rc;
    s->lease.asking = false;
}

static void claimed(void *arg, enum cd_store_rc rc);

/* One transaction: it renews the lease, and looks for others. */
static void ask(struct pg_store *s, bool claim)
{
    if (s->lease.asking)
        return;
    s->lease.asking = pg_submit_plain(s, claim ? PG_OP_CLAIM : PG_OP_PEERS, claim ? claimed : asked);
}

void pg_lease_tick(struct pg_store *s, int64_t now)
{
    struct pg_lease *l = &s->lease;
    bool holds = l->watch.holds && l->watch.holds(l->arg);

    if (l->ticked_ms && now - l->ticked_ms > STALL_MS) {
        l->stalled = true;
        l->stalled_ms = now;
    }
    l->ticked_ms = now;
    if (!is_writing(s) || l->left)
        return;
    if (l->deaf && l->watch.resync) {
        l->deaf = false;
        l->watch.resync(l->arg, false);
    }
    if (l->peers && l->watch.taken && now - l->up_ms > SETTLE_MS && now - l->claimed_ms >= CLAIM_MS) {
        l->claimed_ms = now;
        ask(s, true);
    } else if (l->stalled || now - l->renewed_ms >= (holds ? BEAT_MS : PRESENCE_MS)) {
        ask(s, false);
    }
}

bool pg_may_act(const struct cd_store *b, const char *call_id)
{
    const struct pg_store *s = (const struct pg_store *)(const void *)b;
    const struct pg_lease *l = &s->lease;
    int64_t now = cd_mono_ms();
    bool alone_and_away = s->phase == PG_DOWN && !l->peers; /* a lost database must not stop calls */

    (void)call_id;
    if (l->left || now - l->ticked_ms > STALL_MS)
        return false;
    if (l->stalled && !alone_and_away)
        return false;
    return !l->peers || now - l->renewed_ms < ACT_MS;
}

/* --- claiming --------------------------------------------------------------------------------- */

void pg_take_claim(struct pg_store *s, const PGresult *res)
{
    struct pg_lease *l = &s->lease;

    free(l->ids);
    l->ids = PQgetisnull(res, 0, 0) ? NULL : strdup(PQgetvalue(res, 0, 0));
    l->n_ids = strtoull(PQgetvalue(res, 0, 1), NULL, 10);
}

void pg_take_peers(struct pg_store *s, const PGresult *res)
{
    unsigned n = (unsigned)strtoul(PQgetvalue(res, 0, 0), NULL, 10);

    if (n != s->lease.peers)
        cd_log(CD_LOG_INFO, "store", "lease.peers", NULL, "%u other daemons on this database", n);
    s->lease.peers = n;
}

static void on_taken(void *arg, enum cd_store_rc rc, struct cd_stored_call **calls, size_t n)
{
    struct pg_store *s = arg;

    if (rc == CD_STORE_OK)
        s->lease.watch.taken(s->lease.arg, calls, n);
    else /* they are ours, and nobody acts for them: read all that is ours again */
        s->lease.deaf = true;
}

static void claimed(void *arg, enum cd_store_rc rc)
{
    struct pg_store *s = arg;
    struct pg_lease *l = &s->lease;
    char *ids = rc == CD_STORE_OK ? l->ids : NULL;
    size_t n_loads = l->n_loads;

    l->asking = false;
    if (ids) {
        s->stats.calls_taken += l->n_ids;
        cd_log(CD_LOG_WARN, "store", "lease.taken", NULL, "%zu calls of a daemon that is gone are ours now",
               (size_t)l->n_ids);
    }
    l->n_loads = 0; /* they read everything that is ours, what was claimed just now as well */
    for (size_t i = 0; i < n_loads; i++)
        pg_read_live(s, rc, l->loads[i].fn, l->loads[i].arg);
    if (ids && n_loads == 0 && l->watch.taken)
        pg_read_ids(s, ids, on_taken, s);
    l->deaf = l->deaf || (rc == CD_STORE_OK && !ids && l->n_ids > 0); /* there was no memory for their list */
    free(l->ids);
    l->ids = NULL;
    l->n_ids = 0;
}

void pg_load_live(struct cd_store *b, cd_load_all_fn fn, void *arg)
{
    struct pg_store *s = pg_of(b);
    struct pg_lease *l = &s->lease;

    if (l->n_loads == PG_LOADS_MAX) {
        pg_read_live(s, CD_STORE_FULL, fn, arg);
        return;
    }
    l->loads[l->n_loads].fn = fn;
    l->loads[l->n_loads++].arg = arg;
    if (!pg_submit_plain(s, PG_OP_CLAIM, claimed)) {
        l->n_loads--;
        pg_read_live(s, CD_STORE_FULL, fn, arg);
    }
}

/* --- being told ------------------------------------------------------------------------------- */

/* The write connection stands. */
void pg_lease_up(struct pg_store *s, bool robbed)
{
    struct pg_lease *l = &s->lease;
    bool resync = robbed || l->deaf;

    l->up_ms = cd_mono_ms();
    l->asking = false;
    pg_lease_renewed(s);
    if (robbed)
        cd_log(CD_LOG_WARN, "store", "lease.lost", NULL,
               "another daemon took over what this one held: it was not seen for %d s", LEASE_MS / 1000);
    l->deaf = false;
    if (resync && l->watch.resync)
        l->watch.resync(l->arg, robbed);
}

void pg_lease_heard(struct pg_store *s, const char *channel, const char *payload)
{
    struct pg_lease *l = &s->lease;

    if (strcmp(channel, CD_NODES_CHANNEL) != 0) {
        if (l->watch.touched)
            l->watch.touched(l->arg, payload);
    } else if (strncmp(payload, CD_NODES_FORGET, sizeof(CD_NODES_FORGET) - 1) == 0) {
        if (l->watch.forget)
            l->watch.forget(l->arg, payload + sizeof(CD_NODES_FORGET) - 1);
    } else if (strcmp(payload, s->owner) != 0 && is_writing(s)) {
        ask(s, false);
    }
}

/* The read connection was away: what others said meanwhile was not heard. */
void pg_lease_missed(struct pg_store *s)
{
    if (s->lease.peers && s->lease.watch.resync)
        s->lease.watch.resync(s->lease.arg, false);
}

void pg_watch(struct cd_store *b, const struct cd_store_watch *w, void *arg)
{
    struct pg_lease *l = &pg_of(b)->lease;

    l->watch = *w;
    l->arg = arg;
}

void pg_leave(struct cd_store *b, cd_done_fn fn, void *arg)
{
    struct pg_store *s = pg_of(b);

    s->lease.left = true;
    pg_submit_leave(s, fn, arg);
}

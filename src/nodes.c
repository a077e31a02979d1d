/* nodes.c -- calls that several daemons on one database share.
 *
 * In: what the store hears of other daemons. Out: calls restored, moved, or no longer acted for.
 * Why: any daemon may take a command for any call; it is decided and written there, under the same
 * compare-and-swap. But only the owner arms timers and sends outbox rows, so that none is doubled and
 * their order within the call stays in one place. Owns: nothing. Blocks: never. */
#include "nodes.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "live.h"
#include "restore.h"

#define AGAIN_MS 2000 /* after a read that failed */

static void tell_restored(struct cd_live *l, const struct cd_outbox_row *rows, size_t n)
{
    for (size_t i = 0; i < l->cur->n_participants; i++)
        cd_tokens_restore(l->core, l->cur->participants[i].user_id);
    for (size_t i = 0; cd_modules[i]; i++)
        if (cd_modules[i]->on_restored)
            cd_modules[i]->on_restored(l->core, l, rows, n);
}

/* --- whose is it? --------------------------------------------------------------------------------- */

void cd_nodes_lose(struct cd_live *l)
{
    struct cd_loop *loop = l->core->loop;

    l->elsewhere = true;
    cd_timer_cancel(loop, &l->ring);
    cd_timer_cancel(loop, &l->max_age);
    cd_timer_cancel(loop, &l->unattended);
    cd_timer_cancel(loop, &l->infer);
    if (l->core->outbox)
        cd_outbox_forget(l->core->outbox, cd_live_id(l));
    cd_live_retire(l);
}

/* Signals move no call: what was said of another daemon's is read with each look at it, and when it becomes ours. */
static void take_progress(struct cd_live *l, const struct cd_stored_call *sc)
{
    l->invite_tried = l->invite_tried || sc->call->invite_tried;
    if ((l->elsewhere || sc->elsewhere) && !cd_status_final(l->cur->status))
        cd_live_merge(l, sc);
}

/* @return the state before, to be freed; NULL: it did not change */
static struct cd_call *take_state(struct cd_live *l, struct cd_stored_call *sc)
{
    struct cd_call *prev = l->cur;

    if (l->busy || !prev || sc->call->version < prev->version)
        return NULL;
    if (sc->call->version == prev->version) {
        take_progress(l, sc);
        return NULL;
    }
    l->cur = sc->call;
    sc->call = NULL;
    l->mx_state = l->cur->mx_state;
    l->invite_tried = l->invite_tried || l->cur->invite_tried;
    cd_live_merge(l, sc);
    if (l->cur->seq > l->seq)
        l->seq = l->cur->seq;
    l->event_seq = cd_take_seq(l);
    return prev;
}

static void tell_moved(struct cd_live *l, const struct cd_call *prev, const struct cd_stored_call *sc)
{
    for (size_t i = 0; prev && !l->elsewhere && i < l->cur->n_participants; i++)
        cd_tokens_restore(l->core, l->cur->participants[i].user_id);
    for (size_t i = 0; cd_modules[i]; i++)
        if (cd_modules[i]->on_moved)
            cd_modules[i]->on_moved(l->core, l, prev, sc->outbox, sc->n_outbox);
}

static void after_end(struct cd_live *l)
{
    for (size_t i = 0; i < l->cur->n_participants; i++)
        cd_tokens_release(l->core, l->cur->participants[i].user_id);
    cd_live_retire(l);
}

void cd_nodes_adopt(struct cd_live *l, struct cd_stored_call *sc)
{
    bool came = l->elsewhere && !sc->elsewhere;
    struct cd_call *prev = take_state(l, sc);

    if (!l->elsewhere && sc->elsewhere)
        cd_nodes_lose(l);
    l->elsewhere = sc->elsewhere;
    if (l->cur) {
        if (came)
            cd_timer_cancel(l->core->loop, &l->evict);
        if (prev || !came)
            tell_moved(l, prev, sc);
        if (came)
            tell_restored(l, sc->outbox, sc->n_outbox);
        if (cd_status_final(l->cur->status) && (prev || came))
            after_end(l);
    }
    cd_call_free(prev);
    cd_stored_call_free(sc);
}

/* --- what the store hears ------------------------------------------------------------------------- */

struct reload {
    struct cd_core *core;
    char id[CD_CALL_ID_LEN + 1];
};

/* What we have of another daemon's call has no row any more: nobody else will tell its sockets. */
static void end_guest(struct cd_live *l)
{
    const struct cd_cmd cmd = {.ev = CD_EV_DISPLACED, .source = CD_S_TIMER, .mx_version = 1,
                               .now_ms = cd_wall_ms()};

    if (l && l->elsewhere && l->cur && !cd_status_final(l->cur->status))
        cd_submit(l->core, l, &cmd, NULL, NULL, NULL);
}

static void on_reloaded(void *arg, enum cd_store_rc rc, struct cd_stored_call *sc)
{
    struct reload r = *(struct reload *)arg;
    struct cd_live *l = cd_live_get(r.core, r.id);

    free(arg);
    if (rc == CD_STORE_OK && !sc)
        end_guest(l);
    if (rc != CD_STORE_OK || !sc)
        return;
    if (l)
        cd_nodes_adopt(l, sc);
    else if (!sc->elsewhere && (sc->n_outbox || !cd_status_final(sc->call->status)))
        cd_restore_one(r.core, sc);
    else
        cd_stored_call_free(sc);
}

void cd_nodes_reload(struct cd_core *core, const char *call_id)
{
    struct reload *r = malloc(sizeof(*r));

    if (!r)
        return;
    r->core = core;
    snprintf(r->id, sizeof(r->id), "%s", call_id);
    core->store->ops->load_call(core->store, call_id, on_reloaded, r);
}

static bool holds(void *arg)
{
    struct cd_core *core = arg;

    return core->calls.count > 0;
}

/* Whatever is written of it from now on must begin with what the database says. */
static void forget(void *arg, const char *call_id)
{
    struct cd_core *core = arg;
    struct cd_live *l = cd_live_get(core, call_id);

    if (!l || !l->cur || !cd_status_final(l->cur->status))
        return;
    if (core->outbox)
        cd_outbox_forget(core->outbox, call_id);
    cd_live_forget(l);
}

static void touched(void *arg, const char *call_id)
{
    cd_nodes_reload(arg, call_id);
}

static void taken(void *arg, struct cd_stored_call **calls, size_t n)
{
    struct cd_core *core = arg;

    for (size_t i = 0; i < n; i++) {
        struct cd_live *l = cd_live_get(core, calls[i]->call->id);

        if (l)
            cd_nodes_adopt(l, calls[i]);
        else if (calls[i]->elsewhere) /* taken from us in turn */
            cd_stored_call_free(calls[i]);
        else
            cd_restore_one(core, calls[i]);
    }
    free(calls);
}

static void read_all(void *arg);

static int by_id(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Calls of ours that did not come back are over by another daemon's hand: each is asked about. */
static void ask_for_rest(struct cd_core *core, const char *const *ids, size_t n)
{
    size_t pos = 0;
    struct cd_live *l;

    while ((l = cd_live_next(core, &pos))) {
        const char *id = cd_live_id(l);

        if (l->cur && !cd_status_final(l->cur->status) && !bsearch(&id, ids, n, sizeof(*ids), by_id))
            cd_nodes_reload(core, id);
    }
}

static void on_all(void *arg, enum cd_store_rc rc, struct cd_stored_call **calls, size_t n)
{
    struct cd_core *core = arg;
    char (*copies)[CD_CALL_ID_LEN + 1] = rc == CD_STORE_OK ? calloc(n + 1, sizeof(*copies)) : NULL;
    const char **ids = copies ? calloc(n + 1, sizeof(*ids)) : NULL;

    if (rc != CD_STORE_OK) {
        cd_timer_set(core->loop, &core->resync, AGAIN_MS, read_all, core);
        return;
    }
    for (size_t i = 0; ids && i < n; i++) {
        memcpy(copies[i], calls[i]->call->id, sizeof(copies[i]));
        ids[i] = copies[i];
    }
    taken(core, calls, n);
    if (ids) {
        qsort(ids, n, sizeof(*ids), by_id);
        ask_for_rest(core, ids, n);
    } else {
        cd_timer_set(core->loop, &core->resync, AGAIN_MS, read_all, core); /* what is over is not known yet */
    }
    free(ids);
    free(copies);
}

static void read_all(void *arg)
{
    struct cd_core *core = arg;
    struct cd_store_stats st;

    core->store->ops->stats(core->store, &st);
    if (st.spooling) /* what is in the files comes first */
        cd_timer_set(core->loop, &core->resync, AGAIN_MS, read_all, core);
    else
        core->store->ops->load_live(core->store, on_all, core);
}

static void resync(void *arg, bool robbed)
{
    struct cd_core *core = arg;
    size_t pos = 0;
    struct cd_live *l;

    while (robbed && (l = cd_live_next(core, &pos)))
        if (l->cur)
            cd_nodes_lose(l);
    read_all(core);
}

void cd_nodes_start(struct cd_core *core)
{
    static const struct cd_store_watch watch = {
        .holds = holds, .taken = taken, .touched = touched, .resync = resync,
        .forget = forget};

    if (core->store->ops->watch)
        core->store->ops->watch(core->store, &watch, core);
}

void cd_nodes_stop(struct cd_core *core)
{
    if (core->loop)
        cd_timer_cancel(core->loop, &core->resync);
}

/* restore.c -- calls on their way from the store into memory, and back when the store asks.
 * In: stored calls. Out: live ones, their tokens, their outbox rows. Blocks: never. */
#include "restore.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "live.h"
#include "nodes.h"

static void restore_tokens(struct cd_core *core, const struct cd_live *l)
{
    for (size_t i = 0; i < l->cur->n_participants; i++)
        cd_tokens_restore(core, l->cur->participants[i].user_id);
}

struct cd_live *cd_restore_one(struct cd_core *core, struct cd_stored_call *sc)
{
    struct cd_outbox_row *rows = sc->outbox;
    size_t n = sc->n_outbox;
    struct cd_live *known = cd_live_get(core, sc->call->id), *l = NULL;

    for (size_t i = 0; i < n; i++)
        rows[i].restored = true;
    sc->outbox = NULL;
    sc->n_outbox = 0;
    if (known)
        cd_stored_call_free(sc);
    else
        l = cd_live_restore(core, sc);
    if (l || (known && known->cur))
        restore_tokens(core, l ? l : known);
    for (size_t i = 0; l && cd_modules[i]; i++)
        if (cd_modules[i]->on_restored)
            cd_modules[i]->on_restored(core, l, rows, n);
    if (known && core->outbox)
        cd_outbox_add(core->outbox, rows, n);
    for (size_t i = 0; i < n; i++)
        cd_outbox_row_done(&rows[i]);
    free(rows);
    return l;
}

size_t cd_restore_calls(struct cd_core *core, struct cd_stored_call **calls, size_t n)
{
    size_t fresh = 0;

    for (size_t i = 0; i < n; i++)
        fresh += cd_restore_one(core, calls[i]) != NULL;
    free(calls);
    return fresh;
}

void cd_restore_each(void *arg, cd_spool_call_fn fn, void *fn_arg)
{
    struct cd_core *core = arg;
    const struct cd_live *l;
    size_t pos = 0;

    while ((l = cd_live_next(core, &pos)))
        if (l->cur)
            fn(fn_arg, l->cur);
}

static void rest_loaded(void *arg, enum cd_store_rc rc, struct cd_stored_call **calls, size_t n)
{
    if (rc == CD_STORE_OK)
        cd_log(CD_LOG_INFO, "daemon", "calls.restored", NULL, "%zu more calls restored",
               cd_restore_calls(arg, calls, n));
    else
        cd_log(CD_LOG_ERROR, "daemon", "calls.unread", NULL,
               "the calls that run in the database could not be read; a restart reads them");
}

void cd_restore_rest(void *arg)
{
    struct cd_core *core = arg;

    core->store->ops->load_live(core->store, rest_loaded, core);
}

/* --- two calls where one can be ------------------------------------------------------------------ */

static void displace(struct cd_live *l, cd_cmd_fn fn, void *arg)
{
    const struct cd_cmd cmd = {.ev = CD_EV_DISPLACED, .source = CD_S_TIMER, .mx_version = 1,
                               .now_ms = cd_wall_ms()};

    cd_submit(l->core, l, &cmd, NULL, fn, arg);
}

struct yielding {
    cd_spool_yield_fn fn;
    void *arg;
};

static void on_displaced(void *arg, const struct cd_result *res)
{
    struct yielding y = *(struct yielding *)arg;

    free(arg);
    y.fn(y.arg, res->rc == CD_OK || res->rc == CD_E_INVALID_STATE); /* it may have ended by itself */
}

void cd_restore_yield(void *arg, struct cd_stored_call *older, cd_spool_yield_fn fn, void *fn_arg)
{
    struct cd_core *core = arg;
    char id[CD_CALL_ID_LEN + 1];
    struct yielding *y = malloc(sizeof(*y));
    struct cd_live *l;

    memcpy(id, older->call->id, sizeof(id));
    l = cd_live_get(core, id);
    if (l && l->cur)
        cd_nodes_adopt(l, older);
    else
        cd_restore_one(core, older);
    l = cd_live_get(core, id);
    if (!y || !l) {
        free(y);
        fn(fn_arg, false);
        return;
    }
    *y = (struct yielding){fn, fn_arg};
    displace(l, on_displaced, y);
}

void cd_restore_displaced(void *arg, const char *call_id)
{
    struct cd_live *l = cd_live_get(arg, call_id);

    if (l)
        displace(l, NULL, NULL);
}

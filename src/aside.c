/* aside.c -- outbox rows that no transition makes.
 * In: rows. Out: the same, stored and then queued. Why: they must not wait for a turn of the call. Blocks: never. */
#include <stdlib.h>

#include "base/log.h"
#include "core.h"

struct aside {
    struct cd_core *core;
    struct cd_change *change;
};

static void aside_committed(void *arg, enum cd_store_rc rc, const char *live_call_id)
{
    struct aside *a = arg;

    (void)live_call_id;
    bool away = rc == CD_STORE_DOWN || rc == CD_STORE_FULL;

    /* a store that is away must not stop a call: sent all the same, only not through a crash */
    for (size_t i = 0; i < a->change->n_outbox; i++)
        a->change->outbox[i].unwritten = away;
    if ((rc == CD_STORE_OK || away) && a->core->outbox && !a->change->elsewhere)
        cd_outbox_add(a->core->outbox, a->change->outbox, a->change->n_outbox);
    if (rc == CD_STORE_LOST_RACE) /* with another daemon, most likely: its end rows know nothing of these */
        cd_log(CD_LOG_INFO, "flow", "outbox.late", &(struct cd_log_ctx){.call_id = a->change->call_id},
               "%zu Matrix events are not sent: their call is over, or no longer stored", a->change->n_outbox);
    else if (rc != CD_STORE_OK)
        cd_log(CD_LOG_WARN, "flow", "outbox.unwritten", &(struct cd_log_ctx){.call_id = a->change->call_id},
               "%zu Matrix events could not be stored%s", a->change->n_outbox,
               away ? "; a crash would lose them" : " and are not sent");
    free(a);
}

enum cd_rc cd_write_outbox(struct cd_core *core, struct cd_live *live, struct cd_outbox_row *rows, size_t n)
{
    struct cd_change *ch = cd_change_new(cd_live_id(live));
    struct aside *a = malloc(sizeof(*a));
    bool ok = ch && a;

    for (size_t i = 0; i < n; i++) {
        struct cd_outbox_row *to = ok ? cd_change_outbox(ch) : NULL;
        if (to) {
            *to = rows[i];
        } else {
            ok = false;
            cd_outbox_row_done(&rows[i]);
        }
    }
    if (!ok) {
        cd_change_free(ch);
        free(a);
        return CD_E_NO_MEMORY;
    }
    ch->elsewhere = live->elsewhere;
    *a = (struct aside){core, ch};
    core->store->ops->commit(core->store, ch, aside_committed, a);
    return CD_OK;
}

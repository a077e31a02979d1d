/* pg_away.c -- the PostgreSQL store as the spool sees it: does it answer, and hand back what it holds.
 * In: how long things wait. Out: the watcher's callbacks, ops. Why: a server that refuses, resets or hangs
 * must cost a call two seconds at most. State: away and watch of struct pg_store. Blocks: never. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "store/pg.h"

#define HANG_MS 2000 /* what waits longer: the database counts as away */
#define PING_MS 3000 /* a connection that says nothing for so long is asked */

bool pg_hangs(const struct pg_store *s)
{
    bool writing = s->phase == PG_GROUP || s->phase == PG_SINGLES || s->phase == PG_DIAG;
    int64_t now = cd_mono_ms();

    return (writing && now - s->sent_ms > HANG_MS) || (s->head && now - s->head->queued_ms > HANG_MS) ||
           (s->reads && pg_reads_oldest(s->reads, now) > HANG_MS);
}

void cd_pg_watch(struct cd_store *b, const struct pg_watch *watch)
{
    struct pg_store *s = pg_of(b);

    s->watch = watch;
    s->lost_ms = cd_mono_ms();
}

void pg_look(struct pg_store *s, int64_t now)
{
    bool lost = s->phase == PG_DOWN || s->phase == PG_PREPARE;

    if (!s->watch || s->away || !s->write)
        return;
    if (!lost)
        s->lost_ms = now;
    if (pg_hangs(s))
        s->watch->away(s->watch->arg, lost ? "no connection" : "no answer for 2 s");
    else if (now - s->lost_ms > HANG_MS)
        s->watch->away(s->watch->arg, "no connection for 2 s");
    else if (!lost)
        pg_reads_ping(s->reads, now, PING_MS);
}

bool pg_gives_up(struct pg_store *s)
{
    char why[32];

    if (!s->unable[0] || s->delivering)
        return false; /* what is being told may change what the watcher begins with */
    snprintf(why, sizeof why, "it cannot write (%s)", s->unable);
    s->unable[0] = '\0';
    if (s->watch && !s->divert)
        s->watch->away(s->watch->arg, why);
    return s->divert;
}

/* What concerns the database alone is asked again when it is back. */
static void refuse_own(struct pg_store *s, struct pg_op **list)
{
    while (*list) {
        struct pg_op *op = *list;

        if (op->kind >= PG_OP_CLAIM) {
            *list = op->next;
            op->next = NULL;
            pg_refuse(s, op);
        } else {
            list = &op->next;
        }
    }
}

struct pg_op *pg_suspend(struct pg_store *s)
{
    struct pg_op *list = s->head, **from = &list;

    for (size_t i = 0; i < s->n_batch; i++) { /* the batch came before the queue */
        s->batch[i]->next = *from;
        *from = s->batch[i];
        from = &s->batch[i]->next;
    }
    s->n_batch = 0;
    s->head = s->last = NULL;
    s->n_queued = 0;
    s->away = true;
    s->unable[0] = '\0'; /* told by this, and no reason to give up what comes back */
    refuse_own(s, &list);
    for (struct pg_op *op = list; op; op = op->next) {
        op->retries = 0;
        op->failed = false;
    }
    if (s->write && s->phase != PG_DOWN)
        cd_pgconn_reset(s->write, "the database does not answer");
    if (s->reads)
        pg_reads_expire(s->reads, INT64_MAX / 2);
    return list;
}

void pg_resume(struct pg_store *s)
{
    s->away = false;
    s->lost_ms = cd_mono_ms();
}

/* pg_keep.c -- lets old rows go, a few at a time.
 * In: how long each kind of row is kept. Out: deletes that ride along in ordinary batches.
 * Why so small: a delete of some dozen calls costs a batch a few milliseconds and locks nothing but the rows
 *      that go; rows that another daemon is deleting are skipped. Between two deletes calls have the database to
 *      themselves.
 * State: struct pg_keep of the store. Blocks: never. */
#include "store/pg_keep.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "store/pg.h"

#define FIRST_MS 3000
#define ROUND_MS (60 * 60 * 1000)
#define PAUSE_MS 200      /* between two deletes */
#define PATIENCE_MS 60000 /* for one: then the database is away, and there will be another round */

static const char *const names[PG_KEEP_STEPS] = {"calls", "quality stats", "seen events", "quarantined events",
                                                 "kept answers", "memberships", "sealed tokens"};

enum cd_pg_stmt pg_keep_stmt(const struct pg_op *op)
{
    return (enum cd_pg_stmt)(CD_PG_KEEP_SESSIONS + op->number);
}

void pg_keep_take(struct pg_store *s, const PGresult *res)
{
    if (PQresultStatus(res) == PGRES_TUPLES_OK && PQntuples(res) == 1)
        s->keep.took = strtol(PQgetvalue(res, 0, 0), NULL, 10);
}

static void ask(struct pg_store *s)
{
    struct pg_keep *k = &s->keep;
    struct pg_op *op = calloc(1, sizeof *op);
    char age[24];

    k->took = -1;
    k->asked = true;
    k->asked_ms = cd_mono_ms();
    if (!op)
        return; /* as if it had never come back */
    snprintf(age, sizeof age, "%lld", (long long)k->age_s[k->step]);
    op->kind = PG_OP_PURGE;
    op->bytes = 512;
    op->number = (int)k->step;
    op->queued_ms = k->asked_ms;
    if (cd_dup(&op->key, age))
        pg_put(s, op);
    else
        pg_op_free(op);
}

/* From the current step on, the first that has something to do. @return false: the round is over */
static bool find_step(struct pg_keep *k)
{
    while (k->step < PG_KEEP_STEPS && k->age_s[k->step] == 0)
        k->step++;
    return k->step < PG_KEEP_STEPS;
}

static void report(const struct pg_keep *k)
{
    for (unsigned i = 0; i < PG_KEEP_STEPS; i++)
        if (k->gone[i])
            cd_log(CD_LOG_INFO, "store", "rows.expired", NULL, "%llu %s were older than they are kept",
                   (unsigned long long)k->gone[i], names[i]);
}

static void turn(void *arg)
{
    struct pg_store *s = arg;
    struct pg_keep *k = &s->keep;
    bool late = k->asked && k->took < 0 && cd_mono_ms() - k->asked_ms > PATIENCE_MS;

    if (k->asked && k->took >= 0) {
        k->asked = false;
        k->gone[k->step] += (uint64_t)k->took;
        s->stats.expired_rows += (uint64_t)k->took;
        if (k->took < CD_PG_KEEP_ROWS)
            k->step++;
    }
    if (late || !find_step(k)) {
        report(k);
        k->step = 0;
        k->asked = false;
        memset(k->gone, 0, sizeof k->gone);
        cd_timer_set(s->loop, &k->timer, ROUND_MS, turn, s);
        return;
    }
    if (!k->asked)
        ask(s);
    cd_timer_set(s->loop, &k->timer, PAUSE_MS, turn, s);
}

static int64_t *age_of(struct pg_keep *k, enum cd_pg_stmt stmt)
{
    return &k->age_s[stmt - CD_PG_KEEP_SESSIONS];
}

bool pg_keep_start(struct pg_store *s, const struct cd_keep *keep)
{
    const int64_t day = 24 * 60 * 60;
    struct pg_keep *k = &s->keep;

    *age_of(k, CD_PG_KEEP_SESSIONS) = keep->calls_days * day;
    *age_of(k, CD_PG_KEEP_STATS) = keep->stats_days * day;
    *age_of(k, CD_PG_KEEP_SEEN) = keep->seen_days * day;
    *age_of(k, CD_PG_KEEP_INBOX) = keep->inbox_days * day;
    *age_of(k, CD_PG_KEEP_IDEM) = CD_IDEM_TTL_MS / 1000;
    *age_of(k, CD_PG_KEEP_MEMBERS) = keep->members_days * day;
    *age_of(k, CD_PG_KEEP_TOKENS) = day; /* and only of who is in no call */
    return !keep->on || cd_timer_set(s->loop, &k->timer, FIRST_MS, turn, s) >= 0;
}

void pg_keep_stop(struct pg_store *s)
{
    cd_timer_cancel(s->loop, &s->keep.timer);
}

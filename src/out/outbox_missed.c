/* outbox_missed.c -- rows that found no memory are read again from the store.
 * In: calls with rows that could not be queued. Out: those rows, a moment later.
 * Why: a stored row that nobody holds would be sent after the next restart only.
 * State: their ids, in the outbox itself: asking takes no memory. Blocks: never. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "out/outbox_int.h"

#define AGAIN_MS 250

static void read_again(void *arg);

static bool is_wanting(const struct cd_outbox *o)
{
    return o->n_missed > 0 || o->missed_more;
}

static void arm(struct cd_outbox *o)
{
    if (is_wanting(o) && !o->reading_missed && !o->missed_timer.due_ms &&
        cd_timer_set(o->loop, &o->missed_timer, AGAIN_MS, read_again, o) < 0)
        cd_log(CD_LOG_ERROR, "outbox", "rows.missed", NULL, "no timer to read them again");
}

void cd_ob_missed(struct cd_outbox *o, const char *call_id)
{
    for (size_t i = 0; i < o->n_missed; i++)
        if (strcmp(o->missed[i], call_id) == 0)
            return;
    if (o->n_missed < CD_OB_MISSED_MAX)
        snprintf(o->missed[o->n_missed++], sizeof o->missed[0], "%s", call_id);
    else
        o->missed_more = true; /* then everything is read */
    arm(o);
}

/* Degraded mode knows the call, but not the rows that were stored before. */
static bool is_database_away(const struct cd_outbox *o)
{
    struct cd_store_stats st = {0};

    o->store->ops->stats(o->store, &st);
    return st.spooling;
}

/* Rows that are here already are known by their ids. @return false: there was no memory for some again */
static bool take(struct cd_outbox *o, struct cd_stored_call *sc)
{
    size_t missed = o->n_missed;

    if (sc && !sc->elsewhere)
        cd_outbox_add(o, sc->outbox, sc->n_outbox);
    cd_stored_call_free(sc);
    return o->n_missed == missed && !o->missed_more;
}

static void on_read(void *arg, enum cd_store_rc rc, struct cd_stored_call *sc)
{
    struct cd_outbox *o = arg;
    bool more = o->missed_more, well;

    o->reading_missed = false;
    if (rc != CD_STORE_OK || is_database_away(o)) {
        cd_stored_call_free(sc);
        arm(o);
        return;
    }
    o->n_missed--;
    memmove(o->missed[0], o->missed[1], o->n_missed * sizeof o->missed[0]);
    o->missed_more = false;
    well = take(o, sc);
    o->missed_more = o->missed_more || more;
    if (well)
        read_again(o);
    else
        arm(o);
}

static void on_all_read(void *arg, enum cd_store_rc rc, struct cd_stored_call **calls, size_t n)
{
    struct cd_outbox *o = arg;
    bool away = is_database_away(o);

    o->reading_missed = false;
    o->missed_more = rc != CD_STORE_OK || away;
    for (size_t i = 0; calls && i < n; i++)
        if (away)
            cd_stored_call_free(calls[i]);
        else
            take(o, calls[i]);
    free(calls);
    arm(o);
}

static void read_again(void *arg)
{
    struct cd_outbox *o = arg;

    if (o->reading_missed || !is_wanting(o))
        return;
    if (is_database_away(o)) {
        arm(o);
        return;
    }
    cd_timer_cancel(o->loop, &o->missed_timer);
    o->reading_missed = true;
    if (o->n_missed)
        o->store->ops->load_call(o->store, o->missed[0], on_read, o);
    else
        o->store->ops->load_live(o->store, on_all_read, o);
}

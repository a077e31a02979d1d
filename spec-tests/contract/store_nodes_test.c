/* store_nodes_test.c -- several daemons on one database: who owns a call, who hears of it, who is shut out.
 * Needs CALLD_TEST_DATABASE_URL. */
#define TAP_SECONDS 90
#include "tap.h"

#include <stdlib.h>

#include "store_await.h"
#include "store_kit.h"

static long long events_of(const char *room)
{
    char sql[256];

    snprintf(sql, sizeof sql, "SELECT count(*) FROM %s.call_events e JOIN %s.call_sessions s"
                              " ON s.id = e.call_session_id WHERE s.room_id LIKE '%s%%'",
             kit_schema, kit_schema, room);
    return kit_sql_int(sql);
}

static struct {
    unsigned taken, touched, resyncs, robbed;
    char last[CD_CALL_ID_LEN + 1];
} heard[2];

static bool on_holds(void *arg)
{
    (void)arg;
    return true;
}

static void on_taken(void *arg, struct cd_stored_call **calls, size_t n)
{
    size_t i = (size_t)(uintptr_t)arg;

    for (size_t k = 0; k < n; k++) {
        memcpy(heard[i].last, calls[k]->call->id, sizeof heard[i].last);
        heard[i].taken += !calls[k]->elsewhere;
        cd_stored_call_free(calls[k]);
    }
    free(calls);
}

static void on_touched(void *arg, const char *call_id)
{
    size_t i = (size_t)(uintptr_t)arg;

    heard[i].touched++;
    snprintf(heard[i].last, sizeof heard[i].last, "%s", call_id);
}

static void on_resync(void *arg, bool robbed)
{
    size_t i = (size_t)(uintptr_t)arg;

    heard[i].resyncs++;
    heard[i].robbed += robbed;
}

static unsigned peers_of(struct cd_store *s)
{
    struct cd_store_stats st;

    s->ops->stats(s, &st);
    return st.peers;
}

/* Two daemons that know of each other; nothing is left of earlier ones. */
static bool open_two(struct cd_store *s[2])
{
    static const struct cd_store_watch watch = {
        .holds = on_holds, .taken = on_taken, .touched = on_touched, .resync = on_resync};
    char sql[160];

    snprintf(sql, sizeof sql, "UPDATE %s.store_writers SET has_left = true", kit_schema);
    free(kit_sql(sql));
    memset(heard, 0, sizeof heard);
    for (uintptr_t i = 0; i < 2; i++) {
        s[i] = kit_open_pg(kit_url);
        if (!CHECK(s[i]))
            return false;
        s[i]->ops->watch(s[i], &watch, (void *)i);
    }
    UNTIL(peers_of(s[0]) == 1 && peers_of(s[1]) == 1);
    return true;
}

/* As if the owner of a call had not been seen for its lease. */
static void make_late(const char *call_id)
{
    char sql[400];

    snprintf(sql, sizeof sql, "UPDATE %s.store_writers SET seen_at = now() - interval '31 seconds' WHERE owner ="
                              " (SELECT owner FROM %s.call_sessions WHERE id = '%s')", kit_schema, kit_schema, call_id);
    free(kit_sql(sql));
}

static void the_owner_hears_what_another_wrote(void)
{
    struct cd_store *s[2];
    struct cd_call *c = kit_call("!shared:x", "@a:x", "@b:x");
    struct cd_stored_call *sc;
    struct cd_change *ch;

    if (!open_two(s))
        return;
    ch = kit_change(c, 0);
    kit_outbox(ch, "shared0", 0, 1, "{}");
    CHECK_INT(kit_put(s[0], ch), CD_STORE_OK);
    sc = kit_load(s[1], c->id);
    CHECK(sc && sc->elsewhere);
    cd_stored_call_free(sc);
    sc = kit_load(s[0], c->id);
    CHECK(sc && !sc->elsewhere);
    cd_stored_call_free(sc);
    c->status = CD_ACCEPTED;
    CHECK_INT(kit_put(s[1], kit_change(c, 1)), CD_STORE_OK);
    UNTIL(heard[0].touched == 1);
    CHECK_STR(heard[0].last, c->id);
    ch = cd_change_new(c->id); /* rows without a transition, too */
    kit_outbox(ch, "shared1", 1, 1, "{}");
    CHECK_INT(kit_put(s[1], ch), CD_STORE_OK);
    UNTIL(heard[0].touched == 2);
    CHECK_INT(kit_put(s[0], kit_change(c, 2)), CD_STORE_OK); /* one's own are not told */
    CHECK_INT(kit_flush(s[1]), CD_STORE_OK);
    CHECK_INT(heard[0].touched, 2);
    CHECK_INT(heard[1].touched, 0);
    cd_call_free(c);
    s[0]->ops->close(s[0]);
    s[1]->ops->close(s[1]);
}

static void a_late_owner_loses_its_calls_and_finds_out(void)
{
    struct cd_store *s[2];
    struct cd_call *c = kit_call("!late:x", "@a:x", "@b:x");
    struct kit_all all;

    if (!open_two(s))
        return;
    CHECK_INT(kit_put(s[0], kit_change(c, 0)), CD_STORE_OK);
    kit_load_live(s[1], &all); /* its owner is there: nobody else gets it */
    CHECK(all.rc == CD_STORE_OK && !kit_find(&all, c->id));
    kit_all_free(&all);
    CHECK(s[0]->ops->may_act(s[0], NULL));
    make_late(c->id);
    kit_load_live(s[1], &all);
    CHECK(all.rc == CD_STORE_OK && kit_find(&all, c->id) && !kit_find(&all, c->id)->elsewhere);
    kit_all_free(&all);
    c->status = CD_ACCEPTED;
    CHECK_INT(kit_put(s[0], kit_change(c, 1)), CD_STORE_OK); /* shut out, it comes again as a guest */
    CHECK(heard[0].robbed >= 1);
    UNTIL(heard[1].touched == 1);
    CHECK_INT(events_of("!late:x"), 2);
    kit_load_live(s[0], &all);
    CHECK(all.rc == CD_STORE_OK && !kit_find(&all, c->id));
    kit_all_free(&all);
    cd_call_free(c);
    s[0]->ops->close(s[0]);
    s[1]->ops->close(s[1]);
}

static void who_leaves_is_not_waited_for(void)
{
    struct cd_store *s[2];
    struct cd_call *c = kit_call("!left:x", "@a:x", "@b:x");
    struct kit_done d = {0};
    struct kit_all all;

    if (!open_two(s))
        return;
    CHECK_INT(kit_put(s[0], kit_change(c, 0)), CD_STORE_OK);
    s[0]->ops->leave(s[0], kit_on_done, &d);
    UNTIL(d.done);
    CHECK_INT(d.rc, CD_STORE_OK);
    CHECK(!s[0]->ops->may_act(s[0], NULL));
    s[0]->ops->close(s[0]);
    kit_load_live(s[1], &all);
    CHECK(all.rc == CD_STORE_OK && kit_find(&all, c->id));
    kit_all_free(&all);
    cd_call_free(c);
    s[1]->ops->close(s[1]);
}

#define CLAIMS 40

/* Both ask for the calls of a third at once: each call has one new owner. */
static void a_call_is_claimed_once(void)
{
    struct cd_store *s[2], *third;
    static struct cd_call *c[CLAIMS];
    struct kit_all all[2] = {0};
    char room[40];
    int owned = 0;

    if (!open_two(s))
        return;
    third = kit_open_pg(kit_url);
    if (!CHECK(third))
        return;
    for (int i = 0; i < CLAIMS; i++) {
        snprintf(room, sizeof room, "!claim%d:x", i);
        c[i] = kit_call(room, "@a:x", "@b:x");
        CHECK_INT(kit_put(third, kit_change(c[i], 0)), CD_STORE_OK);
    }
    third->ops->close(third); /* as if killed */
    make_late(c[0]->id);
    for (int i = 0; i < 2; i++)
        s[i]->ops->load_live(s[i], kit_on_all, &all[i]);
    UNTIL(all[0].done && all[1].done);
    for (int i = 0; i < CLAIMS; i++) {
        owned += (kit_find(&all[0], c[i]->id) != NULL) + (kit_find(&all[1], c[i]->id) != NULL);
        cd_call_free(c[i]);
    }
    CHECK_INT(owned, CLAIMS);
    kit_all_free(&all[0]);
    kit_all_free(&all[1]);
    s[0]->ops->close(s[0]);
    s[1]->ops->close(s[1]);
}

/* A call of the first daemon, with one event to be sent: its transaction id is the room's name without "!". */
static struct cd_call *call_with_event(struct cd_store *s, const char *name, int i, int rank, char txn[24])
{
    struct cd_change *ch;
    struct cd_call *c;
    char room[40];

    snprintf(txn, 24, "%s%d", name, i);
    snprintf(room, sizeof room, "!%s:x", txn);
    c = kit_call(room, "@a:x", "@b:x");
    ch = kit_change(c, 0);
    kit_outbox(ch, txn, rank, 1, "{}");
    CHECK_INT(kit_put(s, ch), CD_STORE_OK);
    return c;
}

/* The end of a call and the note of its invite, at two daemons at once: one of the two knows. */
static void an_end_and_an_invite_never_miss_each_other(void)
{
    struct cd_store *s[2];
    int agreed = 0;

    if (!open_two(s))
        return;
    for (int i = 0; i < CLAIMS; i++) {
        struct kit_commit r;
        struct kit_done d = {0};
        struct cd_stored_call *sc;
        struct cd_change *ch;
        char invite[24], end[32];
        struct cd_call *c = call_with_event(s[0], "miss", i, 0, invite);

        c->status = CD_CANCELED;
        ch = kit_change(c, 1);
        ch->drop_untried_all = true;
        snprintf(end, sizeof end, "%s-end", invite);
        kit_outbox(ch, end, 3, 1, "{}");
        kit_submit(s[1], ch, &r);
        s[0]->ops->outbox_tried(s[0], invite, 1, kit_on_done, &d);
        UNTIL(r.done && d.done);
        sc = kit_load(s[0], c->id);
        if (CHECK(sc && r.rc == CD_STORE_OK))
            agreed += sc->n_outbox == (d.rc == CD_STORE_OK ? 2u : 0u);
        cd_stored_call_free(sc);
        cd_call_free(c);
    }
    CHECK_INT(agreed, CLAIMS);
    s[0]->ops->close(s[0]);
    s[1]->ops->close(s[1]);
}

/* The end of a call that nobody was invited to, and its answer, at two daemons at once: no answer is left. */
static void an_end_leaves_no_answer_behind(void)
{
    struct cd_store *s[2];
    int clean = 0;

    if (!open_two(s))
        return;
    for (int i = 0; i < CLAIMS; i++) {
        struct kit_commit answer, end;
        struct cd_stored_call *sc;
        struct cd_change *ch;
        char invite[24], txn[32];
        struct cd_call *c = call_with_event(s[0], "late", i, 0, invite);

        ch = cd_change_new(c->id);
        snprintf(txn, sizeof txn, "%s-answer", invite);
        kit_outbox(ch, txn, 1, 2, "{}");
        kit_submit(s[0], ch, &answer);
        c->status = CD_CANCELED;
        ch = kit_change(c, 1);
        ch->drop_untried_all = true;
        kit_submit(s[1], ch, &end);
        UNTIL(answer.done && end.done);
        CHECK_INT(end.rc, CD_STORE_OK);
        CHECK(answer.rc == CD_STORE_OK || answer.rc == CD_STORE_LOST_RACE);
        sc = kit_load(s[0], c->id);
        if (CHECK(sc))
            clean += sc->n_outbox == 0;
        cd_stored_call_free(sc);
        cd_call_free(c);
    }
    CHECK_INT(clean, CLAIMS);
    s[0]->ops->close(s[0]);
    s[1]->ops->close(s[1]);
}

/* A store's next batch waits for this one, so that what follows shares a batch. */
static void busy_with(struct cd_store *s, const char *room, struct kit_commit *r, struct cd_call **c)
{
    *c = kit_call(room, "@a:x", "@b:x");
    kit_submit(s, kit_change(*c, 0), r);
}

/* One notes an attempt and writes more of the same call, which the other one ends. */
static void try_against_end(struct cd_store *s[2], int i)
{
    struct kit_commit end, more, other[2];
    struct kit_done tried = {0};
    char room[40], first[24], txn[32];
    struct cd_call *c = call_with_event(s[0], "try", i, i % 2 ? 9 : 0, first), *x[2];
    struct cd_change *ch;

    for (int k = 0; k < 2; k++) {
        snprintf(room, sizeof room, "!try%d-%d:x", i, k);
        busy_with(s[k], room, &other[k], &x[k]);
    }
    s[0]->ops->outbox_tried(s[0], first, 1, kit_on_done, &tried);
    ch = cd_change_new(c->id);
    snprintf(txn, sizeof txn, "%s-more", first);
    kit_outbox(ch, txn, 9, 2, "{}");
    kit_submit(s[0], ch, &more);
    c->status = CD_CANCELED;
    ch = kit_change(c, 1);
    ch->drop_untried_all = ch->drop_untried_droppable = true;
    kit_submit(s[1], ch, &end);
    UNTIL(more.done && end.done && tried.done && other[0].done && other[1].done);
    CHECK_INT(end.rc, CD_STORE_OK);
    CHECK(more.rc == CD_STORE_OK || more.rc == CD_STORE_LOST_RACE);
    for (int k = 0; k < 2; k++)
        cd_call_free(x[k]);
    cd_call_free(c);
}

/* Each writes more of the call that the other one ends. */
static void end_crosswise(struct cd_store *s[2], int i)
{
    struct kit_commit more[2], end[2], other[2];
    struct cd_call *c[2], *x[2];
    char room[40], txn[24];

    for (int k = 0; k < 2; k++) {
        snprintf(room, sizeof room, "!cross%d-%d:x", i, k);
        c[k] = kit_call(room, "@a:x", "@b:x");
        CHECK_INT(kit_put(s[0], kit_change(c[k], 0)), CD_STORE_OK);
    }
    for (int k = 0; k < 2; k++) {
        struct cd_change *ch = cd_change_new(c[k]->id);

        snprintf(room, sizeof room, "!crossing%d-%d:x", i, k);
        busy_with(s[k], room, &other[k], &x[k]);
        snprintf(txn, sizeof txn, "cross%d-%d", i, k);
        kit_outbox(ch, txn, 9, 2, "{}");
        kit_submit(s[k], ch, &more[k]);
        c[!k]->status = CD_CANCELED;
        kit_submit(s[k], kit_change(c[!k], 1), &end[k]);
    }
    for (int k = 0; k < 2; k++) {
        UNTIL(more[k].done && end[k].done && other[k].done);
        CHECK_INT(end[k].rc, CD_STORE_OK);
        cd_call_free(x[k]);
    }
    cd_call_free(c[0]);
    cd_call_free(c[1]);
}

/* PostgreSQL would break the circle after a second, in which nothing else of a daemon is written. */
static void daemons_never_wait_in_a_circle(void)
{
    static const char deadlocks[] = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    struct cd_store *s[2];
    long long before;

    if (!open_two(s))
        return;
    before = kit_sql_int(deadlocks);
    for (int i = 0; i < CLAIMS; i++) {
        try_against_end(s, i);
        end_crosswise(s, i);
    }
    s[0]->ops->close(s[0]); /* a backend that leaves has reported all it counted */
    s[1]->ops->close(s[1]);
    UNTIL(kit_sql_int("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'matrix-calld write%'") == 0);
    CHECK_INT(kit_sql_int(deadlocks) - before, 0);
}

static void all(void)
{
    TAP_RUN(the_owner_hears_what_another_wrote);
    TAP_RUN(a_late_owner_loses_its_calls_and_finds_out);
    TAP_RUN(who_leaves_is_not_waited_for);
    TAP_RUN(a_call_is_claimed_once);
    TAP_RUN(an_end_and_an_invite_never_miss_each_other);
    TAP_RUN(an_end_leaves_no_answer_behind);
    TAP_RUN(daemons_never_wait_in_a_circle);
}

int main(void)
{
    return kit_postgres_main(all);
}

/* store_spool_test.c -- PostgreSQL goes away in mid-call (refused, reset, hung), comes back, or is not
 * there at all: what was acknowledged is in the tables afterwards, once.
 * Needs CALLD_TEST_DATABASE_URL (TCP on loopback). */
#define TAP_SECONDS 120
#include "tap.h"

#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "store_await.h"
#include "store_away.h"
#include "store_kit.h"
#include "store/spool_priv.h"

/* A call that runs is ended, another is begun; nothing is doubled when an answer was on its way. */
static void goes_on_without(const char *room, enum fault how)
{
    struct cd_store *s = open_through_proxy();
    struct kit_commit r[CALLS];
    char where[256];
    struct cd_change *ch;

    if (!CHECK(s))
        return;
    a_call_each(s, room, 0, 4);
    strike(how);
    for (size_t i = 0; i < 4; i++) { /* these reach the server, or do not */
        struct cd_call *next = cd_call_clone(memory[i]);

        next->status = i % 2 ? CD_ENDED : CD_ACCEPTED;
        ch = kit_change(next, memory[i]->version);
        kit_submit(s, ch, &r[i]);
        UNTIL(r[i].done);
        CHECK_INT(r[i].rc, CD_STORE_OK);
        cd_call_free(memory[i]);
        memory[i] = next;
    }
    CHECK(stats_of(s).spooling); /* the fault did happen */
    CHECK(!stats_of(s).connected);
    a_call_each(s, room, 4, 8);
    memory[8] = kit_call(memory[4]->room_id, "@b:x", "@a:x");
    CHECK_INT(kit_put(s, kit_change(memory[8], 0)), CD_STORE_CALL_EXISTS);
    CHECK_STR(kit_live(), memory[4]->id);
    memory[8]->version = 0;
    memory[0]->status = CD_ENDED;
    CHECK_INT(kit_put(s, kit_change(memory[0], memory[0]->version)), CD_STORE_OK);
    snprintf(where, sizeof where, "%s-0", room);
    CHECK_INT(kit_tried(s, where, 1), CD_STORE_OK);
    s->ops->outbox_done(s, where);
    CHECK_INT(kit_flush(s), CD_STORE_OK);
    CHECK(stats_of(s).spool_records > 5);
    heal(how);
    until_spooling(s, false);
    snprintf(where, sizeof where, "call_sessions WHERE room_id LIKE '%s%%'", room);
    CHECK_INT(count(where), 8);
    snprintf(where, sizeof where, "call_sessions WHERE room_id LIKE '%s%%' AND status = 'ended'", room);
    CHECK_INT(count(where), 3);
    snprintf(where, sizeof where, "call_events e JOIN call_sessions c ON c.id = e.call_session_id"
                                  " WHERE c.room_id LIKE '%s%%'", room);
    CHECK_INT(count(where), 8 + 4 + 1);
    snprintf(where, sizeof where, "matrix_outbox WHERE txn_id LIKE '%s%%'", room);
    CHECK_INT(count(where), 7);
    CHECK_INT(stats_of(s).spool_records, 0);
    CHECK_INT(stats_of(s).spool_rejected, 0);
    memory[4]->status = CD_ENDED; /* and on as before */
    CHECK_INT(kit_put(s, kit_change(memory[4], memory[4]->version)), CD_STORE_OK);
    s->ops->close(s);
    proxy_done(&P);
    forget();
}

static void refused(void)
{
    goes_on_without("!refused", REFUSED);
}

static void reset(void)
{
    goes_on_without("!reset", RESET);
}

static void hung(void)
{
    goes_on_without("!hung", HUNG);
}

/* Begun without a database; the process dies; the next one finds what it left. */
static void found_after_a_crash(void)
{
    struct cd_store *s = kit_open_spool("postgresql://nobody@127.0.0.1:1/none", true, 64, in_memory);
    struct kit_all all;
    struct cd_stored_call *sc;
    struct cd_change *ch;

    if (!CHECK(s))
        return;
    a_call_each(s, "!crash", 0, 6);
    memory[1]->status = CD_ENDED;
    CHECK_INT(kit_put(s, kit_change(memory[1], 1)), CD_STORE_OK);
    ch = cd_change_new(memory[2]->id);
    kit_signal(ch, 9, "ice-candidate", "@a:x", "{\"candidate\":{}}");
    CHECK_INT(kit_put(s, ch), CD_STORE_OK);
    s->ops->close(s);
    s = kit_open_spool("postgresql://nobody@127.0.0.1:1/none", true, 64, in_memory);
    if (!CHECK(s))
        return;
    kit_load_live(s, &all);
    CHECK_INT(all.rc, CD_STORE_OK);
    CHECK_INT(all.n, 6); /* the ended one has something to send */
    sc = NULL;
    for (size_t i = 0; i < all.n; i++)
        if (strcmp(all.v[i]->call->id, memory[2]->id) == 0)
            sc = all.v[i];
    if (CHECK(sc)) {
        kit_same_call(sc->call, memory[2]);
        CHECK_INT(sc->n_signals, 1);
        CHECK_INT(sc->n_outbox, 1);
        CHECK_INT(sc->n_events, 1);
    }
    kit_all_free(&all);
    s->ops->close(s);
    s = kit_open_spool(kit_url, false, 64, in_memory); /* ready means: all is in the database */
    if (!CHECK(s))
        return;
    CHECK(!stats_of(s).spooling);
    CHECK_INT(count("call_sessions WHERE room_id LIKE '!crash%'"), 6);
    CHECK_INT(count("call_signals g JOIN call_sessions c ON c.id = g.call_session_id"
                    " WHERE c.room_id LIKE '!crash%'"), 1);
    CHECK_INT(count("matrix_outbox WHERE txn_id LIKE '!crash%'"), 6);
    CHECK_INT(stats_of(s).spool_replayed, 8);
    s->ops->close(s);
    forget();
}

/* Until nothing new fits; calls with long signals fill faster. @return calls that were taken */
static size_t fill(struct cd_store *s, const char *room, struct cd_call **last)
{
    size_t n = 0;
    char name[64];

    for (;; n++) {
        struct cd_call *c;
        enum cd_store_rc rc;

        snprintf(name, sizeof name, "%s%zu:x", room, n);
        c = kit_call(name, "@a:x", "@b:x");
        rc = kit_put(s, kit_change(c, 0));
        if (rc == CD_STORE_OK) {
            cd_call_free(*last);
            *last = c;
            continue;
        }
        CHECK_INT(rc, CD_STORE_FULL);
        cd_call_free(c);
        return n;
    }
}

/* Nothing new, but what runs can end, and all of it is in the database afterwards. */
static void full(void)
{
    struct cd_store *s = kit_open_spool("postgresql://nobody@127.0.0.1:1/none", true, 1, in_memory);
    struct cd_call *last = NULL;
    struct cd_change *ch;
    size_t n;

    if (!CHECK(s))
        return;
    a_call_each(s, "!full", 0, 4);
    cd_log_setup(CD_LOG_ERROR + 1, 0); /* it complains, and should */
    n = fill(s, "!filled", &last);
    cd_log_setup(CD_LOG_ERROR, 0);
    CHECK(n > 500 && last);
    CHECK(stats_of(s).spool_full);
    for (size_t i = 0; i < 2; i++) {
        memory[i]->status = CD_ENDED;
        CHECK_INT(kit_put(s, kit_change(memory[i], 1)), CD_STORE_OK);
    }
    memory[2]->status = CD_ACCEPTED;
    CHECK_INT(kit_put(s, kit_change(memory[2], 1)), CD_STORE_OK);
    ch = cd_change_new(memory[2]->id);
    kit_signal(ch, 9, "ice-candidate", "@a:x", "{\"candidate\":{}}");
    CHECK_INT(kit_put(s, ch), CD_STORE_FULL);
    CHECK(stats_of(s).spool_bytes <= 1 << 20);
    s->ops->close(s);
    cd_call_free(last);
    s = kit_open_spool(kit_url, false, 1, in_memory);
    if (!CHECK(s))
        return;
    CHECK(!stats_of(s).spool_full);
    CHECK_INT(count("call_sessions WHERE room_id LIKE '!fill%'"), n);
    CHECK_INT(count("call_sessions WHERE room_id LIKE '!full%' AND status = 'ended'"), 2);
    last = kit_call("!after:x", "@a:x", "@b:x");
    CHECK_INT(kit_put(s, kit_change(last, 0)), CD_STORE_OK);
    cd_call_free(last);
    s->ops->close(s);
    forget();
}

static void limit_files(rlim_t bytes)
{
    struct rlimit l;

    getrlimit(RLIMIT_FSIZE, &l);
    l.rlim_cur = bytes;
    CHECK_INT(setrlimit(RLIMIT_FSIZE, &l), 0);
}

static bool fill_one(struct cd_store *s, const char *room)
{
    struct cd_call *c = kit_call(room, "@a:x", "@b:x");
    bool ok = kit_put(s, kit_change(c, 0)) == CD_STORE_OK;

    cd_call_free(c);
    return ok;
}

/* The disk takes no more (a limit on files stands for it): the reserve is for what ends; then it does again. */
static void disk_full(void)
{
    struct cd_store *s = kit_open_spool("postgresql://nobody@127.0.0.1:1/none", true, 64, in_memory);
    struct cd_call *last = NULL;
    char refused[64];
    size_t n;

    if (!CHECK(s))
        return;
    cd_log_setup(CD_LOG_ERROR + 1, 0); /* it complains, and should */
    a_call_each(s, "!disk", 0, 4);
    limit_files(128 << 10);
    n = fill(s, "!diskfill", &last);
    CHECK(n > 20 && n < 400); /* the fault did happen, and no limit of ours */
    CHECK(stats_of(s).spool_full);
    for (size_t i = 0; i < 4; i++) {
        memory[i]->status = CD_ENDED;
        CHECK_INT(kit_put(s, kit_change(memory[i], 1)), CD_STORE_OK);
    }
    limit_files(RLIM_INFINITY);
    UNTIL(!stats_of(s).spool_full);
    cd_log_setup(CD_LOG_ERROR, 0);
    CHECK(fill_one(s, "!diskback:x"));
    snprintf(refused, sizeof refused, "!diskfill%zu:x", n);
    CHECK(fill_one(s, refused)); /* nothing is known of what was refused */
    s->ops->close(s);
    cd_call_free(last);
    s = kit_open_spool(kit_url, false, 64, in_memory);
    if (!CHECK(s))
        return;
    CHECK_INT(count("call_sessions WHERE room_id LIKE '!diskfill%'"), n + 1);
    CHECK_INT(count("call_sessions WHERE room_id LIKE '!disk_:x' AND status = 'ended'"), 4);
    CHECK_INT(count("call_sessions WHERE room_id = '!diskback:x'"), 1);
    CHECK_INT(stats_of(s).spool_rejected, 0);
    s->ops->close(s);
    forget();
}

/* While we were away another daemon took in the same Matrix call: ours cannot be written. The others can. */
static void a_record_that_is_refused_stops_nobody(void)
{
    struct cd_call *ours = kit_call("!same:x", "@a:x", "@b:x"), *rival = kit_call("!same:x", "@a:x", "@b:x");
    struct cd_store *s = open_through_proxy(), *other = kit_open_pg(kit_url);
    struct stat st;

    if (!CHECK(s) || !CHECK(other))
        return;
    ours->origin = rival->origin = CD_O_MATRIX;
    CHECK(cd_set_str(&ours->matrix_call_id, "same") && cd_set_str(&rival->matrix_call_id, "same"));
    strike(REFUSED);
    until_spooling(s, true);
    CHECK_INT(kit_put(s, kit_change(ours, 0)), CD_STORE_OK);
    a_call_each(s, "!beside", 0, 3);
    CHECK_INT(kit_put(other, kit_change(rival, 0)), CD_STORE_OK);
    cd_log_setup(CD_LOG_ERROR + 1, 0); /* it complains, and should */
    heal(REFUSED);
    until_spooling(s, false);
    cd_log_setup(CD_LOG_ERROR, 0);
    CHECK_INT(stats_of(s).spool_rejected, 1);
    CHECK_INT(count("call_sessions WHERE room_id LIKE '!beside%'"), 3);
    CHECK_INT(count("call_sessions WHERE room_id = '!same:x'"), 1);
    UNTIL(fstatat(kit_spool_dir.fd, "rejected", &st, 0) == 0 && st.st_size > 16);
    other->ops->close(other);
    s->ops->close(s);
    proxy_done(&P);
    cd_call_free(ours);
    cd_call_free(rival);
    forget();
}

static char displaced[CD_CALL_ID_LEN + 1];

static void on_displaced(void *arg, const char *call_id)
{
    (void)arg;
    snprintf(displaced, sizeof displaced, "%s", call_id);
}

/* While we were away somebody else called the same pair, at another daemon: ours is over, with all that
 * happened in it, and its daemon hears of that. */
static void a_call_that_another_daemon_was_faster_with(void)
{
    struct cd_call *rival = kit_call("!clash0:x", "@b:x", "@a:x");
    struct cd_store *s = open_through_proxy(), *other;

    if (!CHECK(s))
        return;
    strike(REFUSED);
    until_spooling(s, true);
    a_call_each(s, "!clash", 0, 3);
    memory[0]->status = CD_ACCEPTED;
    CHECK_INT(kit_put(s, kit_change(memory[0], 1)), CD_STORE_OK);
    other = kit_open_pg(kit_url);
    if (!CHECK(other))
        return;
    CHECK_INT(kit_put(other, kit_change(rival, 0)), CD_STORE_OK);
    displaced[0] = '\0';
    heal(REFUSED);
    until_spooling(s, false);
    CHECK_STR(displaced, memory[0]->id);
    CHECK_INT(stats_of(s).spool_displaced, 1);
    CHECK_INT(stats_of(s).spool_rejected, 0);
    CHECK_INT(count("call_sessions WHERE room_id LIKE '!clash%'"), 4);
    CHECK_INT(count("call_sessions WHERE room_id = '!clash0:x' AND version = 2 AND status = 'ended' AND end_reason = 'replaced'"), 1);
    CHECK_INT(count("call_events e JOIN call_sessions c ON c.id = e.call_session_id WHERE c.room_id = '!clash0:x'"), 3);
    memory[0]->status = CD_ENDED; /* as its daemon then does */
    CHECK_INT(kit_put(s, kit_change(memory[0], 2)), CD_STORE_OK);
    rival->status = CD_ENDED;
    CHECK_INT(kit_put(other, kit_change(rival, 1)), CD_STORE_OK);
    other->ops->close(other);
    s->ops->close(s);
    proxy_done(&P);
    cd_call_free(rival);
    forget();
}

/* The call was stored, but its row has gone, and another daemon's call stands there: the record of a later
 * change says all that is left. */
static void a_lost_row_whose_place_is_taken(void)
{
    struct cd_call *rival = kit_call("!lost0:x", "@b:x", "@a:x");
    struct cd_store *s = open_through_proxy(), *other = kit_open_pg(kit_url);
    char sql[160];

    if (!CHECK(s) || !CHECK(other))
        return;
    a_call_each(s, "!lost", 0, 1);
    strike(REFUSED);
    until_spooling(s, true);
    memory[0]->status = CD_ACCEPTED;
    CHECK_INT(kit_put(s, kit_change(memory[0], 1)), CD_STORE_OK);
    snprintf(sql, sizeof sql, "DELETE FROM %s.call_sessions WHERE id = '%s'", kit_schema, memory[0]->id);
    free(kit_sql(sql));
    CHECK_INT(kit_put(other, kit_change(rival, 0)), CD_STORE_OK);
    displaced[0] = '\0';
    heal(REFUSED);
    until_spooling(s, false);
    CHECK_STR(displaced, memory[0]->id);
    CHECK_INT(stats_of(s).spool_rejected, 0);
    CHECK_INT(count("call_sessions WHERE room_id = '!lost0:x' AND version = 2 AND status = 'ended'"), 1);
    CHECK_INT(count("call_sessions WHERE room_id = '!lost0:x' AND status = 'ringing'"), 1);
    rival->status = CD_ENDED;
    CHECK_INT(kit_put(other, kit_change(rival, 1)), CD_STORE_OK);
    other->ops->close(other);
    s->ops->close(s);
    proxy_done(&P);
    cd_call_free(rival);
    forget();
}

static struct cd_store *yielder;
static cd_spool_yield_fn yield_fn;
static void *yield_arg;

static void on_yielded(void *arg, enum cd_store_rc rc, const char *live)
{
    (void)arg;
    (void)live;
    yield_fn(yield_arg, rc == CD_STORE_OK);
}

/* As the daemon does: it ends the older one. */
static void on_yield(void *arg, struct cd_stored_call *older, cd_spool_yield_fn fn, void *fn_arg)
{
    static struct cd_call *row;
    struct cd_change *ch;

    (void)arg;
    cd_call_free(row);
    row = older->call;
    older->call = NULL;
    cd_stored_call_free(older);
    yield_fn = fn;
    yield_arg = fn_arg;
    if (!yielder)
        return;
    row->status = CD_ENDED;
    ch = kit_change(row, row->version);
    yielder->ops->commit(yielder, ch, on_yielded, NULL);
}

/* A call of ours that this process did not know of: it has to end before the newer one is written. */
static void an_older_call_of_ours_yields(void)
{
    struct cd_store *s = open_through_proxy();

    if (!CHECK(s))
        return;
    a_call_each(s, "!older", 0, 2);
    forget(); /* as a restart without the database does */
    strike(REFUSED);
    until_spooling(s, true);
    yielder = s;
    memory[0] = kit_call("!older0:x", "@b:x", "@a:x");
    CHECK_INT(kit_put(s, kit_change(memory[0], 0)), CD_STORE_OK);
    memory[0]->status = CD_CONNECTED;
    CHECK_INT(kit_put(s, kit_change(memory[0], 1)), CD_STORE_OK);
    heal(REFUSED);
    until_spooling(s, false);
    yielder = NULL;
    CHECK_INT(stats_of(s).spool_displaced, 1);
    CHECK_INT(stats_of(s).spool_rejected, 0);
    CHECK_INT(count("call_sessions WHERE room_id = '!older0:x' AND status = 'ended'"), 1);
    CHECK_INT(count("call_sessions WHERE room_id = '!older0:x' AND status = 'connected'"), 1);
    CHECK_INT(count("call_sessions WHERE room_id = '!older1:x' AND status = 'ringing'"), 1);
    s->ops->close(s);
    proxy_done(&P);
    forget();
}

/* Only what the database never heard of is certainly ours alone. */
static void who_may_act_while_it_is_away(void)
{
    struct cd_store *s = open_through_proxy(), *peer;

    if (!CHECK(s))
        return;
    a_call_each(s, "!act", 0, 1);
    peer = kit_open_pg(kit_url);
    if (!CHECK(peer))
        return;
    UNTIL(stats_of(s).peers > 0);
    strike(HUNG);
    until_spooling(s, true);
    a_call_each(s, "!act", 1, 2);
    CHECK(s->ops->may_act(s, memory[0]->id));
    pg_of(spool_of(s)->pg)->lease.renewed_ms -= 25000; /* as if so much time had gone by */
    CHECK(!s->ops->may_act(s, memory[0]->id)); /* the other may have claimed it */
    CHECK(s->ops->may_act(s, memory[1]->id));
    CHECK(!s->ops->may_act(s, NULL));
    heal(HUNG);
    until_spooling(s, false);
    UNTIL(s->ops->may_act(s, memory[0]->id));
    CHECK(s->ops->may_act(s, memory[1]->id));
    peer->ops->close(peer);
    s->ops->close(s);
    proxy_done(&P);
    forget();
}

/* @return a call that runs, started under @p key, or NULL */
static struct cd_call *start_under(struct cd_store *s, const char *room, const char *key, enum cd_store_rc rc)
{
    struct cd_call *c = kit_call(room, "@a:x", "@b:x");
    struct cd_change *ch = kit_change(c, 0);
    char response[64];

    snprintf(response, sizeof response, "{\"started\": \"%s\"}", room);
    kit_idem(ch, "@a:x", key, 201, response, cd_wall_ms());
    if (CHECK_INT(kit_put(s, ch), rc) && rc == CD_STORE_OK)
        return c;
    cd_call_free(c);
    return NULL;
}

static void is_kept(struct cd_store *s, const char *key, const struct cd_call *c)
{
    const struct cd_idem_row *row = kit_idem_get(s, "@a:x", key);

    if (CHECK(row) && CHECK(c)) {
        CHECK_INT(row->status, 201);
        CHECK_STR(row->call_id, c->id);
        CHECK(strstr(row->response, c->room_id) != NULL);
        CHECK(memcmp(row->request_hash, kit_hash_of("request"), 16) == 0);
    }
}

/* When the database goes away clients repeat what they have sent: what was answered under a key just
 * before, or asked about, is known; and what was answered meanwhile is known at the next time. */
static void keys_outlive_the_database(void)
{
    struct cd_store *s = open_through_proxy();
    struct cd_call *live, *over, *away, *fresh;
    char sql[512];

    if (!CHECK(s))
        return;
    live = start_under(s, "!keys1:x", "live", CD_STORE_OK);
    over = start_under(s, "!keys2:x", "over", CD_STORE_OK);
    if (!CHECK(live && over))
        return;
    over->status = CD_ENDED;
    CHECK_INT(kit_put(s, kit_change(over, 1)), CD_STORE_OK);
    snprintf(sql, sizeof sql, "INSERT INTO %s.idempotency_keys (user_id, key, request_hash, status, response,"
             " call_session_id, created_at)"
             " VALUES ('@c:x', 'theirs', decode('%032d', 'hex'), 200, '{}', '', now()),"
             " ('@c:x', 'unasked', decode('%032d', 'hex'), 200, '{}', '', now())", kit_schema, 0, 0);
    free(kit_sql(sql));
    CHECK(kit_idem_get(s, "@c:x", "theirs")); /* another daemon's */

    strike(HUNG);
    until_spooling(s, true);
    is_kept(s, "live", live);
    is_kept(s, "over", over);
    CHECK(kit_idem_get(s, "@c:x", "theirs"));
    CHECK(!kit_idem_get(s, "@b:x", "live")); /* keys belong to their user */
    CHECK(!kit_idem_get(s, "@c:x", "unasked")); /* nobody here has seen it: as a new one */
    start_under(s, "!keys3:x", "over", CD_STORE_LOST_RACE);
    away = start_under(s, "!keys4:x", "away", CD_STORE_OK);
    is_kept(s, "away", away);
    heal(HUNG);
    until_spooling(s, false);
    is_kept(s, "live", live);
    is_kept(s, "away", away);
    fresh = start_under(s, "!keys5:x", "fresh", CD_STORE_OK);

    strike(REFUSED);
    until_spooling(s, true);
    is_kept(s, "live", live);
    is_kept(s, "away", away);
    is_kept(s, "fresh", fresh);
    start_under(s, "!keys6:x", "away", CD_STORE_LOST_RACE);
    heal(REFUSED);
    until_spooling(s, false);
    CHECK_INT(count("call_sessions WHERE room_id LIKE '!keys%'"), 4);
    CHECK_INT(count("idempotency_keys WHERE key IN ('live', 'over', 'away', 'fresh')"), 4);
    CHECK_INT(stats_of(s).spool_rejected, 0);
    s->ops->close(s);
    proxy_done(&P);
    cd_call_free(live);
    cd_call_free(over);
    cd_call_free(away);
    cd_call_free(fresh);
}

/* An event of Matrix with a key, and the end of a call that is known: no disk takes them, not even the
 * reserve. Both are sent again, and must not be met as known. */
static void what_was_refused_is_new(void)
{
    struct cd_store *s = kit_open_spool("postgresql://nobody@127.0.0.1:1/none", true, 64, in_memory);
    struct cd_call *over;

    if (!CHECK(s))
        return;
    cd_log_setup(CD_LOG_ERROR + 1, 0); /* it complains, and should */
    a_call_each(s, "!again", 0, 1);
    over = cd_call_clone(memory[0]);
    over->status = CD_ENDED;
    for (int back = 0; back < 2; back++) {
        enum cd_store_rc rc = back ? CD_STORE_OK : CD_STORE_FULL;
        struct cd_call *c = kit_call("!anew:x", "@a:x", "@b:x");
        struct cd_change *ch = kit_change(c, 0);

        limit_files(back ? RLIM_INFINITY : 1);
        if (back)
            UNTIL(!stats_of(s).spool_full);
        kit_hash(ch, 0, "$anew");
        kit_idem(ch, "@a:x", "anew", 201, "{}", cd_wall_ms());
        CHECK_INT(kit_put(s, ch), rc);
        CHECK(!kit_idem_get(s, "@a:x", "anew") == !back);
        CHECK_INT(kit_put(s, kit_change(over, 1)), rc);
        cd_call_free(c);
    }
    cd_log_setup(CD_LOG_ERROR, 0);
    s->ops->close(s);
    cd_call_free(over);
    s = kit_open_spool(kit_url, false, 64, in_memory);
    if (!CHECK(s))
        return;
    CHECK_INT(count("call_sessions WHERE room_id = '!anew:x'"), 1);
    CHECK_INT(count("call_sessions WHERE room_id LIKE '!again%' AND status = 'ended'"), 1);
    CHECK_INT(stats_of(s).spool_rejected, 0);
    s->ops->close(s);
    forget();
}

/* Spooled, and the call was over in the database before it came there. */
static void what_comes_behind_an_end_is_let_go(void)
{
    struct cd_store *s = open_through_proxy(), *other = kit_open_pg(kit_url);
    struct cd_change *ch;
    struct cd_call *theirs;

    if (!CHECK(s) || !CHECK(other))
        return;
    a_call_each(s, "!behind", 0, 1);
    strike(REFUSED);
    until_spooling(s, true);
    ch = cd_change_new(memory[0]->id);
    kit_outbox(ch, "behind-answer", 1, 1, "{}");
    CHECK_INT(kit_put(s, ch), CD_STORE_OK);
    theirs = cd_call_clone(memory[0]);
    theirs->status = CD_CANCELED;
    CHECK_INT(kit_put(other, kit_change(theirs, 1)), CD_STORE_OK);
    heal(REFUSED);
    until_spooling(s, false);
    CHECK_INT(stats_of(s).spool_rejected, 0);
    CHECK_INT(count("matrix_outbox WHERE txn_id = 'behind-answer'"), 0);
    CHECK_INT(count("matrix_outbox WHERE txn_id = '!behind-0'"), 1);
    cd_call_free(theirs);
    other->ops->close(other);
    s->ops->close(s);
    proxy_done(&P);
    forget();
}

static void all(void)
{
    split_url();
    kit_spool_begin();
    kit_yield = on_yield;
    kit_displaced = on_displaced;
    TAP_RUN(refused);
    TAP_RUN(reset);
    TAP_RUN(hung);
    TAP_RUN(found_after_a_crash);
    TAP_RUN(full);
    TAP_RUN(disk_full);
    TAP_RUN(what_was_refused_is_new);
    TAP_RUN(what_comes_behind_an_end_is_let_go);
    TAP_RUN(a_record_that_is_refused_stops_nobody);
    TAP_RUN(a_call_that_another_daemon_was_faster_with);
    TAP_RUN(a_lost_row_whose_place_is_taken);
    TAP_RUN(an_older_call_of_ours_yields);
    TAP_RUN(who_may_act_while_it_is_away);
    TAP_RUN(keys_outlive_the_database);
    kit_spool_end();
}

int main(void)
{
    return kit_postgres_main(all);
}

/* store_pg_test.c -- what only a database can suffer: lost connections, lost answers, rivals, absence.
 * Needs CALLD_TEST_DATABASE_URL (TCP on loopback). */
#define TAP_SECONDS 240
#include "tap.h"

#include <stdlib.h>

#include "store_await.h"
#include "store_kit.h"
#include "store_proxy.h"
#include "store_url.h"

static struct cd_store *open_at(const char *url, const char *schema, size_t max_queue,
                                struct kit_done *ready)
{
    const struct cd_pg_conf conf = {.url = url, .schema = schema, .max_queue = max_queue};

    memset(ready, 0, sizeof *ready);
    return cd_store_pg_open(await.loop, &conf, kit_on_done, ready);
}

static void kill_writers(void)
{
    free(kit_sql("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                 " WHERE application_name LIKE 'matrix-calld write%'"));
}

static long long events_of(const char *room)
{
    char sql[256];

    snprintf(sql, sizeof sql, "SELECT count(*) FROM %s.call_events e JOIN %s.call_sessions s"
                              " ON s.id = e.call_session_id WHERE s.room_id LIKE '%s%%'",
             kit_schema, kit_schema, room);
    return kit_sql_int(sql);
}

#define MANY 300

/* The backend is killed again and again under load: every change is in, and is in once. */
static void a_killed_backend_costs_nothing(void)
{
    struct cd_store *s = kit_open_pg(kit_url);
    static struct cd_call *c[MANY];
    static struct kit_commit r[MANY];
    struct cd_store_stats st;
    char room[40];
    int bad = 0;

    if (!CHECK(s))
        return;
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < MANY; i++) {
            snprintf(room, sizeof room, "!killed%d:x", i);
            if (round == 0)
                c[i] = kit_call(room, "@a:x", "@b:x");
            else
                c[i]->status = CD_ACCEPTED;
            kit_submit(s, kit_change(c[i], (uint64_t)round), &r[i]);
            if (i % 60 == 30) {
                do {
                    await_yield(); /* the batch is on its way */
                    s->ops->stats(s, &st);
                } while (!st.connected);
                kill_writers();
            }
            if (i % 25 == 0)
                await_yield();
        }
        for (int i = 0; i < MANY; i++) {
            UNTIL(r[i].done);
            bad += r[i].rc != CD_STORE_OK;
        }
    }
    CHECK_INT(bad, 0);
    CHECK_INT(events_of("!killed"), 2 * MANY);
    s->ops->stats(s, &st);
    CHECK(st.reconnects >= 5);
    CHECK(st.connected);
    for (int i = 0; i < MANY; i++)
        cd_call_free(c[i]);
    s->ops->close(s);
}

/* The transaction commits, but its answer is lost: it must not be written again, nor be called lost. */
static void a_lost_answer_is_not_a_lost_change(void)
{
    struct proxy p;
    struct cd_store *s;
    struct cd_call *c = kit_call("!lost:x", "@a:x", "@b:x"), *d = kit_call("!lost2:x", "@a:x", "@b:x");
    struct kit_commit r[3];
    struct kit_done ready;
    struct cd_change *ch;
    size_t before;

    if (!CHECK(proxy_init(&p, atoi(part_port))) || !CHECK(proxy_listen(&p)))
        return;
    s = open_at(url_at("127.0.0.1", p.port), kit_schema, 0, &ready);
    UNTIL(ready.done);
    CHECK_INT(ready.rc, CD_STORE_OK);
    CHECK_INT(kit_put(s, kit_change(c, 0)), CD_STORE_OK);

    for (int round = 0; round < 3; round++) {
        proxy_swallow(&p, true);
        before = p.swallowed;
        c->status = round % 2 ? CD_CONNECTED : CD_ACCEPTED;
        ch = kit_change(c, c->version);
        kit_hash(ch, 0, round == 0 ? "$l0" : round == 1 ? "$l1" : "$l2");
        kit_submit(s, ch, &r[0]);
        UNTIL(p.swallowed > before && events_of("!lost:") == 2 + round); /* it is in, nobody was told */
        CHECK(!r[0].done);
        proxy_swallow(&p, false);
        proxy_cut_all(&p);
        UNTIL(r[0].done);
        CHECK_INT(r[0].rc, CD_STORE_OK);
        CHECK_INT(events_of("!lost:"), 2 + round);
    }
    /* the same for a batch whose ops had to be judged one by one */
    proxy_swallow(&p, true);
    kit_submit(s, kit_change(d, 0), &r[0]);
    c->version = 1;
    kit_submit(s, kit_change(c, 1), &r[1]); /* lost race: fails the batch */
    UNTIL(p.swallowed > before);
    proxy_swallow(&p, false);
    proxy_cut_all(&p);
    UNTIL(r[0].done && r[1].done);
    CHECK_INT(r[0].rc, CD_STORE_OK);
    CHECK_INT(r[1].rc, CD_STORE_LOST_RACE);
    CHECK_INT(events_of("!lost2"), 1);
    cd_call_free(c);
    cd_call_free(d);
    s->ops->close(s);
    proxy_done(&p);
}

/* A hung server and a swallowed answer look the same from here: the connection stands. */
static void a_server_that_hangs_is_not_connected(void)
{
    struct proxy p;
    struct cd_store *s;
    struct cd_call *c = kit_call("!hung:x", "@a:x", "@b:x");
    struct kit_commit r;
    struct kit_done ready;
    struct cd_store_stats st;

    if (!CHECK(proxy_init(&p, atoi(part_port))) || !CHECK(proxy_listen(&p)))
        return;
    s = open_at(url_at("127.0.0.1", p.port), kit_schema, 0, &ready);
    UNTIL(ready.done);
    CHECK_INT(kit_put(s, kit_change(c, 0)), CD_STORE_OK);
    s->ops->stats(s, &st);
    CHECK(st.connected);
    proxy_swallow(&p, true);
    c->status = CD_ACCEPTED;
    kit_submit(s, kit_change(c, c->version), &r);
    s->ops->stats(s, &st);
    CHECK(st.connected); /* not yet */
    do {
        await_yield();
        s->ops->stats(s, &st);
    } while (st.connected && !r.done);
    CHECK(!r.done);
    CHECK_INT(st.reconnects, 0);
    proxy_swallow(&p, false);
    proxy_cut_all(&p);
    UNTIL(r.done);
    CHECK_INT(r.rc, CD_STORE_OK);
    s->ops->stats(s, &st);
    CHECK(st.connected);
    cd_call_free(c);
    s->ops->close(s);
    proxy_done(&p);
}

/* Loads that were under way are asked again. */
static void a_lost_read_is_read_again(void)
{
    struct proxy p;
    struct cd_store *s;
    struct cd_call *c = kit_call("!reread:x", "@a:x", "@b:x");
    struct kit_done ready;

    if (!CHECK(proxy_init(&p, atoi(part_port))) || !CHECK(proxy_listen(&p)))
        return;
    s = open_at(url_at("127.0.0.1", p.port), kit_schema, 0, &ready);
    UNTIL(ready.done);
    CHECK_INT(kit_put(s, kit_change(c, 0)), CD_STORE_OK);
    cd_stored_call_free(kit_load(s, c->id));
    proxy_swallow(&p, true);
    p.swallowed = 0;
    kit_loaded.done = false;
    s->ops->load_call(s, c->id, kit_on_load, NULL);
    UNTIL(p.swallowed > 0);
    proxy_swallow(&p, false);
    proxy_cut_all(&p);
    UNTIL(kit_loaded.done);
    CHECK_INT(kit_loaded.rc, CD_STORE_OK);
    if (CHECK(kit_loaded.call))
        CHECK_INT(kit_loaded.call->n_events, 1);
    cd_stored_call_free(kit_loaded.call);
    cd_call_free(c);
    s->ops->close(s);
    proxy_done(&p);
}

/* --- two daemons on one database -------------------------------------------------------------- */

#define RACES 40

static void two_stores_race_and_one_wins(void)
{
    struct cd_store *s[2] = {kit_open_pg(kit_url), kit_open_pg(kit_url)};
    static struct cd_call *c[RACES][2];
    static struct kit_commit r[RACES][2];
    char room[40], event[40];
    int won = 0, lost = 0, told = 0;

    if (!CHECK(s[0] && s[1]))
        return;
    for (int i = 0; i < RACES; i++) { /* the same pair rings each other */
        snprintf(room, sizeof room, "!race%d:x", i);
        for (int k = 0; k < 2; k++) {
            c[i][k] = kit_call(room, k ? "@a:x" : "@b:x", k ? "@b:x" : "@a:x");
            kit_submit(s[k], kit_change(c[i][k], 0), &r[i][k]);
        }
    }
    for (int i = 0; i < RACES; i++) {
        UNTIL(r[i][0].done && r[i][1].done);
        for (int k = 0; k < 2; k++) {
            won += r[i][k].rc == CD_STORE_OK;
            lost += r[i][k].rc == CD_STORE_CALL_EXISTS;
            told += r[i][k].rc == CD_STORE_CALL_EXISTS && strcmp(r[i][k].live, c[i][!k]->id) == 0;
        }
    }
    CHECK_INT(won, RACES);
    CHECK_INT(lost, RACES);
    CHECK_INT(told, RACES);
    won = lost = 0;
    for (int i = 0; i < RACES; i++) { /* both answer the call that won; a Matrix event for every other */
        struct cd_call *w = c[i][r[i][0].rc == CD_STORE_OK ? 0 : 1];

        for (int k = 0; k < 2; k++) {
            struct cd_change *ch;

            w->status = CD_ACCEPTED;
            ch = kit_change(w, 1);
            snprintf(event, sizeof event, "$race%d", i);
            if (i % 2)
                kit_hash(ch, 0, event);
            kit_submit(s[k], ch, &r[i][k]);
        }
    }
    for (int i = 0; i < RACES; i++) {
        UNTIL(r[i][0].done && r[i][1].done);
        for (int k = 0; k < 2; k++) {
            won += r[i][k].rc == CD_STORE_OK;
            lost += r[i][k].rc == (i % 2 ? CD_STORE_DUPLICATE : CD_STORE_LOST_RACE);
        }
    }
    CHECK_INT(won, RACES);
    CHECK_INT(lost, RACES);
    CHECK_INT(events_of("!race"), 2 * RACES);
    for (int i = 0; i < RACES; i++)
        for (int k = 0; k < 2; k++)
            cd_call_free(c[i][k]);
    s[0]->ops->close(s[0]);
    s[1]->ops->close(s[1]);
}

/* --- batches ---------------------------------------------------------------------------------- */

static void what_arrives_meanwhile_shares_a_batch(void)
{
    struct cd_store *s = kit_open_pg(kit_url);
    static struct cd_call *c[1000];
    static struct kit_commit r[1000];
    struct cd_store_stats st;
    char room[40];
    int ok = 0;

    if (!CHECK(s))
        return;
    for (int i = 0; i < 1000; i++) {
        snprintf(room, sizeof room, "!batch%d:x", i);
        c[i] = kit_call(room, "@a:x", "@b:x");
        kit_submit(s, kit_change(c[i], 0), &r[i]);
    }
    for (int i = 0; i < 1000; i++) {
        UNTIL(r[i].done);
        ok += r[i].rc == CD_STORE_OK;
        cd_call_free(c[i]);
    }
    s->ops->stats(s, &st);
    CHECK_INT(ok, 1000);
    CHECK(st.batches <= 8);
    CHECK_INT(st.batch_reruns, 0);
    s->ops->close(s);
}

/* --- absence ---------------------------------------------------------------------------------- */

static void without_a_database_the_answer_is_down(void)
{
    struct proxy p;
    struct cd_store *s;
    struct cd_call *c = kit_call("!down:x", "@a:x", "@b:x");
    struct kit_done ready, flushed = {0};
    struct kit_commit r[4];
    struct kit_all all = {0};
    struct cd_store_stats st;

    if (!CHECK(proxy_init(&p, 1)))
        return;
    s = open_at(url_at("127.0.0.1", p.port), kit_schema, 3, &ready);
    UNTIL(ready.done);
    CHECK_INT(ready.rc, CD_STORE_DOWN);
    for (int i = 0; i < 4; i++)
        kit_submit(s, kit_change(c, 0), &r[i]);
    CHECK(!r[3].done);
    UNTIL(r[3].done);
    CHECK_INT(r[3].rc, CD_STORE_FULL); /* max_queue is 3 */
    CHECK(!r[0].done);
    s->ops->load_live(s, kit_on_all, &all);
    s->ops->flush(s, kit_on_done, &flushed);
    s->ops->stats(s, &st);
    CHECK(!st.connected);
    UNTIL(r[0].done && r[1].done && r[2].done && all.done && flushed.done);
    CHECK_INT(r[0].rc, CD_STORE_DOWN);
    CHECK_INT(r[2].rc, CD_STORE_DOWN);
    CHECK_INT(all.rc, CD_STORE_DOWN);
    CHECK_INT(flushed.rc, CD_STORE_DOWN);
    CHECK_INT(events_of("!down"), 0);
    cd_call_free(c);
    s->ops->close(s);
    proxy_done(&p);
}

static void changes_wait_for_a_database_that_comes(void)
{
    struct proxy p;
    struct cd_store *s;
    struct cd_call *c = kit_call("!later:x", "@a:x", "@b:x");
    struct kit_done ready;
    struct kit_commit r;
    struct cd_stored_call *sc;

    if (!CHECK(proxy_init(&p, atoi(part_port))))
        return;
    s = open_at(url_at("127.0.0.1", p.port), kit_schema, 0, &ready);
    UNTIL(ready.done);
    CHECK_INT(ready.rc, CD_STORE_DOWN);
    kit_submit(s, kit_change(c, 0), &r);
    CHECK(proxy_listen(&p));
    UNTIL(r.done);
    CHECK_INT(r.rc, CD_STORE_OK);
    sc = kit_load(s, c->id);
    CHECK(sc);
    cd_stored_call_free(sc);
    cd_call_free(c);
    s->ops->close(s);
    proxy_done(&p);
}

static void a_missing_schema_is_waited_for(void)
{
    char schema[80], sql[160];
    struct cd_migrate_conf conf = {.url = kit_url, .schema = schema, .to = -1, .wait = true};
    struct cd_call *c = kit_call("!schema:x", "@a:x", "@b:x");
    struct cd_store *s;
    struct kit_done ready;
    struct kit_commit r;
    struct cd_err err;

    snprintf(schema, sizeof schema, "%s_late", kit_schema);
    cd_log_setup(CD_LOG_ERROR + 1, 0); /* it complains, and should */
    s = open_at(kit_url, schema, 0, &ready);
    UNTIL(ready.done);
    cd_log_setup(CD_LOG_ERROR, 0);
    CHECK_INT(ready.rc, CD_STORE_DOWN);
    kit_submit(s, kit_change(c, 0), &r);
    CHECK_INT(cd_migrate(&conf, NULL, &err), CD_OK);
    UNTIL(r.done);
    CHECK_INT(r.rc, CD_STORE_OK);
    cd_call_free(c);
    s->ops->close(s);
    snprintf(sql, sizeof sql, "SET client_min_messages = error; DROP SCHEMA %s CASCADE", schema);
    free(kit_sql(sql));
}

static void host_names_are_resolved_off_the_loop(void)
{
    struct cd_store *s;
    struct kit_done ready;

    if (strcmp(part_host, "127.0.0.1") != 0)
        TAP_SKIP("the test database is not on 127.0.0.1");
    s = open_at(url_at("localhost", atoi(part_port)), kit_schema, 0, &ready);
    UNTIL(ready.done);
    CHECK_INT(ready.rc, CD_STORE_OK);
    s->ops->close(s);
    s = open_at(url_at("no-such-host.invalid", 1), kit_schema, 0, &ready);
    s->ops->close(s); /* while the name is being looked up */
    s = open_at(url_at("127.0.0.2,localhost", atoi(part_port)), kit_schema, 0, &ready);
    UNTIL(ready.done);
    CHECK_INT(ready.rc, CD_STORE_OK);
    s->ops->close(s);
    cd_log_setup(CD_LOG_ERROR + 1, 0); /* it complains, and should */
    CHECK(!open_at("postgresql://u:secret@[x", kit_schema, 0, &ready));
    cd_log_setup(CD_LOG_ERROR, 0);
}

/* --- what is kept how long -------------------------------------------------------------------- */

/* Rows of calls that began @p days ago: their ids say so, as ours do. */
static void old_calls(const char *mark, int n, int days, const char *status)
{
    bool over = strcmp(status, "ended") == 0;
    char sql[2400];

    snprintf(sql, sizeof sql,
             "SET search_path = %s; WITH c AS (INSERT INTO call_sessions (id, room_id, caller, callee, call_type, kind, media,"
             " origin, status, matrix_signalling, initiated_at, ended_at, ring_expires_at, ring_seconds, version, seq)"
             " SELECT 'z' || lpad(to_hex((extract(epoch FROM t) * 1000)::bigint), 12, '0') || lpad(to_hex(n), 20, '0'),"
             " '!%s' || n, '@a:x', '@b:x', 'video', 'direct', 'p2p', 'rest', '%s', 'off', t, %s, t, 60, 1, 1"
             " FROM generate_series(1, %d) n, (SELECT now() - interval '%d days' AS t) x RETURNING id),"
             " p AS (INSERT INTO call_participants (call_session_id, position, user_id, state, side, audio_enabled,"
             " video_enabled, screen_sharing) SELECT id, 0, '@a:x', 'left', 'ours', true, true, false FROM c),"
             " e AS (INSERT INTO call_events (call_session_id, seq, event_type, created_at) SELECT id, 1, 'initiated',"
             " now() FROM c) SELECT count(*) FROM c",
             kit_schema, mark, status, over ? "t + interval '1 minute'" : "NULL", n, days);
    free(kit_sql(sql));
}

static long long left(const char *what)
{
    char sql[400];

    snprintf(sql, sizeof sql, "SET search_path = %s; SELECT count(*) FROM %s", kit_schema, what);
    return kit_sql_int(sql);
}

static void other_old_rows(void)
{
    char sql[2000];

    snprintf(sql, sizeof sql,
             "SET search_path = %s; INSERT INTO seen_events (hash, seen_at) SELECT decode(lpad(to_hex(n), 32, 'e'), 'hex'),"
             " now() - interval '40 days' FROM generate_series(1, 120) n;"
             " INSERT INTO event_inbox (reason, size_bytes, raw, received_at) VALUES ('old', 1, 'x', now() - interval '40 days'),"
             " ('young', 1, 'x', now());"
             " INSERT INTO idempotency_keys (user_id, key, request_hash, status, response, call_session_id, created_at)"
             " VALUES ('@a:x', 'old', '\\x00', 201, '{}', 'z', now() - interval '2 days'),"
             " ('@a:x', 'young', '\\x00', 201, '{}', 'z', now());"
             " INSERT INTO sealed_tokens (user_id, device_id, sealed, updated_at) VALUES"
             " ('@nobody:x', 'D', 'x', now() - interval '2 days'), ('@fresh:x', 'D', 'x', now()), ('@a:x', 'D', 'x',"
             " now() - interval '2 days');"
             " INSERT INTO room_members (room_id, user_id, joined, updated_at) SELECT '!old-room:x', '@m' || n || ':x', true,"
             " now() - interval '91 days' FROM generate_series(1, 60) n;"
             " INSERT INTO room_members (room_id, user_id, joined, updated_at) VALUES"
             " ('!old-room:x', '@young:x', true, now() - interval '89 days'); SELECT 1", kit_schema);
    free(kit_sql(sql));
}

/* Old rows go, some dozens at a time, and calls go on meanwhile. */
static void what_is_old_goes(void)
{
    const struct cd_pg_conf conf = {.url = kit_url, .schema = kit_schema,
                                    .keep = {.on = true, .calls_days = 90, .stats_days = 30, .seen_days = 30, .inbox_days = 30,
                                             .members_days = 90}};
    struct cd_store *s;
    struct cd_store_stats st = {0};
    struct kit_done ready = {0};
    unsigned commits = 0;
    char room[40];

    old_calls("keep-a", 230, 100, "ended");
    old_calls("keep-b", 5, 80, "ended");
    old_calls("keep-c", 1, 100, "ringing");
    other_old_rows();
    s = cd_store_pg_open(await.loop, &conf, kit_on_done, &ready);
    if (!CHECK(s))
        return;
    do {
        struct cd_call *c;

        snprintf(room, sizeof room, "!meanwhile%u:x", commits++);
        c = kit_call(room, "@a:x", "@b:x");
        CHECK_INT(kit_put(s, kit_change(c, 0)), CD_STORE_OK);
        cd_call_free(c);
        s->ops->stats(s, &st);
    } while (st.expired_rows < 230 + 120 + 1 + 1 + 60 + 1 && !tap.failed_checks);
    CHECK_INT(left("call_sessions WHERE room_id LIKE '!keep-a%'"), 0);
    CHECK_INT(left("call_participants p WHERE NOT EXISTS (SELECT FROM call_sessions s WHERE s.id = p.call_session_id)"), 0);
    CHECK_INT(left("call_events e WHERE NOT EXISTS (SELECT FROM call_sessions s WHERE s.id = e.call_session_id)"), 0);
    CHECK_INT(left("call_sessions WHERE room_id LIKE '!keep-b%'"), 5);
    CHECK_INT(left("call_sessions WHERE room_id LIKE '!keep-c%'"), 1); /* not over */
    CHECK_INT(left("seen_events WHERE seen_at < now() - interval '30 days'"), 0);
    CHECK_INT(left("event_inbox WHERE reason = 'old'"), 0);
    CHECK_INT(left("event_inbox WHERE reason = 'young'"), 1);
    CHECK_INT(left("idempotency_keys WHERE key = 'old'"), 0);
    CHECK_INT(left("idempotency_keys WHERE key = 'young'"), 1);
    CHECK_INT(left("room_members WHERE room_id = '!old-room:x'"), 1); /* @young:x */
    CHECK_INT(left("sealed_tokens WHERE user_id = '@nobody:x'"), 0);
    CHECK_INT(left("sealed_tokens WHERE user_id IN ('@fresh:x', '@a:x')"), 2); /* @a:x is in a live call */
    CHECK_INT(left("call_sessions WHERE room_id LIKE '!meanwhile%'"), commits);
    printf("# %u calls were stored while %llu old rows went\n", commits, (unsigned long long)st.expired_rows);
    s->ops->close(s);
}

/* --- memberships ------------------------------------------------------------------------------ */

static struct {
    int slices, most; /* rows */
    long long rows;
    bool done;
    char before[600]; /* room and user of the last row */
    int disorder;
    long oldest; /* the number in a user's name: how many seconds ago it was heard of */
    enum cd_store_rc rc;
} members;

static void on_slice(void *arg, enum cd_store_rc rc, const struct cd_member_row *rows, size_t n)
{
    char at[600];

    (void)arg;
    members.slices++;
    members.rows += (long long)n;
    members.most = (int)n > members.most ? (int)n : members.most;
    members.rc = rc;
    members.done = rc != CD_STORE_MORE;
    for (size_t i = 0; i < n; i++) {
        long age = strtol(rows[i].user_id + 2, NULL, 10);

        members.oldest = age > members.oldest ? age : members.oldest;
        snprintf(at, sizeof at, "%s %s", rows[i].room_id, rows[i].user_id);
        members.disorder += strcmp(at, members.before) <= 0;
        memcpy(members.before, at, sizeof at);
    }
}

static void fill_members(long long n)
{
    char sql[400];

    snprintf(sql, sizeof sql,
             "SET search_path = %s; DELETE FROM room_members; INSERT INTO room_members (room_id, user_id, joined, updated_at)"
             " SELECT '!r' || n / 50 || ':x', '@u' || n || ':x', true, now() - n * interval '1 second'"
             " FROM generate_series(1, %lld) n; SELECT 1", kit_schema, n);
    free(kit_sql(sql));
}

static void load_members(struct cd_store *s)
{
    memset(&members, 0, sizeof members);
    s->ops->members_load(s, on_slice, NULL);
    UNTIL(members.done);
    CHECK_INT(members.rc, CD_STORE_OK);
    CHECK_INT(members.disorder, 0); /* nor is one twice */
}

/* However many there are, the loop never has to take all of them at once, and memory not more than it keeps. */
static void members_come_in_slices(void)
{
    struct cd_store *s = kit_open_pg(kit_url);

    if (!CHECK(s))
        return;
    fill_members(0);
    load_members(s);
    CHECK_INT(members.rows, 0);
    fill_members(3500);
    load_members(s);
    CHECK_INT(members.rows, 3500);
    CHECK(members.slices > 3 && members.most < 3500);
    fill_members(3000); /* the last slice is a full one */
    load_members(s);
    CHECK_INT(members.rows, 3000);
    fill_members(CD_MEMBERS_MAX + 2500);
    load_members(s);
    CHECK_INT(members.rows, CD_MEMBERS_MAX);
    CHECK(members.oldest <= CD_MEMBERS_MAX + 1); /* the newest ones */
    fill_members(0);
    s->ops->close(s);
}

static void who_left_is_forgotten(void)
{
    struct cd_store *s = kit_open_pg(kit_url);
    char room[] = "!left:x", a[] = "@a:x", b[] = "@b:x", name[] = "Bea";
    const struct cd_member_row came[] = {{room, a, true, NULL, NULL}, {room, b, true, name, NULL}};
    const struct cd_member_row went[] = {{room, a, false, NULL, NULL}, {room, b, false, NULL, NULL},
                                         {room, a, true, NULL, NULL}};

    if (!CHECK(s))
        return;
    s->ops->members_put(s, came, 2);
    CHECK_INT(kit_flush(s), CD_STORE_OK);
    CHECK_INT(left("room_members WHERE room_id = '!left:x'"), 2);
    s->ops->members_put(s, went, 3); /* @a came back */
    CHECK_INT(kit_flush(s), CD_STORE_OK);
    CHECK_INT(left("room_members WHERE room_id = '!left:x'"), 1);
    CHECK_INT(left("room_members WHERE room_id = '!left:x' AND user_id = '@a:x' AND joined"), 1);
    s->ops->close(s);
}

static void all(void)
{
    split_url();
    TAP_RUN(a_killed_backend_costs_nothing);
    TAP_RUN(a_lost_answer_is_not_a_lost_change);
    TAP_RUN(a_server_that_hangs_is_not_connected);
    TAP_RUN(a_lost_read_is_read_again);
    TAP_RUN(two_stores_race_and_one_wins);
    TAP_RUN(what_arrives_meanwhile_shares_a_batch);
    TAP_RUN(without_a_database_the_answer_is_down);
    TAP_RUN(changes_wait_for_a_database_that_comes);
    TAP_RUN(a_missing_schema_is_waited_for);
    TAP_RUN(host_names_are_resolved_off_the_loop);
    TAP_RUN(what_is_old_goes);
    TAP_RUN(who_left_is_forgotten);
    TAP_RUN(members_come_in_slices);
}

int main(void)
{
    return kit_postgres_main(all);
}

/* store_kit.h -- what tests of the stores need: calls and changes to store, and stores that are waited
 * for. Included once a program, after tap.h and store_await.h. */
#ifndef STORE_KIT_H
#define STORE_KIT_H

#include <libpq-fe.h>

#include "base/log.h"
#include "base/secret.h"
#include "call/call.h"
#include "store/spool.h"

static const char *kit_name, *kit_url;
static char kit_schema[64];

/* --- stores ----------------------------------------------------------------------------------- */

/** Run SQL as the tests' own client, blocking. @return the first value, to be freed; NULL: none, error */
static inline char *kit_sql(const char *sql)
{
    PGconn *pg = PQconnectdb(kit_url);
    PGresult *res = PQexec(pg, sql);
    char *v = NULL;

    if (PQresultStatus(res) == PGRES_TUPLES_OK && PQntuples(res) && !PQgetisnull(res, 0, 0))
        v = strdup(PQgetvalue(res, 0, 0));
    else if (PQresultStatus(res) == PGRES_FATAL_ERROR)
        printf("# %s", PQerrorMessage(pg));
    PQclear(res);
    PQfinish(pg);
    return v;
}

static inline long long kit_sql_int(const char *sql)
{
    char *v = kit_sql(sql);
    long long n = v ? strtoll(v, NULL, 10) : -1;

    free(v);
    return n;
}

static inline bool kit_start(void)
{
    cd_log_setup(getenv("STORE_TEST_LOG") ? CD_LOG_DEBUG : CD_LOG_ERROR, 0);
    kit_url = getenv("CALLD_TEST_DATABASE_URL");
    snprintf(kit_schema, sizeof kit_schema, "store_test_%ld", (long)getpid());
    return cd_secret_init() == 0;
}

/** Drop the schema that kit_use_postgres made; the next one begins empty. */
static inline void kit_end(void)
{
    char sql[128];

    if (!kit_url || !*kit_url)
        return;
    snprintf(sql, sizeof sql, "SET client_min_messages = error; DROP SCHEMA IF EXISTS %s CASCADE",
             kit_schema);
    free(kit_sql(sql));
}

static inline void kit_use_memory(void)
{
    kit_name = "memory";
}

/** @return false: no database to test with */
static inline bool kit_use_postgres(void)
{
    const struct cd_migrate_conf conf = {.url = kit_url, .schema = kit_schema, .to = -1, .wait = true};
    struct cd_err err;

    if (!kit_url || !*kit_url)
        return false;
    kit_name = "postgresql";
    if (cd_migrate(&conf, NULL, &err) == CD_OK)
        return true;
    printf("Bail out! %s\n", err.text);
    exit(1);
}

/** What a test that needs PostgreSQL has as its main(): @p all runs inside a loop, on a schema of its own. */
static inline int kit_postgres_main(void (*all)(void))
{
    if (!kit_start())
        return 1;
    if (!kit_use_postgres()) {
        printf("1..0 # SKIP CALLD_TEST_DATABASE_URL is not set\n");
        return 0;
    }
    if (!await_run(all))
        return 1;
    kit_end();
    return tap_done();
}

struct kit_done {
    bool done;
    enum cd_store_rc rc;
};

static inline void kit_on_done(void *arg, enum cd_store_rc rc)
{
    struct kit_done *d = arg;

    d->done = true;
    d->rc = rc;
}

static inline struct cd_store *kit_open_pg(const char *url)
{
    const struct cd_pg_conf conf = {.url = url, .schema = kit_schema};
    struct kit_done d = {0};
    struct cd_store *s = cd_store_pg_open(await.loop, &conf, kit_on_done, &d);

    if (s)
        UNTIL(d.done);
    if (s && d.rc != CD_STORE_OK) {
        s->ops->close(s);
        return NULL;
    }
    return s;
}

/* A spool directory of this process's own. */
static struct cd_spool_dir kit_spool_dir;
static char kit_spool_path[96];
static enum { KIT_DIRECT, KIT_SPOOL, KIT_AWAY } kit_spool;

static inline void kit_spool_begin(void)
{
    struct cd_err err;

    snprintf(kit_spool_path, sizeof kit_spool_path, "/tmp/calld-spool-XXXXXX");
    if (!mkdtemp(kit_spool_path) || cd_spool_dir_open(kit_spool_path, &kit_spool_dir, &err) != CD_OK) {
        printf("Bail out! no spool directory\n");
        exit(1);
    }
}

static inline void kit_spool_end(void)
{
    static const char *const names[] = {"lock", "node", "reserve", "rejected"};

    for (int i = 1; i < 1000; i++) {
        char name[32];

        snprintf(name, sizeof name, "%010d.seg", i);
        unlinkat(kit_spool_dir.fd, name, 0);
    }
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        unlinkat(kit_spool_dir.fd, names[i], 0);
    cd_spool_dir_close(&kit_spool_dir);
    rmdir(kit_spool_path);
}

/** What the spool asks of the daemon; may be NULL. */
static void (*kit_yield)(void *arg, struct cd_stored_call *older, cd_spool_yield_fn fn, void *fn_arg);
static void (*kit_displaced)(void *arg, const char *call_id);

/** @param url  of a database that may be away. @param live  what is in memory, may be NULL */
static inline struct cd_store *kit_open_spool(const char *url, bool offline, long max_mb,
                                              void (*live)(void *arg, cd_spool_call_fn fn, void *fn_arg))
{
    struct kit_done d = {0};
    const struct cd_spool_conf conf = {
        .pg = {.url = url, .schema = kit_schema},
        .migrate = {.url = url, .schema = kit_schema, .to = -1, .wait = true},
        .dir = &kit_spool_dir,
        .max_mb = max_mb,
        .offline = offline,
        .ready = kit_on_done,
        .live = live,
        .yield = kit_yield,
        .displaced = kit_displaced,
        .arg = &d,
    };
    struct cd_err err = {0};
    struct cd_store *s = cd_store_spool_open(await.loop, &conf, &err);

    if (!s) {
        printf("# %s\n", err.text);
        return NULL;
    }
    UNTIL(d.done);
    return s;
}

static inline struct cd_store *kit_open(void)
{
    bool memory = strcmp(kit_name, "memory") == 0;
    struct cd_store *s = memory                   ? cd_store_mem_open(await.loop)
                         : kit_spool == KIT_SPOOL ? kit_open_spool(kit_url, false, 64, NULL)
                         : kit_spool == KIT_AWAY
                             ? kit_open_spool("postgresql://nobody@127.0.0.1:1/none", true, 64, NULL)
                             : kit_open_pg(kit_url);

    if (s && strcmp(s->ops->name, kit_name) != 0)
        printf("# the store calls itself %s\n", s->ops->name);
    return s;
}

/* --- calls and changes ------------------------------------------------------------------------ */

/** @param callee  NULL: a group call */
static inline struct cd_call *kit_call(const char *room, const char *caller, const char *callee)
{
    struct cd_call *c = cd_call_new();

    cd_id_call(cd_wall_ms(), c->id);
    cd_set_str(&c->room_id, room);
    cd_set_str(&c->caller, caller);
    cd_set_str(&c->callee, callee);
    c->kind = callee ? CD_DIRECT : CD_GROUP;
    c->mx_version = 1;
    c->ring_seconds = 60;
    c->initiated_at = cd_wall_ms();
    c->ring_expires_at = c->initiated_at + 60000;
    c->seq = 1;
    cd_call_add_participant(c, caller)->state = CD_P_JOINED;
    if (callee)
        cd_call_add_participant(c, callee)->state = CD_P_RINGING;
    return c;
}

/** A transition of @p c, whose version becomes the next, with one event of record. */
static inline struct cd_change *kit_change(struct cd_call *c, uint64_t expect)
{
    struct cd_change *ch = cd_change_new(c->id);

    c->version = expect + 1;
    ch->call = c;
    ch->expect_version = expect;
    cd_change_event(ch, c->version, expect ? "toggled" : "initiated", c->caller, NULL, c->initiated_at);
    return ch;
}

static inline const uint8_t *kit_hash_of(const char *event_id)
{
    static uint8_t hash[16];

    cd_hash16(cd_str_of(event_id), hash);
    return hash;
}

static inline void kit_hash(struct cd_change *ch, size_t event, const char *event_id)
{
    ch->events[event].has_mx_hash = true;
    memcpy(ch->events[event].mx_hash, kit_hash_of(event_id), 16);
}

static inline void kit_idem(struct cd_change *ch, const char *user, const char *key, int status,
                            const char *response, int64_t at)
{
    struct cd_idem_row *i = calloc(1, sizeof *i);

    i->user_id = strdup(user);
    i->key = strdup(key);
    i->response = strdup(response);
    i->status = status;
    i->at = at;
    memcpy(i->request_hash, kit_hash_of("request"), 16);
    memcpy(i->call_id, ch->call_id, sizeof i->call_id);
    ch->idem = i;
}

static inline void kit_signal(struct cd_change *ch, uint64_t seq, const char *kind, const char *from,
                              const char *payload)
{
    struct cd_signal_row *r = cd_change_signal(ch);

    r->seq = seq;
    r->kind = strdup(kind);
    r->from_user = strdup(from);
    r->from_party = strdup("P");
    r->payload = strdup(payload);
}

static inline void kit_outbox(struct cd_change *ch, const char *txn, int rank, int64_t ord,
                              const char *content)
{
    struct cd_outbox_row *r = cd_change_outbox(ch);

    r->txn_id = strdup(txn);
    r->room_id = strdup(ch->call ? ch->call->room_id : "!room:x");
    r->user_id = strdup("@a:x");
    r->event_type = strdup("m.call.invite");
    r->content = strdup(content);
    r->rank = rank;
    r->ord = ord;
    r->created_at = r->not_before = cd_wall_ms();
    r->deadline = r->created_at + 60000;
}

static inline void kit_same_participant(const struct cd_participant *a, const struct cd_participant *b)
{
    CHECK_STR(a->user_id, b->user_id);
    CHECK_STR(a->display_name, b->display_name);
    CHECK_STR(a->avatar_url, b->avatar_url);
    CHECK_STR(a->party_id, b->party_id);
    CHECK_STR(a->device_id, b->device_id);
    CHECK_STR(a->leave_reason, b->leave_reason);
    CHECK_INT(a->state, b->state);
    CHECK_INT(a->side, b->side);
    CHECK_INT(a->audio_enabled, b->audio_enabled);
    CHECK_INT(a->video_enabled, b->video_enabled);
    CHECK_INT(a->screen_sharing, b->screen_sharing);
    CHECK_INT(a->joined_at, b->joined_at);
    CHECK_INT(a->left_at, b->left_at);
}

static inline void kit_same_call(const struct cd_call *a, const struct cd_call *b)
{
    CHECK_STR(a->id, b->id);
    CHECK_STR(a->room_id, b->room_id);
    CHECK_STR(a->matrix_call_id, b->matrix_call_id);
    CHECK_STR(a->caller, b->caller);
    CHECK_STR(a->callee, b->callee);
    CHECK_STR(a->ended_by, b->ended_by);
    CHECK_INT(a->kind, b->kind);
    CHECK_INT(a->media, b->media);
    CHECK_INT(a->origin, b->origin);
    CHECK_INT(a->type, b->type);
    CHECK_INT(a->status, b->status);
    CHECK_INT(a->end_reason, b->end_reason);
    CHECK_INT(a->mx_state, b->mx_state);
    CHECK_INT(a->mx_version, b->mx_version);
    CHECK_INT(a->foreign, b->foreign);
    CHECK_INT(a->answer_provisional, b->answer_provisional);
    CHECK_INT(a->invite_tried, b->invite_tried);
    CHECK_INT(a->connected_inferred, b->connected_inferred);
    CHECK_INT(a->initiated_at, b->initiated_at);
    CHECK_INT(a->accepted_at, b->accepted_at);
    CHECK_INT(a->connected_at, b->connected_at);
    CHECK_INT(a->ended_at, b->ended_at);
    CHECK_INT(a->ring_expires_at, b->ring_expires_at);
    CHECK_INT(a->ring_seconds, b->ring_seconds);
    CHECK_INT(a->version, b->version);
    CHECK_INT(a->seq, b->seq);
    if (CHECK_INT(a->n_participants, b->n_participants))
        for (size_t i = 0; i < a->n_participants; i++)
            kit_same_participant(&a->participants[i], &b->participants[i]);
}

/* --- operations, waited for ------------------------------------------------------------------- */

struct kit_commit {
    bool done;
    enum cd_store_rc rc;
    char live[CD_CALL_ID_LEN + 1];
};

static struct kit_commit kit_last;

static inline void kit_on_commit(void *arg, enum cd_store_rc rc, const char *live)
{
    struct kit_commit *r = arg;

    r->done = true;
    r->rc = rc;
    snprintf(r->live, sizeof r->live, "%s", live ? live : "");
}

static inline void kit_submit(struct cd_store *s, struct cd_change *ch, struct kit_commit *r)
{
    memset(r, 0, sizeof *r);
    s->ops->commit(s, ch, kit_on_commit, r);
}

static inline enum cd_store_rc kit_put(struct cd_store *s, struct cd_change *ch)
{
    kit_submit(s, ch, &kit_last);
    UNTIL(kit_last.done);
    return kit_last.rc;
}

/** The live call's id that the last kit_put was told. */
static inline const char *kit_live(void)
{
    return kit_last.live;
}

static inline void kit_seen(struct cd_store *s, const char *event_id, struct kit_commit *r)
{
    memset(r, 0, sizeof *r);
    s->ops->seen_put(s, kit_hash_of(event_id), kit_on_commit, r);
}

static struct {
    bool done;
    enum cd_store_rc rc;
    struct cd_stored_call *call;
} kit_loaded;

static inline void kit_on_load(void *arg, enum cd_store_rc rc, struct cd_stored_call *sc)
{
    (void)arg;
    kit_loaded.done = true;
    kit_loaded.rc = rc;
    kit_loaded.call = sc;
}

static inline struct cd_stored_call *kit_load(struct cd_store *s, const char *id)
{
    kit_loaded.done = false;
    s->ops->load_call(s, id, kit_on_load, NULL);
    UNTIL(kit_loaded.done);
    return kit_loaded.call;
}

static inline struct cd_stored_call *kit_load_matrix(struct cd_store *s, const char *room, const char *id)
{
    kit_loaded.done = false;
    s->ops->load_by_matrix(s, room, id, kit_on_load, NULL);
    UNTIL(kit_loaded.done);
    return kit_loaded.call;
}

static inline enum cd_store_rc kit_last_load_rc(void)
{
    return kit_loaded.rc;
}

struct kit_all {
    bool done;
    enum cd_store_rc rc;
    struct cd_stored_call **v;
    size_t n;
};

static inline void kit_on_all(void *arg, enum cd_store_rc rc, struct cd_stored_call **v, size_t n)
{
    struct kit_all *a = arg;

    a->done = true;
    a->rc = rc;
    a->v = v;
    a->n = n;
}

static inline void kit_load_live(struct cd_store *s, struct kit_all *a)
{
    memset(a, 0, sizeof *a);
    s->ops->load_live(s, kit_on_all, a);
    UNTIL(a->done);
}

static inline const struct cd_stored_call *kit_find(const struct kit_all *a, const char *id)
{
    for (size_t i = 0; i < a->n; i++)
        if (strcmp(a->v[i]->call->id, id) == 0)
            return a->v[i];
    return NULL;
}

static inline void kit_all_free(struct kit_all *a)
{
    for (size_t i = 0; i < a->n; i++)
        cd_stored_call_free(a->v[i]);
    free(a->v);
}

static struct {
    bool done, found;
    struct cd_idem_row row;
    char response[256];
} kit_idem_got;

static inline void kit_on_idem(void *arg, enum cd_store_rc rc, const struct cd_idem_row *row)
{
    (void)arg;
    kit_idem_got.done = true;
    kit_idem_got.found = rc == CD_STORE_OK && row;
    if (!kit_idem_got.found)
        return;
    kit_idem_got.row = *row;
    snprintf(kit_idem_got.response, sizeof kit_idem_got.response, "%s", row->response);
    kit_idem_got.row.response = kit_idem_got.response;
    kit_idem_got.row.user_id = kit_idem_got.row.key = NULL;
}

static inline const struct cd_idem_row *kit_idem_get(struct cd_store *s, const char *user, const char *key)
{
    kit_idem_got.done = false;
    s->ops->idem_get(s, user, key, kit_on_idem, NULL);
    UNTIL(kit_idem_got.done);
    return kit_idem_got.found ? &kit_idem_got.row : NULL;
}

static inline enum cd_store_rc kit_tried(struct cd_store *s, const char *txn, int attempts)
{
    struct kit_done d = {0};

    s->ops->outbox_tried(s, txn, attempts, kit_on_done, &d);
    UNTIL(d.done);
    return d.rc;
}

static inline enum cd_store_rc kit_flush(struct cd_store *s)
{
    struct kit_done d = {0};

    s->ops->flush(s, kit_on_done, &d);
    UNTIL(d.done);
    return d.rc;
}

static inline enum cd_store_rc kit_quarantine(struct cd_store *s, const char *reason, struct cd_str raw)
{
    struct kit_done d = {0};

    s->ops->quarantine(s, reason, raw, kit_on_done, &d);
    UNTIL(d.done);
    return d.rc;
}

static struct {
    bool done;
    const uint8_t *want;
    size_t n;
    int found; /* -1 none, 1 as wanted, 0 another */
} kit_token;

static inline void kit_on_token(void *arg, enum cd_store_rc rc, const uint8_t *sealed, size_t n)
{
    (void)arg;
    kit_token.done = true;
    kit_token.found = rc != CD_STORE_OK || !sealed ? -1
                      : n == kit_token.n && kit_token.want && memcmp(sealed, kit_token.want, n) == 0;
}

static inline int kit_token_get(struct cd_store *s, const char *user, const uint8_t *want, size_t n)
{
    kit_token.done = false;
    kit_token.want = want;
    kit_token.n = n;
    s->ops->token_get(s, user, kit_on_token, NULL);
    UNTIL(kit_token.done);
    return kit_token.found;
}

static struct {
    bool done, found;
    const char *room, *user;
    char text[256];
} kit_member_got;

static inline void kit_on_members(void *arg, enum cd_store_rc rc, const struct cd_member_row *rows,
                                  size_t n)
{
    (void)arg;
    kit_member_got.done = rc != CD_STORE_MORE;
    for (size_t i = 0; (rc == CD_STORE_OK || rc == CD_STORE_MORE) && i < n; i++) {
        const char *name = rows[i].display_name, *avatar = rows[i].avatar_url;

        if (strcmp(rows[i].room_id, kit_member_got.room) ||
            strcmp(rows[i].user_id, kit_member_got.user))
            continue;
        kit_member_got.found = true;
        snprintf(kit_member_got.text, sizeof kit_member_got.text, "%s%s%s", name ? name : "",
                 avatar ? " " : "", avatar ? avatar : "");
    }
}

/** @return "name avatar" of a joined member, NULL when there is none */
static inline const char *kit_member(struct cd_store *s, const char *room, const char *user)
{
    memset(&kit_member_got, 0, sizeof kit_member_got);
    kit_member_got.room = room;
    kit_member_got.user = user;
    s->ops->members_load(s, kit_on_members, NULL);
    UNTIL(kit_member_got.done);
    return kit_member_got.found ? kit_member_got.text : NULL;
}

#endif

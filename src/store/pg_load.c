/* pg_load.c -- reads, over a connection of their own.
 * In: loads. Out: whole calls as of one moment, and the small tables.
 * Why: a read behind a batch would wait for its fsync. A call comes from five tables; the session's
 *      transactions are repeatable reads, so that what stands between two Syncs sees one snapshot.
 * State: struct pg_reads: what waits, what was sent. Owns: both. Blocks: never. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/map.h"
#include "store/pg.h"
#include "store/pg_read.h"

#define TEXT_OF(n) #n
#define TEXT(n) TEXT_OF(n)
#define MEMBERS_SINCE \
    "SELECT coalesce((SELECT updated_at FROM room_members WHERE joined ORDER BY updated_at DESC" \
    " OFFSET " TEXT(CD_MEMBERS_MAX) " LIMIT 1), '-infinity')::text"
#define MEMBERS_SLICE \
    "SELECT room_id, user_id, display_name, avatar_url FROM room_members WHERE joined" \
    " AND (room_id, user_id) > ($1::text, $2::text) AND updated_at >= $3::timestamptz" \
    " ORDER BY room_id, user_id LIMIT " TEXT(PG_MEMBERS_AT_ONCE)

struct pg_reads {
    struct pg_store *store;
    struct cd_pgconn *conn;
    struct pg_read *sent, *sent_last;       /* in the order of their results */
    struct pg_read *waiting, *waiting_last;
    size_t n_sent, n_waiting;
    bool up, was_up;
    int64_t pinged_ms; /* monotonic: or something else was asked */
};

static void read_free(struct pg_read *r)
{
    if (r->answer)
        cd_answer_drop(r->answer);
    cd_pg_calls_done(&r->calls);
    free(r->a);
    free(r->b);
    free(r->c);
    free(r);
}

static void append(struct pg_read **head, struct pg_read **last, struct pg_read *r)
{
    r->next = NULL;
    if (*last)
        (*last)->next = r;
    else
        *head = r;
    *last = r;
}

static struct pg_read *take(struct pg_read **head, struct pg_read **last)
{
    struct pg_read *r = *head;

    *head = r->next;
    if (!*head)
        *last = NULL;
    r->next = NULL;
    return r;
}

/* --- sending ---------------------------------------------------------------------------------- */

static bool ask(PGconn *pg, const char *sql, const struct pg_read *r, bool binary)
{
    const char *const v[] = {r->a, r->b, r->c};

    return PQsendQueryParams(pg, sql, r->c ? 3 : r->b ? 2 : r->a ? 1 : 0, NULL, v, NULL, NULL, binary) == 1;
}

static bool send_calls(PGconn *pg, const struct pg_read *r)
{
    enum cd_pg_which which = r->kind == READ_CALL        ? CD_PG_BY_ID
                             : r->kind == READ_BY_MATRIX ? CD_PG_BY_MATRIX
                             : r->kind == READ_IDS       ? CD_PG_BY_IDS
                                                         : CD_PG_LIVE;

    for (size_t i = 0; i < CD_PG_CALL_TABLES; i++)
        if (!ask(pg, cd_pg_calls_sql(which, i), r, false))
            return false;
    return true;
}

static bool send_read(PGconn *pg, const struct pg_read *r)
{
    switch (r->kind) {
    case READ_CALL:
    case READ_BY_MATRIX:
    case READ_LIVE:
    case READ_IDS:
        return send_calls(pg, r);
    case READ_LISTEN:
        return ask(pg, "LISTEN " CD_NODES_CHANNEL, r, false) && ask(pg, r->listen, r, false);
    case READ_IDEM:
        return ask(pg, "SELECT encode(request_hash, 'hex'), status, response, call_session_id,"
                       " (extract(epoch FROM created_at) * 1000)::bigint FROM idempotency_keys"
                       " WHERE user_id = $1::text AND key = $2::text"
                       " AND created_at > now() - interval '24 hours'", r, false);
    case READ_TOKEN:
        return ask(pg, "SELECT sealed FROM sealed_tokens WHERE user_id = $1::text"
                       " ORDER BY updated_at DESC, device_id LIMIT 1", r, true);
    case READ_MEMBERS:
        return ask(pg, r->c ? MEMBERS_SLICE : MEMBERS_SINCE, r, false);
    case READ_PING:
        return ask(pg, "SELECT 1", r, false);
    }
    return false;
}

static void pump(struct pg_reads *rs)
{
    PGconn *pg = rs->up ? cd_pgconn_pq(rs->conn) : NULL;
    bool any = false;

    while (pg && rs->waiting && rs->n_sent < PG_READS_SENT_MAX) {
        struct pg_read *r = take(&rs->waiting, &rs->waiting_last);

        rs->n_waiting--;
        append(&rs->sent, &rs->sent_last, r);
        rs->n_sent++;
        any = true;
        if (!send_read(pg, r) || PQpipelineSync(pg) != 1) {
            cd_pgconn_reset(rs->conn, "cannot queue a read");
            return;
        }
    }
    if (any)
        cd_pgconn_flush(rs->conn);
}

/* Without asking the database. */
static void answer_now(struct pg_store *s, struct pg_read *r, enum cd_store_rc rc)
{
    r->answer->rc = rc;
    cd_later_push(s->later, r->answer);
    r->answer = NULL;
    read_free(r);
}

static void submit(struct pg_store *s, struct pg_read *r)
{
    struct pg_reads *rs = s->reads;

    if (rs->n_waiting >= PG_READS_WAITING_MAX) {
        answer_now(s, r, CD_STORE_FULL);
        return;
    }
    rs->pinged_ms = r->queued_ms = cd_mono_ms();
    append(&rs->waiting, &rs->waiting_last, r);
    rs->n_waiting++;
    pump(rs);
}

/* --- results ---------------------------------------------------------------------------------- */

/* A slice of the members goes out; the next one begins behind its last row. @return false: out of memory */
static bool give_slice(struct pg_reads *rs, struct pg_read *r)
{
    struct cd_answer *a = r->answer, *slice = cd_answer_new();
    const struct cd_member_row *last = &a->members[a->n - 1];

    free(r->a);
    free(r->b);
    r->a = strdup(last->room_id);
    r->b = strdup(last->user_id);
    if (!slice || !r->a || !r->b) {
        if (slice)
            cd_answer_drop(slice);
        return false;
    }
    *slice = *a;
    slice->rc = CD_STORE_MORE;
    a->members = NULL;
    a->n = 0;
    cd_later_push(rs->store->later, slice);
    return true;
}

/* Thousands of rows at once would stop everything else. @return true: asked for another slice */
static bool ask_for_more(struct pg_reads *rs, struct pg_read *r)
{
    struct cd_answer *a = r->answer;

    if (r->kind != READ_MEMBERS || r->failed)
        return false;
    r->given += a->n;
    if (a->members && (a->n < PG_MEMBERS_AT_ONCE || r->given >= CD_MEMBERS_MAX))
        return false;
    if (a->members && !give_slice(rs, r)) {
        r->failed = true;
        return false;
    }
    r->step = 0;
    r->queued_ms = cd_mono_ms();
    append(&rs->waiting, &rs->waiting_last, r);
    rs->n_waiting++;
    pump(rs);
    return true;
}

static void finish(struct pg_reads *rs)
{
    struct pg_read *r = take(&rs->sent, &rs->sent_last);
    struct cd_answer *a = r->answer;

    rs->n_sent--;
    if (ask_for_more(rs, r))
        return;
    if (r->failed)
        a->rc = CD_STORE_DOWN;
    else
        pg_read_give_calls(r);
    r->answer = NULL;
    read_free(r);
    pump(rs);
    cd_later_push(rs->store->later, a);
}

/* Whom nobody waits for. @return NULL out of memory: @p r is freed */
static struct pg_read *unasked(struct pg_read *r)
{
    r->answer = cd_answer_new();
    if (r->answer) {
        r->answer->kind = CD_A_DONE;
        return r;
    }
    read_free(r);
    return NULL;
}

static void result(void *self, const PGresult *res)
{
    struct pg_reads *rs = self;
    struct pg_read *r = rs->sent;
    ExecStatusType st = PQresultStatus(res);

    if (!r) {
        cd_pgconn_reset(rs->conn, "a result that nothing asked for");
    } else if (st == PGRES_PIPELINE_SYNC) {
        cd_pgconn_settled(rs->conn);
        finish(rs);
    } else if (st == PGRES_TUPLES_OK || st == PGRES_COMMAND_OK) {
        pg_read_take(r, res, rs->store->owner);
    } else {
        const char *text = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);

        if (st == PGRES_FATAL_ERROR)
            cd_log(CD_LOG_ERROR, "store", "read.failed", NULL, "%s", text ? text : "");
        r->failed = true;
    }
}

static struct pg_read *read_new(enum read_kind kind, const char *a, const char *b);

/* Before anything is read: what is told after a read must not be missed. */
static bool listen_first(struct pg_reads *rs)
{
    struct pg_read *r = read_new(READ_LISTEN, NULL, NULL);

    r = r ? unasked(r) : NULL;
    if (!r)
        return false;
    r->queued_ms = cd_mono_ms();
    snprintf(r->listen, sizeof r->listen, "LISTEN \"calld_%s\"", rs->store->owner);
    r->next = rs->waiting;
    rs->waiting = r;
    if (!rs->waiting_last)
        rs->waiting_last = r;
    rs->n_waiting++;
    return true;
}

static void up(void *self)
{
    struct pg_reads *rs = self;

    if (!listen_first(rs)) {
        cd_pgconn_reset(rs->conn, "no memory to listen with");
        return;
    }
    rs->up = true;
    pump(rs);
    if (rs->was_up)
        pg_lease_missed(rs->store);
    rs->was_up = true;
}

static void notified(void *self, const char *channel, const char *payload)
{
    const struct pg_reads *rs = self;

    pg_lease_heard(rs->store, channel, payload);
}

/* What was under way is asked again: reading twice changes nothing. */
static void down(void *self)
{
    struct pg_reads *rs = self;

    rs->up = false;
    if (rs->sent_last) {
        rs->sent_last->next = rs->waiting;
        rs->waiting = rs->sent;
        if (!rs->waiting_last)
            rs->waiting_last = rs->sent_last;
    }
    rs->n_waiting += rs->n_sent;
    rs->sent = rs->sent_last = NULL;
    rs->n_sent = 0;
    for (struct pg_read *r = rs->waiting; r; r = r->next) {
        r->step = 0;
        r->failed = false;
        cd_pg_calls_done(&r->calls);
    }
}

static const struct cd_pgconn_ops read_ops = {.up = up, .down = down, .result = result, .notified = notified};

size_t pg_reads_expire(struct pg_reads *rs, int64_t now_ms)
{
    struct pg_read **p = &rs->waiting;

    if (rs->sent && now_ms - rs->sent->queued_ms > 2 * CD_STORE_WAIT_MS) {
        cd_pgconn_reset(rs->conn, "no answer");
        p = &rs->waiting;
    }
    rs->waiting_last = NULL;
    while (*p) {
        struct pg_read *r = *p;

        if (now_ms - r->queued_ms < CD_STORE_WAIT_MS) {
            rs->waiting_last = r;
            p = &r->next;
            continue;
        }
        *p = r->next;
        rs->n_waiting--;
        r->answer->rc = CD_STORE_DOWN;
        cd_later_push(rs->store->later, r->answer);
        r->answer = NULL;
        read_free(r);
    }
    return rs->n_waiting;
}

static bool is_bulk(const struct pg_read *r)
{
    return r->kind == READ_LIVE || r->kind == READ_MEMBERS;
}

int64_t pg_reads_oldest(const struct pg_reads *rs, int64_t now_ms)
{
    int64_t oldest = now_ms;

    for (const struct pg_read *r = rs->sent; r; r = r->next)
        if (is_bulk(r))
            return 0;
        else if (r->queued_ms < oldest)
            oldest = r->queued_ms;
    if (rs->waiting && !is_bulk(rs->waiting) && rs->waiting->queued_ms < oldest)
        oldest = rs->waiting->queued_ms;
    return now_ms - oldest;
}

struct pg_reads *pg_reads_new(struct pg_store *s, const struct cd_pgconn_conf *conf)
{
    struct pg_reads *rs = calloc(1, sizeof *rs);

    if (!rs)
        return NULL;
    rs->store = s;
    rs->conn = cd_pgconn_new(s->loop, conf, &read_ops, rs);
    if (!rs->conn) {
        free(rs);
        return NULL;
    }
    return rs;
}

void pg_reads_free(struct pg_reads *rs)
{
    if (!rs)
        return;
    cd_pgconn_free(rs->conn);
    while (rs->sent)
        read_free(take(&rs->sent, &rs->sent_last));
    while (rs->waiting)
        read_free(take(&rs->waiting, &rs->waiting_last));
    free(rs);
}

/* --- operations ------------------------------------------------------------------------------- */

static struct pg_read *read_new(enum read_kind kind, const char *a, const char *b)
{
    struct pg_read *r = calloc(1, sizeof *r);

    if (!r)
        return NULL;
    r->kind = kind;
    if (!cd_dup(&r->a, a) || !cd_dup(&r->b, b)) {
        read_free(r);
        return NULL;
    }
    return r;
}

static struct cd_answer *answer_new(enum cd_answer_kind kind, void *arg)
{
    struct cd_answer *a = cd_answer_new();

    if (a) {
        a->kind = kind;
        a->arg = arg;
    }
    return a;
}

/* Takes @p answer over, which says whom to answer; NULL: nobody can be. */
static void ask_for(struct pg_store *s, enum read_kind kind, const char *a, const char *b, struct cd_answer *answer)
{
    struct pg_read *r = answer ? read_new(kind, a, b) : NULL;

    s->stats.reads++;
    if (r) {
        r->answer = answer;
        submit(s, r);
        return;
    }
    if (answer)
        answer->rc = CD_STORE_FULL;
    cd_later_push(s->later, answer);
}

static void load_one(struct pg_store *s, enum read_kind kind, const char *a, const char *b, cd_load_fn fn, void *arg)
{
    struct cd_answer *answer = answer_new(CD_A_LOAD, arg);

    if (answer)
        answer->fn.load = fn;
    ask_for(s, kind, a, b, answer);
}

void pg_load_call(struct cd_store *b, const char *id, cd_load_fn fn, void *arg)
{
    load_one(pg_of(b), READ_CALL, id, NULL, fn, arg);
}

void pg_load_by_matrix(struct cd_store *b, const char *room, const char *matrix_call_id, cd_load_fn fn,
                       void *arg)
{
    load_one(pg_of(b), READ_BY_MATRIX, room, matrix_call_id, fn, arg);
}

static struct cd_answer *for_many(cd_load_all_fn fn, void *arg)
{
    struct cd_answer *answer = answer_new(CD_A_LOAD_ALL, arg);

    if (answer)
        answer->fn.load_all = fn;
    return answer;
}

void pg_read_live(struct pg_store *s, enum cd_store_rc rc, cd_load_all_fn fn, void *arg)
{
    struct cd_answer *answer = for_many(fn, arg);

    if (answer && rc != CD_STORE_OK) {
        answer->rc = rc;
        cd_later_push(s->later, answer);
        return;
    }
    ask_for(s, READ_LIVE, s->owner, NULL, answer);
}

void pg_read_ids(struct pg_store *s, const char *ids, cd_load_all_fn fn, void *arg)
{
    ask_for(s, READ_IDS, ids, NULL, for_many(fn, arg));
}

void pg_idem_get(struct cd_store *b, const char *user, const char *key, cd_idem_fn fn, void *arg)
{
    struct cd_answer *answer = answer_new(CD_A_IDEM, arg);

    if (answer)
        answer->fn.idem = fn;
    ask_for(pg_of(b), READ_IDEM, user, key, answer);
}

void pg_token_get(struct cd_store *b, const char *user, cd_token_fn fn, void *arg)
{
    struct cd_answer *answer = answer_new(CD_A_TOKEN, arg);

    if (answer)
        answer->fn.token = fn;
    ask_for(pg_of(b), READ_TOKEN, user, NULL, answer);
}

void pg_members_load(struct cd_store *b, cd_members_fn fn, void *arg)
{
    struct cd_answer *answer = answer_new(CD_A_MEMBERS, arg);

    if (answer)
        answer->fn.members = fn;
    ask_for(pg_of(b), READ_MEMBERS, NULL, NULL, answer);
}

void pg_reads_ping(struct pg_reads *rs, int64_t now_ms, int64_t every_ms)
{
    struct pg_read *r;

    if (!rs->up || rs->sent || rs->waiting || now_ms - rs->pinged_ms < every_ms)
        return;
    r = read_new(READ_PING, NULL, NULL);
    r = r ? unasked(r) : NULL;
    if (r)
        submit(rs->store, r);
}

/* pg_batch.c -- writes a batch: one transaction for all, and when that fails, one for each.
 * In: the ops of a batch. Out: each op's result code, by pg_op_finish.
 * Why: natural group commit: one batch is under way, what arrives meanwhile is the next. A failing op
 *      takes its whole batch back (trap P3), so each is then judged under a Sync of its own.
 * Exactly once: every transaction first writes its number under this connection's epoch. After a lost
 * connection the next one raises the epoch, which waits for what still runs over there and shuts out
 * what comes late, and reads which numbers are in: nothing stays unknown.
 * State: phase, batch, expect of struct pg_store. Owns: nothing more. Blocks: never. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "store/pg.h"

#define RETRIES_MAX 5 /* of one op, after deadlocks and serialization failures */

/* --- sending ---------------------------------------------------------------------------------- */

static bool expect(struct pg_store *s, int what, size_t op)
{
    struct pg_expect *e = cd_grow((void **)&s->expect, &s->n_expect, &s->cap_expect, sizeof *e);

    if (!e)
        return false;
    e->what = (uint8_t)what;
    e->op = (uint16_t)op;
    return true;
}

static void expect_nothing(struct pg_store *s)
{
    s->n_expect = s->at_expect = 0;
}

static bool sync_here(struct pg_store *s, PGconn *pg)
{
    return PQpipelineSync(pg) == 1 && expect(s, PG_X_SYNC, 0);
}

/* Queue the rows gathered for @p stmt, if there are any. */
static bool send_rows(struct pg_store *s, PGconn *pg, enum cd_pg_stmt stmt, size_t op)
{
    if (s->rows.n == 0)
        return true;
    return cd_pg_rows_send(&s->rows, pg, cd_pg_stmts[stmt].name, stmt == CD_PG_SEEN) &&
           expect(s, (int)stmt, op);
}

static bool send_mark(struct pg_store *s, PGconn *pg, bool first, int64_t mark, size_t op)
{
    char epoch[24], number[24];
    const char *const v[] = {s->owner, epoch, first ? "t" : "f", number};

    snprintf(epoch, sizeof epoch, "%lld", (long long)s->epoch);
    snprintf(number, sizeof number, "%lld", (long long)mark);
    return PQsendQueryPrepared(pg, cd_pg_stmts[CD_PG_MARK].name, 4, v, NULL, NULL, 0) == 1 &&
           expect(s, CD_PG_MARK, op);
}

static bool send_one(struct pg_store *s, PGconn *pg, enum cd_pg_stmt stmt, const char *parameter, size_t op)
{
    return PQsendQueryPrepared(pg, cd_pg_stmts[stmt].name, 1, &parameter, NULL, NULL, 0) == 1 &&
           expect(s, (int)stmt, op);
}

/* A statement whose only parameter is our name. */
static bool send_named(struct pg_store *s, PGconn *pg, enum cd_pg_stmt stmt, size_t op)
{
    return send_one(s, pg, stmt, s->owner, op);
}

static void op_rows(struct cd_pg_rows *r, enum cd_pg_stmt stmt, const struct pg_op *op, const char *owner)
{
    if (op->kind == PG_OP_CHANGE) {
        cd_pg_change_rows(r, stmt, op->change, owner);
    } else if ((op->kind == PG_OP_TRIED || op->kind == PG_OP_DONE) && stmt == CD_PG_HOLD) {
        cd_pg_text(r, NULL);
        cd_pg_text(r, op->key);
    } else if (op->kind == PG_OP_TRIED && stmt == CD_PG_TRIED) {
        cd_pg_text(r, op->key);
        cd_pg_int(r, op->number);
    } else if (op->kind == PG_OP_DONE && stmt == CD_PG_DONE) {
        cd_pg_text(r, op->key);
    } else if (op->kind == PG_OP_SEEN && stmt == CD_PG_SEEN) {
        cd_pg_bytes(r, op->data, op->n_data);
    }
}

/* Ops whose order among themselves matters (a token put, then deleted): a statement each. */
static bool send_own(struct pg_store *s, PGconn *pg, const struct pg_op *op, size_t i)
{
    struct cd_pg_rows *r = &s->rows;
    enum cd_pg_stmt stmt;

    switch (op->kind) {
    case PG_OP_TOKEN_PUT:
        cd_pg_rows_begin(r, cd_pg_stmts[CD_PG_TOKEN_PUT].types);
        cd_pg_text(r, op->key);
        cd_pg_text(r, op->device);
        cd_pg_bytes(r, op->data, op->n_data);
        return send_rows(s, pg, CD_PG_TOKEN_PUT, i);
    case PG_OP_TOKEN_DEL:
        stmt = s->lease.peers ? CD_PG_TOKEN_DEL_SHARED : CD_PG_TOKEN_DEL;
        cd_pg_rows_begin(r, cd_pg_stmts[stmt].types);
        cd_pg_text(r, op->key);
        if (s->lease.peers)
            cd_pg_text(r, s->owner);
        return send_rows(s, pg, stmt, i);
    case PG_OP_MEMBERS:
        cd_pg_rows_begin(r, cd_pg_stmts[CD_PG_MEMBERS].types);
        for (size_t k = 0; k < op->n_members; k++) {
            cd_pg_text(r, op->members[k].room_id);
            cd_pg_text(r, op->members[k].user_id);
            cd_pg_bool(r, op->members[k].joined);
            cd_pg_text(r, op->members[k].display_name);
            cd_pg_text(r, op->members[k].avatar_url);
        }
        return send_rows(s, pg, CD_PG_MEMBERS, i);
    case PG_OP_QUARANTINE:
        cd_pg_rows_begin(r, cd_pg_stmts[CD_PG_QUARANTINE].types);
        cd_pg_text(r, op->key);
        cd_pg_int(r, op->number);
        cd_pg_bytes(r, op->data, op->n_data);
        return send_rows(s, pg, CD_PG_QUARANTINE, i);
    case PG_OP_CLAIM:
        return send_named(s, pg, CD_PG_CLAIM, i) && send_named(s, pg, CD_PG_PEERS, i);
    case PG_OP_PEERS:
        return send_named(s, pg, CD_PG_PEERS, i);
    case PG_OP_LEAVE:
        return send_named(s, pg, CD_PG_LEAVE, i);
    case PG_OP_PURGE:
        return send_one(s, pg, pg_keep_stmt(op), op->key, i);
    case PG_OP_CHANGE:
    case PG_OP_TRIED:
    case PG_OP_DONE:
    case PG_OP_SEEN:
    case PG_OP_FLUSH:
        break;
    }
    return true;
}

/* One transaction with the ops [from, to) of the batch. */
static bool send_transaction(struct pg_store *s, PGconn *pg, size_t from, size_t to, bool first)
{
    int64_t mark = s->next_mark++;
    bool ok = send_mark(s, pg, first, mark, from);

    for (size_t i = from; i < to; i++) {
        struct pg_op *op = s->batch[i];

        op->mark = mark;
        op->failed = false;
        op->rc = op->kind == PG_OP_SEEN    ? CD_STORE_DUPLICATE
                 : op->kind == PG_OP_TRIED ? CD_STORE_LOST_RACE
                                           : CD_STORE_OK;
    }
    for (int k = s->lease.peers ? CD_PG_HOLD : CD_PG_TRIED; k <= CD_PG_SEEN && ok; k++) {
        enum cd_pg_stmt stmt = (enum cd_pg_stmt)k;

        if (stmt == CD_PG_TOKEN_PUT)
            for (size_t i = from; i < to && ok; i++)
                ok = send_own(s, pg, s->batch[i], i);
        if (stmt >= CD_PG_TOKEN_PUT && stmt <= CD_PG_KEEP_TOKENS)
            continue;
        cd_pg_rows_begin(&s->rows, cd_pg_stmts[stmt].types);
        for (size_t i = from; i < to; i++)
            op_rows(&s->rows, stmt, s->batch[i], s->owner);
        ok = ok && send_rows(s, pg, stmt, from);
    }
    return ok && sync_here(s, pg);
}

static void begin_phase(struct pg_store *s, enum pg_phase phase)
{
    s->phase = phase;
    s->sent_ms = cd_mono_ms();
}

static void sent(struct pg_store *s, bool ok)
{
    if (ok)
        cd_pgconn_flush(s->write);
    else
        cd_pgconn_reset(s->write, "cannot queue a batch");
}

void pg_send_group(struct pg_store *s)
{
    PGconn *pg = cd_pgconn_pq(s->write);

    expect_nothing(s);
    begin_phase(s, PG_GROUP);
    s->stats.batches++;
    sent(s, pg && send_transaction(s, pg, 0, s->n_batch, true));
}

static void send_singles(struct pg_store *s)
{
    PGconn *pg = cd_pgconn_pq(s->write);
    bool ok = pg != NULL;

    expect_nothing(s);
    begin_phase(s, PG_SINGLES);
    s->stats.batch_reruns++;
    for (size_t i = 0; i < s->n_batch && ok; i++)
        ok = send_transaction(s, pg, i, i + 1, i == 0);
    sent(s, ok);
}

/* --- why did it fail? ------------------------------------------------------------------------- */

/* '{"\\x00..","\\x01.."}' of the change's event hashes. */
static void hash_list(const struct cd_change *ch, struct cd_buf *b)
{
    const char *sep = "";

    cd_buf_addc(b, '{');
    for (size_t i = 0; i < ch->n_events; i++) {
        if (!ch->events[i].has_mx_hash)
            continue;
        cd_buf_addf(b, "%s\"\\\\x", sep);
        for (size_t k = 0; k < sizeof ch->events[i].mx_hash; k++)
            cd_buf_addf(b, "%02x", ch->events[i].mx_hash[k]);
        cd_buf_addc(b, '"');
        sep = ",";
    }
    cd_buf_addc(b, '}');
}

static bool send_diag(struct pg_store *s, PGconn *pg, const struct pg_op *op, size_t i)
{
    const struct cd_change *ch = op->change;
    bool starts = ch->call && !ch->expect_version && cd_call_holds_active(ch->call);
    const struct cd_call *c = starts ? ch->call : NULL;
    struct cd_buf hashes, at;
    const char *v[9] = {0};
    bool ok;

    cd_buf_init(&hashes, 1024);
    cd_buf_init(&at, 64);
    hash_list(ch, &hashes);
    cd_buf_addf(&at, "epoch");
    v[0] = hashes.p;
    v[4] = ch->call_id;
    if (ch->idem) {
        time_t secs = (time_t)(ch->idem->at / 1000);
        struct tm tm;

        v[1] = ch->idem->user_id;
        v[2] = ch->idem->key;
        cd_buf_reset(&at);
        if (gmtime_r(&secs, &tm))
            cd_buf_addf(&at, "%04d-%02d-%02d %02d:%02d:%02d.%03d+00", tm.tm_year + 1900,
                        tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, (int)(ch->idem->at % 1000));
    }
    v[3] = at.p;
    if (c) {
        v[5] = cd_kind_name(c->kind);
        v[6] = c->room_id;
        v[7] = c->caller;
        v[8] = c->callee;
    }
    ok = !hashes.failed && !at.failed &&
         PQsendQueryPrepared(pg, cd_pg_stmts[CD_PG_DIAG].name, 9, v, NULL, NULL, 0) == 1 &&
         expect(s, CD_PG_DIAG, i);
    cd_buf_done(&hashes);
    cd_buf_done(&at);
    return ok;
}

static void send_diags(struct pg_store *s)
{
    PGconn *pg = cd_pgconn_pq(s->write);
    bool ok = pg != NULL;

    expect_nothing(s);
    begin_phase(s, PG_DIAG);
    for (size_t i = 0; i < s->n_batch && ok; i++)
        ok = send_diag(s, pg, s->batch[i], i);
    sent(s, ok && sync_here(s, pg));
}

/* The order of precedence that store.h promises. */
static void take_diag(struct pg_op *op, const PGresult *res)
{
    const struct cd_change *ch = op->change;
    bool insert = ch->call && !ch->expect_version;

    if (PQresultStatus(res) != PGRES_TUPLES_OK || PQntuples(res) != 1)
        op->rc = CD_STORE_DOWN;
    else if (PQgetvalue(res, 0, 0)[0] == 't')
        op->rc = CD_STORE_DUPLICATE;
    else if (PQgetvalue(res, 0, 1)[0] == 't' || !insert || PQgetvalue(res, 0, 2)[0] == 't' ||
             PQgetisnull(res, 0, 3))
        op->rc = CD_STORE_LOST_RACE;
    else
        op->rc = CD_STORE_CALL_EXISTS;
    if (op->rc == CD_STORE_CALL_EXISTS)
        snprintf(op->live, sizeof op->live, "%s", PQgetvalue(res, 0, 3));
}

enum verdict { V_OK, V_ASK, V_RETRY, V_AWAY };

/* A row is there that must not be, or is not there that must: somebody was faster. */
static bool is_conflict(const char *state)
{
    return strcmp(state, "22012") == 0 || strcmp(state, "23505") == 0 || strcmp(state, "23503") == 0;
}

/* Not this change, but the server: its disk is full, it is out of memory or connections, shutting down,
 * its files fail, or it became a standby. That passes, and is no reason to refuse anything. */
static bool is_unable(const char *state)
{
    return strncmp(state, "53", 2) == 0 || strncmp(state, "57P", 3) == 0 || strncmp(state, "58", 2) == 0 ||
           strcmp(state, "25006") == 0;
}

/* What a single op's failure means. Sets op->rc, unless it has to be asked for or tried again. */
static enum verdict judge(const struct pg_store *s, struct pg_op *op)
{
    const char *st = op->sqlstate;

    if (!op->failed)
        return V_OK;
    if (is_unable(st) && s->watch && !s->divert)
        return V_AWAY;
    if (op->kind == PG_OP_CHANGE && is_conflict(st))
        return V_ASK;
    if ((strncmp(st, "40", 2) == 0 || strcmp(st, "55P03") == 0) && op->retries++ < RETRIES_MAX)
        return V_RETRY;
    op->rc = strncmp(st, "22", 2) == 0 || strncmp(st, "23", 2) == 0 ? CD_STORE_REFUSED : CD_STORE_DOWN;
    return V_OK;
}

/* --- the end of a batch ----------------------------------------------------------------------- */

static void count(struct pg_store *s, const struct pg_op *op)
{
    s->stats.commits += op->kind == PG_OP_CHANGE && op->rc == CD_STORE_OK;
    s->stats.lost_races += op->kind == PG_OP_CHANGE && op->rc == CD_STORE_LOST_RACE;
}

/* Receivers first: what they submit joins what waits, and the next batch leaves with this turn. Fewer,
 * larger batches cost the server less than never letting it rest. */
static void finish(struct pg_store *s, struct pg_op **ops, size_t n)
{
    for (size_t i = 0; i < n; i++)
        count(s, ops[i]);
    pg_deliver(s, ops, n);
}

static void end_batch(struct pg_store *s)
{
    struct pg_op *ops[PG_BATCH_MAX];
    size_t n = s->n_batch;

    memcpy(ops, s->batch, n * sizeof ops[0]);
    s->n_batch = 0;
    begin_phase(s, PG_IDLE);
    finish(s, ops, n);
}

static void end_singles(struct pg_store *s)
{
    struct pg_op *done[PG_BATCH_MAX] = {0}, *again[PG_BATCH_MAX] = {0};
    size_t n_done = 0, n_again = 0, n_ask = 0;

    for (size_t i = 0; i < s->n_batch; i++) {
        struct pg_op *op = s->batch[i];

        switch (judge(s, op)) {
        case V_OK:
            done[n_done++] = op;
            break;
        case V_ASK:
            s->batch[n_ask++] = op;
            break;
        case V_AWAY:
            memcpy(s->unable, op->sqlstate, sizeof s->unable);
            again[n_again++] = op;
            break;
        case V_RETRY:
            again[n_again++] = op;
            break;
        }
    }
    s->n_batch = n_ask;
    pg_requeue(s, again, n_again);
    if (n_ask)
        send_diags(s);
    else
        begin_phase(s, PG_IDLE);
    finish(s, done, n_done);
}

static void on_sync(struct pg_store *s)
{
    if (s->at_expect < s->n_expect)
        return; /* of one op among others */
    if (s->phase == PG_GROUP && !s->batch[0]->failed)
        pg_lease_renewed(s);
    if (s->phase == PG_GROUP && s->batch[0]->failed) {
        if (s->n_batch > 1)
            send_singles(s);
        else
            end_singles(s);
    } else if (s->phase == PG_SINGLES) {
        end_singles(s);
    } else {
        end_batch(s);
    }
}

/* --- results ---------------------------------------------------------------------------------- */

static void note_failure(struct pg_store *s, const struct pg_expect *e, const PGresult *res)
{
    const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);
    const char *text = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);
    struct pg_op *op = s->batch[e->op];
    bool ours = op->kind == PG_OP_CHANGE && state && is_conflict(state);

    if (!state) { /* libpq's own, out of memory: what the server said, and did, is unknown */
        cd_pgconn_reset(s->write, "a result was lost");
        return;
    }
    if (e->what == CD_PG_MARK && !is_unable(state)) {
        cd_pgconn_reset(s->write, "another connection took over");
        return;
    }
    if (op->failed)
        return;
    op->failed = true;
    op->failed_at = (enum cd_pg_stmt)e->what;
    snprintf(op->sqlstate, sizeof op->sqlstate, "%s", state);
    if (!ours && (s->phase == PG_SINGLES || s->n_batch == 1)) {
        const struct cd_log_ctx ctx = {.call_id = op->change ? op->change->call_id : NULL};

        cd_log(CD_LOG_ERROR, "store", "op.failed", &ctx, "%s: %s: %s", cd_pg_stmts[e->what].name,
               op->sqlstate, text ? text : "");
    }
}

/* Those hashes that came back are new; the first op of each has it. */
static void take_seen(struct pg_store *s, const PGresult *res)
{
    for (int i = 0; i < PQntuples(res); i++)
        for (size_t k = 0; k < s->n_batch; k++) {
            struct pg_op *op = s->batch[k];

            if (op->kind == PG_OP_SEEN && op->rc == CD_STORE_DUPLICATE &&
                PQgetlength(res, i, 0) == 16 && memcmp(op->data, PQgetvalue(res, i, 0), 16) == 0) {
                op->rc = CD_STORE_OK;
                break;
            }
        }
}

/* Ours are the rows that came back; the others are gone. */
static void take_tried(struct pg_store *s, const PGresult *res)
{
    for (int i = 0; i < PQntuples(res); i++)
        for (size_t k = 0; k < s->n_batch; k++) {
            struct pg_op *op = s->batch[k];

            if (op->kind == PG_OP_TRIED && strcmp(op->key, PQgetvalue(res, i, 0)) == 0)
                op->rc = CD_STORE_OK;
        }
}

/* Which of the calls written to are another daemon's? */
static void take_elsewhere(struct pg_store *s, const struct pg_expect *e, const PGresult *res)
{
    const char *ids = PQgetisnull(res, 0, 1) ? "" : PQgetvalue(res, 0, 1);
    bool single = s->phase == PG_SINGLES;

    for (size_t i = single ? e->op : 0; i < (single ? e->op + 1u : s->n_batch); i++) {
        struct cd_change *ch = s->batch[i]->change;
        bool written = ch && (ch->call ? ch->expect_version != 0 : ch->n_outbox != 0);

        if (written && (e->what == CD_PG_UPDATE) == (ch->call != NULL))
            ch->elsewhere = strstr(ids, ch->call_id) != NULL;
    }
}

static bool in_list(const char *list, int64_t mark)
{
    for (const char *p = list; *p;) {
        char *end;

        if (strtoll(p, &end, 10) == mark)
            return true;
        p = *end == ',' ? end + 1 : "";
    }
    return false;
}

/* Now it is certain which of the former connection's transactions are in. */
static void take_fence(struct pg_store *s, const PGresult *res)
{
    struct pg_op *in[PG_BATCH_MAX] = {0}, *out[PG_BATCH_MAX] = {0};
    size_t n_in = 0, n_out = 0, n = s->n_batch;
    const char *list = PQgetvalue(res, 0, 1);

    s->robbed = s->robbed || (s->epoch && in_list(list, CD_PG_ROBBED));
    s->epoch = strtoll(PQgetvalue(res, 0, 0), NULL, 10);
    for (size_t i = 0; i < n; i++) {
        struct pg_op *op = s->batch[i];

        if (s->unknown && in_list(list, op->mark)) {
            op->rc = CD_STORE_OK;
            in[n_in++] = op;
        } else {
            out[n_out++] = op;
        }
    }
    s->n_batch = 0;
    if (n)
        cd_log(CD_LOG_INFO, "store", "pg.resolved", NULL,
               "of %zu changes under way when the connection was lost %zu are in, %zu go again", n,
               n_in, n_out);
    pg_requeue(s, out, n_out);
    /* finished with the Sync that follows; should that not come, the next fence finds them again */
    memcpy(s->batch, in, n_in * sizeof in[0]);
    s->n_batch = n_in;
}

static void prepare_failed(struct pg_store *s, const PGresult *res)
{
    const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);
    const char *text = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);

    if (state && strncmp(state, "42", 2) == 0) /* no such table, column or right */
        cd_log(CD_LOG_ERROR, "store", "pg.schema", NULL,
               "%s: matrix-calld migrate makes the schema that this version needs", text ? text : state);
    cd_pgconn_reset(s->write, "the connection could not be prepared");
}

static void come_up(struct pg_store *s)
{
    bool robbed = s->robbed;

    s->robbed = false;
    for (size_t i = 0; i < s->n_batch && robbed; i++) /* in, but whose are they now? */
        if (s->batch[i]->change)
            s->batch[i]->change->elsewhere = true;
    s->delivering = true; /* the store must outlive its receivers once more */
    pg_lease_up(s, robbed);
    s->delivering = false;
    end_batch(s);
}

static void on_prepare(struct pg_store *s, const struct pg_expect *e, const PGresult *res)
{
    ExecStatusType st = PQresultStatus(res);

    if (e->what == PG_X_SYNC) {
        cd_pgconn_settled(s->write);
        s->stats.connected = true;
        s->unknown = false;
        pg_tell_ready(s, CD_STORE_OK);
        if (s->away && s->watch)
            s->watch->back(s->watch->arg);
        come_up(s);
    } else if (st != PGRES_COMMAND_OK && st != PGRES_TUPLES_OK) {
        if (st == PGRES_FATAL_ERROR)
            prepare_failed(s, res);
    } else if (e->what == PG_X_FENCE) {
        take_fence(s, res);
    } else if (e->what == PG_X_PEERS) {
        pg_take_peers(s, res);
    }
}

static void take_result(struct pg_store *s, const struct pg_expect *e, const PGresult *res)
{
    switch (e->what) {
    case CD_PG_SEEN:
        take_seen(s, res);
        break;
    case CD_PG_TRIED:
        take_tried(s, res);
        break;
    case CD_PG_UPDATE:
    case CD_PG_LIVING:
        take_elsewhere(s, e, res);
        break;
    case CD_PG_CLAIM:
        pg_take_claim(s, res);
        break;
    case CD_PG_PEERS:
        pg_take_peers(s, res);
        break;
    default:
        if (e->what >= CD_PG_KEEP_SESSIONS && e->what <= CD_PG_KEEP_TOKENS)
            pg_keep_take(s, res);
        break;
    }
}

static void result(void *self, const PGresult *res)
{
    struct pg_store *s = self;
    ExecStatusType st = PQresultStatus(res);
    struct pg_expect e;

    if (s->at_expect == s->n_expect) {
        cd_pgconn_reset(s->write, "a result that nothing asked for");
        return;
    }
    e = s->expect[s->at_expect++];
    if ((e.what == PG_X_SYNC) != (st == PGRES_PIPELINE_SYNC))
        cd_pgconn_reset(s->write, "results out of step");
    else if (s->phase == PG_PREPARE)
        on_prepare(s, &e, res);
    else if (e.what == PG_X_SYNC)
        on_sync(s);
    else if (e.what == CD_PG_DIAG)
        take_diag(s->batch[e.op], res);
    else if (st == PGRES_FATAL_ERROR)
        note_failure(s, &e, res);
    else if (st == PGRES_TUPLES_OK)
        take_result(s, &e, res);
}

/* --- the connection --------------------------------------------------------------------------- */

static bool send_fence(struct pg_store *s, PGconn *pg)
{
    char mine[24];
    const char *const others[] = {mine, s->owner};
    const char *owner = s->owner;

    /* the former backend may not have noticed yet, and holds the row that the fence needs */
    snprintf(mine, sizeof mine, "%d", cd_pgconn_backend(s->write));
    return PQsendQueryParams(pg,
                             "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                             " WHERE pid <> $1::integer AND application_name = 'matrix-calld write ' || $2::text",
                             2, NULL, others, NULL, NULL, 0) == 1 &&
           expect(s, PG_X_PREPARE, 0) &&
           PQsendQueryParams(pg, "DELETE FROM store_writers WHERE seen_at < now() - interval '7 days'"
                                 " AND owner <> $1::text", 1, NULL, &owner, NULL, NULL, 0) == 1 &&
           expect(s, PG_X_PREPARE, 0) &&
           PQsendQueryParams(pg,
                             "INSERT INTO store_writers AS w (owner, epoch) VALUES ($1::text, 1)"
                             " ON CONFLICT (owner) DO UPDATE SET epoch = w.epoch + 1, seen_at = now(), has_left = false"
                             " RETURNING epoch, array_to_string(committed, ',')",
                             1, NULL, &owner, NULL, NULL, 0) == 1 &&
           expect(s, PG_X_FENCE, 0) &&
           PQsendQueryParams(pg, "SELECT pg_notify('" CD_NODES_CHANNEL "', $1::text)", 1, NULL, &owner, NULL, NULL,
                             0) == 1 &&
           expect(s, PG_X_PREPARE, 0) &&
           PQsendQueryPrepared(pg, cd_pg_stmts[CD_PG_PEERS].name, 1, &owner, NULL, NULL, 0) == 1 &&
           expect(s, PG_X_PEERS, 0);
}

static void up(void *self)
{
    struct pg_store *s = self;
    PGconn *pg = cd_pgconn_pq(s->write);
    bool ok = pg != NULL;

    expect_nothing(s);
    begin_phase(s, PG_PREPARE);
    for (int i = 0; i < CD_PG_STMT_COUNT && ok; i++)
        ok = PQsendPrepare(pg, cd_pg_stmts[i].name, cd_pg_stmts[i].sql, 0, NULL) == 1 &&
             expect(s, PG_X_PREPARE, 0);
    sent(s, ok && send_fence(s, pg) && sync_here(s, pg));
}

static void down(void *self)
{
    struct pg_store *s = self;

    if (s->phase == PG_GROUP || s->phase == PG_SINGLES)
        s->unknown = true;
    else if (s->phase == PG_DIAG)
        s->unknown = false; /* all of these failed: none is in */
    s->phase = PG_DOWN;
    s->stats.connected = false;
    expect_nothing(s);
    pg_tell_ready(s, CD_STORE_DOWN);
}

const struct cd_pgconn_ops pg_write_ops = {.up = up, .down = down, .result = result};

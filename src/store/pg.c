/* pg.c -- the PostgreSQL store: what waits to be written, and for how long.
 * In: changes and small writes from the core. Out: ops in batches, answers.
 * Why: whatever arrives while one batch is under way becomes the next one (natural group commit).
 * State: struct pg_store. Owns: the queue, both connections. Blocks: never. */
#include "store/pg.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/id.h"
#include "base/log.h"
#include "base/spare.h"

#define TICK_MS 500
#define BATCH_WAIT_MS 20000 /* for a batch's results; the server gives a statement up after 10 s */
#define SLOTS 4096 /* of the set of calls in a batch */

/* What the loop holds; it cannot be cancelled, so it is told when its store has gone. */
struct pg_kick {
    struct pg_store *store;
};

static struct cd_spare ops_aside = CD_SPARE(struct pg_op, 256);

/* --- ops -------------------------------------------------------------------------------------- */

void pg_op_free(struct pg_op *op)
{
    cd_change_free(op->change);
    if (op->key != op->short_key)
        free(op->key);
    free(op->device);
    free(op->data);
    cd_members_free(op->members, op->n_members);
    cd_spare_give(&ops_aside, op);
}

void pg_op_finish(struct pg_op *op)
{
    if (op->commit_fn)
        op->commit_fn(op->arg, op->rc, op->rc == CD_STORE_CALL_EXISTS ? op->live : NULL);
    else if (op->done_fn)
        op->done_fn(op->arg, op->rc);
    pg_op_free(op);
}

void pg_op_answer(struct cd_later *later, struct pg_op *op, enum cd_store_rc rc)
{
    struct cd_answer *a = cd_answer_new();

    if (a) {
        a->rc = rc;
        a->arg = op->arg;
        a->kind = op->commit_fn ? CD_A_COMMIT : CD_A_DONE;
        if (op->commit_fn)
            a->fn.commit = op->commit_fn;
        else
            a->fn.done = op->done_fn;
        a->change = op->change;
        op->change = NULL;
        memcpy(a->live, op->live, sizeof(a->live));
    }
    cd_later_push(later, a);
    pg_op_free(op);
}

static void really_close(struct pg_store *s);
static void kick(struct pg_store *s);

static void tell_kept(struct pg_store *s, struct pg_op *op)
{
    struct cd_change *ch = op->change;

    if (op->rc != CD_STORE_OK || !ch || !ch->idem || !s->watch)
        return;
    s->watch->kept(s->watch->arg, ch->idem);
    ch->idem = NULL;
}

void pg_deliver(struct pg_store *s, struct pg_op *const *ops, size_t n)
{
    s->delivering = true;
    for (size_t i = 0; i < n; i++) {
        if (s->closed) {
            pg_op_free(ops[i]);
        } else {
            tell_kept(s, ops[i]);
            pg_op_finish(ops[i]);
        }
    }
    s->delivering = false;
    if (s->closed)
        really_close(s);
    else if (s->head)
        kick(s);
}

/* --- the queue -------------------------------------------------------------------------------- */

static void append(struct pg_store *s, struct pg_op *op)
{
    op->next = NULL;
    if (s->last)
        s->last->next = op;
    else
        s->head = op;
    s->last = op;
    s->n_queued++;
}

void pg_requeue(struct pg_store *s, struct pg_op *const *ops, size_t n)
{
    for (size_t i = n; i-- > 0;) {
        ops[i]->next = s->head;
        s->head = ops[i];
        if (!s->last)
            s->last = ops[i];
    }
    s->n_queued += n;
}

/* Take the op after @p prev (NULL: the first) out. */
static struct pg_op *unlink_after(struct pg_store *s, struct pg_op *prev)
{
    struct pg_op *op = prev ? prev->next : s->head;

    if (prev)
        prev->next = op->next;
    else
        s->head = op->next;
    if (s->last == op)
        s->last = prev;
    op->next = NULL;
    s->n_queued--;
    return op;
}

/* One change of a call a batch: within a statement rows have no order. A set by hash may take two calls
 * for one; then the second waits for the next batch, and all that follows of it too. */
static bool first_of_call(uint64_t seen[SLOTS / 64], const char *call_id)
{
    uint64_t h = 1469598103934665603u;
    size_t slot;
    bool first;

    for (const char *p = call_id; *p; p++)
        h = (h ^ (unsigned char)*p) * 1099511628211u;
    slot = (size_t)((h >> 20) % SLOTS);
    first = !(seen[slot / 64] >> (slot % 64) & 1);
    seen[slot / 64] |= 1ull << (slot % 64);
    return first;
}

static void fill_batch(struct pg_store *s)
{
    uint64_t seen[SLOTS / 64] = {0};
    struct pg_op *prev = NULL;
    size_t bytes = 0;

    while (s->n_batch < PG_BATCH_MAX && bytes < PG_BATCH_BYTES) {
        struct pg_op *op = prev ? prev->next : s->head;

        if (!op || op->kind == PG_OP_FLUSH)
            return; /* a flush waits for everything before it */
        if (op->change && !first_of_call(seen, op->change->call_id)) {
            prev = op;
            continue;
        }
        bytes += op->bytes;
        s->batch[s->n_batch++] = unlink_after(s, prev);
    }
}

static void answer_flush(struct pg_store *s, struct pg_op *op)
{
    struct cd_answer *a = cd_answer_new();

    if (a) {
        a->kind = CD_A_DONE;
        a->rc = CD_STORE_OK;
        a->fn.done = op->done_fn;
        a->arg = op->arg;
    }
    cd_later_push(s->later, a);
    pg_op_free(op);
}

static void kick_now(struct pg_store *s)
{
    if (s->phase != PG_IDLE || pg_gives_up(s))
        return;
    while (s->head && s->head->kind == PG_OP_FLUSH)
        answer_flush(s, unlink_after(s, NULL));
    fill_batch(s);
    if (s->n_batch)
        pg_send_group(s);
}

static void kicked(void *arg)
{
    struct pg_kick *k = arg;
    struct pg_store *s = k->store;

    free(k);
    if (!s)
        return;
    s->kick = NULL;
    kick_now(s);
}

/* At the end of this turn, so that everything of the turn shares a batch. */
static void kick(struct pg_store *s)
{
    struct pg_kick *k;

    if (s->kick || s->phase != PG_IDLE)
        return;
    k = calloc(1, sizeof *k);
    if (k)
        k->store = s;
    if (!k || cd_loop_defer(s->loop, kicked, k) < 0) {
        free(k);
        kick_now(s);
        return;
    }
    s->kick = k;
}

void pg_put(struct pg_store *s, struct pg_op *op)
{
    op->queued_ms = cd_mono_ms();
    append(s, op);
    kick(s);
}

static void submit(struct pg_store *s, struct pg_op *op)
{
    if (s->divert)
        s->watch->take(s->watch->arg, op);
    else
        pg_put(s, op);
}

static struct pg_op *op_new(enum pg_op_kind kind, void *arg)
{
    struct pg_op *op = cd_spare_take(&ops_aside);

    if (!op) {
        cd_log(CD_LOG_ERROR, "store", "op.lost", NULL, "out of memory");
        return NULL;
    }
    op->kind = kind;
    op->arg = arg;
    op->bytes = 512;
    return op;
}

/* For ops that nobody hears of again: a full queue drops them, with a line in the log. */
static void submit_or_drop(struct pg_store *s, struct pg_op *op, bool complete)
{
    if (!complete || s->n_queued >= s->max_queue * 2) {
        cd_log(CD_LOG_WARN, "store", "op.dropped", NULL, "the queue is full");
        pg_op_answer(s->later, op, CD_STORE_FULL);
        return;
    }
    submit(s, op);
}

/* --- operations ------------------------------------------------------------------------------- */

static size_t change_bytes(const struct cd_change *ch)
{
    size_t n = 1024;

    for (size_t i = 0; i < ch->n_signals; i++)
        n += strlen(ch->signals[i].payload);
    for (size_t i = 0; i < ch->n_outbox; i++)
        n += strlen(ch->outbox[i].content);
    return n + (ch->idem ? strlen(ch->idem->response) : 0);
}

static void commit(struct cd_store *b, struct cd_change *ch, cd_commit_fn fn, void *arg)
{
    struct pg_store *s = pg_of(b);
    struct pg_op *op = op_new(PG_OP_CHANGE, arg);

    if (!op) {
        cd_change_free(ch);
        return;
    }
    op->commit_fn = fn;
    op->change = ch;
    if (!cd_change_check(ch)) {
        pg_op_answer(s->later, op, CD_STORE_REFUSED);
    } else if (s->n_queued >= s->max_queue) {
        pg_op_answer(s->later, op, CD_STORE_FULL);
    } else {
        op->bytes = change_bytes(ch);
        submit(s, op);
    }
}

void pg_refuse(struct pg_store *s, struct pg_op *op)
{
    pg_op_answer(s->later, op, CD_STORE_DOWN);
}

/* What concerns this database alone: no spool keeps it. */
static void put_own(struct pg_store *s, struct pg_op *op)
{
    if (s->divert)
        pg_refuse(s, op);
    else
        pg_put(s, op);
}

bool pg_submit_plain(struct pg_store *s, enum pg_op_kind kind, cd_done_fn fn)
{
    struct pg_op *op = op_new(kind, s);

    if (!op)
        return false;
    op->done_fn = fn;
    put_own(s, op);
    return true;
}

void pg_submit_leave(struct pg_store *s, cd_done_fn fn, void *arg)
{
    struct pg_op *op = op_new(PG_OP_LEAVE, arg);

    if (!op)
        return;
    op->done_fn = fn;
    put_own(s, op);
}

static bool set_txn(struct pg_op *op, const char *txn_id)
{
    size_t n = strlen(txn_id) + 1;

    if (n > sizeof op->short_key)
        return cd_dup(&op->key, txn_id);
    op->key = memcpy(op->short_key, txn_id, n);
    return true;
}

static void outbox_tried(struct cd_store *b, const char *txn_id, int attempts, cd_done_fn fn, void *arg)
{
    struct pg_op *op = op_new(PG_OP_TRIED, arg);

    if (!op)
        return;
    op->done_fn = fn;
    op->number = attempts;
    submit_or_drop(pg_of(b), op, set_txn(op, txn_id));
}

static void outbox_done(struct cd_store *b, const char *txn_id)
{
    struct pg_op *op = op_new(PG_OP_DONE, NULL);

    if (op)
        submit_or_drop(pg_of(b), op, set_txn(op, txn_id));
}

static bool copy_bytes(struct pg_op *op, const void *p, size_t n)
{
    op->data = malloc(n ? n : 1);
    if (!op->data)
        return false;
    memcpy(op->data, p, n);
    op->n_data = n;
    op->bytes += n;
    return true;
}

static void token_put(struct cd_store *b, const char *user, const char *device, const uint8_t *sealed,
                      size_t n)
{
    struct pg_op *op = op_new(PG_OP_TOKEN_PUT, NULL);

    if (op)
        submit_or_drop(pg_of(b), op, cd_dup(&op->key, user) &&
                                     cd_dup(&op->device, device ? device : "") &&
                                     copy_bytes(op, sealed, n));
}

static void token_del(struct cd_store *b, const char *user)
{
    struct pg_op *op = op_new(PG_OP_TOKEN_DEL, NULL);

    if (op)
        submit_or_drop(pg_of(b), op, cd_dup(&op->key, user));
}

static void members_put(struct cd_store *b, const struct cd_member_row *rows, size_t n)
{
    struct pg_op *op = n ? op_new(PG_OP_MEMBERS, NULL) : NULL;
    bool ok = op && (op->members = calloc(n, sizeof *op->members));

    if (!op)
        return;
    for (size_t i = 0; i < n && ok; i++) {
        struct cd_member_row *m = &op->members[op->n_members++];

        m->joined = rows[i].joined;
        ok = cd_dup(&m->room_id, rows[i].room_id) && cd_dup(&m->user_id, rows[i].user_id) &&
             cd_dup(&m->display_name, rows[i].display_name) &&
             cd_dup(&m->avatar_url, rows[i].avatar_url);
        op->bytes += 256;
    }
    submit_or_drop(pg_of(b), op, ok);
}

static void seen_put(struct cd_store *b, const uint8_t hash[16], cd_commit_fn fn, void *arg)
{
    struct pg_store *s = pg_of(b);
    struct pg_op *op = op_new(PG_OP_SEEN, arg);

    if (!op)
        return;
    op->commit_fn = fn;
    submit_or_drop(s, op, copy_bytes(op, hash, 16));
}

static void quarantine(struct cd_store *b, const char *reason, struct cd_str raw, cd_done_fn fn,
                       void *arg)
{
    struct pg_op *op = op_new(PG_OP_QUARANTINE, arg);
    size_t kept = raw.n > CD_QUARANTINE_BYTES ? CD_QUARANTINE_BYTES : raw.n;

    cd_log(CD_LOG_WARN, "store", "event.quarantined", NULL, "%s (%zu bytes)", reason, raw.n);
    if (!op)
        return;
    op->done_fn = fn;
    op->number = raw.n > INT32_MAX ? INT32_MAX : (int)raw.n;
    submit_or_drop(pg_of(b), op, cd_dup(&op->key, reason) && copy_bytes(op, raw.p, kept));
}

static void flush(struct cd_store *b, cd_done_fn fn, void *arg)
{
    struct pg_store *s = pg_of(b);
    struct pg_op *op = op_new(PG_OP_FLUSH, arg);

    if (!op)
        return;
    op->done_fn = fn;
    submit(s, op);
}

static void stats(const struct cd_store *b, struct cd_store_stats *out)
{
    const struct pg_store *s = (const struct pg_store *)(const void *)b;
    uint64_t connects = s->write ? cd_pgconn_connects(s->write) : 0;

    *out = s->stats;
    out->connected = s->stats.connected && !pg_hangs(s);
    out->queue_now = s->n_queued + s->n_batch;
    out->peers = s->lease.peers;
    out->reconnects = connects ? connects - 1 : 0;
}

/* --- time ------------------------------------------------------------------------------------- */

/* Without a connection nobody waits for ever. What is under way is not touched: its outcome is unknown
 * until the next connection tells. */
static void expire(struct pg_store *s, int64_t now)
{
    struct pg_op *prev = NULL, *op = s->head;

    while (op) {
        struct pg_op *next = op->next;

        if (now - op->queued_ms < CD_STORE_WAIT_MS)
            prev = op;
        else
            pg_op_answer(s->later, unlink_after(s, prev), CD_STORE_DOWN);
        op = next;
    }
}

static void tick(void *arg)
{
    struct pg_store *s = arg;
    int64_t now = cd_mono_ms();

    if (s->phase == PG_DOWN || s->phase == PG_PREPARE)
        expire(s, now);
    if (s->phase != PG_DOWN && s->phase != PG_IDLE && now - s->sent_ms > BATCH_WAIT_MS)
        cd_pgconn_reset(s->write, "no answer");
    if (s->reads)
        pg_reads_expire(s->reads, now);
    pg_look(s, now);
    pg_lease_tick(s, now);
    cd_timer_set(s->loop, &s->tick, TICK_MS, tick, s);
}

void pg_tell_ready(struct pg_store *s, enum cd_store_rc rc)
{
    struct cd_answer *a;

    if (!s->ready_fn)
        return;
    a = cd_answer_new();
    if (a) {
        a->kind = CD_A_DONE;
        a->rc = rc;
        a->fn.done = s->ready_fn;
        a->arg = s->ready_arg;
    }
    s->ready_fn = NULL;
    cd_later_push(s->later, a);
}

/* --- life ------------------------------------------------------------------------------------- */

static void really_close(struct pg_store *s)
{
    cd_timer_cancel(s->loop, &s->tick);
    pg_keep_stop(s);
    if (s->write)
        cd_pgconn_free(s->write);
    pg_reads_free(s->reads);
    cd_later_free(s->later);
    if (s->kick)
        s->kick->store = NULL;
    while (s->head)
        pg_op_free(unlink_after(s, NULL));
    for (size_t i = 0; i < s->n_batch; i++)
        pg_op_free(s->batch[i]);
    cd_pg_rows_done(&s->rows);
    free(s->expect);
    free(s->url);
    free(s->schema);
    free(s->lease.ids);
    free(s);
}

static void close_store(struct cd_store *b)
{
    struct pg_store *s = pg_of(b);

    if (s->delivering)
        s->closed = true;
    else
        really_close(s);
}

static const struct cd_store_ops ops = {
    .name = "postgresql",
    .commit = commit,
    .load_call = pg_load_call,
    .load_by_matrix = pg_load_by_matrix,
    .load_live = pg_load_live,
    .idem_get = pg_idem_get,
    .outbox_tried = outbox_tried,
    .outbox_done = outbox_done,
    .token_put = token_put,
    .token_get = pg_token_get,
    .token_del = token_del,
    .members_put = members_put,
    .members_load = pg_members_load,
    .seen_put = seen_put,
    .quarantine = quarantine,
    .stats = stats,
    .flush = flush,
    .close = close_store,
    .watch = pg_watch,
    .may_act = pg_may_act,
    .leave = pg_leave,
};

bool pg_connect(struct pg_store *s)
{
    char name[64];
    struct cd_pgconn_conf c = {.url = s->url, .schema = s->schema, .application = name};

    snprintf(name, sizeof name, "matrix-calld write %s", s->owner);
    s->write = cd_pgconn_new(s->loop, &c, &pg_write_ops, s);
    snprintf(name, sizeof name, "matrix-calld read %s", s->owner);
    c.read_only = true;
    s->reads = pg_reads_new(s, &c);
    return s->write && s->reads;
}

struct cd_store *cd_store_pg_open(struct cd_loop *loop, const struct cd_pg_conf *conf, cd_done_fn ready,
                                  void *arg)
{
    struct pg_store *s = calloc(1, sizeof *s);

    if (!s)
        return NULL;
    cd_spare_fill(&ops_aside);
    s->base.ops = &ops;
    s->loop = loop;
    s->max_queue = conf->max_queue ? conf->max_queue : CD_STORE_QUEUE_MAX;
    s->ready_fn = ready;
    s->ready_arg = arg;
    s->next_mark = 1;
    s->lease.ticked_ms = s->lease.renewed_ms = cd_mono_ms();
    if (conf->node)
        snprintf(s->owner, sizeof s->owner, "%s", conf->node);
    else
        cd_id_alnum(CD_PARTY_ID_LEN, s->owner);
    s->later = cd_later_new(loop);
    if (!s->later || !cd_dup(&s->url, conf->url) || !cd_dup(&s->schema, conf->schema) ||
        (!conf->offline && !pg_connect(s)) ||
        cd_timer_set(loop, &s->tick, TICK_MS, tick, s) < 0 ||
        !pg_keep_start(s, &conf->keep)) {
        really_close(s);
        return NULL;
    }
    return &s->base;
}

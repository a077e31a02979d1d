/* spool.c -- a PostgreSQL store that goes on without PostgreSQL.
 * In: the operations of store.h. Out: the same promises; "durable" means synced to the spool's files while
 * the database is away. Why: a call outlives its database (design, section 6).
 * State: a mode. In normal mode operations go straight to the PostgreSQL store, which hands them over here
 * when it is told to (its `divert`). While it does not answer, constraints are judged by what the process
 * knows (spool_shadow.c).
 * Owns: the PostgreSQL store, the files. Blocks: while it is opened. */
#include "store/spool_priv.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"

#define REC_MAX (CD_SPOOL_REC_MAX + CD_SPOOL_REC_HEAD)
#define TICK_MS 1000
#define HELD_MAX CD_STORE_QUEUE_MAX
#define AGAIN_MAX_MS 30000 /* between two attempts at a replay */
#define FULL_BELOW 8192    /* bytes of room: nothing new fits */

/* --- answers ---------------------------------------------------------------------------------- */

static void answer(struct spool_store *s, struct pg_op *op, enum cd_store_rc rc)
{
    s->stats.lost_races += rc == CD_STORE_LOST_RACE;
    pg_op_answer(s->later, op, rc);
}

static void written(void *self, struct pg_op *op, enum cd_store_rc rc)
{
    struct spool_store *s = self;

    s->stats.commits += op->kind == PG_OP_CHANGE && rc == CD_STORE_OK;
    s->spooled += rc == CD_STORE_OK && op->kind != PG_OP_FLUSH;
    if (rc != CD_STORE_OK)
        spool_shadow_unlearn(s, op);
    op->rc = rc;
    pg_op_finish(op); /* may close the store */
}

static void settled(void *self)
{
    struct spool_store *s = self;

    s->stats.batches++;
    if (s->mode == SPOOL_REPLAY || s->mode == SPOOL_LAST)
        spool_replay_go(s);
}

static void chunk(void *self, const uint8_t *p, size_t n)
{
    spool_replay_chunk(self, p, n);
}

/* --- spooling --------------------------------------------------------------------------------- */

static enum spool_class class_of(const struct pg_op *op)
{
    const struct cd_change *ch = op->change;

    if (op->kind == PG_OP_TRIED || op->kind == PG_OP_DONE || op->kind == PG_OP_TOKEN_DEL)
        return SPOOL_RUNNING;
    if (!ch)
        return SPOOL_NEW;
    if (ch->call && cd_status_final(ch->call->status) && ch->expect_version)
        return SPOOL_FINAL;
    return (ch->call && ch->expect_version) || (!ch->call && ch->n_outbox) ? SPOOL_RUNNING : SPOOL_NEW;
}

static void note_full(struct spool_store *s, bool full)
{
    if (full && !s->was_full)
        cd_log(CD_LOG_ERROR, "spool", "spool.full", NULL,
               "database.spool_max_mb or the disk is used up: new calls are refused, running ones can end");
    s->was_full = full;
}

static void hold(struct spool_store *s, struct pg_op *op)
{
    if (s->n_held >= HELD_MAX) {
        answer(s, op, CD_STORE_FULL);
        return;
    }
    op->next = NULL;
    *s->held_end = op;
    s->held_end = &op->next;
    s->n_held++;
}

static void spool(struct spool_store *s, struct pg_op *op)
{
    enum cd_store_rc rc = spool_shadow_judge(s, op);
    enum spool_class cls = class_of(op);
    struct cd_buf b;

    if (rc != CD_STORE_OK) {
        answer(s, op, rc);
        return;
    }
    cd_buf_init(&b, REC_MAX);
    cd_spool_rec_write(&b, op, op->change && !op->change->call ? spool_shadow_call(s, op->change->call_id) : NULL,
                       cd_wall_ms());
    if (b.failed || !spool_log_room(s->log, cls, b.n)) {
        note_full(s, !b.failed);
        rc = CD_STORE_FULL;
    } else if (!spool_shadow_keep(s, cls, op, &b)) {
        rc = CD_STORE_FULL;
    }
    cd_buf_done(&b);
    if (rc != CD_STORE_OK && !op->commit_fn && !op->done_fn)
        hold(s, op); /* nobody asks for it again; the database will have it when it is back */
    else if (rc != CD_STORE_OK)
        answer(s, op, rc);
}

/* What was submitted while the PostgreSQL store is diverted, or was handed back by it. */
static void take(void *arg, struct pg_op *op)
{
    struct spool_store *s = arg;

    if (op->kind == PG_OP_PURGE)
        pg_op_free(op); /* in an hour again */
    else if (op->change && op->change->call && s->replay && strcmp(op->change->call_id, s->yielding) == 0)
        pg_put(pg_of(s->pg), op); /* what is spooled waits for this one */
    else if (s->mode == SPOOL_LAST)
        hold(s, op);
    else if (op->kind == PG_OP_FLUSH && !spool_log_busy(s->log))
        answer(s, op, CD_STORE_OK);
    else if (cd_spool_rec_keeps(op))
        spool(s, op);
    else if (op->kind != PG_OP_FLUSH)
        answer(s, op, CD_STORE_DOWN);
    else if (!spool_log_add(s->log, SPOOL_FINAL, op, NULL))
        answer(s, op, CD_STORE_FULL);
}

static void take_held(struct spool_store *s, void (*give)(void *to, struct pg_op *op), void *to)
{
    struct pg_op *op = s->held, *next;

    s->held = NULL;
    s->held_end = &s->held;
    s->n_held = 0;
    for (; op; op = next) {
        next = op->next;
        op->next = NULL;
        give(to, op);
    }
}

/* --- modes ------------------------------------------------------------------------------------ */

static void tick(void *arg);

static void watch_time(struct spool_store *s, int64_t ms)
{
    if (cd_timer_set(s->loop, &s->timer, ms, tick, s) < 0)
        cd_log(CD_LOG_ERROR, "spool", "spool.no_memory", NULL, "no timer");
}

static void tell_ready(struct spool_store *s)
{
    cd_done_fn ready = s->conf.ready;

    s->conf.ready = NULL;
    if (ready)
        ready(s->conf.arg, CD_STORE_OK);
}

/* Ops of a replay hear that they failed; those of our callers go to the files. */
static void take_back(struct spool_store *s, bool replaying)
{
    struct pg_op *op = pg_suspend(pg_of(s->pg)), *next;
    size_t n = 0;

    pg_of(s->pg)->divert = true;
    s->taking_back = true;
    for (; op; op = next, n++) {
        next = op->next;
        op->next = NULL;
        if (replaying) {
            op->rc = CD_STORE_DOWN;
            pg_op_finish(op);
        } else {
            take(s, op);
        }
    }
    s->taking_back = false;
    if (!replaying)
        cd_log(CD_LOG_INFO, "spool", "spool.taken", NULL, "%zu operations under way were taken over", n);
}

void spool_leave(struct spool_store *s, const char *why)
{
    bool replaying = s->mode == SPOOL_REPLAY || s->mode == SPOOL_LAST;
    bool starting = s->mode == SPOOL_START;

    s->up = false;
    s->yielding[0] = '\0';
    if (s->mode == SPOOL_AWAY)
        return;
    if (replaying) {
        spool_replay_stop(s);
    } else {
        if (!spool_shadow_fill(s, !starting)) {
            cd_log(CD_LOG_ERROR, "spool", "spool.no_memory", NULL, "no memory for degraded mode");
            return; /* the next tick tries again */
        }
        s->since_ms = cd_mono_ms();
        s->spooled_at = s->spooled;
        s->replayed_at = s->replayed;
        s->rejected_at = s->rejected;
        cd_log(CD_LOG_WARN, "spool", "degraded.begin", NULL,
               "PostgreSQL: %s; %zu calls go on, changes are kept in database.spool_dir", why,
               s->shadow->calls.count);
    }
    s->mode = SPOOL_AWAY;
    watch_time(s, TICK_MS);
    take_back(s, replaying);
    take_held(s, take, s);
    if (replaying)
        spool_replay_failed(s);
    if (starting)
        tell_ready(s);
}

void spool_begin_without(struct spool_store *s)
{
    cd_log(CD_LOG_WARN, "spool", "degraded.begin", NULL,
           "a call in PostgreSQL stands where one of the spool belongs: it is ended when all is begun");
    spool_leave(s, "it has to wait");
    tell_ready(s);
}

static void put(void *arg, struct pg_op *op)
{
    pg_put(arg, op);
}

static void log_return(const struct spool_store *s)
{
    cd_log(CD_LOG_INFO, "spool", "degraded.end", NULL,
           "PostgreSQL has everything after %lld s: %llu records were spooled, %llu replayed, %llu rejected",
           (long long)((cd_mono_ms() - s->since_ms) / 1000), (unsigned long long)(s->spooled - s->spooled_at),
           (unsigned long long)(s->replayed - s->replayed_at),
           (unsigned long long)(s->rejected - s->rejected_at));
}

void spool_return(struct spool_store *s)
{
    bool unloaded = s->unloaded;

    log_return(s);
    s->mode = SPOOL_NORMAL;
    s->failures = 0;
    s->unloaded = false;
    note_full(s, false);
    spool_shadow_drop(s);
    pg_of(s->pg)->divert = false;
    take_held(s, put, pg_of(s->pg));
    spool_log_probe(s->log);
    watch_time(s, TICK_MS);
    if (unloaded && s->conf.came)
        s->conf.came(s->conf.arg);
    tell_ready(s);
}

static void begin_replay(void *arg)
{
    struct spool_store *s = arg;

    if (!s->up || (s->mode != SPOOL_AWAY && s->mode != SPOOL_START))
        return;
    s->mode = SPOOL_REPLAY;
    pg_resume(pg_of(s->pg));
    spool_replay_go(s);
}

void spool_replay_failed(struct spool_store *s)
{
    if (s->failures < 8)
        s->failures++;
}

/* --- the watcher of the connection ------------------------------------------------------------ */

static void away(void *arg, const char *why)
{
    spool_leave(arg, why);
}

static int64_t pause_ms(const struct spool_store *s)
{
    int64_t ms = s->failures ? (int64_t)500 << s->failures : 0;

    return ms > AGAIN_MAX_MS ? AGAIN_MAX_MS : ms;
}

static void back(void *arg)
{
    struct spool_store *s = arg;

    s->up = true;
    if (s->failures == 0)
        begin_replay(s);
    else /* it came back before, and did not take what we have */
        watch_time(s, pause_ms(s));
}

static void pg_ready(void *arg, enum cd_store_rc rc)
{
    struct spool_store *s = arg;
    struct spool_log_stats st;

    if (s->mode != SPOOL_START)
        return;
    if (rc != CD_STORE_OK) {
        spool_leave(s, "no connection");
        return;
    }
    s->up = true;
    spool_log_stats(s->log, &st);
    if (st.records == 0) {
        s->mode = SPOOL_NORMAL;
        spool_shadow_drop(s);
        spool_shadow_close_old(s);
        tell_ready(s);
        return;
    }
    cd_log(CD_LOG_WARN, "spool", "spool.found", NULL,
           "a former process left %llu records, %llu bytes; they are written to PostgreSQL first",
           (unsigned long long)st.records, (unsigned long long)st.bytes);
    s->since_ms = cd_mono_ms();
    pg_of(s->pg)->divert = true;
    watch_time(s, TICK_MS);
    begin_replay(s);
}

/* Once a second while degraded: what has to be tried again. */
static void tick(void *arg)
{
    struct spool_store *s = arg;

    spool_shadow_close_old(s);
    if (s->mode == SPOOL_AWAY && s->offline && !s->migration)
        spool_offline_migrate(s);
    if (s->mode == SPOOL_AWAY && s->up)
        begin_replay(s);
    if (s->mode == SPOOL_REPLAY || s->mode == SPOOL_LAST)
        spool_replay_go(s);
    if (s->mode != SPOOL_NORMAL) {
        spool_log_probe(s->log);
        note_full(s, s->was_full && !spool_log_room(s->log, SPOOL_NEW, FULL_BELOW));
    }
    if (s->mode != SPOOL_NORMAL)
        watch_time(s, s->failures ? pause_ms(s) : TICK_MS);
}

static void ready_later(void *arg, enum cd_store_rc rc)
{
    (void)rc;
    tell_ready(arg);
}

static void begin_offline(struct spool_store *s)
{
    struct cd_answer *a = cd_answer_new();

    s->mode = SPOOL_AWAY;
    s->since_ms = cd_mono_ms();
    pg_of(s->pg)->divert = true;
    pg_suspend(pg_of(s->pg)); /* it holds nothing */
    watch_time(s, 0);
    if (a) {
        a->kind = CD_A_DONE;
        a->fn.done = ready_later;
        a->arg = s;
    }
    cd_later_push(s->later, a);
}

/* --- operations ------------------------------------------------------------------------------- */

static void commit(struct cd_store *b, struct cd_change *ch, cd_commit_fn fn, void *arg)
{
    struct cd_store *pg = spool_of(b)->pg;

    pg->ops->commit(pg, ch, fn, arg);
}

static void outbox_tried(struct cd_store *b, const char *txn_id, int attempts, cd_done_fn fn, void *arg)
{
    struct cd_store *pg = spool_of(b)->pg;

    pg->ops->outbox_tried(pg, txn_id, attempts, fn, arg);
}

static void outbox_done(struct cd_store *b, const char *txn_id)
{
    struct cd_store *pg = spool_of(b)->pg;

    pg->ops->outbox_done(pg, txn_id);
}

static void token_put(struct cd_store *b, const char *user, const char *device, const uint8_t *sealed,
                      size_t n)
{
    struct cd_store *pg = spool_of(b)->pg;

    pg->ops->token_put(pg, user, device, sealed, n);
}

static void token_del(struct cd_store *b, const char *user)
{
    struct cd_store *pg = spool_of(b)->pg;

    pg->ops->token_del(pg, user);
}

static void members_put(struct cd_store *b, const struct cd_member_row *rows, size_t n)
{
    struct cd_store *pg = spool_of(b)->pg;

    pg->ops->members_put(pg, rows, n);
}

static void seen_put(struct cd_store *b, const uint8_t hash[16], cd_commit_fn fn, void *arg)
{
    struct cd_store *pg = spool_of(b)->pg;

    pg->ops->seen_put(pg, hash, fn, arg);
}

static void quarantine(struct cd_store *b, const char *reason, struct cd_str raw, cd_done_fn fn, void *arg)
{
    struct cd_store *pg = spool_of(b)->pg;

    pg->ops->quarantine(pg, reason, raw, fn, arg);
}

static void flush(struct cd_store *b, cd_done_fn fn, void *arg)
{
    struct cd_store *pg = spool_of(b)->pg;

    pg->ops->flush(pg, fn, arg);
}

static void stats(const struct cd_store *b, struct cd_store_stats *out)
{
    const struct spool_store *s = (const struct spool_store *)(const void *)b;
    bool degraded = s->mode != SPOOL_NORMAL && s->mode != SPOOL_START;
    struct spool_log_stats st;

    s->pg->ops->stats(s->pg, out);
    spool_log_stats(s->log, &st);
    out->commits += s->stats.commits;
    out->batches += s->stats.batches;
    out->lost_races += s->stats.lost_races;
    out->reads += s->stats.reads;
    out->queue_now += s->n_held;
    out->connected = out->connected && !degraded;
    out->spooling = degraded;
    out->spool_full = degraded && !spool_log_room(s->log, SPOOL_NEW, FULL_BELOW);
    out->spool_bytes = st.records ? st.bytes : 0;
    out->spool_records = st.records;
    out->spool_oldest_at = st.oldest_at;
    out->spool_replayed = s->replayed;
    out->spool_rejected = s->rejected;
    out->spool_displaced = s->displaced;
}

static void close_store(struct cd_store *b)
{
    struct spool_store *s = spool_of(b);

    cd_timer_cancel(s->loop, &s->timer);
    if (s->pg) {
        cd_pg_watch(s->pg, NULL);
        pg_of(s->pg)->divert = false;
        s->pg->ops->close(s->pg);
    }
    spool_replay_stop(s);
    spool_log_close(s->log);
    spool_asks_free(s);
    spool_offline_leave(s);
    while (s->held) {
        struct pg_op *op = s->held;

        s->held = op->next;
        pg_op_free(op);
    }
    spool_shadow_drop(s);
    spool_shadow_close_old(s);
    spool_keys_done(s);
    cd_later_free(s->later);
    free(s->url);
    free(s->schema);
    free(s);
}

/* --- other daemons on this database: the PostgreSQL store knows of them ------------------------ */

static void watch_others(struct cd_store *b, const struct cd_store_watch *w, void *arg)
{
    pg_watch(spool_of(b)->pg, w, arg);
}

static bool may_act(const struct cd_store *b, const char *call_id)
{
    const struct spool_store *s = (const struct spool_store *)(const void *)b;

    return spool_shadow_unshared(s, call_id) || pg_may_act(s->pg, call_id);
}

static void leave_others(struct cd_store *b, cd_done_fn fn, void *arg)
{
    pg_leave(spool_of(b)->pg, fn, arg);
}

static const struct cd_store_ops ops = {
    .name = "postgresql",
    .commit = commit,
    .load_call = spool_load_call,
    .load_by_matrix = spool_load_by_matrix,
    .load_live = spool_load_live,
    .idem_get = spool_idem_get,
    .outbox_tried = outbox_tried,
    .outbox_done = outbox_done,
    .token_put = token_put,
    .token_get = spool_token_get,
    .token_del = token_del,
    .members_put = members_put,
    .members_load = spool_members_load,
    .seen_put = seen_put,
    .quarantine = quarantine,
    .stats = stats,
    .flush = flush,
    .close = close_store,
    .watch = watch_others,
    .may_act = may_act,
    .leave = leave_others,
};

static const struct spool_log_ops log_ops = {
    .written = written,
    .settled = settled,
    .chunk = chunk,
    .found = spool_shadow_found,
};

static bool open_parts(struct spool_store *s, struct cd_err *err)
{
    const struct spool_log_conf lc = {.dir = s->conf.dir->fd,
                                      .max_bytes = (uint64_t)s->conf.max_mb * 1024 * 1024};
    struct cd_pg_conf pc = s->conf.pg;

    cd_fail(err, CD_E_NO_MEMORY, "the store could not be opened");
    pc.node = s->conf.dir->node;
    pc.offline = s->conf.offline;
    s->later = cd_later_new(s->loop);
    if (!s->later || !spool_shadow_open(s) || !cd_dup(&s->url, pc.url) || !cd_dup(&s->schema, pc.schema))
        return false;
    s->log = spool_log_open(s->loop, &lc, &log_ops, s, err);
    if (!s->log || s->unseeded) /* a call that degraded mode does not know it would refuse */
        return false;
    s->pg = cd_store_pg_open(s->loop, &pc, s->conf.offline ? NULL : pg_ready, s);
    if (!s->pg)
        return false;
    cd_pg_watch(s->pg, &s->watch);
    return true;
}

struct cd_store *cd_store_spool_open(struct cd_loop *loop, const struct cd_spool_conf *conf,
                                     struct cd_err *err)
{
    struct spool_store *s = calloc(1, sizeof *s);

    if (!s) {
        cd_fail(err, CD_E_NO_MEMORY, NULL);
        return NULL;
    }
    s->base.ops = &ops;
    s->loop = loop;
    s->conf = *conf;
    s->offline = conf->offline;
    s->held_end = &s->held;
    s->watch = (struct pg_watch){take, away, back, spool_keys_kept, s};
    spool_keys_init(s);
    if (!open_parts(s, err)) {
        close_store(&s->base);
        return NULL;
    }
    if (s->offline)
        begin_offline(s);
    return &s->base;
}

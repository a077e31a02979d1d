/* spool_log.c -- the spool's files as the loop sees them.
 * In: records to append, requests to read on. Out: receivers told after the sync, chunks of records.
 * Why: whatever is appended while one sync is under way shares the next (group commit); a disk that is
 *      full or broken must end neither the daemon nor the calls that run.
 * State: segments, oldest first; a batch being gathered and one being written. Owns: both batches' ops,
 * a worker thread. Blocks: opening; closing waits for the write under way. */
#include "store/spool_log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/budget.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/spare.h"
#include "loop/worker.h"
#include "store/spool_file.h"

#define RESERVE_MIN (64u << 10)
#define SEGMENT_MIN (64u << 10)
#define SEGMENT_MAX (4u << 20)
#define BATCH_MAX (32u << 20)
#define CHUNK (256u << 10)
#define PROBE_ROOM (64u << 10) /* must be free besides the reserve before a full disk counts as well */

struct segment {
    struct segment *next;
    uint64_t number, size, records;
    int64_t first_at;
    int fd; /* -1: not open for writing */
    bool reserve;
};

struct item {
    struct pg_op *op;
    size_t at, n; /* its bytes in the batch */
    enum spool_class cls;
};

struct batch {
    struct cd_buf bytes;
    struct item *v;
    size_t n, cap;
};

enum job_kind { JOB_WRITE, JOB_READ, JOB_REMOVE, JOB_RESERVE, JOB_REJECT };

/* What the thread works on. It touches nothing of the log. */
struct job {
    struct job *next, **prev;
    struct spool_log *log;
    enum job_kind kind;
    atomic_bool running;
    int dir, fd, err;
    bool create, from_reserve;
    uint64_t number, at, extra;
    char *p; /* owned, but for JOB_WRITE */
    size_t n;
};

struct spool_log {
    struct cd_loop *loop;
    struct cd_worker *worker;
    const struct spool_log_ops *ops;
    void *self;
    int dir;
    uint64_t max, reserve, segment_max, total, next_number;
    struct segment *first, *last;
    uint64_t read_at; /* in the first segment: where the next chunk begins; 0: behind its head */
    struct batch open, flying;
    struct job *jobs;
    bool writing, reading, probing;
    bool failed;        /* the disk refused the last write */
    bool reserve_ready; /* the file is there, not yet used */
    bool delivering, closed;
};

/* --- jobs ------------------------------------------------------------------------------------- */

static void work(void *arg)
{
    struct job *j = arg;

    atomic_store(&j->running, true);
    switch (j->kind) {
    case JOB_WRITE:
        if (j->create) {
            j->fd = spool_file_new(j->dir, j->number, j->from_reserve);
            j->err = j->fd < 0 ? errno : 0;
        }
        if (j->err == 0 && j->n)
            j->err = spool_file_write(j->fd, j->at, j->p, j->n);
        break;
    case JOB_READ:
        j->err = spool_file_read(j->dir, j->number, j->at, j->p, j->n);
        break;
    case JOB_REMOVE: {
        char name[SPOOL_NAME_MAX];

        spool_file_name(j->number, name);
        if (j->fd >= 0)
            close(j->fd);
        j->err = unlinkat(j->dir, name, 0) != 0 ? errno : 0;
        break;
    }
    case JOB_RESERVE:
        j->err = spool_file_reserve(j->dir, j->n, j->extra);
        break;
    case JOB_REJECT:
        j->err = spool_file_reject(j->dir, j->p, j->n, j->extra);
        break;
    }
    atomic_store(&j->running, false);
}

/* What waits to be written is known to degraded mode already: it must not fail for want of memory. */
static struct cd_spare jobs = CD_SPARE(struct job, 8);
static struct cd_spare segments = CD_SPARE(struct segment, 4);

static void job_free(struct job *j)
{
    *j->prev = j->next;
    if (j->next)
        j->next->prev = j->prev;
    if (j->kind != JOB_WRITE)
        free(j->p);
    cd_spare_give(&jobs, j);
}

static void done(void *arg);

static struct job *job_new(struct spool_log *l, enum job_kind kind)
{
    struct job *j = cd_spare_take(&jobs);

    if (!j)
        return NULL;
    j->log = l;
    j->kind = kind;
    j->dir = l->dir;
    j->fd = -1;
    j->next = l->jobs;
    j->prev = &l->jobs;
    if (j->next)
        j->next->prev = &j->next;
    l->jobs = j;
    return j;
}

static bool job_run(struct job *j)
{
    if (j && cd_worker_push(j->log->worker, work, done, j) == 0)
        return true;
    if (j)
        job_free(j);
    return false;
}

/* --- room ------------------------------------------------------------------------------------- */

/* Of the reserve segment, when the disk takes nothing else. */
static uint64_t reserve_left(const struct spool_log *l)
{
    uint64_t used = SPOOL_HEAD + l->open.bytes.n + l->flying.bytes.n;

    if (l->last && l->last->reserve && l->last->fd >= 0)
        used += l->last->size - SPOOL_HEAD;
    else if (!l->reserve_ready)
        return 0;
    return used < l->reserve ? l->reserve - used : 0;
}

bool spool_log_room(const struct spool_log *l, enum spool_class cls, size_t bytes)
{
    uint64_t kept = cls == SPOOL_NEW ? l->reserve * 2 : cls == SPOOL_RUNNING ? l->reserve * 3 / 2 : l->reserve;

    if (l->open.bytes.n + bytes > BATCH_MAX)
        return false;
    if (l->failed) {
        kept = cls == SPOOL_RUNNING ? l->reserve / 2 : 0;
        return cls != SPOOL_NEW && bytes + kept <= reserve_left(l);
    }
    return l->total + l->open.bytes.n + l->flying.bytes.n + bytes + kept <= l->max;
}

/* --- segments --------------------------------------------------------------------------------- */

static struct segment *segment_add(struct spool_log *l, uint64_t number)
{
    struct segment *s = cd_spare_take(&segments);

    if (!s)
        return NULL;
    s->number = number;
    s->fd = -1;
    if (l->last)
        l->last->next = s;
    else
        l->first = s;
    l->last = s;
    if (number >= l->next_number)
        l->next_number = number + 1;
    return s;
}

/* Close for writing: what comes next goes to another file. */
static void segment_end(struct segment *s)
{
    if (s && s->fd >= 0)
        close(s->fd);
    if (s)
        s->fd = -1;
}

/* Files that were read to their end go; the one being written stays while something is under way. */
static void drop_read(struct spool_log *l)
{
    while (l->first && (l->first->records == 0 || l->read_at >= l->first->size)) {
        struct segment *s = l->first;
        struct job *j;

        if (s == l->last && (l->writing || l->open.n))
            return;
        j = job_new(l, JOB_REMOVE);
        if (!j)
            return;
        j->number = s->number;
        j->fd = s->fd;
        if (!job_run(j))
            return; /* tried again with the next */
        l->total -= s->size < l->total ? s->size : l->total;
        l->first = s->next;
        if (!l->first)
            l->last = NULL;
        l->read_at = 0;
        cd_spare_give(&segments, s);
    }
}

/* --- writing ---------------------------------------------------------------------------------- */

static void batch_reset(struct batch *b)
{
    cd_budget_give(CD_BUDGET_SPOOL, b->bytes.n);
    cd_buf_done(&b->bytes);
    cd_buf_init(&b->bytes, BATCH_MAX + CD_SPOOL_REC_MAX);
    free(b->v);
    b->v = NULL;
    b->n = b->cap = 0;
}

static void write_done(struct spool_log *l, struct job *j);

/* The flying batch, to the segment that is open, or a new one. */
static bool start_write(struct spool_log *l)
{
    struct segment *s = l->last;
    struct job *j = job_new(l, JOB_WRITE);

    if (!j)
        return false;
    j->p = l->flying.bytes.p;
    j->n = l->flying.bytes.n;
    if (s && s->fd >= 0 && (l->failed || s->size < l->segment_max)) {
        j->fd = s->fd;
        j->number = s->number;
        j->at = s->size;
    } else if (j->n) {
        j->create = true;
        j->from_reserve = l->failed;
        j->number = l->next_number++;
        j->at = SPOOL_HEAD;
    }
    l->writing = job_run(j);
    return l->writing;
}

static void tell(struct spool_log *l, struct pg_op *op, enum cd_store_rc rc)
{
    if (l->closed)
        pg_op_free(op);
    else
        l->ops->written(l->self, op, rc);
}

static void really_close(struct spool_log *l);

/* Tell those of the flying batch that are still in it. */
static void finish_flying(struct spool_log *l, enum cd_store_rc rc)
{
    struct item *v = l->flying.v;
    size_t n = l->flying.n;

    l->flying.v = NULL;
    l->flying.n = 0;
    l->writing = false;
    batch_reset(&l->flying);
    l->delivering = true;
    for (size_t i = 0; i < n; i++)
        if (v[i].op)
            tell(l, v[i].op, rc);
    l->delivering = false;
    free(v);
}

static void next_batch(struct spool_log *l)
{
    struct batch b = l->flying;

    if (l->writing || l->open.n == 0)
        return;
    l->flying = l->open;
    l->open = b;
    if (!start_write(l)) {
        cd_log(CD_LOG_ERROR, "spool", "spool.stuck", NULL, "no memory, or too much is under way");
        finish_flying(l, CD_STORE_FULL);
    }
}

static void settle(struct spool_log *l)
{
    if (l->closed) {
        really_close(l);
        return;
    }
    next_batch(l);
    if (l->closed)
        really_close(l);
    else
        l->ops->settled(l->self);
}

/* The disk took it not: what ends calls goes into the reserve as far as it is large enough. In place: there
 * may be no memory either, and what is told to be written must be. */
static void refit(struct spool_log *l)
{
    struct batch *b = &l->flying;
    struct pg_op *late = NULL, **end = &late;
    size_t n = b->n, kept = 0, had = b->bytes.n;

    b->bytes.n = 0;
    for (size_t i = 0; i < n; i++) {
        struct item it = b->v[i];

        if (it.n && !spool_log_room(l, it.cls, it.n)) {
            it.op->next = NULL;
            *end = it.op;
            end = &it.op->next;
            continue;
        }
        if (it.n)
            memmove(b->bytes.p + b->bytes.n, b->bytes.p + it.at, it.n);
        it.at = b->bytes.n;
        b->bytes.n += it.n;
        b->v[kept++] = it;
    }
    b->n = kept;
    cd_budget_give(CD_BUDGET_SPOOL, had - b->bytes.n);
    l->delivering = true;
    while (late) {
        struct pg_op *op = late;

        late = op->next;
        op->next = NULL;
        tell(l, op, CD_STORE_FULL);
    }
    l->delivering = false;
}

static void write_failed(struct spool_log *l, const struct job *j)
{
    bool was_reserve = l->failed;

    cd_log(CD_LOG_ERROR, "spool", was_reserve ? "spool.reserve_failed" : "spool.disk_full", NULL,
           "the disk of database.spool_dir took %zu bytes not: %s; %s", j->n, strerror(j->err),
           was_reserve ? "the reserve neither" : "new calls are refused, running ones use the reserve");
    segment_end(l->last);
    if (was_reserve)
        l->reserve_ready = false;
    l->failed = true;
    if (!was_reserve) {
        refit(l);
        if (!l->closed && l->flying.n && start_write(l)) {
            l->ops->settled(l->self);
            return;
        }
    }
    finish_flying(l, CD_STORE_FULL);
    settle(l);
}

static void write_done(struct spool_log *l, struct job *j)
{
    struct segment *s = l->last;
    size_t records = 0;

    l->writing = false;
    if (j->err == 0 && j->create) {
        segment_end(s);
        s = segment_add(l, j->number);
        if (s) {
            s->fd = j->fd;
            s->reserve = j->from_reserve;
            s->size = SPOOL_HEAD;
            l->total += SPOOL_HEAD;
        } else {
            close(j->fd);
            j->err = ENOMEM;
        }
    } else if (j->create && j->fd >= 0) {
        close(j->fd); /* its head stands there, and nothing else */
    }
    if (j->from_reserve)
        l->reserve_ready = false;
    if (j->err) {
        write_failed(l, j);
        return;
    }
    for (size_t i = 0; i < l->flying.n; i++)
        records += l->flying.v[i].n > 0;
    if (s && records) {
        if (s->records == 0)
            s->first_at = cd_wall_ms();
        s->records += records;
        s->size += j->n;
        l->total += j->n;
    }
    finish_flying(l, CD_STORE_OK);
    settle(l);
}

bool spool_log_add(struct spool_log *l, enum spool_class cls, struct pg_op *op, const struct cd_buf *rec)
{
    size_t n = rec ? rec->n : 0;
    struct item *it = cd_grow((void **)&l->open.v, &l->open.n, &l->open.cap, sizeof *it);

    if (!it)
        return false;
    *it = (struct item){op, l->open.bytes.n, n, cls};
    if (n)
        cd_buf_add(&l->open.bytes, rec->p, n);
    if (l->open.bytes.failed) {
        l->open.bytes.failed = false;
        l->open.n--;
        return false;
    }
    cd_budget_take(CD_BUDGET_SPOOL, n);
    if (l->writing || l->delivering)
        return true;
    l->flying.n = 0;
    struct batch b = l->flying;
    l->flying = l->open;
    l->open = b;
    if (start_write(l))
        return true;
    /* the caller answers this one; nobody else can be in it */
    l->flying.n--;
    finish_flying(l, CD_STORE_FULL);
    return false;
}

bool spool_log_busy(const struct spool_log *l)
{
    return l->writing || l->open.n;
}

/* --- reading ---------------------------------------------------------------------------------- */

/* Longer records are read again as a whole: their length stands in their head. */
static size_t chunk_bytes(const struct spool_log *l, size_t wanted)
{
    uint64_t left = l->first->size - l->read_at;

    return left < wanted ? (size_t)left : wanted;
}

static bool read_some(struct spool_log *l, size_t wanted)
{
    struct job *j = job_new(l, JOB_READ);

    if (!j)
        return false;
    j->number = l->first->number;
    j->at = l->read_at;
    j->n = chunk_bytes(l, wanted);
    j->p = malloc(j->n + 1);
    if (!j->p) {
        job_free(j);
        return false;
    }
    l->reading = job_run(j);
    return l->reading;
}

bool spool_log_next(struct spool_log *l)
{
    if (l->reading)
        return true;
    drop_read(l);
    if (!l->first || l->first->records == 0)
        return false;
    if (l->read_at == 0)
        l->read_at = SPOOL_HEAD;
    return l->read_at < l->first->size && read_some(l, CHUNK);
}

static void read_done(struct spool_log *l, const struct job *j)
{
    struct cd_spool_rec rec;
    size_t used;

    l->reading = false;
    if (l->closed)
        return;
    if (j->err) {
        cd_log(CD_LOG_ERROR, "spool", "spool.unreadable", NULL, "reading the spool: %s", strerror(j->err));
        l->ops->chunk(l->self, NULL, 0);
        return;
    }
    if (cd_spool_rec_read(j->p, j->n, &rec, &used) == CD_SPOOL_SHORT && used > j->n &&
        l->first->size - l->read_at >= used && read_some(l, used))
        return;
    cd_spool_rec_done(&rec);
    l->ops->chunk(l->self, (const uint8_t *)j->p, j->n);
}

void spool_log_advance(struct spool_log *l, size_t bytes, size_t records)
{
    struct segment *s = l->first;

    l->read_at += bytes;
    s->records -= records < s->records ? records : s->records;
    if (s->records == 0 && s != l->last)
        l->read_at = s->size;
    drop_read(l);
}

/* --- the rest --------------------------------------------------------------------------------- */

void spool_log_reject(struct spool_log *l, const void *rec, size_t n)
{
    struct job *j = job_new(l, JOB_REJECT);

    if (!j)
        return;
    j->p = malloc(n ? n : 1);
    j->n = n;
    j->extra = l->max;
    if (j->p)
        memcpy(j->p, rec, n);
    if (!j->p || !job_run(j))
        cd_log(CD_LOG_ERROR, "spool", "spool.lost", NULL, "a rejected record could not be kept");
}

void spool_log_probe(struct spool_log *l)
{
    struct job *j;

    if (l->probing || (!l->failed && l->reserve_ready) || !(j = job_new(l, JOB_RESERVE)))
        return;
    j->n = l->reserve;
    j->extra = PROBE_ROOM;
    l->probing = job_run(j);
}

static void reserve_done(struct spool_log *l, const struct job *j)
{
    l->probing = false;
    if (j->err)
        return;
    l->reserve_ready = true;
    if (l->failed) {
        cd_log(CD_LOG_INFO, "spool", "spool.disk_back", NULL, "the disk of database.spool_dir has room again");
        if (!l->writing)
            segment_end(l->last);
        l->failed = l->writing; /* a write into the reserve is under way: the next probe tells */
    }
    if (!l->closed)
        l->ops->settled(l->self);
}

static void done(void *arg)
{
    struct job *j = arg, copy = *j;
    struct spool_log *l = j->log;

    switch (j->kind) {
    case JOB_WRITE:
        job_free(j);
        write_done(l, &copy);
        return;
    case JOB_READ:
        read_done(l, j);
        break;
    case JOB_RESERVE:
        job_free(j);
        reserve_done(l, &copy);
        return;
    case JOB_REMOVE:
    case JOB_REJECT:
        if (j->err)
            cd_log(CD_LOG_WARN, "spool", "spool.file", NULL, "%s: %s",
                   j->kind == JOB_REMOVE ? "removing a segment" : "keeping a rejected record", strerror(j->err));
        break;
    }
    job_free(j);
}

void spool_log_stats(const struct spool_log *l, struct spool_log_stats *out)
{
    *out = (struct spool_log_stats){0};
    for (const struct segment *s = l->first; s; s = s->next) {
        out->bytes += s->size;
        out->records += s->records;
        if (s->records && !out->oldest_at)
            out->oldest_at = s->first_at;
    }
}

/* --- life ------------------------------------------------------------------------------------- */

static bool read_in(struct spool_log *l, struct cd_err *err)
{
    uint64_t *numbers;
    size_t n;
    int e = spool_file_list(l->dir, &numbers, &n);

    for (size_t i = 0; e == 0 && i < n; i++) {
        struct spool_found found;
        struct segment *s;

        e = spool_file_check(l->dir, numbers[i], i + 1 == n, l->max, l->ops->found, l->self, &found);
        s = e ? NULL : segment_add(l, numbers[i]);
        if (!s) {
            e = e ? e : ENOMEM;
            break;
        }
        s->size = found.size;
        s->records = found.records;
        s->first_at = found.first_at;
        l->total += s->size;
    }
    free(numbers);
    if (e)
        cd_fail(err, e == ENOMEM ? CD_E_NO_MEMORY : CD_E_INTERNAL, "database.spool_dir: reading the spool: %s",
                strerror(e));
    return e == 0;
}

struct spool_log *spool_log_open(struct cd_loop *loop, const struct spool_log_conf *conf,
                                 const struct spool_log_ops *ops, void *self, struct cd_err *err)
{
    struct spool_log *l = calloc(1, sizeof *l);
    int e;

    if (!l || !(l->worker = cd_worker_new(loop))) {
        free(l);
        cd_fail(err, CD_E_NO_MEMORY, NULL);
        return NULL;
    }
    cd_spare_fill(&jobs);
    cd_spare_fill(&segments);
    l->loop = loop;
    l->ops = ops;
    l->self = self;
    l->dir = conf->dir;
    l->max = conf->max_bytes;
    l->reserve = conf->max_bytes / 32 > RESERVE_MIN ? conf->max_bytes / 32 : RESERVE_MIN;
    l->segment_max = conf->max_bytes / 16 < SEGMENT_MIN ? SEGMENT_MIN
                     : conf->max_bytes / 16 > SEGMENT_MAX ? SEGMENT_MAX : conf->max_bytes / 16;
    l->next_number = 1;
    cd_buf_init(&l->open.bytes, BATCH_MAX + CD_SPOOL_REC_MAX);
    cd_buf_init(&l->flying.bytes, BATCH_MAX + CD_SPOOL_REC_MAX);
    if (!read_in(l, err)) {
        spool_log_close(l);
        return NULL;
    }
    drop_read(l);
    e = spool_file_reserve(l->dir, l->reserve, 0);
    l->reserve_ready = e == 0;
    l->failed = e != 0;
    if (e)
        cd_log(CD_LOG_WARN, "spool", "spool.no_reserve", NULL,
               "database.spool_dir: %" PRIu64 " bytes of reserve: %s", l->reserve, strerror(e));
    return l;
}

static void free_batch(struct batch *b)
{
    for (size_t i = 0; i < b->n; i++)
        pg_op_free(b->v[i].op);
    b->n = 0;
    batch_reset(b);
    cd_buf_done(&b->bytes);
}

static void really_close(struct spool_log *l)
{
    bool hung = false;

    cd_worker_free(l->worker); /* waits for the running job */
    for (struct job *j = l->jobs; j; j = j->next)
        hung |= atomic_load(&j->running);
    if (hung)
        return; /* a disk that does not answer: what its thread uses must stay */
    while (l->jobs)
        job_free(l->jobs);
    free_batch(&l->open);
    free_batch(&l->flying);
    while (l->first) {
        struct segment *s = l->first;

        l->first = s->next;
        segment_end(s);
        cd_spare_give(&segments, s);
    }
    free(l);
}

void spool_log_close(struct spool_log *l)
{
    if (!l)
        return;
    if (l->delivering)
        l->closed = true;
    else
        really_close(l);
}

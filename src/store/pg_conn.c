/* pg_conn.c -- one PostgreSQL connection that never blocks.
 * In: the loop's events on its socket, statements that the owner queues on cd_pgconn_pq().
 * Out: up, down and each result. Why: libpq only waits when it is asked to; here it never is.
 * State: struct cd_pgconn: resolving -> connecting -> setting up -> open, or waiting for the next try.
 * Owns: the PGconn, its place in the epoll set. Blocks: never. */
#include "store/pg_conn.h"

#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/log.h"
#include "base/secret.h"
#include "loop/loop.h"
#include "store/pg_notice.h"
#include "store/pg_resolve.h"
#include "store/store_int.h"

#define CONNECT_MS 5000  /* one attempt, all addresses' handshakes included */
#define BACKOFF_MIN_MS 50
#define BACKOFF_MAX_MS 2000

enum state { ST_WAITING, ST_RESOLVING, ST_CONNECTING, ST_SETUP, ST_OPEN };

/* What the helper thread works on; it outlives a connection that is freed meanwhile. */
struct lookup {
    struct cd_pgconn *conn; /* NULL: freed */
    struct cd_pg_target *target;
    bool found;
};

struct cd_pgconn {
    struct cd_loop *loop;
    const struct cd_pgconn_ops *ops;
    void *self;
    char *schema, *application;
    struct cd_pg_target *target; /* NULL while a lookup has it */
    struct lookup *lookup;
    enum state state;
    PGconn *pg;
    struct cd_io *io;
    uint32_t events;      /* what io watches */
    struct cd_timer timer; /* next attempt, or the end of this one */
    unsigned attempts;    /* since the last success */
    uint64_t connects;
    int backend;
    bool read_only;
    bool reading;         /* inside read_results: a reset waits for its end */
    bool freed;           /* likewise */
    const char *reset_why;
};

/* Everything is found by key, so a plan made while the tables were small must not stay a scan; and
 * planning thirty unnested columns anew for each batch would cost more than running it. The server
 * gives a statement up before we give the connection up. */
static const char setup_sql[] =
    "SELECT set_config('search_path', quote_ident($1), false),"
    " set_config('client_min_messages', 'warning', false),"
    " set_config('plan_cache_mode', 'force_generic_plan', false),"
    " set_config('enable_seqscan', 'off', false),"
    " set_config('enable_hashjoin', 'off', false),"
    " set_config('enable_mergejoin', 'off', false),"
    " set_config('jit', 'off', false),"
    " set_config('statement_timeout', '10s', false),"
    " set_config('default_transaction_isolation',"
    " CASE $2 WHEN 'read' THEN 'repeatable read' ELSE 'read committed' END, false),"
    " set_config('default_transaction_read_only', CASE $2 WHEN 'read' THEN 'on' ELSE 'off' END, false),"
    " set_config('tcp_keepalives_idle', '10', false),"
    " set_config('tcp_keepalives_interval', '5', false),"
    " set_config('tcp_keepalives_count', '3', false),"
    " set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on'"
    " ELSE current_setting('synchronous_commit') END, false)";

static void attempt(void *arg);

static void unwatch(struct cd_pgconn *c)
{
    cd_io_del(c->io);
    c->io = NULL;
    c->events = 0;
}

static void close_pg(struct cd_pgconn *c)
{
    unwatch(c);
    PQfinish(c->pg);
    c->pg = NULL;
}

/* The message without its line feeds; libpq's never hold passwords. */
static void log_lost(const struct cd_pgconn *c, const char *why)
{
    const char *text = c->pg ? PQerrorMessage(c->pg) : "";
    size_t n = strcspn(text, "\n");

    /* the first attempts tell the story; a database that stays away need not fill the disk */
    if (c->attempts <= 3 || c->attempts % 30 == 0)
        cd_log(CD_LOG_WARN, "store", c->state == ST_OPEN ? "pg.lost" : "pg.unreachable", NULL,
               "%s%s%.*s (attempt %u)", why, n ? ": " : "", (int)n, text, c->attempts + 1);
}

static int64_t backoff_ms(const struct cd_pgconn *c)
{
    int64_t ms = BACKOFF_MIN_MS;
    uint8_t jitter;

    for (unsigned i = 0; i < c->attempts && ms < BACKOFF_MAX_MS; i++)
        ms *= 2;
    if (ms > BACKOFF_MAX_MS)
        ms = BACKOFF_MAX_MS;
    cd_random(&jitter, 1);
    return c->attempts == 0 ? 10 : ms / 2 + ms * jitter / 512;
}

static void lost(struct cd_pgconn *c, const char *why)
{
    log_lost(c, why);
    close_pg(c);
    c->state = ST_WAITING;
    c->reset_why = NULL;
    if (cd_timer_set(c->loop, &c->timer, backoff_ms(c), attempt, c) < 0)
        cd_log(CD_LOG_ERROR, "store", "pg.stuck", NULL, "no timer for the next attempt");
    c->attempts++;
    c->ops->down(c->self);
}

void cd_pgconn_reset(struct cd_pgconn *c, const char *why)
{
    if (c->reading)
        c->reset_why = why;
    else if (c->state != ST_WAITING)
        lost(c, why);
}

static void watch(struct cd_pgconn *c, uint32_t events, cd_io_fn fn)
{
    if (c->io && c->events == events)
        return;
    if (c->io)
        cd_io_mod(c->io, events);
    else
        c->io = cd_io_add(c->loop, PQsocket(c->pg), events, fn, c);
    c->events = events;
}

/* --- open ------------------------------------------------------------------------------------- */

static void ready(void *arg, uint32_t events);

void cd_pgconn_flush(struct cd_pgconn *c)
{
    int left;

    if (!c->pg || (c->state != ST_OPEN && c->state != ST_SETUP))
        return;
    left = PQflush(c->pg);
    if (left < 0)
        cd_pgconn_reset(c, "cannot send");
    else /* reading goes on while writing: two full buffers would wait for each other (trap P1) */
        watch(c, left ? EPOLLIN | EPOLLOUT : EPOLLIN, ready);
    if (!c->io && c->pg)
        cd_pgconn_reset(c, "cannot watch the socket");
}

static void setup_result(struct cd_pgconn *c, const PGresult *res)
{
    ExecStatusType st = PQresultStatus(res);

    if (st == PGRES_PIPELINE_SYNC) {
        c->state = ST_OPEN;
        c->connects++;
        c->backend = PQbackendPID(c->pg);
        cd_timer_cancel(c->loop, &c->timer);
        cd_log(CD_LOG_INFO, "store", "pg.connected", NULL, "PostgreSQL %d, backend %d",
               PQserverVersion(c->pg), c->backend);
        c->ops->up(c->self);
    } else if (st != PGRES_TUPLES_OK) {
        cd_pgconn_reset(c, "the session's settings were refused");
    }
}

/* In pipeline mode NULL ends one statement, and two of them say that nothing is left. */
static void read_results(struct cd_pgconn *c)
{
    bool had = true;

    c->reading = true;
    while (!c->reset_why && !c->freed && !PQisBusy(c->pg)) {
        PGresult *res = PQgetResult(c->pg);

        if (!res && !had)
            break;
        had = res != NULL;
        if (!res)
            continue;
        if (c->state == ST_SETUP)
            setup_result(c, res);
        else
            c->ops->result(c->self, res);
        PQclear(res);
    }
    c->reading = false;
}

static void read_notices(struct cd_pgconn *c)
{
    PGnotify *n;

    c->reading = true;
    while (!c->reset_why && !c->freed && (n = PQnotifies(c->pg))) {
        if (c->ops->notified)
            c->ops->notified(c->self, n->relname, n->extra);
        PQfreemem(n);
    }
    c->reading = false;
}

static void ready(void *arg, uint32_t events)
{
    struct cd_pgconn *c = arg;

    if (events & (EPOLLIN | EPOLLERR | EPOLLHUP)) {
        if (!PQconsumeInput(c->pg)) {
            lost(c, "connection lost");
            return;
        }
        read_results(c);
        read_notices(c);
        if (c->freed) {
            cd_pgconn_free(c);
            return;
        }
        if (c->reset_why) {
            lost(c, c->reset_why);
            return;
        }
        if (PQstatus(c->pg) == CONNECTION_BAD) {
            lost(c, "connection lost");
            return;
        }
    }
    cd_pgconn_flush(c);
}

/* --- connecting ------------------------------------------------------------------------------- */

static void set_up(struct cd_pgconn *c)
{
    const char *const v[] = {c->schema, c->read_only ? "read" : "write"};

    unwatch(c);
    c->state = ST_SETUP;
    if (PQsetnonblocking(c->pg, 1) != 0 || !PQenterPipelineMode(c->pg) ||
        !PQsendQueryParams(c->pg, setup_sql, 2, NULL, v, NULL, NULL, 0) ||
        !PQpipelineSync(c->pg)) {
        lost(c, "cannot set the session up");
        return;
    }
    cd_pgconn_flush(c);
}

/* libpq may open another socket at any step, so each step watches anew (trap P5). */
static void poll_step(void *arg, uint32_t events)
{
    struct cd_pgconn *c = arg;

    (void)events;
    unwatch(c);
    switch (PQconnectPoll(c->pg)) {
    case PGRES_POLLING_READING:
        watch(c, EPOLLIN, poll_step);
        break;
    case PGRES_POLLING_WRITING:
        watch(c, EPOLLOUT, poll_step);
        break;
    case PGRES_POLLING_OK:
        set_up(c);
        return;
    case PGRES_POLLING_FAILED:
    case PGRES_POLLING_ACTIVE:
        lost(c, "cannot connect");
        return;
    }
    if (!c->io)
        lost(c, "cannot watch the socket");
}

static void too_slow(void *arg)
{
    lost(arg, "no connection within 5 s");
}

static void start(struct cd_pgconn *c)
{
    struct cd_pg_params p;

    c->state = ST_CONNECTING;
    if (cd_timer_set(c->loop, &c->timer, CONNECT_MS, too_slow, c) == 0 &&
        cd_pg_target_params(c->target, c->application, c->attempts, &p)) {
        c->pg = PQconnectStartParams((const char *const *)p.keys, (const char *const *)p.values, 0);
        cd_pg_params_done(&p);
    }
    if (!c->pg || PQstatus(c->pg) == CONNECTION_BAD) {
        lost(c, "cannot connect");
        return;
    }
    PQsetNoticeReceiver(c->pg, cd_pg_notice, NULL);
    watch(c, EPOLLOUT, poll_step);
    if (!c->io)
        lost(c, "cannot watch the socket");
}

/* On the helper thread. */
static void look_up(void *arg)
{
    struct lookup *l = arg;

    l->found = cd_pg_target_resolve(l->target);
}

static void looked_up(void *arg)
{
    struct lookup *l = arg;
    struct cd_pgconn *c = l->conn;
    bool found = l->found;

    if (!c) {
        cd_pg_target_free(l->target);
        free(l);
        return;
    }
    c->target = l->target;
    c->lookup = NULL;
    free(l);
    if (found)
        start(c);
    else
        lost(c, "the database's host name has no address");
}

static void attempt(void *arg)
{
    struct cd_pgconn *c = arg;
    struct lookup *l;

    if (!cd_pg_target_needs_dns(c->target)) {
        start(c);
        return;
    }
    c->state = ST_RESOLVING;
    l = calloc(1, sizeof *l);
    if (l) {
        l->conn = c;
        l->target = c->target;
    }
    if (!l || cd_worker_run(c->loop, look_up, looked_up, l) < 0) {
        free(l);
        lost(c, "the resolver is busy");
        return;
    }
    c->lookup = l;
    c->target = NULL;
}

struct cd_pgconn *cd_pgconn_new(struct cd_loop *loop, const struct cd_pgconn_conf *conf,
                                const struct cd_pgconn_ops *ops, void *self)
{
    struct cd_pgconn *c = calloc(1, sizeof *c);

    if (!c)
        return NULL;
    c->loop = loop;
    c->ops = ops;
    c->self = self;
    c->read_only = conf->read_only;
    c->target = cd_pg_target_parse(conf->url);
    if (!c->target)
        cd_log(CD_LOG_ERROR, "store", "pg.url", NULL,
               "database.url is neither a URI (postgresql://user@host/db) nor \"key=value ...\"");
    if (!c->target || !cd_dup(&c->schema, conf->schema) ||
        !cd_dup(&c->application, conf->application) ||
        cd_timer_set(loop, &c->timer, 0, attempt, c) < 0) {
        cd_pgconn_free(c);
        return NULL;
    }
    return c;
}

void cd_pgconn_free(struct cd_pgconn *c)
{
    if (!c)
        return;
    if (c->reading) {
        c->freed = true; /* ready() frees it when it is done with it */
        return;
    }
    cd_timer_cancel(c->loop, &c->timer);
    close_pg(c);
    if (c->lookup)
        c->lookup->conn = NULL;
    cd_pg_target_free(c->target);
    free(c->schema);
    free(c->application);
    free(c);
}

PGconn *cd_pgconn_pq(const struct cd_pgconn *c)
{
    return c->state == ST_OPEN && !c->reset_why && !c->freed ? c->pg : NULL;
}

void cd_pgconn_settled(struct cd_pgconn *c)
{
    c->attempts = 0;
}

int cd_pgconn_backend(const struct cd_pgconn *c)
{
    return c->backend;
}

uint64_t cd_pgconn_connects(const struct cd_pgconn *c)
{
    return c->connects;
}

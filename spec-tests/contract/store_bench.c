/* store_bench.c -- durable changes a second, and what they cost: store_bench [CHANGES [IN_FLIGHT]].
 * Each is what an initiate writes: a session, two participants, an event, an outbox row. One JSON line.
 * STORE_BENCH_SQL is run first: without a constraint or an index, what does it cost?
 * Two at once on one server, the second a second later, compare fairly on a busy machine.
 * Needs CALLD_TEST_DATABASE_URL, with the server on this machine (its CPU time is read from /proc). */
#include "tap.h"

#include <stdlib.h>
#include <sys/resource.h>

#include "store_await.h"
#include "store_kit.h"

static long wanted = 50000, in_flight = 64, started, finished, failed;
static struct cd_store *s;
static double *latency_ms;

struct one {
    struct cd_call *call;
    int64_t since_us;
};

static void next(void);

static void on_commit(void *arg, enum cd_store_rc rc, const char *live)
{
    struct one *o = arg;

    (void)live;
    latency_ms[finished++] = (double)(cd_mono_us() - o->since_us) / 1000;
    failed += rc != CD_STORE_OK;
    cd_call_free(o->call);
    free(o);
    next();
}

static void next(void)
{
    struct one *o;
    struct cd_change *ch;
    char room[40];

    if (started == wanted)
        return;
    o = calloc(1, sizeof *o);
    snprintf(room, sizeof room, "!bench%ld:example.org", started++);
    o->call = kit_call(room, "@alice:example.org", "@bob:example.org");
    o->since_us = cd_mono_us();
    ch = kit_change(o->call, 0);
    kit_outbox(ch, o->call->id, 0, 1, "{\"version\":\"1\",\"lifetime\":60000}");
    s->ops->commit(s, ch, on_commit, o);
}

/* User and system time of a process, in ticks of 10 ms. */
static double cpu_of(long pid)
{
    char path[64], line[1024];
    unsigned long user = 0, system = 0;
    FILE *f;

    snprintf(path, sizeof path, "/proc/%ld/stat", pid);
    f = fopen(path, "r");
    if (f && fgets(line, sizeof line, f) && strrchr(line, ')'))
        sscanf(strrchr(line, ')') + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",
               &user, &system);
    if (f)
        fclose(f);
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

static double cpu_self(void)
{
    struct rusage u;

    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static int by_size(const void *a, const void *b)
{
    const double *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

static void run(void)
{
    struct cd_store_stats st;
    double self, server, seconds;
    long backend;
    int64_t t0;

    s = kit_open();
    if (!s)
        exit(1);
    if (getenv("STORE_BENCH_SQL")) {
        char *sql = NULL;

        if (asprintf(&sql, "SET search_path = %s; %s", kit_schema, getenv("STORE_BENCH_SQL")) < 0)
            exit(1);
        free(kit_sql(sql));
        free(sql);
    }
    backend = (long)kit_sql_int("SELECT pid FROM pg_stat_activity"
                                " WHERE application_name LIKE 'matrix-calld write%'"
                                " ORDER BY backend_start DESC LIMIT 1");
    self = cpu_self();
    server = cpu_of(backend);
    t0 = cd_mono_us();
    for (long i = 0; i < in_flight; i++)
        next();
    UNTIL(finished == wanted);
    seconds = (double)(cd_mono_us() - t0) / 1e6;
    self = (cpu_self() - self) * 1e5 / (double)wanted;
    server = (cpu_of(backend) - server) * 1e5 / (double)wanted;
    qsort(latency_ms, (size_t)wanted, sizeof *latency_ms, by_size);
    s->ops->stats(s, &st);
    printf("{\"name\":\"store-initiate\",\"changes\":%ld,\"in_flight\":%ld,\"failed\":%ld,"
           "\"per_second\":%.0f,\"p50_ms\":%.2f,\"p99_ms\":%.2f,"
           "\"client_cpu_s_per_100k\":%.2f,\"postgres_cpu_s_per_100k\":%.2f,"
           "\"per_batch\":%.1f}\n", wanted, in_flight, failed, (double)wanted / seconds,
           latency_ms[wanted / 2], latency_ms[wanted * 99 / 100], self, server,
           (double)wanted / (double)st.batches);
    s->ops->close(s);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        wanted = strtol(argv[1], NULL, 10);
    if (argc > 2)
        in_flight = strtol(argv[2], NULL, 10);
    latency_ms = calloc((size_t)wanted + 1, sizeof *latency_ms);
    if (!kit_start() || !latency_ms || !kit_use_postgres() || !await_run(run))
        return 1;
    kit_end();
    free(latency_ms);
    return failed ? 1 : 0;
}

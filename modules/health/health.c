/* health.c -- is it alive, is it ready, which version is it: nothing secret, no token needed. */
#include "health.h"

#include <string.h>

#include "base/budget.h"
#include "base/clock.h"
#include "base/log.h"

static enum cd_rc reply(struct cd_req *req, int status, struct cd_buf *b)
{
    cd_req_add_header(req, "Cache-Control", "no-store");
    cd_req_reply_json(req, status, b);
    return CD_OK;
}

static enum cd_rc health(void *self, struct cd_req *req)
{
    struct cd_buf b;

    (void)self;
    cd_buf_init(&b, 256);
    cd_buf_adds(&b, "{\"status\":\"ok\"}");
    return reply(req, 200, &b);
}

static enum cd_rc version(void *self, struct cd_req *req)
{
    struct cd_buf b;

    (void)self;
    cd_buf_init(&b, 256);
    cd_buf_adds(&b, "{\"name\":\"matrix-calld\",\"version\":\"" PACKAGE_VERSION "\"}");
    return reply(req, 200, &b);
}

/* As far as the last requests of any kind, and the last event sent, have shown. */
static bool homeserver_up(const struct cd_core *core)
{
    struct cd_outbox_stats out = {.homeserver_up = true};

    if (core->outbox)
        cd_outbox_stats(core->outbox, &out);
    return out.homeserver_up && (!core->fetch || cd_fetch_reachable(core->fetch));
}

/* 200 with what is away; 503 only while starting, draining, or when nothing new can be kept. */
static enum cd_rc ready(void *self, struct cd_req *req)
{
    const struct cd_core *core = self;
    struct cd_store_stats store;
    const char *sep = "";
    bool ok = core->ready && !core->draining;
    struct cd_buf b;

    core->store->ops->stats(core->store, &store);
    ok = ok && !store.spool_full;
    cd_buf_init(&b, 512);
    cd_buf_addf(&b, "{\"ready\":%s,\"state\":\"%s\",\"degraded\":[", ok ? "true" : "false",
                core->draining ? "draining"
                : !core->ready ? "starting"
                : store.spool_full ? "full" : "running");
    if (core->persistent && !store.connected) {
        cd_buf_adds(&b, "\"postgresql\"");
        sep = ",";
    }
    if (!homeserver_up(core))
        cd_buf_addf(&b, "%s\"homeserver\"", sep);
    cd_buf_adds(&b, "]}");
    return reply(req, ok ? 200 : 503, &b);
}

/* --- metrics: Prometheus text on the control listener --------------------------------------------- */

void cd_metric(struct cd_buf *b, const char *name, const char *type, const char *help, double value)
{
    cd_buf_addf(b, "# HELP calld_%s %s\n# TYPE calld_%s %s\ncalld_%s %.15g\n", name, help, name, type, name, value);
}

static void call_metrics(struct cd_buf *b, struct cd_core *core)
{
    unsigned live[CD_STATUS_COUNT] = {0};
    struct cd_auth_stats auth = {0};
    struct cd_http_stats http;
    size_t pos = 0;
    const struct cd_live *l;

    while ((l = cd_live_next(core, &pos)))
        live[cd_live_call(l)->status]++;
    cd_buf_adds(b, "# HELP calld_calls_live Calls in memory that are not over, by status.\n"
                   "# TYPE calld_calls_live gauge\n");
    for (int s = 0; s < CD_ENDED; s++)
        cd_buf_addf(b, "calld_calls_live{status=\"%s\"} %u\n", cd_status_name((enum cd_status)s), live[s]);
    cd_buf_adds(b, "# HELP calld_calls_finished_total Calls that ended, by final status.\n"
                   "# TYPE calld_calls_finished_total counter\n");
    for (int s = CD_ENDED; s < CD_STATUS_COUNT; s++)
        cd_buf_addf(b, "calld_calls_finished_total{status=\"%s\"} %llu\n", cd_status_name((enum cd_status)s),
                    (unsigned long long)core->counts.final_by_status[s]);
    cd_metric(b, "calls_created_total", "counter", "Calls created.", (double)core->counts.calls_created);
    cd_metric(b, "transitions_total", "counter", "State changes of calls.", (double)core->counts.transitions);
    cd_metric(b, "refused_total", "counter", "Commands refused with 409.", (double)core->counts.refused);
    cd_metric(b, "ignored_total", "counter", "Matrix events and timers that changed nothing.",
           (double)core->counts.ignored);
    cd_metric(b, "signals_total", "counter", "Offers, answers and candidates relayed.",
           (double)core->counts.signals);
    if (core->auth)
        cd_auth_stats(core->auth, &auth);
    cd_http_stats(core->http, &http);
    cd_metric(b, "rate_limited_total", "counter", "Requests refused by a rate limit.",
           (double)(core->counts.rate_limited + auth.limited + http.limited));
}

static void memory_metrics(struct cd_buf *b)
{
    cd_buf_adds(b, "# HELP calld_memory_bytes Budgeted memory in use, by purpose.\n"
                   "# TYPE calld_memory_bytes gauge\n");
    for (int k = 0; k < CD_BUDGET_KINDS; k++)
        cd_buf_addf(b, "calld_memory_bytes{for=\"%s\"} %zu\n", cd_budget_name((enum cd_budget_kind)k),
                    cd_budget_used_by((enum cd_budget_kind)k));
    cd_metric(b, "memory_limit_bytes", "gauge", "limits.memory_mb.", (double)cd_budget_limit());
}

static void spool_metrics(struct cd_buf *b, const struct cd_store_stats *st)
{
    int64_t age = st->spool_oldest_at ? cd_wall_ms() - st->spool_oldest_at : 0;

    cd_metric(b, "store_spooling", "gauge", "1 while changes are kept in files, without the database.", st->spooling);
    cd_metric(b, "spool_full", "gauge", "1 while nothing new has room there.", st->spool_full);
    cd_metric(b, "spool_bytes", "gauge", "Bytes that the database has to get.", (double)st->spool_bytes);
    cd_metric(b, "spool_records", "gauge", "Changes that the database has to get.", (double)st->spool_records);
    cd_metric(b, "spool_oldest_seconds", "gauge", "Age of the oldest of them.", (double)(age > 0 ? age : 0) / 1000);
    cd_metric(b, "spool_replayed_total", "counter", "Changes written to the database later.",
              (double)st->spool_replayed);
    cd_metric(b, "spool_displaced_total", "counter", "Calls that ended: another one stood in their place.",
              (double)st->spool_displaced);
    cd_metric(b, "spool_rejected_total", "counter", "Changes that it did not take: see the file rejected.",
              (double)st->spool_rejected);
}

static void traffic_metrics(struct cd_buf *b, struct cd_core *core)
{
    struct cd_store_stats st;
    struct cd_sock_stats so;
    struct cd_http_stats h;

    core->store->ops->stats(core->store, &st);
    cd_metric(b, "store_connected", "gauge", "1 while the store answers.", st.connected);
    cd_metric(b, "store_commits_total", "counter", "Changes made durable.", (double)st.commits);
    cd_metric(b, "store_batches_total", "counter", "Group commits.", (double)st.batches);
    cd_metric(b, "store_batch_reruns_total", "counter", "Batches run again one by one.", (double)st.batch_reruns);
    cd_metric(b, "store_lost_races_total", "counter", "Changes that another daemon beat.", (double)st.lost_races);
    cd_metric(b, "store_peers", "gauge", "Other daemons on this database.", st.peers);
    cd_metric(b, "store_calls_taken_total", "counter", "Calls taken over from daemons that were gone.",
              (double)st.calls_taken);
    cd_metric(b, "store_reconnects_total", "counter", "Connections lost and made again.", (double)st.reconnects);
    cd_metric(b, "store_expired_rows_total", "counter", "Calls and other rows deleted because of their age.",
              (double)st.expired_rows);
    cd_metric(b, "store_queue", "gauge", "Changes waiting to become durable.", (double)st.queue_now);
    spool_metrics(b, &st);
    cd_sock_stats(&so);
    cd_metric(b, "sockets", "gauge", "Connected client sockets.", (double)so.sockets);
    cd_metric(b, "sockets_websocket", "gauge", "Of them over WebSocket.", (double)so.websocket);
    cd_metric(b, "socket_events_in_total", "counter", "Events from clients.", (double)so.events_in);
    cd_metric(b, "socket_events_out_total", "counter", "Events to clients.", (double)so.events_out);
    cd_metric(b, "sockets_closed_slow_total", "counter", "Sockets closed for reading too slowly.",
           (double)so.closed_slow);
    cd_http_stats(core->http, &h);
    cd_metric(b, "http_requests_total", "counter", "HTTP requests.", (double)h.requests);
    cd_metric(b, "http_refused_total", "counter", "Requests refused on their headers.", (double)h.refused);
    cd_metric(b, "http_too_slow_total", "counter", "Connections ended for sending too slowly.", (double)h.too_slow);
    cd_metric(b, "http_parked", "gauge", "Requests waiting for an answer.", (double)h.parked_now);
    cd_metric(b, "http_connections", "gauge", "Open HTTP connections.", (double)h.connections_now);
}

static enum cd_rc metrics(void *self, struct cd_req *req)
{
    struct cd_core *core = self;
    struct cd_buf b;
    size_t n;

    cd_buf_init(&b, 1024 * 1024);
    call_metrics(&b, core);
    traffic_metrics(&b, core);
    memory_metrics(&b);
    cd_metric(&b, "log_dropped_total", "counter", "Lines of the log that stderr did not take.",
              (double)cd_log_dropped());
    for (size_t i = 0; cd_modules[i]; i++)
        if (cd_modules[i]->metrics)
            cd_modules[i]->metrics(core, &b);
    n = b.failed ? 0 : b.n;
    cd_req_reply(req, n ? 200 : 500, "text/plain; version=0.0.4; charset=utf-8", (struct cd_str){b.p, n});
    cd_buf_done(&b);
    return CD_OK;
}

static const struct cd_route routes[] = {
    {CD_ROLE_PUBLIC | CD_ROLE_APPSERVICE | CD_ROLE_CONTROL, "GET", "/health", CD_AUTH_NONE, 0, health,
     "is it alive"},
    {CD_ROLE_PUBLIC | CD_ROLE_APPSERVICE | CD_ROLE_CONTROL, "GET", "/ready", CD_AUTH_NONE, 0, ready,
     "is it ready, and what is away"},
    {CD_ROLE_PUBLIC | CD_ROLE_APPSERVICE | CD_ROLE_CONTROL, "GET", "/version", CD_AUTH_NONE, 0, version,
     "which version"},
    {CD_ROLE_CONTROL, "GET", "/metrics", CD_AUTH_ADMIN, 0, metrics, "Prometheus metrics"},
    {0},
};

const struct cd_module cd_module_health = {
    .name = "health",
    .help = "health, readiness, version, metrics",
    .routes = routes,
};

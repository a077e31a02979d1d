/* http.c -- HTTP on libmicrohttpd: the one door to it.
 * In: accepted sockets from listener.c. Out: requests to handlers, answers to clients.
 * Why: libmicrohttpd runs on its own epoll descriptor, which our loop watches; it is edge-triggered
 *      inside and wakes for nothing it was told from outside, so pump() runs after every event,
 *      every hand-over and every resume, until it asks for no more.
 * State: one daemon a role (caps and idle times differ), lists of requests and connections.
 * Owns: sockets handed to cd_http_adopt(). Blocks: never. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "in/http.h"

#include <fcntl.h>
#include <microhttpd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "in/bridge.h"
#include "in/cors.h"
#include "in/http_priv.h"
#include "in/http_raw.h"
#include "in/linger.h"
#include "in/ws.h"

#define PUMP_ROUNDS 8          /* then other sources get their turn */
#define HANDSHAKE_MAX 32768

struct http_daemon {
    struct cd_http *http;
    struct MHD_Daemon *mhd;
    struct cd_io *io;
    struct cd_timer timer;
    enum cd_role role;
    unsigned idle_s;
    bool dirty, pumping;
};

/* A connection that became a WebSocket. */
struct http_upgrade {
    struct cd_http *http;
    struct http_daemon *daemon;
    struct http_upgrade *prev, *next;
    struct MHD_UpgradeResponseHandle *urh;
    struct cd_bridge *bridge;
};

/* --- pumping ------------------------------------------------------------------------- */

static void pump_timer(void *arg)
{
    cd_http_touch(arg);
}

static void pump(void *arg)
{
    struct http_daemon *d = arg;
    MHD_UNSIGNED_LONG_LONG left_ms = 0;
    bool timed = false;

    d->dirty = false;
    if (d->pumping)
        return;
    d->pumping = true;
    for (int i = 0; i < PUMP_ROUNDS; i++) {
        MHD_run(d->mhd);
        timed = MHD_get_timeout(d->mhd, &left_ms) == MHD_YES;
        if (!timed || left_ms > 0)
            break;
    }
    d->pumping = false;
    if (timed && left_ms == 0)
        cd_http_touch(d);
    else if (timed && !d->timer.slot)
        cd_timer_set(d->http->loop, &d->timer, left_ms > 1000 ? (int64_t)left_ms : 1000,
                     pump_timer, d);
}

void cd_http_touch(struct http_daemon *d)
{
    if (d->dirty)
        return;
    d->dirty = true;
    if (cd_loop_defer(d->http->loop, pump, d) < 0) {
        d->dirty = false;
        cd_timer_set(d->http->loop, &d->timer, 10, pump_timer, d);
    }
}

static void readable(void *arg, uint32_t events)
{
    (void)events;
    cd_http_touch(arg);
}

/* --- connections --------------------------------------------------------------------- */

static void conn_started(struct http_daemon *d, struct MHD_Connection *mc, void **ctx)
{
    const union MHD_ConnectionInfo *fd =
        MHD_get_connection_info(mc, MHD_CONNECTION_INFO_CONNECTION_FD);
    const union MHD_ConnectionInfo *addr =
        MHD_get_connection_info(mc, MHD_CONNECTION_INFO_CLIENT_ADDRESS);

    *ctx = cd_http_conn_new(d->http, d, fd ? fd->connect_fd : -1, addr ? addr->client_addr : NULL);
}

static void on_connection(void *cls, struct MHD_Connection *mc, void **ctx,
                          enum MHD_ConnectionNotificationCode code)
{
    if (code == MHD_CONNECTION_NOTIFY_STARTED)
        conn_started(cls, mc, ctx);
    else if (*ctx)
        cd_http_conn_free(*ctx);
}

static struct http_conn *conn_of(struct MHD_Connection *mc)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(mc, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

    return info ? info->socket_context : NULL;
}

/* --- a request's begin and end ------------------------------------------------------- */

/* The raw target is only to be had here: what the handler gets has been decoded, and cut at %00. */
static void *on_target(void *cls, const char *uri, struct MHD_Connection *mc)
{
    struct http_daemon *d = cls;
    struct http_conn *conn = conn_of(mc);
    struct cd_req *req = conn ? calloc(1, sizeof(*req)) : NULL;

    if (req)
        req->uri = strdup(uri);
    if (!req || !req->uri) {
        free(req);
        return NULL;
    }
    req->http = d->http;
    req->daemon = d;
    req->role = d->role;
    req->conn = conn;
    req->mc = mc;
    req->started_us = cd_mono_us();
    req->next = d->http->reqs;
    if (req->next)
        req->next->prev = req;
    d->http->reqs = req;
    conn->busy = true;
    cd_http_conn_expect_head(conn);
    return req;
}

static void on_completed(void *cls, struct MHD_Connection *mc, void **con_cls,
                         enum MHD_RequestTerminationCode code)
{
    struct cd_req *req = *con_cls;
    struct cd_http *http = ((struct http_daemon *)cls)->http;

    (void)mc;
    (void)code;
    *con_cls = NULL;
    if (!req)
        return;
    if (req->status && cd_log_enabled(CD_LOG_DEBUG)) {
        struct cd_log_ctx ctx = {.conn = req->id};

        cd_log(CD_LOG_DEBUG, "in", "http.done", &ctx, "%s %.200s %d %lld us", req->method,
               cd_req_path(req), req->status, (long long)(cd_mono_us() - req->started_us));
    }
    if (req->next)
        req->next->prev = req->prev;
    if (req->prev)
        req->prev->next = req->next;
    else
        http->reqs = req->next;
    req->conn->busy = false;
    if (req->status != MHD_HTTP_SWITCHING_PROTOCOLS)
        cd_http_conn_rest(req->conn, ((struct http_daemon *)cls)->idle_s);
    cd_http_release_body(req);
    cd_req_clear(req);
    free(req);
    if (http->draining)
        cd_http_touch(cls);
}

/* --- answers ------------------------------------------------------------------------- */

static bool has_header(const struct cd_req *req, const char *name)
{
    for (unsigned i = 0; i < req->header_n; i++) {
        if (strcasecmp(req->headers[i].name, name) == 0)
            return true;
    }
    return false;
}

static void add_headers(struct cd_req *req, struct MHD_Response *res)
{
    const char *allow = cd_http_allow_origin(req);

    for (unsigned i = 0; i < req->header_n; i++)
        MHD_add_response_header(res, req->headers[i].name, req->headers[i].value);
    if (req->content_type[0])
        MHD_add_response_header(res, MHD_HTTP_HEADER_CONTENT_TYPE, req->content_type);
    if (!has_header(req, MHD_HTTP_HEADER_CACHE_CONTROL))
        MHD_add_response_header(res, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    MHD_add_response_header(res, "X-Content-Type-Options", "nosniff");
    MHD_add_response_header(res, "X-Request-ID", req->id);
    if (allow) {
        MHD_add_response_header(res, "Access-Control-Allow-Origin", allow);
        MHD_add_response_header(res, "Access-Control-Expose-Headers", CD_CORS_EXPOSED);
    }
    if (!cd_cors_any(req->http->cors_origins))
        MHD_add_response_header(res, "Vary", "Origin");
    if (req->closing || req->http->draining)
        MHD_add_response_header(res, MHD_HTTP_HEADER_CONNECTION, "close");
}

/* Hand the answer that stands in the request to libmicrohttpd. */
static enum MHD_Result send_answer(struct cd_req *req)
{
    static char no_memory[] = "{\"errcode\":\"ORG.CALLD.OVERLOADED\","
                              "\"error\":\"The server is out of memory; try again later.\"}";
    char *body = req->answer;
    struct MHD_Response *res;
    enum MHD_Result ok;

    req->answer = NULL;
    res = MHD_create_response_from_buffer(body ? req->answer_n : sizeof(no_memory) - 1, body ? body : no_memory,
                                          body ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT);
    if (!res) {
        free(body);
        return MHD_NO;
    }
    add_headers(req, res);
    ok = MHD_queue_response(req->mc, (unsigned)req->status, res);
    MHD_destroy_response(res);
    req->queued = true;
    req->http->stats.by_status[req->status / 100 <= 5 ? req->status / 100 : 0]++;
    return ok;
}

/* Keep the socket of a refused request open a while after libmicrohttpd has closed its own
 * descriptor: closing with unread bytes would reset the connection before the answer is read. */
static void linger(struct cd_req *req)
{
    int fd = fcntl(req->conn->fd, F_DUPFD_CLOEXEC, 0);

    if (fd >= 0)
        cd_linger(req->http->loop, fd);
}

/* An answer before the body was read: it ends the connection when a body is on its way. */
static enum MHD_Result send_refusal(struct cd_req *req)
{
    enum MHD_Result ok;

    req->http->stats.refused++;
    cd_http_release_body(req);
    req->stage = REQ_SERVE;
    if (!req->has_body)
        return MHD_YES; /* sent at the next call: that keeps the connection alive */
    req->closing = true;
    ok = send_answer(req);
    linger(req);
    return ok;
}

/* In the middle of a body libmicrohttpd takes no answer: write it past it, then hang up. */
static enum MHD_Result refuse_midway(struct cd_req *req)
{
    struct cd_buf b;
    int status = cd_rc_status(req->err.rc);

    cd_buf_init(&b, 8192);
    cd_http_raw_error(&b, &req->err, status, cd_http_allow_origin(req), req->id);
    cd_http_raw_send(req->conn->fd, &b);
    cd_buf_done(&b);
    linger(req);
    req->status = status;
    req->http->stats.refused++;
    req->http->stats.by_status[status / 100]++;
    return MHD_NO;
}

void cd_http_answered(struct cd_req *req)
{
    if (!req->suspended)
        return; /* still inside the handler: its caller sends */
    req->suspended = false;
    req->http->stats.parked_now--;
    MHD_resume_connection(req->mc);
    cd_http_touch(req->daemon);
}

static enum MHD_Result suspend(struct cd_req *req)
{
    req->suspended = true;
    req->http->stats.parked_now++;
    MHD_suspend_connection(req->mc);
    return MHD_YES;
}

static void peer_left(void *arg, uint32_t events)
{
    (void)events;
    cd_req_cancel(arg, CD_E_TIMEOUT, "The client has left.");
}

void cd_http_watch(struct cd_req *req)
{
    req->watch = cd_io_add(req->http->loop, req->conn->fd, EPOLLRDHUP | EPOLLET, peer_left, req);
}

/* --- upgrades ------------------------------------------------------------------------ */

static void bridge_closed(void *arg)
{
    struct http_upgrade *up = arg;

    if (up->next)
        up->next->prev = up->prev;
    if (up->prev)
        up->prev->next = up->next;
    else
        up->http->upgrades = up->next;
    MHD_upgrade_action(up->urh, MHD_UPGRADE_ACTION_CLOSE);
    cd_http_touch(up->daemon);
    free(up);
}

static void upgraded(void *cls, struct MHD_Connection *mc, void *con_cls, const char *extra_in,
                     size_t extra_n, MHD_socket sock, struct MHD_UpgradeResponseHandle *urh)
{
    struct http_daemon *d = cls;
    struct cd_req *req = con_cls;
    struct http_upgrade *up = calloc(1, sizeof(*up));
    struct cd_buf head;

    (void)mc;
    cd_buf_init(&head, HANDSHAKE_MAX);
    if (up && req) {
        cd_http_handshake(req, &head);
        *up = (struct http_upgrade){.http = d->http, .daemon = d, .urh = urh};
        up->bridge = head.failed ? NULL
                                 : cd_bridge_start(d->http->loop, sock,
                                                   (struct cd_str){head.p, head.n},
                                                   (struct cd_str){extra_in, extra_n},
                                                   req->client_ip, bridge_closed, up);
    }
    cd_buf_done(&head);
    if (!up || !up->bridge) {
        free(up);
        MHD_upgrade_action(urh, MHD_UPGRADE_ACTION_CLOSE);
        return;
    }
    up->next = d->http->upgrades;
    if (up->next)
        up->next->prev = up;
    d->http->upgrades = up;
}

static enum MHD_Result upgrade(struct cd_req *req)
{
    struct MHD_Response *res = MHD_create_response_for_upgrade(upgraded, req->daemon);
    char accept_key[32];
    enum MHD_Result ok = MHD_NO;

    if (!res)
        return MHD_NO;
    if (cd_ws_accept_key(cd_http_header(req, "Sec-WebSocket-Key"), accept_key,
                         sizeof(accept_key))) {
        MHD_add_response_header(res, MHD_HTTP_HEADER_UPGRADE, "websocket");
        MHD_add_response_header(res, "Sec-WebSocket-Accept", accept_key);
        ok = MHD_queue_response(req->mc, MHD_HTTP_SWITCHING_PROTOCOLS, res);
    }
    MHD_destroy_response(res);
    req->status = MHD_HTTP_SWITCHING_PROTOCOLS;
    req->queued = true;
    req->http->stats.by_status[1]++;
    return ok;
}

/* --- a request's course -------------------------------------------------------------- */

static enum MHD_Result follow(struct cd_req *req, enum http_verdict verdict)
{
    switch (verdict) {
    case HTTP_READ_BODY:
        req->stage = REQ_BODY;
        if (req->has_body)
            cd_http_expect_body(req);
        return MHD_YES;
    case HTTP_WAIT:
        req->stage = REQ_AUTH;
        if (req->auth_done) /* it answered inside its own call */
            return follow(req, cd_http_judge_auth(req, req->auth_rc));
        return suspend(req);
    case HTTP_UPGRADE:
        req->stage = REQ_SERVE;
        return upgrade(req);
    case HTTP_REFUSED:
    default:
        return send_refusal(req);
    }
}

void cd_req_auth_done(struct cd_req *req, enum cd_rc rc)
{
    if (req->answered || req->auth_done)
        return; /* cancelled meanwhile */
    cd_req_unpark(req);
    req->auth_done = true;
    req->auth_rc = rc;
    cd_http_answered(req);
}

/* The body is complete: run the handler. */
static enum MHD_Result serve(struct cd_req *req)
{
    const struct cd_route *route = req->match.route;
    enum cd_rc rc;

    req->stage = REQ_SERVE;
    req->http->stats.requests++;
    rc = route->handle(req->match.self, req);
    if (req->answered)
        return send_answer(req);
    if (rc == CD_PENDING && req->parked)
        return suspend(req);
    if (rc == CD_OK || rc == CD_PENDING) {
        cd_log(CD_LOG_ERROR, "in", "http.unanswered", NULL, "%s neither answered nor parked",
               route->path);
        rc = cd_fail(&req->err, CD_E_INTERNAL, NULL);
    }
    if (req->err.rc == CD_OK)
        cd_fail(&req->err, rc, NULL);
    cd_req_fail(req, &req->err);
    return send_answer(req);
}

/* Called again and again for one request: for its head, each piece of body, its end, a resume. */
static enum MHD_Result on_request(void *cls, struct MHD_Connection *mc, const char *url,
                                  const char *method, const char *version, const char *upload,
                                  size_t *upload_n, void **con_cls)
{
    struct cd_req *req = *con_cls;

    (void)cls;
    (void)mc;
    (void)url;
    if (!req)
        return MHD_NO;
    if (req->stage == REQ_HEAD) {
        snprintf(req->method, sizeof(req->method), "%s", strlen(method) < 16 ? method : "?");
        req->needs_host = strcmp(version, MHD_HTTP_VERSION_1_0) != 0;
        cd_timer_cancel(req->http->loop, &req->conn->head_timer);
        return follow(req, cd_http_judge(req));
    }
    if (req->stage == REQ_AUTH) {
        if (req->answered)
            return send_refusal(req);
        return follow(req, cd_http_judge_auth(req, req->auth_rc));
    }
    if (req->stage == REQ_BODY && *upload_n > 0) {
        enum cd_rc rc = cd_http_add_body(req, upload, *upload_n);

        *upload_n = 0;
        return rc == CD_OK ? MHD_YES : refuse_midway(req);
    }
    if (req->stage == REQ_BODY)
        return serve(req);
    *upload_n = 0;
    return req->answered && !req->queued ? send_answer(req) : MHD_YES;
}

/* --- headers ------------------------------------------------------------------------- */

const char *cd_http_header(const struct cd_req *req, const char *name)
{
    return MHD_lookup_connection_value(req->mc, MHD_HEADER_KIND, name);
}

struct visit {
    cd_http_header_fn fn;
    void *arg;
};

static enum MHD_Result visit(void *cls, enum MHD_ValueKind kind, const char *name, const char *value)
{
    const struct visit *v = cls;

    (void)kind;
    v->fn(v->arg, name, value ? value : "");
    return MHD_YES;
}

void cd_http_each_header(const struct cd_req *req, cd_http_header_fn fn, void *arg)
{
    struct visit v = {fn, arg};

    MHD_get_connection_values(req->mc, MHD_HEADER_KIND, visit, &v);
}

/* --- wiring -------------------------------------------------------------------------- */

static void says(void *cls, const char *fmt, va_list ap) __attribute__((format(printf, 2, 0)));
static void says(void *cls, const char *fmt, va_list ap)
{
    char line[256];

    (void)cls;
    vsnprintf(line, sizeof(line), fmt, ap);
    line[strcspn(line, "\r\n")] = '\0';
    cd_log(CD_LOG_DEBUG, "in", "mhd.log", NULL, "%s", line);
}

struct http_daemon *cd_http_daemon_new(struct cd_http *http, enum cd_role role, unsigned idle_s)
{
    struct http_daemon *d = calloc(1, sizeof(*d));
    const union MHD_DaemonInfo *info;
    size_t memory = role == CD_ROLE_APPSERVICE ? http->header_bytes * 4 : http->header_bytes;

    if (!d)
        return NULL;
    d->http = http;
    d->role = role;
    d->idle_s = idle_s;
    d->mhd = MHD_start_daemon(MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_ALLOW_SUSPEND_RESUME |
                                  MHD_ALLOW_UPGRADE | MHD_USE_ERROR_LOG,
                              0, NULL, NULL, on_request, d,
                              MHD_OPTION_EXTERNAL_LOGGER, says, NULL, /* first: for later options */
                              MHD_OPTION_URI_LOG_CALLBACK, on_target, d,
                              MHD_OPTION_NOTIFY_COMPLETED, on_completed, d,
                              MHD_OPTION_NOTIFY_CONNECTION, on_connection, d,
                              MHD_OPTION_CONNECTION_LIMIT, http->max_connections,
                              MHD_OPTION_CONNECTION_TIMEOUT, idle_s,
                              MHD_OPTION_CONNECTION_MEMORY_LIMIT, memory, MHD_OPTION_END);
    info = d->mhd ? MHD_get_daemon_info(d->mhd, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
    d->io = info ? cd_io_add(http->loop, info->epoll_fd, EPOLLIN, readable, d) : NULL;
    if (d->io)
        return d;
    if (d->mhd)
        MHD_stop_daemon(d->mhd);
    free(d);
    return NULL;
}

void cd_http_daemon_free(struct http_daemon *d)
{
    if (!d)
        return;
    cd_timer_cancel(d->http->loop, &d->timer);
    cd_io_del(d->io);
    MHD_stop_daemon(d->mhd);
    free(d);
}

void cd_http_daemon_add(struct http_daemon *d, int fd, const struct sockaddr *addr,
                        socklen_t addr_len)
{
    MHD_add_connection(d->mhd, fd, addr, addr_len); /* closes the descriptor itself when it fails */
    cd_http_touch(d);
}

void cd_http_flush(struct cd_http *http)
{
    while (http->upgrades)
        cd_bridge_close(http->upgrades->bridge);
    for (size_t i = 0; i < CD_HTTP_DAEMONS; i++) {
        for (int round = 0; http->daemons[i] && round < 16; round++)
            MHD_run(http->daemons[i]->mhd);
    }
}

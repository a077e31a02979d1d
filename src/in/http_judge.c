/* http_judge.c -- the half of HTTP that knows no libmicrohttpd: what is decided on a request's head
 * before any body byte is kept, the accounting of bodies and connections, the server's life.
 * In: a request with its raw target and headers; accepted sockets; settings. Out: verdicts,
 * refusals that stand in the request, sockets handed to http.c's daemons.
 * Why: a stranger's 60 MB must cost nothing, the order of checks must be the same everywhere, and a
 *      stop may neither hang nor abort with requests parked.
 * State: struct cd_http. Owns: daemons, router. Blocks: never. */
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/budget.h"
#include "base/fds.h"
#include "base/clock.h"
#include "base/id.h"
#include "base/log.h"
#include "in/classify.h"
#include "in/cors.h"
#include "in/http_priv.h"
#include "in/http_raw.h"
#include "in/linger.h"
#include "in/peers.h"
#include "in/rate.h"

#define HEAD_DEADLINE_MS 20000 /* unless the settings say otherwise */
#define BODY_DEADLINE_MS 30000
#define FORWARDED_BYTES 1024
#define SMALL_BODY_BYTES 1024
#define RETRY_AFTER_MS 5000
#define ADDRESSES_MAX 65536 /* whose rates are remembered */

static const size_t body_caps[] = {
    [CD_ROLE_PUBLIC] = 256u << 10,
    [CD_ROLE_APPSERVICE] = 64u << 20,
    [CD_ROLE_CONTROL] = 1u << 20,
};

static enum http_verdict refuse(struct cd_req *req, enum cd_rc rc)
{
    if (req->err.rc == CD_OK)
        cd_fail(&req->err, rc, NULL);
    cd_req_fail(req, &req->err);
    return HTTP_REFUSED;
}

/* --- parts of the head --------------------------------------------------------------- */

/* Echoed into a header and logs, so only harmless characters. */
static bool is_request_id(const char *s)
{
    size_t n = strlen(s);

    return n > 0 && n <= CD_REQ_ID_LEN &&
           strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
                     "-_.:+/=@~") == n;
}

static void set_id(struct cd_req *req)
{
    const char *id = cd_http_header(req, "X-Request-ID");

    if (id && is_request_id(id))
        snprintf(req->id, sizeof(req->id), "%s", id);
    else
        cd_id_alnum(16, req->id);
}

/* "http://host/path?query", as clients of proxies ask (RFC 9112, 3.2.2), becomes "/path?query". The
 * authority decides nothing here. It only becomes shorter: what it has no room for was no authority. */
static void to_origin_form(char *target)
{
    size_t scheme = strncasecmp(target, "http://", 7) == 0    ? 7
                    : strncasecmp(target, "https://", 8) == 0 ? 8
                                                              : 0;
    char *rest = target + scheme + strcspn(target + scheme, "/?");

    if (scheme == 0 || rest == target + scheme)
        return;
    if (*rest != '/')
        *--rest = '/'; /* over the authority's last byte */
    memmove(target, rest, strlen(rest) + 1);
}

/* Split the raw target. @return false: out of memory */
static bool set_path(struct cd_req *req)
{
    struct cd_str target;
    size_t n;

    to_origin_form(req->uri);
    target = cd_str_of(req->uri);
    if (req->role == CD_ROLE_PUBLIC)
        target = cd_strip_prefix(target, req->http->prefix);
    n = strcspn(target.p, "?");
    req->path = (struct cd_str){target.p, n};
    req->query = target.p[n] == '?' ? target.p + n + 1 : "";
    req->path_text = strndup(target.p, n);
    return req->path_text != NULL;
}

/* The client's address, and its share of connections when a proxy names it.
 * @return false: too many */
static bool set_client(struct cd_req *req)
{
    struct http_conn *conn = req->conn;
    char forwarded[FORWARDED_BYTES] = "";

    if (conn->trusted) /* some proxies add a line of their own below the client's */
        cd_http_header_all(req, "X-Forwarded-For", forwarded, sizeof(forwarded));
    cd_proxy_client(&req->http->proxy, conn->peer_ip, forwarded, req->client_ip);
    if (req->role != CD_ROLE_PUBLIC || !conn->trusted ||
        strcmp(conn->counted_ip, req->client_ip) == 0)
        return true;
    if (conn->counted_ip[0])
        cd_peers_give(conn->counted_ip);
    conn->counted_ip[0] = '\0';
    if (!cd_peers_take(req->client_ip))
        return false;
    snprintf(conn->counted_ip, sizeof(conn->counted_ip), "%s", req->client_ip);
    return true;
}

const char *cd_http_allow_origin(const struct cd_req *req)
{
    const char *origin = cd_http_header(req, "Origin");

    if (cd_cors_any(req->http->cors_origins))
        return "*";
    return origin && cd_cors_allows(req->http->cors_origins, origin) ? origin : NULL;
}

/* --- checks -------------------------------------------------------------------------- */

static enum http_verdict preflight(struct cd_req *req)
{
    struct cd_buf allow;

    cd_buf_init(&allow, 256);
    cd_router_allow(req->http->router, req->role, req->path, &allow);
    cd_req_add_header(req, "Allow", allow.n ? allow.p : CD_CORS_METHODS);
    cd_req_add_header(req, "Access-Control-Allow-Methods", CD_CORS_METHODS);
    cd_req_add_header(req, "Access-Control-Allow-Headers", CD_CORS_HEADERS);
    cd_req_add_header(req, "Access-Control-Max-Age", CD_CORS_MAX_AGE_S);
    cd_buf_done(&allow);
    cd_req_reply(req, 204, NULL, CD_STR(""));
    return HTTP_REFUSED;
}

static enum http_verdict refuse_method(struct cd_req *req)
{
    struct cd_buf allow;

    cd_buf_init(&allow, 256);
    cd_router_allow(req->http->router, req->role, req->path, &allow);
    if (allow.n)
        cd_req_add_header(req, "Allow", allow.p);
    cd_buf_done(&allow);
    return refuse(req, CD_E_METHOD);
}

/* A WebSocket handshake on a connection that began as HTTP. */
static bool is_handshake(struct cd_req *req)
{
    const char *upgrade = cd_http_header(req, "Upgrade");
    struct cd_str target = {req->path.p, strlen(req->path.p)};

    return req->role == CD_ROLE_PUBLIC && upgrade && strcasecmp(upgrade, "websocket") == 0 &&
           strcmp(req->method, "GET") == 0 && cd_is_ws_target(target);
}

static enum http_verdict judge_handshake(struct cd_req *req)
{
    const char *key = cd_http_header(req, "Sec-WebSocket-Key");
    const char *version = cd_http_header(req, "Sec-WebSocket-Version");

    if (!key || strlen(key) != 24 || !version || strcmp(version, "13") != 0) {
        cd_fail(&req->err, CD_E_INVALID_PARAM, "This is no WebSocket handshake of version 13.");
        return refuse(req, CD_E_INVALID_PARAM);
    }
    if (cd_http_header(req, "Sec-WebSocket-Protocol")) {
        cd_fail(&req->err, CD_E_INVALID_PARAM, "This endpoint speaks no WebSocket subprotocol.");
        return refuse(req, CD_E_INVALID_PARAM);
    }
    if (!cd_cors_allows(req->http->cors_origins, cd_http_header(req, "Origin"))) {
        cd_fail(&req->err, CD_E_FORBIDDEN, "This web origin is not allowed.");
        return refuse(req, CD_E_FORBIDDEN);
    }
    if (!cd_fds_two_left(req->conn->fd)) { /* of the bridge between the two libraries */
        cd_fail(&req->err, CD_E_OVERLOADED, "The server has no room for another socket; try again later.");
        req->err.retry_after_ms = RETRY_AFTER_MS;
        return refuse(req, CD_E_OVERLOADED);
    }
    return HTTP_UPGRADE;
}

/* What ends a call fits into a small body: those that have a connection may do so whatever others hoard. */
static bool reserve(struct cd_req *req, size_t bytes)
{
    struct cd_http *http = req->http;

    if (bytes <= req->reserved)
        return true;
    if (bytes > SMALL_BODY_BYTES &&
        (cd_budget_full() ||
         (http->body_budget && http->body_used + (bytes - req->reserved) > http->body_budget)))
        return false;
    cd_budget_take(CD_BUDGET_BODIES, bytes - req->reserved);
    http->body_used += bytes - req->reserved;
    req->reserved = bytes;
    return true;
}

static enum cd_rc no_room(struct cd_req *req)
{
    enum cd_rc rc = cd_fail(&req->err, CD_E_OVERLOADED, "The server is short of memory; try again later.");

    req->err.retry_after_ms = RETRY_AFTER_MS;
    return rc;
}

void cd_http_release_body(struct cd_req *req)
{
    req->http->body_used -= req->reserved;
    cd_budget_give(CD_BUDGET_BODIES, req->reserved);
    req->reserved = 0;
}

/* Is a body announced, how large, and may it come? */
static enum cd_rc judge_body(struct cd_req *req)
{
    bool chunked;
    uint64_t n;

    if (!cd_http_framing(req, &chunked, &n)) {
        req->has_body = true; /* close: what follows may be a body or a request */
        return cd_fail(&req->err, CD_E_INVALID_PARAM,
                       "The body's length is given wrongly or twice: Content-Length takes digits, Transfer-Encoding "
                       "only \"chunked\", and never both.");
    }
    req->has_body = chunked || n > 0;
    if (n > req->body_cap)
        return cd_fail(&req->err, CD_E_TOO_LARGE, "The body has %llu bytes; this route takes %zu.",
                       (unsigned long long)n, req->body_cap);
    return reserve(req, (size_t)n) ? CD_OK : no_room(req);
}

enum http_verdict cd_http_judge_auth(struct cd_req *req, enum cd_rc rc)
{
    if (rc == CD_PENDING)
        return HTTP_WAIT;
    return rc == CD_OK ? HTTP_READ_BODY : refuse(req, rc);
}

/* Only to know whether one follows the refusal. */
static void look_for_body(struct cd_req *req)
{
    (void)judge_body(req);
    cd_http_release_body(req);
    req->err = (struct cd_err){0};
}

static enum http_verdict refuse_rate(struct cd_req *req, int64_t wait_ms)
{
    look_for_body(req);
    req->http->stats.limited++;
    cd_fail(&req->err, CD_E_LIMITED, "Too many requests from your address; wait retry_after_ms.");
    req->err.retry_after_ms = (long)wait_ms;
    return refuse(req, CD_E_LIMITED);
}

static enum http_verdict judge_route(struct cd_req *req)
{
    const struct cd_route *route;
    enum cd_rc rc = cd_router_match(req->http->router, req->role, req->method, req->path,
                                    &req->match);

    if (rc != CD_OK) {
        look_for_body(req);
        if (strcmp(req->method, "OPTIONS") == 0 && rc != CD_E_INVALID_PARAM)
            return preflight(req);
        if (rc == CD_E_INVALID_PARAM)
            cd_fail(&req->err, rc,
                    "The path holds a bad escape, %%00 or bytes that are not UTF-8.");
        return rc == CD_E_METHOD ? refuse_method(req) : refuse(req, rc);
    }
    route = req->match.route;
    req->body_cap = route->max_body ? route->max_body : body_caps[req->role];
    rc = judge_body(req);
    if (rc != CD_OK)
        return refuse(req, rc);
    if (route->auth == CD_AUTH_NONE)
        return HTTP_READ_BODY;
    if (!req->http->auth)
        return refuse(req, CD_E_MISSING_TOKEN);
    return cd_http_judge_auth(req, req->http->auth(req->http->auth_self, req, route->auth));
}

enum http_verdict cd_http_judge(struct cd_req *req)
{
    set_id(req);
    if (!set_path(req)) {
        req->path_text = NULL;
        return refuse(req, CD_E_NO_MEMORY);
    }
    if (!set_client(req)) {
        req->has_body = true; /* close: the connection itself is one too many */
        cd_fail(&req->err, CD_E_LIMITED, "Too many connections from your address.");
        req->err.retry_after_ms = RETRY_AFTER_MS;
        return refuse(req, CD_E_LIMITED);
    }
    if (req->http->draining) {
        req->has_body = true;
        cd_fail(&req->err, CD_E_OVERLOADED, "The server is stopping.");
        return refuse(req, CD_E_OVERLOADED);
    }
    if (!cd_http_names_are_sound(req)) {
        req->has_body = true; /* close: it may have been a Content-Length */
        cd_fail(&req->err, CD_E_INVALID_PARAM, "A header's name holds a blank, or nothing, before its colon.");
        return refuse(req, CD_E_INVALID_PARAM);
    }
    /* Which host was meant must not be anybody's guess (RFC 9112, 3.2). */
    if (cd_http_header_all(req, "Host", NULL, 0) > 1 || (req->needs_host && !cd_http_header(req, "Host"))) {
        look_for_body(req);
        cd_fail(&req->err, CD_E_INVALID_PARAM, "HTTP/1.1 takes exactly one Host header.");
        return refuse(req, CD_E_INVALID_PARAM);
    }
    if (req->role == CD_ROLE_PUBLIC) {
        char share[CD_IP_LEN];
        int64_t wait_ms;

        cd_proxy_share(req->client_ip, share);
        wait_ms = cd_rate_take(req->http->rate, share, req->http->per_second, cd_mono_us());

        if (wait_ms > 0)
            return refuse_rate(req, wait_ms);
    }
    if (is_handshake(req))
        return judge_handshake(req);
    return judge_route(req);
}

/* --- body ---------------------------------------------------------------------------- */

enum cd_rc cd_http_add_body(struct cd_req *req, const char *p, size_t n)
{
    req->http->stats.bytes_in += n;
    if (n > req->body_cap - req->body.n)
        return cd_fail(&req->err, CD_E_TOO_LARGE, "This route takes a body of %zu bytes.",
                       req->body_cap);
    if (!reserve(req, req->body.n + n))
        return no_room(req);
    if (!req->body.max)
        cd_buf_init(&req->body, req->body_cap);
    cd_buf_add(&req->body, p, n);
    return req->body.failed ? cd_fail(&req->err, CD_E_NO_MEMORY, NULL) : CD_OK;
}

void cd_http_handshake(const struct cd_req *req, struct cd_buf *out)
{
    const char *host = cd_http_header(req, "Host");
    const char *origin = cd_http_header(req, "Origin");

    cd_buf_addf(out, "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n",
                req->uri, host ? host : "localhost", cd_http_header(req, "Sec-WebSocket-Key"));
    if (origin)
        cd_buf_addf(out, "Origin: %s\r\n", origin);
    cd_buf_adds(out, "\r\n");
}

/* --- connections --------------------------------------------------------------------- */

struct http_conn *cd_http_conn_new(struct cd_http *http, struct http_daemon *d, int fd,
                                   const struct sockaddr *addr)
{
    struct http_conn *conn = calloc(1, sizeof(*conn));

    if (!conn)
        return NULL;
    conn->http = http;
    conn->daemon = d;
    conn->fd = fd;
    cd_proxy_peer(addr, addr && addr->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6)
                                                            : sizeof(struct sockaddr_in),
                  conn->peer_ip);
    conn->trusted = cd_proxy_trusts(&http->proxy, conn->peer_ip);
    if (http->adopt_counted) { /* from now on this connection answers for it */
        memcpy(conn->counted_ip, conn->peer_ip, sizeof(conn->counted_ip));
        http->adopt_counted = false;
    }
    conn->next = http->conns;
    if (conn->next)
        conn->next->prev = conn;
    http->conns = conn;
    http->stats.connections_now++;
    cd_http_conn_expect_head(conn);
    return conn;
}

void cd_http_conn_free(struct http_conn *conn)
{
    struct cd_http *http = conn->http;

    if (conn->next)
        conn->next->prev = conn->prev;
    if (conn->prev)
        conn->prev->next = conn->next;
    else
        http->conns = conn->next;
    http->stats.connections_now--;
    cd_timer_cancel(http->loop, &conn->head_timer);
    if (conn->counted_ip[0])
        cd_peers_give(conn->counted_ip);
    free(conn);
}

/* --- the server ---------------------------------------------------------------------- */

struct cd_http *cd_http_new(struct cd_loop *loop, const struct cd_http_conf *conf)
{
    struct cd_http *http = calloc(1, sizeof(*http));
    struct cd_err err = {0};

    if (!http)
        return NULL;
    http->loop = loop;
    http->prefix = strdup(conf->path_prefix ? conf->path_prefix : "");
    http->cors_origins = strdup(conf->cors_origins ? conf->cors_origins : "*");
    http->header_bytes = conf->header_bytes ? conf->header_bytes : 16384;
    http->max_connections = conf->max_connections ? conf->max_connections : 60000;
    http->body_budget = conf->body_bytes;
    http->router = cd_router_new();
    http->rate = cd_rate_new(ADDRESSES_MAX);
    http->per_second = conf->per_second;
    http->head_ms = conf->head_ms ? conf->head_ms : HEAD_DEADLINE_MS;
    http->body_ms = conf->body_ms ? conf->body_ms : BODY_DEADLINE_MS;
    cd_peers_limit(conf->per_ip);
    if (cd_proxy_parse(&http->proxy, conf->trust_proxy, &err) != CD_OK)
        cd_log(CD_LOG_ERROR, "in", "http.proxy", NULL, "%s", err.text);
    http->daemons[0] = cd_http_daemon_new(http, CD_ROLE_PUBLIC, 75);
    http->daemons[1] = cd_http_daemon_new(http, CD_ROLE_APPSERVICE, 330);
    http->daemons[2] = cd_http_daemon_new(http, CD_ROLE_CONTROL, 75);
    if (http->prefix && http->cors_origins && http->router && http->rate && http->daemons[0] &&
        http->daemons[1] && http->daemons[2])
        return http;
    cd_http_free(http);
    return NULL;
}

void cd_http_reload(struct cd_http *http, const struct cd_http_conf *conf)
{
    char *origins = strdup(conf->cors_origins ? conf->cors_origins : "*");
    struct cd_proxy proxy;
    struct cd_err err = {0};

    if (origins) {
        free(http->cors_origins);
        http->cors_origins = origins;
    }
    if (cd_proxy_parse(&proxy, conf->trust_proxy, &err) == CD_OK)
        http->proxy = proxy;
    else
        cd_log(CD_LOG_ERROR, "in", "http.proxy", NULL, "%s", err.text);
    http->body_budget = conf->body_bytes;
    cd_peers_limit(conf->per_ip);
}

void cd_http_set_rate(struct cd_http *http, unsigned per_second)
{
    http->per_second = per_second;
}

void cd_http_set_auth(struct cd_http *http, cd_auth_fn fn, void *self)
{
    http->auth = fn;
    http->auth_self = self;
}

enum cd_rc cd_http_add_routes(struct cd_http *http, const struct cd_route *routes, void *self)
{
    return cd_router_add(http->router, routes, self);
}

static struct http_daemon *daemon_of(struct cd_http *http, enum cd_role role)
{
    return http->daemons[role == CD_ROLE_PUBLIC ? 0 : role == CD_ROLE_APPSERVICE ? 1 : 2];
}

void cd_http_turn_away(struct cd_http *http, int fd, int status, const char *text)
{
    http->stats.refused++;
    cd_http_raw_refuse(http->loop, fd, http->cors_origins, NULL, status, text);
    close(fd);
}

void cd_http_adopt(struct cd_http *http, int fd, enum cd_role role, const struct sockaddr *addr,
                   socklen_t addr_len)
{
    struct http_daemon *d = daemon_of(http, role);
    char ip[CD_IP_LEN];

    if (!d || http->draining) {
        cd_http_turn_away(http, fd, 503, "The server is stopping.");
        return;
    }
    if (role == CD_ROLE_PUBLIC && http->stats.connections_now >= http->max_connections) {
        cd_http_turn_away(http, fd, 503, "The server has as many connections as it may.");
        return;
    }
    if (role == CD_ROLE_PUBLIC && cd_budget_high()) {
        cd_http_turn_away(http, fd, 503, "The server is short of memory; try again later.");
        return;
    }
    cd_proxy_peer(addr, addr_len, ip);
    http->adopt_counted = role == CD_ROLE_PUBLIC && !cd_proxy_trusts(&http->proxy, ip);
    if (http->adopt_counted && !cd_peers_take(ip)) {
        http->adopt_counted = false;
        cd_http_turn_away(http, fd, 429, "Too many connections from your address.");
        return;
    }
    cd_http_daemon_add(d, fd, addr, addr_len);
    if (http->adopt_counted) {
        http->adopt_counted = false;
        cd_peers_give(ip);
    }
}

void cd_http_drain(struct cd_http *http)
{
    struct cd_req *next;

    http->draining = true;
    for (struct cd_req *req = http->reqs; req; req = next) {
        next = req->next;
        if (req->parked)
            cd_req_cancel(req, CD_E_OVERLOADED, "The server is stopping.");
    }
    for (struct http_conn *conn = http->conns; conn; conn = conn->next) {
        if (!conn->busy)
            shutdown(conn->fd, SHUT_RD); /* idle: libmicrohttpd reads the end and closes */
    }
    for (size_t i = 0; i < CD_HTTP_DAEMONS; i++) {
        if (http->daemons[i])
            cd_http_touch(http->daemons[i]);
    }
}

bool cd_http_idle(const struct cd_http *http)
{
    return http->reqs == NULL;
}

/* libmicrohttpd aborts the process when it is stopped with a connection suspended or upgraded. */
static void release_all(struct cd_http *http)
{
    cd_http_drain(http);
    for (struct cd_req *req = http->reqs; req; req = req->next) {
        if (req->suspended) {
            struct cd_err err = {0};

            cd_fail(&err, CD_E_OVERLOADED, "The server is stopping.");
            cd_req_fail(req, &err);
        }
    }
    cd_http_flush(http);
}

void cd_http_free(struct cd_http *http)
{
    if (!http)
        return;
    cd_timer_cancel(http->loop, &http->sweep);
    release_all(http);
    for (size_t i = 0; i < CD_HTTP_DAEMONS; i++)
        cd_http_daemon_free(http->daemons[i]);
    cd_linger_end();
    cd_router_free(http->router);
    cd_rate_free(http->rate);
    free(http->prefix);
    free(http->cors_origins);
    free(http);
}

void cd_http_stats(const struct cd_http *http, struct cd_http_stats *out)
{
    *out = http->stats;
}

/* http_judge.c -- what is decided on a request's head, before any body byte is kept, and the
 * accounting of body bytes.
 * In: a request with its raw target and headers. Out: a verdict; refusals stand in the request.
 * Why: a stranger's 60 MB must cost nothing, and the order of checks must be the same everywhere. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/id.h"
#include "in/classify.h"
#include "in/cors.h"
#include "in/http_priv.h"
#include "in/peers.h"

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
           strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.:+/=@~") == n;
}

static void set_id(struct cd_req *req)
{
    const char *id = cd_http_header(req, "X-Request-ID");

    if (id && is_request_id(id))
        snprintf(req->id, sizeof(req->id), "%s", id);
    else
        cd_id_alnum(16, req->id);
}

/* Split the raw target. @return false: out of memory */
static bool set_path(struct cd_req *req)
{
    struct cd_str target = cd_str_of(req->uri);
    size_t n;

    if (req->role == CD_ROLE_PUBLIC)
        target = cd_strip_prefix(target, req->http->prefix);
    n = strcspn(target.p, "?");
    req->path = (struct cd_str){target.p, n};
    req->query = target.p[n] == '?' ? target.p + n + 1 : "";
    req->path_text = strndup(target.p, n);
    return req->path_text != NULL;
}

/* The client's address, and its share of connections when a proxy names it. @return false: too many */
static bool set_client(struct cd_req *req)
{
    struct http_conn *conn = req->conn;

    cd_proxy_client(&req->http->proxy, conn->peer_ip, cd_http_header(req, "X-Forwarded-For"),
                    req->client_ip);
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
    return HTTP_UPGRADE;
}

static bool reserve(struct cd_req *req, size_t bytes)
{
    struct cd_http *http = req->http;

    if (bytes <= req->reserved)
        return true;
    if (http->body_budget && http->body_used + (bytes - req->reserved) > http->body_budget)
        return false;
    http->body_used += bytes - req->reserved;
    req->reserved = bytes;
    return true;
}

void cd_http_release_body(struct cd_req *req)
{
    req->http->body_used -= req->reserved;
    req->reserved = 0;
}

/* Is a body announced, how large, and may it come? */
static enum cd_rc judge_body(struct cd_req *req)
{
    const char *length = cd_http_header(req, "Content-Length");
    const char *coding = cd_http_header(req, "Transfer-Encoding");
    uint64_t n = 0;

    req->has_body = coding != NULL;
    if (!length)
        return CD_OK;
    /* Two readings of where a body ends are how requests are smuggled past a proxy. */
    if (coding || cd_http_header_count(req, "Content-Length") > 1 ||
        !cd_parse_u64(cd_str_of(length), 0, UINT64_MAX, &n)) {
        req->has_body = true;
        return cd_fail(&req->err, CD_E_INVALID_PARAM, "The body's length is given wrongly or twice.");
    }
    req->has_body = n > 0;
    if (n > req->body_cap)
        return cd_fail(&req->err, CD_E_TOO_LARGE, "The body has %llu bytes; this route takes %zu.",
                       (unsigned long long)n, req->body_cap);
    return reserve(req, (size_t)n) ? CD_OK : cd_fail(&req->err, CD_E_OVERLOADED, NULL);
}

enum http_verdict cd_http_judge_auth(struct cd_req *req, enum cd_rc rc)
{
    if (rc == CD_PENDING)
        return HTTP_WAIT;
    return rc == CD_OK ? HTTP_READ_BODY : refuse(req, rc);
}

static enum http_verdict judge_route(struct cd_req *req)
{
    const struct cd_route *route;
    enum cd_rc rc = cd_router_match(req->http->router, req->role, req->method, req->path,
                                    &req->match);

    if (rc != CD_OK) {
        (void)judge_body(req); /* only to know whether one follows the refusal */
        cd_http_release_body(req);
        req->err = (struct cd_err){0};
        if (strcmp(req->method, "OPTIONS") == 0 && rc != CD_E_INVALID_PARAM)
            return preflight(req);
        if (rc == CD_E_INVALID_PARAM)
            cd_fail(&req->err, rc, "The path holds a bad escape, %%00 or bytes that are not UTF-8.");
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
        req->err.retry_after_ms = 5000;
        return refuse(req, CD_E_LIMITED);
    }
    if (req->http->draining) {
        req->has_body = true;
        cd_fail(&req->err, CD_E_OVERLOADED, "The server is stopping.");
        return refuse(req, CD_E_OVERLOADED);
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
        return cd_fail(&req->err, CD_E_OVERLOADED, NULL);
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

/* http_server.c -- the HTTP server as a whole: made, fed with connections, drained, freed.
 * In: settings, routes, accepted sockets. Out: http.c's daemons, one a role.
 * Why: per-role caps and idle times; a stop that neither hangs nor aborts with requests parked.
 * State: struct cd_http. Owns: daemons, router. Blocks: never. */
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "in/http_priv.h"
#include "in/http_raw.h"
#include "in/linger.h"
#include "in/peers.h"

/* From the connection, or a request's first line, to the end of its head. */
#define HEAD_DEADLINE_MS 20000

/* --- connections --------------------------------------------------------------------- */

static void head_too_slow(void *arg)
{
    struct http_conn *conn = arg;

    shutdown(conn->fd, SHUT_RDWR);
    cd_http_touch(conn->daemon);
}

void cd_http_conn_expect_head(struct http_conn *conn)
{
    if (!conn->head_timer.slot)
        cd_timer_set(conn->http->loop, &conn->head_timer, HEAD_DEADLINE_MS, head_too_slow, conn);
}

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
    cd_peers_limit(conf->per_ip);
    if (cd_proxy_parse(&http->proxy, conf->trust_proxy, &err) != CD_OK)
        cd_log(CD_LOG_ERROR, "in", "http.proxy", NULL, "%s", err.text);
    http->daemons[0] = cd_http_daemon_new(http, CD_ROLE_PUBLIC, 75);
    http->daemons[1] = cd_http_daemon_new(http, CD_ROLE_APPSERVICE, 330);
    http->daemons[2] = cd_http_daemon_new(http, CD_ROLE_CONTROL, 75);
    if (http->prefix && http->cors_origins && http->router && http->daemons[0] &&
        http->daemons[1] && http->daemons[2])
        return http;
    cd_http_free(http);
    return NULL;
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

static void turn_away(struct cd_http *http, int fd, int status, const char *text)
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
        turn_away(http, fd, 503, "The server is stopping.");
        return;
    }
    cd_proxy_peer(addr, addr_len, ip);
    http->adopt_counted = role == CD_ROLE_PUBLIC && !cd_proxy_trusts(&http->proxy, ip);
    if (http->adopt_counted && !cd_peers_take(ip)) {
        http->adopt_counted = false;
        turn_away(http, fd, 429, "Too many connections from your address.");
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
    release_all(http);
    for (size_t i = 0; i < CD_HTTP_DAEMONS; i++)
        cd_http_daemon_free(http->daemons[i]);
    cd_linger_end();
    cd_router_free(http->router);
    free(http->prefix);
    free(http->cors_origins);
    free(http);
}

void cd_http_stats(const struct cd_http *http, struct cd_http_stats *out)
{
    *out = http->stats;
}

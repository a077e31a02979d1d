/* http_slow.c -- clients that take too long: with a request's head, with its body, or that left in the
 * middle of it.
 * In: connections and requests of http.c, the settings. Out: 408 and the end of the connection.
 * Why: libmicrohttpd's own time-out begins anew with each byte, so one byte now and then would hold a
 * connection, and what it has sent so far, for ever.
 * State: a timer a connection, one for all bodies. Blocks: never. */
#include <sys/socket.h>

#include "base/clock.h"
#include "in/cors.h"
#include "in/http_priv.h"
#include "in/http_raw.h"

#define SWEEP_MS 1000 /* how soon a late body, or a client that left in the middle of one, is noticed */
#define BODY_BYTES_PER_S 4096 /* slower than this is too slow, once the first seconds are over */

/* Past libmicrohttpd, which takes no answer now; what it would send later finds the connection ended. */
static void end_with_408(struct http_conn *conn, const char *text, const char *origin, const char *id)
{
    struct cd_err err;
    struct cd_buf b;

    cd_fail(&err, CD_E_TIMEOUT, "%s", text);
    cd_buf_init(&b, 4096);
    cd_http_raw_error(&b, &err, cd_rc_status(CD_E_TIMEOUT), origin, id);
    cd_http_raw_send(conn->fd, &b);
    cd_buf_done(&b);
    conn->http->stats.too_slow++;
    shutdown(conn->fd, SHUT_RDWR);
    cd_http_touch(conn->daemon);
}

/* --- heads ------------------------------------------------------------------------------------ */

static void head_too_slow(void *arg)
{
    struct http_conn *conn = arg;

    if (conn->busy) { /* a request line was there */
        end_with_408(conn, "The request's headers took too long to arrive.",
                     cd_cors_any(conn->http->cors_origins) ? "*" : NULL, NULL);
        return;
    }
    conn->http->stats.too_slow++;
    shutdown(conn->fd, SHUT_RDWR);
    cd_http_touch(conn->daemon);
}

void cd_http_conn_expect_head(struct http_conn *conn)
{
    if (conn->head_timer.slot && !conn->resting)
        return; /* since the connection began */
    conn->resting = false;
    cd_timer_set(conn->http->loop, &conn->head_timer, conn->http->head_ms, head_too_slow, conn);
}

void cd_http_conn_rest(struct http_conn *conn, unsigned idle_s)
{
    conn->resting = true;
    cd_timer_set(conn->http->loop, &conn->head_timer, (int64_t)idle_s * 1000 + conn->http->head_ms, head_too_slow,
                 conn);
}

int64_t cd_http_line_ms(const struct cd_http *http)
{
    return http->head_ms / 2;
}

/* --- bodies ----------------------------------------------------------------------------------- */

static bool is_late(const struct cd_req *req, int64_t now_us)
{
    int64_t allowed_us = req->http->body_ms * 1000 + (int64_t)req->body.n * 1000000 / BODY_BYTES_PER_S;

    return now_us - req->body_us > allowed_us;
}

/* libmicrohttpd forgets that a socket is readable after a read that came short. Had the client's FIN
 * arrived before that read, no further edge tells of it, and the half body stays for the idle time.
 * Shutting our side of an ended stream makes an edge. */
static void sweep(void *arg)
{
    struct cd_http *http = arg;
    int64_t now = cd_mono_us();
    bool more = false;
    char c;

    for (struct cd_req *req = http->reqs; req; req = req->next) {
        if (req->stage != REQ_BODY || req->suspended)
            continue;
        more = true;
        if (recv(req->conn->fd, &c, 1, MSG_PEEK | MSG_DONTWAIT) == 0) {
            shutdown(req->conn->fd, SHUT_RD);
        } else if (is_late(req, now) && !req->late) {
            req->late = true;
            end_with_408(req->conn, "The request's body took too long to arrive.", cd_http_allow_origin(req), req->id);
        }
    }
    if (more)
        cd_timer_set(http->loop, &http->sweep, SWEEP_MS, sweep, http);
}

void cd_http_expect_body(struct cd_req *req)
{
    req->body_us = cd_mono_us();
    if (!req->http->sweep.slot)
        cd_timer_set(req->http->loop, &req->http->sweep, SWEEP_MS, sweep, req->http);
}

/* engineio_poll.c -- Engine.IO over HTTP long polling.
 *
 * In:   GET (a poll), POST (packets) on /socket.io/. Out: packets joined by 0x1e.
 * Why:  engine.io-protocol revision 4, "HTTP long-polling".
 * State: none of its own. Owns: the parked GET of a session until it is answered. Blocks: never.
 */
#include <strings.h>

#include "in/engineio_priv.h"
#include "in/sio_packet.h"

/* @return false out of memory: it has become a 503, which ends the client's session */
static bool reply(struct cd_req *req, struct cd_str body)
{
    cd_req_add_header(req, "Cache-Control", "no-store");
    return cd_req_reply(req, 200, "text/plain; charset=UTF-8", body);
}

static enum cd_rc refuse(struct cd_req *req, int status, enum cd_eio_fault fault, const char *text)
{
    struct cd_buf b;

    cd_buf_init(&b, 256);
    cd_buf_addf(&b, "{\"code\":%d,\"message\":", (int)fault);
    cd_buf_add_jsons(&b, text ? text : cd_eio_fault_text(fault));
    cd_buf_addc(&b, '}');
    cd_req_add_header(req, "Cache-Control", "no-store");
    cd_req_reply_json(req, status, &b);
    return CD_OK;
}

void cd_eio_poll_reply(struct cd_eio *s, struct cd_str payload)
{
    struct cd_req *req = s->poll;

    s->poll = NULL;
    if (!reply(req, payload))
        cd_eio_close(s);
}

/** Everything queued goes into this answer. */
static void reply_queued(struct cd_eio *s, struct cd_req *req)
{
    bool sent = reply(req, (struct cd_str){s->out.p, s->out.n});

    cd_eio_queue_done(s);
    if (!sent)
        cd_eio_close(s);
}

/** The client left its poll, or the HTTP server is going away. */
static void poll_abandoned(void *arg)
{
    struct cd_eio *s = arg;

    s->poll = NULL;
    cd_eio_end(s, 1002);
}

static enum cd_rc handshake(struct cd_req *req)
{
    struct cd_eio *s = cd_eio_new(cd_req_client_ip(req));
    struct cd_buf b;

    if (!s)
        return refuse(req, 503, CD_EIO_FORBIDDEN, "Too many sessions");
    cd_buf_init(&b, 512);
    cd_eio_start(s, &b, false);
    if (b.failed || !reply(req, (struct cd_str){b.p, b.n}))
        cd_eio_end(s, 1002);
    bool failed = b.failed;
    cd_buf_done(&b);
    return failed ? refuse(req, 503, CD_EIO_FORBIDDEN, "Out of memory") : CD_OK;
}

static enum cd_rc poll_get(struct cd_eio *s, struct cd_req *req)
{
    if (s->poll) { /* two polls at once: the first one gets "1" */
        cd_eio_end(s, 1002);
        return refuse(req, 400, CD_EIO_BAD_REQUEST, NULL);
    }
    if (s->out.n > 0) {
        reply_queued(s, req);
        if (s->state == CD_EIO_LAST)
            cd_eio_end(s, 1002);
        return CD_OK;
    }
    if (s->probe && cd_eio_ws_frees_poll(s->probe)) {
        reply(req, CD_STR("6"));
        return CD_OK;
    }
    s->poll = req;
    cd_req_park(req, 0, true, poll_abandoned, s);
    return CD_PENDING;
}

/** Handle the packets of a POST until one of them ends the session. */
static enum cd_eio_verdict take_payload(struct cd_eio *s, struct cd_str body)
{
    enum cd_eio_verdict v = CD_EIO_FINE;
    struct cd_str packet;

    if (!body.p)
        body = CD_STR("");
    while (v == CD_EIO_FINE && cd_eio_payload_next(&body, &packet))
        v = cd_eio_packet(s, packet);
    return v;
}

static bool is_binary(struct cd_req *req)
{
    const char *type = cd_req_header(req, "Content-Type");

    return type && strncasecmp(type, "application/octet-stream", 24) == 0;
}

static enum cd_rc poll_post(struct cd_eio *s, struct cd_req *req)
{
    enum cd_eio_verdict v;

    if (s->state == CD_EIO_LAST)
        return refuse(req, 400, CD_EIO_SID_UNKNOWN, NULL);
    if (is_binary(req)) { /* version 3 did that */
        cd_eio_end(s, 1002);
        return refuse(req, 400, CD_EIO_BAD_REQUEST, NULL);
    }
    s->busy++;
    v = take_payload(s, cd_req_body(req));
    if (v == CD_EIO_CLIENT_CLOSED)
        cd_eio_client_closed(s);
    else if (v == CD_EIO_BROKEN)
        cd_eio_end(s, 1002);
    cd_eio_done(s);
    if (v == CD_EIO_BROKEN)
        return refuse(req, 400, CD_EIO_BAD_REQUEST, NULL);
    reply(req, CD_STR("ok"));
    return CD_OK;
}

/* A WebSocket handshake that says transport=polling: no session, or it would only time out. */
static bool asks_for_upgrade(struct cd_req *req)
{
    const char *upgrade = cd_req_header(req, "Upgrade");

    return upgrade && strcasecmp(upgrade, "websocket") == 0;
}

static enum cd_rc serve(void *self, struct cd_req *req)
{
    const char *method = cd_req_method(req);
    struct cd_eio_hello hello = {.transport = cd_req_query(req, "transport"),
                                 .sid = cd_req_query(req, "sid"),
                                 .eio = cd_req_query(req, "EIO"),
                                 .origin = cd_req_header(req, "Origin"),
                                 .get = strcmp(method, "GET") == 0};
    struct cd_eio *s;
    enum cd_eio_fault fault = cd_eio_judge(&hello, &s);

    (void)self;
    if (cd_req_starved(req)) /* a session's id that is not read would begin another session */
        return refuse(req, 503, CD_EIO_FORBIDDEN, "Out of memory");
    if (fault == CD_EIO_NO_FAULT && asks_for_upgrade(req))
        fault = CD_EIO_BAD_REQUEST;
    if (fault != CD_EIO_NO_FAULT)
        return refuse(req, fault == CD_EIO_FORBIDDEN ? 403 : 400, fault, NULL);
    if (!s)
        return handshake(req);
    if (hello.get)
        return poll_get(s, req);
    if (strcmp(method, "POST") == 0)
        return poll_post(s, req);
    return refuse(req, 400, CD_EIO_BAD_REQUEST, NULL);
}

#define ROUTE(verb, path, help) \
    {CD_ROLE_PUBLIC, verb, path, CD_AUTH_NONE, 0, serve, help}

/* Other methods are routed to get Engine.IO's own error. max_body is set at start. */
static struct cd_route routes[] = {
    ROUTE("GET", "/socket.io/", "Engine.IO: handshake and polls"),
    ROUTE("GET", "/socket.io", "Engine.IO: handshake and polls"),
    ROUTE("POST", "/socket.io/", "Engine.IO: packets"),
    ROUTE("POST", "/socket.io", "Engine.IO: packets"),
    ROUTE("PUT", "/socket.io/", "Engine.IO: refused"),
    ROUTE("DELETE", "/socket.io/", "Engine.IO: refused"),
    ROUTE("PATCH", "/socket.io/", "Engine.IO: refused"),
    {0},
};

enum cd_rc cd_eio_add_routes(struct cd_loop *loop, struct cd_http *http)
{
    struct cd_eio_server *server = cd_eio_server();

    server->loop = loop;
    for (size_t i = 0; routes[i].method; i++)
        routes[i].max_body = server->conf.max_payload;
    return cd_http_add_routes(http, routes, NULL);
}

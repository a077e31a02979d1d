/* engineio.c -- the core of Engine.IO sessions: handshake, packets, heartbeat, closing.
 *
 * In:   packets from the carriers (engineio_poll.c, engineio_ws.c). Out: messages to socketio.c,
 *       packets to whichever carrier a session has.
 * Why:  engine.io-protocol revision 4; where it is silent, what engine.io 6.6 does.
 * State: the sessions by sid. Owns: the sessions. Blocks: never.
 */
#include "in/engineio.h"

#include <stdlib.h>

#include "base/budget.h"
#include "base/id.h"
#include "in/engineio_priv.h"
#include "in/sio_packet.h"

static struct cd_eio_server server;

struct cd_eio_server *cd_eio_server(void)
{
    return &server;
}

void cd_eio_setup(const struct cd_eio_ops *ops, const struct cd_sock_conf *conf)
{
    server.ops = ops;
    server.conf = *conf;
    cd_map_init(&server.sessions);
}

void cd_eio_counts(size_t *polling, size_t *websocket)
{
    *websocket = server.websocket;
    *polling = server.sessions.count - server.websocket;
}

/* --- judging requests ------------------------------------------------------------------------- */

const char *cd_eio_fault_text(enum cd_eio_fault fault)
{
    static const char *const texts[] = {"Transport unknown",  "Session ID unknown",
                                        "Bad handshake method", "Bad request",
                                        "Forbidden",          "Unsupported protocol version"};

    return fault < CD_EIO_NO_FAULT ? texts[fault] : "";
}

static bool header_sane(const char *value)
{
    for (const unsigned char *p = (const unsigned char *)value; p && *p; p++) {
        if ((*p < 0x20 && *p != '\t') || *p == 0x7f)
            return false;
    }
    return true;
}

static struct cd_eio *find(struct cd_str sid)
{
    return sid.n == CD_EIO_SID_LEN ? cd_map_get(&server.sessions, sid) : NULL;
}

static enum cd_eio_fault judge_session(const char *sid, bool eio4, bool websocket,
                                       bool right_transport, struct cd_eio **out)
{
    struct cd_eio *s = find(cd_str_of(sid));

    if (!s || (websocket && s->state != CD_EIO_OPEN))
        return CD_EIO_SID_UNKNOWN;
    if (!right_transport || !eio4 || (s->ws && !websocket))
        return CD_EIO_BAD_REQUEST;
    *out = s;
    return CD_EIO_NO_FAULT;
}

/** The order of the checks is engine.io's, so that clients see the code they would see there. */
enum cd_eio_fault cd_eio_judge(const struct cd_eio_hello *hello, struct cd_eio **out)
{
    bool to_ws = hello->transport && strcmp(hello->transport, "websocket") == 0;
    bool to_poll = hello->transport && strcmp(hello->transport, "polling") == 0;
    bool right_transport = hello->websocket ? to_ws : to_poll;
    bool eio4 = hello->eio && strcmp(hello->eio, "4") == 0;

    *out = NULL;
    if (!to_ws && !to_poll)
        return CD_EIO_TRANSPORT_UNKNOWN;
    if (!header_sane(hello->origin))
        return CD_EIO_BAD_REQUEST;
    if (hello->sid && hello->sid[0])
        return judge_session(hello->sid, eio4, hello->websocket, right_transport, out);
    if (!hello->get)
        return CD_EIO_BAD_METHOD;
    if (!right_transport)
        return CD_EIO_BAD_REQUEST;
    return eio4 ? CD_EIO_NO_FAULT : CD_EIO_BAD_VERSION;
}

/* --- life ------------------------------------------------------------------------------------- */

static void beat(void *arg);

/** The next ping counts from here. @return false: no memory for the timer (new sessions only) */
static bool rest(struct cd_eio *s)
{
    s->waiting_pong = false;
    return cd_timer_set(server.loop, &s->timer, server.conf.ping_interval_ms, beat, s) == 0;
}

struct cd_eio *cd_eio_new(const char *client_ip)
{
    struct cd_eio *s;

    /* Closed sessions that await their last poll are beyond the cap, but not without end. */
    if (server.sessions.count >= 2 * (size_t)server.conf.max_sessions)
        return NULL;
    s = calloc(1, sizeof(*s));
    if (!s)
        return NULL;
    cd_id_base64url(15, s->sid, sizeof(s->sid));
    cd_buf_init(&s->out, server.conf.queue_bytes + 16);
    if (cd_map_put(&server.sessions, cd_str_of(s->sid), s) != 0) {
        free(s);
        return NULL;
    }
    s->up = rest(s) ? server.ops->on_open(s, client_ip) : NULL;
    if (!s->up) {
        cd_timer_cancel(server.loop, &s->timer);
        cd_map_del(&server.sessions, cd_str_of(s->sid));
        free(s);
        return NULL;
    }
    return s;
}

static void tell_closed(struct cd_eio *s)
{
    void *up = s->up;

    s->up = NULL;
    if (up)
        server.ops->on_close(up);
}

void cd_eio_end(struct cd_eio *s, uint16_t code)
{
    if (s->state == CD_EIO_DEAD)
        return;
    s->state = CD_EIO_DEAD;
    cd_map_del(&server.sessions, cd_str_of(s->sid));
    cd_timer_cancel(server.loop, &s->timer);
    cd_eio_ws_drop(s->probe, 1000);
    cd_eio_ws_drop(s->ws, code);
    if (s->poll)
        cd_eio_poll_reply(s, CD_STR("1"));
    tell_closed(s);
    cd_eio_queue_done(s);
    if (s->busy == 0)
        free(s);
}

void cd_eio_done(struct cd_eio *s)
{
    if (--s->busy == 0 && s->state == CD_EIO_DEAD)
        free(s);
}

void cd_eio_close_now(struct cd_eio *s)
{
    cd_eio_end(s, 1001);
}

void cd_eio_forget_all(void)
{
    size_t pos = 0;
    struct cd_eio *s;

    while ((s = cd_map_next(&server.sessions, &pos)) != NULL)
        cd_eio_end(s, 1001);
    cd_map_done(&server.sessions);
    cd_map_init(&server.sessions);
}

static void last_poll_missed(void *arg)
{
    cd_eio_end(arg, 1000);
}

/** Closed, but the client's next poll shall learn it: keep @p packet for it. */
static void await_last_poll(struct cd_eio *s, struct cd_str packet, int64_t ms)
{
    s->state = CD_EIO_LAST;
    if (s->out.n > 0)
        cd_buf_addc(&s->out, 0x1e);
    cd_buf_add(&s->out, packet.p, packet.n);
    tell_closed(s);
    cd_timer_set(server.loop, &s->timer, ms, last_poll_missed, s);
}

static void close_gracefully(void *arg)
{
    struct cd_eio *s = arg;

    if (s->ws || s->poll) {
        cd_eio_end(s, 1000);
        return;
    }
    /* A client that was told to upgrade may poll no more: then its "5" is what is awaited. */
    if (s->probe && s->probe->state != CD_EIO_WS_PROBED)
        cd_eio_ws_drop(s->probe, 1000);
    await_last_poll(s, CD_STR("1"), CD_EIO_LAST_POLL_MS);
}

void cd_eio_close(struct cd_eio *s)
{
    if (s->state != CD_EIO_OPEN)
        return;
    s->state = CD_EIO_CLOSING;
    cd_timer_set(server.loop, &s->timer, 0, close_gracefully, s);
}

void cd_eio_client_closed(struct cd_eio *s)
{
    if (s->state == CD_EIO_DEAD || s->state == CD_EIO_LAST)
        return;
    if (!s->ws && !s->poll) {
        cd_eio_ws_drop(s->probe, 1000);
        cd_eio_queue_done(s);
        await_last_poll(s, CD_STR("6"), CD_EIO_CLIENT_CLOSE_MS);
        return;
    }
    if (s->poll)
        cd_eio_poll_reply(s, CD_STR("6"));
    cd_eio_end(s, 1000);
}

static struct cd_eio *largest(void)
{
    struct cd_eio *most = NULL, *s;
    size_t pos = 0;

    while ((s = cd_map_next(&server.sessions, &pos)))
        if (s->out.n && s->state == CD_EIO_OPEN && (!most || s->out.n > most->out.n))
            most = s;
    return most;
}

size_t cd_eio_largest(void)
{
    const struct cd_eio *most = largest();

    return most ? most->out.n : 0;
}

size_t cd_eio_close_largest(void)
{
    struct cd_eio *most = largest();
    size_t bytes = most ? most->out.n : 0;

    if (most) {
        cd_eio_queue_done(most);
        cd_eio_close(most);
    }
    return bytes;
}

/* --- heartbeat -------------------------------------------------------------------------------- */

static void beat(void *arg)
{
    struct cd_eio *s = arg;

    if (s->waiting_pong) {
        cd_eio_end(s, 1000);
        return;
    }
    s->waiting_pong = true;
    s->extended = false;
    cd_timer_set(server.loop, &s->timer, server.conf.ping_timeout_ms, beat, s);
    cd_eio_send(s, CD_STR("2"));
}

/* A peer that talks is alive; it gets more time for its pong, once a ping. */
static void heard(struct cd_eio *s)
{
    if (!s->waiting_pong || s->extended)
        return;
    s->extended = true;
    cd_timer_set(server.loop, &s->timer, server.conf.ping_timeout_ms, beat, s);
}

void cd_eio_start(struct cd_eio *s, struct cd_buf *b, bool websocket)
{
    cd_buf_addf(b,
                "0{\"sid\":\"%s\",\"upgrades\":[%s],\"pingInterval\":%u,\"pingTimeout\":%u,"
                "\"maxPayload\":%zu}",
                s->sid, websocket ? "" : "\"websocket\"", server.conf.ping_interval_ms,
                server.conf.ping_timeout_ms, server.conf.max_payload);
    rest(s);
}

/* --- packets ---------------------------------------------------------------------------------- */

static enum cd_eio_verdict verdict(bool ok)
{
    return ok ? CD_EIO_FINE : CD_EIO_BROKEN;
}

enum cd_eio_verdict cd_eio_packet(struct cd_eio *s, struct cd_str packet)
{
    struct cd_str data;

    if (s->state != CD_EIO_OPEN)
        return CD_EIO_FINE;
    if (packet.n == 0)
        return CD_EIO_BROKEN;
    data = (struct cd_str){packet.p + 1, packet.n - 1};
    if (packet.p[0] != '3')
        heard(s);
    switch (packet.p[0]) {
    case '0': /* the server's own types mean nothing from a client, and hurt nothing */
    case '5':
    case '6':
        return CD_EIO_FINE;
    case '1':
        return CD_EIO_CLIENT_CLOSED;
    case '3':
        rest(s);
        return CD_EIO_FINE;
    case '4':
        return verdict(server.ops->on_text(s->up, data));
    case 'b':
        return verdict(cd_eio_base64_valid(data) && server.ops->on_binary(s->up));
    default: /* also "2": in version 4 only servers ping */
        return CD_EIO_BROKEN;
    }
}

enum cd_eio_verdict cd_eio_binary(struct cd_eio *s)
{
    if (s->state != CD_EIO_OPEN)
        return CD_EIO_FINE;
    heard(s);
    return verdict(server.ops->on_binary(s->up));
}

void cd_eio_queue_done(struct cd_eio *s)
{
    cd_budget_give(CD_BUDGET_QUEUES, s->out.n);
    cd_buf_done(&s->out);
    cd_buf_init(&s->out, server.conf.queue_bytes + 16);
    s->out_count = 0;
}

static bool queue(struct cd_eio *s, struct cd_str packet)
{
    if (s->out_count >= server.conf.queue_messages ||
        s->out.n + packet.n + 1 > server.conf.queue_bytes)
        return false;
    size_t before = s->out.n;
    if (before > 0)
        cd_buf_addc(&s->out, 0x1e);
    cd_buf_add(&s->out, packet.p, packet.n);
    cd_budget_take(CD_BUDGET_QUEUES, s->out.n - before);
    s->out_count++;
    return !s->out.failed;
}

bool cd_eio_send(struct cd_eio *s, struct cd_str packet)
{
    if (s->state != CD_EIO_OPEN)
        return false;
    if (s->ws) {
        if (cd_ws_send(s->ws->ws, packet.p, packet.n))
            return true;
        s->state = CD_EIO_CLOSING; /* the WebSocket closes by itself, and says so */
        cd_sock_count_slow();
        return false;
    }
    if (s->poll) {
        cd_eio_poll_reply(s, packet);
        return true;
    }
    if (queue(s, packet))
        return true;
    cd_eio_queue_done(s);
    cd_sock_count_slow();
    cd_eio_close(s);
    return false;
}

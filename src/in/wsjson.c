/* wsjson.c -- plain JSON on /ws: the same events as Socket.IO, one object a message.
 *
 * In:   {"type":"connect","auth":{...}}, then {"type":<event>,"id"?,...payload}.
 * Out:  {"type":"connect","sid"}, {"type":<event>,...payload}, {"type":"ack","id","ok",...}.
 * Why:  the API contract, section 4, last line.
 * State: one object a connection, embedding its socket. Owns: those, until on_close. Blocks: never.
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/scan.h"
#include "in/sio_packet.h"
#include "in/sock_priv.h"
#include "loop/loop.h"

#define CLOSE_POLICY 1008

struct conn {
    struct cd_ws_peer peer; /* first: the endpoint looks here */
    struct cd_ws *ws;
    struct cd_sock sock;
    struct cd_timer timer; /* CONNECT is awaited; the next heartbeat; closing */
    bool closing;
    bool asked; /* a ping is out, and nothing came since */
};

static size_t connections;
static const struct cd_ws_ops ops;

static struct conn *of(struct cd_sock *sock)
{
    return (struct conn *)(void *)((char *)sock - offsetof(struct conn, sock));
}

/* --- writing ---------------------------------------------------------------------------------- */

/** Is this member's name `type`, however it is written? */
static bool names_type(struct cd_str key)
{
    char name[16];

    /* The key's quotes stand around it in the text. */
    return cd_json_text((struct cd_str){key.p - 1, key.n + 2}, name, sizeof(name)) == 4 &&
           memcmp(name, "type", 4) == 0;
}

/** The payload's members beside our own `type`, which must stay the only one. */
static void add_event(struct cd_buf *b, const char *event, struct cd_str payload)
{
    struct cd_str key, value;
    size_t pos = 0;

    cd_buf_adds(b, "{\"type\":");
    cd_buf_add_jsons(b, event);
    if (cd_json_kind(payload) == CD_JSON_OBJECT) {
        while (cd_json_member(payload, &pos, &key, &value)) {
            if (names_type(key))
                continue;
            cd_buf_addc(b, ',');
            cd_buf_add(b, key.p - 1, key.n + 2);
            cd_buf_addc(b, ':');
            cd_buf_add(b, value.p, value.n);
        }
    }
    cd_buf_addc(b, '}');
}

static void add_ack_ok(struct cd_buf *b, int64_t id, struct cd_str members)
{
    cd_buf_adds(b, "{\"type\":\"ack\",\"id\":");
    cd_buf_add_i64(b, id);
    cd_buf_adds(b, ",\"ok\":true");
    cd_json_add_members(b, members);
    cd_buf_addc(b, '}');
}

static void add_ack_fail(struct cd_buf *b, int64_t id, const struct cd_err *err)
{
    cd_buf_adds(b, "{\"type\":\"ack\",\"id\":");
    cd_buf_add_i64(b, id);
    cd_buf_adds(b, ",\"ok\":false");
    cd_json_add_err(b, err);
    cd_buf_addc(b, '}');
}

static void add_connected(struct cd_buf *b, const char *sid)
{
    cd_buf_adds(b, "{\"type\":\"connect\",\"sid\":\"");
    cd_buf_adds(b, sid);
    cd_buf_adds(b, "\"}");
}

static void add_refused(struct cd_buf *b, const struct cd_err *err)
{
    cd_buf_adds(b, "{\"type\":\"connect_error\",\"message\":");
    cd_buf_add_jsons(b, err->text);
    cd_buf_adds(b, ",\"data\":");
    cd_err_json(b, err);
    cd_buf_addc(b, '}');
}

static bool send_text(struct conn *c, struct cd_str text)
{
    if (c->closing)
        return false;
    if (cd_ws_send(c->ws, text.p, text.n))
        return true;
    c->closing = true; /* the WebSocket closes by itself, and says so */
    cd_sock_count_slow();
    return false;
}

/** Answer what was not understood; the connection stays. */
static void complain(struct conn *c, const char *event, enum cd_rc rc, const char *text)
{
    struct cd_err err;
    struct cd_buf b;

    cd_fail(&err, rc, "%s", text);
    cd_buf_init(&b, 4096);
    cd_buf_adds(&b, "{\"type\":\"call-error\",\"event\":");
    cd_buf_add_jsons(&b, event);
    cd_json_add_err(&b, &err);
    cd_buf_addc(&b, '}');
    if (!b.failed)
        send_text(c, (struct cd_str){b.p, b.n});
    cd_buf_done(&b);
}

/* --- the form --------------------------------------------------------------------------------- */

static bool send_frame(struct cd_sock *sock, struct cd_str frame)
{
    return send_text(of(sock), frame);
}

static void close_ws(struct conn *c, uint16_t code, const char *why)
{
    c->closing = true;
    cd_timer_cancel(cd_sock_loop(), &c->timer);
    cd_ws_close(c->ws, code, why);
}

/** Pings and waits in turn, as Engine.IO does: a peer whose network went away says nothing, and its
 * seat in a call would stay taken. Whatever it sends shows that it is there. */
static void beat(void *arg)
{
    struct conn *c = arg;

    if (c->asked) {
        cd_sock_leave(&c->sock);
        close_ws(c, 1001, "no pong");
        return;
    }
    c->asked = true;
    if (cd_ws_ping(c->ws) &&
        cd_timer_set(cd_sock_loop(), &c->timer, cd_sock_settings()->ping_timeout_ms, beat, c) != 0)
        close_ws(c, 1013, "out of memory");
}

static void heard(struct conn *c)
{
    if (!c->asked)
        return;
    c->asked = false;
    if (cd_timer_set(cd_sock_loop(), &c->timer, cd_sock_settings()->ping_interval_ms, beat, c) != 0)
        close_ws(c, 1013, "out of memory");
}

static void accepted(struct cd_sock *sock)
{
    struct conn *c = of(sock);

    if (cd_timer_set(cd_sock_loop(), &c->timer, cd_sock_settings()->ping_interval_ms, beat, c) != 0)
        close_ws(c, 1013, "out of memory");
}

/** The socket is told of at once, whenever the peer lets the connection go. */
static void kicked(void *arg)
{
    struct conn *c = arg;

    cd_sock_leave(&c->sock);
    close_ws(c, 1000, "");
}

static void drop(struct cd_sock *sock)
{
    struct conn *c = of(sock);

    c->closing = true;
    if (cd_timer_set(cd_sock_loop(), &c->timer, 0, kicked, c) != 0)
        close_ws(c, 1000, "");
}

static void kick(struct cd_sock *sock)
{
    send_text(of(sock), CD_STR("{\"type\":\"disconnect\"}"));
    drop(sock);
}

static void close_now(struct cd_sock *sock)
{
    cd_sock_leave(sock);
    close_ws(of(sock), 1001, "");
}

const struct cd_sock_form cd_wsjson_form = {
    .add_event = add_event,
    .add_ack_ok = add_ack_ok,
    .add_ack_fail = add_ack_fail,
    .add_connected = add_connected,
    .add_refused = add_refused,
    .send = send_frame,
    .accepted = accepted,
    .kick = kick,
    .drop = drop,
    .close_now = close_now,
};

/* --- messages --------------------------------------------------------------------------------- */

static void connect_missed(void *arg)
{
    close_ws(arg, CLOSE_POLICY, "connect first");
}

/** {"type":"connect","auth":{...}}, or the members of auth beside the type. */
static void take_connect(struct conn *c, struct cd_str message)
{
    struct cd_str auth;

    if (!cd_json_find(message, "auth", &auth))
        auth = message;
    if (cd_json_kind(auth) != CD_JSON_OBJECT)
        complain(c, "connect", CD_E_INVALID_PARAM, "auth must be an object.");
    else
        cd_sock_join(&c->sock, auth);
}

static void take_event(struct conn *c, const char *type, struct cd_str message)
{
    struct cd_str value;
    long long id = -1;

    if (cd_json_find(message, "id", &value) && (!cd_json_int(value, &id) || id < 0)) {
        complain(c, type, CD_E_INVALID_PARAM, "id must be a whole number, 0 or more.");
        return;
    }
    if (c->sock.state == CD_SOCK_JOINED)
        cd_sock_deliver(&c->sock, cd_str_of(type), message, id);
    else
        complain(c, type, CD_E_INVALID_PARAM, "Wait for the answer to connect.");
}

static void take_message(struct conn *c, const char *type, struct cd_str message)
{
    bool connects = strcmp(type, "connect") == 0 || strcmp(type, "auth") == 0;

    if (strcmp(type, "ping") == 0)
        send_text(c, CD_STR("{\"type\":\"pong\"}"));
    else if (strcmp(type, "disconnect") == 0)
        close_ws(c, 1000, "");
    else if (c->sock.state == CD_SOCK_APART && connects)
        take_connect(c, message);
    else if (c->sock.state == CD_SOCK_APART)
        close_ws(c, CLOSE_POLICY, "connect first");
    else if (connects)
        complain(c, type, CD_E_INVALID_PARAM, "This connection has a socket already.");
    else
        take_event(c, type, message);
}

/** What is no JSON is not read further; of what is only too deep, type and id tell whom to answer. */
static void refuse_text(struct conn *c, struct cd_str message)
{
    char type[CD_SIO_EVENT_MAX] = "";
    struct cd_str value;
    long long id = -1;
    struct cd_ack ack;
    struct cd_err err;

    if (!cd_json_too_deep(message, CD_SIO_JSON_DEPTH)) {
        complain(c, "", CD_E_NOT_JSON, "The message is not valid JSON.");
        return;
    }
    cd_sio_fail_depth(&err);
    if (cd_json_is_object(message, UINT_MAX)) {
        if (cd_json_find(message, "type", &value) && cd_json_text(value, type, sizeof(type)) < 0)
            type[0] = '\0';
        if (cd_json_find(message, "id", &value) && !cd_json_int(value, &id))
            id = -1;
    }
    if (c->sock.state != CD_SOCK_JOINED || id < 0) {
        complain(c, type, CD_E_NOT_JSON, err.text);
        return;
    }
    ack = cd_sock_ack(&c->sock, cd_str_of(type), id);
    cd_ack_fail(&ack, &err, NULL);
}

static void on_text(void *user, char *text, size_t n)
{
    struct conn *c = user;
    struct cd_str message = cd_str_trim((struct cd_str){text, n});
    struct cd_str value;
    char type[CD_SIO_EVENT_MAX];

    if (c->closing)
        return;
    heard(c);
    if (!cd_json_valid(message, CD_SIO_JSON_DEPTH))
        refuse_text(c, message);
    else if (cd_json_kind(message) != CD_JSON_OBJECT || !cd_json_find(message, "type", &value) ||
             cd_json_text(value, type, sizeof(type)) < 0)
        complain(c, "", CD_E_BAD_JSON, "The message must be an object with a type.");
    else
        take_message(c, type, message);
}

static void on_binary(void *user, const void *p, size_t n)
{
    struct conn *c = user;

    (void)p;
    (void)n;
    if (c->closing)
        return;
    heard(c);
    complain(c, "", CD_E_NOT_JSON, "Binary messages are not taken; send JSON text.");
}

/* --- connections ------------------------------------------------------------------------------ */

static void on_ready(void *user)
{
    struct conn *c = user;

    if (cd_timer_set(cd_sock_loop(), &c->timer, cd_sock_settings()->connect_timeout_ms,
                     connect_missed, c) != 0)
        close_ws(c, 1013, "out of memory");
}

static void on_pong(void *user)
{
    struct conn *c = user;

    if (!c->closing)
        heard(c);
}

static void on_close(void *user)
{
    struct conn *c = user;

    cd_timer_cancel(cd_sock_loop(), &c->timer);
    cd_sock_release(&c->sock);
    connections--;
    free(c);
}

static const struct cd_ws_ops ops = {
    .on_ready = on_ready,
    .on_text = on_text,
    .on_binary = on_binary,
    .on_close = on_close,
    .on_pong = on_pong,
};

void *cd_wsjson_open(struct cd_ws *ws, const struct cd_ws_hello *hello, int *status, char *why,
                     size_t why_size)
{
    struct conn *c = calloc(1, sizeof(*c));

    if (!c || !cd_sock_admit(&c->sock, &cd_wsjson_form, hello->client_ip)) {
        free(c);
        *status = 503;
        snprintf(why, why_size, "Too many sessions");
        return NULL;
    }
    c->peer.ops = &ops;
    c->ws = ws;
    connections++;
    return c;
}

size_t cd_wsjson_count(void)
{
    return connections;
}

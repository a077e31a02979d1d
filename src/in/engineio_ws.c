/* engineio_ws.c -- Engine.IO over WebSocket, and the upgrade from polling.
 *
 * In:   WebSocket messages, one packet each. Out: the same.
 * Why:  engine.io-protocol revision 4, "WebSocket" and "Upgrade": 2probe, 3probe, 6 to the poll, 5.
 * State: one object a connection. Owns: those; each lives until its on_close. Blocks: never.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "in/engineio_priv.h"
#include "in/sio_packet.h"

static const struct cd_ws_ops ops;

/* --- the upgrade ------------------------------------------------------------------------------ */

/** A probe is over without an upgrade; the polling session goes on. */
static void probe_failed(struct cd_eio_ws *w)
{
    cd_eio_ws_drop(w, 1000);
}

static void probe_tick(void *arg)
{
    struct cd_eio_ws *w = arg;
    int64_t left = w->deadline_ms - cd_mono_ms();

    if (left <= 0) {
        probe_failed(w);
        return;
    }
    if (w->state == CD_EIO_WS_PROBED && w->session->poll)
        cd_eio_poll_reply(w->session, CD_STR("6"));
    cd_timer_set(cd_eio_server()->loop, &w->timer, left, probe_tick, w);
}

bool cd_eio_ws_frees_poll(struct cd_eio_ws *w)
{
    if (w->state != CD_EIO_WS_PROBED)
        return false;
    if (!w->noop_used) {
        w->noop_used = true;
        return true;
    }
    /* A client that keeps polling now would spin if each poll was let go at once. */
    cd_timer_set(cd_eio_server()->loop, &w->timer, CD_EIO_NOOP_MS, probe_tick, w);
    return false;
}

static void probed(struct cd_eio_ws *w)
{
    w->state = CD_EIO_WS_PROBED;
    cd_ws_send(w->ws, "3probe", 6);
    if (w->session->poll) {
        w->noop_used = true;
        cd_eio_poll_reply(w->session, CD_STR("6"));
    }
}

/** What waited for a poll goes out here instead; "1" is for polls alone. */
static void flush_queue(struct cd_eio *s)
{
    struct cd_str rest = {s->out.n ? s->out.p : NULL, s->out.n};
    struct cd_str packet;

    while (cd_eio_payload_next(&rest, &packet)) {
        if (!cd_str_is(packet, "1"))
            cd_ws_send(s->ws->ws, packet.p, packet.n);
    }
    cd_eio_queue_done(s);
}

static void upgraded(struct cd_eio_ws *w)
{
    struct cd_eio *s = w->session;

    cd_timer_cancel(cd_eio_server()->loop, &w->timer);
    w->state = CD_EIO_WS_CARRIER;
    s->probe = NULL;
    s->ws = w;
    cd_eio_server()->websocket++;
    if (s->poll)
        cd_eio_poll_reply(s, CD_STR("6"));
    flush_queue(s);
    if (s->state == CD_EIO_LAST)
        cd_eio_end(s, 1000);
}

/* --- connections ------------------------------------------------------------------------------ */

static bool carries(const struct cd_eio_ws *w)
{
    return w->state == CD_EIO_WS_FRESH || w->state == CD_EIO_WS_CARRIER;
}

void cd_eio_ws_drop(struct cd_eio_ws *w, uint16_t code)
{
    struct cd_eio *s;

    if (!w || w->state == CD_EIO_WS_DOOMED)
        return;
    s = w->session;
    if (carries(w)) {
        s->ws = NULL;
        cd_eio_server()->websocket--;
    } else if (s->probe == w) {
        s->probe = NULL;
    }
    w->session = NULL;
    w->state = CD_EIO_WS_DOOMED;
    cd_timer_cancel(cd_eio_server()->loop, &w->timer);
    cd_ws_close(w->ws, code, "");
}

static void on_ready(void *user)
{
    struct cd_eio_ws *w = user;
    struct cd_buf b;

    if (w->state == CD_EIO_WS_DOOMED) {
        cd_ws_close(w->ws, 1000, "");
        return;
    }
    if (w->state != CD_EIO_WS_FRESH)
        return;
    w->state = CD_EIO_WS_CARRIER;
    cd_buf_init(&b, 512);
    cd_eio_start(w->session, &b, true);
    if (b.failed)
        cd_eio_close(w->session);
    else
        cd_eio_send(w->session, (struct cd_str){b.p, b.n});
    cd_buf_done(&b);
}

static void act(struct cd_eio *s, enum cd_eio_verdict v)
{
    if (v == CD_EIO_CLIENT_CLOSED)
        cd_eio_client_closed(s);
    else if (v == CD_EIO_BROKEN)
        cd_eio_end(s, 1002);
    cd_eio_done(s);
}

static void on_text(void *user, char *text, size_t n)
{
    struct cd_eio_ws *w = user;
    struct cd_str packet = {text, n};
    struct cd_eio *s = w->session;

    switch (w->state) {
    case CD_EIO_WS_PROBE:
        if (cd_str_is(packet, "2probe"))
            probed(w);
        else
            probe_failed(w);
        return;
    case CD_EIO_WS_PROBED:
        if (cd_str_is(packet, "5"))
            upgraded(w);
        else
            probe_failed(w);
        return;
    case CD_EIO_WS_CARRIER:
        s->busy++;
        act(s, cd_eio_packet(s, packet));
        return;
    case CD_EIO_WS_FRESH:
    case CD_EIO_WS_DOOMED:
    default:
        return;
    }
}

static void on_binary(void *user, const void *p, size_t n)
{
    struct cd_eio_ws *w = user;
    struct cd_eio *s = w->session;

    (void)p;
    (void)n;
    if (w->state == CD_EIO_WS_CARRIER) {
        s->busy++;
        act(s, cd_eio_binary(s));
    } else if (w->state != CD_EIO_WS_DOOMED) {
        probe_failed(w);
    }
}

static void on_close(void *user)
{
    struct cd_eio_ws *w = user;
    struct cd_eio *s = w->session;

    if (carries(w)) {
        s->ws = NULL;
        cd_eio_server()->websocket--;
        w->state = CD_EIO_WS_DOOMED;
        cd_eio_end(s, 1002);
    } else if (s && s->probe == w) {
        s->probe = NULL;
    }
    cd_timer_cancel(cd_eio_server()->loop, &w->timer);
    free(w);
}

static const struct cd_ws_ops ops = {
    .on_ready = on_ready,
    .on_text = on_text,
    .on_binary = on_binary,
    .on_close = on_close,
};

/* --- handshake -------------------------------------------------------------------------------- */

/** Join the session that was named: probe it, unless it is served already. */
static void begin_probe(struct cd_eio_ws *w, struct cd_eio *s)
{
    if (s->ws || s->probe)
        return; /* accepted and closed: stays DOOMED */
    w->state = CD_EIO_WS_PROBE;
    w->session = s;
    s->probe = w;
    w->deadline_ms = cd_mono_ms() + CD_EIO_UPGRADE_MS;
    cd_timer_set(cd_eio_server()->loop, &w->timer, CD_EIO_UPGRADE_MS, probe_tick, w);
}

static bool begin(struct cd_eio_ws *w, struct cd_eio *s, const char *client_ip)
{
    w->state = CD_EIO_WS_DOOMED;
    if (s) {
        begin_probe(w, s);
        return true;
    }
    w->session = cd_eio_new(client_ip);
    if (!w->session)
        return false;
    w->state = CD_EIO_WS_FRESH;
    w->session->ws = w;
    cd_eio_server()->websocket++;
    return true;
}

void *cd_eio_ws_open(struct cd_ws *ws, const struct cd_ws_hello *hello, struct cd_str query,
                     int *status, char *why, size_t why_size)
{
    char transport[16], sid[CD_EIO_SID_LEN * 3], eio[8];
    bool named = cd_eio_query(query, "sid", sid, sizeof(sid));
    struct cd_eio_hello h = {.origin = hello->origin, .get = true, .websocket = true};
    struct cd_eio *s;
    struct cd_eio_ws *w;
    enum cd_eio_fault fault;

    h.transport = cd_eio_query(query, "transport", transport, sizeof(transport)) ? transport : NULL;
    h.sid = named ? sid : NULL;
    h.eio = cd_eio_query(query, "EIO", eio, sizeof(eio)) ? eio : NULL;
    fault = cd_eio_judge(&h, &s);
    *status = 400;
    if (fault != CD_EIO_NO_FAULT) {
        snprintf(why, why_size, "{\"code\":%d,\"message\":\"%s\"}", (int)fault,
                 cd_eio_fault_text(fault));
        return NULL;
    }
    w = calloc(1, sizeof(*w));
    if (w) {
        w->peer.ops = &ops;
        w->ws = ws;
        if (begin(w, s, hello->client_ip))
            return w;
    }
    free(w);
    *status = 503;
    snprintf(why, why_size, "Too many sessions");
    return NULL;
}

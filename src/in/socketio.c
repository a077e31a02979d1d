/* socketio.c -- Socket.IO 5 on Engine.IO sessions.
 *
 * In:   messages of a session (engineio.c). Out: sockets and their events (sock.c); frames.
 * Why:  socket.io-protocol revision 5; the API contract, section 4. There is one namespace, "/".
 * State: one object a session, embedding its socket. Owns: those. Blocks: never.
 */
#include "in/socketio.h"

#include <stdlib.h>

#include "base/scan.h"
#include "in/sio_packet.h"
#include "in/sock_priv.h"
#include "loop/loop.h"

struct sio {
    struct cd_sock sock; /* first: forms get the socket and need the session */
    struct cd_eio *session;
    struct cd_timer connect_timer;
    unsigned attachments;      /* binary packets that still belong to the last event */
    struct cd_ack binary_ack;  /* whom to tell that we take none */
    bool binary_answer;        /* an event waits for that, not an ack */
};

static struct sio *of(struct cd_sock *sock)
{
    return (struct sio *)(void *)sock;
}

/* --- the form: how the registry talks to a Socket.IO socket ----------------------------------- */

static bool send_frame(struct cd_sock *sock, struct cd_str frame)
{
    return cd_eio_send(of(sock)->session, frame);
}

static void accepted(struct cd_sock *sock)
{
    cd_timer_cancel(cd_sock_loop(), &of(sock)->connect_timer);
}

static void kick(struct cd_sock *sock)
{
    cd_eio_send(of(sock)->session, CD_STR("41"));
    cd_eio_close(of(sock)->session);
}

static void drop(struct cd_sock *sock)
{
    cd_eio_close(of(sock)->session);
}

static void close_now(struct cd_sock *sock)
{
    cd_eio_close_now(of(sock)->session);
}

const struct cd_sock_form cd_sio_form = {
    .add_event = cd_sio_add_event,
    .add_ack_ok = cd_sio_add_ack_ok,
    .add_ack_fail = cd_sio_add_ack_fail,
    .add_connected = cd_sio_add_connected,
    .add_refused = cd_sio_add_refused,
    .send = send_frame,
    .accepted = accepted,
    .kick = kick,
    .drop = drop,
    .close_now = close_now,
};

/* --- life ------------------------------------------------------------------------------------- */

static void connect_missed(void *arg)
{
    struct sio *sio = arg;

    cd_eio_close(sio->session);
}

/** A session without a socket does not stay: CONNECT must come in time, also after a DISCONNECT. */
static bool await_connect(struct sio *sio)
{
    return cd_timer_set(cd_sock_loop(), &sio->connect_timer,
                        cd_sock_settings()->connect_timeout_ms, connect_missed, sio) == 0;
}

static void *on_open(struct cd_eio *session, const char *client_ip)
{
    struct sio *sio = calloc(1, sizeof(*sio));

    if (!sio || !cd_sock_admit(&sio->sock, &cd_sio_form, client_ip)) {
        free(sio);
        return NULL;
    }
    sio->session = session;
    if (await_connect(sio))
        return sio;
    cd_sock_release(&sio->sock);
    free(sio);
    return NULL;
}

static void on_close(void *up)
{
    struct sio *sio = up;

    cd_timer_cancel(cd_sock_loop(), &sio->connect_timer);
    cd_sock_release(&sio->sock);
    free(sio);
}

/* --- packets ---------------------------------------------------------------------------------- */

static bool refuse_namespace(struct sio *sio, const struct cd_sio_packet *packet)
{
    struct cd_buf b;

    if (packet->type != CD_SIO_CONNECT)
        return false; /* nobody can be in there */
    cd_buf_init(&b, 1024);
    cd_sio_add_no_namespace(&b, packet->ns);
    if (!b.failed)
        cd_eio_send(sio->session, (struct cd_str){b.p, b.n});
    cd_buf_done(&b);
    return true;
}

static bool take_connect(struct sio *sio, const struct cd_sio_packet *packet)
{
    if (sio->sock.state != CD_SOCK_APART)
        return false;
    cd_sock_join(&sio->sock, packet->data.n ? packet->data : CD_STR("{}"));
    return true;
}

static bool take_disconnect(struct sio *sio)
{
    if (sio->sock.state == CD_SOCK_APART)
        return false;
    if (sio->sock.state != CD_SOCK_KICKED) { /* kicked: it goes with its session, in a moment */
        cd_sock_leave(&sio->sock);
        return await_connect(sio);
    }
    return true;
}

static bool take_event(struct sio *sio, const struct cd_sio_packet *packet)
{
    char space[CD_SIO_EVENT_MAX];
    struct cd_str name = cd_sio_event_name(packet->event, space, sizeof(space));

    if (packet->too_deep) {
        struct cd_ack ack = cd_sock_ack(&sio->sock, name, packet->id);
        struct cd_err err;

        cd_sio_fail_depth(&err);
        cd_ack_fail(&ack, &err, NULL);
    } else {
        cd_sock_deliver(&sio->sock, name, packet->payload, packet->id);
    }
    return true;
}

static void answer_binary(struct sio *sio)
{
    struct cd_err err;

    if (!sio->binary_answer)
        return;
    cd_fail(&err, CD_E_INVALID_PARAM, "Events take no binary attachments here; send JSON.");
    cd_ack_fail(&sio->binary_ack, &err, NULL);
}

/** Binary is read as the protocol asks, so that the stream stays in step, and then refused. */
static bool take_binary(struct sio *sio, const struct cd_sio_packet *packet)
{
    char space[CD_SIO_EVENT_MAX];

    sio->attachments = packet->attachments;
    sio->binary_answer = packet->type == CD_SIO_BINARY_EVENT;
    if (sio->binary_answer)
        sio->binary_ack = cd_sock_ack(
            &sio->sock, cd_sio_event_name(packet->event, space, sizeof(space)), packet->id);
    if (sio->attachments == 0)
        answer_binary(sio);
    return true;
}

static bool on_text(void *up, struct cd_str text)
{
    struct sio *sio = up;
    struct cd_sio_packet packet;

    if (sio->attachments > 0 || !cd_sio_parse(text, &packet))
        return false;
    if (!cd_str_is(packet.ns, "/"))
        return refuse_namespace(sio, &packet);
    if (packet.type == CD_SIO_CONNECT)
        return take_connect(sio, &packet);
    if (packet.type == CD_SIO_DISCONNECT)
        return take_disconnect(sio);
    if (sio->sock.state == CD_SOCK_KICKED)
        return true;
    if (sio->sock.state != CD_SOCK_JOINED)
        return false;
    switch (packet.type) {
    case CD_SIO_EVENT:
        return take_event(sio, &packet);
    case CD_SIO_BINARY_EVENT:
    case CD_SIO_BINARY_ACK:
        return take_binary(sio, &packet);
    case CD_SIO_ACK: /* the server asks for none */
        return true;
    case CD_SIO_CONNECT:
    case CD_SIO_DISCONNECT:
    case CD_SIO_CONNECT_ERROR:
    default:
        return false;
    }
}

static bool on_binary(void *up)
{
    struct sio *sio = up;

    if (sio->attachments == 0)
        return false;
    if (--sio->attachments == 0)
        answer_binary(sio);
    return true;
}

const struct cd_eio_ops cd_sio_session_ops = {
    .on_open = on_open,
    .on_text = on_text,
    .on_binary = on_binary,
    .on_close = on_close,
};

/* sock.c -- the registry of client sockets, and everything that is said to them.
 *
 * In:   connections from socketio.c and wsjson.c; emits and acks from the modules.
 * Out:  frames, each form written once however many sockets get it.
 * Why:  the API contract, section 4. Modules know sockets and generation ids, never transports.
 * State: the slot table, counters. Owns: no socket, they live in their connections.
 * Blocks: never.
 */
#include "in/sock.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/budget.h"
#include "base/id.h"
#include "in/engineio.h"
#include "in/sio_packet.h"
#include "in/sock_priv.h"

#define SLOT_BITS 24 /* of an id: the slot; the rest is a count that never comes back */
#define SCRATCH_KEEP 65536

struct slot {
    struct cd_sock *sock; /* NULL: free */
    uint64_t id;
    uint32_t next_free; /* slot + 1; 0: none */
};

static struct {
    struct cd_loop *loop;
    struct cd_sock_ops ops;
    void *self;
    struct cd_sock_conf conf;
    struct slot *slots;
    uint32_t slot_count; /* allocated */
    uint32_t slot_used;  /* ever taken */
    uint32_t first_free;
    uint64_t generation;
    struct cd_buf sio, json; /* frames being written; nothing that sends calls back into here */
    struct cd_sock_stats stats;
} reg;

void cd_sock_registry_setup(const struct cd_sock_ops *ops, void *self,
                            const struct cd_sock_conf *conf)
{
    reg.ops = *ops;
    reg.self = self;
    reg.conf = *conf;
}

void cd_sock_registry_set_loop(struct cd_loop *loop)
{
    reg.loop = loop;
}

struct cd_loop *cd_sock_loop(void)
{
    return reg.loop;
}

const struct cd_sock_conf *cd_sock_settings(void)
{
    return &reg.conf;
}

void cd_sock_count_slow(void)
{
    reg.stats.closed_slow++;
}

/* --- slots: from generation ids to sockets ---------------------------------------------------- */

static bool grow_slots(void)
{
    uint32_t want = reg.slot_count ? reg.slot_count * 2 : 64;
    struct slot *more;

    if (want > 1u << SLOT_BITS)
        return false;
    more = realloc(reg.slots, want * sizeof(*more));
    if (!more)
        return false;
    reg.slots = more;
    reg.slot_count = want;
    return true;
}

/* Every connection has its slot from the start; its id changes with every CONNECT. */
static bool take_slot(struct cd_sock *sock, uint32_t *out)
{
    uint32_t i;

    if (reg.first_free) {
        i = reg.first_free - 1;
        reg.first_free = reg.slots[i].next_free;
    } else {
        if (reg.slot_used == reg.slot_count && !grow_slots())
            return false;
        i = reg.slot_used++;
    }
    reg.slots[i] = (struct slot){.sock = sock};
    *out = i;
    return true;
}

static void free_slots_when_empty(void)
{
    if (reg.stats.sessions > 0)
        return;
    free(reg.slots);
    reg.slots = NULL;
    reg.slot_count = reg.slot_used = reg.first_free = 0;
    cd_buf_done(&reg.sio);
    cd_buf_done(&reg.json);
}

bool cd_sock_admit(struct cd_sock *sock, const struct cd_sock_form *form, const char *client_ip)
{
    if (cd_budget_high() || reg.stats.sessions >= reg.conf.max_sessions || !take_slot(sock, &sock->slot))
        return false;
    sock->form = form;
    snprintf(sock->client_ip, sizeof(sock->client_ip), "%s", client_ip ? client_ip : "");
    reg.stats.sessions++;
    return true;
}

void cd_sock_release(struct cd_sock *sock)
{
    cd_sock_leave(sock);
    reg.slots[sock->slot] = (struct slot){.next_free = reg.first_free};
    reg.first_free = sock->slot + 1;
    reg.stats.sessions--;
    free_slots_when_empty();
}

uint64_t cd_sock_id(const struct cd_sock *sock)
{
    return sock->id;
}

struct cd_sock *cd_sock_by_id(uint64_t id)
{
    uint64_t i = id & ((1u << SLOT_BITS) - 1);

    if (id == 0 || i >= reg.slot_used || reg.slots[i].id != id)
        return NULL;
    return reg.slots[i].sock;
}

void *cd_sock_user(const struct cd_sock *sock)
{
    return sock->user;
}

const char *cd_sock_client_ip(const struct cd_sock *sock)
{
    return sock->client_ip;
}

const char *cd_sock_public_id(const struct cd_sock *sock)
{
    return sock->public_id;
}

/* --- sending ---------------------------------------------------------------------------------- */

static struct cd_buf *frame(struct cd_buf *b)
{
    if (b->max == 0)
        cd_buf_init(b, CD_SOCK_FRAME_MAX);
    cd_buf_reset(b);
    return b;
}

/* A frame is a few kB; one large one must not stay in memory for ever. */
static void frame_done(struct cd_buf *b)
{
    if (b->cap > SCRATCH_KEEP)
        cd_buf_done(b);
}

/* Events may go out while on_connect still judges: Socket.IO clients keep them until the answer. */
static bool may_send(const struct cd_sock *sock)
{
    return sock->state == CD_SOCK_JOINED || sock->state == CD_SOCK_PENDING;
}

/* What is not sent for want of memory would be missed: the client comes back, and asks what it missed. */
static void drop(struct cd_sock *sock)
{
    if (may_send(sock))
        sock->state = CD_SOCK_KICKED;
    sock->form->drop(sock);
}

static bool send_frame(struct cd_sock *sock, const struct cd_buf *b)
{
    if (!b->failed)
        return sock->form->send(sock, (struct cd_str){b->p, b->n});
    drop(sock);
    return false;
}

static struct cd_buf *event_frame(const struct cd_sock *sock, const char *event,
                                  struct cd_str payload)
{
    struct cd_buf *b = frame(sock->form == &cd_wsjson_form ? &reg.json : &reg.sio);

    sock->form->add_event(b, event, payload);
    b->failed = b->failed || payload.n == 0;
    return b;
}

bool cd_sock_emit(struct cd_sock *sock, const char *event, struct cd_str payload)
{
    struct cd_buf *b;
    bool sent;

    if (!may_send(sock))
        return false;
    b = event_frame(sock, event, payload);
    sent = send_frame(sock, b);
    frame_done(b);
    reg.stats.events_out += sent;
    return sent;
}

void cd_sock_emit_many(struct cd_sock *const *socks, size_t n, const char *event,
                       struct cd_str payload)
{
    struct cd_buf *sio = NULL, *json = NULL;

    for (size_t i = 0; i < n; i++) {
        struct cd_buf **b = socks[i]->form == &cd_wsjson_form ? &json : &sio;

        if (!may_send(socks[i]))
            continue;
        if (!*b)
            *b = event_frame(socks[i], event, payload);
        reg.stats.events_out += send_frame(socks[i], *b);
    }
    if (sio)
        frame_done(sio);
    if (json)
        frame_done(json);
}

void cd_sock_broadcast(const char *event, struct cd_str payload)
{
    for (uint32_t i = 0; i < reg.slot_used; i++) {
        struct cd_sock *sock = reg.slots[i].sock;

        if (sock && sock->state == CD_SOCK_JOINED)
            cd_sock_emit(sock, event, payload);
    }
}

struct cd_ack cd_sock_ack(const struct cd_sock *sock, struct cd_str event, int64_t id)
{
    struct cd_ack ack = {.sock_id = sock->id, .id = id};
    size_t n = event.n < sizeof(ack.event) ? event.n : sizeof(ack.event) - 1;

    memcpy(ack.event, event.p, n);
    return ack;
}

void cd_ack_ok(const struct cd_ack *ack, struct cd_str members)
{
    struct cd_sock *sock = cd_sock_by_id(ack->sock_id);
    struct cd_buf *b;

    if (!sock || ack->id < 0 || !may_send(sock))
        return;
    b = frame(&reg.sio);
    sock->form->add_ack_ok(b, ack->id, members);
    if (b->failed) { /* a refusal is short, and the buffer may have room for it */
        struct cd_err err;

        cd_fail(&err, CD_E_NO_MEMORY, NULL);
        cd_buf_reset(b);
        sock->form->add_ack_fail(b, ack->id, &err);
    }
    send_frame(sock, b);
    frame_done(b);
}

static void call_error(struct cd_sock *sock, const struct cd_ack *ack, const struct cd_err *err,
                       const char *call_id)
{
    struct cd_buf text;

    cd_buf_init(&text, 4096);
    cd_buf_adds(&text, "{\"event\":");
    cd_buf_add_jsons(&text, ack->event);
    if (call_id) {
        cd_buf_adds(&text, ",\"callId\":");
        cd_buf_add_jsons(&text, call_id);
    }
    cd_json_add_err(&text, err);
    cd_buf_addc(&text, '}');
    cd_sock_emit(sock, "call-error", (struct cd_str){text.p, text.failed ? 0 : text.n});
    cd_buf_done(&text);
}

void cd_ack_fail(const struct cd_ack *ack, const struct cd_err *err, const char *call_id)
{
    struct cd_sock *sock = cd_sock_by_id(ack->sock_id);
    struct cd_buf *b;

    if (!sock || !may_send(sock))
        return;
    if (ack->id < 0) {
        call_error(sock, ack, err, call_id);
        return;
    }
    b = frame(&reg.sio);
    sock->form->add_ack_fail(b, ack->id, err);
    send_frame(sock, b);
    frame_done(b);
}

/* --- coming and going ------------------------------------------------------------------------- */

static void forget(struct cd_sock *sock)
{
    reg.slots[sock->slot].id = 0;
    sock->state = CD_SOCK_APART;
}

static void refuse(struct cd_sock *sock, enum cd_rc rc, const struct cd_err *err)
{
    struct cd_err plain = {.rc = rc};
    struct cd_buf *b = frame(&reg.sio);

    forget(sock);
    if (!err || err->text[0] == '\0') {
        cd_fail(&plain, rc, NULL);
        err = &plain;
    }
    sock->form->add_refused(b, err);
    send_frame(sock, b);
    frame_done(b);
    sock->id = 0;
}

static void accept_sock(struct cd_sock *sock, void *user)
{
    struct cd_buf *b = frame(&reg.sio);

    sock->user = user;
    sock->state = CD_SOCK_JOINED;
    sock->form->accepted(sock);
    sock->counted = true;
    reg.stats.sockets++;
    sock->form->add_connected(b, sock->public_id);
    send_frame(sock, b);
    frame_done(b);
}

void cd_sock_join(struct cd_sock *sock, struct cd_str auth)
{
    struct cd_err err = {.rc = CD_OK};
    void *user = NULL;
    enum cd_rc rc;
    uint64_t id;

    id = ++reg.generation << SLOT_BITS | sock->slot;
    sock->id = reg.slots[sock->slot].id = id;
    sock->user = NULL;
    sock->state = CD_SOCK_PENDING;
    cd_id_base64url(15, sock->public_id, sizeof(sock->public_id));
    rc = reg.ops.on_connect(reg.self, sock, auth, &user, &err);
    if (rc == CD_PENDING || sock->id != id)
        return;
    if (sock->state == CD_SOCK_KICKED)
        sock->user = rc == CD_OK ? user : NULL; /* kicked while being judged: it goes soon */
    else if (rc == CD_OK)
        accept_sock(sock, user);
    else
        refuse(sock, rc, &err);
}

void cd_sock_connected(uint64_t sock_id, enum cd_rc rc, void *user, const struct cd_err *err)
{
    struct cd_sock *sock = cd_sock_by_id(sock_id);

    if (!sock || sock->state != CD_SOCK_PENDING)
        return;
    if (rc == CD_OK)
        accept_sock(sock, user);
    else
        refuse(sock, rc, err);
}

void cd_sock_leave(struct cd_sock *sock)
{
    if (sock->state == CD_SOCK_APART)
        return;
    if (sock->counted)
        reg.stats.sockets--;
    sock->counted = false;
    forget(sock);
    reg.ops.on_disconnect(reg.self, sock->user, sock);
    sock->user = NULL;
    sock->id = 0;
}

void cd_sock_deliver(struct cd_sock *sock, struct cd_str event, struct cd_str payload,
                     int64_t ack_id)
{
    struct cd_ack ack = cd_sock_ack(sock, event, ack_id);

    reg.stats.events_in++;
    reg.ops.on_event(sock->user, sock, event, payload, &ack);
}

void cd_sock_disconnect(struct cd_sock *sock)
{
    if (!may_send(sock))
        return;
    sock->state = CD_SOCK_KICKED;
    sock->form->kick(sock);
}

void cd_sock_close_all(void)
{
    for (uint32_t i = 0; i < reg.slot_used; i++) {
        if (reg.slots[i].sock)
            reg.slots[i].sock->form->close_now(reg.slots[i].sock);
    }
    cd_eio_forget_all();
}

void cd_sock_stats(struct cd_sock_stats *out)
{
    size_t polling, websocket;

    cd_eio_counts(&polling, &websocket);
    *out = reg.stats;
    out->polling = polling;
    out->websocket = websocket + cd_wsjson_count();
}

/* sock.h -- a client's socket: Socket.IO over polling or WebSocket, or plain JSON on /ws.
 * Above it nobody knows which. engineio.c, socketio.c and wsjson.c implement it. */
#ifndef CD_IN_SOCK_H
#define CD_IN_SOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/str.h"

struct cd_loop;
struct cd_http;
struct cd_sock;

#define CD_SOCK_JSON_DEPTH 32 /* nesting of a payload at most; one that goes deeper is not delivered */

/** Where an ack goes; `id < 0`: the client did not ask for one. Copyable: holds no pointers. The
 * socket is named by a generation id so that a late answer to a gone socket resolves to nothing. */
struct cd_ack {
    uint64_t sock_id;
    int64_t id;
    char event[32]; /* the event being answered, for call-error */
};

struct cd_sock_ops {
    /** CONNECT arrived. @param auth  the raw JSON object sent with it ("{}" when none).
     * @return CD_OK with *out_user set: accepted; CD_PENDING: call cd_sock_connected() later;
     * else refused with CONNECT_ERROR from @p err */
    enum cd_rc (*on_connect)(void *self, struct cd_sock *sock, struct cd_str auth, void **out_user,
                             struct cd_err *err);
    /** An event. @param payload  first argument, validated raw JSON ("{}" when none);
     * slices are valid for the call only. Answer with cd_ack_*(). */
    void (*on_event)(void *user, struct cd_sock *sock, struct cd_str event, struct cd_str payload,
                     const struct cd_ack *ack);
    /** Gone, once, for accepted sockets and for pending ones (user is then NULL: cancel by its id).
     * The id resolves to nothing already. Never called from within cd_sock_emit*, cd_ack_* or
     * cd_sock_disconnect: those close a moment later, so that callers may walk their lists. */
    void (*on_disconnect)(void *self, void *user, struct cd_sock *sock);
};

struct cd_sock_conf {
    unsigned ping_interval_ms; /* 25000 */
    unsigned ping_timeout_ms;  /* 20000 */
    size_t max_payload;        /* 1000000 is Socket.IO's; ours 262144 */
    unsigned connect_timeout_ms; /* CONNECT must come within, 45000 */
    size_t queue_messages, queue_bytes;
    unsigned max_sessions;     /* Engine.IO sessions and /ws connections in all */
};

/** Install polling routes (/socket.io/, GET POST OPTIONS) and the WebSocket endpoint
 * (/socket.io/ and /ws). Before cd_loop_new for the ws part: call cd_sock_setup first, then
 * cd_sock_add_routes when the HTTP server exists. */
void cd_sock_setup(const struct cd_sock_ops *ops, void *self, const struct cd_sock_conf *conf);
enum cd_rc cd_sock_add_routes(struct cd_loop *loop, struct cd_http *http);
/** Finish a pending CONNECT. @param rc  CD_OK with @p user, else the refusal. */
void cd_sock_connected(uint64_t sock_id, enum cd_rc rc, void *user, const struct cd_err *err);

uint64_t cd_sock_id(const struct cd_sock *sock);       /* generation id, never 0, never reused */
struct cd_sock *cd_sock_by_id(uint64_t id);            /* NULL: gone */
void *cd_sock_user(const struct cd_sock *sock);
const char *cd_sock_client_ip(const struct cd_sock *sock);
const char *cd_sock_public_id(const struct cd_sock *sock); /* for logs; not the bearer sid */

/** Send an event. @param payload  one JSON value, already serialised. For Socket.IO
 * 42["event",payload]; for /ws {"type":"event",...payload members}. @return false: closing */
bool cd_sock_emit(struct cd_sock *sock, const char *event, struct cd_str payload);
/** As cd_sock_emit for many sockets: frames each form once. */
void cd_sock_emit_many(struct cd_sock *const *socks, size_t n, const char *event,
                       struct cd_str payload);
/** {ok: true, ...members}. @param members  JSON object text or "" */
void cd_ack_ok(const struct cd_ack *ack, struct cd_str members);
/** {ok: false, errcode, error}; without an ack id a call-error {event, callId, errcode, error}. */
void cd_ack_fail(const struct cd_ack *ack, const struct cd_err *err, const char *call_id);
/** Server kick: Socket.IO DISCONNECT, then close. */
void cd_sock_disconnect(struct cd_sock *sock);
/** To every socket: server-restarting and the like. */
void cd_sock_broadcast(const char *event, struct cd_str payload);
/** Shutdown: close everything at once, on_disconnect included. Before cd_http_drain and before the
 * loop goes; not from within a callback of cd_sock_ops. */
void cd_sock_close_all(void);

struct cd_sock_stats {
    size_t sessions, sockets, polling, websocket;
    uint64_t events_in, events_out, closed_slow;
};
void cd_sock_stats(struct cd_sock_stats *out);

#endif

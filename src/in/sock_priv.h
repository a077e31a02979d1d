/* sock_priv.h -- what the files behind sock.h share: the socket registry, and the two forms
 * (Socket.IO, plain JSON) that a socket can have. For src/in/ alone. */
#ifndef CD_IN_SOCK_PRIV_H
#define CD_IN_SOCK_PRIV_H

#include "base/buf.h"
#include "in/sock.h"
#include "in/ws.h"

#define CD_SOCK_ID_CHARS 20 /* 15 random bytes as base64url */
#define CD_SOCK_IP_SIZE 46  /* INET6_ADDRSTRLEN */
#define CD_SOCK_FRAME_MAX (4u << 20)

struct cd_sock_form;

enum cd_sock_state {
    CD_SOCK_APART,   /* connected, but CONNECT was not accepted (yet, or any more) */
    CD_SOCK_PENDING, /* being judged */
    CD_SOCK_JOINED,
    CD_SOCK_KICKED /* DISCONNECT was sent; on_disconnect follows */
};

/** Embedded in what carries it: one Socket.IO session or one /ws connection. */
struct cd_sock {
    uint64_t id; /* 0 while APART */
    void *user;
    const struct cd_sock_form *form;
    enum cd_sock_state state;
    uint32_t slot; /* in the registry, as long as the connection lives */
    bool counted;  /* in the number of sockets */
    char public_id[CD_SOCK_ID_CHARS + 1];
    char client_ip[CD_SOCK_IP_SIZE];
};

/** How a form writes and sends. The add_ functions append one whole frame. */
struct cd_sock_form {
    void (*add_event)(struct cd_buf *b, const char *event, struct cd_str payload);
    void (*add_ack_ok)(struct cd_buf *b, int64_t id, struct cd_str members);
    void (*add_ack_fail)(struct cd_buf *b, int64_t id, const struct cd_err *err);
    void (*add_connected)(struct cd_buf *b, const char *sid);
    void (*add_refused)(struct cd_buf *b, const struct cd_err *err);
    /** @return false: the connection is closing */
    bool (*send)(struct cd_sock *sock, struct cd_str frame);
    void (*accepted)(struct cd_sock *sock); /* stop the connect timer */
    void (*kick)(struct cd_sock *sock);     /* say so and close soon, outside this call stack */
    void (*drop)(struct cd_sock *sock);     /* close soon and say nothing: the client is to come back */
    void (*close_now)(struct cd_sock *sock); /* shutdown; frees the carrier of a session */
};

extern const struct cd_sock_form cd_sio_form;    /* socketio.c */
extern const struct cd_sock_form cd_wsjson_form; /* wsjson.c */

/* --- registry (sock.c) ------------------------------------------------------------------------ */
void cd_sock_registry_setup(const struct cd_sock_ops *ops, void *self,
                            const struct cd_sock_conf *conf);
void cd_sock_registry_set_loop(struct cd_loop *loop);
struct cd_loop *cd_sock_loop(void);
const struct cd_sock_conf *cd_sock_settings(void);
/** A connection comes (false: the cap is reached) or goes; both forms count. */
bool cd_sock_admit(struct cd_sock *sock, const struct cd_sock_form *form, const char *client_ip);
void cd_sock_release(struct cd_sock *sock);
/** CONNECT arrived: number the socket, ask on_connect, answer. The socket must be APART. */
void cd_sock_join(struct cd_sock *sock, struct cd_str auth);
/** The client left, or its connection did: on_disconnect where due; the socket is APART again. */
void cd_sock_leave(struct cd_sock *sock);
/** Hand an event up. @param ack_id  -1: none wanted */
void cd_sock_deliver(struct cd_sock *sock, struct cd_str event, struct cd_str payload,
                     int64_t ack_id);
/** Fill in the answer's address. */
struct cd_ack cd_sock_ack(const struct cd_sock *sock, struct cd_str event, int64_t id);
void cd_sock_count_slow(void);

/* --- the WebSocket endpoint: who serves a connection is decided on its path ------------------- */
/** First member of whatever an on_open below returns. */
struct cd_ws_peer {
    const struct cd_ws_ops *ops;
};

/** Both judge the handshake as cd_ws_ops.on_open does. @param query  raw, without '?' */
void *cd_eio_ws_open(struct cd_ws *ws, const struct cd_ws_hello *hello, struct cd_str query,
                     int *status, char *why, size_t why_size);
void *cd_wsjson_open(struct cd_ws *ws, const struct cd_ws_hello *hello, int *status, char *why,
                     size_t why_size);
/** Connections of /ws now. */
size_t cd_wsjson_count(void);

#endif

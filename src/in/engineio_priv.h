/* engineio_priv.h -- an Engine.IO session from the inside: shared by its core (engineio.c) and its
 * two carriers (engineio_poll.c, engineio_ws.c), and by nobody else. */
#ifndef CD_IN_ENGINEIO_PRIV_H
#define CD_IN_ENGINEIO_PRIV_H

#include "base/buf.h"
#include "base/map.h"
#include "in/engineio.h"
#include "in/http.h"
#include "in/sock_priv.h"
#include "in/ws.h"
#include "loop/loop.h"

#define CD_EIO_SID_LEN 20            /* 15 random bytes as base64url: a bearer secret */
#define CD_EIO_UPGRADE_MS 10000      /* a probing WebSocket must finish within */
#define CD_EIO_NOOP_MS 100           /* polls are let go this often while a client upgrades */
#define CD_EIO_LAST_POLL_MS 30000    /* a closed polling session waits for its last poll */
#define CD_EIO_CLIENT_CLOSE_MS 100   /* the same after a "1" of the client's own */

enum cd_eio_state {
    CD_EIO_OPEN,
    CD_EIO_CLOSING, /* cd_eio_close was called; the timer does it */
    CD_EIO_LAST,    /* closed for the layer above; the last poll gets what is queued */
    CD_EIO_DEAD     /* out of the map; freed when `busy` allows */
};

/** Error answers of Engine.IO, by code. */
enum cd_eio_fault {
    CD_EIO_TRANSPORT_UNKNOWN = 0,
    CD_EIO_SID_UNKNOWN = 1,
    CD_EIO_BAD_METHOD = 2,
    CD_EIO_BAD_REQUEST = 3,
    CD_EIO_FORBIDDEN = 4,
    CD_EIO_BAD_VERSION = 5,
    CD_EIO_NO_FAULT
};

enum cd_eio_verdict {
    CD_EIO_FINE,
    CD_EIO_CLIENT_CLOSED, /* a "1" packet */
    CD_EIO_BROKEN         /* not the protocol */
};

struct cd_eio_ws;

struct cd_eio {
    char sid[CD_EIO_SID_LEN + 1];
    enum cd_eio_state state;
    unsigned busy;     /* packets of it are being handled further up the stack */
    bool waiting_pong; /* a ping is out */
    bool extended;     /* and was given more time once, because other packets came */
    void *up;
    struct cd_req *poll;     /* the parked GET */
    struct cd_eio_ws *ws;    /* the carrier, once it is a WebSocket */
    struct cd_eio_ws *probe; /* a WebSocket that wants to become it */
    struct cd_buf out;       /* polling: packets waiting, joined by 0x1e */
    size_t out_count;
    struct cd_timer timer; /* heartbeat; closing */
};

enum cd_eio_ws_state {
    CD_EIO_WS_FRESH, /* opens a session of its own */
    CD_EIO_WS_PROBE, /* named a session; "2probe" is awaited */
    CD_EIO_WS_PROBED,
    CD_EIO_WS_CARRIER,
    CD_EIO_WS_DOOMED /* belongs to no session (any more) */
};

struct cd_eio_ws {
    struct cd_ws_peer peer; /* first: the endpoint looks here */
    struct cd_ws *ws;
    struct cd_eio *session;
    enum cd_eio_ws_state state;
    bool noop_used;        /* the first poll after the probe was let go at once */
    int64_t deadline_ms;   /* monotonic */
    struct cd_timer timer; /* probing only */
};

/** What a request is judged on; decoded query values, NULL when absent. */
struct cd_eio_hello {
    const char *transport, *sid, *eio, *origin;
    bool get;       /* the method is GET */
    bool websocket; /* it is a WebSocket handshake */
};

struct cd_eio_server {
    struct cd_loop *loop;
    const struct cd_eio_ops *ops;
    struct cd_sock_conf conf;
    struct cd_map sessions; /* by sid */
    size_t websocket;       /* sessions that a WebSocket carries */
};

struct cd_eio_server *cd_eio_server(void);

/* --- core (engineio.c) ------------------------------------------------------------------------ */
/** @return NULL: refused (cap or memory) */
struct cd_eio *cd_eio_new(const char *client_ip);
/** Write the handshake packet and begin the heartbeat. */
void cd_eio_start(struct cd_eio *s, struct cd_buf *b, bool websocket);
/** Handle one packet. The caller holds `busy` and calls cd_eio_done afterwards. */
enum cd_eio_verdict cd_eio_packet(struct cd_eio *s, struct cd_str packet);
/** The same for a binary frame. */
enum cd_eio_verdict cd_eio_binary(struct cd_eio *s);
/** Give `busy` back; a session that died meanwhile is freed. */
void cd_eio_done(struct cd_eio *s);
/** End a session at once: whoever waits on it is answered, nobody is waited for.
 * @param code  what its WebSocket is closed with; 1002: the peer broke the protocol */
void cd_eio_end(struct cd_eio *s, uint16_t code);
/** Empty the queue and give its memory back: an idle session keeps none. */
void cd_eio_queue_done(struct cd_eio *s);
/** The client said "1" by polling. */
void cd_eio_client_closed(struct cd_eio *s);
const char *cd_eio_fault_text(enum cd_eio_fault fault);
/** Judge a request, in engine.io's order of checks.
 * @return CD_EIO_NO_FAULT with *out the session (NULL: none was named); else the error code */
enum cd_eio_fault cd_eio_judge(const struct cd_eio_hello *hello, struct cd_eio **out);

/* --- polling (engineio_poll.c) ---------------------------------------------------------------- */
/** Answer the parked GET. */
void cd_eio_poll_reply(struct cd_eio *s, struct cd_str payload);

/* --- WebSocket (engineio_ws.c) ---------------------------------------------------------------- */
/** Let go of a WebSocket: it closes, and the session no longer hears of it. NULL is allowed. */
void cd_eio_ws_drop(struct cd_eio_ws *w, uint16_t code);
/** A GET arrived while @p w probes: should it be let go? False: it may wait. */
bool cd_eio_ws_frees_poll(struct cd_eio_ws *w);

#endif

/* ws.h -- WebSocket connections, whole messages in and out. A seam: nothing above it knows
 * libwebsockets (ws.c), and its test suite neither. */
#ifndef CD_IN_WS_H
#define CD_IN_WS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/str.h"

struct cd_loop;
struct cd_ws;

struct cd_ws_hello {
    const char *target;    /* request target without the path prefix: path and query, raw */
    const char *client_ip; /* after trusted proxies */
    const char *origin;    /* may be NULL */
};

/** One endpoint: callbacks of all that speaks WebSocket. @p user is what on_open returned. */
struct cd_ws_ops {
    /** Judge the handshake. @return the connection's user pointer, or NULL to refuse with
     * @p status (400, 403, 404, 503...) and the short text @p why; a text that begins with '{' is
     * sent as the JSON body as it is */
    void *(*on_open)(void *self, struct cd_ws *ws, const struct cd_ws_hello *hello, int *status,
                     char *why, size_t why_size);
    /** The 101 is out: sending is allowed from here on. */
    void (*on_ready)(void *user);
    /** A whole message, UTF-8 checked; @p text is writable, NUL-terminated, valid for the call. */
    void (*on_text)(void *user, char *text, size_t n);
    void (*on_binary)(void *user, const void *p, size_t n);
    /** Gone; ws is invalid afterwards. Called exactly once after on_open returned non-NULL. */
    void (*on_close)(void *user);
    /** The answer to a cd_ws_ping() arrived; may be NULL. */
    void (*on_pong)(void *user);
};

struct cd_ws_conf {
    size_t max_message;    /* bytes; longer: close 1009 */
    size_t queue_messages; /* slow reader: beyond either cap the connection is closed, 1008 */
    size_t queue_bytes;
};

/** Install the endpoint for all WebSocket connections; before cd_loop_new. */
void cd_ws_setup(const struct cd_ws_ops *ops, void *self, const struct cd_ws_conf *conf);
void cd_ws_set_proxy(const char *path_prefix, const char *trust_proxy);
/** Web origins that may open sockets: "*" or an exact list; others get 403. */
void cd_ws_set_origins(const char *cors_origins);
/** The Sec-WebSocket-Accept value (RFC 6455, 4.2.2) for a key. @return false: does not fit */
bool cd_ws_accept_key(const char *key, char *out, size_t out_size);
/** Adopt a connection whose request head is still unread. The fd is owned from here on. */
void cd_ws_adopt(struct cd_loop *loop, int fd, const char *peer_ip);
/** As cd_ws_adopt, for bridge.c: address and connection count were settled before.
 * @param client_ip  the client's */
void cd_ws_adopt_bridged(struct cd_loop *loop, int fd, const char *client_ip);

/** Send one text message: written at once when nothing waits, queued otherwise.
 * Safe from any callback on the loop. @return false when the connection is closing */
bool cd_ws_send(struct cd_ws *ws, const char *text, size_t n);
bool cd_ws_send_binary(struct cd_ws *ws, const void *p, size_t n);
/** Ask the peer's WebSocket whether it is there (RFC 6455, 5.5.2): browsers answer by themselves.
 * Takes its turn behind what is queued. @return false when the connection is closing */
bool cd_ws_ping(struct cd_ws *ws);
size_t cd_ws_queued(const struct cd_ws *ws); /* bytes waiting */
/** Send what is queued, then close with @p code. on_close follows later. */
void cd_ws_close(struct cd_ws *ws, uint16_t code, const char *reason);
/** Close all connections (shutdown): 1001. */
void cd_ws_close_all(void);
size_t cd_ws_count(void);
/** The memory budget is used up: close the connection with the largest queue, 1013.
 * @param above  only one with more bytes than these. @return bytes freed, 0: there is none */
size_t cd_ws_close_largest(size_t above);

#endif

/* engineio.h -- Engine.IO 4 sessions: one stream of messages each, carried by HTTP long polling, by
 * a WebSocket, or by the one and then the other. What the messages mean is socketio.c's business. */
#ifndef CD_IN_ENGINEIO_H
#define CD_IN_ENGINEIO_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "base/str.h"
#include "in/sock.h"

struct cd_eio;

/** What a session tells the layer above. */
struct cd_eio_ops {
    /** @return the layer's own object, or NULL to refuse the handshake with 503 */
    void *(*on_open)(struct cd_eio *session, const char *client_ip);
    /** One message. @return false: it breaks the protocol, close the session */
    bool (*on_text)(void *up, struct cd_str text);
    bool (*on_binary)(void *up);
    /** Gone: the last call with @p up. */
    void (*on_close)(void *up);
};

/** @param ops   must outlive the sessions; @param conf  copied */
void cd_eio_setup(const struct cd_eio_ops *ops, const struct cd_sock_conf *conf);
/** Install /socket.io/ and /socket.io. @return CD_OK or what cd_http_add_routes returned */
enum cd_rc cd_eio_add_routes(struct cd_loop *loop, struct cd_http *http);

/** Send a packet, written out with its type ("4..."). Copied. @return false: closing */
bool cd_eio_send(struct cd_eio *session, struct cd_str packet);
/** Close in a moment, outside this call stack; sends nothing more than what is queued. */
void cd_eio_close(struct cd_eio *session);
/** Close at once (shutdown). The session is gone afterwards. */
void cd_eio_close_now(struct cd_eio *session);
/** Shutdown: drop what still waits for a last poll. */
void cd_eio_forget_all(void);
void cd_eio_counts(size_t *polling, size_t *websocket);
/** The largest queue of a polling session [bytes]; that of a WebSocket is the connection's own. */
size_t cd_eio_largest(void);
/** Close that session; nothing of its queue is kept. @return bytes freed */
size_t cd_eio_close_largest(void);

#endif

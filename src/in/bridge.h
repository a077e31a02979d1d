/* bridge.h -- carries a WebSocket that arrived on a connection libmicrohttpd owns over to the
 * WebSocket side, through a socketpair. */
#ifndef CD_IN_BRIDGE_H
#define CD_IN_BRIDGE_H

#include <stddef.h>

#include "base/str.h"

struct cd_loop;
struct cd_bridge;

/** Start pumping. The client has been sent its 101; the one that the WebSocket side writes is cut off.
 * @param fd       the client's socket, non-blocking; stays the caller's, valid until @p closed
 * @param head     the handshake request, rebuilt
 * @param extra    bytes the client sent after its handshake
 * @param closed   called once, later, when either side has ended
 * @return NULL when it could not start (@p closed is not called) */
struct cd_bridge *cd_bridge_start(struct cd_loop *loop, int fd, struct cd_str head,
                                  struct cd_str extra, const char *peer_ip,
                                  void (*closed)(void *arg), void *arg);
/** End it now; @p closed is called inside. */
void cd_bridge_close(struct cd_bridge *b);

#endif

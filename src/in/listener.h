/* listener.h -- the listening sockets: accept, peek at the request line, hand the connection to
 * HTTP or to WebSockets. One public port carries REST, Engine.IO polling and WebSockets. */
#ifndef CD_IN_LISTENER_H
#define CD_IN_LISTENER_H

#include "base/err.h"
#include "in/http.h"

struct cd_listener;

/** @param address  "127.0.0.1:3000", "[::1]:3000", "unix:/path" or an absolute path (mode 0660).
 * Port 0 picks a free one. @return NULL on failure with @p err filled (address and reason) */
struct cd_listener *cd_listener_open(struct cd_loop *loop, struct cd_http *http, const char *address,
                                     enum cd_role role, const char *path_prefix, struct cd_err *err);
/** The address really bound, for the log and port 0. */
const char *cd_listener_address(const struct cd_listener *l);
/** Stop accepting and close (unix socket files are removed). NULL is allowed. */
void cd_listener_close(struct cd_listener *l);

#endif

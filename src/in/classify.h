/* classify.h -- whom a fresh connection belongs to, by its first bytes. Pure. */
#ifndef CD_IN_CLASSIFY_H
#define CD_IN_CLASSIFY_H

#include <stdbool.h>

#include "base/str.h"

#define CD_CLASSIFY_BYTES 2048 /* a request target must end within these */

enum cd_class {
    CD_CLASS_MORE,  /* cannot tell yet */
    CD_CLASS_HTTP,
    CD_CLASS_WS,
    CD_CLASS_CLOSE  /* a TLS hello: nobody here speaks it */
};

/** @param head    what has arrived, at most CD_CLASSIFY_BYTES of it
 * @param prefix  the path prefix, "" for none; paths without it are taken too */
enum cd_class cd_classify(struct cd_str head, const char *prefix);
/** Is this a WebSocket endpoint: /ws, or /socket.io/ with transport=websocket?
 * @param target  path and query, without prefix */
bool cd_is_ws_target(struct cd_str target);
/** RFC 9110, 5.1: a token, at least one character. */
bool cd_is_header_name(struct cd_str name);
/** What libmicrohttpd would answer by a page of its own: a line without a name, or a Content-Length that is no number.
 * @param head  a request's first bytes. @return NULL: there is no such thing in it; else a sentence that says which */
const char *cd_head_fault(struct cd_str head);
/** @p target without @p prefix: unchanged when it does not start with it. */
struct cd_str cd_strip_prefix(struct cd_str target, const char *prefix);

#endif

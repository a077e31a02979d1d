/* http_raw.h -- answers written straight to a socket, where libmicrohttpd cannot: before it owns
 * the connection, and in the middle of a body. */
#ifndef CD_IN_HTTP_RAW_H
#define CD_IN_HTTP_RAW_H

#include "base/buf.h"
#include "base/err.h"
#include "base/str.h"

struct cd_loop;

/** Append a whole HTTP/1.1 answer with the error's JSON, "Connection: close" and CORS headers.
 * @param allow_origin  value for Access-Control-Allow-Origin, NULL: none
 * @param request_id    may be NULL */
void cd_http_raw_error(struct cd_buf *b, const struct cd_err *err, int status,
                       const char *allow_origin, const char *request_id);
/** The same with a JSON text of the caller's. @param retry_after_ms  0: no such header */
void cd_http_raw_json(struct cd_buf *b, int status, struct cd_str json, const char *allow_origin,
                      const char *request_id, long retry_after_ms);
/** Send as much as the socket takes now; an answer this short always fits. */
void cd_http_raw_send(int fd, const struct cd_buf *b);
/** Refuse a connection that is about to be closed: answer, end our direction, and let a copy of the
 * descriptor linger, so that unread bytes do not reset the connection under the answer.
 * @param fd       stays the caller's, to be closed
 * @param origins  server.cors_origins; @param origin  the request's, may be NULL
 * @param why      a sentence, "" for the default, or JSON beginning with '{' */
void cd_http_raw_refuse(struct cd_loop *loop, int fd, const char *origins, const char *origin,
                        int status, const char *why);

#endif

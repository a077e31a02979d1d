/* cors.h -- which web origins may read answers and open sockets (server.cors_origins). */
#ifndef CD_IN_CORS_H
#define CD_IN_CORS_H

#include <stdbool.h>

#define CD_CORS_METHODS "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
#define CD_CORS_HEADERS \
    "Authorization, Content-Type, Idempotency-Key, X-Request-ID, X-Requested-With"
#define CD_CORS_EXPOSED "X-Request-ID, Retry-After, Allow"
#define CD_CORS_MAX_AGE_S "86400"

/** Is every origin welcome? @param origins  the setting: "*" or a list */
bool cd_cors_any(const char *origins);
/** @param origin  the Origin header; NULL: no browser, allowed
 * @return true when the list holds exactly this origin, or all are welcome */
bool cd_cors_allows(const char *origins, const char *origin);

#endif

/* http.h -- HTTP requests as the rest of the daemon sees them. libmicrohttpd lives in http.c. */
#ifndef CD_IN_HTTP_H
#define CD_IN_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/str.h"

struct cd_loop;
struct cd_http;
struct cd_req;

enum cd_role { CD_ROLE_PUBLIC = 1, CD_ROLE_APPSERVICE = 2, CD_ROLE_CONTROL = 4 };

enum cd_auth {
    CD_AUTH_NONE,
    CD_AUTH_USER,  /* Matrix access token or session token: cd_req_user() is set */
    CD_AUTH_ADMIN, /* admin.users, admin.token_file, or any peer of the control socket */
    CD_AUTH_HS     /* the homeserver's hs_token */
};

#define CD_PATH_PARAMS 4

/** One row a route. Paths: literal segments, `:name` takes one decoded segment, a last `*name`
 * takes the (decoded) rest. Tables end in an all-zero row. */
struct cd_route {
    unsigned roles; /* CD_ROLE_* bits; 404 elsewhere */
    const char *method;
    const char *path;
    enum cd_auth auth;
    size_t max_body; /* bytes; 0: the listener's cap */
    /** Body is complete. Reply with cd_req_reply*() and return CD_OK; or cd_req_park() and return
     * CD_PENDING; any other code is turned into the error answer (cd_req_err() holds the text). */
    enum cd_rc (*handle)(void *self, struct cd_req *req);
    const char *help;
};

/* --- what handlers use ----------------------------------------------------------------------- */
enum cd_role cd_req_role(const struct cd_req *req);
const char *cd_req_method(const struct cd_req *req);
const char *cd_req_id(const struct cd_req *req);         /* X-Request-ID, echoed or made */
const char *cd_req_path(const struct cd_req *req);       /* raw, without query and prefix */
const char *cd_req_param(const struct cd_req *req, unsigned i); /* i-th path parameter, decoded */
/** Query value, decoded, NULL when absent (or, then cd_req_starved, out of memory). Owned by the request. */
const char *cd_req_query(struct cd_req *req, const char *name);
/** Was there no memory for a query value? Then what looks absent may not be. */
bool cd_req_starved(const struct cd_req *req);
const char *cd_req_header(struct cd_req *req, const char *name); /* NULL when absent */
struct cd_str cd_req_body(const struct cd_req *req);
const char *cd_req_client_ip(const struct cd_req *req);  /* behind a trusted proxy: the client's */
struct cd_err *cd_req_err(struct cd_req *req);           /* fill with cd_fail() */
/** The authenticated principal; set by the auth hook. NULL for CD_AUTH_NONE. */
struct cd_principal;
struct cd_principal *cd_req_principal(const struct cd_req *req);
/** Takes its own reference. */
void cd_req_set_principal(struct cd_req *req, struct cd_principal *p);

/** Park: the connection is suspended until cd_req_reply*(). The request stays valid until then,
 * also when the client leaves. @param timeout_ms  answers 503 OVERLOADED by itself then, after
 * calling cancel(arg) (0: never; cancel may be NULL). cancel is also called when the client leaves,
 * if @p watch_peer; the request is then answered (and gone) right after cancel returns. */
void cd_req_park(struct cd_req *req, int64_t timeout_ms, bool watch_peer, void (*cancel)(void *arg),
                 void *arg);
/** Add a header to the answer. At most 16, copied. */
void cd_req_add_header(struct cd_req *req, const char *name, const char *value);
/** Answer, parked or not. @param body  copied. @return false out of memory: the answer is a 503 that says so */
bool cd_req_reply(struct cd_req *req, int status, const char *content_type, struct cd_str body);
/** Answer with JSON and take the buffer's memory; a failed buffer becomes 500. */
void cd_req_reply_json(struct cd_req *req, int status, struct cd_buf *body_steal);
/** Answer with an error from the table. */
void cd_req_fail(struct cd_req *req, const struct cd_err *err);

/* --- wiring ----------------------------------------------------------------------------------- */
struct cd_http_conf {
    const char *path_prefix;  /* "" or "/calld": stripped before routing */
    const char *cors_origins; /* "*", or space separated exact origins */
    const char *trust_proxy;  /* "", "true", or CIDR list */
    size_t header_bytes;      /* connection memory for request line and headers, 16384 */
    unsigned max_connections;
    unsigned per_ip;          /* public connections an address, 0: no limit */
    int64_t head_ms;          /* a request's head must be complete by then; 0: 20 s */
    int64_t body_ms;          /* its body, but for a second each 4 KiB; 0: 30 s */
    unsigned per_second;      /* public requests a second and address, 0: no limit */
    size_t body_bytes;        /* bodies held at once by all requests, 0: no limit; beyond it 503 */
};

/** Judge a request on its headers. @return CD_OK; CD_PENDING after cd_req_park-like waiting: call
 * cd_req_auth_done() later; else refused with cd_req_err() */
typedef enum cd_rc (*cd_auth_fn)(void *self, struct cd_req *req, enum cd_auth kind);
void cd_req_auth_done(struct cd_req *req, enum cd_rc rc);

struct cd_http *cd_http_new(struct cd_loop *loop, const struct cd_http_conf *conf);
/** Take over origins, trusted proxies, connections an address and the body budget (SIGHUP); the
 * rest of @p conf stays as it was at the start. */
void cd_http_reload(struct cd_http *http, const struct cd_http_conf *conf);
/** Public requests a second and address (SIGHUP); 0: no limit. */
void cd_http_set_rate(struct cd_http *http, unsigned per_second);
void cd_http_set_auth(struct cd_http *http, cd_auth_fn fn, void *self);
/** Add a table of routes. @param routes  must outlive the server. @return CD_OK or CD_E_INTERNAL
 * (same method and path twice) */
enum cd_rc cd_http_add_routes(struct cd_http *http, const struct cd_route *routes, void *self);
/** Answer everything parked with 503, close idle connections, refuse new ones. */
void cd_http_drain(struct cd_http *http);
/** True when no request is being served. */
bool cd_http_idle(const struct cd_http *http);
void cd_http_free(struct cd_http *http);
/** How long a connection may take for its first line, which says what it is: half of head_ms. */
int64_t cd_http_line_ms(const struct cd_http *http);

/** Hand an accepted connection over (listener.c). The fd is owned from here on, also on failure. */
void cd_http_adopt(struct cd_http *http, int fd, enum cd_role role, const struct sockaddr *addr,
                   socklen_t addr_len);

/** Refuse a connection of which nothing was read yet. @param fd  closed @param text  one sentence */
void cd_http_turn_away(struct cd_http *http, int fd, int status, const char *text);

struct cd_http_stats {
    uint64_t requests, refused, limited, too_slow, parked_now, connections_now, bytes_in;
    uint64_t by_status[6]; /* index 1..5: 1xx..5xx */
};
void cd_http_stats(const struct cd_http *http, struct cd_http_stats *out);

#endif

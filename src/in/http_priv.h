/* http_priv.h -- a request as http.c (its life) and req.c (its face to handlers) share it. */
#ifndef CD_IN_HTTP_PRIV_H
#define CD_IN_HTTP_PRIV_H

#include "in/http.h"
#include "in/proxy.h"
#include "in/router.h"
#include "loop/loop.h"

#define CD_HTTP_DAEMONS 3 /* one a role */
#define CD_REQ_HEADERS 16
#define CD_REQ_QUERIES 32
#define CD_REQ_ID_LEN 64

struct MHD_Connection;
struct http_daemon;
struct http_upgrade;

/* A connection of libmicrohttpd's. */
struct http_conn {
    struct cd_http *http;
    struct http_daemon *daemon;
    struct http_conn *prev, *next;
    struct cd_timer head_timer; /* a request head must be whole by then */
    int fd;
    bool busy;                  /* a request is being read or served */
    bool resting;               /* between requests */
    bool trusted;               /* the peer is a proxy that may name its client */
    char peer_ip[CD_IP_LEN];
    char counted_ip[CD_IP_LEN]; /* what cd_peers_take() counted; "" : nothing */
};

struct cd_http {
    struct cd_loop *loop;
    char *prefix;
    char *cors_origins;
    size_t header_bytes;
    unsigned max_connections;
    struct cd_proxy proxy;
    struct cd_router *router;
    cd_auth_fn auth;
    void *auth_self;
    struct http_daemon *daemons[CD_HTTP_DAEMONS];
    struct cd_req *reqs;
    struct http_conn *conns;
    struct http_upgrade *upgrades;
    size_t body_budget; /* bytes of bodies held at once, 0: no limit */
    size_t body_used;
    struct cd_rate *rate; /* requests by address */
    unsigned per_second;
    int64_t head_ms, body_ms; /* deadlines */
    struct cd_timer sweep; /* armed while bodies are being read */
    bool draining;
    bool adopt_counted; /* the connection being handed over was counted by its address */
    struct cd_http_stats stats;
};

enum req_stage {
    REQ_HEAD,  /* only the head has been read */
    REQ_AUTH,  /* suspended until cd_req_auth_done() */
    REQ_BODY,  /* collecting the body */
    REQ_SERVE  /* the handler has run */
};

struct req_pair {
    char *name;
    char *value;
};

struct cd_req {
    struct cd_http *http;
    struct http_daemon *daemon;
    struct http_conn *conn;
    struct MHD_Connection *mc;
    struct cd_req *prev, *next; /* all requests of the server */
    enum req_stage stage;
    enum cd_role role;
    int64_t started_us;

    char *uri;          /* as the client sent it, without scheme and authority */
    struct cd_str path; /* within uri: no prefix, no query */
    const char *query;  /* within uri; "" when none */
    char *path_text;    /* the path, NUL-terminated */
    char method[16];
    char id[CD_REQ_ID_LEN + 1];
    char client_ip[CD_IP_LEN];
    bool has_body;      /* a body is announced */
    bool needs_host;    /* HTTP/1.1 */
    bool late;          /* its body was given up */
    int64_t body_us;    /* when the body was begun */
    struct cd_match match;
    struct req_pair queries[CD_REQ_QUERIES];
    unsigned query_n;

    struct cd_buf body;
    size_t body_cap;   /* bytes */
    size_t reserved;   /* bytes taken out of the budget of all bodies */

    struct cd_principal *principal;
    struct cd_err err;
    enum cd_rc auth_rc;
    bool auth_done;

    bool suspended; /* libmicrohttpd holds the connection still */
    bool parked;    /* cd_req_park() was called and nothing has answered yet */
    struct cd_timer timer;
    struct cd_io *watch;
    void (*cancel)(void *arg);
    void *cancel_arg;

    bool answered, queued, closing;
    bool starved; /* a parameter could not be read for want of memory */
    int status;
    char content_type[96];
    char *answer; /* malloc'ed; NULL when answered: there was no memory for it */
    size_t answer_n;
    struct req_pair headers[CD_REQ_HEADERS];
    unsigned header_n;
};

/** http_judge.c: a connection's record; NULL: out of memory, its requests are not served. */
struct http_conn *cd_http_conn_new(struct cd_http *http, struct http_daemon *d, int fd,
                                   const struct sockaddr *addr);
void cd_http_conn_free(struct http_conn *conn);
/** http_slow.c: a request head must be complete within head_ms, also when one is awaited already. */
void cd_http_conn_expect_head(struct http_conn *conn);
/** http_slow.c: a request is over; the next one's line must be there before long, however it drips.
 * @param idle_s  after which libmicrohttpd closes a silent connection */
void cd_http_conn_rest(struct http_conn *conn, unsigned idle_s);
/** http_slow.c: a body begins: it must not be too slow. */
void cd_http_expect_body(struct cd_req *req);

/** http.c: the libmicrohttpd of one role. @param idle_s  seconds without traffic */
struct http_daemon *cd_http_daemon_new(struct cd_http *http, enum cd_role role, unsigned idle_s);
void cd_http_daemon_free(struct http_daemon *d); /* nothing may be suspended or upgraded */
void cd_http_daemon_add(struct http_daemon *d, int fd, const struct sockaddr *addr,
                        socklen_t addr_len);
/** http.c: pump it soon, once, outside the present call stack. */
void cd_http_touch(struct http_daemon *d);
/** http.c: close all bridges and let every connection take its last steps now. */
void cd_http_flush(struct cd_http *http);

/** http.c: an answer stands in the request; let the connection go on. */
void cd_http_answered(struct cd_req *req);
/** http.c: watch the connection of a parked request for its peer's leaving. */
void cd_http_watch(struct cd_req *req);
const char *cd_http_header(const struct cd_req *req, const char *name);


enum http_verdict {
    HTTP_READ_BODY, /* go on */
    HTTP_WAIT,      /* the auth hook answers later */
    HTTP_REFUSED,   /* an answer stands in the request */
    HTTP_UPGRADE    /* a WebSocket handshake for the bridge */
};
/** http_judge.c: decide on the head alone. Fills path, id, address, match, body cap. */
enum http_verdict cd_http_judge(struct cd_req *req);
/** http_judge.c: after the auth hook. */
enum http_verdict cd_http_judge_auth(struct cd_req *req, enum cd_rc rc);
/** http_judge.c: add a piece of the body. @return CD_OK; CD_E_TOO_LARGE, CD_E_OVERLOADED */
enum cd_rc cd_http_add_body(struct cd_req *req, const char *p, size_t n);
/** http_judge.c: give the body's share of the budget back. */
void cd_http_release_body(struct cd_req *req);
/** http_judge.c: value of Access-Control-Allow-Origin for this request, NULL: none. */
const char *cd_http_allow_origin(const struct cd_req *req);
/** http_judge.c: the handshake to hand over, rebuilt. */
void cd_http_handshake(const struct cd_req *req, struct cd_buf *out);
typedef void (*cd_http_header_fn)(void *arg, const char *name, const char *value);
/** http.c: all headers in their order, as they were sent. */
void cd_http_each_header(const struct cd_req *req, cd_http_header_fn fn, void *arg);
/** http_head.c: is there no blank or other stranger in a header's name? */
bool cd_http_names_are_sound(const struct cd_req *req);
/** http_head.c: is a body announced? @param chunked  also when it is announced wrongly
 * @param bytes  what Content-Length says. @return false: nobody can tell where it ends */
bool cd_http_framing(const struct cd_req *req, bool *chunked, uint64_t *bytes);
/** http_head.c: the values of all lines of a header, joined by commas; the last ones when they do not fit.
 * @param size  of @p out, 0: nothing is wanted but the number. @return how many lines it has */
unsigned cd_http_header_all(const struct cd_req *req, const char *name, char *out, size_t size);

/** req.c: forget timer, watch and cancel. */
void cd_req_unpark(struct cd_req *req);
/** req.c: free everything but the struct itself. */
void cd_req_clear(struct cd_req *req);
/** req.c: tell the owner of a parked request that it ends, then answer @p rc if it did not. */
void cd_req_cancel(struct cd_req *req, enum cd_rc rc, const char *text);

#endif

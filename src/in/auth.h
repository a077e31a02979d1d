/* auth.h -- who is asking: Matrix access tokens checked with whoami (cached, single flight),
 * the homeserver's hs_token, admins. */
#ifndef CD_IN_AUTH_H
#define CD_IN_AUTH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/str.h"
#include "in/http.h"

struct cd_loop;
struct cd_fetch_pool;
struct cd_auth_svc;
struct cd_seal;

/** A verified user with the token it came with. Reference counted. */
struct cd_principal {
    unsigned refs;
    char *user_id;
    char *device_id;    /* may be NULL (admin-minted and appservice tokens) */
    char *matrix_token; /* secret; wiped on the last unref; NULL: a session whose Matrix token nobody holds now */
    bool admin;
    int64_t checked_ms; /* monotonic, of the whoami answer */
    bool session;       /* came with a session token */
    int64_t expires_at; /* of the session token, wall ms; 0: never */
    uint8_t ref[16];    /* of the session token: which Matrix token it was made from */
};
struct cd_principal *cd_principal_ref(struct cd_principal *p);
void cd_principal_unref(struct cd_principal *p); /* NULL is allowed */
/** A principal with one reference, for tokens that are known otherwise (sealed ones, tests).
 * @param device_id,matrix_token  copied, may be NULL. @return NULL out of memory */
struct cd_principal *cd_principal_new(const char *user_id, const char *device_id,
                                      const char *matrix_token);

struct cd_auth_conf {
    const char *homeserver_url; /* "" : none (every token is refused with 503) */
    const char *server_name;    /* users of other servers are refused */
    const char *as_token, *hs_token; /* refused as user tokens */
    const char *hs_token_previous;   /* also taken from the homeserver while rotating; may be NULL */
    const struct cd_seal *seal; /* whose key signs session tokens; NULL: there are none */
    const char *admin_users;    /* space or comma separated ids */
    const char *admin_token_file;
    unsigned whoami_in_flight;         /* 16 */
    unsigned whoami_wait_ms;           /* 2000 */
    unsigned failed_tokens_per_minute; /* 10, per address; 0: no limit */
    bool query_token;                  /* users may also send ?access_token= */
    bool dev;                          /* dev_NAME is @NAME:dev, and nobody is asked */
};

struct cd_auth_svc *cd_auth_new(struct cd_loop *loop, struct cd_fetch_pool *pool,
                                const struct cd_auth_conf *conf);
void cd_auth_free(struct cd_auth_svc *a);

/** Called with CD_OK and a principal (borrowed for the call; ref it), or a failure in @p err. */
typedef void (*cd_auth_done_fn)(void *arg, enum cd_rc rc, struct cd_principal *p,
                                const struct cd_err *err);
/** Check a user token. When the answer is known, fn runs inside this call. Order: impossible
 * length or alphabet -> CD_E_UNKNOWN_TOKEN at once; a session token is judged here alone, by its
 * signature; a token known to be good; address over its
 * failure limit -> CD_E_LIMITED; a token known to be bad; whoami (16 in flight, excess waits 2
 * s, then CD_E_OVERLOADED). A question counts against its address from its start until the token
 * proves valid, so a burst of bad ones cannot overtake the limit; while good ones may still come
 * back, further ones of that address wait instead of failing. Tokens that were valid within the
 * last hour do not count: neighbours of an attacker behind one address go on working. Other
 * failures: CD_E_GUEST, CD_E_FORBIDDEN (locked account), CD_E_HOMESERVER (never 401 for 5xx).
 * @return a ticket for cd_auth_cancel while waiting, 0 when fn has run */
uint64_t cd_auth_token(struct cd_auth_svc *a, struct cd_str token, const char *client_ip,
                       cd_auth_done_fn fn, void *arg);
void cd_auth_cancel(struct cd_auth_svc *a, uint64_t ticket);
/** Ask again whatever the cache says (periodic re-check of sockets, after a 401 in sending). */
void cd_auth_forget(struct cd_auth_svc *a, struct cd_str token);
/** The homeserver refused this Matrix token elsewhere (401): forget it, and refuse its session tokens. */
void cd_auth_refused(struct cd_auth_svc *a, struct cd_str token);
/** Replace the admins (SIGHUP): ids and the file that holds the admin bearer; both may be NULL. */
void cd_auth_set_admins(struct cd_auth_svc *a, const char *users, const char *token_file);
struct cd_buf;
/** Make a session token for @p who, who came with a Matrix token.
 * @param life_ms     how long it lives
 * @param out         the token is appended
 * @param expires_at  wall ms
 * @return CD_OK, CD_E_FORBIDDEN for a session's own principal, CD_E_NO_MEMORY */
enum cd_rc cd_auth_session_new(struct cd_auth_svc *a, struct cd_principal *who, int64_t life_ms, struct cd_buf *out,
                               int64_t *expires_at, struct cd_err *err);
/** Where tokens of users are found that this service has not seen since the start (for a session token
 * from before it). @param held  borrowed answer, NULL: none */
void cd_auth_set_held(struct cd_auth_svc *a, struct cd_principal *(*held)(void *arg, const char *user), void *arg);
/** HTTP requests a second and user (SIGHUP); 0: no limit. */
void cd_auth_set_rate(struct cd_auth_svc *a, unsigned per_second);
/** Constant time. Also takes the previous hs_token while rotating. */
bool cd_auth_is_hs(const struct cd_auth_svc *a, struct cd_str token);
bool cd_auth_is_admin_user(const struct cd_auth_svc *a, const char *user_id);
bool cd_auth_is_admin_token(const struct cd_auth_svc *a, struct cd_str token);

struct cd_auth_stats {
    uint64_t asked;      /* whoami requests */
    uint64_t cache_hits, refused_here, limited, overloaded, unavailable;
    size_t in_flight, waiting, cached;
};
void cd_auth_stats(const struct cd_auth_svc *a, struct cd_auth_stats *out);

/** The hook for cd_http_set_auth: reads the Authorization header (or, when switched on, the
 * query), authenticates per kind. self is the service. Admins who came with the admin bearer or
 * by the control socket have no principal. */
enum cd_rc cd_auth_http(void *self, struct cd_req *req, enum cd_auth kind);

#endif

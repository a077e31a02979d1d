/* auth_int.h -- what auth.c, auth_cache.c and auth_http.c share, and nobody else sees. */
#ifndef CD_IN_AUTH_INT_H
#define CD_IN_AUTH_INT_H

#include "base/map.h"
#include "in/auth.h"
#include "in/limit.h"
#include "in/rate.h"
#include "loop/loop.h"

#define CD_AUTH_GOOD_TTL_MS 60000

/* --- the cache: what whoami said about a token, by the token's keyed hash ----------------- */

struct cd_auth_known {
    struct cd_auth_known *newer, *older;
    uint8_t key[16];
    struct cd_principal *principal; /* NULL: refused with *err */
    struct cd_err *err;
    int64_t until_ms; /* monotonic: believed until then */
    int64_t kept_ms;  /* remembered as once valid until then */
};

struct cd_auth_cache {
    struct cd_map map;
    struct cd_auth_known *newest, *oldest;
    size_t max;
};

void cd_auth_cache_init(struct cd_auth_cache *c, size_t max);
void cd_auth_cache_done(struct cd_auth_cache *c);
/** What is known and not too old. @return NULL: nothing */
struct cd_auth_known *cd_auth_cache_get(struct cd_auth_cache *c, const uint8_t key[16],
                                        int64_t now_ms);
/** Was it valid not long ago, whatever it is now? */
bool cd_auth_cache_was_good(struct cd_auth_cache *c, const uint8_t key[16], int64_t now_ms);
/** Remember. @param p  takes its own reference; NULL: refused, @p err is copied */
void cd_auth_cache_put(struct cd_auth_cache *c, const uint8_t key[16], struct cd_principal *p,
                       const struct cd_err *err, int64_t until_ms);
void cd_auth_cache_del(struct cd_auth_cache *c, const uint8_t key[16]);

/* --- auth_admin.c ------------------------------------------------------------------------- */

/** Tokens that no homeserver has to be asked about. @return CD_OK: it has to be asked */
enum cd_rc cd_auth_refuse_here(const struct cd_auth_svc *a, struct cd_str token,
                               struct cd_err *err);

/* --- auth_dev.c --------------------------------------------------------------------------- */

/** The user that a token of --dev names: dev_NAME or dev_NAME~DEVICE.
 * @return one reference, NULL with @p err filled */
struct cd_principal *cd_auth_dev_user(struct cd_str token, struct cd_err *err);

/* --- auth_session.c ----------------------------------------------------------------------- */

struct cd_auth_ref;

/** The Matrix tokens that session tokens were made from, by cd_seal_name(). */
struct cd_auth_sessions {
    const struct cd_seal *seal; /* NULL: there are no session tokens */
    struct cd_map refs;
    struct cd_auth_ref *first, *last;
};

/** The user of a session token. @param key  its keyed hash. @param forged  set: none of ours
 * @return one reference, NULL with @p err filled */
struct cd_principal *cd_auth_session_user(struct cd_auth_svc *a, struct cd_str token, const uint8_t key[16],
                                          bool *forged, struct cd_err *err);
/** The homeserver has refused this Matrix token: so are the session tokens made from it. */
void cd_auth_sessions_refuse(struct cd_auth_svc *a, struct cd_str matrix_token);
void cd_auth_sessions_done(struct cd_auth_sessions *s);

/* --- the service -------------------------------------------------------------------------- */

struct cd_auth_check; /* one token being asked about */

struct cd_auth_svc {
    struct cd_loop *loop;
    struct cd_fetch_pool *pool;
    char *whoami_url; /* NULL: no homeserver */
    char *server_name, *as_token, *hs_token, *hs_token_previous;
    char *admin_users, *admin_token;
    unsigned max_in_flight, wait_ms;
    struct cd_rate *rate; /* requests by user */
    unsigned per_second;
    bool query_token, dev;
    struct cd_auth_cache cache;
    struct cd_auth_sessions sessions;
    struct cd_principal *(*held)(void *arg, const char *user);
    void *held_arg;
    struct cd_limit *failures; /* by address */
    struct cd_map checks;      /* by hash of the token: single flight */
    struct cd_map waiters;     /* by ticket */
    struct cd_auth_check *first, *last; /* in order of arrival */
    unsigned in_flight;
    size_t n_checks;
    uint64_t last_ticket;
    int64_t quiet_until_ms; /* the homeserver asked for silence with 429 */
    bool closing;
    struct cd_auth_stats stats;
};

#endif

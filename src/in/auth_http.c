/* auth_http.c -- the auth hook of the HTTP server: where the token stands, and who it must be.
 * In: request headers.  Out: CD_OK, a refusal, or CD_PENDING until whoami has answered.
 * Why: authority is only ever a bearer, never a cookie.  Owns: one small record while whoami runs.
 * Blocks: never. */
#include <stdlib.h>
#include <strings.h>

#include "base/clock.h"
#include "base/secret.h"
#include "in/auth_int.h"

/* The bearer of the Authorization header. @return false: there is none */
static bool bearer(struct cd_req *req, struct cd_str *out)
{
    const char *h = cd_req_header(req, "Authorization");

    if (!h || strncasecmp(h, "Bearer ", 7) != 0)
        return false;
    *out = cd_str_trim(cd_str_of(h + 7));
    return out->n > 0;
}

static bool query_token(struct cd_req *req, struct cd_str *out)
{
    *out = cd_str_of(cd_req_query(req, "access_token"));
    return out->n > 0;
}

static bool user_token(const struct cd_auth_svc *a, struct cd_req *req, struct cd_str *out)
{
    return bearer(req, out) || (a->query_token && query_token(req, out));
}

/* The homeserver sends a header, its query form, or both; then both must be right. */
static enum cd_rc check_hs(const struct cd_auth_svc *a, struct cd_req *req)
{
    struct cd_str header, query;
    bool has_header = bearer(req, &header), has_query = query_token(req, &query);

    if (!has_header && !has_query)
        return cd_fail(cd_req_err(req), CD_E_MISSING_TOKEN,
                       "The homeserver's hs_token is missing: Authorization: Bearer <hs_token>.");
    if ((has_header && !cd_auth_is_hs(a, header)) || (has_query && !cd_auth_is_hs(a, query)))
        return cd_fail(cd_req_err(req), CD_E_FORBIDDEN,
                       "This is not the hs_token of the registration.");
    return CD_OK;
}

struct pending {
    struct cd_auth_svc *svc;
    struct cd_req *req;
    enum cd_auth kind;
    bool inside; /* still in cd_auth_http() */
    enum cd_rc rc;
};

static enum cd_rc accept_user(struct cd_auth_svc *a, struct cd_req *req, enum cd_auth kind, struct cd_principal *p)
{
    int64_t wait_ms = cd_rate_take(a->rate, p->user_id, a->per_second, cd_mono_us());

    if (wait_ms > 0) {
        a->stats.limited++;
        cd_fail(cd_req_err(req), CD_E_LIMITED, "You send too many requests; wait retry_after_ms.");
        cd_req_err(req)->retry_after_ms = (long)wait_ms;
        return CD_E_LIMITED;
    }
    if (kind == CD_AUTH_ADMIN && !p->admin)
        return cd_fail(cd_req_err(req), CD_E_FORBIDDEN,
                       "This takes an administrator of matrix-calld.");
    cd_req_set_principal(req, p);
    return CD_OK;
}

static void on_token(void *arg, enum cd_rc rc, struct cd_principal *p, const struct cd_err *err)
{
    struct pending *pd = arg;
    struct cd_req *req = pd->req;

    if (rc == CD_OK)
        rc = accept_user(pd->svc, req, pd->kind, p);
    else if (cd_req_err(req) && err)
        *cd_req_err(req) = *err;
    if (pd->inside) {
        pd->rc = rc;
        return;
    }
    free(pd);
    cd_req_auth_done(req, rc);
}

static enum cd_rc check_user(struct cd_auth_svc *a, struct cd_req *req, enum cd_auth kind)
{
    struct cd_str token;
    struct pending *pd;
    enum cd_rc rc;

    if (!user_token(a, req, &token))
        return cd_fail(cd_req_err(req), CD_E_MISSING_TOKEN, NULL);
    if (kind == CD_AUTH_ADMIN && cd_auth_is_admin_token(a, token))
        return CD_OK;
    pd = calloc(1, sizeof(*pd));
    if (!pd)
        return cd_fail(cd_req_err(req), CD_E_NO_MEMORY, NULL);
    *pd = (struct pending){.svc = a, .req = req, .kind = kind, .inside = true};
    if (cd_auth_token(a, token, cd_req_client_ip(req), on_token, pd) != 0) {
        pd->inside = false;
        return CD_PENDING;
    }
    rc = pd->rc;
    free(pd);
    return rc;
}

enum cd_rc cd_auth_http(void *self, struct cd_req *req, enum cd_auth kind)
{
    struct cd_auth_svc *a = self;

    switch (kind) {
    case CD_AUTH_NONE:
        return CD_OK;
    case CD_AUTH_HS:
        return check_hs(a, req);
    case CD_AUTH_ADMIN:
        /* The socket's file mode has already decided who may speak there. */
        if (cd_req_role(req) == CD_ROLE_CONTROL)
            return CD_OK;
        return check_user(a, req, kind);
    case CD_AUTH_USER:
        return check_user(a, req, kind);
    default:
        return cd_fail(cd_req_err(req), CD_E_INTERNAL, NULL);
    }
}

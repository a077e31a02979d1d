/* auth_http_test.c -- the auth hook on requests as the HTTP server would hand them over: where
 * tokens may stand, and who passes as what. Needs no homeserver: whoami goes to a port that
 * refuses. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/secret.h"
#include "in/auth.h"
#include "loop/loop.h"
#include "out/fetch.h"

#include "../lib/tap.h"

/* --- a request ---------------------------------------------------------------------------- */

struct cd_req {
    const char *authorization, *query;
    enum cd_role role;
    struct cd_err err;
    struct cd_principal *principal;
    int done; /* how often cd_req_auth_done was called */
    enum cd_rc rc;
};

static struct cd_loop *loop;
static struct cd_fetch_pool *pool;
static struct cd_auth_svc *svc;

const char *cd_req_header(struct cd_req *req, const char *name)
{
    return strcmp(name, "Authorization") == 0 ? req->authorization : NULL;
}

const char *cd_req_query(struct cd_req *req, const char *name)
{
    return strcmp(name, "access_token") == 0 ? req->query : NULL;
}

const char *cd_req_client_ip(const struct cd_req *req)
{
    (void)req;
    return "192.0.2.1";
}

enum cd_role cd_req_role(const struct cd_req *req)
{
    return req->role;
}

struct cd_err *cd_req_err(struct cd_req *req)
{
    return &req->err;
}

void cd_req_set_principal(struct cd_req *req, struct cd_principal *p)
{
    cd_principal_unref(req->principal);
    req->principal = cd_principal_ref(p);
}

void cd_req_auth_done(struct cd_req *req, enum cd_rc rc)
{
    req->done++;
    req->rc = rc;
    cd_loop_stop(loop);
}

static enum cd_rc ask(enum cd_auth kind, const char *authorization, const char *query)
{
    struct cd_req req = {.authorization = authorization, .query = query,
                         .role = CD_ROLE_APPSERVICE};

    return cd_auth_http(svc, &req, kind);
}

/* --- the homeserver ----------------------------------------------------------------------- */

static void the_hs_token_in_the_header(void)
{
    CHECK_INT(ask(CD_AUTH_HS, "Bearer hs-secret", NULL), CD_OK);
    CHECK_INT(ask(CD_AUTH_HS, "bearer   hs-secret ", NULL), CD_OK);
    CHECK_INT(ask(CD_AUTH_HS, "Bearer hs-previous", NULL), CD_OK);
    CHECK_INT(ask(CD_AUTH_HS, "Bearer hs-secreT", NULL), CD_E_FORBIDDEN);
    CHECK_INT(ask(CD_AUTH_HS, "Bearer as-secret", NULL), CD_E_FORBIDDEN);
    CHECK_INT(ask(CD_AUTH_HS, NULL, NULL), CD_E_MISSING_TOKEN);
    CHECK_INT(ask(CD_AUTH_HS, "Bearer ", NULL), CD_E_MISSING_TOKEN);
    CHECK_INT(ask(CD_AUTH_HS, "Basic aHM=", NULL), CD_E_MISSING_TOKEN);
}

static void the_hs_token_in_the_query(void)
{
    CHECK_INT(ask(CD_AUTH_HS, NULL, "hs-secret"), CD_OK);
    CHECK_INT(ask(CD_AUTH_HS, NULL, "wrong"), CD_E_FORBIDDEN);
    CHECK_INT(ask(CD_AUTH_HS, NULL, ""), CD_E_MISSING_TOKEN);
    CHECK_INT(ask(CD_AUTH_HS, "Bearer hs-secret", "hs-secret"), CD_OK);
    CHECK_INT(ask(CD_AUTH_HS, "Bearer hs-secret", "wrong"), CD_E_FORBIDDEN);
    CHECK_INT(ask(CD_AUTH_HS, "Bearer wrong", "hs-secret"), CD_E_FORBIDDEN);
}

/* --- users and admins --------------------------------------------------------------------- */

static void users_need_a_bearer(void)
{
    CHECK_INT(ask(CD_AUTH_NONE, NULL, NULL), CD_OK);
    CHECK_INT(ask(CD_AUTH_USER, NULL, NULL), CD_E_MISSING_TOKEN);
    CHECK_INT(ask(CD_AUTH_USER, "Basic dTpw", NULL), CD_E_MISSING_TOKEN);
    CHECK_INT(ask(CD_AUTH_USER, NULL, "calld_x"), CD_E_MISSING_TOKEN); /* the query is off */
    CHECK_INT(ask(CD_AUTH_USER, "Bearer calld_x", NULL), CD_E_UNKNOWN_TOKEN);
    CHECK_INT(ask(CD_AUTH_USER, "Bearer hs-secret", NULL), CD_E_UNKNOWN_TOKEN);
    CHECK_INT(ask(CD_AUTH_USER, "Bearer as-secret", NULL), CD_E_UNKNOWN_TOKEN);
    CHECK_INT(ask(CD_AUTH_USER, "Bearer a b", NULL), CD_E_UNKNOWN_TOKEN);
}

static void admins_by_bearer_and_by_socket(void)
{
    struct cd_req req = {.role = CD_ROLE_CONTROL};

    CHECK_INT(ask(CD_AUTH_ADMIN, "Bearer admin-secret-of-the-file", NULL), CD_OK);
    CHECK_INT(ask(CD_AUTH_USER, "Bearer calld_admin", NULL), CD_E_UNKNOWN_TOKEN);
    CHECK_INT(ask(CD_AUTH_ADMIN, NULL, NULL), CD_E_MISSING_TOKEN);
    CHECK_INT(cd_auth_http(svc, &req, CD_AUTH_ADMIN), CD_OK);
    CHECK_INT(cd_auth_http(svc, &req, CD_AUTH_USER), CD_E_MISSING_TOKEN);
    CHECK(cd_auth_is_admin_user(svc, "@root:example.org"));
    CHECK(cd_auth_is_admin_user(svc, "@second:example.org"));
    CHECK(!cd_auth_is_admin_user(svc, "@root:example.or"));
    CHECK(!cd_auth_is_admin_user(svc, ""));
    cd_auth_set_admins(svc, "@third:example.org", "/nonexistent/file");
    CHECK(!cd_auth_is_admin_user(svc, "@root:example.org"));
    CHECK(cd_auth_is_admin_user(svc, "@third:example.org"));
    CHECK(!cd_auth_is_admin_token(svc, CD_STR("admin-secret-of-the-file")));
    CHECK(!cd_auth_is_admin_token(svc, CD_STR("")));
}

/* Nobody answers there: waits first, then 503, and never a 401. */
static void waits_for_whoami(void)
{
    struct cd_req req = {.authorization = "Bearer syt_some_token", .role = CD_ROLE_PUBLIC};

    CHECK_INT(cd_auth_http(svc, &req, CD_AUTH_USER), CD_PENDING);
    CHECK_INT(req.done, 0);
    cd_loop_run(loop);
    CHECK_INT(req.done, 1);
    CHECK_INT(req.rc, CD_E_HOMESERVER);
    CHECK_INT(req.err.rc, CD_E_HOMESERVER);
    CHECK(req.principal == NULL);
}

static char *admin_file(void)
{
    static char path[] = "/tmp/calld-auth-XXXXXX";
    int fd = mkstemp(path);

    if (fd < 0 || write(fd, "admin-secret-of-the-file\n", 25) != 25)
        return NULL;
    close(fd);
    return path;
}

int main(void)
{
    struct cd_loop_conf lc = {.max_fds = 256};
    char *path = admin_file();
    struct cd_auth_conf conf = {
        .homeserver_url = "http://127.0.0.1:1/", .server_name = "example.org",
            .as_token = "as-secret",
        .hs_token = "hs-secret", .hs_token_previous = "hs-previous",
        .admin_users = "@root:example.org, @second:example.org", .admin_token_file = path,
        .whoami_in_flight = 16, .failed_tokens_per_minute = 10,
    };

    cd_secret_init();
    loop = cd_loop_new(&lc);
    pool = loop ? cd_fetch_new(loop) : NULL;
    svc = pool ? cd_auth_new(loop, pool, &conf) : NULL;
    if (!svc || !path) {
        puts("Bail out! cannot start");
        return 1;
    }
    unlink(path);
    TAP_RUN(the_hs_token_in_the_header);
    TAP_RUN(the_hs_token_in_the_query);
    TAP_RUN(users_need_a_bearer);
    TAP_RUN(admins_by_bearer_and_by_socket);
    TAP_RUN(waits_for_whoami);
    cd_auth_free(svc);
    cd_fetch_free(pool);
    cd_loop_free(loop);
    return tap_done();
}

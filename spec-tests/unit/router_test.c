/* router_test.c -- which route a raw path means: precedence, roles, percent traps, Allow. */
#include "in/router.h"

#include <stdlib.h>

#include "tap.h"

static enum cd_rc nothing(void *self, struct cd_req *req)
{
    (void)self;
    (void)req;
    return CD_OK;
}

#define ROW(roles, method, path) {roles, method, path, CD_AUTH_NONE, 0, nothing, ""}
#define P CD_ROLE_PUBLIC
#define A CD_ROLE_APPSERVICE

static const struct cd_route table[] = {
    ROW(P, "GET", "/api/calls/active"),
    ROW(P, "GET", "/api/calls/:id"),
    ROW(P, "DELETE", "/api/calls/:id"),
    ROW(P, "POST", "/api/calls/initiate"),
    ROW(P, "POST", "/api/calls/:id/answer"),
    ROW(P, "GET", "/api/:what/active"),
    ROW(P, "GET", "/socket.io/"),
    ROW(P | CD_ROLE_CONTROL, "GET", "/health"),
    ROW(A, "PUT", "/transactions/:txn"),
    ROW(A, "GET", "/_matrix/app/v1/rooms/*alias"),
    ROW(P, "GET", "/*file"),
    {0},
};

static struct cd_router *router;
static struct cd_match m;

static enum cd_rc match(unsigned role, const char *method, const char *path)
{
    cd_match_done(&m);
    return cd_router_match(router, (enum cd_role)role, method, cd_str_of(path), &m);
}

static const char *path_of(void)
{
    return m.route ? m.route->path : "(none)";
}

static void literals_beat_parameters(void)
{
    CHECK_INT(match(P, "GET", "/api/calls/active"), CD_OK);
    CHECK_STR(path_of(), "/api/calls/active");
    CHECK_INT(match(P, "GET", "/api/calls/z01"), CD_OK);
    CHECK_STR(path_of(), "/api/calls/:id");
    CHECK_STR(m.params[0], "z01");
    CHECK_INT(match(P, "GET", "/api/rooms/active"), CD_OK);
    CHECK_STR(path_of(), "/api/:what/active");
    CHECK_INT(match(P, "GET", "/api/calls/z01/other"), CD_OK);
    CHECK_STR(path_of(), "/*file");
    CHECK_STR(m.params[0], "api/calls/z01/other");
}

/* A literal path is that resource for every method: no :id and no catch-all takes its others. */
static void the_shape_is_chosen_before_the_method(void)
{
    CHECK_INT(match(P, "POST", "/api/calls/initiate"), CD_OK);
    CHECK_STR(path_of(), "/api/calls/initiate");
    CHECK_INT(match(P, "GET", "/api/calls/initiate"), CD_E_METHOD);
    CHECK_INT(match(P, "HEAD", "/api/calls/initiate"), CD_E_METHOD);
    CHECK_INT(match(P, "GET", "/api/calls/%69nitiate"), CD_E_METHOD);
    CHECK_INT(match(P, "DELETE", "/api/calls/active"), CD_E_METHOD);
    CHECK_INT(match(P, "GET", "/api/calls/z01/answer"), CD_E_METHOD);
    CHECK_INT(match(P, "HEAD", "/api/calls/z01"), CD_OK);
    CHECK_STR(path_of(), "/api/calls/:id");
    CHECK_INT(match(A, "POST", "/transactions/1"), CD_E_METHOD);
    CHECK_INT(match(A, "HEAD", "/transactions/1"), CD_E_METHOD);
}

static void parameters_are_not_empty(void)
{
    CHECK_INT(match(P, "DELETE", "/api/calls/z01"), CD_OK);
    CHECK_INT(match(P, "GET", "/api/calls/"), CD_OK);
    CHECK_STR(path_of(), "/*file");
    CHECK_INT(match(P, "GET", "/api//active"), CD_OK);
    CHECK_STR(path_of(), "/*file");
    CHECK_INT(match(A, "PUT", "/transactions/"), CD_E_UNRECOGNIZED);
}

static void roles_are_separate(void)
{
    CHECK_INT(match(P, "PUT", "/transactions/1"), CD_E_METHOD); /* the catch-all GET knows it */
    CHECK_INT(match(A, "GET", "/api/calls/active"), CD_E_UNRECOGNIZED);
    CHECK_INT(match(CD_ROLE_CONTROL, "GET", "/health"), CD_OK);
    CHECK_INT(match(A, "GET", "/health"), CD_E_UNRECOGNIZED);
}

static void segments_are_decoded_one_by_one(void)
{
    CHECK_INT(match(A, "PUT", "/transactions/a%2Fb"), CD_OK);
    CHECK_STR(m.params[0], "a/b");
    CHECK_INT(match(A, "PUT", "/trans%61ctions/x%20y+z"), CD_OK);
    CHECK_STR(m.params[0], "x y+z");
    CHECK_INT(match(A, "GET", "/_matrix/app/v1/rooms/%23a/b%3Ahs"), CD_OK);
    CHECK_STR(m.params[0], "#a/b:hs");
    CHECK_INT(match(A, "GET", "/_matrix%2Fapp/v1/rooms/x"), CD_E_UNRECOGNIZED);
    CHECK_INT(match(A, "PUT", "/transactions/%2e%2e"), CD_OK);
    CHECK_STR(m.params[0], "..");
}

static void bad_escapes_are_refused(void)
{
    CHECK_INT(match(A, "PUT", "/transactions/a%00b"), CD_E_INVALID_PARAM);
    CHECK_INT(match(A, "PUT", "/transactions/a%0"), CD_E_INVALID_PARAM);
    CHECK_INT(match(A, "PUT", "/transactions/a%zz"), CD_E_INVALID_PARAM);
    CHECK_INT(match(A, "PUT", "/transactions/%ff"), CD_E_INVALID_PARAM);
    CHECK_INT(match(A, "PUT", "/transactions/%c0%80"), CD_E_INVALID_PARAM);
    CHECK_INT(match(A, "GET", "/_matrix/app/v1/rooms/a/%00"), CD_E_INVALID_PARAM);
}

static void slashes_count(void)
{
    char deep[400] = "";

    CHECK_INT(match(P, "GET", "/socket.io/"), CD_OK);
    CHECK_STR(path_of(), "/socket.io/");
    CHECK_INT(match(P, "GET", "/socket.io"), CD_OK);
    CHECK_STR(path_of(), "/*file");
    CHECK_INT(match(A, "PUT", "//transactions/1"), CD_E_UNRECOGNIZED);
    CHECK_INT(match(A, "PUT", "/transactions/1/"), CD_E_UNRECOGNIZED);
    CHECK_INT(match(A, "PUT", ""), CD_E_UNRECOGNIZED);
    CHECK_INT(match(A, "PUT", "*"), CD_E_UNRECOGNIZED);
    CHECK_INT(match(A, "PUT", "http://x/transactions/1"), CD_E_UNRECOGNIZED);
    for (int i = 0; i < 40; i++)
        strcat(deep, "/a");
    CHECK_INT(match(P, "GET", deep), CD_OK);
    CHECK_STR(m.params[0], deep + 1);
    CHECK_INT(match(A, "PUT", deep), CD_E_UNRECOGNIZED);
}

static void allow_names_the_methods(void)
{
    struct cd_buf b;

    cd_buf_init(&b, 256);
    cd_router_allow(router, CD_ROLE_PUBLIC, CD_STR("/api/calls/z01"), &b);
    CHECK_STR(b.p, "GET, HEAD, DELETE, OPTIONS");
    cd_buf_reset(&b);
    cd_router_allow(router, CD_ROLE_PUBLIC, CD_STR("/api/calls/initiate"), &b);
    CHECK_STR(b.p, "POST, OPTIONS");
    cd_buf_reset(&b);
    cd_router_allow(router, CD_ROLE_APPSERVICE, CD_STR("/transactions/1"), &b);
    CHECK_STR(b.p, "PUT, OPTIONS");
    cd_buf_reset(&b);
    cd_router_allow(router, CD_ROLE_APPSERVICE, CD_STR("/nothing"), &b);
    CHECK_INT(b.n, 0);
    cd_buf_done(&b);
}

static void doubles_and_nonsense_are_refused(void)
{
    static const struct cd_route twice[] = {ROW(P, "GET", "/api/calls/:other"), {0}};
    static const struct cd_route other_role[] = {ROW(A, "GET", "/api/calls/:other"), {0}};
    static const struct cd_route no_slash[] = {ROW(P, "GET", "api"), {0}};
    static const struct cd_route after_rest[] = {ROW(P, "GET", "/*a/b"), {0}};

    CHECK_INT(cd_router_add(router, twice, NULL), CD_E_INTERNAL);
    CHECK_INT(cd_router_add(router, other_role, NULL), CD_OK);
    CHECK_INT(cd_router_add(router, no_slash, NULL), CD_E_INTERNAL);
    CHECK_INT(cd_router_add(router, after_rest, NULL), CD_E_INTERNAL);
}

int main(void)
{
    router = cd_router_new();
    CHECK_INT(cd_router_add(router, table, NULL), CD_OK);
    TAP_RUN(literals_beat_parameters);
    TAP_RUN(the_shape_is_chosen_before_the_method);
    TAP_RUN(parameters_are_not_empty);
    TAP_RUN(roles_are_separate);
    TAP_RUN(segments_are_decoded_one_by_one);
    TAP_RUN(bad_escapes_are_refused);
    TAP_RUN(slashes_count);
    TAP_RUN(allow_names_the_methods);
    TAP_RUN(doubles_and_nonsense_are_refused);
    cd_match_done(&m);
    cd_router_free(router);
    return tap_done();
}

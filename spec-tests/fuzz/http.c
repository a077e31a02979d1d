/* http.c -- fuzzes what a request's line and headers decide: framing, route, escapes, client, origin.
 * Input, a line each: path, method number and peer number, X-Forwarded-For, trust_proxy,
 * cors_origins, Origin. */
#include <arpa/inet.h>

#include "base/buf.h"
#include "fuzz.h"
#include "in/classify.h"
#include "in/cors.h"
#include "in/proxy.h"
#include "in/router.h"

static enum cd_rc nobody(void *self, struct cd_req *req)
{
    (void)self;
    (void)req;
    return CD_OK;
}

#define ROUTE(method, path) {CD_ROLE_PUBLIC, method, path, CD_AUTH_NONE, 0, nobody, ""}
static const struct cd_route routes[] = {
    ROUTE("GET", "/"),
    ROUTE("GET", "/health"),
    ROUTE("POST", "/api/calls"),
    ROUTE("GET", "/api/calls/:callId"),
    ROUTE("GET", "/api/calls/active"),
    ROUTE("POST", "/api/calls/:callId/answer"),
    ROUTE("PUT", "/rooms/:roomId/:name"),
    ROUTE("GET", "/call-test/*file"),
    {CD_ROLE_APPSERVICE, "PUT", "/_matrix/app/v1/transactions/:txnId", CD_AUTH_HS, 0, nobody, ""},
    {0},
};
static const char *const methods[] = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"};

/* Write the matched route's path anew from its parameters: it means the same. */
static void rebuild(const struct cd_router *r, const char *method, const struct cd_match *m)
{
    const char *p = m->route->path;
    struct cd_match again;
    unsigned k = 0;
    struct cd_buf b;

    cd_buf_init(&b, 1 << 20);
    while (*p == '/' && !strchr(p, '*')) {
        size_t n = strcspn(++p, "/");

        cd_buf_addc(&b, '/');
        cd_buf_add_segment(&b, *p == ':' ? cd_str_of(m->params[k++]) : (struct cd_str){p, n});
        p += n;
    }
    if (*p == '\0' && b.n <= CD_PATH_MAX) {
        struct cd_str path = {b.p, b.n};

        MUST(cd_router_match(r, CD_ROLE_PUBLIC, method, path, &again) == CD_OK);
        MUST(again.route == m->route && again.param_n == m->param_n && k == m->param_n);
        for (unsigned i = 0; i < k; i++)
            MUST(strcmp(again.params[i], m->params[i]) == 0);
        cd_match_done(&again);
    }
    cd_buf_done(&b);
}

static void route(const struct cd_router *r, const char *method, struct cd_str path)
{
    struct cd_match m;
    struct cd_buf allow;
    enum cd_rc rc = cd_router_match(r, CD_ROLE_PUBLIC, method, path, &m);

    cd_buf_init(&allow, 256);
    cd_router_allow(r, CD_ROLE_PUBLIC, path, &allow);
    MUST(rc == CD_OK || rc == CD_E_UNRECOGNIZED || rc == CD_E_METHOD || rc == CD_E_INVALID_PARAM);
    MUST((m.route != NULL) == (rc == CD_OK) && (m.text != NULL) == (rc == CD_OK));
    if (rc == CD_E_METHOD)
        MUST(allow.n && !strstr(allow.p, method));
    if (rc == CD_E_UNRECOGNIZED)
        MUST(allow.n == 0);
    if (rc == CD_OK) {
        MUST(strstr(allow.p, method) && (m.route->roles & CD_ROLE_PUBLIC));
        MUST(!strcmp(m.route->method, strcmp(method, "HEAD") ? method : "GET"));
        for (unsigned i = 0; i < m.param_n; i++)
            MUST(cd_utf8_valid(m.params[i], strlen(m.params[i])));
        rebuild(r, method, &m);
        cd_match_done(&m);
    }
    cd_buf_done(&allow);
}

static void percent(struct cd_str s)
{
    char *out = malloc(s.n + 1), *again = malloc(s.n + 1);
    long n = cd_percent_decode(s, false, out, s.n + 1);
    struct cd_buf b;

    if (n >= 0) {
        MUST((size_t)n <= s.n && out[n] == '\0');
        cd_buf_init(&b, 1 << 20);
        cd_buf_add_segment(&b, (struct cd_str){out, (size_t)n});
        if (strlen(out) == (size_t)n) {
            MUST(cd_percent_decode((struct cd_str){b.p, b.n}, true, again, s.n + 1) == n);
            MUST(memcmp(out, again, (size_t)n + 1) == 0);
        }
        MUST(cd_percent_decode(s, false, again, (size_t)n) == -1);
        cd_buf_done(&b);
    }
    free(out);
    free(again);
}

static void client(const char *peer, const char *forwarded, const char *trust)
{
    char out[CD_IP_LEN], *longer;
    struct cd_proxy p;
    struct cd_err err;
    uint8_t ip[16];
    size_t size = strlen(forwarded) + 32;

    memset(&err, 0, sizeof err);
    if (cd_proxy_parse(&p, trust, &err) != CD_OK)
        MUST(err.text[0] && !p.adjacent && p.n == 0);
    MUST(p.n <= CD_PROXY_CIDRS);
    cd_proxy_client(&p, peer, forwarded, out);
    if (!cd_proxy_trusts(&p, peer))
        MUST(!strcmp(out, peer));
    MUST(!strcmp(out, peer) || inet_pton(AF_INET, out, ip) == 1 ||
         inet_pton(AF_INET6, out, ip) == 1);
    /* whatever a client wrote: what a trusted proxy adds at the right end counts */
    longer = malloc(size);
    snprintf(longer, size, "%s, 198.51.100.7", forwarded);
    cd_proxy_client(&p, peer, longer, out);
    if (cd_proxy_trusts(&p, peer) && (p.adjacent || !cd_proxy_trusts(&p, "198.51.100.7")))
        MUST(!strcmp(out, "198.51.100.7"));
    free(longer);
}

static void origin(const char *origins, const char *one)
{
    bool word = *one && !strpbrk(one, " ,\t");
    size_t size = strlen(origins) + strlen(one) + 2;
    char *longer = malloc(size);

    if (cd_cors_any(origins))
        MUST(cd_cors_allows(origins, one));
    else if (cd_cors_allows(origins, one))
        MUST(word && strstr(origins, one));
    snprintf(longer, size, "%s,%s", origins, one);
    if (word)
        MUST(cd_cors_allows(longer, one));
    free(longer);
}

/* A head with a fault keeps it whatever follows; its first line never is one. */
static void head(struct cd_str s)
{
    size_t size = s.n + 32;
    char *longer = malloc(size);
    const char *fault = cd_head_fault(s);
    int k = snprintf(longer, size, "%s", "GET / HTTP/1.1\r\n");

    MUST(!cd_head_fault((struct cd_str){longer, (size_t)k}));
    memcpy(longer, s.p, s.n);
    memcpy(longer + s.n, "X: y\r\n\r\n", 9);
    if (fault)
        MUST(cd_head_fault((struct cd_str){longer, s.n + 9}) == fault);
    free(longer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const char *const peers[] = {"127.0.0.1", "10.1.2.3", "203.0.113.9", "2001:db8::1",
                                        "::1", "unix"};
    static struct cd_router *r;
    struct cd_str in = {(const char *)data, n}, path, numbers;
    char *text[4];
    unsigned a, b;

    head(in);
    if (n == 0 || memchr(data, '\0', n))
        return 0; /* neither line nor header can hold a NUL */
    if (!r) {
        r = cd_router_new();
        MUST(r && cd_router_add(r, routes, NULL) == CD_OK);
    }
    path = fuzz_part(&in, '\n');
    numbers = fuzz_part(&in, '\n');
    a = fuzz_byte(&numbers);
    b = fuzz_byte(&numbers);
    for (size_t i = 0; i < 4; i++)
        text[i] = fuzz_text(fuzz_part(&in, '\n'));
    route(r, methods[a % 6], path);
    percent(path);
    client(peers[b % 6], text[0], text[1]);
    origin(text[2], text[3]);
    for (size_t i = 0; i < 4; i++)
        free(text[i]);
    return 0;
}

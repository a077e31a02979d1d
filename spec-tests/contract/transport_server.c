/* transport_server.c -- a small program on the real loop, listener, HTTP and WebSocket files,
 * driven by http_contract.test.mjs and ws_contract.test.mjs. It knows no library below the seams.
 *
 * transport_server [--poll] [--prefix P] [--trust T] [--per-ip N] [--origins O] [--control PATH]
 *                  [--queue N] [--bodies BYTES] [--max CONNECTIONS]
 * Prints one JSON line when it listens; SIGTERM drains and ends it, printing "stopped"; SIGUSR1 ends
 * it without draining; SIGHUP reloads to fixed settings. */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "base/secret.h"
#include "in/auth.h"
#include "in/http.h"
#include "in/listener.h"
#include "in/peers.h"
#include "in/ws.h"
#include "loop/loop.h"

static struct cd_loop *loop;
static struct cd_http *http;
static struct cd_listener *listeners[3];
static struct cd_timer stop_timer;
static unsigned cancelled, ws_opened, ws_closed, ws_filled, ws_pongs, handled;

/* --- principals: the tests need none, http.c only counts references ------------------ */

struct cd_principal *cd_principal_ref(struct cd_principal *p)
{
    p->refs++;
    return p;
}

void cd_principal_unref(struct cd_principal *p)
{
    if (p && --p->refs == 0)
        free(p);
}

/* --- later: something happens to a request after a while ----------------------------- */

struct later {
    struct cd_timer timer;
    struct cd_req *req;
    enum cd_rc auth_rc;
    struct later *next;
};

static struct later *held; /* parked by /park until /release */

static void reply_text(struct cd_req *req, const char *text)
{
    cd_req_reply(req, 200, "text/plain", cd_str_of(text));
}

static void later_reply(void *arg)
{
    struct later *l = arg;

    reply_text(l->req, "late");
    free(l);
}

static void later_auth(void *arg)
{
    struct later *l = arg;

    if (l->auth_rc != CD_OK)
        cd_fail(cd_req_err(l->req), l->auth_rc, NULL);
    cd_req_auth_done(l->req, l->auth_rc);
    free(l);
}

static void later_cancel(void *arg)
{
    struct later *l = arg;

    cancelled++;
    cd_timer_cancel(loop, &l->timer);
    for (struct later **at = &held; *at; at = &(*at)->next) {
        if (*at == l) {
            *at = l->next;
            break;
        }
    }
    free(l);
}

static struct later *later(struct cd_req *req)
{
    struct later *l = calloc(1, sizeof(*l));

    if (!l)
        abort();
    l->req = req;
    return l;
}

static int number(struct cd_req *req, const char *name, int otherwise)
{
    const char *text = cd_req_query(req, name);

    return text ? (int)strtol(text, NULL, 10) : otherwise;
}

/* --- routes -------------------------------------------------------------------------- */

static enum cd_rc hello(void *self, struct cd_req *req)
{
    (void)self;
    handled++;
    reply_text(req, "hello");
    return CD_OK;
}

static enum cd_rc echo(void *self, struct cd_req *req)
{
    (void)self;
    handled++;
    cd_req_reply(req, 200, "application/octet-stream", cd_req_body(req));
    return CD_OK;
}

static enum cd_rc length(void *self, struct cd_req *req)
{
    char text[32];

    (void)self;
    snprintf(text, sizeof(text), "%zu", cd_req_body(req).n);
    reply_text(req, text);
    return CD_OK;
}

static enum cd_rc late(void *self, struct cd_req *req)
{
    struct later *l = later(req);

    (void)self;
    cd_req_park(req, 10000, false, later_cancel, l);
    cd_timer_set(loop, &l->timer, number(req, "ms", 30), later_reply, l);
    return CD_PENDING;
}

static enum cd_rc park(void *self, struct cd_req *req)
{
    struct later *l = later(req);

    (void)self;
    l->next = held;
    held = l;
    cd_req_park(req, number(req, "timeout", 0), number(req, "watch", 0) != 0, later_cancel, l);
    return CD_PENDING;
}

/* From inside another request's handler: nothing else wakes the parked connections. */
static enum cd_rc release(void *self, struct cd_req *req)
{
    (void)self;
    while (held) {
        struct later *l = held;

        held = l->next;
        reply_text(l->req, "released");
        free(l);
    }
    reply_text(req, "ok");
    return CD_OK;
}

static enum cd_rc parked_and_answered(void *self, struct cd_req *req)
{
    (void)self;
    cd_req_park(req, 1000, true, NULL, NULL);
    reply_text(req, "at once");
    return CD_PENDING;
}

static enum cd_rc big(void *self, struct cd_req *req)
{
    size_t n = (size_t)number(req, "n", 1000000);
    char *body = malloc(n + 1);

    (void)self;
    if (!body)
        return CD_E_NO_MEMORY;
    memset(body, 'b', n);
    cd_req_reply(req, 200, "text/plain", (struct cd_str){body, n});
    free(body);
    return CD_OK;
}

static enum cd_rc facts(void *self, struct cd_req *req)
{
    struct cd_buf b;

    (void)self;
    cd_buf_init(&b, 65536);
    cd_buf_adds(&b, "{\"param\":");
    cd_buf_add_jsons(&b, cd_req_param(req, 0));
    cd_buf_adds(&b, ",\"method\":");
    cd_buf_add_jsons(&b, cd_req_method(req));
    cd_buf_adds(&b, ",\"path\":");
    cd_buf_add_jsons(&b, cd_req_path(req));
    cd_buf_adds(&b, ",\"ip\":");
    cd_buf_add_jsons(&b, cd_req_client_ip(req));
    cd_buf_adds(&b, ",\"id\":");
    cd_buf_add_jsons(&b, cd_req_id(req));
    cd_buf_adds(&b, ",\"x\":");
    cd_buf_add_jsons(&b, cd_req_query(req, "x"));
    cd_buf_adds(&b, ",\"header\":");
    cd_buf_add_jsons(&b, cd_req_header(req, "X-Test"));
    cd_buf_addc(&b, '}');
    cd_req_reply_json(req, 200, &b);
    return CD_OK;
}

static enum cd_rc inject(void *self, struct cd_req *req)
{
    (void)self;
    cd_req_add_header(req, "X-Good", "fine");
    cd_req_add_header(req, "X-Bad", "a\r\nX-Injected: yes");
    cd_req_add_header(req, "X-Worse\r\nX-Injected", "yes");
    cd_req_add_header(req, "Cache-Control", "max-age=60");
    reply_text(req, "ok");
    return CD_OK;
}

static enum cd_rc silent(void *self, struct cd_req *req)
{
    (void)self;
    (void)req;
    return CD_OK;
}

static enum cd_rc refused(void *self, struct cd_req *req)
{
    (void)self;
    cd_fail(cd_req_err(req), CD_E_LIMITED, "Slow \"down\".");
    cd_req_err(req)->retry_after_ms = 1500;
    return CD_E_LIMITED;
}

struct peer {
    struct cd_ws *ws;
    struct peer *next;
    char facts[4096];
};

static struct peer *peers;

static size_t queued(void)
{
    size_t n = 0;

    for (const struct peer *p = peers; p; p = p->next)
        n += cd_ws_queued(p->ws);
    return n;
}

static enum cd_rc stats(void *self, struct cd_req *req)
{
    struct cd_http_stats s;
    struct timespec cpu;
    struct cd_buf b;

    (void)self;
    cd_http_stats(http, &s);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    cd_buf_init(&b, 4096);
    cd_buf_addf(&b, "{\"parked\":%llu,\"connections\":%llu,\"refused\":%llu,\"cancelled\":%u,"
                "\"wsOpened\":%u,\"wsClosed\":%u,\"wsFilled\":%u,\"wsPongs\":%u,\"ws\":%zu,\"wsQueued\":%zu,"
                "\"cpuMs\":%lld,"
                "\"addresses\":%zu,\"handled\":%u,\"backend\":\"%s\"}",
                (unsigned long long)s.parked_now, (unsigned long long)s.connections_now,
                (unsigned long long)s.refused, cancelled, ws_opened, ws_closed, ws_filled, ws_pongs,
                cd_ws_count(), queued(), (long long)cpu.tv_sec * 1000 + cpu.tv_nsec / 1000000,
                cd_peers_addresses(), handled, cd_loop_backend(loop));
    cd_req_reply_json(req, 200, &b);
    return CD_OK;
}

#define ROUTE(roles, method, path, auth, max, fn) {roles, method, path, auth, max, fn, ""}
#define P CD_ROLE_PUBLIC

static const struct cd_route routes[] = {
    ROUTE(P, "GET", "/hello", CD_AUTH_NONE, 0, hello),
    ROUTE(P, "POST", "/hello", CD_AUTH_NONE, 0, hello),
    ROUTE(P, "POST", "/echo", CD_AUTH_NONE, 0, echo),
    ROUTE(P, "POST", "/small", CD_AUTH_NONE, 100, echo),
    ROUTE(P, "GET", "/late", CD_AUTH_NONE, 0, late),
    ROUTE(P, "GET", "/park", CD_AUTH_NONE, 0, park),
    ROUTE(P, "POST", "/release", CD_AUTH_NONE, 0, release),
    ROUTE(P, "GET", "/at-once", CD_AUTH_NONE, 0, parked_and_answered),
    ROUTE(P, "GET", "/big", CD_AUTH_NONE, 0, big),
    ROUTE(P, "GET", "/items/:id", CD_AUTH_NONE, 0, facts),
    ROUTE(P, "DELETE", "/items/:id", CD_AUTH_NONE, 0, facts),
    ROUTE(P, "GET", "/rest/*rest", CD_AUTH_NONE, 0, facts),
    ROUTE(P, "GET", "/inject", CD_AUTH_NONE, 0, inject),
    ROUTE(P, "GET", "/silent", CD_AUTH_NONE, 0, silent),
    ROUTE(P, "GET", "/refused", CD_AUTH_NONE, 0, refused),
    ROUTE(P, "GET", "/private", CD_AUTH_USER, 0, hello),
    ROUTE(P, "POST", "/private", CD_AUTH_USER, 0, echo),
    ROUTE(P, "GET", "/socket.io/", CD_AUTH_NONE, 0, facts),
    ROUTE(P | CD_ROLE_CONTROL, "GET", "/stats", CD_AUTH_NONE, 0, stats),
    ROUTE(CD_ROLE_CONTROL, "GET", "/control", CD_AUTH_NONE, 0, hello),
    ROUTE(CD_ROLE_CONTROL, "POST", "/length", CD_AUTH_NONE, 0, length),
    ROUTE(CD_ROLE_APPSERVICE, "PUT", "/transactions/:txn", CD_AUTH_HS, 0, length),
    {0},
};

static enum cd_rc judge_token(void *self, struct cd_req *req, enum cd_auth kind)
{
    const char *header = cd_req_header(req, "Authorization");
    struct later *l;

    (void)self;
    if (!header)
        return cd_fail(cd_req_err(req), CD_E_MISSING_TOKEN, NULL);
    if (kind == CD_AUTH_HS)
        return strcmp(header, "Bearer hs") == 0 ? CD_OK : CD_E_FORBIDDEN;
    if (strcmp(header, "Bearer good") == 0)
        return CD_OK;
    if (strncmp(header, "Bearer slow", 11) != 0)
        return cd_fail(cd_req_err(req), CD_E_UNKNOWN_TOKEN, NULL);
    l = later(req);
    l->auth_rc = strcmp(header, "Bearer slow-bad") == 0 ? CD_E_UNKNOWN_TOKEN : CD_OK;
    if (strcmp(header, "Bearer slow-parked") == 0) {
        cd_req_park(req, 50, true, later_cancel, l); /* nothing ever answers it */
        return CD_PENDING;
    }
    cd_timer_set(loop, &l->timer, 30, later_auth, l);
    return CD_PENDING;
}

/* --- WebSockets: an echo that takes a few orders ------------------------------------- */


static void *ws_open(void *self, struct cd_ws *ws, const struct cd_ws_hello *hello_msg, int *status,
                     char *why, size_t why_size)
{
    struct peer *p;
    struct cd_buf b;

    (void)self;
    if (strstr(hello_msg->target, "refuse=json")) {
        *status = 403;
        snprintf(why, why_size, "{\"code\":4}");
        return NULL;
    }
    if (strstr(hello_msg->target, "refuse")) {
        *status = 503;
        snprintf(why, why_size, "No room.");
        return NULL;
    }
    p = calloc(1, sizeof(*p));
    if (!p)
        return NULL;
    p->ws = ws;
    p->next = peers;
    peers = p;
    cd_buf_init(&b, sizeof(p->facts));
    cd_buf_adds(&b, "{\"target\":");
    cd_buf_add_jsons(&b, hello_msg->target);
    cd_buf_adds(&b, ",\"ip\":");
    cd_buf_add_jsons(&b, hello_msg->client_ip);
    cd_buf_adds(&b, ",\"origin\":");
    cd_buf_add_jsons(&b, hello_msg->origin);
    cd_buf_addc(&b, '}');
    snprintf(p->facts, sizeof(p->facts), "%s", b.failed ? "{}" : b.p);
    cd_buf_done(&b);
    ws_opened++;
    return p;
}

static void ws_ready(void *user)
{
    struct peer *p = user;

    cd_ws_send(p->ws, p->facts, strlen(p->facts));
}

/* "flood N SIZE": as many messages at once, numbered, until the connection refuses more. */
static void flood(struct peer *p, const char *text)
{
    int n = 0, size = 0;
    char *body;

    if (sscanf(text, "flood %d %d", &n, &size) != 2 || size < 16 || size > 1000000)
        return;
    body = malloc((size_t)size + 1);
    if (!body)
        return;
    memset(body, 'f', (size_t)size);
    for (int i = 0; i < n; i++) {
        body[snprintf(body, 16, "%d", i)] = ' ';
        if (!cd_ws_send(p->ws, body, (size_t)size))
            break;
    }
    free(body);
}

/* "fill": numbered messages until the socket takes no more, 20 after that, then "filled N". */
static void fill(struct peer *p)
{
    static char body[20000];
    int more = 20, n = 0;

    memset(body, 'f', sizeof(body));
    while (more > 0 && n < 5000) {
        body[snprintf(body, 16, "%d", n++)] = ' ';
        if (!cd_ws_send(p->ws, body, sizeof(body)))
            return;
        more -= cd_ws_queued(p->ws) > 0;
    }
    snprintf(body, sizeof(body), "filled %d", n);
    cd_ws_send(p->ws, body, strlen(body));
    ws_filled += cd_ws_queued(p->ws) > 0;
}

static void ws_text(void *user, char *text, size_t n)
{
    struct peer *p = user;

    if (strncmp(text, "flood ", 6) == 0)
        flood(p, text);
    else if (strcmp(text, "fill") == 0)
        fill(p);
    else if (strcmp(text, "ping") == 0)
        cd_ws_ping(p->ws);
    else if (strncmp(text, "close ", 6) == 0)
        cd_ws_close(p->ws, (uint16_t)strtoul(text + 6, NULL, 10), "as ordered");
    else
        cd_ws_send(p->ws, text, n);
}

static void ws_binary(void *user, const void *bytes, size_t n)
{
    cd_ws_send_binary(((struct peer *)user)->ws, bytes, n);
}

static void ws_close(void *user)
{
    ws_closed++;
    for (struct peer **at = &peers; *at; at = &(*at)->next) {
        if (*at == user) {
            *at = (*at)->next;
            break;
        }
    }
    free(user);
}

static void ws_pong(void *user)
{
    (void)user;
    ws_pongs++;
}

static const struct cd_ws_ops ws_ops = {ws_open, ws_ready, ws_text, ws_binary, ws_close, ws_pong};

/* --- life ---------------------------------------------------------------------------- */

static int patience;

static void stop_when_idle(void *arg)
{
    (void)arg;
    if ((cd_http_idle(http) && cd_ws_count() == 0) || --patience <= 0) {
        cd_loop_stop(loop);
        return;
    }
    cd_timer_set(loop, &stop_timer, 20, stop_when_idle, NULL);
}

static void on_signal(void *arg, int signo)
{
    (void)arg;
    if (signo == SIGHUP) {
        struct cd_http_conf conf = {.cors_origins = "https://reloaded.example",
                                    .trust_proxy = "true", .per_ip = 1000};

        cd_http_reload(http, &conf);
        return;
    }
    if (signo == SIGUSR1) { /* the hard way: nothing is drained */
        cd_loop_stop(loop);
        return;
    }
    for (size_t i = 0; i < 3; i++) {
        cd_listener_close(listeners[i]);
        listeners[i] = NULL;
    }
    cd_http_drain(http);
    cd_ws_close_all();
    patience = 100;
    stop_when_idle(NULL);
}

static const struct option options[] = {
    {"poll", no_argument, NULL, 'p'},        {"prefix", required_argument, NULL, 'x'},
    {"trust", required_argument, NULL, 't'}, {"per-ip", required_argument, NULL, 'i'},
    {"origins", required_argument, NULL, 'o'}, {"control", required_argument, NULL, 'c'},
    {"queue", required_argument, NULL, 'q'}, {"bodies", required_argument, NULL, 'b'},
    {"max", required_argument, NULL, 'm'},
    {0}};

static struct cd_listener *must_listen(const char *address, enum cd_role role, const char *prefix)
{
    struct cd_err err = {0};
    struct cd_listener *l = cd_listener_open(loop, http, address, role, prefix, &err);

    if (!l) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    return l;
}

int main(int argc, char **argv)
{
    struct cd_loop_conf loop_conf = {.max_fds = 4096};
    struct cd_http_conf conf = {.path_prefix = "", .cors_origins = "*", .trust_proxy = "",
                                .max_connections = 1000};
    struct cd_ws_conf ws_conf = {.max_message = 100000, .queue_messages = 64,
                                 .queue_bytes = 1048576};
    const char *control = NULL;
    int c;

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (c) {
        case 'p': loop_conf.force_poll = true; break;
        case 'x': conf.path_prefix = optarg; break;
        case 't': conf.trust_proxy = optarg; break;
        case 'i': conf.per_ip = (unsigned)strtoul(optarg, NULL, 10); break;
        case 'o': conf.cors_origins = optarg; break;
        case 'c': control = optarg; break;
        case 'q': ws_conf.queue_messages = strtoul(optarg, NULL, 10); break;
        case 'm': conf.max_connections = (unsigned)strtoul(optarg, NULL, 10); break;
        case 'b': conf.body_bytes = strtoul(optarg, NULL, 10); break;
        default: return 2;
        }
    }
    cd_log_setup(getenv("TRANSPORT_DEBUG") ? CD_LOG_DEBUG : CD_LOG_WARN, 0);
    if (cd_secret_init() < 0)
        return 1;
    cd_ws_setup(&ws_ops, NULL, &ws_conf);
    cd_ws_set_proxy(conf.path_prefix, conf.trust_proxy);
    cd_ws_set_origins(conf.cors_origins);
    loop = cd_loop_new(&loop_conf);
    http = loop ? cd_http_new(loop, &conf) : NULL;
    if (!http || cd_http_add_routes(http, routes, NULL) != CD_OK)
        return 1;
    cd_http_set_auth(http, judge_token, NULL);
    cd_loop_on_signal(loop, on_signal, NULL);
    listeners[0] = must_listen("127.0.0.1:0", CD_ROLE_PUBLIC, conf.path_prefix);
    listeners[1] = must_listen("[::1]:0", CD_ROLE_APPSERVICE, "");
    if (control)
        listeners[2] = must_listen(control, CD_ROLE_CONTROL, "");
    printf("{\"public\":\"%s\",\"appservice\":\"%s\",\"backend\":\"%s\"}\n",
           cd_listener_address(listeners[0]), cd_listener_address(listeners[1]),
           cd_loop_backend(loop));
    fflush(stdout);
    cd_loop_run(loop);
    for (size_t i = 0; i < 3; i++)
        cd_listener_close(listeners[i]);
    cd_http_free(http);
    cd_loop_free(loop);
    printf("stopped\n");
    return 0;
}

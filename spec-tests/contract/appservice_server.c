/* appservice_server.c -- the appservice listener on the daemon's real loop, HTTP server, token
 * check and memory store, with an application that remembers what it was handed: what
 * appservice_contract.test.mjs talks to.
 *
 * An event whose content has `"hold": true` keeps its transaction until POST /test/release/:rc.
 * Arguments: "legacy" adds the old paths, "hasty" gives up on a transaction after 300 ms. Prints
 * "ready ADDRESS". Serves until SIGTERM, or until its standard input ends, so that no test leaves
 * it behind.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/log.h"
#include "base/scan.h"
#include "base/secret.h"
#include "in/appservice.h"
#include "in/auth.h"
#include "in/http.h"
#include "in/listener.h"
#include "loop/loop.h"

#define HELD_MAX 4096

static struct cd_loop *loop;
static struct cd_appservice *appservice;
static struct cd_buf events; /* delivered ones, as JSON objects with commas between */
static struct cd_txn *held[HELD_MAX];
static size_t held_n;
static unsigned delivered;

/* --- the application ------------------------------------------------------------------------ */

static void remember(const struct cd_txn *txn, const struct cd_mx_event *ev)
{
    const char *call_id = json_string_value(json_object_get(ev->content, "call_id"));
    char *content = json_dumps(ev->content, JSON_COMPACT);

    if (events.n)
        cd_buf_addc(&events, ',');
    cd_buf_adds(&events, "{\"event_id\":");
    cd_buf_add_jsons(&events, ev->event_id);
    cd_buf_adds(&events, ",\"room_id\":");
    cd_buf_add_jsons(&events, ev->room_id);
    cd_buf_adds(&events, ",\"sender\":");
    cd_buf_add_jsons(&events, ev->sender);
    cd_buf_adds(&events, ",\"type\":");
    cd_buf_add_jsons(&events, ev->type);
    cd_buf_adds(&events, ",\"state_key\":");
    cd_buf_add_jsons(&events, ev->state_key);
    cd_buf_addf(&events, ",\"age_ms\":%lld,\"ends\":%s,\"content\":", (long long)ev->age_ms,
                call_id && cd_txn_ends_call(txn, ev->room_id, call_id) ? "true" : "false");
    cd_buf_adds(&events, content ? content : "null");
    cd_buf_addc(&events, '}');
    free(content);
}

static void on_event(void *self, struct cd_txn *txn, const struct cd_mx_event *ev)
{
    (void)self;
    delivered++;
    if (!json_is_true(json_object_get(ev->content, "quiet")))
        remember(txn, ev);
    if (json_is_true(json_object_get(ev->content, "hold")) && held_n < HELD_MAX) {
        held[held_n++] = txn;
        cd_txn_hold(txn);
    }
}

static bool wants(void *self, const struct cd_mx_event *ev, struct cd_str raw_content)
{
    struct cd_str v;

    (void)self;
    return strcmp(ev->type, "m.call.candidates") != 0 || !cd_json_find(raw_content, "unwanted", &v);
}

/* --- what the test asks --------------------------------------------------------------------- */

static enum cd_rc get_events(void *self, struct cd_req *req)
{
    struct cd_buf b;

    (void)self;
    cd_buf_init(&b, events.n + 64);
    cd_buf_addc(&b, '[');
    if (events.n)
        cd_buf_add(&b, events.p, events.n);
    cd_buf_addc(&b, ']');
    cd_buf_reset(&events);
    cd_req_reply_json(req, 200, &b);
    return CD_OK;
}

static enum cd_rc get_stats(void *self, struct cd_req *req)
{
    struct cd_as_stats s;
    struct cd_buf b;

    (void)self;
    cd_as_stats(appservice, &s);
    cd_buf_init(&b, 1024);
    cd_buf_addf(&b,
                "{\"transactions\":%llu,\"duplicateTxns\":%llu,\"events\":%llu,\"relevant\":%llu,",
                (unsigned long long)s.transactions, (unsigned long long)s.duplicate_txns,
                (unsigned long long)s.events, (unsigned long long)s.relevant);
    cd_buf_addf(&b, "\"duplicateEvents\":%llu,\"quarantined\":%llu,\"lag\":%lld,",
                (unsigned long long)s.duplicate_events, (unsigned long long)s.quarantined,
                (long long)s.last_lag_ms);
    cd_buf_addf(&b, "\"delivered\":%u,\"held\":%zu,\"ping\":", delivered, held_n);
    cd_buf_add_jsons(&b, s.last_ping_id);
    cd_buf_addc(&b, '}');
    cd_req_reply_json(req, 200, &b);
    return CD_OK;
}

static enum cd_rc post_release(void *self, struct cd_req *req)
{
    const char *name = cd_req_param(req, 0);
    enum cd_store_rc rc = CD_STORE_OK;
    size_t n = held_n;
    struct cd_txn *now[HELD_MAX];

    (void)self;
    if (!strcmp(name, "down"))
        rc = CD_STORE_DOWN;
    else if (!strcmp(name, "full"))
        rc = CD_STORE_FULL;
    else if (!strcmp(name, "duplicate"))
        rc = CD_STORE_DUPLICATE;
    memcpy(now, held, n * sizeof *now);
    held_n = 0;
    for (size_t i = 0; i < n; i++)
        cd_txn_release(now[i], rc);
    cd_req_reply(req, 200, "application/json", CD_STR("{}"));
    return CD_OK;
}

static const struct cd_route test_routes[] = {
    {CD_ROLE_APPSERVICE, "GET", "/test/events", CD_AUTH_NONE, 1024, get_events,
     "Delivered since then."},
    {CD_ROLE_APPSERVICE, "GET", "/test/stats", CD_AUTH_NONE, 1024, get_stats, "Counters."},
    {CD_ROLE_APPSERVICE, "POST", "/test/release/:rc", CD_AUTH_NONE, 1024, post_release, "Let go."},
    {0},
};

/* --- the process ---------------------------------------------------------------------------- */

static void on_signal(void *arg, int signo)
{
    (void)arg;
    if (signo == SIGTERM || signo == SIGINT)
        cd_loop_stop(loop);
}

static void on_input(void *arg, uint32_t bits)
{
    char c;

    (void)arg;
    (void)bits;
    if (read(STDIN_FILENO, &c, 1) <= 0)
        cd_loop_stop(loop);
}

static struct cd_http *serve_http(struct cd_auth_svc *auth)
{
    static const struct cd_http_conf conf = {.path_prefix = "", .cors_origins = "*",
                                             .trust_proxy = "",
                                             .header_bytes = 16384, .max_connections = 1000};
    struct cd_http *http = cd_http_new(loop, &conf);

    if (!http || cd_http_add_routes(http, test_routes, NULL) != CD_OK)
        return NULL;
    cd_http_set_auth(http, cd_auth_http, auth);
    return http;
}

static bool is_set(int argc, char **argv, const char *name)
{
    return argc > 1 && strcmp(argv[1], name) == 0;
}

int main(int argc, char **argv)
{
    static const struct cd_loop_conf loop_conf = {.max_fds = 4096};
    static const struct cd_auth_conf auth_conf = {
        .homeserver_url = "", .server_name = "example.org", .as_token = "the-as-token-of-the-test",
        .hs_token = "the-hs-token-of-the-test", .admin_users = "", .admin_token_file = ""};
    static const struct cd_as_ops ops = {on_event, wants};
    const struct cd_as_conf as_conf = {.legacy_paths = is_set(argc, argv, "legacy"),
                                       .max_event_bytes = 65536,
                                       .answer_ms = is_set(argc, argv, "hasty") ? 300 : 0};
    struct cd_err err = {.rc = CD_OK};
    struct cd_auth_svc *auth;
    struct cd_listener *listener;
    struct cd_store *store;
    struct cd_http *http;
    struct cd_io *input;

    cd_log_setup(CD_LOG_ERROR, 0);
    cd_buf_init(&events, 256 << 20);
    loop = cd_secret_init() == 0 ? cd_loop_new(&loop_conf) : NULL;
    auth = loop ? cd_auth_new(loop, NULL, &auth_conf) : NULL;
    http = auth ? serve_http(auth) : NULL;
    store = http ? cd_store_mem_open(loop) : NULL;
    appservice = store ? cd_as_new(loop, http, store, &as_conf, &ops, NULL) : NULL;
    listener = NULL;
    if (appservice)
        listener = cd_listener_open(loop, http, "127.0.0.1:0", CD_ROLE_APPSERVICE, "", &err);
    if (!listener) {
        fprintf(stderr, "cannot serve: %s\n", err.text);
        return 1;
    }
    input = cd_io_add(loop, STDIN_FILENO, EPOLLIN | EPOLLHUP, on_input, NULL);
    cd_loop_on_signal(loop, on_signal, NULL);
    printf("ready %s\n", cd_listener_address(listener));
    fflush(stdout);
    cd_loop_run(loop);

    cd_io_del(input);
    cd_listener_close(listener);
    cd_http_drain(http);
    cd_as_free(appservice);
    for (size_t i = 0; i < held_n; i++)
        cd_txn_release(held[i], CD_STORE_DOWN);
    store->ops->close(store);
    cd_http_free(http);
    cd_auth_free(auth);
    cd_loop_free(loop);
    cd_buf_done(&events);
    return 0;
}

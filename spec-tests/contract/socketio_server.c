/* socketio_server.c -- the daemon's sockets on its real loop, HTTP server and WebSockets, with an
 * application that echoes: what socketio_contract.test.mjs talks to.
 *
 * Arguments: name=milliseconds or name=count, see `settings`. Prints "ready ADDRESS".
 * Serves until SIGTERM, or until its standard input ends, so that no test leaves it behind.
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
#include "in/http.h"
#include "in/listener.h"
#include "in/sock.h"
#include "loop/loop.h"

#define LATER_MS 60

static struct cd_loop *loop;
static unsigned connected, disconnected;

static struct cd_sock_conf conf = {
    .ping_interval_ms = 300,
    .ping_timeout_ms = 200,
    .max_payload = 100000,
    .connect_timeout_ms = 1000,
    .queue_messages = 256,
    .queue_bytes = 1 << 20,
    .max_sessions = 200,
};

/* --- things done later: answers that come after the callback ---------------------------------- */

struct later {
    struct cd_timer timer;
    uint64_t sock_id; /* of a CONNECT to finish, or 0 */
    struct cd_ack ack;
};

static void fire(void *arg)
{
    struct later *later = arg;

    if (later->sock_id) {
        connected++;
        cd_sock_connected(later->sock_id, CD_OK, &connected, NULL);
    } else {
        cd_ack_ok(&later->ack, CD_STR("{\"late\":true}"));
    }
    free(later);
}

static struct later *do_later(void)
{
    struct later *later = calloc(1, sizeof(*later));

    if (!later || cd_timer_set(loop, &later->timer, LATER_MS, fire, later) != 0)
        abort();
    return later;
}

/* --- the application -------------------------------------------------------------------------- */

static bool token_is(struct cd_str auth, const char *want)
{
    struct cd_str value;
    char token[32];

    return cd_json_find(auth, "token", &value) && cd_json_text(value, token, sizeof(token)) >= 0 &&
           strcmp(token, want) == 0;
}

static enum cd_rc on_connect(void *self, struct cd_sock *sock, struct cd_str auth, void **out_user,
                             struct cd_err *err)
{
    (void)self;
    if (token_is(auth, "bad"))
        return cd_fail(err, CD_E_UNKNOWN_TOKEN, "This token is bad.");
    if (token_is(auth, "never"))
        return CD_PENDING;
    if (token_is(auth, "slow")) {
        do_later()->sock_id = cd_sock_id(sock);
        return CD_PENDING;
    }
    connected++;
    *out_user = &connected;
    return CD_OK;
}

static void flood(struct cd_sock *sock, struct cd_str payload)
{
    struct cd_str value;
    long long n = 0;

    if (!cd_json_find(payload, "n", &value) || !cd_json_int(value, &n))
        return;
    for (long long i = 0; i < n; i++) {
        if (!cd_sock_emit(sock, "drop", payload))
            return;
    }
}

static void stats(const struct cd_ack *ack)
{
    struct cd_sock_stats now;
    struct cd_buf b;

    cd_sock_stats(&now);
    cd_buf_init(&b, 512);
    cd_buf_addf(&b,
                "{\"sessions\":%zu,\"sockets\":%zu,\"polling\":%zu,\"websocket\":%zu,"
                "\"connected\":%u,\"disconnected\":%u,\"slow\":%llu}",
                now.sessions, now.sockets, now.polling, now.websocket, connected, disconnected,
                (unsigned long long)now.closed_slow);
    cd_ack_ok(ack, (struct cd_str){b.p, b.n});
    cd_buf_done(&b);
}

static void on_event(void *user, struct cd_sock *sock, struct cd_str event, struct cd_str payload,
                     const struct cd_ack *ack)
{
    struct cd_err err;

    (void)user;
    if (cd_str_is(event, "echo")) {
        cd_sock_emit(sock, "echo-back", payload);
        cd_ack_ok(ack, payload);
    } else if (cd_str_is(event, "later")) {
        do_later()->ack = *ack;
    } else if (cd_str_is(event, "flood")) {
        flood(sock, payload);
        cd_ack_ok(ack, CD_STR(""));
    } else if (cd_str_is(event, "kick")) {
        cd_sock_disconnect(sock);
    } else if (cd_str_is(event, "tell-all")) {
        cd_sock_broadcast("told", payload);
    } else if (cd_str_is(event, "stats")) {
        stats(ack);
    } else {
        cd_fail(&err, CD_E_UNRECOGNIZED, "There is no such event.");
        cd_ack_fail(ack, &err, "z1");
    }
}

static void on_disconnect(void *self, void *user, struct cd_sock *sock)
{
    (void)self;
    (void)sock;
    disconnected += user != NULL;
}

/* --- the process ------------------------------------------------------------------------------ */

static void read_setting(const char *arg)
{
    const struct {
        const char *name;
        unsigned *at;
    } settings[] = {
        {"ping-interval", &conf.ping_interval_ms},
        {"ping-timeout", &conf.ping_timeout_ms},
        {"connect-timeout", &conf.connect_timeout_ms},
        {"max-sessions", &conf.max_sessions},
    };
    const char *eq = strchr(arg, '=');
    uint64_t value;

    for (size_t i = 0; eq && i < sizeof(settings) / sizeof(settings[0]); i++) {
        if (strncmp(arg, settings[i].name, (size_t)(eq - arg)) == 0 &&
            cd_parse_u64(cd_str_of(eq + 1), 1, 1000000, &value)) {
            *settings[i].at = (unsigned)value;
            return;
        }
    }
    fprintf(stderr, "unknown setting: %s\n", arg);
    exit(2);
}

static void on_signal(void *arg, int signo)
{
    (void)arg;
    if (signo == SIGTERM || signo == SIGINT)
        cd_loop_stop(loop);
}

static void on_input(void *arg, uint32_t events)
{
    char c;

    (void)arg;
    (void)events;
    if (read(STDIN_FILENO, &c, 1) <= 0)
        cd_loop_stop(loop);
}

static struct cd_http *serve_http(void)
{
    static const struct cd_http_conf http_conf = {.path_prefix = "",
                                                  .cors_origins = "*",
                                                  .trust_proxy = "",
                                                  .header_bytes = 16384,
                                                  .max_connections = 1000,
                                                  .per_ip = 0};
    struct cd_http *http = cd_http_new(loop, &http_conf);

    if (!http || cd_sock_add_routes(loop, http) != CD_OK) {
        fprintf(stderr, "no HTTP server\n");
        exit(1);
    }
    return http;
}

int main(int argc, char **argv)
{
    static const struct cd_sock_ops ops = {on_connect, on_event, on_disconnect};
    static const struct cd_loop_conf loop_conf = {.max_fds = 4096};
    struct cd_err err = {.rc = CD_OK};
    struct cd_listener *listener;
    struct cd_http *http;
    struct cd_io *input;

    for (int i = 1; i < argc; i++)
        read_setting(argv[i]);
    cd_log_setup(CD_LOG_INFO, 0);
    if (cd_secret_init() != 0)
        return 1;
    cd_sock_setup(&ops, NULL, &conf);
    loop = cd_loop_new(&loop_conf);
    if (!loop)
        return 1;
    http = serve_http();
    listener = cd_listener_open(loop, http, "127.0.0.1:0", CD_ROLE_PUBLIC, "", &err);
    if (!listener) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    cd_loop_on_signal(loop, on_signal, NULL);
    input = cd_io_add(loop, STDIN_FILENO, EPOLLIN, on_input, NULL);
    printf("ready %s\n", cd_listener_address(listener));
    fflush(stdout);
    cd_loop_run(loop);
    cd_io_del(input);
    cd_listener_close(listener);
    cd_sock_close_all();
    cd_http_drain(http);
    cd_http_free(http);
    cd_loop_free(loop);
    return 0;
}

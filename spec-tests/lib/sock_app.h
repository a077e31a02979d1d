/* sock_app.h -- for tests of client sockets on the transport made of memory: the module above them,
 * which remembers what happened, and the client below, which speaks the protocol by hand. */
#ifndef CD_TEST_SOCK_APP_H
#define CD_TEST_SOCK_APP_H

#include "in/sock.h"
#include "in/sock_priv.h"
#include "sock_fakes.h"
#include "tap.h"

/* --- the module above: remembers what happened ------------------------------------------------ */

static struct {
    struct cd_sock *sock;
    uint64_t id;
    enum cd_rc connect_rc;
    bool emit_in_connect, kick_on_event;
    bool any_order; /* several sockets come and go: on_disconnect checks nothing */
    unsigned connects, events, gone;
    void *gone_user;
    char auth[256], event[64], payload[512];
    struct cd_ack ack;
} app;

static char the_user;

static inline void copy(char *out, size_t size, struct cd_str s)
{
    snprintf(out, size, "%.*s", (int)s.n, s.p);
}

static enum cd_rc on_connect(void *self, struct cd_sock *sock, struct cd_str auth, void **out_user,
                             struct cd_err *err)
{
    (void)self;
    app.connects++;
    app.sock = sock;
    app.id = cd_sock_id(sock);
    copy(app.auth, sizeof(app.auth), auth);
    if (app.emit_in_connect)
        cd_sock_emit(sock, "early", CD_STR("1"));
    if (app.connect_rc == CD_OK)
        *out_user = &the_user;
    else if (app.connect_rc != CD_PENDING)
        cd_fail(err, app.connect_rc, "no");
    return app.connect_rc;
}

static inline void on_event(void *user, struct cd_sock *sock, struct cd_str event, struct cd_str payload,
                     const struct cd_ack *ack)
{
    CHECK(user == &the_user);
    app.events++;
    app.ack = *ack;
    copy(app.event, sizeof(app.event), event);
    copy(app.payload, sizeof(app.payload), payload);
    if (app.kick_on_event) {
        cd_sock_disconnect(sock);
        CHECK_INT(app.gone, 0);
    }
}

static inline void on_disconnect(void *self, void *user, struct cd_sock *sock)
{
    (void)self;
    app.gone++;
    app.gone_user = user;
    if (app.any_order)
        return;
    CHECK(cd_sock_id(sock) == app.id);
    CHECK(cd_sock_by_id(app.id) == NULL);
    CHECK(!cd_sock_emit(sock, "too-late", CD_STR("{}")));
}

static inline void begin(void)
{
    static const struct cd_sock_ops ops = {on_connect, on_event, on_disconnect};
    static const struct cd_sock_conf conf = {.ping_interval_ms = 300,
                                             .ping_timeout_ms = 200,
                                             .max_payload = 4096,
                                             .connect_timeout_ms = 1000,
                                             .queue_messages = 4,
                                             .queue_bytes = 200,
                                             .max_sessions = 2000};

    memset(&app, 0, sizeof(app));
    cd_sock_setup(&ops, NULL, &conf);
    cd_sock_add_routes(NULL, NULL);
}

/** Nothing may be left of a test. */
static inline void end(void)
{
    struct cd_sock_stats stats;

    cd_sock_close_all();
    cd_sock_stats(&stats);
    CHECK_INT(stats.sessions, 0);
    CHECK_INT(stats.sockets, 0);
    CHECK_INT(stats.polling, 0);
    CHECK_INT(stats.websocket, 0);
    CHECK_INT(fake_timers_armed(), 0);
}

/* --- the client below ------------------------------------------------------------------------- */

static char query[128]; /* of the session that was opened last */

static inline void use_sid(const char *open_packet)
{
    snprintf(query, sizeof(query), "EIO=4&transport=polling&sid=%.20s",
             strlen(open_packet) > 29 ? open_packet + 9 : "");
}

static inline void open_polling(void)
{
    struct cd_req *req = fake_request("GET", "EIO=4&transport=polling", "");

    CHECK_INT(req->status, 200);
    use_sid(req->answer);
    free(req);
}

/** POST @p body; @return the status */
static inline int post(const char *body)
{
    struct cd_req *req = fake_request("POST", query, body);
    int status = req->status;

    free(req);
    return status;
}

/** GET that must be answered at once. */
static inline const char *poll_now(int *status)
{
    static char answer[4096];
    struct cd_req *req = fake_request("GET", query, "");

    *status = req->status;
    snprintf(answer, sizeof(answer), "%s", req->answer);
    CHECK(req->status != 0);
    free(req);
    return answer;
}

#define CHECK_POLL(want_status, want)                 \
    do {                                              \
        int poll_status;                              \
        const char *poll_got = poll_now(&poll_status); \
                                                      \
        CHECK_STR(poll_got, want);                    \
        CHECK_INT(poll_status, want_status);          \
    } while (0)

#define CHECK_GONE() CHECK_POLL(400, "{\"code\":1,\"message\":\"Session ID unknown\"}")

static inline void connect_polling(void)
{
    int status;

    open_polling();
    CHECK_INT(post("40{\"token\":\"t\"}"), 200);
    CHECK_INT(strncmp(poll_now(&status), "40{\"sid\":\"", 10), 0);
}

static inline struct cd_ws *connect_ws(void)
{
    struct cd_ws *ws = fake_ws_open("/socket.io/?EIO=4&transport=websocket");

    fake_ws_say(ws, "40");
    return ws;
}

static inline struct cd_ws *probe(void)
{
    char target[160];

    snprintf(target, sizeof(target), "/socket.io/?EIO=4&transport=websocket&sid=%s",
             strrchr(query, '=') + 1);
    return fake_ws_open(target);
}

#endif

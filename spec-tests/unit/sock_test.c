/* sock_test.c -- client sockets on a transport made of memory: heartbeats to the millisecond, the
 * upgrade, closing, queues, generation ids, and both forms. */
#include "in/sock.h"

#include <malloc.h>

#include "../lib/sock_fakes.h"
#include "../lib/tap.h"
#include "in/sock_priv.h"

/* --- the module above: remembers what happened ---------------------------------------------------- */

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

static void copy(char *out, size_t size, struct cd_str s)
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

static void on_event(void *user, struct cd_sock *sock, struct cd_str event, struct cd_str payload,
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

static void on_disconnect(void *self, void *user, struct cd_sock *sock)
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

static void begin(void)
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
static void end(void)
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

/* --- the client below -------------------------------------------------------------------------------- */

static char query[128]; /* of the session that was opened last */

static void use_sid(const char *open_packet)
{
    snprintf(query, sizeof(query), "EIO=4&transport=polling&sid=%.20s",
             strlen(open_packet) > 29 ? open_packet + 9 : "");
}

static void open_polling(void)
{
    struct cd_req *req = fake_request("GET", "EIO=4&transport=polling", "");

    CHECK_INT(req->status, 200);
    use_sid(req->answer);
    free(req);
}

/** POST @p body; @return the status */
static int post(const char *body)
{
    struct cd_req *req = fake_request("POST", query, body);
    int status = req->status;

    free(req);
    return status;
}

/** GET that must be answered at once. */
static const char *poll_now(int *status)
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

static void connect_polling(void)
{
    int status;

    open_polling();
    CHECK_INT(post("40{\"token\":\"t\"}"), 200);
    CHECK_INT(strncmp(poll_now(&status), "40{\"sid\":\"", 10), 0);
}

static struct cd_ws *connect_ws(void)
{
    struct cd_ws *ws = fake_ws_open("/socket.io/?EIO=4&transport=websocket");

    fake_ws_say(ws, "40");
    return ws;
}

static struct cd_ws *probe(void)
{
    char target[160];

    snprintf(target, sizeof(target), "/socket.io/?EIO=4&transport=websocket&sid=%s",
             strrchr(query, '=') + 1);
    return fake_ws_open(target);
}

/* --- tests: Engine.IO --------------------------------------------------------------------------------- */

static void handshakes(void)
{
    struct cd_req *req;
    struct cd_ws *ws;
    char want[256];

    begin();
    req = fake_request("GET", "EIO=4&transport=polling&t=abc", "");
    CHECK_INT(req->status, 200);
    snprintf(want, sizeof(want),
             "0{\"sid\":\"%.20s\",\"upgrades\":[\"websocket\"],\"pingInterval\":300,"
             "\"pingTimeout\":200,\"maxPayload\":4096}",
             req->answer + 9);
    CHECK_STR(req->answer, want);
    free(req);
    ws = fake_ws_open("/socket.io/?EIO=4&transport=websocket");
    CHECK(strstr(ws->last, "\"upgrades\":[],") != NULL);
    cd_sock_close_all();
    CHECK_INT(ws->code, 1001);
    fake_ws_gone(ws);
    end();
}

static void check_refusal(const char *method, const char *q, int code)
{
    struct cd_req *req = fake_request(method, q, "");
    char want[16];

    snprintf(want, sizeof(want), "{\"code\":%d,", code);
    if (!CHECK_INT(req->status, 400) || !CHECK_INT(strncmp(req->answer, want, 10), 0))
        printf("# %s %s: %s\n", method, q, req->answer);
    free(req);
}

static void refusals(void)
{
    char other[160];

    begin();
    open_polling();
    snprintf(other, sizeof(other), "EIO=4&transport=websocket&sid=%s", strrchr(query, '=') + 1);
    check_refusal("GET", "EIO=4", 0);
    check_refusal("GET", "EIO=4&transport=tobi", 0);
    check_refusal("GET", "EIO=4&transport=polling&sid=tobi", 1);
    check_refusal("GET", "EIO=4&transport=polling&sid=AAAAAAAAAAAAAAAAAAAA", 1);
    check_refusal("POST", "EIO=4&transport=polling", 2);
    check_refusal("PUT", "EIO=4&transport=polling", 2);
    check_refusal("GET", "EIO=4&transport=websocket", 3);
    check_refusal("GET", other, 3);
    check_refusal("PUT", query, 3);
    check_refusal("GET", "transport=polling", 5);
    check_refusal("GET", "EIO=3&transport=polling", 5);

    struct cd_req upgrade = {.method = "GET", .upgrade = "WebSocket", .origin = "https://a.example",
                             .query = "&EIO=4&transport=polling"};
    struct cd_req forged = {.method = "GET", .origin = "a\x01" "b",
                            .query = "&EIO=4&transport=polling"};

    fake.routes[0].handle(NULL, &upgrade);
    CHECK_INT(upgrade.status, 400);
    fake.routes[0].handle(NULL, &forged);
    CHECK_INT(forged.status, 400);
    CHECK_INT(post("40"), 200);
    end();
}

static void ws_refusals(void)
{
    static const struct {
        const char *target;
        int status;
    } rows[] = {
        {"/elsewhere", 404},
        {"/socket.io/", 400},
        {"/socket.io/?EIO=4&transport=polling", 400},
        {"/socket.io/?EIO=3&transport=websocket", 400},
        {"/socket.io/?transport=websocket", 400},
        {"/socket.io/?EIO=4&transport=websocket&sid=unknown", 400},
        {"/socket.io/?EIO=4&transport=websocket&sid="
         "0123456789012345678901234567890123456789012345678901234567890123456789", 400},
    };

    begin();
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct cd_ws *ws = fake_ws_open(rows[i].target);

        CHECK_INT(ws->refused, rows[i].status);
        fake_ws_gone(ws);
    }
    end();
}

static void heartbeat(void)
{
    struct cd_req *req;

    begin();
    connect_polling();
    req = fake_request("GET", query, "");
    fake_pass(299);
    CHECK_INT(req->status, 0);
    fake_pass(1);
    CHECK_STR(req->answer, "2");
    free(req);
    fake_pass(199);
    CHECK_INT(post("3"), 200); /* the next ping counts from here */
    fake_pass(299);
    req = fake_request("GET", query, "");
    CHECK_INT(req->status, 0);
    fake_pass(1);
    CHECK_STR(req->answer, "2");
    free(req);
    fake_pass(199);
    CHECK_INT(app.gone, 0);
    fake_pass(1);
    CHECK_INT(app.gone, 1);
    CHECK_GONE();
    end();
}

static void talk_extends_once(void)
{
    struct cd_ws *ws;

    begin();
    ws = connect_ws();
    fake_pass(300);
    CHECK_STR(ws->last, "2");
    fake_pass(199);
    fake_ws_say(ws, "42[\"x\"]");
    fake_pass(199);
    CHECK_INT(ws->code, 0);
    fake_ws_say(ws, "42[\"x\"]");
    fake_pass(1);
    CHECK_INT(ws->code, 1000);
    CHECK_INT(app.gone, 1);
    fake_ws_gone(ws);
    CHECK_INT(app.gone, 1);
    end();
}

static void one_poll_at_a_time(void)
{
    struct cd_req *first, *second;

    begin();
    connect_polling();
    first = fake_request("GET", query, "");
    second = fake_request("GET", query, "");
    CHECK_STR(first->answer, "1");
    CHECK_INT(first->status, 200);
    CHECK_INT(second->status, 400);
    free(first);
    free(second);
    CHECK_INT(app.gone, 1);
    CHECK_GONE();
    end();
}

static void client_closes(void)
{
    struct cd_req *req;

    begin();
    connect_polling();
    req = fake_request("GET", query, "");
    CHECK_INT(post("1"), 200);
    CHECK_STR(req->answer, "6");
    free(req);
    CHECK_GONE();
    CHECK_INT(app.gone, 1);

    connect_polling(); /* the poll may come just after the POST that closes */
    CHECK_INT(post("1"), 200);
    CHECK_INT(app.gone, 2);
    CHECK_INT(post("40"), 400);
    CHECK_POLL(200, "6");
    CHECK_GONE();

    connect_polling();
    CHECK_INT(post("1"), 200);
    fake_pass(100);
    CHECK_GONE();
    end();
}

static void client_leaves_its_poll(void)
{
    struct cd_req *req;

    begin();
    connect_polling();
    req = fake_request("GET", query, "");
    fake_leave(req);
    free(req);
    CHECK_INT(app.gone, 1);
    CHECK_GONE();
    end();
}

static void broken_posts(void)
{
    static const char *const bad[] = {"", "abc", "2", "7", "42{}", "42abc", "4", "bA", "3\x1e",
                                      "40\x1e" "4", "451-[\"x\"]\x1e" "42[\"y\"]"};

    begin();
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        app.gone = 0;
        connect_polling();
        if (!CHECK_INT(post(bad[i]), 400))
            printf("# %s\n", bad[i]);
        CHECK_INT(app.gone, 1);
        CHECK_GONE();
    }
    end();
}

static void octet_stream_closes(void)
{
    struct cd_req req = {.method = "POST", .type = "Application/Octet-Stream"};

    begin();
    connect_polling();
    snprintf(req.query, sizeof(req.query), "&%s", query);
    fake.routes[0].handle(NULL, &req);
    CHECK_INT(req.status, 400);
    CHECK_GONE();
    end();
}

static void polling_queue(void)
{
    begin();
    connect_polling();
    cd_sock_emit(app.sock, "a", CD_STR("1"));
    cd_sock_emit(app.sock, "b", CD_STR("{}"));
    CHECK_POLL(200, "42[\"a\",1]\x1e" "42[\"b\",{}]");
    for (int i = 0; i < 4; i++)
        CHECK(cd_sock_emit(app.sock, "c", CD_STR("1")));
    CHECK(!cd_sock_emit(app.sock, "c", CD_STR("1")));
    CHECK_INT(app.gone, 0); /* not within the call */
    fake_pass(0);
    CHECK_INT(app.gone, 1);
    CHECK_POLL(200, "1");
    CHECK_GONE();

    connect_polling();
    char big[260];

    memset(big, '1', sizeof(big));
    CHECK(!cd_sock_emit(app.sock, "d", (struct cd_str){big, sizeof(big)}));
    fake_pass(0);
    CHECK_INT(app.gone, 2);

    struct cd_sock_stats stats;

    cd_sock_stats(&stats);
    CHECK_INT(stats.closed_slow, 2);
    end();
}

static void upgrade(void)
{
    struct cd_req *req;
    struct cd_ws *ws, *late;

    begin();
    connect_polling();
    req = fake_request("GET", query, "");
    ws = probe();
    CHECK_INT(ws->refused, 0);
    fake_ws_say(ws, "2probe");
    CHECK_STR(ws->last, "3probe");
    CHECK_STR(req->answer, "6");
    free(req);
    cd_sock_emit(app.sock, "a", CD_STR("1")); /* until "5" everything waits for a poll */
    cd_sock_emit(app.sock, "b", CD_STR("2"));
    CHECK_INT(ws->sent, 1);
    fake_ws_say(ws, "5");
    CHECK_STR(ws->all, "3probe\n42[\"a\",1]\n42[\"b\",2]\n");
    cd_sock_emit(app.sock, "c", CD_STR("3"));
    CHECK_STR(ws->last, "42[\"c\",3]");
    CHECK_POLL(400, "{\"code\":3,\"message\":\"Bad request\"}");
    late = probe(); /* accepted and closed */
    CHECK_INT(late->refused, 0);
    CHECK_INT(late->code, 1000);
    fake_ws_gone(late);
    fake_pass(300);
    CHECK_STR(ws->last, "2");
    fake_ws_say(ws, "3");
    fake_ws_say(ws, "42[\"x\"]");
    CHECK_INT(app.events, 1);
    fake_ws_gone(ws);
    CHECK_INT(app.gone, 1);
    end();
}

static void polls_while_upgrading(void)
{
    struct cd_req *req;
    struct cd_ws *ws;

    begin();
    connect_polling();
    ws = probe();
    fake_ws_say(ws, "2probe");
    CHECK_POLL(200, "6");
    req = fake_request("GET", query, "");
    CHECK_INT(req->status, 0); /* let go after a while, or it would spin */
    fake_pass(100);
    CHECK_STR(req->answer, "6");
    free(req);
    cd_sock_emit(app.sock, "a", CD_STR("1"));
    CHECK_POLL(200, "42[\"a\",1]");
    req = fake_request("GET", query, "");
    fake_ws_say(ws, "5");
    CHECK_STR(req->answer, "6");
    free(req);
    fake_ws_gone(ws);
    end();
}

static void failed_probes(void)
{
    static const char *const wrong[] = {"2", "5", "40", "2probe2", ""};
    struct cd_ws *ws;

    begin();
    connect_polling();
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        ws = probe();
        fake_ws_say(ws, wrong[i]);
        CHECK_INT(ws->code, 1000);
        fake_ws_gone(ws);
    }
    ws = probe();
    fake_ws_say(ws, "2probe");
    fake_ws_gone(ws); /* the network lost it */
    ws = probe();
    for (int i = 0; i < 50; i++) {
        fake_pass(200);
        post("3");
    }
    CHECK_INT(ws->code, 1000); /* ten seconds are over */
    fake_ws_gone(ws);
    CHECK_INT(app.gone, 0);
    CHECK_INT(post("42[\"x\"]"), 200);
    CHECK_INT(app.events, 1);
    end();
}

static void ws_closing(void)
{
    static const char *const bad[] = {"1", "2", "", "x", "42{}", "4x"};

    begin();
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct cd_ws *ws = connect_ws();

        app.gone = 0;
        fake_ws_say(ws, bad[i]);
        CHECK(ws->code != 0);
        CHECK_INT(app.gone, 1);
        fake_ws_gone(ws);
        CHECK_INT(app.gone, 1);
    }
    end();
}

static void slow_ws(void)
{
    struct cd_ws *ws;
    struct cd_sock_stats before, after;

    begin();
    cd_sock_stats(&before);
    ws = connect_ws();
    ws->slow = true;
    CHECK(!cd_sock_emit(app.sock, "a", CD_STR("1")));
    CHECK(!cd_sock_emit(app.sock, "a", CD_STR("1")));
    cd_sock_stats(&after);
    CHECK_INT(after.closed_slow - before.closed_slow, 1);
    CHECK_INT(app.gone, 0);
    fake_ws_gone(ws);
    CHECK_INT(app.gone, 1);
    end();
}

static void cap_and_size(void)
{
    enum { N = 2000 };
    size_t before = mallinfo2().uordblks, after;
    struct cd_req *req;

    begin();
    for (int i = 0; i < N; i++)
        open_polling();
    after = mallinfo2().uordblks;
    req = fake_request("GET", "EIO=4&transport=polling", "");
    CHECK_INT(req->status, 503);
    free(req);
    printf("# %zu bytes an idle session\n", (after - before) / N);
    CHECK((after - before) / N <= 1024);
    end();
}

/* --- tests: Socket.IO ----------------------------------------------------------------------------------- */

static void connect_and_refuse(void)
{
    struct cd_ws *ws;
    char want[64];

    begin();
    app.connect_rc = CD_E_UNKNOWN_TOKEN;
    ws = fake_ws_open("/socket.io/?EIO=4&transport=websocket");
    fake_ws_say(ws, "40{\"token\":\"bad\"}");
    CHECK_STR(app.auth, "{\"token\":\"bad\"}");
    CHECK_STR(ws->last, "44{\"message\":\"no\",\"data\":{\"errcode\":\"M_UNKNOWN_TOKEN\","
                        "\"error\":\"no\"}}");
    CHECK_INT(app.gone, 0);
    CHECK_INT(ws->code, 0);
    app.connect_rc = CD_OK;
    fake_ws_say(ws, "40");
    CHECK_STR(app.auth, "{}");
    snprintf(want, sizeof(want), "40{\"sid\":\"%s\"}", cd_sock_public_id(app.sock));
    CHECK_STR(ws->last, want);
    CHECK_STR(cd_sock_client_ip(app.sock), "192.0.2.8");
    fake_ws_say(ws, "40"); /* twice */
    CHECK(ws->code != 0);
    fake_ws_gone(ws);
    end();
}

static void pending_connect(void)
{
    struct cd_ws *ws;
    uint64_t id;

    begin();
    app.connect_rc = CD_PENDING;
    ws = connect_ws();
    id = app.id;
    CHECK_INT(ws->sent, 1);
    CHECK(cd_sock_by_id(id) == app.sock);
    cd_sock_connected(id, CD_OK, &the_user, NULL);
    CHECK_INT(strncmp(ws->last, "40{", 3), 0);
    CHECK(cd_sock_user(app.sock) == &the_user);
    cd_sock_connected(id, CD_OK, &the_user, NULL); /* only once */
    CHECK_INT(ws->sent, 2);
    fake_ws_gone(ws);
    CHECK(app.gone_user == &the_user);

    ws = connect_ws();
    cd_sock_connected(app.id, CD_E_HOMESERVER, NULL, NULL);
    CHECK(strstr(ws->last, "ORG.CALLD.HOMESERVER_UNAVAILABLE") != NULL);
    fake_ws_gone(ws);
    CHECK_INT(app.gone, 1);

    ws = connect_ws(); /* an event before the answer */
    fake_ws_say(ws, "42[\"x\"]");
    CHECK(ws->code != 0);
    CHECK_INT(app.gone, 2);
    CHECK(app.gone_user == NULL);
    id = app.id;
    fake_ws_gone(ws);
    cd_sock_connected(id, CD_OK, &the_user, NULL); /* resolves to nothing */
    end();
}

static void early_events(void)
{
    struct cd_ws *ws;

    begin();
    app.emit_in_connect = true;
    ws = connect_ws();
    CHECK(strstr(ws->all, "42[\"early\",1]\n40{") != NULL);
    fake_ws_gone(ws);
    end();
}

static void namespaces(void)
{
    struct cd_ws *ws;

    begin();
    ws = connect_ws();
    fake_ws_say(ws, "40/random,{\"a\":1}");
    CHECK_STR(ws->last, "44/random,{\"message\":\"Invalid namespace\"}");
    CHECK_INT(ws->code, 0);
    fake_ws_say(ws, "42/random,[\"x\"]");
    CHECK(ws->code != 0);
    fake_ws_gone(ws);
    end();
}

static void events_and_acks(void)
{
    struct cd_ws *ws;
    struct cd_err err;
    unsigned sent;

    begin();
    ws = connect_ws();
    fake_ws_say(ws, "427[\"join-call\",{\"callId\":\"z1\"},\"more\"]");
    CHECK_STR(app.event, "join-call");
    CHECK_STR(app.payload, "{\"callId\":\"z1\"}");
    CHECK_INT(app.ack.id, 7);
    cd_ack_ok(&app.ack, CD_STR("{\"seq\":4}"));
    CHECK_STR(ws->last, "437[{\"ok\":true,\"seq\":4}]");
    cd_fail(&err, CD_E_NOT_FOUND, "gone");
    cd_ack_fail(&app.ack, &err, "z1");
    CHECK_STR(ws->last, "437[{\"ok\":false,\"errcode\":\"M_NOT_FOUND\",\"error\":\"gone\"}]");

    fake_ws_say(ws, "42[\"leave-call\"]");
    CHECK_STR(app.payload, "{}");
    sent = ws->sent;
    cd_ack_ok(&app.ack, CD_STR(""));
    CHECK_INT(ws->sent, sent); /* nobody asked */
    cd_ack_fail(&app.ack, &err, "z1");
    CHECK_STR(ws->last, "42[\"call-error\",{\"event\":\"leave-call\",\"callId\":\"z1\","
                        "\"errcode\":\"M_NOT_FOUND\",\"error\":\"gone\"}]");
    fake_ws_say(ws, "4399[\"an answer nobody waits for\"]");
    CHECK_INT(ws->code, 0);
    fake_ws_gone(ws);
    cd_ack_ok(&app.ack, CD_STR("")); /* resolves to nothing */
    cd_ack_fail(&app.ack, &err, NULL);
    end();
}

static void ids_never_come_back(void)
{
    struct cd_ws *ws;
    uint64_t first;

    begin();
    ws = connect_ws();
    first = app.id;
    fake_ws_say(ws, "41");
    CHECK_INT(app.gone, 1);
    CHECK_INT(ws->code, 0);
    fake_ws_say(ws, "40");
    CHECK(app.id != first);
    CHECK(cd_sock_by_id(first) == NULL);
    CHECK(cd_sock_by_id(app.id) == app.sock);
    fake_ws_gone(ws);
    CHECK(cd_sock_by_id(app.id) == NULL);
    CHECK(cd_sock_by_id(0) == NULL);
    CHECK(cd_sock_by_id(UINT64_MAX) == NULL);
    end();
}

static void connect_timeout(void)
{
    struct cd_ws *ws, *left;

    begin();
    ws = fake_ws_open("/socket.io/?EIO=4&transport=websocket");
    left = connect_ws();
    fake_ws_say(left, "41");
    for (int i = 0; i < 3; i++) {
        fake_pass(300);
        fake_ws_say(ws, "3");
        fake_ws_say(left, "3");
    }
    CHECK_INT(ws->code, 0);
    fake_pass(100);
    CHECK_INT(ws->code, 1000);
    CHECK_INT(left->code, 1000);
    fake_ws_gone(ws);
    fake_ws_gone(left);

    open_polling();
    for (int i = 0; i < 4; i++) {
        fake_pass(250);
        post("3");
    }
    CHECK_POLL(200, "1");
    CHECK_GONE();
    end();
}

static void kicks(void)
{
    struct cd_ws *ws;

    begin();
    app.kick_on_event = true;
    ws = connect_ws();
    fake_ws_say(ws, "42[\"x\"]");
    CHECK_STR(ws->last, "41");
    CHECK(!cd_sock_emit(app.sock, "a", CD_STR("1")));
    CHECK_INT(app.gone, 0);
    fake_ws_say(ws, "42[\"y\"]");
    CHECK_INT(app.events, 1); /* nothing more is heard */
    fake_pass(0);
    CHECK_INT(app.gone, 1);
    CHECK_INT(ws->code, 1000);
    fake_ws_gone(ws);

    app.gone = 0;
    connect_polling();
    CHECK_INT(post("42[\"x\"]\x1e" "42[\"y\"]"), 200);
    CHECK_INT(app.events, 2);
    fake_pass(0);
    CHECK_INT(app.gone, 1);
    CHECK_POLL(200, "41\x1e" "1");
    CHECK_GONE();
    end();
}

static void kicks_while_upgrading(void)
{
    struct cd_ws *ws;

    begin();
    connect_polling(); /* the client paused its polls before "41" could go out */
    ws = probe();
    fake_ws_say(ws, "2probe");
    cd_sock_disconnect(app.sock);
    fake_pass(0);
    CHECK_INT(app.gone, 1);
    CHECK_INT(ws->code, 0);
    fake_ws_say(ws, "5");
    CHECK_STR(ws->all, "3probe\n41\n");
    CHECK_INT(ws->code, 1000);
    fake_ws_gone(ws);
    CHECK_GONE();

    app.gone = 0;
    connect_polling(); /* "5" arrives before the closing is done */
    ws = probe();
    fake_ws_say(ws, "2probe");
    cd_sock_disconnect(app.sock);
    fake_ws_say(ws, "5");
    CHECK_STR(ws->all, "3probe\n41\n");
    fake_pass(0);
    CHECK_INT(ws->code, 1000);
    fake_ws_gone(ws);
    CHECK_INT(app.gone, 1);

    app.gone = 0;
    connect_polling(); /* or it polls once more after all */
    ws = probe();
    fake_ws_say(ws, "2probe");
    cd_sock_disconnect(app.sock);
    fake_pass(0);
    CHECK_POLL(200, "41\x1e" "1");
    CHECK_INT(ws->code, 1000);
    fake_ws_gone(ws);
    CHECK_INT(app.gone, 1);
    end();
}

static void binary_events(void)
{
    struct cd_ws *ws;

    begin();
    ws = connect_ws();
    fake_ws_say(ws, "452-3[\"f\",{\"_placeholder\":true,\"num\":0}]");
    fake_ws_binary(ws);
    fake_ws_say(ws, "bAQID");
    CHECK_INT(strncmp(ws->last, "433[{\"ok\":false,\"errcode\":\"M_INVALID_PARAM\"", 43), 0);
    CHECK_INT(app.events, 0);
    fake_ws_say(ws, "42[\"x\"]");
    CHECK_INT(app.events, 1);
    fake_ws_binary(ws); /* belongs to nothing */
    CHECK(ws->code != 0);
    fake_ws_gone(ws);

    connect_polling(); /* the attachment may come in the next POST */
    CHECK_INT(post("451-[\"f\",{\"_placeholder\":true,\"num\":0}]"), 200);
    CHECK_INT(post("bAQIDBA=="), 200);
    int status;

    CHECK(strstr(poll_now(&status), "42[\"call-error\",{\"event\":\"f\",\"errcode\"") != NULL);
    end();
}

/* --- tests: /ws ---------------------------------------------------------------------------------------- */

static void plain_json(void)
{
    struct cd_ws *ws;
    struct cd_err err;

    begin();
    ws = fake_ws_open("/ws");
    CHECK_INT(ws->sent, 0);
    fake_ws_say(ws, " {\"type\":\"connect\",\"auth\":{\"token\":\"t\"}} ");
    CHECK_STR(app.auth, "{\"token\":\"t\"}");
    CHECK_INT(strncmp(ws->last, "{\"type\":\"connect\",\"sid\":\"", 25), 0);
    fake_ws_say(ws, "{\"type\":\"join-call\",\"id\":5,\"callId\":\"z1\"}");
    CHECK_STR(app.event, "join-call");
    CHECK_STR(app.payload, "{\"type\":\"join-call\",\"id\":5,\"callId\":\"z1\"}");
    cd_ack_ok(&app.ack, CD_STR("{\"seq\":1}"));
    CHECK_STR(ws->last, "{\"type\":\"ack\",\"id\":5,\"ok\":true,\"seq\":1}");
    cd_fail(&err, CD_E_NOT_FOUND, "gone");
    cd_ack_fail(&app.ack, &err, NULL);
    CHECK_STR(ws->last, "{\"type\":\"ack\",\"id\":5,\"ok\":false,\"errcode\":\"M_NOT_FOUND\","
                        "\"error\":\"gone\"}");
    fake_ws_say(ws, "{\"type\":\"join-call\"}");
    cd_ack_fail(&app.ack, &err, NULL);
    CHECK_STR(ws->last, "{\"type\":\"call-error\",\"event\":\"join-call\",\"errcode\":"
                        "\"M_NOT_FOUND\",\"error\":\"gone\"}");
    cd_sock_emit(app.sock, "audio-toggled", CD_STR("{\"t\\u0079pe\":\"forged\",\"enabled\": true}"));
    CHECK_STR(ws->last, "{\"type\":\"audio-toggled\",\"enabled\":true}");
    fake_ws_say(ws, "{\"type\":\"ping\"}");
    CHECK_STR(ws->last, "{\"type\":\"pong\"}");
    fake_ws_gone(ws);
    CHECK_INT(app.gone, 1);
    end();
}

static void plain_json_bad(void)
{
    static const char *const bad[] = {
        "{", "[]", "{}", "{\"type\":1}", "nonsense", "{\"type\":\"x\",\"id\":\"s\"}",
        "{\"type\":\"x\",\"id\":-1}", "{\"type\":\"connect\"}",
    };
    struct cd_ws *ws;

    begin();
    ws = fake_ws_open("/ws");
    fake_ws_say(ws, "{\"type\":\"auth\",\"token\":\"t\"}");
    CHECK_STR(app.auth, "{\"type\":\"auth\",\"token\":\"t\"}");
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        ws->last[0] = '\0';
        fake_ws_say(ws, bad[i]);
        if (!CHECK(strstr(ws->last, "{\"type\":\"call-error\"") == ws->last))
            printf("# %s\n", bad[i]);
    }
    fake_ws_binary(ws);
    CHECK_INT(app.events, 0);
    CHECK_INT(ws->code, 0);
    fake_ws_gone(ws);

    ws = fake_ws_open("/ws"); /* must connect first */
    fake_ws_say(ws, "{\"type\":\"join-call\"}");
    CHECK_INT(ws->code, 1008);
    fake_ws_gone(ws);
    ws = fake_ws_open("/ws");
    fake_pass(1000);
    CHECK_INT(ws->code, 1008);
    fake_ws_gone(ws);
    app.connect_rc = CD_E_GUEST;
    ws = fake_ws_open("/ws");
    fake_ws_say(ws, "{\"type\":\"connect\"}");
    CHECK_STR(ws->last, "{\"type\":\"connect_error\",\"message\":\"no\",\"data\":{\"errcode\":"
                        "\"M_GUEST_ACCESS_FORBIDDEN\",\"error\":\"no\"}}");
    fake_ws_gone(ws);
    end();
}

static void plain_json_kick(void)
{
    struct cd_ws *ws;

    begin();
    app.kick_on_event = true;
    ws = fake_ws_open("/ws");
    fake_ws_say(ws, "{\"type\":\"connect\"}");
    fake_ws_say(ws, "{\"type\":\"x\"}");
    CHECK_STR(ws->last, "{\"type\":\"disconnect\"}");
    CHECK_INT(app.gone, 0);
    fake_pass(0);
    CHECK_INT(app.gone, 1);
    CHECK_INT(ws->code, 1000);
    fake_ws_gone(ws);
    CHECK_INT(app.gone, 1);
    end();
}

static void both_forms_at_once(void)
{
    struct cd_ws *sio, *json;
    struct cd_sock *socks[3];

    begin();
    sio = connect_ws();
    socks[0] = app.sock;
    json = fake_ws_open("/ws");
    fake_ws_say(json, "{\"type\":\"connect\"}");
    socks[1] = app.sock;
    connect_polling();
    socks[2] = app.sock;
    cd_sock_emit_many(socks, 3, "e", CD_STR("{\"a\":1}"));
    CHECK_STR(sio->last, "42[\"e\",{\"a\":1}]");
    CHECK_STR(json->last, "{\"type\":\"e\",\"a\":1}");
    CHECK_POLL(200, "42[\"e\",{\"a\":1}]");
    cd_sock_broadcast("server-restarting", CD_STR("{}"));
    CHECK_STR(sio->last, "42[\"server-restarting\",{}]");
    CHECK_STR(json->last, "{\"type\":\"server-restarting\"}");
    CHECK_POLL(200, "42[\"server-restarting\",{}]");
    app.id = cd_sock_id(socks[0]);
    fake_ws_gone(sio);
    app.id = cd_sock_id(socks[1]);
    fake_ws_gone(json);
    app.id = cd_sock_id(socks[2]);
    end();
}

/* --- anything in any order ------------------------------------------------------------------------------ */

enum { PEERS = 12 };

static struct {
    char query[PEERS][128];
    struct cd_req *poll[PEERS]; /* waiting */
    struct cd_ws *ws[PEERS];
    uint32_t random;
} zoo;

static uint32_t dice(uint32_t sides)
{
    zoo.random ^= zoo.random << 13;
    zoo.random ^= zoo.random >> 17;
    zoo.random ^= zoo.random << 5;
    return zoo.random % sides;
}

static const char *some_packet(void)
{
    static const char *const usual[] = {"40", "3", "42[\"x\"]", "427[\"x\",{}]", "42[\"x\"]", "3"};
    static const char *const odd[] = {
        "40{\"token\":\"t\"}", "41", "2probe", "5", "1", "2", "451-[\"f\"]", "bAQID", "43[]", "40/x",
        "42{}", "", "6", "{\"type\":\"connect\"}", "{\"type\":\"x\",\"id\":1}",
        "{\"type\":\"disconnect\"}",
    };

    if (dice(8))
        return usual[dice(sizeof(usual) / sizeof(usual[0]))];
    return odd[dice(sizeof(odd) / sizeof(odd[0]))];
}

/** What a WebSocket client would say next, mostly. */
static const char *some_message(const struct cd_ws *ws)
{
    if (dice(8) && ws->sent == 0)
        return "2probe";
    if (dice(8) && strcmp(ws->last, "3probe") == 0)
        return "5";
    if (dice(8) && strncmp(ws->last, "0{", 2) == 0)
        return "40";
    return some_packet();
}

static void drop_answered(int i)
{
    if (zoo.poll[i] && zoo.poll[i]->status) {
        free(zoo.poll[i]);
        zoo.poll[i] = NULL;
    }
}

static void some_http(int i)
{
    struct cd_req *req;

    switch (dice(12)) {
    case 0:
        open_polling();
        snprintf(zoo.query[i], sizeof(zoo.query[i]), "%s", query);
        return;
    case 1:
    case 2:
    case 3:
        if (zoo.poll[i] && dice(8))
            return;
        if (zoo.poll[i]) {
            fake_leave(zoo.poll[i]);
            free(zoo.poll[i]);
            zoo.poll[i] = NULL;
            return;
        }
        zoo.poll[i] = fake_request("GET", zoo.query[i], "");
        return;
    default:
        req = fake_request("POST", zoo.query[i], some_packet());
        free(req);
    }
}

static void some_ws(int i)
{
    char target[200];
    const char *sid = strrchr(zoo.query[dice(PEERS)], '=');

    if (!zoo.ws[i]) {
        snprintf(target, sizeof(target), "/socket.io/?EIO=4&transport=websocket%s%s",
                 dice(2) ? "&sid=" : "&x=", sid ? sid + 1 : "");
        zoo.ws[i] = fake_ws_open(dice(4) ? target : "/ws");
    }
    if (dice(8) == 0 || !zoo.ws[i]->user || zoo.ws[i]->code) {
        fake_ws_gone(zoo.ws[i]);
        zoo.ws[i] = NULL;
        return;
    }
    zoo.ws[i]->slow = dice(40) == 0;
    zoo.ws[i]->all[0] = '\0';
    if (dice(8) == 0)
        fake_ws_binary(zoo.ws[i]);
    else
        fake_ws_say(zoo.ws[i], some_message(zoo.ws[i]));
}

static void some_application(void)
{
    struct cd_sock *sock = cd_sock_by_id(app.id);
    struct cd_err err;

    app.kick_on_event = false;
    app.connect_rc = dice(3) ? CD_OK : dice(2) ? CD_PENDING : CD_E_UNKNOWN_TOKEN;
    app.emit_in_connect = dice(2);
    cd_fail(&err, CD_E_NOT_FOUND, NULL);
    cd_sock_connected(app.id, dice(2) ? CD_OK : CD_E_GUEST, &the_user, &err);
    cd_ack_fail(&app.ack, &err, NULL);
    cd_ack_ok(&app.ack, CD_STR("{}"));
    if (dice(8) == 0)
        cd_sock_broadcast("b", CD_STR("{}"));
    if (sock && dice(8) == 0)
        cd_sock_disconnect(sock);
}

static void anything_in_any_order(void)
{
    begin();
    app.any_order = true;
    zoo.random = 77;
    for (int round = 0; round < 60000; round++) {
        int i = (int)dice(PEERS);

        switch (dice(8)) {
        case 0:
            some_application();
            break;
        case 1:
            fake_pass(dice(dice(50) ? 20 : 1500));
            break;
        case 2:
        case 3:
        case 4:
            some_http(i);
            break;
        default:
            some_ws(i);
        }
        for (int k = 0; k < PEERS; k++)
            drop_answered(k);
    }
    printf("# %u connects, %u events, %u gone\n", app.connects, app.events, app.gone);
    CHECK(app.connects > 100 && app.events > 100 && app.gone > 100);
    for (int i = 0; i < PEERS; i++) {
        if (zoo.poll[i])
            fake_leave(zoo.poll[i]);
        free(zoo.poll[i]);
        if (zoo.ws[i])
            fake_ws_gone(zoo.ws[i]);
    }
    end();
}

int main(void)
{
    TAP_RUN(handshakes);
    TAP_RUN(refusals);
    TAP_RUN(ws_refusals);
    TAP_RUN(heartbeat);
    TAP_RUN(talk_extends_once);
    TAP_RUN(one_poll_at_a_time);
    TAP_RUN(client_closes);
    TAP_RUN(client_leaves_its_poll);
    TAP_RUN(broken_posts);
    TAP_RUN(octet_stream_closes);
    TAP_RUN(polling_queue);
    TAP_RUN(upgrade);
    TAP_RUN(polls_while_upgrading);
    TAP_RUN(failed_probes);
    TAP_RUN(ws_closing);
    TAP_RUN(slow_ws);
    TAP_RUN(cap_and_size);
    TAP_RUN(connect_and_refuse);
    TAP_RUN(pending_connect);
    TAP_RUN(early_events);
    TAP_RUN(namespaces);
    TAP_RUN(events_and_acks);
    TAP_RUN(ids_never_come_back);
    TAP_RUN(connect_timeout);
    TAP_RUN(kicks);
    TAP_RUN(kicks_while_upgrading);
    TAP_RUN(binary_events);
    TAP_RUN(plain_json);
    TAP_RUN(plain_json_bad);
    TAP_RUN(plain_json_kick);
    TAP_RUN(both_forms_at_once);
    TAP_RUN(anything_in_any_order);
    return tap_done();
}

/* engineio_test.c -- Engine.IO sessions on a transport made of memory: handshakes, heartbeats to the
 * millisecond, polls, the upgrade, closing, queues, and the size of an idle session. */
#include <malloc.h>

#include "../lib/sock_app.h"

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
    return tap_done();
}

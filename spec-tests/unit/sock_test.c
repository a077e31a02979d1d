/* sock_test.c -- client sockets on a transport made of memory: Socket.IO, plain JSON, generation ids,
 * and a long run of anything in any order. */
#include "../lib/sock_app.h"

/* --- tests: Socket.IO ------------------------------------------------------------------------- */

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

/* --- tests: /ws ------------------------------------------------------------------------------- */

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
    cd_sock_emit(app.sock, "audio-toggled",
                 CD_STR("{\"t\\u0079pe\":\"forged\",\"enabled\": true}"));
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

/* Pings every 300 ms, and 200 ms for anything in return. */
static void plain_json_heartbeat(void)
{
    struct cd_ws *ws;

    begin();
    ws = fake_ws_open("/ws");
    fake_pass(900);
    CHECK_INT(ws->pings, 0); /* connect is still awaited */
    fake_ws_say(ws, "{\"type\":\"connect\"}");
    fake_pass(299);
    CHECK_INT(ws->pings, 0);
    fake_pass(1);
    CHECK_INT(ws->pings, 1);
    fake_pass(199);
    fake.ws_ops->on_pong(ws->user);
    fake_pass(300);
    CHECK_INT(ws->pings, 2);
    fake_pass(199);
    fake_ws_say(ws, "{\"type\":\"ping\"}"); /* whatever it says will do */
    fake_pass(300);
    CHECK_INT(ws->pings, 3);
    fake_pass(199);
    CHECK_INT(ws->code, 0);
    CHECK_INT(app.gone, 0);
    fake_pass(1);
    CHECK_INT(ws->code, 1001);
    CHECK_INT(app.gone, 1);
    fake_ws_gone(ws);
    CHECK_INT(app.gone, 1);
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

/* --- anything in any order -------------------------------------------------------------------- */

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
        "40{\"token\":\"t\"}", "41", "2probe", "5", "1", "2", "451-[\"f\"]", "bAQID", "43[]",
        "40/x", "42{}", "", "6", "{\"type\":\"connect\"}", "{\"type\":\"x\",\"id\":1}",
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
    TAP_RUN(plain_json_heartbeat);
    TAP_RUN(plain_json_kick);
    TAP_RUN(both_forms_at_once);
    TAP_RUN(anything_in_any_order);
    return tap_done();
}

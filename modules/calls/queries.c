/* queries.c -- questions that change nothing: status, active calls, ICE servers, configuration; and
 * the renewal of a socket's token. */
#include <stdlib.h>

#include "base/secret.h"
#include "calls.h"

#define MAX_TOKEN 4096

static void status_found(struct cd_op *op)
{
    const struct cd_participant *p = cd_call_participant_const(op->live->cur, op->who->user_id);

    cd_op_ok_call(op, 200, p && p->side == CD_SIDE_OURS ? p->party_id : NULL);
}

void calls_status(struct cd_op *op)
{
    cd_op_with_call(op, status_found);
}

void calls_active(struct cd_op *op)
{
    size_t n;
    struct cd_live *const *calls = cd_live_of_user(op->core, op->who->user_id, &n);
    bool first = true;
    struct cd_buf b;

    cd_buf_init(&b, 4 * 1024 * 1024);
    cd_buf_adds(&b, "{\"calls\":[");
    for (size_t i = 0; i < n; i++) {
        if (!calls[i]->cur || cd_status_final(calls[i]->cur->status))
            continue;
        if (!first)
            cd_buf_addc(&b, ',');
        first = false;
        cd_render_call(&b, op->core, calls[i], op->who->user_id, NULL, true);
    }
    cd_buf_adds(&b, "]}");
    cd_op_ok(op, 200, &b);
}

void calls_ice_servers(struct cd_op *op)
{
    struct cd_buf b;

    cd_buf_init(&b, 64 * 1024);
    cd_buf_addc(&b, '{');
    cd_render_ice(&b, op->core, op->who->user_id);
    cd_buf_addc(&b, '}');
    cd_op_ok(op, 200, &b);
}

enum cd_rc calls_config(void *self, struct cd_req *req)
{
    const struct cd_core *core = self;
    const struct cd_conf *f = core->conf;
    struct cd_buf b;

    cd_buf_init(&b, 16 * 1024);
    cd_buf_adds(&b, "{\"name\":\"matrix-calld\",\"version\":\"" PACKAGE_VERSION "\",\"homeserver\":");
    cd_buf_add_jsons(&b, core->no_homeserver                 ? NULL
                         : f->matrix.public_homeserver_url[0] ? f->matrix.public_homeserver_url
                                                              : f->matrix.homeserver_url);
    cd_buf_adds(&b, ",\"serverName\":");
    cd_buf_add_jsons(&b, f->matrix.server_name);
    cd_buf_adds(&b, ",\"environment\":");
    cd_buf_add_jsons(&b, f->server.environment);
    cd_buf_adds(&b, ",\"publicBaseUrl\":");
    cd_buf_add_jsons(&b, f->server.public_base_url[0] ? f->server.public_base_url : NULL);
    cd_buf_adds(&b, ",\"socketPath\":");
    struct cd_buf path;
    cd_buf_init(&path, 1024);
    cd_buf_adds(&path, f->server.path_prefix);
    cd_buf_adds(&path, "/socket.io/");
    cd_buf_add_jsons(&b, path.p);
    cd_buf_done(&path);
    cd_buf_adds(&b, ",\"dialects\":[\"calld\"]");
    cd_buf_addf(&b, ",\"callsEnabled\":%s", f->calls.enabled ? "true" : "false");
    cd_buf_addf(&b, ",\"ringSeconds\":{\"default\":%ld,\"min\":15,\"max\":180}", f->calls.ring_seconds);
    cd_buf_addf(&b, ",\"seatSeconds\":%ld,\"maxMinutes\":%ld", f->calls.seat_seconds, f->calls.max_minutes);
    cd_buf_addf(&b, ",\"limits\":{\"sdpBytes\":%ld,\"signalBytes\":%ld,\"candidates\":%ld,\"jsonDepth\":%ld,"
                    "\"socketsPerUser\":%ld,\"startsPerHour\":%ld,\"roomStartsPerHour\":%ld,"
                    "\"requestsPerSecond\":%ld,\"eventsPerSecond\":%ld}",
                f->limits.sdp_bytes, f->limits.signal_bytes, f->limits.candidates, f->limits.json_depth,
                f->limits.sockets_per_user, f->limits.starts_per_hour, f->limits.room_starts_per_hour,
                f->limits.user_requests_per_second, f->limits.events_per_second);
    cd_buf_addf(&b, ",\"features\":{\"matrix\":%s,\"groupCalls\":false,\"livekit\":false,\"callTest\":%s}}",
                core->no_homeserver ? "false" : "true", f->server.call_test ? "true" : "false");
    cd_req_reply_json(req, 200, &b);
    return CD_OK;
}

enum cd_rc calls_session_token(void *self, struct cd_req *req)
{
    struct cd_core *core = self;
    int64_t expires_at = 0;
    struct cd_buf token, b;
    struct cd_input in; /* it asks for nothing, and has to be well-formed all the same */
    enum cd_rc rc;

    cd_input_open(&in, cd_req_body(req), (unsigned)core->conf->limits.json_depth, cd_req_err(req));
    if (in.rc != CD_OK)
        return in.rc;
    cd_buf_init(&token, 4096);
    rc = cd_auth_session_new(core->auth, cd_req_principal(req), core->conf->calls.session_token_seconds * 1000,
                             &token, &expires_at, cd_req_err(req));
    if (rc == CD_OK) {
        cd_buf_init(&b, 8192);
        cd_buf_adds(&b, "{\"token\":");
        cd_buf_add_json(&b, (struct cd_str){token.p, token.n});
        cd_buf_addf(&b, ",\"expiresAt\":%lld}", (long long)expires_at);
        cd_req_reply_json(req, 200, &b);
    }
    cd_wipe(token.p, token.n);
    cd_buf_done(&token);
    return rc;
}

/* --- auth-refresh --------------------------------------------------------------------------------- */

struct refresh {
    struct cd_core *core;
    struct cd_ack ack;
};

static void on_refreshed(void *arg, enum cd_rc rc, struct cd_principal *who, const struct cd_err *err)
{
    struct refresh r = *(struct refresh *)arg;
    struct cd_sock *s = cd_sock_by_id(r.ack.sock_id);
    struct cd_client *c = s ? cd_sock_user(s) : NULL;
    struct cd_err e;

    free(arg);
    if (!c)
        return;
    if (rc != CD_OK) {
        cd_ack_fail(&r.ack, err, NULL);
    } else if (strcmp(who->user_id, c->who->user_id) != 0) {
        cd_fail(&e, CD_E_FORBIDDEN, "This token belongs to another user.");
        cd_ack_fail(&r.ack, &e, NULL);
    } else {
        cd_client_renew(c, who);
        cd_tokens_renewed(r.core, who);
        cd_ack_ok(&r.ack, CD_STR(""));
    }
}

void calls_auth_refresh(struct cd_core *core, struct cd_client *client, struct cd_str payload,
                        const struct cd_ack *ack)
{
    char token[MAX_TOKEN + 1];
    struct cd_input in;
    struct cd_err err;
    struct refresh *r;

    cd_input_open(&in, payload, (unsigned)core->conf->limits.json_depth, &err);
    cd_input_text(&in, "token", true, token, sizeof(token));
    if (in.rc != CD_OK) {
        cd_ack_fail(ack, &err, NULL);
        return;
    }
    struct cd_sock *s = cd_sock_by_id(client->sock_id);
    if (!s || !(r = malloc(sizeof(*r))))
        return;
    *r = (struct refresh){core, *ack};
    cd_auth_token(core->auth, cd_str_of(token), cd_sock_client_ip(s), on_refreshed, r);
    cd_wipe(token, sizeof(token));
}

/* toggles.c -- microphone, camera and screen switches. */
#include "base/clock.h"
#include "calls.h"

void calls_render_switches(struct cd_buf *b, const struct cd_call *c, const char *user)
{
    const struct cd_participant *p = cd_call_participant_const(c, user);

    cd_buf_adds(b, "{\"userId\":");
    cd_buf_add_jsons(b, user);
    cd_buf_addf(b, ",\"audioEnabled\":%s,\"videoEnabled\":%s,\"screenSharing\":%s}",
                p->audio_enabled ? "true" : "false", p->video_enabled ? "true" : "false",
                p->screen_sharing ? "true" : "false");
}

static void on_toggled(void *arg, const struct cd_result *res)
{
    struct cd_op *op = arg;
    struct cd_buf b;

    if (res->key_taken) {
        cd_op_key_taken(op);
        return;
    }
    if (res->rc != CD_OK) {
        op->err = res->err;
        cd_op_fail(op, res->rc);
        return;
    }
    op->live = res->live;
    op->idem_given = op->idem_given && res->moved;
    cd_buf_init(&b, 1024);
    calls_render_switches(&b, res->live->cur, op->who->user_id);
    cd_op_ok(op, 200, &b);
}

static void toggle(struct cd_op *op, enum cd_ev ev)
{
    bool enabled = false;
    bool given = cd_input_bool(&op->in, "enabled", &enabled);
    struct cd_cmd cmd = {.ev = ev, .source = op->sock_id ? CD_S_SOCKET : CD_S_REST, .user = op->who->user_id,
                         .client = op->client, .enabled = given ? enabled : -1, .mx_version = 1,
                         .now_ms = cd_wall_ms()};

    struct cd_extra extra = {0};

    if (op->in.rc != CD_OK) {
        cd_op_fail(op, op->in.rc);
        return;
    }
    if (!calls_seat_speaks(op))
        return;
    if (!cd_op_idem(op, 200, &extra.idem)) {
        cd_op_fail(op, CD_E_NO_MEMORY);
        return;
    }
    cd_submit(op->core, op->live, &cmd, &extra, on_toggled, op);
}

static void audio_found(struct cd_op *op)
{
    toggle(op, CD_EV_TOGGLE_AUDIO);
}

static void video_found(struct cd_op *op)
{
    toggle(op, CD_EV_TOGGLE_VIDEO);
}

static void screen_found(struct cd_op *op)
{
    toggle(op, CD_EV_TOGGLE_SCREEN);
}

void calls_toggle_audio(struct cd_op *op)
{
    cd_op_with_own_call(op, audio_found);
}

void calls_toggle_video(struct cd_op *op)
{
    cd_op_with_own_call(op, video_found);
}

void calls_toggle_screen(struct cd_op *op)
{
    cd_op_with_own_call(op, screen_found);
}

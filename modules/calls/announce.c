/* announce.c -- what sockets hear of a transition, after it is durable (API contract, section 4). */
#include <stdio.h>
#include <stdlib.h>

#include "calls.h"

/* The acting client's socket, which hears of its own deed by the ack. */
static uint64_t acting_socket(const struct cd_cmd *cmd)
{
    uint64_t id = 0;

    /* only a socket's own name counts: devices and Matrix parties may call themselves anything */
    if (cmd->source == CD_S_SOCKET && cmd->client && strncmp(cmd->client, "socket:", 7) == 0)
        cd_parse_u64(cd_str_of(cmd->client + 7), 1, UINT64_MAX, &id);
    return id;
}

/* Empty for want of memory: its sockets are dropped then, so that their clients ask what they missed. */
static struct cd_str text_of(const struct cd_buf *b)
{
    return (struct cd_str){b->p, b->failed ? 0 : b->n};
}

void calls_announce_user(struct cd_core *core, struct cd_live *l, const char *event, const char *user,
                         const char *more_json, uint64_t except)
{
    const struct cd_participant *p = cd_call_participant_const(cd_live_call(l), user);
    uint64_t seq = cd_take_seq(l);
    struct cd_buf b;

    cd_record_open(&b, l, seq);
    cd_buf_adds(&b, ",\"userId\":");
    cd_buf_add_jsons(&b, user);
    if (strcmp(event, "user-joined") == 0) {
        cd_buf_adds(&b, ",\"displayName\":");
        cd_buf_add_jsons(&b, p ? p->display_name : NULL);
    }
    if (more_json) {
        cd_buf_addc(&b, ',');
        cd_buf_adds(&b, more_json);
    }
    cd_buf_addc(&b, '}');
    cd_log_record(l, seq, event, text_of(&b), user);
    cd_emit_call(core, l, event, text_of(&b), except);
    cd_buf_done(&b);
}

/* --- ringing -------------------------------------------------------------------------------------- */

struct ring {
    struct cd_core *core;
    char call_id[CD_CALL_ID_LEN + 1];
    uint64_t sock_id;
};

static void ring_unless_ignored(void *arg, bool ignored)
{
    struct ring r = *(struct ring *)arg;
    struct cd_live *l = cd_live_get(r.core, r.call_id);
    struct cd_sock *one;
    struct cd_buf b;

    free(arg);
    if (ignored || !l || !l->cur || l->cur->status != CD_RINGING)
        return;
    cd_buf_init(&b, 1024 * 1024);
    cd_render_call(&b, r.core, l, l->cur->callee, NULL, true);
    if (!r.sock_id)
        cd_emit_user(r.core, l->cur->callee, "call-ringing", text_of(&b), 0);
    else if ((one = cd_sock_by_id(r.sock_id)))
        cd_sock_emit(one, "call-ringing", text_of(&b));
    cd_buf_done(&b);
}

void calls_ring(struct cd_core *core, struct cd_live *l, uint64_t sock_id)
{
    const struct cd_call *c = cd_live_call(l);
    struct ring *r = c->callee ? malloc(sizeof(*r)) : NULL;

    if (!r) {
        if (c->callee)
            cd_emit_user(core, c->callee, "call-ringing", CD_STR(""), 0); /* they come back, and are rung then */
        return;
    }
    *r = (struct ring){.core = core, .sock_id = sock_id};
    snprintf(r->call_id, sizeof(r->call_id), "%s", c->id);
    cd_rooms_ignored(core->rooms, c->caller, c->callee, ring_unless_ignored, r);
}

static void announce_new(struct cd_core *core, struct cd_live *l)
{
    const struct cd_call *c = l->cur;
    struct cd_buf b;

    if (!c->callee || c->status != CD_RINGING || c->foreign)
        return; /* a call that is only recorded rings nobody */
    if (cd_user_online(core, c->callee)) {
        calls_ring(core, l, 0);
        return;
    }
    cd_record_open(&b, l, 0);
    cd_buf_adds(&b, ",\"userId\":");
    cd_buf_add_jsons(&b, c->callee);
    cd_buf_addc(&b, '}');
    cd_emit_call(core, l, "peer-offline", text_of(&b), 0);
    cd_buf_done(&b);
}

static void stop_ringing(struct cd_core *core, struct cd_live *l, const char *reason, uint64_t except)
{
    struct cd_buf b;

    cd_record_open(&b, l, 0);
    cd_buf_addf(&b, ",\"reason\":\"%s\"}", reason);
    if (l->cur->callee)
        cd_emit_user(core, l->cur->callee, "ring-stopped", text_of(&b), except);
    cd_buf_done(&b);
}

/* --- answered, connected, over -------------------------------------------------------------------- */

static void announce_answered(struct cd_core *core, struct cd_live *l, uint64_t seq, const struct cd_cmd *cmd)
{
    uint64_t self = acting_socket(cmd);
    struct cd_buf b;

    cd_record_answered(&b, l, seq, cmd->user);
    cd_log_record(l, seq, "call-answered", text_of(&b), cmd->user);
    cd_emit_call(core, l, "call-answered", text_of(&b), self);
    if (l->cur->callee) { /* the others of that user ring no more */
        int seat = cd_live_seat_of(l, l->cur->callee);
        uint64_t seated = seat >= 0 ? l->seats[seat].sock_id : 0;
        cd_emit_user(core, l->cur->callee, "call-answered", text_of(&b), self ? self : seated);
        stop_ringing(core, l, "answered_elsewhere", self ? self : seated);
    }
    cd_buf_done(&b);
}

static void announce_connected(struct cd_core *core, struct cd_live *l, uint64_t seq)
{
    struct cd_buf b;

    cd_record_connected(&b, l, seq);
    cd_log_record(l, seq, "call-connected", text_of(&b), NULL);
    cd_emit_call(core, l, "call-connected", text_of(&b), 0);
    cd_buf_done(&b);
}

/* Exactly one of three events a call, to every socket of everyone in it. */
static void announce_final(struct cd_core *core, struct cd_live *l, const struct cd_call *prev, uint64_t seq,
                           const struct cd_cmd *cmd)
{
    const struct cd_call *c = l->cur;
    const char *event = cd_record_final_name(c->status);
    uint64_t self = acting_socket(cmd);
    struct cd_buf b;

    cd_record_final(&b, l, seq);
    cd_log_record(l, seq, event, text_of(&b), NULL);
    for (size_t i = 0; i < c->n_participants; i++)
        cd_emit_user(core, c->participants[i].user_id, event, text_of(&b), 0);
    cd_buf_done(&b);
    if (prev->status == CD_RINGING)
        stop_ringing(core, l,
                     c->status == CD_DECLINED ? "rejected_elsewhere"
                     : c->status == CD_MISSED ? "timeout"
                                              : "canceled",
                     c->status == CD_DECLINED ? self : 0);
    calls_seats_clear(l);
}

static void announce_toggle(struct cd_core *core, struct cd_live *l, uint64_t seq, const struct cd_cmd *cmd)
{
    const struct cd_participant *p = cd_call_participant_const(l->cur, cmd->user);
    const char *event = cmd->ev == CD_EV_TOGGLE_AUDIO   ? "audio-toggled"
                        : cmd->ev == CD_EV_TOGGLE_VIDEO ? "video-toggled"
                                                        : "screen-toggled";
    bool on = cmd->ev == CD_EV_TOGGLE_AUDIO   ? p->audio_enabled
              : cmd->ev == CD_EV_TOGGLE_VIDEO ? p->video_enabled
                                              : p->screen_sharing;
    struct cd_buf b;

    cd_record_toggled(&b, l, seq, cmd->user, on);
    cd_log_record(l, seq, event, text_of(&b), cmd->user);
    cd_emit_call(core, l, event, text_of(&b), acting_socket(cmd));
    cd_buf_done(&b);
}

/* Our party's answer was not the chosen one: its sockets leave, the call goes on elsewhere. */
static void announce_ousted(struct cd_core *core, struct cd_live *l)
{
    int seat = l->cur->callee ? cd_live_seat_of(l, l->cur->callee) : -1;

    stop_ringing(core, l, "answered_elsewhere", 0);
    if (seat < 0)
        return;
    calls_announce_user(core, l, "user-left", l->cur->callee, "\"reason\":\"answered_elsewhere\"", 0);
    l->seats[seat].held = false;
    l->seats[seat].sock_id = 0;
    cd_timer_cancel(core->loop, &l->seats[seat].grace);
}

void calls_announce(struct cd_core *core, struct cd_live *l, const struct cd_call *prev,
                    const struct cd_cmd *cmd)
{
    uint64_t seq = l->event_seq;

    if (!prev)
        announce_new(core, l);
    else if (cd_status_final(l->cur->status))
        announce_final(core, l, prev, seq, cmd);
    else if (prev->status == CD_RINGING && l->cur->status == CD_ACCEPTED)
        announce_answered(core, l, seq, cmd);
    else if (prev->status == CD_ACCEPTED && l->cur->status == CD_CONNECTED)
        announce_connected(core, l, seq);
    else if (cmd->ev == CD_EV_TOGGLE_AUDIO || cmd->ev == CD_EV_TOGGLE_VIDEO || cmd->ev == CD_EV_TOGGLE_SCREEN)
        announce_toggle(core, l, seq, cmd);
    else if (cmd->ev == CD_EV_SELECT_OTHER)
        announce_ousted(core, l);
}

/* Who did what is not told between daemons: the states say enough. */
void calls_announce_moved(struct cd_core *core, struct cd_live *l, const struct cd_call *prev)
{
    const struct cd_call *c = l->cur;
    struct cd_cmd cmd = {.ev = CD_EV_END, .source = CD_S_TIMER, .user = c->ended_by};

    if (cd_status_final(prev->status))
        return;
    if (cd_status_final(c->status)) {
        announce_final(core, l, prev, l->event_seq, &cmd);
        return;
    }
    if (prev->status == CD_RINGING && c->status != CD_RINGING && c->callee) {
        cmd.user = c->callee;
        announce_answered(core, l, l->event_seq, &cmd);
    }
    if (prev->status != CD_CONNECTED && c->status == CD_CONNECTED)
        announce_connected(core, l, cd_take_seq(l));
}

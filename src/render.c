/* render.c -- the call object of the API contract. */
#include "core.h"

static void add_str(struct cd_buf *b, const char *name, const char *value)
{
    cd_buf_addf(b, ",\"%s\":", name);
    cd_buf_add_jsons(b, value);
}

static void add_time(struct cd_buf *b, const char *name, int64_t at)
{
    cd_buf_addf(b, ",\"%s\":", name);
    if (at)
        cd_buf_add_i64(b, at);
    else
        cd_buf_adds(b, "null");
}

static void add_bool(struct cd_buf *b, const char *name, bool v)
{
    cd_buf_addf(b, ",\"%s\":%s", name, v ? "true" : "false");
}

static void add_participants(struct cd_buf *b, const struct cd_live *live, const struct cd_call *c)
{
    cd_buf_adds(b, ",\"participants\":[");
    for (size_t i = 0; i < c->n_participants; i++) {
        const struct cd_participant *p = &c->participants[i];

        cd_buf_adds(b, i ? ",{\"userId\":" : "{\"userId\":");
        cd_buf_add_jsons(b, p->user_id);
        add_str(b, "displayName", p->display_name);
        add_str(b, "avatarUrl", p->avatar_url);
        /* a dropped socket's seat is kept for a while: that is no state of the row */
        add_str(b, "state",
                cd_pstate_name(live->seats[i].grace.due_ms ? CD_P_RECONNECTING : p->state));
        add_bool(b, "audioEnabled", p->audio_enabled);
        add_bool(b, "videoEnabled", p->video_enabled);
        add_bool(b, "screenSharing", p->screen_sharing);
        add_time(b, "joinedAt", p->joined_at);
        add_time(b, "leftAt", p->left_at);
        add_str(b, "leaveReason", p->leave_reason);
        cd_buf_addc(b, '}');
    }
    cd_buf_addc(b, ']');
}

static void add_times(struct cd_buf *b, const struct cd_call *c)
{
    int64_t seconds = cd_call_duration_s(c);

    add_time(b, "initiatedAt", c->initiated_at);
    add_time(b, "acceptedAt", c->accepted_at);
    add_time(b, "connectedAt", c->connected_at);
    add_bool(b, "connectedInferred", c->connected_inferred);
    add_time(b, "endedAt", c->ended_at);
    add_time(b, "ringExpiresAt", c->ring_expires_at);
    cd_buf_addf(b, ",\"ringSeconds\":%u,\"durationSeconds\":", c->ring_seconds);
    if (seconds < 0)
        cd_buf_adds(b, "null");
    else
        cd_buf_add_i64(b, seconds);
}

/* The member of a logged signal as it came: "offer":{...} */
static void add_first_sdp(struct cd_buf *b, const struct cd_live *l, size_t index)
{
    const struct cd_log_entry *e = &l->log[index - 1];

    cd_buf_addc(b, ',');
    cd_buf_add(b, e->payload + e->body_at, e->body_n);
}

void cd_render_private(struct cd_buf *b, struct cd_core *core, const struct cd_live *live, const char *viewer)
{
    cd_buf_addc(b, ',');
    cd_render_ice(b, core, viewer);
    if (live->first_offer)
        add_first_sdp(b, live, live->first_offer);
    if (live->first_answer)
        add_first_sdp(b, live, live->first_answer);
}

void cd_render_call(struct cd_buf *b, struct cd_core *core, const struct cd_live *live, const char *viewer,
                    const char *party_id, bool full)
{
    cd_render_state(b, core, live, cd_live_call(live), viewer, party_id, full);
}

void cd_render_state(struct cd_buf *b, struct cd_core *core, const struct cd_live *live,
                     const struct cd_call *c, const char *viewer, const char *party_id, bool full)
{
    bool inside = cd_call_participant_const(c, viewer) != NULL && !cd_status_final(c->status);

    cd_buf_adds(b, "{\"callId\":");
    cd_buf_add_jsons(b, c->id);
    if (c->matrix_call_id)
        add_str(b, "matrixCallId", c->matrix_call_id);
    if (party_id)
        add_str(b, "partyId", party_id);
    add_str(b, "roomId", c->room_id);
    add_str(b, "callType", cd_type_name(c->type));
    add_str(b, "kind", cd_kind_name(c->kind));
    add_str(b, "media", cd_media_name(c->media));
    add_str(b, "origin", cd_origin_name(c->origin));
    add_str(b, "caller", c->caller);
    if (c->kind == CD_DIRECT)
        add_str(b, "callee", c->callee);
    add_str(b, "status", cd_status_name(c->status));
    add_str(b, "phase", cd_phase_name(c->status));
    add_str(b, "endReason", cd_reason_name(c->end_reason));
    add_str(b, "endedBy", c->ended_by);
    add_times(b, c);
    add_participants(b, live, c);
    add_str(b, "matrixSignalling", cd_mx_state_name(live->mx_state));
    cd_buf_addf(b, ",\"seq\":%llu", (unsigned long long)live->seq);
    if (full && inside)
        cd_render_private(b, core, live, viewer);
    cd_buf_addc(b, '}');
}

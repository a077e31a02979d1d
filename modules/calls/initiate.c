/* initiate.c -- a call begins: who is called, is it allowed, the row, the offer. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/budget.h"
#include "base/clock.h"
#include "calls.h"

#define MAX_INVITEES 64

/** What the request asks for. */
struct wanted {
    struct cd_op *op;
    char room_id[CD_MAX_ID + 1];
    char invitee[CD_MAX_ID + 1];
    struct cd_room_member named; /* the invitee, whom the room's view does not list */
    enum cd_type type;
    unsigned ring_seconds;
};

static const char GROUP_LATER[] = "Group calls are not available on this server yet; name one invitee.";

/* invitees: [userId], one for a direct call */
static void read_invitees(struct cd_op *op, struct wanted *w)
{
    struct cd_str list, item;
    size_t pos = 0, n = 0;

    if (!cd_input_raw(&op->in, "invitees", CD_JSON_ARRAY, &list))
        return;
    while (op->in.rc == CD_OK && cd_json_element(list, &pos, &item)) {
        if (++n > 1)
            op->in.rc = cd_fail(&op->err, CD_E_INVALID_PARAM, "%s", GROUP_LATER);
        else if (cd_json_text(item, w->invitee, sizeof(w->invitee)) <= 0)
            op->in.rc = cd_fail(&op->err, CD_E_BAD_JSON, "invitees must be an array of user ids.");
    }
    if (op->in.rc == CD_OK && strcmp(w->invitee, op->who->user_id) == 0)
        op->in.rc = cd_fail(&op->err, CD_E_INVALID_PARAM, "You cannot call yourself.");
}

static bool read_request(struct cd_op *op, struct wanted *w)
{
    static const char *const types[] = {"audio", "video", NULL};
    static const char *const medias[] = {"p2p", "mesh", "sfu", NULL};
    struct cd_input *in = &op->in;
    long long ring = op->core->conf->calls.ring_seconds;

    cd_input_text(in, "roomId", true, w->room_id, sizeof(w->room_id));
    w->type = cd_input_word(in, "callType", types) == 0 ? CD_AUDIO : CD_VIDEO;
    cd_input_int(in, "ringSeconds", 15, 180, &ring);
    cd_input_sdp(in, "offer", "offer", (size_t)op->core->conf->limits.sdp_bytes, &op->sdp);
    if (cd_input_word(in, "media", medias) > 0 && in->rc == CD_OK)
        in->rc = cd_fail(&op->err, CD_E_INVALID_PARAM, "media must be \"p2p\": group calls and LiveKit are not "
                                                        "available on this server yet.");
    if (in->rc == CD_OK)
        read_invitees(op, w);
    w->ring_seconds = (unsigned)ring;
    return in->rc == CD_OK;
}

/* --- who is called -------------------------------------------------------------------------------- */

static const struct cd_room_member *find_member(const struct cd_room_view *room, const char *user)
{
    for (size_t i = 0; i < room->n_members; i++)
        if (strcmp(room->members[i].user_id, user) == 0)
            return &room->members[i];
    return NULL;
}

static bool is_dev_user(const char *user)
{
    size_t n = strlen(user);

    return user[0] == '@' && n > 5 && strcmp(user + n - 4, ":dev") == 0;
}

/* @return the callee, or NULL with op->err filled */
static const struct cd_room_member *choose_callee(struct cd_op *op, const struct wanted *w,
                                                  const struct cd_room_view *room)
{
    const struct cd_room_member *callee = NULL;

    if (w->invitee[0]) {
        callee = find_member(room, w->invitee);
        if (!callee && room->everybody && is_dev_user(w->invitee))
            callee = &w->named;
        if (!callee)
            cd_fail(&op->err, CD_E_INVALID_PARAM, "invitees: %s is not a joined member of this room.", w->invitee);
        return callee;
    }
    if (room->n_joined != 2) {
        if (room->n_joined > 2)
            cd_fail(&op->err, CD_E_MISSING_PARAM,
                    "invitees is required: this room has %zu joined members, so name the one to call.",
                    room->n_joined);
        else
            cd_fail(&op->err, CD_E_INVALID_PARAM, "There is nobody else in this room to call%s.",
                    room->everybody ? " yet: name one in invitees" : "");
        return NULL;
    }
    for (size_t i = 0; i < room->n_members; i++)
        if (strcmp(room->members[i].user_id, op->who->user_id) != 0)
            callee = &room->members[i];
    if (!callee)
        cd_fail(&op->err, CD_E_INVALID_PARAM, "There is nobody else in this room to call.");
    return callee;
}

/* --- the row -------------------------------------------------------------------------------------- */

static bool add_party(struct cd_call *c, const char *user, const struct cd_room_member *m)
{
    struct cd_participant *p = cd_call_add_participant(c, user);
    char party[CD_PARTY_ID_LEN + 1];

    cd_id_alnum(CD_PARTY_ID_LEN, party);
    return p && cd_set_str(&p->party_id, party) && cd_set_str(&p->display_name, m ? m->display_name : NULL) &&
           cd_set_str(&p->avatar_url, m ? m->avatar_url : NULL);
}

static enum cd_mx_state first_mx_state(const struct cd_core *core, const struct cd_room_view *room)
{
    if (core->no_homeserver)
        return CD_MX_OFF;
    return room->encrypted ? CD_MX_UNAVAILABLE_ENCRYPTED : CD_MX_WAITING_FOR_OFFER;
}

static struct cd_call *build_call(struct cd_op *op, const struct wanted *w, const struct cd_room_view *room,
                                  const struct cd_room_member *callee)
{
    struct cd_call *c = cd_call_new();

    if (!c)
        return NULL;
    c->kind = CD_DIRECT;
    c->media = CD_P2P;
    c->origin = op->sock_id ? CD_O_SOCKET : CD_O_REST;
    c->type = w->type;
    c->status = CD_RINGING;
    c->mx_version = 1;
    c->mx_state = first_mx_state(op->core, room);
    c->ring_seconds = w->ring_seconds;
    c->initiated_at = cd_wall_ms();
    c->ring_expires_at = c->initiated_at + (int64_t)w->ring_seconds * 1000;
    cd_id_call(c->initiated_at, c->id);
    if (!cd_set_str(&c->room_id, w->room_id) || !cd_set_str(&c->caller, op->who->user_id) ||
        !cd_set_str(&c->callee, callee->user_id) ||
        !add_party(c, c->caller, find_member(room, c->caller)) || !add_party(c, c->callee, callee) ||
        !cd_set_str(&c->participants[0].device_id, op->client)) {
        cd_call_free(c);
        return NULL;
    }
    c->participants[0].state = CD_P_JOINED;
    c->participants[0].side = CD_SIDE_OURS;
    c->participants[0].joined_at = c->initiated_at;
    c->participants[1].state = cd_user_online(op->core, c->callee) ? CD_P_RINGING : CD_P_INVITED;
    return c;
}

/* It did not start: only calls that do count. */
static void refund(struct cd_op *op)
{
    if (op->core->starts)
        cd_limit_refund(op->core->starts, op->who->user_id, op->charged_ms);
    if (op->core->room_starts)
        cd_limit_refund(op->core->room_starts, op->charged_room, op->charged_ms);
}

static void on_created(void *arg, const struct cd_result *res)
{
    struct cd_op *op = arg;

    if (res->rc != CD_OK || res->key_taken) {
        refund(op);
        cd_tokens_release(op->core, op->who->user_id); /* held for it, unless another call needs it */
    }
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
    cd_op_ok_call(op, 201, res->live->cur->participants[0].party_id);
}

/* The offer is logged at once, so that it rides in the first call-ringing and the first invite. */
static bool log_offer(struct cd_op *op, struct cd_live *l)
{
    const struct cd_participant *p = &l->born->participants[0];
    struct cd_buf b;
    uint64_t seq;

    cd_buf_init(&b, op->sdp.n + 16);
    cd_buf_adds(&b, "\"offer\":");
    cd_buf_add(&b, op->sdp.p, op->sdp.n);
    struct cd_sig sig = {.kind = CD_SIG_OFFER, .source = op->sock_id ? CD_S_SOCKET : CD_S_REST,
                         .from_user = p->user_id, .from_party = p->party_id, .members = {b.p, b.n},
                         .silent = true};
    enum cd_rc rc = b.failed ? CD_E_NO_MEMORY : cd_signal(op->core, l, &sig, &seq, NULL);
    cd_buf_done(&b);
    return rc != CD_E_NO_MEMORY;
}

static bool below(struct cd_op *op, int64_t wait_ms, const char *whose, long allowed)
{
    if (wait_ms <= 0)
        return true;
    op->core->counts.rate_limited++;
    cd_fail(&op->err, CD_E_LIMITED, "%s %ld calls an hour; wait a while.", whose, allowed);
    op->err.retry_after_ms = (long)wait_ms;
    return false;
}

/* @return true when the user may start one now; op->err says why not */
static bool may_start(struct cd_op *op, const char *room_id)
{
    struct cd_core *core = op->core;

    if (!core->conf->calls.enabled || core->draining) {
        cd_fail(&op->err, CD_E_DISABLED, NULL);
        return false;
    }
    if (cd_budget_high()) {
        cd_fail(&op->err, CD_E_OVERLOADED, "The server is short of memory; try again later.");
        return false;
    }
    int64_t now = cd_mono_ms();

    return below(op, core->starts ? cd_limit_peek(core->starts, op->who->user_id, now) : 0, "You may start",
                 core->conf->limits.starts_per_hour) &&
           below(op, core->room_starts ? cd_limit_peek(core->room_starts, room_id, now) : 0,
                 "This room may see", core->conf->limits.room_starts_per_hour);
}

/* Nothing has waited since may_start() said yes. @return false: no memory */
static bool charge(struct cd_op *op, const char *room_id)
{
    op->charged_ms = cd_mono_ms();
    op->charged_room = strdup(room_id);
    if (!op->charged_room)
        return false;
    if (op->core->starts)
        cd_limit_take(op->core->starts, op->who->user_id, op->charged_ms);
    if (op->core->room_starts)
        cd_limit_take(op->core->room_starts, room_id, op->charged_ms);
    return true;
}

static void on_room(void *arg, enum cd_rc rc, const struct cd_room_view *room, const struct cd_err *err)
{
    struct wanted w = *(struct wanted *)arg;
    struct cd_op *op = w.op;

    free(arg);
    if (rc == CD_E_NOT_FOUND) {
        cd_op_error(op, CD_E_NOT_FOUND, "There is no such room, or you are not a joined member of it.");
        return;
    }
    if (rc != CD_OK) {
        if (err)
            op->err = *err;
        cd_op_fail(op, rc);
        return;
    }
    if (!may_start(op, w.room_id)) { /* things may have changed while the homeserver was asked */
        cd_op_fail(op, op->err.rc);
        return;
    }
    w.named = (struct cd_room_member){.user_id = w.invitee};
    const struct cd_room_member *callee = choose_callee(op, &w, room);
    if (!callee) {
        cd_op_fail(op, op->err.rc);
        return;
    }
    struct cd_call *born = build_call(op, &w, room, callee);
    if (born && !charge(op, w.room_id)) {
        cd_call_free(born);
        born = NULL;
    }
    if (!born) {
        cd_op_fail(op, CD_E_NO_MEMORY);
        return;
    }
    struct cd_extra extra = {0};
    if (!cd_op_idem(op, 201, &extra.idem)) {
        cd_call_free(born);
        refund(op);
        cd_op_fail(op, CD_E_NO_MEMORY);
        return;
    }
    if (room->everybody)
        cd_rooms_dev_met(op->core->rooms, born->room_id, born->callee);
    cd_tokens_hold(op->core, op->who);
    struct cd_live *l = cd_create(op->core, born, &extra, on_created, op);
    if (!l)
        return;
    calls_seat_take(l, 0, op->sock_id);
    if (op->sdp.n && !log_offer(op, l))
        l->starved = true;
}

void calls_initiate(struct cd_op *op)
{
    struct wanted *w = calloc(1, sizeof(*w));

    if (!w) {
        cd_op_fail(op, CD_E_NO_MEMORY);
        return;
    }
    w->op = op;
    if (!read_request(op, w) || !may_start(op, w->room_id)) {
        free(w);
        cd_op_fail(op, op->err.rc);
        return;
    }
    cd_rooms_view(op->core->rooms, op->who, w->room_id, on_room, w);
}

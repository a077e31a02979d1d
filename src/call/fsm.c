/* fsm.c -- the transition table's actions.
 *
 * In: a committed call and a command. Out: a decision and, when the call moves, its next state.
 * State: none. Why a copy: the next state replaces the cached one only after COMMIT. */
#include "call/fsm.h"

#include <stdlib.h>

enum action {
    REFUSE,
    SAME,
    SAME_PARTY,
    SAME_DECLINER,
    ACCEPT,
    DECLINE,
    STOP,
    FINISH,
    CONNECT,
    MISS,
    LOSE_RING,
    LOSE_EARLY,
    LOSE,
    STOP_LEFT,
    FINISH_LEFT,
    CONFIRM,
    OUST,
    REPLACE,
    YIELD,
    EXPIRE,
    KICK_RING,
    KICK,
    DOWN_RING,
    DOWN,
    SET_AUDIO,
    SET_VIDEO,
    SET_SCREEN
};

static const enum action table[CD_EV_COUNT][4] = {
#define CD_FSM(event, ringing, accepted, connected, final) \
    [CD_EV_##event] = {ringing, accepted, connected, final},
#include "call/fsm.def"
#undef CD_FSM
};

static const char *const ev_names[] = {
#define CD_FSM(event, ringing, accepted, connected, final) #event,
#include "call/fsm.def"
#undef CD_FSM
};

const char *cd_ev_name(enum cd_ev ev)
{
    return ev_names[ev];
}

static bool is_same(const char *a, const char *b)
{
    return a && b && strcmp(a, b) == 0;
}

static bool is_caller(const struct cd_call *c, const char *user)
{
    return is_same(c->caller, user);
}

/* Everybody leaves: invited ones as @p invited says, seated ones with @p reason. */
static bool empty_the_call(struct cd_call *c, enum cd_pstate invited, const char *reason, int64_t now)
{
    for (size_t i = 0; i < c->n_participants; i++) {
        struct cd_participant *p = &c->participants[i];

        if (p->state == CD_P_JOINED || p->state == CD_P_RECONNECTING) {
            p->state = CD_P_LEFT;
            p->left_at = now;
            if (!cd_set_str(&p->leave_reason, reason))
                return false;
        } else if (p->state == CD_P_INVITED || p->state == CD_P_RINGING) {
            p->state = invited;
        }
    }
    return true;
}

/* Common to every end of a call. */
static bool finish(struct cd_call *c, const struct cd_cmd *cmd, enum cd_status to, enum cd_reason reason)
{
    enum cd_pstate invited = to == CD_MISSED ? CD_P_MISSED : to == CD_DECLINED ? CD_P_DECLINED : CD_P_LEFT;

    c->status = to;
    c->end_reason = reason;
    c->ended_at = cmd->now_ms;
    if (reason == CD_R_USER_BUSY)
        invited = CD_P_BUSY;
    return cd_set_str(&c->ended_by, cmd->user) &&
           empty_the_call(c, invited, cd_reason_name(reason), cmd->now_ms);
}

static bool accept_call(struct cd_call *c, const struct cd_cmd *cmd)
{
    struct cd_participant *p = cd_call_participant(c, cmd->user);

    c->status = CD_ACCEPTED;
    c->accepted_at = cmd->now_ms;
    p->state = CD_P_JOINED;
    p->joined_at = cmd->now_ms;
    p->side = cmd->source == CD_S_MATRIX ? CD_SIDE_MATRIX : CD_SIDE_OURS;
    /* a Matrix caller chooses among answers with select_answer: until then ours is provisional */
    if (c->origin == CD_O_MATRIX && p->side == CD_SIDE_MATRIX)
        c->foreign = true; /* between two Matrix clients: from here on a record */
    c->answer_provisional = c->origin == CD_O_MATRIX && !c->foreign && p->side == CD_SIDE_OURS;
    return cd_set_str(&p->party_id, cmd->party_id) && cd_set_str(&p->device_id, cmd->client);
}

/* Another party was selected: our party leaves, the call goes on without us. */
static bool oust(struct cd_call *c, const struct cd_cmd *cmd)
{
    struct cd_participant *p = c->callee ? cd_call_participant(c, c->callee) : NULL;

    c->answer_provisional = false;
    if (!p)
        return true;
    p->left_at = cmd->now_ms;
    p->side = CD_SIDE_MATRIX; /* another client of that user is the party now */
    return cd_set_str(&p->leave_reason, "answered_elsewhere") && cd_set_str(&p->party_id, cmd->party_id) &&
           cd_set_str(&p->device_id, cmd->party_id);
}

/* The switch that a toggle turns. */
static const bool *read_switch(const struct cd_participant *p, enum action act)
{
    return act == SET_AUDIO ? &p->audio_enabled : act == SET_VIDEO ? &p->video_enabled : &p->screen_sharing;
}

static bool is_toggle(enum action act)
{
    return act == SET_AUDIO || act == SET_VIDEO || act == SET_SCREEN;
}

static bool toggle(struct cd_call *c, const struct cd_cmd *cmd, enum action act, const char **event)
{
    struct cd_participant *p = cd_call_participant(c, cmd->user);
    bool on = cmd->enabled < 0 ? !*read_switch(p, act) : cmd->enabled != 0;

    *event = act == SET_AUDIO ? "audio_toggled" : act == SET_VIDEO ? "video_toggled" : "screen_toggled";
    if (act == SET_AUDIO)
        p->audio_enabled = on;
    else if (act == SET_VIDEO)
        p->video_enabled = on;
    else
        p->screen_sharing = on;
    return true;
}

static bool is_failure(enum cd_reason r)
{
    return r == CD_R_ICE_FAILED || r == CD_R_ICE_TIMEOUT || r == CD_R_USER_MEDIA_FAILED ||
           r == CD_R_UNKNOWN_ERROR;
}

static bool stop_ringing(struct cd_call *c, const struct cd_cmd *cmd, enum cd_reason reason)
{
    bool caller = is_caller(c, cmd->user);
    enum cd_reason own = caller ? CD_R_CANCELED : CD_R_DECLINED;

    return finish(c, cmd, caller ? CD_CANCELED : CD_DECLINED, reason ? reason : own);
}

static bool finish_active(struct cd_call *c, const struct cd_cmd *cmd)
{
    enum cd_reason r = cmd->reason ? cmd->reason : CD_R_USER_HANGUP;

    return finish(c, cmd, is_failure(r) ? CD_FAILED : CD_ENDED, r);
}

/* Carry @p act out on the copy. @return false out of memory */
static bool apply(struct cd_call *c, const struct cd_cmd *cmd, enum action act, const char **event)
{
    *event = "ended";
    switch (act) {
    case ACCEPT:
        *event = "answered";
        return accept_call(c, cmd);
    case DECLINE:
        *event = "rejected";
        return finish(c, cmd, CD_DECLINED, cmd->reason == CD_R_USER_BUSY ? CD_R_USER_BUSY : CD_R_DECLINED);
    case STOP:
        *event = is_caller(c, cmd->user) ? "canceled" : "rejected";
        return stop_ringing(c, cmd, CD_R_NONE);
    case FINISH:
        return finish_active(c, cmd);
    case CONNECT:
        *event = "connected";
        c->status = CD_CONNECTED;
        c->connected_at = cmd->now_ms;
        c->connected_inferred = cmd->source == CD_S_TIMER || cmd->source == CD_S_MATRIX;
        return true;
    case MISS:
        *event = "missed";
        return finish(c, cmd, CD_MISSED, CD_R_INVITE_TIMEOUT);
    case LOSE_RING:
        *event = "canceled";
        return finish(c, cmd, CD_CANCELED, CD_R_CANCELED);
    case LOSE_EARLY:
        return finish(c, cmd, CD_FAILED, CD_R_PEER_LOST);
    case LOSE:
        return finish(c, cmd, CD_ENDED, CD_R_PEER_LOST);
    case STOP_LEFT:
        return stop_ringing(c, cmd, CD_R_LEFT_ROOM);
    case FINISH_LEFT:
        return finish(c, cmd, CD_ENDED, CD_R_LEFT_ROOM);
    case CONFIRM:
        *event = "confirmed";
        c->answer_provisional = false;
        return true;
    case OUST:
        *event = "left";
        return oust(c, cmd);
    case REPLACE:
        *event = "replaced";
        return finish(c, cmd, CD_CANCELED, CD_R_REPLACED);
    case YIELD:
        return finish(c, cmd, CD_ENDED, CD_R_REPLACED);
    case EXPIRE:
        return finish(c, cmd, CD_ENDED, CD_R_MAX_DURATION);
    case KICK_RING:
        return finish(c, cmd, CD_CANCELED, CD_R_KICKED);
    case KICK:
        return finish(c, cmd, CD_ENDED, CD_R_KICKED);
    case DOWN_RING:
        return finish(c, cmd, CD_CANCELED, CD_R_SHUTDOWN);
    case DOWN:
        return finish(c, cmd, CD_ENDED, CD_R_SHUTDOWN);
    case SET_AUDIO:
    case SET_VIDEO:
    case SET_SCREEN:
        return toggle(c, cmd, act, event);
    case REFUSE:
    case SAME:
    case SAME_PARTY:
    case SAME_DECLINER:
        break;
    }
    return false;
}

/* May this actor give this command at all? */
static bool permitted(const struct cd_call *c, const struct cd_cmd *cmd)
{
    switch (cmd->ev) {
    case CD_EV_ANSWER:
    case CD_EV_REJECT:
        return cd_call_participant_const(c, cmd->user) && !is_caller(c, cmd->user);
    case CD_EV_END:
    case CD_EV_LEAVE:
    case CD_EV_CONNECTED:
        return cmd->source == CD_S_TIMER || cd_call_participant_const(c, cmd->user);
    case CD_EV_SEAT_LOST:
    case CD_EV_MEMBER_LEFT:
    case CD_EV_TOGGLE_AUDIO:
    case CD_EV_TOGGLE_VIDEO:
    case CD_EV_TOGGLE_SCREEN:
        return cd_call_participant_const(c, cmd->user) != NULL;
    case CD_EV_SELECT_OURS:
    case CD_EV_SELECT_OTHER:
        return is_caller(c, cmd->user);
    case CD_EV_RING_TIMEOUT:
    case CD_EV_GLARE_LOST:
    case CD_EV_DISPLACED:
    case CD_EV_UNATTENDED:
    case CD_EV_MAX_MINUTES:
    case CD_EV_ADMIN_END:
    case CD_EV_SHUTDOWN:
        return true;
    case CD_EV_COUNT:
        break;
    }
    return false;
}

/* Rules that look at more than the state; they only ever weaken an action. */
static enum action refine(const struct cd_call *c, const struct cd_cmd *cmd, enum action act)
{
    const struct cd_participant *p = cd_call_participant_const(c, cmd->user);

    bool caller = is_caller(c, cmd->user);

    if (act == SAME_PARTY)
        return p && is_same(p->device_id, cmd->client) ? SAME : REFUSE;
    if (act == SAME_DECLINER)
        return c->status == CD_DECLINED && is_same(c->ended_by, cmd->user) ? SAME : REFUSE;
    if (act == LOSE_RING && !caller) /* a callee's socket that goes away leaves the call ringing */
        return REFUSE;
    /* a version 1 hang-up of a callee's device before any answer means nothing to the call */
    if (act == STOP && cmd->source == CD_S_MATRIX && !caller && cmd->mx_version != 0)
        return REFUSE;
    if (act == CONFIRM && !c->answer_provisional)
        return SAME;
    if (is_toggle(act) && cmd->enabled >= 0 && *read_switch(p, act) == (cmd->enabled != 0))
        return SAME;
    return act;
}

struct cd_decision cd_fsm_decide(const struct cd_call *cur, const struct cd_cmd *cmd)
{
    struct cd_decision d = {.verdict = CD_V_REFUSED};
    unsigned column = cd_status_final(cur->status) ? 3 : (unsigned)cur->status;

    if (!permitted(cur, cmd)) {
        d.verdict = CD_V_FORBIDDEN;
        return d;
    }
    enum action act = refine(cur, cmd, table[cmd->ev][column]);
    if (act == REFUSE)
        return d;
    if (act == SAME) {
        d.verdict = CD_V_SAME;
        return d;
    }
    struct cd_call *next = cd_call_clone(cur);
    if (!next || !apply(next, cmd, act, &d.event_type)) {
        cd_call_free(next);
        d.verdict = CD_V_NO_MEMORY;
        return d;
    }
    next->version = cur->version + 1;
    d.verdict = CD_V_MOVED;
    d.next = next;
    return d;
}

/* engine.c -- fuzzes the transition table with sequences of commands: whatever comes in whatever
 * order, a call ends at most once and every record of it makes sense.
 * Input: a byte for the call, then three bytes a command. */
#include "calls.h"

static void names_parse_back(const struct cd_call *c)
{
    MUST(cd_status_parse(cd_status_name(c->status)) == (int)c->status);
    MUST(cd_type_parse(cd_type_name(c->type)) == (int)c->type);
    MUST(cd_kind_parse(cd_kind_name(c->kind)) == (int)c->kind);
    MUST(cd_media_parse(cd_media_name(c->media)) == (int)c->media);
    MUST(cd_origin_parse(cd_origin_name(c->origin)) == (int)c->origin);
    MUST(cd_mx_state_parse(cd_mx_state_name(c->mx_state)) == (int)c->mx_state);
    MUST(cd_phase_name(c->status));
    if (c->end_reason != CD_R_NONE)
        MUST(cd_reason_parse(cd_reason_name(c->end_reason)) == (int)c->end_reason);
    for (size_t i = 0; i < c->n_participants; i++) {
        const struct cd_participant *p = &c->participants[i];

        MUST(cd_pstate_parse(cd_pstate_name(p->state)) == (int)p->state);
        MUST(cd_side_parse(cd_side_name(p->side)) == (int)p->side);
    }
}

/* What a record says about itself, whichever way it came about. */
static void record_makes_sense(const struct cd_call *c)
{
    bool final = cd_status_final(c->status);
    int64_t seconds = cd_call_duration_s(c);

    MUST((c->ended_at != 0) == final && (c->end_reason != CD_R_NONE) == final);
    MUST(!c->connected_at || c->accepted_at);
    MUST(c->status != CD_RINGING || !c->accepted_at);
    MUST((c->status != CD_ACCEPTED && c->status != CD_CONNECTED) || c->accepted_at);
    MUST(c->status != CD_CONNECTED || c->connected_at);
    MUST((c->status != CD_MISSED && c->status != CD_DECLINED && c->status != CD_CANCELED) ||
         !c->accepted_at);
    MUST((seconds >= 0) == (final && c->accepted_at));
    for (size_t i = 0; i < c->n_participants; i++) {
        const struct cd_participant *p = &c->participants[i];
        bool seated = p->state == CD_P_JOINED || p->state == CD_P_RECONNECTING;
        bool invited = p->state == CD_P_INVITED || p->state == CD_P_RINGING;

        MUST(!final || (!seated && !invited));
        MUST(!seated || p->joined_at);
        MUST(!p->left_at || p->left_at >= p->joined_at);
        MUST(p->state != CD_P_LEFT || !p->joined_at || (p->left_at && p->leave_reason));
        MUST(cd_call_participant_const(c, p->user_id) == p);
    }
}

static void step_makes_sense(const struct cd_call *cur, const struct cd_call *next)
{
    MUST(next->version == cur->version + 1 && !cd_status_final(cur->status));
    MUST(next->status >= cur->status);
    MUST(next->status != CD_CONNECTED || cur->status != CD_RINGING);
    MUST(!strcmp(next->id, cur->id) && !strcmp(next->room_id, cur->room_id) &&
         !strcmp(next->caller, cur->caller) && next->n_participants == cur->n_participants);
    MUST(!cur->accepted_at || next->accepted_at == cur->accepted_at);
    MUST(!cur->connected_at || next->connected_at == cur->connected_at);
    MUST(next->initiated_at == cur->initiated_at && (next->foreign || !cur->foreign));
}

/* @return what replaces @p cur, or NULL */
static struct cd_call *decide(const struct cd_call *cur, const struct cd_cmd *cmd)
{
    char *before = fuzz_describe(cur), *after, *twice;
    struct cd_decision d = cd_fsm_decide(cur, cmd), again = cd_fsm_decide(cur, cmd);

    after = fuzz_describe(cur);
    MUST(!strcmp(before, after)); /* the committed copy is not touched */
    free(before);
    free(after);
    MUST(d.verdict == again.verdict && (d.next != NULL) == (d.verdict == CD_V_MOVED));
    MUST(d.verdict != CD_V_NO_MEMORY);
    if (cmd->user == fuzz_users[4] && cmd->source != CD_S_TIMER && cmd->ev <= CD_EV_CONNECTED)
        MUST(d.verdict == CD_V_FORBIDDEN);
    if (d.next) {
        MUST(d.event_type && d.event_type[0]);
        before = fuzz_describe(d.next);
        twice = fuzz_describe(again.next);
        MUST(!strcmp(before, twice)); /* the same again gives the same */
        free(before);
        free(twice);
        cd_call_free(again.next);
        step_makes_sense(cur, d.next);
        record_makes_sense(d.next);
        names_parse_back(d.next);
    }
    return d.next;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct cd_str in = {(const char *)data, n};
    struct cd_call *c, *copy;
    char *a, *b;
    unsigned ends = 0;
    int64_t now = 1000;

    if (n > 600)
        return 0;
    c = fuzz_call(&in, 1);
    record_makes_sense(c);
    while (in.n) {
        struct cd_cmd cmd = fuzz_command(&in, now);
        struct cd_call *next = decide(c, &cmd);

        now += 700;
        if (!next)
            continue;
        ends += cd_status_final(next->status);
        MUST(ends <= 1);
        cd_call_free(c);
        c = next;
    }
    copy = cd_call_clone(c);
    MUST(copy);
    a = fuzz_describe(c);
    b = fuzz_describe(copy);
    MUST(!strcmp(a, b));
    free(a);
    free(b);
    cd_call_free(copy);
    cd_call_free(c);
    return 0;
}

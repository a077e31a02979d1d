/* fsm_test.c -- every event in every state, by every kind of actor: the call either moves as the design's
 * table says, or nothing changes. The expectations are written out here a second time, from the table. */
#include <stdio.h>
#include <stdlib.h>

#include "call/fsm.h"
#include "tap.h"

#define ALICE "@alice:hs" /* caller */
#define BOB "@bob:hs"     /* callee */
#define EVE "@eve:hs"     /* member of the room, not of the call */
#define NOW 1000000

static struct cd_call *make(enum cd_status status)
{
    struct cd_call *c = cd_call_new();

    snprintf(c->id, sizeof(c->id), "z0");
    cd_set_str(&c->room_id, "!r:hs");
    cd_set_str(&c->caller, ALICE);
    cd_set_str(&c->callee, BOB);
    c->status = status;
    c->version = 7;
    c->mx_version = 1;
    c->ring_seconds = 60;
    c->initiated_at = NOW - 10000;
    struct cd_participant *a = cd_call_add_participant(c, ALICE);
    struct cd_participant *b = cd_call_add_participant(c, BOB);
    cd_set_str(&a->party_id, "PARTYA");
    a->state = CD_P_JOINED;
    a->side = CD_SIDE_OURS;
    b->state = CD_P_RINGING;
    if (status == CD_ACCEPTED || status == CD_CONNECTED) {
        b->state = CD_P_JOINED;
        b->side = CD_SIDE_OURS;
        cd_set_str(&b->party_id, "PARTYB");
        cd_set_str(&b->device_id, "DEVB");
        c->accepted_at = NOW - 5000;
    }
    if (status == CD_DECLINED)
        cd_set_str(&c->ended_by, BOB);
    if (cd_status_final(status))
        c->ended_at = NOW - 1000;
    return c;
}

/* "." refused, "=" unchanged, "x" forbidden, "M" moved with the status unchanged, else the new status and,
 * behind a colon, the reason. */
struct row {
    enum cd_ev ev;
    const char *actor; /* NULL: the daemon */
    const char *ringing, *accepted, *connected, *ended, *declined;
};

static const struct row rows[] = {
    {CD_EV_ANSWER, BOB, "accepted", "=", "=", ".", "."},
    {CD_EV_ANSWER, ALICE, "x", "x", "x", "x", "x"},
    {CD_EV_ANSWER, EVE, "x", "x", "x", "x", "x"},
    {CD_EV_REJECT, BOB, "declined:declined", ".", ".", ".", "="},
    {CD_EV_REJECT, ALICE, "x", "x", "x", "x", "x"},
    {CD_EV_END, ALICE, "canceled:canceled", "ended:user_hangup", "ended:user_hangup", "=", "="},
    {CD_EV_END, BOB, "declined:declined", "ended:user_hangup", "ended:user_hangup", "=", "="},
    {CD_EV_END, EVE, "x", "x", "x", "x", "x"},
    {CD_EV_LEAVE, ALICE, "canceled:canceled", "ended:user_hangup", "ended:user_hangup", "=", "="},
    {CD_EV_LEAVE, BOB, "declined:declined", "ended:user_hangup", "ended:user_hangup", "=", "="},
    {CD_EV_CONNECTED, ALICE, ".", "connected", "=", ".", "."},
    {CD_EV_CONNECTED, BOB, ".", "connected", "=", ".", "."},
    {CD_EV_CONNECTED, EVE, "x", "x", "x", "x", "x"},
    {CD_EV_RING_TIMEOUT, NULL, "missed:invite_timeout", ".", ".", ".", "."},
    {CD_EV_SEAT_LOST, ALICE, "canceled:canceled", "failed:peer_lost", "ended:peer_lost", ".", "."},
    {CD_EV_SEAT_LOST, BOB, ".", "failed:peer_lost", "ended:peer_lost", ".", "."},
    {CD_EV_MEMBER_LEFT, ALICE, "canceled:left_room", "ended:left_room", "ended:left_room", ".", "."},
    {CD_EV_MEMBER_LEFT, BOB, "declined:left_room", "ended:left_room", "ended:left_room", ".", "."},
    {CD_EV_MEMBER_LEFT, EVE, "x", "x", "x", "x", "x"},
    {CD_EV_SELECT_OURS, ALICE, ".", "=", "=", ".", "."},
    {CD_EV_SELECT_OURS, BOB, "x", "x", "x", "x", "x"},
    {CD_EV_SELECT_OTHER, ALICE, ".", "M", "M", ".", "."},
    {CD_EV_GLARE_LOST, NULL, "canceled:replaced", ".", ".", ".", "."},
    {CD_EV_DISPLACED, NULL, "canceled:replaced", "ended:replaced", "ended:replaced", ".", "."},
    {CD_EV_UNATTENDED, NULL, ".", "failed:peer_lost", ".", ".", "."},
    {CD_EV_MAX_MINUTES, NULL, ".", "ended:max_duration", "ended:max_duration", ".", "."},
    {CD_EV_ADMIN_END, NULL, "canceled:kicked", "ended:kicked", "ended:kicked", "=", "="},
    {CD_EV_SHUTDOWN, NULL, "canceled:shutdown", "ended:shutdown", "ended:shutdown", ".", "."},
    {CD_EV_TOGGLE_AUDIO, ALICE, "M", "M", "M", ".", "."},
    {CD_EV_TOGGLE_VIDEO, BOB, "M", "M", "M", ".", "."},
    {CD_EV_TOGGLE_SCREEN, BOB, "M", "M", "M", ".", "."},
    {CD_EV_TOGGLE_SCREEN, EVE, "x", "x", "x", "x", "x"},
};

static const char *outcome(const struct cd_call *cur, const struct cd_decision *d, char *buf, size_t size)
{
    const char *reason;

    switch (d->verdict) {
    case CD_V_REFUSED:
        return ".";
    case CD_V_SAME:
        return "=";
    case CD_V_FORBIDDEN:
        return "x";
    case CD_V_MOVED:
        if (d->next->status == cur->status)
            return "M";
        reason = cd_reason_name(d->next->end_reason);
        snprintf(buf, size, "%s%s%s", cd_status_name(d->next->status), reason ? ":" : "", reason ? reason : "");
        return buf;
    case CD_V_NO_MEMORY:
        break;
    }
    return "no memory";
}

static struct cd_cmd command(enum cd_ev ev, const char *actor)
{
    return (struct cd_cmd){.ev = ev, .source = actor ? CD_S_REST : CD_S_TIMER, .user = actor, .client = "DEVB",
                           .party_id = "PARTYB", .mx_version = 1, .enabled = -1, .now_ms = NOW};
}

static void check_cell(const struct row *r, enum cd_status from, const char *want)
{
    struct cd_call *cur = make(from), *untouched = make(from);
    struct cd_cmd cmd = command(r->ev, r->actor);
    struct cd_decision d = cd_fsm_decide(cur, &cmd);
    char buf[64], name[128];

    snprintf(name, sizeof(name), "%s by %s when %s", cd_ev_name(r->ev), r->actor ? r->actor : "the daemon",
             cd_status_name(from));
    tap_str(__FILE__, __LINE__, name, outcome(cur, &d, buf, sizeof(buf)), want);
    CHECK(cur->status == untouched->status && cur->version == untouched->version &&
               cur->end_reason == untouched->end_reason &&
               cur->participants[1].state == untouched->participants[1].state); /* the committed copy is not touched */
    if (d.verdict == CD_V_MOVED) {
        CHECK(d.next->version == cur->version + 1 && d.event_type != NULL); /* a move raises the version */
        if (cd_status_final(d.next->status))
            CHECK(d.next->ended_at == NOW && cd_call_duration_s(d.next) == (from == CD_RINGING ? -1 : 5)); /* an end has its time and duration */
    }
    cd_call_free(d.next);
    cd_call_free(cur);
    cd_call_free(untouched);
}

static void test_table(void)
{
    bool seen[CD_EV_COUNT] = {false};

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const struct row *r = &rows[i];

        seen[r->ev] = true;
        check_cell(r, CD_RINGING, r->ringing);
        check_cell(r, CD_ACCEPTED, r->accepted);
        check_cell(r, CD_CONNECTED, r->connected);
        check_cell(r, CD_ENDED, r->ended);
        check_cell(r, CD_MISSED, r->ended);
        check_cell(r, CD_CANCELED, r->ended);
        check_cell(r, CD_FAILED, r->ended);
        check_cell(r, CD_DECLINED, r->declined);
    }
    for (int e = 0; e < CD_EV_COUNT; e++)
        CHECK(seen[e]);
}

/* One decision with a command shaped by the caller. */
static struct cd_decision decide(enum cd_status from, struct cd_cmd cmd, struct cd_call **cur)
{
    *cur = make(from);
    return cd_fsm_decide(*cur, &cmd);
}

static void test_reasons(void)
{
    static const struct {
        enum cd_reason in;
        enum cd_status want;
    } cases[] = {
        {CD_R_USER_HANGUP, CD_ENDED},       {CD_R_ICE_FAILED, CD_FAILED},    {CD_R_ICE_TIMEOUT, CD_FAILED},
        {CD_R_USER_MEDIA_FAILED, CD_FAILED}, {CD_R_UNKNOWN_ERROR, CD_FAILED}, {CD_R_USER_BUSY, CD_ENDED},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct cd_cmd cmd = command(CD_EV_END, ALICE);
        struct cd_call *cur;

        cmd.reason = cases[i].in;
        struct cd_decision d = decide(CD_CONNECTED, cmd, &cur);
        CHECK_INT(d.next->status, cases[i].want);
        CHECK_INT(d.next->end_reason, cases[i].in); /* the reason stands */
        CHECK_STR(d.next->ended_by, ALICE); /* and who ended it */
        CHECK_INT(d.next->participants[1].state, CD_P_LEFT); /* everybody has left */
        cd_call_free(d.next);
        cd_call_free(cur);
    }
}

static void test_parties(void)
{
    struct cd_cmd cmd = command(CD_EV_ANSWER, BOB);
    struct cd_call *cur;
    struct cd_decision d;

    cmd.client = "socket:9";
    d = decide(CD_ACCEPTED, cmd, &cur);
    CHECK_INT(d.verdict, CD_V_REFUSED); /* another party's answer is refused */
    cd_call_free(cur);

    d = decide(CD_RINGING, cmd, &cur);
    CHECK_STR(d.next->participants[1].device_id, "socket:9"); /* the answering client is remembered */
    CHECK_STR(d.next->participants[1].party_id, "PARTYB"); /* and its party */
    CHECK_INT(d.next->participants[1].side, CD_SIDE_OURS); /* on our side */
    CHECK(!d.next->answer_provisional); /* between our users an answer is final */
    cd_call_free(d.next);
    cd_call_free(cur);
}

static void test_matrix(void)
{
    struct cd_cmd cmd = command(CD_EV_END, BOB);
    struct cd_call *cur;
    struct cd_decision d;

    cmd.source = CD_S_MATRIX;
    d = decide(CD_RINGING, cmd, &cur);
    CHECK_INT(d.verdict, CD_V_REFUSED); /* a version 1 hang-up of the callee while it rings means nothing */
    cd_call_free(cur);
    cmd.mx_version = 0;
    d = decide(CD_RINGING, cmd, &cur);
    CHECK_INT(d.next->status, CD_DECLINED); /* a version 0 one declines */
    cd_call_free(d.next);
    cd_call_free(cur);

    cur = make(CD_RINGING);
    cur->origin = CD_O_MATRIX;
    cmd = command(CD_EV_ANSWER, BOB);
    d = cd_fsm_decide(cur, &cmd);
    CHECK(d.next->answer_provisional); /* an answer to a Matrix caller is provisional */
    cmd = command(CD_EV_SELECT_OURS, ALICE);
    struct cd_decision e = cd_fsm_decide(d.next, &cmd);
    CHECK_INT(e.verdict, CD_V_MOVED); /* until it selects ours */
    CHECK(!e.next->answer_provisional && e.next->status == CD_ACCEPTED); /* which changes nothing else */
    cd_call_free(e.next);
    cmd = command(CD_EV_SELECT_OTHER, ALICE);
    cmd.party_id = "OTHER";
    e = cd_fsm_decide(d.next, &cmd);
    CHECK_STR(e.next->participants[1].leave_reason, "answered_elsewhere"); /* or another one's, and ours leaves */
    CHECK_INT(e.next->participants[1].side, CD_SIDE_MATRIX); /* the party is a Matrix client then */
    cd_call_free(e.next);
    cd_call_free(d.next);
    cd_call_free(cur);
}

static void test_toggles(void)
{
    struct cd_cmd cmd = command(CD_EV_TOGGLE_AUDIO, ALICE);
    struct cd_call *cur;
    struct cd_decision d = decide(CD_CONNECTED, cmd, &cur);

    CHECK(!d.next->participants[0].audio_enabled); /* without a value it flips */
    cd_call_free(d.next);
    cd_call_free(cur);
    cmd.enabled = 1;
    d = decide(CD_CONNECTED, cmd, &cur);
    CHECK_INT(d.verdict, CD_V_SAME); /* the value it has already changes nothing */
    cd_call_free(cur);
}

static void test_busy(void)
{
    struct cd_cmd cmd = command(CD_EV_REJECT, BOB);
    struct cd_call *cur;

    cmd.reason = CD_R_USER_BUSY;
    struct cd_decision d = decide(CD_RINGING, cmd, &cur);
    CHECK_INT(d.next->end_reason, CD_R_USER_BUSY); /* busy is a reason */
    CHECK_INT(d.next->participants[1].state, CD_P_BUSY); /* and a state of the callee */
    cd_call_free(d.next);
    cd_call_free(cur);
}

int main(void)
{
    TAP_RUN(test_table);
    TAP_RUN(test_reasons);
    TAP_RUN(test_parties);
    TAP_RUN(test_matrix);
    TAP_RUN(test_toggles);
    TAP_RUN(test_busy);
    return tap_done();
}

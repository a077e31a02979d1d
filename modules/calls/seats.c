/* seats.c -- who sits where: join-call, take-over, dropped sockets and their grace time.
 *
 * A user has one seated party a call. A dropped socket keeps its seat for calls.seat_seconds; then the
 * engine is told SEAT_LOST (design, section 4). */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "calls.h"

static const char *user_at(const struct cd_live *l, int seat)
{
    return cd_live_call(l)->participants[seat].user_id;
}

void calls_seats_clear(struct cd_live *l)
{
    for (size_t i = 0; i < CD_MAX_PARTICIPANTS; i++) {
        cd_timer_cancel(l->core->loop, &l->seats[i].grace);
        l->seats[i].sock_id = 0;
        l->seats[i].held = false;
    }
}

/* --- who may speak from a seat -------------------------------------------------------------------- */

bool calls_seat_speaks(struct cd_op *op)
{
    const struct cd_live *l = op->live;
    int seat = cd_live_seat_of(l, op->who->user_id);
    const struct cd_participant *p = &l->cur->participants[seat];
    const struct cd_seat *s = &l->seats[seat];

    if (cd_status_final(l->cur->status))
        return true; /* the state answers, not the seat */
    if (p->side == CD_SIDE_MATRIX) {
        cd_op_error(op, CD_E_FORBIDDEN, "A Matrix client of yours is in this call, not this one.");
        return false;
    }
    if (op->sock_id && s->sock_id && s->sock_id != op->sock_id) {
        cd_op_fail(op, CD_E_SEAT_TAKEN);
        return false;
    }
    /* what follows an answer on the same connection may overtake that answer's commit */
    if (op->sock_id && !s->sock_id && !l->busy) {
        cd_op_error(op, CD_E_FORBIDDEN, "Send join-call first: this socket does not sit in the call.");
        return false;
    }
    if (!op->sock_id && !s->held && p->state != CD_P_JOINED) {
        cd_op_error(op, CD_E_FORBIDDEN, "Answer the call first: nobody of yours sits in it.");
        return false;
    }
    return true;
}

/* --- a socket that dropped ------------------------------------------------------------------------ */

static void grace_over(void *arg)
{
    struct cd_seat *s = arg;
    struct cd_live *l = s->live;
    int seat = (int)(s - l->seats);
    char user[CD_MAX_ID + 1];

    if (s->sock_id || cd_status_final(cd_live_call(l)->status))
        return;
    snprintf(user, sizeof(user), "%s", user_at(l, seat));
    if (s->held) /* else it is known, and only could not be stored */
        calls_announce_user(l->core, l, "user-left", user, "\"reason\":\"peer_lost\"", 0);
    s->held = false;
    calls_submit_own(l, CD_EV_SEAT_LOST, user, &s->grace, grace_over, s);
}

static void seat_dropped(struct cd_core *core, struct cd_live *l, int seat)
{
    struct cd_seat *s = &l->seats[seat];
    const struct cd_call *c = cd_live_call(l);
    char more[48];

    s->sock_id = 0;
    if (c->participants[seat].state != CD_P_JOINED) { /* an invited user's tab that only listened */
        s->held = false;
        return;
    }
    cd_timer_set(core->loop, &s->grace, core->conf->calls.seat_seconds * 1000, grace_over, s);
    snprintf(more, sizeof(more), "\"graceSeconds\":%ld", core->conf->calls.seat_seconds);
    calls_announce_user(core, l, "peer-reconnecting", c->participants[seat].user_id, more, 0);
}

void calls_seat_take(struct cd_live *l, int seat, uint64_t sock_id)
{
    struct cd_seat *s = &l->seats[seat];

    cd_timer_cancel(l->core->loop, &s->grace);
    s->held = true;
    s->sock_id = sock_id;
    if (sock_id && !cd_sock_by_id(sock_id)) /* it left while its command was under way */
        seat_dropped(l->core, l, seat);
}

void calls_seats_restored(struct cd_core *core, struct cd_live *l)
{
    const struct cd_call *c = l->cur;

    for (size_t i = 0; i < c->n_participants; i++) {
        const struct cd_participant *p = &c->participants[i];
        struct cd_seat *s = &l->seats[i];

        if (cd_status_final(c->status) || p->state != CD_P_JOINED || p->side != CD_SIDE_OURS)
            continue;
        s->held = true;
        if (!l->elsewhere && !s->sock_id && p->device_id && strncmp(p->device_id, "socket:", 7) == 0)
            cd_timer_set(core->loop, &s->grace, core->conf->calls.seat_seconds * 1000, grace_over, s);
    }
}

static void client_gone(struct cd_core *core, const struct cd_client *client)
{
    size_t n;
    struct cd_live *const *calls = cd_live_of_user(core, client->who->user_id, &n);

    for (size_t i = 0; i < n; i++) {
        int seat = cd_live_seat_of(calls[i], client->who->user_id);
        if (seat >= 0 && calls[i]->seats[seat].sock_id == client->sock_id &&
            !cd_status_final(cd_live_call(calls[i])->status))
            seat_dropped(core, calls[i], seat);
    }
}

/* A socket that connects while its user is being called hears it ring. */
static void client_came(struct cd_core *core, const struct cd_client *client)
{
    size_t n;
    struct cd_live *const *calls = cd_live_of_user(core, client->who->user_id, &n);

    for (size_t i = 0; i < n; i++) {
        const struct cd_call *c = calls[i]->cur;
        if (c && c->status == CD_RINGING && !c->foreign && c->callee && strcmp(c->callee, client->who->user_id) == 0)
            calls_ring(core, calls[i], client->sock_id);
    }
}

void calls_seats_client(struct cd_core *core, struct cd_client *client, bool connected)
{
    if (connected)
        client_came(core, client);
    else
        client_gone(core, client);
}

/* --- join-call ------------------------------------------------------------------------------------ */

/* Everything of others after @p last, in order; one that is addressed elsewhere is left out. */
static void add_missed(struct cd_buf *b, const struct cd_live *l, int seat, uint64_t last)
{
    const struct cd_participant *me = &cd_live_call(l)->participants[seat];
    bool first = true;

    cd_buf_adds(b, "\"missed\":[");
    for (size_t i = 0; i < l->n_log; i++) {
        const struct cd_log_entry *e = &l->log[i];

        if (e->seq <= last || (e->from_user && strcmp(e->from_user, me->user_id) == 0))
            continue;
        if (e->to && strcmp(e->to, me->user_id) != 0 && (!me->party_id || strcmp(e->to, me->party_id) != 0))
            continue;
        cd_buf_adds(b, first ? "{\"event\":\"" : ",{\"event\":\"");
        cd_buf_adds(b, e->event);
        cd_buf_adds(b, "\",");
        cd_buf_add(b, e->payload + 1, e->payload_n - 1);
        first = false;
    }
    cd_buf_addc(b, ']');
}

static void joined(struct cd_op *op, int seat, uint64_t last)
{
    struct cd_live *l = op->live;
    const char *party = l->cur->participants[seat].party_id;
    struct cd_buf b;

    cd_buf_init(&b, 4 * 1024 * 1024);
    cd_buf_adds(&b, "{\"call\":");
    cd_render_call(&b, op->core, l, op->who->user_id, party, true);
    cd_buf_adds(&b, ",\"partyId\":");
    cd_buf_add_jsons(&b, party);
    cd_buf_addc(&b, ',');
    add_missed(&b, l, seat, last);
    cd_buf_addc(&b, '}');
    cd_op_ok(op, 200, &b);
}

/* The tab that sat here before learns that it does no longer. */
static void tell_replaced(struct cd_live *l, int seat)
{
    struct cd_sock *old = cd_sock_by_id(l->seats[seat].sock_id);
    struct cd_buf b;

    if (!old)
        return;
    cd_buf_init(&b, 1024);
    cd_buf_adds(&b, "{\"callId\":");
    cd_buf_add_jsons(&b, cd_live_id(l));
    cd_buf_adds(&b, ",\"userId\":");
    cd_buf_add_jsons(&b, user_at(l, seat));
    cd_buf_adds(&b, ",\"reason\":\"replaced\"}");
    if (!b.failed)
        cd_sock_emit(old, "user-left", (struct cd_str){b.p, b.n});
    cd_buf_done(&b);
}

/* A seat keeps its party id whoever sits on it; an invited user's is made when its first client comes. */
static bool ensure_party(struct cd_live *l, int seat)
{
    struct cd_participant *p = &l->cur->participants[seat];
    char party[CD_PARTY_ID_LEN + 1];

    if (p->party_id)
        return true;
    cd_id_alnum(CD_PARTY_ID_LEN, party);
    return cd_set_str(&p->party_id, party);
}

static void sit_down(struct cd_op *op, int seat)
{
    struct cd_live *l = op->live;
    struct cd_seat *s = &l->seats[seat];
    bool back = s->grace.due_ms != 0, fresh = s->sock_id != op->sock_id;

    if (s->sock_id && fresh)
        tell_replaced(l, seat);
    calls_seat_take(l, seat, op->sock_id);
    if (fresh && (back || l->cur->participants[seat].state == CD_P_JOINED))
        calls_announce_user(op->core, l, "user-joined", op->who->user_id, NULL, op->sock_id);
}

static void join_found(struct cd_op *op)
{
    struct cd_live *l = op->live;
    int seat = cd_live_seat_of(l, op->who->user_id);
    const struct cd_participant *p = &l->cur->participants[seat];
    char party[CD_MAX_ID + 1];
    bool take_over = false;
    long long last = 0;

    cd_input_text(&op->in, "partyId", false, party, sizeof(party));
    cd_input_bool(&op->in, "takeOver", &take_over);
    cd_input_int(&op->in, "lastSeq", 0, INT64_MAX, &last);
    if (op->in.rc != CD_OK) {
        cd_op_fail(op, op->in.rc);
        return;
    }
    if (!cd_sock_by_id(op->sock_id)) { /* it left while its room was asked about: nobody sits down */
        cd_op_error(op, CD_E_NOT_FOUND, "This socket has left.");
        return;
    }
    if (cd_status_final(l->cur->status)) {
        cd_op_fail(op, cd_fail_state(&op->err, l->cur));
        return;
    }
    if (party[0] && (!p->party_id || strcmp(party, p->party_id) != 0)) {
        cd_op_error(op, CD_E_INVALID_PARAM, "partyId is not the party of your seat.");
        return;
    }
    if (p->side == CD_SIDE_MATRIX ||
        (l->seats[seat].sock_id && l->seats[seat].sock_id != op->sock_id && !take_over)) {
        cd_op_fail(op, CD_E_SEAT_TAKEN);
        return;
    }
    if (!ensure_party(l, seat)) {
        cd_op_fail(op, CD_E_NO_MEMORY);
        return;
    }
    sit_down(op, seat);
    joined(op, seat, (uint64_t)last);
}

void calls_join(struct cd_op *op)
{
    cd_op_with_own_call(op, join_found);
}

/* --- the same for clients that only use REST ------------------------------------------------------ */

static void events_found(struct cd_op *op)
{
    const char *after = op->req ? cd_req_query(op->req, "after") : NULL;
    uint64_t last = 0;
    struct cd_buf b;

    if (after && !cd_parse_u64(cd_str_of(after), 0, INT64_MAX, &last)) {
        cd_op_error(op, CD_E_INVALID_PARAM, "after must be a whole number.");
        return;
    }
    cd_buf_init(&b, 4 * 1024 * 1024);
    cd_buf_addc(&b, '{');
    add_missed(&b, op->live, cd_live_seat_of(op->live, op->who->user_id), last);
    cd_buf_addc(&b, '}');
    cd_op_ok(op, 200, &b);
}

void calls_events(struct cd_op *op)
{
    cd_op_with_own_call(op, events_found);
}

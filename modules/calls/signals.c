/* signals.c -- offers, answers and candidates of our clients: judged here, relayed by the core. */
#include "calls.h"

#include <stdio.h>

/* `to` is a user or a party of this call, and not oneself. */
static bool addressee_known(struct cd_op *op, int seat, const char *to)
{
    const struct cd_call *c = op->live->cur;

    if (!to[0])
        return true;
    for (size_t i = 0; i < c->n_participants; i++) {
        const struct cd_participant *p = &c->participants[i];
        if ((int)i != seat && (strcmp(p->user_id, to) == 0 || (p->party_id && strcmp(p->party_id, to) == 0)))
            return true;
    }
    cd_op_error(op, CD_E_INVALID_PARAM, "to must be the user id or party id of somebody else in this call.");
    return false;
}

static void relay(struct cd_op *op, enum cd_signal kind, struct cd_str members)
{
    int seat = cd_live_seat_of(op->live, op->who->user_id);
    char to[CD_MAX_ID + 1];
    uint64_t seq;
    struct cd_buf b;

    cd_input_text(&op->in, "to", false, to, sizeof(to));
    if (!to[0])
        cd_input_text(&op->in, "targetUserId", false, to, sizeof(to));
    if (op->in.rc != CD_OK) {
        cd_op_fail(op, op->in.rc);
        return;
    }
    if (!calls_seat_speaks(op) || !addressee_known(op, seat, to))
        return;
    struct cd_sig sig = {.kind = kind, .source = op->sock_id ? CD_S_SOCKET : CD_S_REST,
                         .from_user = op->who->user_id,
                         .from_party = op->live->cur->participants[seat].party_id,
                         .to = to[0] ? to : NULL, .members = members};
    enum cd_rc rc = cd_signal(op->core, op->live, &sig, &seq, &op->err);
    if (rc != CD_OK) {
        cd_op_fail(op, rc);
        return;
    }
    cd_buf_init(&b, 64);
    if (!op->sock_id || op->ack.id >= 0) { /* else nobody reads it */
        cd_buf_adds(&b, "{\"seq\":");
        cd_buf_add_i64(&b, (int64_t)seq);
        cd_buf_addc(&b, '}');
    }
    cd_op_ok(op, 200, &b);
}

/* @param value  a member's of the request, so what stands before it is the request, too
 * @return where "name": stands right before it; NULL: written otherwise */
static const char *member_start(const char *name, struct cd_str value)
{
    size_t n = strlen(name);
    const char *start = value.p - n - 3;

    return start[0] == '"' && memcmp(start + 1, name, n) == 0 && start[n + 1] == '"' && start[n + 2] == ':'
               ? start
               : NULL;
}

/* "name": value, as it stands in the request */
static void relay_member(struct cd_op *op, enum cd_signal kind, const char *name, struct cd_str value)
{
    const char *start = member_start(name, value);
    struct cd_buf b;

    if (start) {
        relay(op, kind, (struct cd_str){start, (size_t)(value.p - start) + value.n});
        return;
    }
    cd_buf_init(&b, value.n + 32);
    cd_buf_addf(&b, "\"%s\":", name);
    cd_buf_add(&b, value.p, value.n);
    if (b.failed)
        cd_op_fail(op, CD_E_NO_MEMORY);
    else
        relay(op, kind, (struct cd_str){b.p, b.n});
    cd_buf_done(&b);
}

static void sdp_found(struct cd_op *op, const char *name, enum cd_signal kind)
{
    struct cd_str sdp;

    if (cd_input_sdp(&op->in, name, name, (size_t)op->core->conf->limits.sdp_bytes, &sdp))
        relay_member(op, kind, name, sdp);
    else if (op->in.rc != CD_OK)
        cd_op_fail(op, op->in.rc);
    else
        cd_op_error(op, CD_E_MISSING_PARAM, "%s is required.", name);
}

static void offer_found(struct cd_op *op)
{
    sdp_found(op, "offer", CD_SIG_OFFER);
}

void calls_offer(struct cd_op *op)
{
    cd_op_with_own_call(op, offer_found);
}

static void answer_sdp_found(struct cd_op *op)
{
    const struct cd_call *c = op->live->cur;

    /* while the answer's commit is under way its SDP may follow on its heels */
    if (c->status == CD_RINGING && (!op->live->busy || strcmp(c->caller, op->who->user_id) == 0))
        cd_op_error(op, CD_E_INVALID_STATE, "Answer the call first; the SDP may come with the answer.");
    else
        sdp_found(op, "answer", CD_SIG_ANSWER);
}

void calls_answer_sdp(struct cd_op *op)
{
    cd_op_with_own_call(op, answer_sdp_found);
}

/* An RTCIceCandidateInit: candidate is a string, sdpMid a string or null, sdpMLineIndex a number or
 * null. @return the index-less error text, or NULL */
static const char *candidate_wrong(struct cd_str c)
{
    static const struct cd_json_pick picks[] = {CD_PICK("candidate"), CD_PICK("sdpMid"),
                                                CD_PICK("sdpMLineIndex")};
    struct cd_str found[3];
    enum cd_json_kind mid, line;

    if (cd_json_kind(c) != CD_JSON_OBJECT)
        return "must be an object";
    cd_json_pick_valid(c, picks, 3, found);
    if (!found[0].p || cd_json_kind(found[0]) != CD_JSON_STRING)
        return "must have a string \"candidate\" (\"\" is the end)";
    if (!cd_input_is_text(found[0]))
        return "has a candidate that is no text";
    mid = found[1].p ? cd_json_kind(found[1]) : CD_JSON_NULL;
    if (mid != CD_JSON_STRING && mid != CD_JSON_NULL)
        return "has an sdpMid that is no string";
    line = found[2].p ? cd_json_kind(found[2]) : CD_JSON_NULL;
    if (line != CD_JSON_NUMBER && line != CD_JSON_NULL)
        return "has an sdpMLineIndex that is no number";
    return NULL;
}

static void candidates_found(struct cd_op *op, struct cd_str list)
{
    struct cd_str item;
    size_t pos = 0, n = 0;

    while (cd_json_element(list, &pos, &item)) {
        const char *problem = candidate_wrong(item);
        if (problem) {
            cd_op_error(op, CD_E_BAD_JSON, "candidates[%zu] %s.", n, problem);
            return;
        }
        n++;
    }
    if (n == 0)
        cd_op_error(op, CD_E_INVALID_PARAM, "candidates must not be empty.");
    else if (n > (size_t)op->core->conf->limits.candidates)
        cd_op_error(op, CD_E_INVALID_PARAM, "candidates may have %ld elements at most.",
                    op->core->conf->limits.candidates);
    else
        relay_member(op, CD_SIG_CANDIDATE, "candidates", list);
}

static void candidate_found(struct cd_op *op)
{
    struct cd_str one, list;
    const char *problem;

    if (cd_input_member(&op->in, "candidates", &list) && cd_json_kind(list) != CD_JSON_NULL) {
        if (cd_json_kind(list) != CD_JSON_ARRAY)
            cd_op_error(op, CD_E_BAD_JSON, "candidates must be an array.");
        else
            candidates_found(op, list);
        return;
    }
    if (!cd_input_member(&op->in, "candidate", &one))
        cd_op_error(op, CD_E_MISSING_PARAM, "candidate is required: an RTCIceCandidateInit object.");
    else if ((problem = candidate_wrong(one)))
        cd_op_error(op, CD_E_BAD_JSON, "candidate %s.", problem);
    else
        relay_member(op, CD_SIG_CANDIDATE, "candidate", one);
}

void calls_candidate(struct cd_op *op)
{
    cd_op_with_own_call(op, candidate_found);
}

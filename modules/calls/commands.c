/* commands.c -- answer, reject, end, leave, connected. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "calls.h"

#define ANSWER_AGAIN_MS 20
#define ANSWER_TRIES 250

static enum cd_source source_of(const struct cd_op *op)
{
    return op->sock_id ? CD_S_SOCKET : CD_S_REST;
}

static void submit(struct cd_op *op, struct cd_cmd *cmd, cd_cmd_fn fn)
{
    struct cd_extra extra = {0};

    if (!cd_op_idem(op, 200, &extra.idem)) {
        cd_op_fail(op, CD_E_NO_MEMORY);
        return;
    }
    /* In the store before the rows that need it: whoever sends them, after a restart or as the call's
     * owner, finds it there. */
    cd_tokens_hold(op->core, op->who);
    cmd->source = source_of(op);
    cmd->user = op->who->user_id;
    cmd->client = op->client;
    cmd->mx_version = 1;
    cmd->now_ms = cd_wall_ms();
    cd_submit(op->core, op->live, cmd, &extra, fn, op);
}

/* The plain end of every command: the call object, or the error. */
static void on_done(void *arg, const struct cd_result *res)
{
    struct cd_op *op = arg;

    /* nothing is sent for it; a call that goes on keeps the token, and so does one of another daemon */
    if (!res->moved && !op->live->elsewhere)
        cd_tokens_release(op->core, op->who->user_id);
    if (res->key_taken) {
        cd_op_key_taken(op);
        return;
    }
    op->idem_given = op->idem_given && res->moved; /* an unchanged call's answer is kept on its own */
    op->live = res->live;
    if (res->rc != CD_OK) {
        op->err = res->err;
        cd_op_fail(op, res->rc);
        return;
    }
    cd_op_ok_call(op, 200, NULL);
}

/* --- answer --------------------------------------------------------------------------------------- */

/* The SDP that came with the answer: logged, mirrored, and announced by call-answered alone.
 * @param late  that has been announced without it. @return false out of memory */
static bool log_answer(struct cd_op *op, struct cd_live *l, const char *party, bool late)
{
    struct cd_buf b;
    uint64_t seq;
    enum cd_rc rc;

    cd_buf_init(&b, op->sdp.n + 16);
    cd_buf_adds(&b, "\"answer\":");
    cd_buf_add(&b, op->sdp.p, op->sdp.n);
    struct cd_sig sig = {.kind = CD_SIG_ANSWER, .source = source_of(op), .from_user = op->who->user_id,
                         .from_party = party, .members = {b.p, b.n}, .silent = !late};
    rc = b.failed ? CD_E_NO_MEMORY : cd_signal(op->core, l, &sig, &seq, NULL);
    cd_buf_done(&b);
    return rc != CD_E_NO_MEMORY;
}

static const char *party_of(const struct cd_op *op)
{
    return op->live->cur->participants[cd_live_seat_of(op->live, op->who->user_id)].party_id;
}

static void log_answer_again(void *arg);

static bool wait_for_memory(struct cd_op *op)
{
    return op->tries++ < ANSWER_TRIES &&
           cd_timer_set(op->core->loop, &op->again, ANSWER_AGAIN_MS, log_answer_again, op) == 0;
}

static void log_answer_again(void *arg)
{
    struct cd_op *op = arg;

    op->live = cd_live_get(op->core, op->call_id);
    if (!op->live || !op->live->cur || cd_status_final(op->live->cur->status)) {
        cd_op_error(op, CD_E_INVALID_STATE, "The call was answered, and is over by now.");
        return;
    }
    if (log_answer(op, op->live, party_of(op), true))
        cd_op_ok_call(op, 200, party_of(op));
    else if (!wait_for_memory(op))
        cd_op_error(op, CD_E_NO_MEMORY,
                    "The call was answered, but there is no memory for the description: send it as webrtc-answer.");
}

static void on_answered(void *arg, const struct cd_result *res)
{
    struct cd_op *op = arg;

    if (res->rc != CD_OK) {
        on_done(arg, res);
        return;
    }
    int seat = cd_live_seat_of(res->live, op->who->user_id);
    const char *party = res->live->cur->participants[seat].party_id;
    op->live = res->live;
    op->idem_given = op->idem_given && res->moved;
    if (res->moved) {
        calls_seat_take(res->live, seat, op->sock_id);
        snprintf(op->call_id, sizeof(op->call_id), "%s", cd_live_id(res->live));
        if (op->sdp.n && !log_answer(op, res->live, party, false) && wait_for_memory(op))
            return;
    }
    cd_op_ok_call(op, 200, party);
}

static void answer_found(struct cd_op *op)
{
    const struct cd_call *c = op->live->cur;
    const struct cd_participant *p = cd_call_participant_const(c, op->who->user_id);
    char party[CD_PARTY_ID_LEN + 1];
    struct cd_cmd cmd = {.ev = CD_EV_ANSWER, .party_id = p->party_id};

    if (!p->party_id) { /* the first client of this user to come near the call */
        cd_id_alnum(CD_PARTY_ID_LEN, party);
        cmd.party_id = party;
    }
    submit(op, &cmd, on_answered);
}

void calls_answer(struct cd_op *op)
{
    struct cd_err *err = &op->err;

    cd_input_sdp(&op->in, "answer", "answer", (size_t)op->core->conf->limits.sdp_bytes, &op->sdp);
    if (op->in.rc != CD_OK)
        cd_op_fail(op, err->rc);
    else
        cd_op_with_own_call(op, answer_found);
}

/* --- reject, end, leave, connected ---------------------------------------------------------------- */

static void reject_found(struct cd_op *op)
{
    static const char *const reasons[] = {"declined", "user_busy", NULL};
    struct cd_cmd cmd = {.ev = CD_EV_REJECT, .reason = CD_R_DECLINED};

    if (cd_input_word(&op->in, "reason", reasons) == 1)
        cmd.reason = CD_R_USER_BUSY;
    if (op->in.rc != CD_OK)
        cd_op_fail(op, op->in.rc);
    else
        submit(op, &cmd, on_done);
}

void calls_reject(struct cd_op *op)
{
    cd_op_with_own_call(op, reject_found);
}

static void end_as(struct cd_op *op, enum cd_ev ev)
{
    static const char *const reasons[] = {"user_hangup", "ice_failed",    "ice_timeout", "user_media_failed",
                                          "user_busy",   "unknown_error", NULL};
    struct cd_cmd cmd = {.ev = ev};
    int i = cd_input_word(&op->in, "reason", reasons);

    cmd.reason = i < 0 ? CD_R_USER_HANGUP : (enum cd_reason)cd_reason_parse(reasons[i]);
    if (op->in.rc != CD_OK)
        cd_op_fail(op, op->in.rc);
    else if (op->live->cur->foreign && !cd_status_final(op->live->cur->status))
        cd_op_error(op, CD_E_FORBIDDEN, "This call runs between two Matrix clients; end it there.");
    else
        submit(op, &cmd, on_done);
}

static void end_found(struct cd_op *op)
{
    end_as(op, CD_EV_END);
}

void calls_end(struct cd_op *op)
{
    cd_op_with_own_call(op, end_found);
}

static void leave_found(struct cd_op *op)
{
    if (calls_seat_speaks(op))
        end_as(op, CD_EV_LEAVE);
}

void calls_leave(struct cd_op *op)
{
    cd_op_with_own_call(op, leave_found);
}

static void connected_found(struct cd_op *op)
{
    struct cd_cmd cmd = {.ev = CD_EV_CONNECTED};

    if (op->live->cur->status == CD_RINGING || calls_seat_speaks(op)) /* ringing: the state refuses it */
        submit(op, &cmd, on_done);
}

void calls_connected(struct cd_op *op)
{
    cd_op_with_own_call(op, connected_found);
}

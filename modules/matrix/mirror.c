/* mirror.c -- mirrors our calls into their rooms, so that Matrix clients take part, ring and stop.
 *
 * In: transitions and signals. Out: outbox rows. Rule (design, section 5): invite, answer,
 * select_answer, reject and hangup are always written once the invite is, and ends also where another daemon
 * may be writing one; candidates, negotiate and metadata only while a Matrix client is or may become a
 * party. State: live->mx. Blocks: never. */
#include "mirror.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/json_mem.h"
#include "base/log.h"
#include "batch.h"
#include "inbound.h"
#include "rows.h"

#define RANK_DROPPABLE 9 /* of what nobody needs once the call is over */
#define RETRY_MS 250 /* a commit is in flight, or there is no memory: look again */
#define REREADS_MAX 40

/* --- what is due ------------------------------------------------------------------------------ */

static bool is_invite_due(const struct cd_live *live, const struct cd_call *c)
{
    const struct cd_mx *m = live->mx;

    return m && m->side[CD_MX_CALLER].sdp && !m->invite_written && !m->refused &&
           cd_mx_is_ours(c, CD_MX_CALLER) && c->status == CD_RINGING && cd_mx_enabled(live, c) &&
           c->ring_expires_at > cd_wall_ms();
}

static bool is_answer_due(const struct cd_live *live, const struct cd_call *c)
{
    const struct cd_mx *m = live->mx;

    return m && m->side[CD_MX_CALLEE].sdp && !m->answer_written && cd_call_is_active(c) &&
           cd_mx_is_ours(c, CD_MX_CALLEE) && cd_mx_mirrors(live, c);
}

static void add_answer(struct cd_mx_rows *rows, struct cd_mx *m, const struct cd_call *c)
{
    cd_mx_add_answer(rows, m, c);
    if (cd_mx_is_ours(c, CD_MX_CALLER))
        cd_mx_add_select(rows, m, c, cd_mx_party(m, c, CD_MX_CALLEE));
}

static bool says(const struct cd_outbox_row *rows, size_t n, const char *type)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(rows[i].event_type, type) == 0)
            return true;
    return false;
}

static bool is_invite(const struct cd_outbox_row *row)
{
    return strcmp(row->event_type, "m.call.invite") == 0;
}

/* It is said; candidates may follow. */
static void mark_written(struct cd_mx *m, bool invite, bool answer)
{
    if (invite && !m->invite_written) {
        m->invite_written = true;
        cd_mx_batch_base(m, CD_MX_CALLER);
    }
    if (answer && !m->answer_written) {
        m->answer_written = true;
        cd_mx_batch_base(m, CD_MX_CALLEE);
    }
}

/* From here on the outbox answers for it: until its deadline, through restarts. While another daemon may
 * have taken the call nobody knows whether it goes out; the outbox says so when it does. */
static void add_invite(struct cd_mx_rows *rows, struct cd_live *live, const struct cd_call *c)
{
    cd_mx_add_invite(rows, live->mx, c);
    if (!live->cur || cd_store_may_act(live->core->store, c->id))
        live->mx_state = CD_MX_SENT;
}

static void pump(void *arg);
static void again(void *arg);

/* Write what a signal made due. While a commit is in flight nobody knows whether it still is. */
static void pump(void *arg)
{
    struct cd_live *live = arg;
    struct cd_mx *m = live->mx;
    struct cd_mx_rows rows = {0};

    if (!m || !live->cur) /* a call being created takes its invite along */
        return;
    bool invite = is_invite_due(live, live->cur), answer = is_answer_due(live, live->cur);
    if (!invite && !answer)
        return;
    if (live->busy) {
        cd_timer_set(live->core->loop, &m->retry, RETRY_MS, again, live);
        return;
    }
    if (invite)
        add_invite(&rows, live, live->cur);
    else
        add_answer(&rows, m, live->cur);
    invite = says(rows.v, rows.n, "m.call.invite");
    answer = says(rows.v, rows.n, "m.call.answer");
    if (cd_mx_rows_write(&rows, live))
        mark_written(m, invite, answer);
    else
        cd_timer_set(live->core->loop, &m->retry, RETRY_MS, again, live);
}

/* --- transitions ------------------------------------------------------------------------------ */

static void build_accepted(struct cd_mx_rows *rows, struct cd_live *live,
                           const struct cd_call *next, const struct cd_cmd *cmd)
{
    struct cd_mx *m = live->mx;

    if (!cd_mx_mirrors(live, next))
        return;
    if (cmd->source != CD_S_MATRIX) {
        if (is_answer_due(live, next))
            add_answer(rows, m, next);
    } else if (cd_mx_is_ours(next, CD_MX_CALLER)) {
        cd_mx_add_select(rows, m, next, cmd->party_id);
    }
}

/* Whose hang-up tells the Matrix side? @return -1: nobody's */
static int hangup_side(const struct cd_call *prev, const struct cd_cmd *cmd)
{
    int actor = cd_mx_side_of(prev, cmd->user);

    if (cmd->ev == CD_EV_MEMBER_LEFT) { /* who left can send no more; Matrix clients see it leave */
        actor = actor == CD_MX_CALLER ? CD_MX_CALLEE : CD_MX_CALLER;
        return cd_mx_is_ours(prev, actor) ? actor : -1;
    }
    /* a Matrix client has said so in the room itself */
    if (cmd->source == CD_S_MATRIX && cmd->ev != CD_EV_GLARE_LOST)
        return -1;
    if (actor >= 0 && cd_mx_is_ours(prev, actor))
        return actor;
    if (cd_mx_is_ours(prev, CD_MX_CALLER))
        return CD_MX_CALLER;
    return cd_mx_is_ours(prev, CD_MX_CALLEE) ? CD_MX_CALLEE : -1;
}

/* Does this end say no to a ringing call, for a callee on our side? */
static bool is_our_reject(const struct cd_call *prev, const struct cd_cmd *cmd)
{
    if (prev->status != CD_RINGING)
        return false;
    if (cmd->ev == CD_EV_ADMIN_END) /* a Matrix caller ignores hang-ups before the answer */
        return prev->origin == CD_O_MATRIX;
    return cmd->source != CD_S_MATRIX && cmd->source != CD_S_TIMER &&
           (cmd->ev == CD_EV_REJECT || cmd->ev == CD_EV_END || cmd->ev == CD_EV_LEAVE) &&
           cd_mx_side_of(prev, cmd->user) == CD_MX_CALLEE;
}

static void build_final(struct cd_mx_rows *rows, struct cd_live *live, const struct cd_call *prev,
                        const struct cd_call *next, const struct cd_cmd *cmd)
{
    struct cd_mx *m = live->mx;

    if (is_our_reject(prev, cmd)) {
        cd_mx_add_reject(rows, m, next);
        if (cd_mx_is_ours(next, CD_MX_CALLER))
            cd_mx_add_select(rows, m, next, cd_mx_party(m, next, CD_MX_CALLEE));
        return;
    }
    if (cmd->ev == CD_EV_REJECT && cmd->source == CD_S_MATRIX) {
        if (cd_mx_is_ours(next, CD_MX_CALLER) && cmd->mx_version != 0)
            cd_mx_add_select(rows, m, next, cmd->party_id);
        return;
    }
    int side = hangup_side(prev, cmd);
    /* To the room it never answered, and hang-ups before an answer are ignored there. But another daemon may be
     * writing the answer just now, and rejects behind one are ignored, too. */
    if (side == CD_MX_CALLEE && !m->answer_written) {
        if (!cd_mx_is_ours(next, CD_MX_CALLER)) {
            cd_mx_add_reject(rows, m, next);
            if (cd_call_is_active(prev) && next->mx_version != 0 && cd_store_is_shared(live->core->store))
                cd_mx_add_hangup(rows, m, next, side);
            return;
        }
        side = CD_MX_CALLER;
    }
    if (side >= 0)
        cd_mx_add_hangup(rows, m, next, side);
}

/* Also where no invite is known: another daemon may write it just now. The store, which sees both, lets the end
 * stand behind an attempt at an invite only. */
static bool end_is_told(const struct cd_live *live, const struct cd_call *c)
{
    const struct cd_mx *m = live->mx;

    return cd_mx_enabled(live, c) && !m->refused;
}

/* An invite that no homeserver has seen: the room never hears of this call. */
static bool is_untold(const struct cd_live *live, const struct cd_call *c)
{
    return cd_mx_is_ours(c, CD_MX_CALLER) && !live->invite_tried;
}

void cd_mx_before_commit(struct cd_core *core, struct cd_live *live, const struct cd_call *prev,
                         const struct cd_call *next, const struct cd_cmd *cmd,
                         struct cd_change *change)
{
    struct cd_mx_rows rows = {0};

    if (!core->outbox || next->kind != CD_DIRECT)
        return;
    if (!cd_mx_of(live)) {
        change->incomplete = true;
        return;
    }
    if (!prev) {
        if (is_invite_due(live, next))
            add_invite(&rows, live, next);
    } else if (cd_status_final(next->status)) {
        change->drop_untried_droppable = true;
        if (end_is_told(live, next)) {
            change->drop_untried_all = is_untold(live, next);
            build_final(&rows, live, prev, next, cmd);
        }
    } else if (prev->status == CD_RINGING && next->status == CD_ACCEPTED) {
        build_accepted(&rows, live, next, cmd);
        change->drop_untried_droppable = !cd_mx_has_counterpart(next);
    }
    cd_mx_rows_into(&rows, change);
}

/* Is there an invite in the room, or on its way, that these rows put an end to? Its attempt begins only
 * once the store has noted it, and the store let the end rows stand only behind such a note: so both
 * come to the same answer, whichever was first. */
static bool room_knows(struct cd_core *core, struct cd_live *live, const struct cd_change *change)
{
    if (!change->drop_untried_all)
        return true;
    if (cd_outbox_take_back(core->outbox, live->cur->id, change->outbox, change->n_outbox))
        live->invite_tried = false;
    return live->invite_tried;
}

/* Our client muted or unmuted, perhaps while it rang: a Matrix client that knows of it is told. */
static void tell_switches(struct cd_live *live, int side)
{
    struct cd_mx *m = live->mx;
    const struct cd_mx_side *s = &m->side[side];
    const struct cd_participant *p = cd_mx_participant(live->cur, side);
    struct cd_mx_rows rows = {0};

    if (!m->negotiates || !s->based_ms || !cd_call_is_active(live->cur) ||
        !cd_mx_is_ours(live->cur, side) ||
        !cd_mx_has_counterpart(live->cur) || !cd_mx_mirrors(live, live->cur) ||
        (p->audio_enabled == s->said_audio && p->video_enabled == s->said_video))
        return;
    cd_mx_add_metadata(&rows, m, live->cur, side);
    cd_mx_rows_write(&rows, live);
}

static void feed_outbox(struct cd_core *core, struct cd_live *live, const struct cd_change *change)
{
    bool told = room_knows(core, live, change);

    if (change->drop_untried_droppable || !told)
        cd_outbox_drop(core->outbox, live->cur->id, !told);
    if (told && change->n_outbox)
        cd_outbox_add(core->outbox, change->outbox, change->n_outbox);
}

void cd_mx_after_commit(struct cd_core *core, struct cd_live *live, const struct cd_call *prev,
                        const struct cd_cmd *cmd, const struct cd_change *change)
{
    struct cd_mx *m = live->mx;

    (void)prev;
    (void)cmd;
    cd_mx_drain_soon(live, 0);
    if (!core->outbox || !m)
        return;
    if (!live->elsewhere)
        feed_outbox(core, live, change);
    mark_written(m, says(change->outbox, change->n_outbox, "m.call.invite"),
                 says(change->outbox, change->n_outbox, "m.call.answer"));
    if (!cd_mx_has_counterpart(live->cur))
        cd_mx_batch_stop(m);
    for (int side = 0; side < CD_MX_SIDES; side++)
        tell_switches(live, side);
    pump(live);
}

/* --- signals ---------------------------------------------------------------------------------- */

static json_t *parse_members(struct cd_str members)
{
    unsigned long failures = cd_json_mem_failures();
    struct cd_buf b;
    json_t *root;

    cd_buf_init(&b, members.n + 2);
    cd_buf_addc(&b, '{');
    cd_buf_add(&b, members.p, members.n);
    cd_buf_addc(&b, '}');
    root = b.failed ? NULL : json_loadb(b.p, b.n, JSON_ALLOW_NUL, NULL);
    cd_buf_done(&b);
    if (cd_json_mem_failures() == failures)
        return root;
    json_decref(root);
    return NULL;
}

/* Out of memory. The call's log has it, too. */
static void reread_later(struct cd_mx *m)
{
    if (m->unread || m->rereads == REREADS_MAX)
        return;
    m->rereads++;
    m->unread = cd_timer_set(m->live->core->loop, &m->retry, RETRY_MS, again, m->live) == 0;
}

/* Remember the side's latest description. @return false: there is none in it, or no memory for it */
static bool keep_sdp(struct cd_mx *m, int side, const json_t *members, bool is_answer)
{
    const json_t *d = json_object_get(members, is_answer ? "answer" : "offer");
    const char *sdp = json_string_value(json_object_get(d, "sdp"));
    char *copy = sdp ? strdup(sdp) : NULL;

    if (sdp && !copy)
        reread_later(m);
    if (!copy)
        return false;
    free(m->side[side].sdp);
    m->side[side].sdp = copy;
    return true;
}

/* A later description: only for a Matrix client that has shown it knows the event. */
static void renegotiate(struct cd_mx *m, int side, bool is_answer)
{
    struct cd_live *live = m->live;
    struct cd_mx_rows rows = {0};

    if (!m->negotiates || !live->cur || !cd_call_is_active(live->cur) || !cd_mx_is_ours(live->cur, side) ||
        !cd_mx_mirrors(live, live->cur))
        return;
    cd_mx_add_negotiate(&rows, m, live->cur, side, is_answer);
    cd_mx_rows_write(&rows, live);
}

static void on_description(struct cd_mx *m, int side, const json_t *members, bool is_answer)
{
    const struct cd_call *c = cd_live_call(m->live);
    bool first = side == CD_MX_CALLER ? !is_answer && cd_mx_is_ours(c, side) && !m->invite_written
                                      : is_answer && !m->answer_written;

    if (!first && c->status == CD_RINGING) /* the invite has gone out with another one */
        return;
    if (!keep_sdp(m, side, members, is_answer))
        return;
    m->side[side].n_seen = 0; /* it gathers anew */
    if (first)
        pump(m->live);
    else if (cd_mx_has_counterpart(c))
        renegotiate(m, side, is_answer);
}

void cd_mx_on_signal(struct cd_core *core, struct cd_live *live, const struct cd_sig *sig,
                     uint64_t seq)
{
    const struct cd_call *c = cd_live_call(live);
    int side = cd_mx_side_of(c, sig->from_user);
    struct cd_mx *m;
    json_t *members;

    (void)seq;
    if (!core->outbox || sig->source == CD_S_MATRIX || side < 0 || !cd_mx_enabled(live, c))
        return;
    m = cd_mx_of(live);
    if (!m || (!cd_mx_has_counterpart(c) && (sig->kind == CD_SIG_CANDIDATE || m->answer_written)))
        return; /* between two of our clients nobody else listens */
    members = parse_members(sig->members);
    if (!members && sig->kind != CD_SIG_CANDIDATE)
        reread_later(m);
    if (!members)
        return;
    if (sig->kind == CD_SIG_CANDIDATE)
        cd_mx_batch_take(m, side, members);
    else
        on_description(m, side, members, sig->kind == CD_SIG_ANSWER);
    json_decref(members);
}

/* --- coming and going ------------------------------------------------------------------------- */

void cd_mx_on_gone(struct cd_core *core, struct cd_live *live)
{
    (void)core;
    cd_mx_drop(live);
}

/* The descriptions stand in the log that came back with the call. */
static void restore_descriptions(struct cd_mx *m)
{
    struct cd_live *live = m->live;

    for (size_t i = 0; i < live->n_log; i++) {
        const struct cd_log_entry *e = &live->log[i];
        bool is_answer = strcmp(e->event, "webrtc-answer") == 0;
        int side = cd_mx_side_of(live->cur, e->from_user);
        json_t *members;

        if (!e->signal || side < 0 || (!is_answer && strcmp(e->event, "webrtc-offer") != 0))
            continue;
        members = parse_members((struct cd_str){e->payload + e->body_at, e->body_n});
        if (!members)
            reread_later(m);
        keep_sdp(m, side, members, is_answer);
        json_decref(members);
    }
}

/* One timer for both: what waits to be written may wait for what has to be read first. */
static void again(void *arg)
{
    struct cd_live *live = arg;
    struct cd_mx *m = live->mx;
    bool unread = m->unread;

    m->unread = false;
    if (unread && live->cur)
        restore_descriptions(m);
    else if (unread)
        reread_later(m);
    pump(live);
}

/* What is written, as far as the store shows it. An invite or answer whose row is gone was sent, unless the call had
 * moved on before. Of another daemon's invites only those count that it tried: it may have been refused them. */
static void restore_progress(struct cd_mx *m, const struct cd_outbox_row *rows, size_t n)
{
    struct cd_live *live = m->live;
    const struct cd_call *c = live->cur;
    bool invite_row = says(rows, n, "m.call.invite"), answer_row = says(rows, n, "m.call.answer"), told = false;

    for (size_t i = 0; i < n; i++)
        if (is_invite(&rows[i]) && rows[i].tried)
            live->invite_tried = true;
    if (cd_mx_is_ours(c, CD_MX_CALLER)) {
        bool sent = !live->elsewhere && c->status == CD_RINGING && m->side[CD_MX_CALLER].sdp && !invite_row;

        told = c->invite_tried || live->invite_tried || sent;
        live->invite_tried = told;
        if (told && live->mx_state == CD_MX_WAITING_FOR_OFFER)
            live->mx_state = CD_MX_SENT;
    }
    mark_written(m, invite_row || told, answer_row || (cd_call_is_active(c) && m->side[CD_MX_CALLEE].sdp));
}

void cd_mx_on_restored(struct cd_core *core, struct cd_live *live,
                       const struct cd_outbox_row *rows, size_t n)
{
    struct cd_mx *m = core->outbox && live->cur ? cd_mx_of(live) : NULL;

    if (!m)
        return;
    restore_descriptions(m);
    restore_progress(m, rows, n);
    if (live->elsewhere)
        return;
    cd_outbox_add(core->outbox, rows, n);
    pump(live);
}

/* --- another daemon's doing ------------------------------------------------------------------- */

/* What its transaction deleted goes here as well. */
static void drop_as_stored(struct cd_core *core, struct cd_live *live, const struct cd_outbox_row *rows,
                           size_t n)
{
    const struct cd_call *c = live->cur;

    if (cd_status_final(c->status) && !says(rows, n, "m.call.invite") &&
        cd_outbox_take_back(core->outbox, c->id, NULL, 0))
        live->invite_tried = false;
    if (cd_status_final(c->status) || !cd_mx_has_counterpart(c))
        cd_outbox_drop(core->outbox, c->id, false);
}

/* What another daemon's command did to our rows. */
static void follow_rows(struct cd_core *core, struct cd_live *live, bool moved, const struct cd_outbox_row *rows,
                        size_t n)
{
    bool over = cd_status_final(live->cur->status);
    struct cd_mx *m = live->mx;

    if (moved)
        drop_as_stored(core, live, rows, n);
    for (size_t i = 0; i < n; i++)
        if (!over || rows[i].rank != RANK_DROPPABLE)
            cd_outbox_add(core->outbox, &rows[i], 1);
    if (m->refused) /* the other daemon cannot know */
        cd_outbox_drop(core->outbox, live->cur->id, true);
    if (!over)
        pump(live);
}

void cd_mx_on_moved(struct cd_core *core, struct cd_live *live, const struct cd_call *prev,
                    const struct cd_outbox_row *rows, size_t n)
{
    struct cd_mx *m = core->outbox && live->cur ? cd_mx_of(live) : NULL;

    if (!m)
        return;
    if (prev)
        cd_mx_drain_soon(live, 0);
    if (prev || live->elsewhere)
        restore_descriptions(m);
    if (live->elsewhere)
        restore_progress(m, rows, n);
    else
        mark_written(m, says(rows, n, "m.call.invite"), says(rows, n, "m.call.answer"));
    if (!cd_mx_has_counterpart(live->cur))
        cd_mx_batch_stop(m);
    if (!live->elsewhere)
        follow_rows(core, live, prev != NULL, rows, n);
}

/* --- the outbox calls back -------------------------------------------------------------------- */

static struct cd_principal *outbox_token(void *self, const char *user_id)
{
    struct cd_core *core = self;
    struct cd_principal *p = cd_tokens_of(core, user_id);

    return p || !core->rooms ? p : cd_rooms_token_of(core->rooms, user_id);
}

static void outbox_token_refused(void *self, const char *user_id, struct cd_principal *p)
{
    cd_tokens_refused(self, user_id, p);
}

static void outbox_tried(void *self, const struct cd_outbox_row *row)
{
    struct cd_live *live = cd_live_get(self, row->call_id);

    if (live && is_invite(row))
        live->invite_tried = true;
}

/* What became of the invite decides what the call object says, and whether more is sent. */
static void invite_finished(struct cd_core *core, struct cd_live *live, enum cd_sent_rc rc)
{
    struct cd_mx *m = cd_mx_of(live);

    switch (rc) {
    case CD_SENT_OK:
        live->mx_state = CD_MX_SENT;
        return;
    case CD_SENT_NO_TOKEN:
        live->mx_state = CD_MX_UNAVAILABLE_NO_TOKEN;
        break;
    case CD_SENT_REFUSED:
        live->mx_state = CD_MX_FAILED;
        break;
    case CD_SENT_EXPIRED: /* it may have arrived: the hang-up still goes out */
        live->mx_state = CD_MX_FAILED;
        return;
    }
    if (m)
        m->refused = true;
    cd_outbox_drop(core->outbox, cd_live_id(live), true);
}

static void outbox_finished(void *self, const struct cd_outbox_row *row, enum cd_sent_rc rc,
                            const char *event_id)
{
    struct cd_core *core = self;
    struct cd_live *live = cd_live_get(core, row->call_id);
    struct cd_log_ctx ctx = {.call_id = row->call_id, .user = row->user_id, .room = row->room_id};

    (void)event_id;
    if (live && is_invite(row))
        invite_finished(core, live, rc);
    if (rc != CD_SENT_OK)
        cd_log(CD_LOG_WARN, "matrix", "event.unsent", &ctx, "%s was not sent: %s", row->event_type,
               rc == CD_SENT_EXPIRED   ? "too late"
               : rc == CD_SENT_REFUSED ? "refused by the homeserver"
                                       : "no usable token");
    cd_tokens_release(core, row->user_id);
}

const struct cd_outbox_ops cd_mx_outbox_ops = {
    .token = outbox_token,
    .token_refused = outbox_token_refused,
    .tried = outbox_tried,
    .finished = outbox_finished,
};

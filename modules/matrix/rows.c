/* rows.c -- makes outbox rows: who sends, what stands in the event, its order and its deadline.
 *
 * In: a call's state. Out: rows of matrix_outbox. Why here: order and deadlines (design, section 5)
 * are decided in one place. Blocks: never. */
#include "rows.h"

#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "content.h"

#define AFTERMATH_MS 600000     /* select_answer, reject and hangup are worth sending that long */
#define NEGOTIATE_LIFE_MS 60000

enum { RANK_INVITE = 0, RANK_ANSWER = 1, RANK_CHOICE = 2, RANK_HANGUP = 3, RANK_DROPPABLE = 9 };

bool cd_mx_enabled(const struct cd_live *live, const struct cd_call *c)
{
    return live->core->outbox && c->kind == CD_DIRECT && c->callee && !c->foreign &&
           live->mx_state != CD_MX_UNAVAILABLE_ENCRYPTED && live->mx_state != CD_MX_OFF;
}

bool cd_mx_mirrors(const struct cd_live *live, const struct cd_call *c)
{
    const struct cd_mx *m = live->mx;

    if (!cd_mx_enabled(live, c) || (m && m->refused))
        return false;
    return c->origin == CD_O_MATRIX || (m && m->invite_written);
}

bool cd_mx_is_ours(const struct cd_call *c, int side)
{
    const struct cd_participant *p = cd_mx_participant(c, side);

    if (side == CD_MX_CALLER)
        return c->origin == CD_O_REST || c->origin == CD_O_SOCKET;
    return p && p->side == CD_SIDE_OURS;
}

const char *cd_mx_party(struct cd_mx *m, const struct cd_call *c, int side)
{
    const struct cd_participant *p = cd_mx_participant(c, side);
    struct cd_mx_side *s = &m->side[side];

    if (p && p->party_id && p->party_id[0])
        return p->party_id;
    if (!s->party && (s->party = malloc(CD_PARTY_ID_LEN + 1)))
        cd_id_alnum(CD_PARTY_ID_LEN, s->party);
    if (!s->party)
        errno = ENOMEM;
    return s->party;
}

/* How long the call can last at most: what is not sent by then needs not be. */
static int64_t call_end(const struct cd_mx *m, const struct cd_call *c)
{
    int64_t longest = (int64_t)m->live->core->conf->calls.max_minutes * 60000;

    return c->ended_at ? c->ended_at : cd_wall_ms() + longest;
}

/* Which event, from whom, when at the latest. */
struct plan {
    int side, rank;
    const char *type;
    int64_t deadline;
};

static void lost(struct cd_mx_rows *rows, const struct cd_mx *m, const struct plan *p, bool starved)
{
    rows->starved = rows->starved || starved;
    cd_log(CD_LOG_ERROR, "matrix", "event.unbuilt",
           &(struct cd_log_ctx){.call_id = cd_live_id(m->live)},
           "%s could not be built: %s", p->type, starved ? "out of memory" : "too large, it is not sent");
}

/* @param content  taken over; NULL: could not be built, errno says why */
static void add(struct cd_mx_rows *rows, struct cd_mx *m, const struct cd_call *c,
                const struct plan *p, char *content)
{
    char txn[6 + 20 + 1] = "calld.";
    struct cd_outbox_row *r = &rows->v[rows->n];

    if (!content || rows->n == CD_MX_ROWS) {
        lost(rows, m, p, !content && errno == ENOMEM);
        free(content);
        return;
    }
    cd_id_alnum(20, txn + 6);
    *r = (struct cd_outbox_row){.content = content, .rank = p->rank, .ord = ++m->ord,
                                .created_at = cd_wall_ms(), .deadline = p->deadline};
    memcpy(r->call_id, c->id, sizeof(r->call_id));
    r->not_before = r->created_at;
    r->txn_id = strdup(txn);
    r->room_id = strdup(c->room_id);
    r->user_id = strdup(p->side == CD_MX_CALLER ? c->caller : c->callee);
    r->event_type = strdup(p->type);
    if (r->txn_id && r->room_id && r->user_id && r->event_type) {
        rows->n++;
        return;
    }
    cd_outbox_row_done(r);
    lost(rows, m, p, true);
}

static struct cd_mxc_head head_of(struct cd_mx *m, const struct cd_call *c, int side)
{
    return (struct cd_mxc_head){cd_call_mx_id(c), cd_mx_party(m, c, side)};
}

/* The side's switches, which this event tells the room. */
static struct cd_mxc_media media_of(struct cd_mx *m, const struct cd_call *c, int side)
{
    const struct cd_participant *p = cd_mx_participant(c, side);
    struct cd_mx_side *s = &m->side[side];

    s->said_audio = p && p->audio_enabled;
    s->said_video = p && p->video_enabled;
    return (struct cd_mxc_media){s->said_audio, s->said_video};
}

/* What is left of the ring time, in whole seconds: the few milliseconds between the call's row and
 * its invite do not shorten it. */
static int64_t ring_ms_left(const struct cd_call *c)
{
    return (c->ring_expires_at - cd_wall_ms() + 999) / 1000 * 1000;
}

void cd_mx_add_invite(struct cd_mx_rows *rows, struct cd_mx *m, const struct cd_call *c)
{
    struct cd_mxc_head h = head_of(m, c, CD_MX_CALLER);
    struct cd_mxc_media media = media_of(m, c, CD_MX_CALLER);
    struct plan p = {CD_MX_CALLER, RANK_INVITE, "m.call.invite", c->ring_expires_at};

    add(rows, m, c, &p,
        h.party_id ? cd_mxc_invite(&h, cd_str_of(m->side[CD_MX_CALLER].sdp), c->callee,
                                   ring_ms_left(c), &media)
                   : NULL);
}

void cd_mx_add_answer(struct cd_mx_rows *rows, struct cd_mx *m, const struct cd_call *c)
{
    struct cd_mxc_head h = head_of(m, c, CD_MX_CALLEE);
    struct cd_mxc_media media = media_of(m, c, CD_MX_CALLEE);
    struct plan p = {CD_MX_CALLEE, RANK_ANSWER, "m.call.answer", call_end(m, c)};

    add(rows, m, c, &p,
        h.party_id ? cd_mxc_answer(&h, cd_str_of(m->side[CD_MX_CALLEE].sdp), &media) : NULL);
}

void cd_mx_add_select(struct cd_mx_rows *rows, struct cd_mx *m, const struct cd_call *c,
                      const char *selected_party)
{
    struct cd_mxc_head h = head_of(m, c, CD_MX_CALLER);
    struct plan p = {CD_MX_CALLER, RANK_CHOICE, "m.call.select_answer",
                     call_end(m, c) + AFTERMATH_MS};

    if (selected_party && selected_party[0]) /* a version 0 client has no party and expects none */
        add(rows, m, c, &p, h.party_id ? cd_mxc_select_answer(&h, selected_party) : NULL);
}

void cd_mx_add_reject(struct cd_mx_rows *rows, struct cd_mx *m, const struct cd_call *c)
{
    struct cd_mxc_head h = head_of(m, c, CD_MX_CALLEE);
    bool busy = c->end_reason == CD_R_USER_BUSY;
    bool old = c->origin == CD_O_MATRIX && c->mx_version == 0; /* knows no reject */
    struct plan p = {CD_MX_CALLEE, old ? RANK_HANGUP : RANK_CHOICE,
                     old ? "m.call.hangup" : "m.call.reject", call_end(m, c) + AFTERMATH_MS};
    char *content = NULL;

    if (h.party_id)
        content = old ? cd_mxc_hangup(&h, busy ? CD_R_USER_BUSY : CD_R_USER_HANGUP)
                      : cd_mxc_reject(&h, busy);
    add(rows, m, c, &p, content);
}

void cd_mx_add_hangup(struct cd_mx_rows *rows, struct cd_mx *m, const struct cd_call *c, int side)
{
    struct cd_mxc_head h = head_of(m, c, side);
    struct plan p = {side, RANK_HANGUP, "m.call.hangup", call_end(m, c) + AFTERMATH_MS};

    add(rows, m, c, &p, h.party_id ? cd_mxc_hangup(&h, c->end_reason) : NULL);
}

void cd_mx_add_negotiate(struct cd_mx_rows *rows, struct cd_mx *m, const struct cd_call *c,
                         int side, bool is_answer)
{
    struct cd_mxc_head h = head_of(m, c, side);
    struct cd_mxc_media media = media_of(m, c, side);
    struct plan p = {side, RANK_DROPPABLE, "m.call.negotiate", cd_wall_ms() + NEGOTIATE_LIFE_MS};

    add(rows, m, c, &p,
        h.party_id ? cd_mxc_negotiate(&h, is_answer, cd_str_of(m->side[side].sdp),
                                      NEGOTIATE_LIFE_MS, &media)
                   : NULL);
}

void cd_mx_add_metadata(struct cd_mx_rows *rows, struct cd_mx *m, const struct cd_call *c, int side)
{
    struct cd_mxc_head h = head_of(m, c, side);
    struct cd_mxc_media media = media_of(m, c, side);
    struct plan p = {side, RANK_DROPPABLE, "m.call.sdp_stream_metadata_changed", call_end(m, c)};
    char *content = h.party_id ? cd_mxc_metadata(&h, cd_str_of(m->side[side].sdp), &media) : NULL;

    if (content) /* NULL: its description names no stream, so there is nothing to say of one */
        add(rows, m, c, &p, content);
}

void cd_mx_add_candidates(struct cd_mx_rows *rows, struct cd_mx *m, const struct cd_call *c,
                          int side, struct cd_str list)
{
    struct cd_mxc_head h = head_of(m, c, side);
    struct plan p = {side, RANK_DROPPABLE, "m.call.candidates", call_end(m, c)};

    add(rows, m, c, &p, h.party_id ? cd_mxc_candidates(&h, list) : NULL);
}

void cd_mx_rows_into(struct cd_mx_rows *rows, struct cd_change *change)
{
    for (size_t i = 0; i < rows->n; i++) {
        struct cd_outbox_row *to = cd_change_outbox(change);

        if (to)
            *to = rows->v[i];
        else
            cd_outbox_row_done(&rows->v[i]);
    }
    change->incomplete = change->incomplete || rows->starved;
    rows->n = 0;
}

bool cd_mx_rows_write(struct cd_mx_rows *rows, struct cd_live *live)
{
    bool ok = !rows->starved && (!rows->n || cd_write_outbox(live->core, live, rows->v, rows->n) == CD_OK);

    for (size_t i = 0; i < rows->n && rows->starved; i++)
        cd_outbox_row_done(&rows->v[i]);
    if (!ok)
        cd_log(CD_LOG_ERROR, "matrix", "event.unwritten",
               &(struct cd_log_ctx){.call_id = cd_live_id(live)},
               "out of memory: Matrix events could not be written yet");
    rows->n = 0;
    return ok;
}

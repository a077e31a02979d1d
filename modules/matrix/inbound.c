/* inbound.c -- applies what Matrix clients send to the calls it belongs to.
 *
 * In: pushed events, one at a time. Out: commands and signals. Rule: a call is found by room and
 * call id, then sender and party are judged against that call (design, section 5; strangers choose
 * call ids).
 * Order: while a commit of the call is in flight its later events wait, for they are judged by its
 * outcome. Blocks: never. */
#include "inbound.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/scan.h"
#include "content.h"
#include "rows.h"

#define LATER_MS 100 /* a commit that fails calls no hook: look again by then */

static void drain(void *arg);

/* --- results ---------------------------------------------------------------------------------- */

enum cd_store_rc cd_mx_store_rc(const struct cd_result *res)
{
    if (res->rc == CD_E_OVERLOADED)
        return CD_STORE_DOWN;
    return res->rc == CD_E_NO_MEMORY ? CD_STORE_FULL : CD_STORE_OK;
}

void cd_mx_applied(void *arg, const struct cd_result *res)
{
    if (arg)
        cd_txn_release(arg, cd_mx_store_rc(res));
}

void cd_mx_lost(struct cd_txn *txn)
{
    cd_txn_hold(txn);
    cd_txn_release(txn, CD_STORE_FULL);
}

/* A command that this event is. */
static struct cd_cmd cmd_of(const struct cd_mx_in *in, enum cd_ev ev)
{
    return (struct cd_cmd){
        .ev = ev,
        .source = CD_S_MATRIX,
        .user = in->sender,
        .client = in->party,
        .party_id = in->party,
        .mx_version = in->version,
        .now_ms = cd_wall_ms(),
    };
}

static void submit(struct cd_live *live, const struct cd_mx_in *in, const struct cd_cmd *cmd)
{
    struct cd_extra extra = {.mx_hash = in->hash};

    if (in->txn)
        cd_txn_hold(in->txn);
    cd_submit(in->core, live, cmd, &extra, cd_mx_applied, in->txn);
}

/* --- who speaks ------------------------------------------------------------------------------- */

static bool is_party(const struct cd_participant *p, const struct cd_mx_in *in)
{
    return strcmp(p && p->party_id ? p->party_id : "", in->party) == 0;
}

bool cd_mx_is_echo(const struct cd_live *live, const struct cd_mx_in *in)
{
    const struct cd_call *c = cd_live_call(live);
    const struct cd_mx *m = live->mx;
    int side = cd_mx_side_of(c, in->sender);

    if (side < 0 || !in->party[0])
        return false;
    if (m && m->side[side].party && strcmp(m->side[side].party, in->party) == 0)
        return true;
    return cd_mx_is_ours(c, side) && is_party(cd_mx_participant(c, side), in);
}

/* Is the sender the Matrix client that our client talks to? */
static bool is_counterpart(const struct cd_call *c, const struct cd_mx_in *in)
{
    int side = cd_mx_side_of(c, in->sender);

    if (side < 0 || cd_mx_is_ours(c, side) || !is_party(cd_mx_participant(c, side), in))
        return false;
    return side == CD_MX_CALLER || (c->status != CD_RINGING && cd_mx_is_ours(c, CD_MX_CALLER));
}

/* --- signals ---------------------------------------------------------------------------------- */

/* @return false out of memory */
static bool relay(struct cd_live *live, const struct cd_sig *sig)
{
    struct cd_err err;
    uint64_t seq;
    enum cd_rc rc = cd_signal(live->core, live, sig, &seq, &err);

    if (rc != CD_OK)
        cd_log(CD_LOG_INFO, "matrix", "signal.dropped",
               &(struct cd_log_ctx){.call_id = cd_live_id(live)},
               "a Matrix client's signal was not relayed: %s", err.text);
    return rc != CD_E_NO_MEMORY;
}

bool cd_mx_relay_sdp(struct cd_live *live, const struct cd_mx_in *in, const char *sdp,
                     bool is_answer, bool silent)
{
    const char *word = is_answer ? "answer" : "offer";
    struct cd_buf b;

    cd_buf_init(&b, 256 * 1024);
    cd_buf_addf(&b, "\"%s\":{\"type\":\"%s\",\"sdp\":", word, word);
    cd_buf_add_jsons(&b, sdp);
    cd_buf_addc(&b, '}');
    struct cd_sig sig = {.kind = is_answer ? CD_SIG_ANSWER : CD_SIG_OFFER, .source = CD_S_MATRIX,
                         .from_user = in->sender, .from_party = in->party, .members = {b.p, b.n},
                         .silent = silent};
    bool ok = b.failed ? !b.no_memory : relay(live, &sig);
    cd_buf_done(&b);
    return ok;
}

static void relay_batch(struct cd_live *live, const char *user, const char *party,
                        struct cd_buf *batch)
{
    struct cd_sig sig = {.kind = CD_SIG_CANDIDATE, .source = CD_S_MATRIX, .from_user = user,
                         .from_party = party};

    if (batch->n == 0)
        return;
    cd_buf_addc(batch, ']');
    sig.members = (struct cd_str){batch->p, batch->n};
    if (!batch->failed)
        relay(live, &sig);
    cd_buf_reset(batch);
}

void cd_mx_relay_candidates(struct cd_live *live, const char *user, const char *party,
                            struct cd_str list)
{
    size_t max = (size_t)live->core->conf->limits.signal_bytes, start, n;
    struct cd_buf batch;

    cd_buf_init(&batch, max);
    while (list.n && (n = cd_json_value(list, 8, &start)) > 0) {
        if (batch.n && batch.n + n + 2 > max)
            relay_batch(live, user, party, &batch);
        cd_buf_adds(&batch, batch.n ? "," : "\"candidates\":[");
        cd_buf_add(&batch, list.p + start, n);
        list.p += start + n;
        list.n -= start + n;
        if (list.n) { /* the comma */
            list.p++;
            list.n--;
        }
    }
    relay_batch(live, user, party, &batch);
    cd_buf_done(&batch);
}

/* As browsers take them: sdpMid or sdpMLineIndex must be there. */
static bool add_candidate(struct cd_buf *b, const json_t *candidate)
{
    const json_t *mid = json_object_get(candidate, "sdpMid");
    const json_t *index = json_object_get(candidate, "sdpMLineIndex");
    const char *text = cd_mx_text(candidate, "candidate");
    bool placed = json_is_integer(index) || (json_is_string(mid) && json_string_length(mid));

    if (placed || !text || !text[0])
        return cd_mxc_candidate(b, candidate);
    json_t *copy = json_pack("{s:s,s:I}", "candidate", text, "sdpMLineIndex",
                             (json_int_t)cd_mx_number(candidate, "sdpMLineIndex", 0));
    bool ok = cd_mxc_candidate(b, copy);
    json_decref(copy);
    return ok;
}

/* The event's candidates as comma-joined objects, no more than the party may still send. */
static void read_candidates(struct cd_mx *m, int side, const json_t *content, struct cd_buf *list)
{
    const json_t *all = json_object_get(content, "candidates");
    unsigned limit = (unsigned)m->live->core->conf->limits.candidates;

    for (size_t i = 0; i < json_array_size(all) && m->n_heard[side] < limit; i++) {
        struct cd_buf one;

        cd_buf_init(&one, 8192);
        if (add_candidate(&one, json_array_get(all, i)) && !one.failed) {
            if (list->n)
                cd_buf_addc(list, ',');
            cd_buf_add(list, one.p, one.n);
            m->n_heard[side]++;
        }
        cd_buf_done(&one);
    }
}

/* Of a party that may yet answer: kept until it does. */
static void keep_early(struct cd_mx *m, const char *party, struct cd_str list)
{
    struct cd_mx_early *e = NULL;

    for (size_t i = 0; i < m->n_early; i++)
        if (strcmp(m->early[i].party, party) == 0)
            e = &m->early[i];
    if (!e) {
        char *copy = m->n_early < CD_MX_PARTIES ? strdup(party) : NULL;
        if (!copy)
            return;
        e = &m->early[m->n_early++];
        e->party = copy;
        cd_buf_init(&e->list, CD_MX_PARTY_BYTES);
    }
    if (e->list.n + list.n + 1 > CD_MX_PARTY_BYTES)
        return;
    if (e->list.n)
        cd_buf_addc(&e->list, ',');
    cd_buf_add(&e->list, list.p, list.n);
}

/* The answer is in: its party's early candidates follow, those of others are forgotten. */
static void release_early(struct cd_mx *m)
{
    const struct cd_call *c = m->live->cur;
    const struct cd_participant *p = cd_mx_participant(c, CD_MX_CALLEE);

    if (c->status == CD_RINGING)
        return;
    for (size_t i = 0; i < m->n_early; i++) {
        struct cd_mx_early *e = &m->early[i];

        if (cd_call_is_active(c) && p && p->side == CD_SIDE_MATRIX && p->party_id &&
            strcmp(p->party_id, e->party) == 0)
            cd_mx_relay_candidates(m->live, p->user_id, e->party,
                                   (struct cd_str){e->list.p, e->list.n});
        free(e->party);
        cd_buf_done(&e->list);
    }
    m->n_early = 0;
}

static void on_candidates(struct cd_live *live, const struct cd_mx_in *in)
{
    const struct cd_call *c = live->cur;
    int side = cd_mx_side_of(c, in->sender);
    bool early = side == CD_MX_CALLEE && c->status == CD_RINGING && cd_mx_is_ours(c, CD_MX_CALLER);
    struct cd_buf list;
    struct cd_mx *m;

    if (!early && !is_counterpart(c, in))
        return;
    m = cd_mx_of(live);
    if (!m)
        return;
    cd_buf_init(&list, 65536);
    read_candidates(m, side, in->content, &list);
    if (list.n && !list.failed) {
        if (early)
            keep_early(m, in->party, (struct cd_str){list.p, list.n});
        else
            cd_mx_relay_candidates(live, in->sender, in->party, (struct cd_str){list.p, list.n});
    }
    cd_buf_done(&list);
}

/* @return the call's state, NULL out of memory */
static struct cd_mx *note_modern(struct cd_live *live)
{
    struct cd_mx *m = cd_mx_of(live);

    if (m)
        m->negotiates = true;
    return m;
}

static void on_negotiate(struct cd_live *live, const struct cd_mx_in *in)
{
    const json_t *d = json_object_get(in->content, "description");
    const char *sdp = cd_mx_text(d, "sdp"), *type = cd_mx_text(d, "type");
    struct cd_mx *m;

    if (!cd_call_is_active(live->cur) || !is_counterpart(live->cur, in) || !sdp ||
        in->age_ms >= cd_mx_number(in->content, "lifetime", 60000))
        return;
    m = note_modern(live);
    if (m)
        m->n_heard[cd_mx_side_of(live->cur, in->sender)] = 0; /* it gathers anew */
    cd_mx_relay_sdp(live, in, sdp, type && strcmp(type, "answer") == 0, false);
}

static void toggle(struct cd_live *live, const struct cd_mx_in *in, enum cd_ev ev, bool enabled)
{
    struct cd_cmd cmd = cmd_of(in, ev);

    cmd.enabled = enabled;
    cd_submit(in->core, live, &cmd, NULL, NULL, NULL);
}

static void on_metadata(struct cd_live *live, const struct cd_mx_in *in)
{
    const struct cd_participant *p = cd_call_participant_const(live->cur, in->sender);
    bool audio, video;

    if (!cd_call_is_active(live->cur) || !is_counterpart(live->cur, in) || !p)
        return;
    note_modern(live);
    audio = p->audio_enabled;
    video = p->video_enabled;
    if (!cd_mx_muted(in->content, &audio, &video))
        return;
    bool audio_moved = audio != p->audio_enabled, video_moved = video != p->video_enabled;
    if (audio_moved)
        toggle(live, in, CD_EV_TOGGLE_AUDIO, audio);
    if (video_moved)
        toggle(live, in, CD_EV_TOGGLE_VIDEO, video);
}

/* --- commands --------------------------------------------------------------------------------- */

/* An answer on its way through the engine, with its SDP. */
struct answering {
    struct cd_mx_in in; /* only sender, party, txn and core are used */
    char *sdp, *sender, *party;
    bool modern;
};

static void answering_free(struct answering *a)
{
    free(a->sdp);
    free(a->sender);
    free(a->party);
    free(a);
}

/* The SDP is logged before call-answered is written, which carries it. */
static void on_answered(void *arg, const struct cd_result *res)
{
    struct answering *a = arg;

    if (res->rc == CD_OK && res->moved) {
        if (!cd_mx_relay_sdp(res->live, &a->in, a->sdp, true, true) && a->in.txn)
            cd_mx_lost(a->in.txn); /* when it comes again the call is answered: see on_answer */
        if (a->modern)
            note_modern(res->live);
    }
    cd_mx_applied(a->in.txn, res);
    answering_free(a);
}

static struct answering *answering_new(const struct cd_mx_in *in, const char *sdp)
{
    struct answering *a = calloc(1, sizeof(*a));

    if (!a)
        return NULL;
    a->in = *in;
    a->in.content = NULL;
    a->in.sender = a->sender = strdup(in->sender);
    a->in.party = a->party = strdup(in->party);
    a->sdp = strdup(sdp);
    a->modern = cd_mx_is_modern(in->content);
    if (a->sdp && a->sender && a->party)
        return a;
    answering_free(a);
    return NULL;
}

static void on_answer(struct cd_live *live, const struct cd_mx_in *in)
{
    const char *sdp = cd_mx_text(json_object_get(in->content, "answer"), "sdp");
    struct cd_cmd cmd = cmd_of(in, CD_EV_ANSWER);
    struct cd_extra extra = {.mx_hash = in->hash};
    struct answering *a;

    if (!sdp || strlen(sdp) > (size_t)in->core->conf->limits.sdp_bytes ||
        cd_mx_side_of(live->cur, in->sender) != CD_MX_CALLEE)
        return;
    if (cd_call_is_active(live->cur) && !live->first_answer && is_counterpart(live->cur, in) &&
        !cd_mx_relay_sdp(live, in, sdp, true, false) && in->txn)
        cd_mx_lost(in->txn);
    if (live->cur->status != CD_RINGING)
        return;
    a = answering_new(in, sdp);
    if (!a) {
        if (in->txn)
            cd_mx_lost(in->txn);
        return;
    }
    if (in->txn)
        cd_txn_hold(in->txn);
    cd_submit(in->core, live, &cmd, &extra, on_answered, a);
}

static void on_select(struct cd_live *live, const struct cd_mx_in *in)
{
    const struct cd_call *c = live->cur;
    const struct cd_participant *callee = cd_mx_participant(c, CD_MX_CALLEE);
    const char *selected = cd_mx_text(in->content, "selected_party_id");
    struct cd_cmd cmd = cmd_of(in, CD_EV_SELECT_OTHER);

    if (!selected || strlen(selected) > CD_MAX_ID || !callee || !cd_call_is_active(c) ||
        cd_mx_side_of(c, in->sender) != CD_MX_CALLER || cd_mx_is_ours(c, CD_MX_CALLER) ||
        !is_party(cd_mx_participant(c, CD_MX_CALLER), in))
        return;
    cmd.party_id = selected;
    if (!cd_mx_is_ours(c, CD_MX_CALLEE)) { /* two Matrix clients: they are talking now */
        if (c->status == CD_CONNECTED)
            return;
        cmd.ev = CD_EV_CONNECTED;
    } else if (callee->party_id && strcmp(callee->party_id, selected) == 0) {
        cmd.ev = CD_EV_SELECT_OURS;
    }
    submit(live, in, &cmd);
}

static void on_reject(struct cd_live *live, const struct cd_mx_in *in)
{
    const char *reason = cd_mx_text(in->content, "reason");
    struct cd_cmd cmd = cmd_of(in, CD_EV_REJECT);

    if (live->cur->status != CD_RINGING || cd_mx_side_of(live->cur, in->sender) != CD_MX_CALLEE)
        return;
    cmd.reason = reason && strcmp(reason, "user_busy") == 0 ? CD_R_USER_BUSY : CD_R_DECLINED;
    submit(live, in, &cmd);
}

/* Whose hang-up counts: the caller's party, and the party that answered. Of a call between two
 * Matrix clients we do not know for sure which one did. */
static bool may_hang_up(const struct cd_call *c, const struct cd_mx_in *in)
{
    int side = cd_mx_side_of(c, in->sender);

    if (side < 0 || cd_mx_is_ours(c, side))
        return false;
    if (side == CD_MX_CALLEE && c->status == CD_RINGING)
        return true; /* the engine takes it from version 0 clients only */
    if (side == CD_MX_CALLEE && !cd_mx_is_ours(c, CD_MX_CALLER))
        return true;
    return is_party(cd_mx_participant(c, side), in);
}

static void on_hangup(struct cd_live *live, const struct cd_mx_in *in)
{
    struct cd_cmd cmd = cmd_of(in, CD_EV_END);

    if (!may_hang_up(live->cur, in))
        return;
    cmd.reason = cd_mxc_reason_in(cd_mx_text(in->content, "reason"));
    if (live->cur->status == CD_RINGING && cd_mx_side_of(live->cur, in->sender) == CD_MX_CALLER &&
        cmd.reason == CD_R_INVITE_TIMEOUT) { /* the caller's own ring timer */
        cmd.ev = CD_EV_RING_TIMEOUT;
        cmd.user = NULL;
    }
    submit(live, in, &cmd);
}

/* --- dispatch --------------------------------------------------------------------------------- */

struct kind {
    const char *type;
    void (*apply)(struct cd_live *live, const struct cd_mx_in *in);
    bool command; /* durable: its transaction waits for it */
};

static const struct kind kinds[] = {
    {"m.call.candidates", on_candidates, false},
    {"m.call.answer", on_answer, true},
    {"m.call.select_answer", on_select, true},
    {"m.call.reject", on_reject, true},
    {"m.call.hangup", on_hangup, true},
    {"m.call.negotiate", on_negotiate, false},
    {"m.call.sdp_stream_metadata_changed", on_metadata, false},
    {"org.matrix.call.sdp_stream_metadata_changed", on_metadata, false},
};

static const struct kind *kind_of(const char *type)
{
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
        if (strcmp(kinds[i].type, type) == 0)
            return &kinds[i];
    return NULL;
}

static bool is_idle(const struct cd_live *live)
{
    return live->cur && !live->busy && live->n_jobs == 0;
}

static void apply(const struct kind *k, struct cd_live *live, const struct cd_mx_in *in)
{
    if (!cd_status_final(live->cur->status) && !cd_mx_is_echo(live, in))
        k->apply(live, in);
}

static void drain(void *arg)
{
    struct cd_live *live = arg;
    struct cd_mx *m = live->mx;

    if (!is_idle(live)) {
        if (m->waiting.first || m->n_early)
            cd_mx_drain_soon(live, LATER_MS);
        return;
    }
    release_early(m);
    while (m->waiting.first && is_idle(live)) {
        struct cd_mx_saved *s = cd_mx_wait_next(&m->waiting);
        const struct kind *k = kind_of(s->in.type);

        if (k)
            apply(k, live, &s->in);
        cd_mx_saved_free(s, CD_STORE_OK);
    }
    if (m->waiting.first)
        cd_mx_drain_soon(live, LATER_MS);
}

void cd_mx_drain_soon(struct cd_live *live, int64_t delay_ms)
{
    struct cd_mx *m = live->mx;

    if (m && (m->waiting.first || m->n_early))
        cd_timer_set(live->core->loop, &m->drain, delay_ms, drain, live);
}

static void on_call_event(struct cd_mx_in *in)
{
    const struct kind *k = kind_of(in->type);
    struct cd_live *live = k ? cd_live_get_mx(in->core, in->room_id, in->call_id) : NULL;
    struct cd_mx *m;

    if (k && !k->command)
        in->txn = NULL;
    if (!live) {
        if (k)
            cd_mx_invite_wait(in);
        return;
    }
    m = live->mx;
    if (is_idle(live) && !(m && m->waiting.first)) {
        apply(k, live, in);
        return;
    }
    m = cd_mx_of(live);
    if (!m) {
        if (in->txn)
            cd_mx_lost(in->txn);
        return;
    }
    cd_mx_wait(&m->waiting, in);
    cd_mx_drain_soon(live, LATER_MS);
}

/* --- rooms ------------------------------------------------------------------------------------ */

/* A participant left: the call is over. The event's hash marks the first of its calls. */
static void end_calls_of(struct cd_core *core, struct cd_txn *txn, const struct cd_mx_event *ev)
{
    size_t n;
    struct cd_live *const *calls = cd_live_of_user(core, ev->state_key, &n);
    struct cd_live *left[CD_MAX_PARTICIPANTS];
    size_t n_left = 0;

    for (size_t i = 0; i < n && n_left < CD_MAX_PARTICIPANTS; i++) {
        const struct cd_call *c = cd_live_call(calls[i]);
        if (strcmp(c->room_id, ev->room_id) == 0 && !cd_status_final(c->status))
            left[n_left++] = calls[i];
    }
    for (size_t i = 0; i < n_left; i++) {
        struct cd_cmd cmd = {.ev = CD_EV_MEMBER_LEFT, .source = CD_S_MATRIX, .user = ev->state_key,
                             .mx_version = 1, .now_ms = cd_wall_ms()};
        struct cd_extra extra = {.mx_hash = i == 0 ? ev->hash : NULL};

        cd_txn_hold(txn);
        cd_submit(core, left[i], &cmd, &extra, cd_mx_applied, txn);
    }
}

static void on_member(struct cd_core *core, struct cd_txn *txn, const struct cd_mx_event *ev)
{
    const char *membership = cd_mx_text(ev->content, "membership");

    if (!membership || !ev->state_key)
        return;
    if (core->rooms)
        cd_rooms_on_member(core->rooms, ev->room_id, ev->state_key, membership,
                           cd_mx_text(ev->content, "displayname"),
                           cd_mx_text(ev->content, "avatar_url"));
    if (strcmp(membership, "leave") == 0 || strcmp(membership, "ban") == 0)
        end_calls_of(core, txn, ev);
}

static void on_event(void *self, struct cd_txn *txn, const struct cd_mx_event *ev)
{
    struct cd_core *core = self;
    struct cd_mx_in in;

    if (strcmp(ev->type, "m.room.member") == 0) {
        on_member(core, txn, ev);
    } else if (strcmp(ev->type, "m.room.encryption") == 0) {
        if (core->rooms)
            cd_rooms_on_encryption(core->rooms, ev->room_id);
    } else if (cd_mx_in_read(&in, core, txn, ev)) {
        if (strcmp(ev->type, "m.call.invite") == 0)
            cd_mx_on_invite(&in);
        else
            on_call_event(&in);
    }
}

const struct cd_as_ops cd_mx_as_ops = {.on_event = on_event, .wants = cd_mx_wants};

/* signal.c -- offers, answers and candidates: numbered, delivered at once, written behind.
 *
 * Why apart from flow.c: signals change no state and never wait for the database (design, section 1).
 * Their ack means "accepted". What a late joiner or a restart needs goes to call_signals with the next
 * batch: the first offer and answer, later ones, and the first candidates of each party. */
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "live.h"

static const char *const event_names[] = {
    [CD_SIG_OFFER] = "webrtc-offer", [CD_SIG_ANSWER] = "webrtc-answer", [CD_SIG_CANDIDATE] = "ice-candidate"};

#define SCRATCH_KEEP 65536
#define FLUSHING_MAX 32    /* changes of signals at the store: what commands may have to wait behind */
#define STORED_MAX_BYTES (4 * 1024 * 1024) /* of a call: beyond it signals are relayed, not stored */

static void flush_one(struct cd_live *l);
static void flush_signals(void *arg);

/* Write-behind: one change of a call at a time, so that what a call signals meanwhile shares the next one
 * and its commands never queue behind more than that. */
void cd_signal_flush_soon(struct cd_live *l)
{
    if (l->flush_queued || l->gone || !l->cur)
        return; /* while it is being created its row must come first: flow.c calls again */
    l->flush_queued = cd_loop_defer(l->core->loop, flush_signals, l) == 0;
}

/* @return false out of memory */
static bool copy_text(char **to, const char *s)
{
    *to = s ? strdup(s) : NULL;
    return *to || !s;
}

static bool fill_row(struct cd_change *ch, const struct cd_log_entry *e)
{
    struct cd_signal_row *r = cd_change_signal(ch);

    if (!r)
        return false;
    r->seq = e->seq;
    r->kind = strdup(e->event);
    bool named = copy_text(&r->from_user, e->from_user) && copy_text(&r->from_party, e->from_party) &&
                 copy_text(&r->to, e->to);
    r->payload = malloc(e->body_n + 3);
    if (r->payload) {
        r->payload[0] = '{';
        memcpy(r->payload + 1, e->payload + e->body_at, e->body_n);
        memcpy(r->payload + 1 + e->body_n, "}", 2);
    }
    if (r->kind && r->payload && named)
        return true;
    cd_signal_row_done(r);
    ch->n_signals--;
    return false;
}

static void stand_in_line(struct cd_live *l)
{
    struct cd_core *core = l->core;

    l->flush_next = NULL;
    if (core->flush_first)
        core->flush_last->flush_next = l;
    else
        core->flush_first = l;
    core->flush_last = l;
}

/* At the end nobody waits: what is not with the store by then is lost. */
static bool has_turns(const struct cd_core *core)
{
    return core->draining || core->n_flushing < FLUSHING_MAX;
}

void cd_signal_flush_line(struct cd_core *core)
{
    while (core->flush_first && has_turns(core)) {
        struct cd_live *l = core->flush_first;

        core->flush_first = l->flush_next;
        flush_one(l);
    }
}

static void flushed(void *arg, enum cd_store_rc rc, const char *live_call_id)
{
    struct cd_live *l = arg;

    (void)live_call_id;
    if (rc != CD_STORE_OK)
        cd_log(CD_LOG_WARN, "signal", "signals.unwritten", &(struct cd_log_ctx){.call_id = l->id},
               "signals could not be stored; a restart would lose them");
    l->core->n_flushing--;
    cd_signal_flush_line(l->core);
    l->flush_queued = false;
    if (l->n_unwritten)
        cd_signal_flush_soon(l);
    cd_live_maybe_free(l);
}

/* What is not written yet, as rows of @p ch, as many as fit. */
static void add_unwritten(struct cd_live *l, struct cd_change *ch)
{
    size_t first = l->n_log;

    for (size_t left = l->n_unwritten; left > 0 && first > 0; first--)
        left -= l->log[first - 1].signal && !l->log[first - 1].written;
    for (size_t i = first; i < l->n_log; i++) {
        struct cd_log_entry *e = &l->log[i];

        if (!e->signal || e->written)
            continue;
        if (ch->n_signals == CD_CHANGE_SIGNALS || (l->stored_bytes < STORED_MAX_BYTES && !fill_row(ch, e)))
            return;
        l->stored_bytes += e->body_n;
        e->written = true;
        l->n_unwritten--;
    }
}

static void flush_one(struct cd_live *l)
{
    struct cd_core *core = l->core;
    bool over = l->gone || cd_status_final(l->cur->status);
    struct cd_change *ch = over ? NULL : cd_change_new(l->cur->id);

    if (ch)
        add_unwritten(l, ch);
    if (ch && ch->n_signals) {
        core->n_flushing++;
        core->store->ops->commit(core->store, ch, flushed, l);
        return;
    }
    cd_change_free(ch);
    l->flush_queued = false;
    cd_live_maybe_free(l);
}

static void flush_signals(void *arg)
{
    struct cd_live *l = arg;

    if (has_turns(l->core))
        flush_one(l);
    else
        stand_in_line(l);
}

static void add(struct cd_buf *b, struct cd_str s)
{
    cd_buf_add(b, s.p, s.n);
}

/* The payload of the signal being relayed. Nothing that is told of it signals in turn. */
static struct cd_buf scratch;

/* The whole payload as sockets get it. @return where the client's own members stand in it */
static size_t build_payload(struct cd_buf *b, const struct cd_live *l, const struct cd_sig *sig,
                            uint64_t seq)
{
    size_t body_at;

    cd_buf_reset(b);
    b->max = sig->members.n + 2048;
    add(b, CD_STR("{\"callId\":"));
    cd_buf_add_jsons(b, l->id);
    add(b, CD_STR(",\"seq\":"));
    cd_buf_add_i64(b, (int64_t)seq);
    add(b, CD_STR(",\"from\":"));
    cd_buf_add_jsons(b, sig->from_user);
    add(b, CD_STR(",\"fromParty\":"));
    cd_buf_add_jsons(b, sig->from_party);
    cd_buf_addc(b, ',');
    body_at = b->n;
    cd_buf_add(b, sig->members.p, sig->members.n);
    cd_buf_addc(b, '}');
    return body_at;
}

/* To every seated socket but the sender's, or to the one it is addressed to. */
static void deliver(struct cd_core *core, const struct cd_live *l, const struct cd_sig *sig,
                    const char *event, struct cd_str payload)
{
    const struct cd_call *c = cd_live_call(l);

    for (size_t i = 0; i < c->n_participants; i++) {
        const struct cd_participant *p = &c->participants[i];
        struct cd_sock *sock;

        if (sig->from_user && strcmp(p->user_id, sig->from_user) == 0)
            continue;
        if (sig->to && strcmp(sig->to, p->user_id) != 0 && (!p->party_id || strcmp(sig->to, p->party_id) != 0))
            continue;
        sock = l->seats[i].sock_id ? cd_sock_by_id(l->seats[i].sock_id) : NULL;
        if (sock)
            cd_sock_emit(sock, event, payload);
    }
    (void)core;
}

static bool log_signal(struct cd_live *l, const struct cd_sig *sig, uint64_t seq,
                       const struct cd_buf *payload, size_t body_at)
{
    char *copy = malloc(payload->n + 1), *user = NULL, *party = NULL, *to = NULL;
    struct cd_log_entry *e = NULL;

    if (copy && copy_text(&user, sig->from_user) && copy_text(&party, sig->from_party) && copy_text(&to, sig->to)) {
        memcpy(copy, payload->p, payload->n + 1);
        e = cd_live_log(l, seq, event_names[sig->kind], copy, payload->n);
        copy = NULL;
    }
    if (!e) {
        free(copy);
        free(user);
        free(party);
        free(to);
        return false;
    }
    e->signal = true;
    l->n_unwritten++;
    e->body_at = body_at;
    e->body_n = sig->members.n;
    e->from_user = user;
    e->from_party = party;
    e->to = to;
    size_t place = (size_t)(e - l->log) + 1;
    if (sig->kind == CD_SIG_OFFER && !l->first_offer)
        l->first_offer = place;
    if (sig->kind == CD_SIG_ANSWER && !l->first_answer)
        l->first_answer = place;
    return true;
}

/* Beyond the cap candidates are still relayed, only no longer kept. */
static bool keeps(struct cd_live *l, const struct cd_sig *sig)
{
    int seat = cd_live_seat_of(l, sig->from_user);

    if (sig->kind != CD_SIG_CANDIDATE || seat < 0)
        return true;
    if (l->seats[seat].n_candidates >= (unsigned)l->core->conf->limits.candidates)
        return false;
    l->seats[seat].n_candidates++;
    return true;
}

enum cd_rc cd_signal(struct cd_core *core, struct cd_live *live, const struct cd_sig *sig, uint64_t *out_seq,
                     struct cd_err *err)
{
    const struct cd_call *c = cd_live_call(live);
    size_t limit = (size_t)(sig->kind == CD_SIG_CANDIDATE ? core->conf->limits.signal_bytes
                                                           : core->conf->limits.sdp_bytes);

    if (cd_status_final(c->status))
        return cd_fail_state(err, c);
    if (sig->members.n > limit)
        return cd_fail(err, CD_E_TOO_LARGE, "A signal may hold %zu bytes; this one has %zu.", limit,
                       sig->members.n);
    uint64_t seq = sig->seq ? sig->seq : cd_take_seq(live);
    size_t body_at = build_payload(&scratch, live, sig, seq);
    if (scratch.failed)
        return cd_fail(err, CD_E_NO_MEMORY, NULL);
    if (keeps(live, sig)) { /* first, for what is told is not taken back */
        if (!log_signal(live, sig, seq, &scratch, body_at))
            return cd_fail(err, CD_E_NO_MEMORY, NULL);
        cd_signal_flush_soon(live);
    }
    if (!sig->silent)
        deliver(core, live, sig, event_names[sig->kind], (struct cd_str){scratch.p, scratch.n});
    core->counts.signals++;
    core->counts.signals_bytes += sig->members.n;
    if (scratch.cap > SCRATCH_KEEP)
        cd_buf_done(&scratch);
    for (size_t i = 0; cd_modules[i]; i++)
        if (cd_modules[i]->on_signal)
            cd_modules[i]->on_signal(core, live, sig, seq);
    *out_seq = seq;
    return CD_OK;
}

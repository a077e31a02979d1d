/* change.c -- the change a store applies and the stored call it gives back: make, check, free.
 * In: rows from the callers. Out: owned structures. State: the table of event type names.
 * Owns: the strings of every row. Blocks: never. */
#include "store/store_int.h"

#include <stdlib.h>
#include <string.h>

#include "base/scan.h"

#define JSON_DEPTH 64
#define TYPE_MAX 128 /* different event types this process may meet in a database */

bool cd_dup(char **out, const char *s)
{
    *out = s ? strdup(s) : NULL;
    return !s || *out;
}

void *cd_grow(void **base, size_t *n, size_t *cap, size_t elem_bytes)
{
    char *slot;

    if (*n == *cap) {
        size_t more = *cap ? *cap * 2 : 4;
        void *p = realloc(*base, more * elem_bytes);

        if (!p)
            return NULL;
        *base = p;
        *cap = more;
    }
    slot = (char *)*base + (*n)++ * elem_bytes;
    memset(slot, 0, elem_bytes);
    return slot;
}

struct cd_change *cd_change_new(const char *call_id)
{
    struct cd_change *ch = calloc(1, sizeof *ch);

    if (ch && call_id) {
        size_t n = strnlen(call_id, CD_CALL_ID_LEN);

        memcpy(ch->call_id, call_id, n);
        ch->call_id[n] = '\0';
    }
    return ch;
}

void cd_event_row_done(struct cd_event_row *r)
{
    free(r->user_id);
    free(r->data);
    memset(r, 0, sizeof *r);
}

void cd_outbox_row_done(struct cd_outbox_row *r)
{
    free(r->txn_id);
    free(r->room_id);
    free(r->user_id);
    free(r->event_type);
    free(r->content);
    memset(r, 0, sizeof *r);
}

void cd_signal_row_done(struct cd_signal_row *r)
{
    free(r->kind);
    free(r->from_user);
    free(r->from_party);
    free(r->to);
    free(r->payload);
    memset(r, 0, sizeof *r);
}

void cd_idem_row_free(struct cd_idem_row *r)
{
    if (!r)
        return;
    free(r->user_id);
    free(r->key);
    free(r->response);
    free(r);
}

void cd_change_free(struct cd_change *ch)
{
    if (!ch)
        return;
    for (size_t i = 0; i < ch->n_events; i++)
        cd_event_row_done(&ch->events[i]);
    for (size_t i = 0; i < ch->n_outbox; i++)
        cd_outbox_row_done(&ch->outbox[i]);
    for (size_t i = 0; i < ch->n_signals; i++)
        cd_signal_row_done(&ch->signals[i]);
    cd_idem_row_free(ch->idem);
    free(ch);
}

bool cd_change_event(struct cd_change *ch, uint64_t seq, const char *type, const char *user,
                     const char *data_json, int64_t at)
{
    struct cd_event_row *r;

    if (ch->n_events == CD_CHANGE_EVENTS)
        return false;
    r = &ch->events[ch->n_events];
    memset(r, 0, sizeof *r);
    r->seq = seq;
    r->type = type;
    r->at = at;
    if (!cd_dup(&r->user_id, user) || !cd_dup(&r->data, data_json)) {
        cd_event_row_done(r);
        return false;
    }
    ch->n_events++;
    return true;
}

struct cd_outbox_row *cd_change_outbox(struct cd_change *ch)
{
    struct cd_outbox_row *r;

    if (ch->n_outbox == CD_CHANGE_OUTBOX)
        return NULL;
    r = &ch->outbox[ch->n_outbox++];
    memset(r, 0, sizeof *r);
    memcpy(r->call_id, ch->call_id, sizeof r->call_id);
    return r;
}

struct cd_signal_row *cd_change_signal(struct cd_change *ch)
{
    struct cd_signal_row *r;

    if (ch->n_signals == CD_CHANGE_SIGNALS)
        return NULL;
    r = &ch->signals[ch->n_signals++];
    memset(r, 0, sizeof *r);
    return r;
}

void cd_stored_call_free(struct cd_stored_call *sc)
{
    if (!sc)
        return;
    cd_call_free(sc->call);
    for (size_t i = 0; i < sc->n_events; i++)
        cd_event_row_done(&sc->events[i]);
    for (size_t i = 0; i < sc->n_signals; i++)
        cd_signal_row_done(&sc->signals[i]);
    for (size_t i = 0; i < sc->n_outbox; i++)
        cd_outbox_row_done(&sc->outbox[i]);
    free(sc->events);
    free(sc->signals);
    free(sc->outbox);
    free(sc);
}

const char *cd_event_type_intern(const char *type)
{
    static const char *const known[] = {"initiated", "ringing", "answered", "accepted", "rejected",
                                        "declined", "ended", "connected", "missed", "canceled",
                                        "failed", "joined", "left", "toggled", "other"};
    static char *met[TYPE_MAX]; /* names of later versions; as many as the cap, kept for good */
    static size_t n_met;

    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(known[i], type) == 0)
            return known[i];
    for (size_t i = 0; i < n_met; i++)
        if (strcmp(met[i], type) == 0)
            return met[i];
    if (n_met == TYPE_MAX || !(met[n_met] = strdup(type)))
        return "other";
    return met[n_met++];
}

static bool text_ok(const char *s)
{
    return !s || cd_utf8_valid(s, strlen(s));
}

static bool need(const char *s)
{
    return s && text_ok(s);
}

static int hex4(const char *p)
{
    int v = 0;

    for (int i = 0; i < 4; i++) {
        int c = (unsigned char)p[i];
        int low = c | 32;

        if (c >= '0' && c <= '9')
            v = v * 16 + c - '0';
        else if (low >= 'a' && low <= 'f')
            v = v * 16 + low - 'a' + 10;
        else
            return -1;
    }
    return v;
}

/* jsonb keeps text, not escapes: U+0000 and half a surrogate pair have no text. */
static bool escapes_have_text(const char *s)
{
    for (const char *p = s; (p = strchr(p, '\\')); ) {
        int u = p[1] == 'u' ? hex4(p + 2) : 1;

        if (u == 0 || (u >= 0xDC00 && u <= 0xDFFF))
            return false;
        if (u >= 0xD800 && u <= 0xDBFF) {
            int low = p[6] == '\\' && p[7] == 'u' ? hex4(p + 8) : -1;

            if (low < 0xDC00 || low > 0xDFFF)
                return false;
            p += 12;
        } else {
            p += p[1] == 'u' ? 6 : 2;
        }
    }
    return true;
}

static bool json_ok(const char *s)
{
    return need(s) && cd_json_valid(cd_str_of(s), JSON_DEPTH);
}

static bool participants_ok(const struct cd_call *c)
{
    for (size_t i = 0; i < c->n_participants; i++) {
        const struct cd_participant *p = &c->participants[i];

        if (!need(p->user_id) || !text_ok(p->display_name) || !text_ok(p->avatar_url) ||
            !text_ok(p->party_id) || !text_ok(p->device_id) || !text_ok(p->leave_reason))
            return false;
    }
    return true;
}

static bool call_ok(const struct cd_call *c)
{
    return c->id[0] && need(c->room_id) && need(c->caller) && text_ok(c->callee) &&
           text_ok(c->matrix_call_id) && text_ok(c->ended_by) && participants_ok(c);
}

static bool rows_ok(const struct cd_change *ch)
{
    for (size_t i = 0; i < ch->n_events; i++) {
        const struct cd_event_row *r = &ch->events[i];

        if (!need(r->type) || !text_ok(r->user_id) ||
            (r->data && (!json_ok(r->data) || !escapes_have_text(r->data))))
            return false;
    }
    for (size_t i = 0; i < ch->n_outbox; i++) {
        const struct cd_outbox_row *r = &ch->outbox[i];

        if (!need(r->txn_id) || !need(r->room_id) || !need(r->user_id) || !need(r->event_type) ||
            !json_ok(r->content))
            return false;
    }
    for (size_t i = 0; i < ch->n_signals; i++) {
        const struct cd_signal_row *r = &ch->signals[i];

        if (!need(r->kind) || !need(r->from_user) || !text_ok(r->from_party) || !text_ok(r->to) ||
            !json_ok(r->payload))
            return false;
    }
    return true;
}

bool cd_change_check(const struct cd_change *ch)
{
    const struct cd_idem_row *idem = ch->idem;

    if (ch->call && (!call_ok(ch->call) || strcmp(ch->call->id, ch->call_id) != 0))
        return false;
    if (idem && (!need(idem->user_id) || !need(idem->key) || !need(idem->response)))
        return false;
    return ch->call_id[0] && rows_ok(ch);
}

struct cd_idem_row *cd_idem_row_copy(const struct cd_idem_row *r)
{
    struct cd_idem_row *c = malloc(sizeof *c);

    if (!c)
        return NULL;
    *c = *r;
    c->user_id = c->key = c->response = NULL;
    if (cd_dup(&c->user_id, r->user_id) && cd_dup(&c->key, r->key) && cd_dup(&c->response, r->response))
        return c;
    cd_idem_row_free(c);
    return NULL;
}

bool cd_store_may_act(const struct cd_store *s, const char *call_id)
{
    return !s->ops->may_act || s->ops->may_act(s, call_id);
}

bool cd_store_is_shared(const struct cd_store *s)
{
    struct cd_store_stats st = {0};

    s->ops->stats(s, &st);
    return st.peers > 0;
}

bool cd_call_holds_active(const struct cd_call *c)
{
    return !cd_status_final(c->status) && (c->origin == CD_O_REST || c->origin == CD_O_SOCKET) &&
           (c->kind == CD_GROUP || c->callee);
}

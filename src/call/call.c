/* call.c -- the call record: names, copies, participants. Pure data. */
#include "call/call.h"

#include <stdlib.h>

static const char *const status_names[] = {"ringing", "accepted", "connected", "ended",
                                           "declined", "missed", "canceled", "failed"};
static const char *const phase_names[] = {"ringing", "active", "active", "ended",
                                          "rejected", "ended", "ended", "ended"};
static const char *const reason_names[] = {
    NULL,          "user_hangup", "user_busy",         "declined",  "canceled",  "invite_timeout",
    "ice_failed",  "ice_timeout", "user_media_failed", "left_room", "peer_lost", "replaced",
    "max_duration", "kicked",     "shutdown",          "unknown_error"};
static const char *const type_names[] = {"audio", "video"};
static const char *const kind_names[] = {"direct", "group"};
static const char *const media_names[] = {"p2p", "mesh", "sfu"};
static const char *const origin_names[] = {"rest", "socket", "matrix", "rtc"};
static const char *const pstate_names[] = {"invited", "ringing",  "joined", "reconnecting",
                                           "left",    "declined", "missed", "busy"};
static const char *const side_names[] = {"none", "ours", "matrix"};
static const char *const mx_state_names[] = {
    "off", "waiting_for_offer", "sent", "unavailable_encrypted_room", "unavailable_no_token", "failed"};

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
_Static_assert(COUNT(status_names) == CD_STATUS_COUNT, "one name a status");
_Static_assert(COUNT(reason_names) == CD_REASON_COUNT, "one name a reason");

static int parse(const char *const *names, size_t n, const char *name)
{
    for (size_t i = 0; name && i < n; i++)
        if (names[i] && strcmp(names[i], name) == 0)
            return (int)i;
    return -1;
}

#define VOCABULARY(fn, type, table)                \
    const char *cd_##fn##_name(enum type v)        \
    {                                              \
        size_t i = (size_t)v;                      \
        return i < COUNT(table) ? table[i] : NULL; \
    }                                              \
    int cd_##fn##_parse(const char *name)          \
    {                                              \
        return parse(table, COUNT(table), name);   \
    }

VOCABULARY(status, cd_status, status_names)
VOCABULARY(reason, cd_reason, reason_names)
VOCABULARY(type, cd_type, type_names)
VOCABULARY(kind, cd_kind, kind_names)
VOCABULARY(media, cd_media, media_names)
VOCABULARY(origin, cd_origin, origin_names)
VOCABULARY(pstate, cd_pstate, pstate_names)
VOCABULARY(side, cd_side, side_names)
VOCABULARY(mx_state, cd_mx_state, mx_state_names)

const char *cd_phase_name(enum cd_status s)
{
    return phase_names[s];
}

bool cd_set_str(char **field, const char *s)
{
    char *copy = NULL;

    if (s && !(copy = strdup(s)))
        return false;
    free(*field);
    *field = copy;
    return true;
}

struct cd_call *cd_call_new(void)
{
    return calloc(1, sizeof(struct cd_call));
}

static void participant_done(struct cd_participant *p)
{
    free(p->user_id);
    free(p->display_name);
    free(p->avatar_url);
    free(p->party_id);
    free(p->device_id);
    free(p->leave_reason);
}

void cd_call_free(struct cd_call *c)
{
    if (!c)
        return;
    free(c->room_id);
    free(c->matrix_call_id);
    free(c->caller);
    free(c->callee);
    free(c->ended_by);
    for (size_t i = 0; i < c->n_participants; i++)
        participant_done(&c->participants[i]);
    free(c);
}

static bool copy_str(char **to, const char *from)
{
    *to = from ? strdup(from) : NULL;
    return !from || *to;
}

struct cd_call *cd_call_clone(const struct cd_call *c)
{
    struct cd_call *d = malloc(sizeof(*d));

    if (!d)
        return NULL;
    *d = *c;
    /* every string is replaced, also after a failure, so that freeing the copy is safe */
    bool ok = copy_str(&d->room_id, c->room_id);
    ok = copy_str(&d->matrix_call_id, c->matrix_call_id) && ok;
    ok = copy_str(&d->caller, c->caller) && ok;
    ok = copy_str(&d->callee, c->callee) && ok;
    ok = copy_str(&d->ended_by, c->ended_by) && ok;
    for (size_t i = 0; i < c->n_participants; i++) {
        const struct cd_participant *from = &c->participants[i];
        struct cd_participant *to = &d->participants[i];

        ok = copy_str(&to->user_id, from->user_id) && ok;
        ok = copy_str(&to->display_name, from->display_name) && ok;
        ok = copy_str(&to->avatar_url, from->avatar_url) && ok;
        ok = copy_str(&to->party_id, from->party_id) && ok;
        ok = copy_str(&to->device_id, from->device_id) && ok;
        ok = copy_str(&to->leave_reason, from->leave_reason) && ok;
    }
    if (ok)
        return d;
    cd_call_free(d);
    return NULL;
}

struct cd_participant *cd_call_participant(struct cd_call *c, const char *user)
{
    for (size_t i = 0; user && i < c->n_participants; i++)
        if (strcmp(c->participants[i].user_id, user) == 0)
            return &c->participants[i];
    return NULL;
}

const struct cd_participant *cd_call_participant_const(const struct cd_call *c, const char *user)
{
    for (size_t i = 0; user && i < c->n_participants; i++)
        if (strcmp(c->participants[i].user_id, user) == 0)
            return &c->participants[i];
    return NULL;
}

struct cd_participant *cd_call_add_participant(struct cd_call *c, const char *user)
{
    if (c->n_participants >= CD_MAX_PARTICIPANTS)
        return NULL;
    struct cd_participant *p = &c->participants[c->n_participants];
    *p = (struct cd_participant){.audio_enabled = true, .video_enabled = c->type == CD_VIDEO};
    if (!copy_str(&p->user_id, user))
        return NULL;
    c->n_participants++;
    return p;
}

const char *cd_call_mx_id(const struct cd_call *c)
{
    return c->matrix_call_id ? c->matrix_call_id : c->id;
}

int64_t cd_call_duration_s(const struct cd_call *c)
{
    int64_t from = c->connected_at ? c->connected_at : c->accepted_at;

    if (!from || !c->ended_at)
        return -1;
    return c->ended_at > from ? (c->ended_at - from) / 1000 : 0;
}

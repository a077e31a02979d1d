/* auth_session.c -- session tokens as users: made from a Matrix token, taken in its place.
 *
 * In: principals of Matrix tokens; session tokens.  Out: tokens; principals that end with theirs.
 * Why a list of references: a session token acts with the Matrix token it was made from, and must stop
 * when the homeserver has refused that one. After a restart the list is empty: then the token that a
 * call or the outbox still needs is found by its name, and the refusal is bounded by the token's life.
 * State: cd_auth_svc.sessions, bounded, oldest first out.  Owns: references to principals.  Blocks: never. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "in/auth_int.h"
#include "in/session_token.h"

#define REFS_MAX 50000

struct cd_auth_ref {
    struct cd_auth_ref *next, *prev; /* by until_ms, nearly: all live as long as the setting says */
    uint8_t ref[16];
    struct cd_principal *matrix; /* NULL: the homeserver has refused it */
    int64_t until_ms;            /* wall; no session token of it lives longer */
};

static struct cd_str key_of(const uint8_t ref[16])
{
    return (struct cd_str){(const char *)ref, 16};
}

static void unlink_ref(struct cd_auth_sessions *s, struct cd_auth_ref *r)
{
    if (r->prev)
        r->prev->next = r->next;
    else
        s->first = r->next;
    if (r->next)
        r->next->prev = r->prev;
    else
        s->last = r->prev;
}

static void push_last(struct cd_auth_sessions *s, struct cd_auth_ref *r)
{
    r->next = NULL;
    r->prev = s->last;
    if (s->last)
        s->last->next = r;
    else
        s->first = r;
    s->last = r;
}

static void drop(struct cd_auth_sessions *s, struct cd_auth_ref *r)
{
    unlink_ref(s, r);
    cd_map_del(&s->refs, key_of(r->ref));
    cd_principal_unref(r->matrix);
    free(r);
}

/* Known or made, and last in the list. @return NULL: out of memory */
static struct cd_auth_ref *touch(struct cd_auth_sessions *s, const uint8_t ref[16], int64_t now_ms)
{
    struct cd_auth_ref *r = cd_map_get(&s->refs, key_of(ref));

    while (s->first && (now_ms >= s->first->until_ms || s->refs.count >= REFS_MAX) && s->first != r)
        drop(s, s->first);
    if (r) {
        unlink_ref(s, r);
        push_last(s, r);
        return r;
    }
    r = calloc(1, sizeof(*r));
    if (!r)
        return NULL;
    memcpy(r->ref, ref, sizeof(r->ref));
    if (cd_map_put(&s->refs, key_of(r->ref), r) != 0) {
        free(r);
        return NULL;
    }
    push_last(s, r);
    return r;
}

enum cd_rc cd_auth_session_new(struct cd_auth_svc *a, struct cd_principal *who, int64_t life_ms, struct cd_buf *out,
                               int64_t *expires_at, struct cd_err *err)
{
    struct cd_session session = {.issued_at = cd_wall_ms()};
    const char *device = who->device_id ? who->device_id : "";
    struct cd_auth_ref *r;

    if (who->session)
        return cd_fail(err, CD_E_FORBIDDEN,
                       "A session token cannot make another one; use the Matrix access token.");
    if (!a->sessions.seal || !who->matrix_token || strlen(who->user_id) >= sizeof(session.user_id) ||
        strlen(device) >= sizeof(session.device_id))
        return cd_fail(err, CD_E_INTERNAL, NULL);
    session.expires_at = session.issued_at + life_ms;
    memcpy(session.user_id, who->user_id, strlen(who->user_id) + 1);
    memcpy(session.device_id, device, strlen(device) + 1);
    cd_seal_name(a->sessions.seal, cd_str_of(who->matrix_token), session.ref);
    r = touch(&a->sessions, session.ref, session.issued_at);
    if (!r || !cd_session_write(a->sessions.seal, &session, out))
        return cd_fail(err, CD_E_NO_MEMORY, NULL);
    cd_principal_ref(who);
    cd_principal_unref(r->matrix);
    r->matrix = who;
    if (r->until_ms < session.expires_at)
        r->until_ms = session.expires_at;
    *expires_at = session.expires_at;
    return CD_OK;
}

/* The Matrix token behind a session token. @return borrowed; NULL: nobody holds it now */
static const char *matrix_token_of(const struct cd_auth_svc *a, const struct cd_session *s,
                                   const struct cd_auth_ref *r)
{
    const struct cd_principal *p = r ? r->matrix : NULL;

    if (!r && a->held) {
        p = a->held(a->held_arg, s->user_id);
        if (p && (!p->matrix_token || !cd_seal_named(a->sessions.seal, cd_str_of(p->matrix_token), s->ref)))
            p = NULL;
    }
    return p ? p->matrix_token : NULL;
}

/* @return one reference, NULL with *err filled */
static struct cd_principal *principal_of(const struct cd_auth_svc *a, const struct cd_session *s, struct cd_err *err)
{
    const struct cd_auth_ref *r = cd_map_get(&a->sessions.refs, key_of(s->ref));
    struct cd_principal *p;

    if (r && !r->matrix) {
        cd_fail(err, CD_E_UNKNOWN_TOKEN,
                "The Matrix token of this session was refused by the homeserver; sign in again.");
        return NULL;
    }
    p = cd_principal_new(s->user_id, s->device_id[0] ? s->device_id : NULL, matrix_token_of(a, s, r));
    if (!p) {
        cd_fail(err, CD_E_NO_MEMORY, NULL);
        return NULL;
    }
    p->session = true;
    p->expires_at = s->expires_at;
    p->admin = cd_auth_is_admin_user(a, s->user_id);
    p->checked_ms = cd_mono_ms();
    memcpy(p->ref, s->ref, sizeof(p->ref));
    return p;
}

/* A remembered one, if the homeserver has not refused its Matrix token since. */
static struct cd_principal *remembered(struct cd_auth_svc *a, const uint8_t key[16], int64_t now_ms)
{
    struct cd_auth_known *known = cd_auth_cache_get(&a->cache, key, cd_mono_ms());
    const struct cd_auth_ref *r;

    if (!known || !known->principal || now_ms >= known->principal->expires_at)
        return NULL;
    r = cd_map_get(&a->sessions.refs, key_of(known->principal->ref));
    return r && !r->matrix ? NULL : cd_principal_ref(known->principal);
}

struct cd_principal *cd_auth_session_user(struct cd_auth_svc *a, struct cd_str token, const uint8_t key[16],
                                          bool *forged, struct cd_err *err)
{
    int64_t now = cd_wall_ms(), until = cd_mono_ms() + CD_AUTH_GOOD_TTL_MS;
    struct cd_principal *p = remembered(a, key, now);
    struct cd_session s;

    *forged = false;
    if (p) {
        a->stats.cache_hits++;
        return p;
    }
    if (!a->sessions.seal) {
        cd_fail(err, CD_E_UNKNOWN_TOKEN, NULL);
        return NULL;
    }
    if (cd_session_read(a->sessions.seal, token, now, &s, forged, err) != CD_OK)
        return NULL;
    p = principal_of(a, &s, err);
    if (p)
        cd_auth_cache_put(&a->cache, key, p, NULL, until);
    return p;
}

void cd_auth_sessions_refuse(struct cd_auth_svc *a, struct cd_str matrix_token)
{
    struct cd_auth_ref *r;
    uint8_t ref[16];

    if (!a->sessions.seal || a->sessions.refs.count == 0)
        return;
    cd_seal_name(a->sessions.seal, matrix_token, ref);
    r = cd_map_get(&a->sessions.refs, key_of(ref));
    if (!r)
        return;
    cd_principal_unref(r->matrix);
    r->matrix = NULL;
}

void cd_auth_sessions_done(struct cd_auth_sessions *s)
{
    while (s->first)
        drop(s, s->first);
    cd_map_done(&s->refs);
}

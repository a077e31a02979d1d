/* pg_call.c -- calls as rows of five tables.
 * In: results, one table after the other. Out: whole stored calls.
 * State: the caller's struct cd_pg_calls. Owns: its calls. Blocks: never. */
#include "store/pg_call.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"

#define MS(column) "(extract(epoch FROM " column ") * 1000)::bigint"

#define SESSIONS \
    "SELECT id, room_id, matrix_call_id, caller, callee, call_type, kind, media, origin, status, end_reason," \
    " ended_by, matrix_signalling, " MS("initiated_at") ", " MS("accepted_at") ", " MS("connected_at") ", " \
    MS("ended_at") ", " MS("ring_expires_at") ", ring_seconds, connected_inferred, mx_version, is_foreign," \
    " answer_provisional, invite_tried, version, seq, owner FROM call_sessions WHERE "
#define PARTICIPANTS \
    "SELECT call_session_id, user_id, display_name, avatar_url, party_id, device_id, state, side," \
    " leave_reason, audio_enabled, video_enabled, screen_sharing, " MS("joined_at") ", " MS("left_at") \
    " FROM call_participants WHERE call_session_id IN (SELECT id FROM call_sessions WHERE "
#define EVENTS \
    "SELECT call_session_id, seq, event_type, user_id, event_data, " MS("created_at") \
    ", encode(mx_hash, 'hex') FROM call_events WHERE call_session_id IN (SELECT id FROM call_sessions WHERE "
#define SIGNALS \
    "SELECT call_session_id, seq, kind, from_user, from_party, to_target, payload FROM call_signals" \
    " WHERE call_session_id IN (SELECT id FROM call_sessions WHERE "
#define OUTBOX \
    "SELECT call_session_id, txn_id, room_id, user_id, event_type, content, rank, ord, " MS("created_at") \
    ", " MS("not_before") ", " MS("deadline") ", tried, attempts FROM matrix_outbox" \
    " WHERE call_session_id IN (SELECT id FROM call_sessions WHERE "

#define BY_ID "id = $1::text"
#define BY_MATRIX "room_id = $1::text AND matrix_call_id = $2::text"
#define BY_IDS "id = ANY ($1::text[])"
#define LIVE \
    "id IN (SELECT id FROM call_sessions WHERE status IN ('ringing', 'accepted', 'connected')" \
    " UNION SELECT call_session_id FROM matrix_outbox) AND owner = $1::text"

#define TABLES(cond) {SESSIONS cond " ORDER BY id", \
                      PARTICIPANTS cond ") ORDER BY call_session_id, position", \
                      EVENTS cond ") ORDER BY call_session_id, seq, id", \
                      SIGNALS cond ") ORDER BY call_session_id, seq", \
                      OUTBOX cond ") ORDER BY call_session_id, rank, ord, txn_id"}

static const char *const sql[][CD_PG_CALL_TABLES] = {
    [CD_PG_BY_ID] = TABLES(BY_ID), [CD_PG_BY_MATRIX] = TABLES(BY_MATRIX), [CD_PG_LIVE] = TABLES(LIVE),
    [CD_PG_BY_IDS] = TABLES(BY_IDS)};

const char *cd_pg_calls_sql(enum cd_pg_which which, size_t table)
{
    return sql[which][table];
}

void cd_pg_calls_done(struct cd_pg_calls *c)
{
    for (size_t i = 0; i < c->n; i++)
        cd_stored_call_free(c->v[i]);
    free(c->v);
    cd_map_done(&c->by_id);
    memset(c, 0, sizeof *c);
}

/* --- one row's columns, from left to right ---------------------------------------------------- */

struct cursor {
    const PGresult *res;
    int row, col;
    bool failed;
};

static const char *next(struct cursor *k)
{
    int col = k->col++;

    return PQgetisnull(k->res, k->row, col) ? NULL : PQgetvalue(k->res, k->row, col);
}

static char *text(struct cursor *k)
{
    char *copy;

    if (!cd_dup(&copy, next(k)))
        k->failed = true;
    return copy;
}

static int64_t number(struct cursor *k)
{
    const char *s = next(k);

    return s ? strtoll(s, NULL, 10) : 0;
}

static bool flag(struct cursor *k)
{
    const char *s = next(k);

    return s && *s == 't';
}

/* A word of a vocabulary; null is its first one. */
static int word(struct cursor *k, int (*parse)(const char *))
{
    const char *s = next(k);
    int v = s ? parse(s) : 0;

    if (v < 0) {
        cd_log(CD_LOG_ERROR, "store", "row.unknown", NULL, "\"%.40s\" in column %s", s,
               PQfname(k->res, k->col - 1));
        k->failed = true;
        return 0;
    }
    return v;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : 0;
}

void cd_pg_hash(const char *hex, uint8_t out[16])
{
    size_t n = strnlen(hex, 32);

    memset(out, 0, 16);
    for (size_t i = 0; i + 1 < n; i += 2)
        out[i / 2] = (uint8_t)(hex_digit(hex[i]) << 4 | hex_digit(hex[i + 1]));
}

/* --- rows ------------------------------------------------------------------------------------- */

static void copy_id(char out[CD_CALL_ID_LEN + 1], const char *s)
{
    size_t n = s ? strnlen(s, CD_CALL_ID_LEN) : 0;

    memcpy(out, s ? s : "", n);
    out[n] = '\0';
}

static void take_session(struct cursor *k, struct cd_call *c)
{
    copy_id(c->id, next(k));
    c->room_id = text(k);
    c->matrix_call_id = text(k);
    c->caller = text(k);
    c->callee = text(k);
    c->type = (enum cd_type)word(k, cd_type_parse);
    c->kind = (enum cd_kind)word(k, cd_kind_parse);
    c->media = (enum cd_media)word(k, cd_media_parse);
    c->origin = (enum cd_origin)word(k, cd_origin_parse);
    c->status = (enum cd_status)word(k, cd_status_parse);
    c->end_reason = (enum cd_reason)word(k, cd_reason_parse);
    c->ended_by = text(k);
    c->mx_state = (enum cd_mx_state)word(k, cd_mx_state_parse);
    c->initiated_at = number(k);
    c->accepted_at = number(k);
    c->connected_at = number(k);
    c->ended_at = number(k);
    c->ring_expires_at = number(k);
    c->ring_seconds = (unsigned)number(k);
    c->connected_inferred = flag(k);
    c->mx_version = (int)number(k);
    c->foreign = flag(k);
    c->answer_provisional = flag(k);
    c->invite_tried = flag(k);
    c->version = (uint64_t)number(k);
    c->seq = (uint64_t)number(k);
}

static void add_session(struct cd_pg_calls *all, struct cursor *k)
{
    struct cd_stored_call **slot = cd_grow((void **)&all->v, &all->n, &all->cap, sizeof *all->v);
    struct cd_stored_call *sc = slot ? calloc(1, sizeof *sc) : NULL;
    const char *owner;

    if (slot)
        *slot = sc;
    if (sc)
        sc->call = cd_call_new();
    if (!sc || !sc->call) {
        k->failed = true;
        return;
    }
    take_session(k, sc->call);
    owner = next(k);
    sc->elsewhere = all->owner && (!owner || strcmp(owner, all->owner) != 0);
    if (cd_map_put(&all->by_id, cd_str_of(sc->call->id), sc) < 0)
        k->failed = true;
}

static void add_participant(struct cd_stored_call *sc, struct cursor *k)
{
    struct cd_participant *p = cd_call_add_participant(sc->call, next(k));

    if (!p) {
        k->failed = true;
        return;
    }
    p->display_name = text(k);
    p->avatar_url = text(k);
    p->party_id = text(k);
    p->device_id = text(k);
    p->state = (enum cd_pstate)word(k, cd_pstate_parse);
    p->side = (enum cd_side)word(k, cd_side_parse);
    p->leave_reason = text(k);
    p->audio_enabled = flag(k);
    p->video_enabled = flag(k);
    p->screen_sharing = flag(k);
    p->joined_at = number(k);
    p->left_at = number(k);
}

/* Arrays of a stored call have no room for their capacity: it is the next power of two. */
static void *one_more(struct cursor *k, void **base, size_t *n, size_t elem_bytes)
{
    size_t cap = 4;
    void *slot;

    while (cap < *n)
        cap *= 2;
    if (*n == 0)
        cap = 0;
    slot = cd_grow(base, n, &cap, elem_bytes);
    if (!slot)
        k->failed = true;
    return slot;
}

static void add_event(struct cd_stored_call *sc, struct cursor *k)
{
    struct cd_event_row *e = one_more(k, (void **)&sc->events, &sc->n_events, sizeof *e);
    const char *hash, *type;

    if (!e)
        return;
    e->seq = (uint64_t)number(k);
    type = next(k);
    e->type = cd_event_type_intern(type ? type : "other");
    e->user_id = text(k);
    e->data = text(k);
    e->at = number(k);
    hash = next(k);
    e->has_mx_hash = hash != NULL;
    if (hash)
        cd_pg_hash(hash, e->mx_hash);
}

static void add_signal(struct cd_stored_call *sc, struct cursor *k)
{
    struct cd_signal_row *s = one_more(k, (void **)&sc->signals, &sc->n_signals, sizeof *s);

    if (!s)
        return;
    s->seq = (uint64_t)number(k);
    s->kind = text(k);
    s->from_user = text(k);
    s->from_party = text(k);
    s->to = text(k);
    s->payload = text(k);
}

static void add_outbox(struct cd_stored_call *sc, struct cursor *k)
{
    struct cd_outbox_row *o = one_more(k, (void **)&sc->outbox, &sc->n_outbox, sizeof *o);

    if (!o)
        return;
    memcpy(o->call_id, sc->call->id, sizeof o->call_id);
    o->txn_id = text(k);
    o->room_id = text(k);
    o->user_id = text(k);
    o->event_type = text(k);
    o->content = text(k);
    o->rank = (int)number(k);
    o->ord = number(k);
    o->created_at = number(k);
    o->not_before = number(k);
    o->deadline = number(k);
    o->tried = flag(k);
    o->attempts = (int)number(k);
}

static void (*const adders[CD_PG_CALL_TABLES])(struct cd_stored_call *, struct cursor *) = {
    NULL, add_participant, add_event, add_signal, add_outbox};

bool cd_pg_calls_take(struct cd_pg_calls *all, size_t table, const PGresult *res)
{
    for (int row = 0; row < PQntuples(res); row++) {
        struct cursor k = {.res = res, .row = row};
        struct cd_stored_call *sc;

        if (table == 0) {
            add_session(all, &k);
        } else {
            sc = cd_map_get(&all->by_id, cd_str_of(next(&k)));
            if (sc)
                adders[table](sc, &k);
        }
        if (k.failed)
            return false;
    }
    return true;
}

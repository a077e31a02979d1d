/* rooms_ask.c -- asking the homeserver about one room: its joined members and its encryption.
 * In: a user's token and who wants to know.  Out: one callback each.
 * Why: the profile "observe" gives the application service no right to ask, so a user's own
 * token does; what that token sees is the truth for its user, and "no" is only ever said to that
 * user.
 * State: one lookup a room (single flight) with its waiters.  Owns: references to principals.
 * Blocks: never. */
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/scan.h"
#include "out/rooms_int.h"

#define ASK_TIMEOUT_MS 10000
#define MEMBERS_BODY_MAX ((size_t)2 << 20) /* about ten thousand members */
#define MAX_WAITERS 8192

struct waiter {
    struct waiter *next;
    struct cd_principal *who; /* NULL: any token will do */
    enum cd_room_want want;
    cd_room_fn fn;
    void *arg;
};

struct cd_lookup {
    struct cd_rooms *rooms;
    struct cd_room *room;
    struct cd_principal *asker;
    uint64_t generation;
    uint64_t members_fetch, encryption_fetch;
    bool doubted;  /* a push contradicted the members that were read, or are being read */
    bool again;    /* they are read for the second time */
    enum cd_rc rc; /* worst so far */
    struct cd_err err;
    struct waiter *waiters;
};

/* --- from the cache ----------------------------------------------------------------------- */

static bool fresh(int64_t since_ms, int64_t now_ms, int64_t for_ms)
{
    return since_ms > 0 && now_ms - since_ms < for_ms;
}

enum cd_rc cd_room_from_cache(const struct cd_room *room, const char *user, enum cd_room_want want)
{
    int64_t now = cd_mono_ms();
    bool complete = fresh(room->complete_ms, now, CD_ROOMS_FRESH_MS);
    const struct cd_member *m;

    if (!user)
        return complete ? CD_OK : CD_PENDING;
    m = cd_room_member(room, user);
    if (!m)
        return CD_PENDING;
    if (m->joined && fresh(m->learned_ms, now, CD_ROOMS_FRESH_MS) &&
        (complete || want == CD_WANT_JOINED))
        return CD_OK;
    if (!m->joined && fresh(m->learned_ms, now, CD_ROOMS_DENIED_MS))
        return CD_E_NOT_FOUND;
    return CD_PENDING;
}

/* Every signal asks this: it must not cost more in a larger room. */
static void show_own(struct cd_room *room, const struct cd_member *own, cd_room_fn fn, void *arg)
{
    struct cd_room_member listed = {own->user_id, own->display_name, own->avatar_url};
    struct cd_room_view view = {.room_id = room->id, .encrypted = room->encrypted,
                                .members = &listed, .n_members = 1,
                                .n_joined = room->many ? CD_ROOMS_MANY : 1};

    room->pins++;
    fn(arg, CD_OK, &view, NULL);
    room->pins--;
}

static void show_all(struct cd_room *room, const struct cd_member *own, cd_room_fn fn, void *arg)
{
    struct cd_room_member listed[64];
    struct cd_room_view view = {.room_id = room->id, .encrypted = room->encrypted,
                                .members = listed};
    const struct cd_member *m;
    size_t pos = 0;

    if (own && own->joined)
        listed[view.n_members++] =
            (struct cd_room_member){own->user_id, own->display_name, own->avatar_url};
    view.n_joined = view.n_members;
    while ((m = cd_map_next(&room->members, &pos))) {
        if (!m->joined || m == own)
            continue;
        view.n_joined++;
        if (view.n_members < sizeof(listed) / sizeof(listed[0]))
            listed[view.n_members++] =
                (struct cd_room_member){m->user_id, m->display_name, m->avatar_url};
    }
    if (room->many)
        view.n_joined = CD_ROOMS_MANY;
    room->pins++;
    fn(arg, CD_OK, &view, NULL);
    room->pins--;
}

void cd_room_show(struct cd_room *room, const char *user, enum cd_room_want want, cd_room_fn fn,
                  void *arg)
{
    const struct cd_member *own = user ? cd_room_member(room, user) : NULL;

    if (want == CD_WANT_JOINED && own && own->joined)
        show_own(room, own, fn, arg);
    else
        show_all(room, own, fn, arg);
}

/* --- what the homeserver said ------------------------------------------------------------- */

static enum cd_rc fail_res(struct cd_err *err, const struct cd_fetch_res *res)
{
    if (res->status == 403 || res->status == 404)
        return cd_fail(err, CD_E_NOT_FOUND, "There is no such room, or you are not in it.");
    if (res->status == 401)
        return cd_fail(err, CD_E_UNKNOWN_TOKEN, NULL);
    cd_fail(err, CD_E_HOMESERVER, NULL);
    if (res->retry_after_ms > 0)
        err->retry_after_ms = res->retry_after_ms;
    return err->rc;
}

static const char *profile_text(struct cd_str profile, const char *name, char *out, size_t size)
{
    struct cd_str value;

    if (cd_json_kind(profile) != CD_JSON_OBJECT || !cd_json_find(profile, name, &value) ||
        cd_json_text(value, out, size) <= 0)
        return NULL;
    return out;
}

/* Everybody who is not in the answer has left. */
static void forget_missing(struct cd_rooms *r, struct cd_room *room, int64_t now_ms,
                           struct cd_member_batch *batch)
{
    struct cd_member *m;
    size_t pos = 0;

    while ((m = cd_map_next(&room->members, &pos))) {
        struct cd_room_member gone = {.user_id = m->user_id};

        if (m->joined && m->learned_ms != now_ms)
            cd_room_note(r, room, &gone, false, true, 0, batch);
    }
}

/* Each list has a time of its own, by which its members are told from those of the last one. */
static int64_t list_time(struct cd_rooms *r)
{
    int64_t now = cd_mono_ms();

    r->list_ms = now > r->list_ms ? now : r->list_ms + 1;
    return r->list_ms;
}

static enum cd_rc read_members(struct cd_lookup *l, struct cd_str body)
{
    struct cd_member_batch batch = {.n = 0};
    struct cd_str joined, key, profile;
    int64_t now = list_time(l->rooms);
    bool starved = false;
    size_t pos = 0;

    if (!cd_json_is_object(body, 32) || !cd_json_find(body, "joined", &joined) ||
        cd_json_kind(joined) != CD_JSON_OBJECT)
        return cd_fail(&l->err, CD_E_HOMESERVER,
                       "The homeserver's list of members makes no sense.");
    while (cd_json_member(joined, &pos, &key, &profile)) {
        struct cd_str quoted = {key.p - 1, key.n + 2};
        char user[256], name[512], avatar[512];
        struct cd_room_member m = {.user_id = user};

        if (cd_json_text(quoted, user, sizeof(user)) <= 0 || user[0] != '@')
            continue;
        m.display_name = profile_text(profile, "display_name", name, sizeof(name));
        m.avatar_url = profile_text(profile, "avatar_url", avatar, sizeof(avatar));
        starved |= !cd_room_note(l->rooms, l->room, &m, true, false, now, &batch);
    }
    forget_missing(l->rooms, l->room, now, &batch);
    cd_member_batch_flush(l->rooms, &batch);
    l->room->many = false;
    return starved ? cd_fail(&l->err, CD_E_NO_MEMORY, NULL) : CD_OK;
}

/* A room too large to be read: only the asker's own membership. */
static enum cd_rc read_own(struct cd_lookup *l, struct cd_str body)
{
    struct cd_room_member m = {.user_id = l->asker->user_id};
    struct cd_member_batch batch = {.n = 0};
    struct cd_str membership;

    if (!cd_json_is_object(body, 32) || !cd_json_find(body, "membership", &membership))
        return cd_fail(&l->err, CD_E_HOMESERVER,
                       "The homeserver's membership event makes no sense.");
    if (!cd_str_is(membership, "\"join\""))
        return cd_fail(&l->err, CD_E_NOT_FOUND, "There is no such room, or you are not in it.");
    if (!cd_room_note(l->rooms, l->room, &m, true, true, cd_mono_ms(), &batch))
        return cd_fail(&l->err, CD_E_NO_MEMORY, NULL);
    cd_member_batch_flush(l->rooms, &batch);
    return CD_OK;
}

/* --- a lookup ----------------------------------------------------------------------------- */

static void lookup_start(struct cd_rooms *r, struct cd_room *room, struct cd_principal *asker,
                         struct waiter *waiters);

static void worse(struct cd_lookup *l, enum cd_rc rc)
{
    /* The members decide; a failing encryption request only matters when they could be read. */
    if (l->rc == CD_OK)
        l->rc = rc;
}

/* Somebody joined whose token we hold. */
static struct cd_principal *any_token(const struct cd_rooms *r, const struct cd_room *room)
{
    const struct cd_member *m;
    size_t pos = 0;

    while ((m = cd_map_next(&room->members, &pos))) {
        struct cd_principal *p = m->joined ? cd_rooms_token_of(r, m->user_id) : NULL;

        if (p)
            return p;
    }
    return NULL;
}

static void waiter_done(struct cd_rooms *r, struct cd_room *room, struct waiter *w, enum cd_rc rc,
                        const struct cd_err *err)
{
    r->n_waiters--;
    if (rc == CD_OK)
        cd_room_show(room, w->who ? w->who->user_id : NULL, w->want, w->fn, w->arg);
    else
        w->fn(w->arg, rc, NULL, err);
    cd_principal_unref(w->who);
    free(w);
}

/* What this lookup means for one waiter. @return CD_PENDING: nothing, it has to ask itself */
static enum cd_rc verdict(const struct cd_lookup *l, const struct waiter *w, bool *listed)
{
    const struct cd_member *m = w->who ? cd_room_member(l->room, w->who->user_id) : NULL;
    bool own = w->who && strcmp(w->who->user_id, l->asker->user_id) == 0;

    *listed = true;
    if (l->rc == CD_E_NOT_FOUND)
        return own ? CD_E_NOT_FOUND : CD_PENDING;
    if (l->rc == CD_E_UNKNOWN_TOKEN)
        return w->who == l->asker ? CD_E_UNKNOWN_TOKEN : CD_PENDING;
    if (l->rc != CD_OK)
        return l->rc;
    /* a push since then has made the asker's own answer too old to be kept, not wrong */
    if (!w->who || (m && m->joined && (own || m->learned_ms > 0)))
        return CD_OK;
    *listed = false;
    return own ? CD_E_NOT_FOUND : CD_PENDING;
}

/* The token of this lookup could not answer for these: go on with another one. */
static void ask_again(struct cd_rooms *r, struct cd_room *room, struct waiter *rest)
{
    struct cd_principal *asker;
    struct waiter *w;
    struct cd_err err;

    while ((w = rest)) {
        asker = w->who ? w->who : any_token(r, room);
        if (asker && !r->closing) {
            lookup_start(r, room, asker, rest);
            return;
        }
        rest = w->next;
        waiter_done(r, room, w, cd_fail(&err, CD_E_NOT_FOUND, NULL), &err);
    }
}

static void note_denied(struct cd_lookup *l)
{
    struct cd_room_member m = {.user_id = l->asker->user_id};
    struct cd_member_batch batch = {.n = 0};

    cd_room_note(l->rooms, l->room, &m, false, true, cd_mono_ms(), &batch);
    cd_member_batch_flush(l->rooms, &batch);
}

static uint64_t ask_members(struct cd_lookup *l);

/* Only the homeserver knows whether the push or the answer is newer. Once: where people come and go all the time
 * there would be no end. */
static bool asks_again(struct cd_lookup *l)
{
    if (!l->doubted || l->again || l->rc != CD_OK)
        return false;
    l->members_fetch = ask_members(l);
    if (!l->members_fetch)
        return false;
    l->again = true;
    l->generation = l->room->generation;
    return true;
}

static void lookup_done(struct cd_lookup *l)
{
    struct cd_rooms *r = l->rooms;
    struct cd_room *room = l->room;
    struct waiter *list = l->waiters, *rest = NULL, **tail = &rest, *w;
    struct cd_err not_joined;
    bool listed;

    if (asks_again(l))
        return;
    room->lookup = NULL;
    room->pins++;
    /* Only what is known whole is kept: never the members without the encryption. What was
     * pushed while we asked makes the answer right for those who waited, and too old to be kept. */
    room->complete_ms = l->rc == CD_OK && room->generation == l->generation ? cd_mono_ms() : 0;
    if (l->rc == CD_E_UNKNOWN_TOKEN)
        cd_rooms_token_bad(r, l->asker);
    if (l->rc == CD_E_NOT_FOUND ||
        (l->rc == CD_OK && !cd_rooms_is_joined_cached(r, room->id, l->asker->user_id)))
        note_denied(l);
    cd_fail(&not_joined, CD_E_NOT_FOUND, "There is no such room, or you are not in it.");
    while ((w = list)) {
        enum cd_rc rc = verdict(l, w, &listed);

        list = w->next;
        w->next = NULL;
        if (rc == CD_PENDING) {
            *tail = w;
            tail = &w->next;
        } else {
            waiter_done(r, room, w, rc, listed ? &l->err : &not_joined);
        }
    }
    cd_principal_unref(l->asker);
    free(l);
    if (rest && room->lookup) {
        struct waiter **end = &rest; /* a callback has started the next lookup: join it */

        while (*end)
            end = &(*end)->next;
        *end = room->lookup->waiters;
        room->lookup->waiters = rest;
    } else {
        ask_again(r, room, rest);
    }
    room->pins--;
}

static void on_encryption(void *arg, const struct cd_fetch_res *res)
{
    struct cd_lookup *l = arg;
    struct cd_err err;

    l->encryption_fetch = 0;
    if (res->status == 200)
        l->room->encrypted = true;
    else if (res->status != 404 && l->rc == CD_OK)
        worse(l, fail_res(&err, res) == CD_E_UNKNOWN_TOKEN ? CD_E_UNKNOWN_TOKEN : CD_E_HOMESERVER);
    if (l->rc == CD_E_HOMESERVER && l->err.rc == CD_OK)
        cd_fail(&l->err, CD_E_HOMESERVER, NULL);
    if (l->rc == CD_E_UNKNOWN_TOKEN && l->err.rc == CD_OK)
        cd_fail(&l->err, CD_E_UNKNOWN_TOKEN, NULL);
    if (!l->members_fetch)
        lookup_done(l);
}

static uint64_t get(struct cd_lookup *l, const char *const *parts, size_t max_body, cd_fetch_fn fn)
{
    char *url = cd_rooms_url(l->rooms, parts);
    struct cd_fetch_req req = {.method = "GET", .url = url, .bearer = l->asker->matrix_token,
                               .timeout_ms = ASK_TIMEOUT_MS, .max_body = max_body};
    uint64_t id = url && l->asker->matrix_token ? cd_fetch(l->rooms->pool, &req, fn, l) : 0;

    free(url);
    return id;
}

static void on_own(void *arg, const struct cd_fetch_res *res)
{
    struct cd_lookup *l = arg;
    enum cd_rc rc = res->status == 200 ? read_own(l, res->body) : fail_res(&l->err, res);

    l->members_fetch = 0;
    if (rc != CD_OK)
        l->rc = rc;
    if (!l->encryption_fetch)
        lookup_done(l);
}

static uint64_t ask_own(struct cd_lookup *l)
{
    const char *const parts[] = {"/rooms/", l->room->id, "/state/m.room.member/", l->asker->user_id,
                                 NULL};

    return get(l, parts, 0, on_own);
}

static void on_members(void *arg, const struct cd_fetch_res *res)
{
    struct cd_lookup *l = arg;
    enum cd_rc rc;

    l->members_fetch = 0;
    if (res->too_large) {
        l->room->many = true;
        l->members_fetch = ask_own(l);
        if (l->members_fetch)
            return;
    }
    rc = res->status == 200 ? read_members(l, res->body) : fail_res(&l->err, res);
    if (rc != CD_OK)
        l->rc = rc;
    if (!l->encryption_fetch)
        lookup_done(l);
}

static uint64_t ask_members(struct cd_lookup *l)
{
    const char *const members[] = {"/rooms/", l->room->id, "/joined_members", NULL};

    return l->room->many ? ask_own(l) : get(l, members, MEMBERS_BODY_MAX, on_members);
}

void cd_room_ask_doubt(struct cd_room *room)
{
    if (room->lookup)
        room->lookup->doubted = true;
}

/* Takes the list of waiters over. */
static void lookup_start(struct cd_rooms *r, struct cd_room *room, struct cd_principal *asker,
                         struct waiter *waiters)
{
    const char *const encryption[] = {"/rooms/", room->id, "/state/m.room.encryption", NULL};
    struct cd_lookup *l = calloc(1, sizeof(*l));
    struct cd_err err;
    struct waiter *w;

    if (l) {
        *l = (struct cd_lookup){.rooms = r, .room = room, .asker = cd_principal_ref(asker),
                                .generation = room->generation, .waiters = waiters};
        l->members_fetch = ask_members(l);
        if (l->members_fetch) {
            room->lookup = l;
            if (!room->encrypted)
                l->encryption_fetch = get(l, encryption, 0, on_encryption);
            if (!room->encrypted && !l->encryption_fetch)
                worse(l, cd_fail(&l->err, CD_E_HOMESERVER, NULL));
            return;
        }
        cd_principal_unref(l->asker);
        free(l);
    }
    cd_fail(&err, CD_E_HOMESERVER, NULL);
    while ((w = waiters)) {
        waiters = w->next;
        waiter_done(r, room, w, err.rc, &err);
    }
}

void cd_room_ask(struct cd_rooms *r, struct cd_room *room, struct cd_principal *who,
                 enum cd_room_want want, cd_room_fn fn, void *arg)
{
    struct cd_principal *asker = who ? who : any_token(r, room);
    struct waiter *w = r->n_waiters < MAX_WAITERS && !r->closing ? calloc(1, sizeof(*w)) : NULL;
    struct waiter **tail;
    struct cd_err err;

    if (!w || !asker) {
        free(w);
        fn(arg, cd_fail(&err, asker ? CD_E_OVERLOADED : CD_E_NOT_FOUND, NULL), NULL, &err);
        return;
    }
    *w = (struct waiter){.who = cd_principal_ref(who), .want = want, .fn = fn, .arg = arg};
    r->n_waiters++;
    if (!room->lookup) {
        lookup_start(r, room, asker, w);
        return;
    }
    for (tail = &room->lookup->waiters; *tail; tail = &(*tail)->next)
        ;
    *tail = w;
}

void cd_room_ask_stop(struct cd_rooms *r)
{
    struct cd_room *room = r->newest_room;

    while (room) {
        struct cd_lookup *l = room->lookup;

        if (!l) {
            room = room->older;
            continue;
        }
        cd_fetch_cancel(r->pool, l->members_fetch);
        cd_fetch_cancel(r->pool, l->encryption_fetch);
        l->rc = cd_fail(&l->err, CD_E_HOMESERVER, "The server is shutting down.");
        lookup_done(l);
        room = r->newest_room; /* callbacks may have changed the order */
    }
}

char *cd_rooms_url(const struct cd_rooms *r, const char *const *parts)
{
    struct cd_buf b;

    cd_buf_init(&b, 8192);
    cd_buf_adds(&b, r->base);
    cd_buf_adds(&b, "/_matrix/client/v3");
    for (size_t i = 0; parts[i]; i++) {
        if (i % 2 == 0)
            cd_buf_adds(&b, parts[i]);
        else
            cd_buf_add_segment(&b, cd_str_of(parts[i]));
    }
    return cd_buf_steal(&b, NULL);
}

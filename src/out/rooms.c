/* rooms.c -- who is joined where: the door that commands, sockets and pushed events use.
 * In: questions with a user's token; pushed m.room.member and m.room.encryption.
 * Out: a view of the room, or "not found" for those who are not in it.
 * Why: rooms older than the registration were never pushed, and pushes may be missing
 * altogether: what they say is a hint, and any change makes the next question go to the
 * homeserver.
 * State: rooms_cache.c.  Owns: the URL and the guard of the start-up read.  Blocks: never. */
#include "out/rooms.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "out/rooms_int.h"

/* --- questions ---------------------------------------------------------------------------- */

static void question(struct cd_rooms *r, struct cd_principal *who, const char *room_id,
                     enum cd_room_want want, cd_room_fn fn, void *arg)
{
    if (r->dev) {
        cd_room_dev_show(r, who, room_id, want, fn, arg);
        return;
    }
    const char *user = who ? who->user_id : NULL;
    struct cd_room *room = who ? cd_room_touch(r, room_id) : cd_room_get(r, room_id);
    enum cd_rc rc = room ? cd_room_from_cache(room, user, want) : CD_E_NOT_FOUND;
    struct cd_err err;

    if (who && rc != CD_E_NOT_FOUND)
        cd_known_user_note(r, who);
    if (rc == CD_OK) {
        cd_room_show(room, user, want, fn, arg);
    } else if (rc == CD_PENDING) {
        cd_room_ask(r, room, who, want, fn, arg);
    } else {
        cd_fail(&err, rc, "There is no such room, or you are not in it.");
        fn(arg, rc, NULL, &err);
    }
}

void cd_rooms_view(struct cd_rooms *r, struct cd_principal *who, const char *room_id, cd_room_fn fn,
                   void *arg)
{
    question(r, who, room_id, CD_WANT_VIEW, fn, arg);
}

void cd_rooms_view_any(struct cd_rooms *r, const char *room_id, cd_room_fn fn, void *arg)
{
    question(r, NULL, room_id, CD_WANT_VIEW, fn, arg);
}

void cd_rooms_joined(struct cd_rooms *r, struct cd_principal *who, const char *room_id,
                     cd_room_fn fn,
                     void *arg)
{
    question(r, who, room_id, CD_WANT_JOINED, fn, arg);
}

bool cd_rooms_is_joined_cached(const struct cd_rooms *r, const char *room_id, const char *user_id)
{
    const struct cd_room *room = cd_room_get(r, room_id);
    const struct cd_member *m = room ? cd_room_member(room, user_id) : NULL;

    return m && m->joined;
}

const char *cd_rooms_hinted_other(struct cd_rooms *r, const char *room_id, const char *user)
{
    struct cd_room *room = cd_room_get(r, room_id);
    const struct cd_member *m;
    const char *other = NULL;
    size_t pos = 0, joined = 0;
    bool inside = false;

    while (room && !room->many && (m = cd_map_next(&room->members, &pos))) {
        if (!m->joined)
            continue;
        joined++;
        if (strcmp(m->user_id, user) == 0)
            inside = true;
        else
            other = m->user_id;
    }
    if (joined != 2 || !inside)
        return NULL;
    cd_room_renew(r, room);
    return other;
}

/* --- pushed events ------------------------------------------------------------------------ */

/* The cache had no place for the room, or has not read it yet; the store may know it. */
static void forget_stored(struct cd_rooms *r, const char *room_id, const char *user_id)
{
    char *room = strdup(room_id), *user = strdup(user_id);
    struct cd_member_row row = {.room_id = room, .user_id = user};

    if (r->store && room && user)
        r->store->ops->members_put(r->store, &row, 1);
    free(room);
    free(user);
}

void cd_rooms_on_member(struct cd_rooms *r, const char *room_id, const char *user_id,
                        const char *membership, const char *display_name, const char *avatar_url)
{
    struct cd_room_member m = {user_id, display_name, avatar_url};
    bool joined = strcmp(membership, "join") == 0;
    struct cd_member_batch batch = {.n = 0};
    struct cd_room *room = cd_room_get(r, room_id);
    const struct cd_member *known;

    /* Strangers in rooms that nobody asked about would fill the cache for nothing. */
    if (!room && !cd_is_local_user(user_id, r->server_name))
        return;
    if (!room && !joined) {
        forget_stored(r, room_id, user_id);
        return;
    }
    room = cd_room_touch(r, room_id);
    if (!room)
        return;
    known = cd_room_member(room, user_id);
    if (!known || known->joined != joined)
        cd_room_ask_doubt(room);
    cd_room_note(r, room, &m, joined, !joined, 0, &batch);
    cd_member_batch_flush(r, &batch);
    room->complete_ms = 0;
    room->generation = ++r->pushes;
}

void cd_rooms_on_encryption(struct cd_rooms *r, const char *room_id)
{
    struct cd_room *room = cd_room_get(r, room_id);

    if (room) /* others are asked about when somebody calls there */
        room->encrypted = true;
}

/* --- life --------------------------------------------------------------------------------- */

static void on_loaded(void *arg, enum cd_store_rc rc, const struct cd_member_row *rows, size_t n)
{
    struct cd_rooms **guard = arg, *r = *guard;

    for (size_t i = 0; r && (rc == CD_STORE_OK || rc == CD_STORE_MORE) && i < n; i++) {
        struct cd_room_member m = {rows[i].user_id, rows[i].display_name, rows[i].avatar_url};
        struct cd_room *room = cd_room_touch(r, rows[i].room_id);

        /* What was learnt since is newer than what was stored; who is not in a list that was read is not there. */
        if (room && room->complete_ms == 0 && rows[i].joined && !cd_room_member(room, m.user_id))
            cd_room_note(r, room, &m, true, false, 0, NULL);
    }
    if (rc == CD_STORE_MORE)
        return;
    if (r)
        r->guard = NULL;
    free(guard);
}

static void load(struct cd_rooms *r)
{
    if (!r->store)
        return;
    r->guard = malloc(sizeof(struct cd_rooms *));
    if (!r->guard)
        return;
    *r->guard = r;
    r->store->ops->members_load(r->store, on_loaded, r->guard);
}

struct cd_rooms *cd_rooms_new(struct cd_loop *loop, struct cd_fetch_pool *pool,
                              struct cd_store *store,
                              const char *homeserver_url, const char *server_name)
{
    struct cd_rooms *r = calloc(1, sizeof(*r));
    size_t n = strlen(homeserver_url);

    if (!r)
        return NULL;
    while (n > 0 && homeserver_url[n - 1] == '/')
        n--;
    r->loop = loop;
    r->pool = pool;
    r->store = store;
    r->base = strndup(homeserver_url, n);
    r->server_name = strdup(server_name);
    cd_map_init(&r->rooms);
    cd_map_init(&r->users);
    if (!r->base || !r->server_name) {
        cd_rooms_free(r);
        return NULL;
    }
    load(r);
    return r;
}

void cd_rooms_dev(struct cd_rooms *r)
{
    r->dev = true;
}

void cd_rooms_free(struct cd_rooms *r)
{
    if (!r)
        return;
    r->closing = true;
    if (r->guard)
        *r->guard = NULL;
    cd_room_ask_stop(r);
    cd_rooms_cache_free(r);
    cd_timer_cancel(r->loop, &r->sweep);
    free(r->base);
    free(r->server_name);
    free(r);
}

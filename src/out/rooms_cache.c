/* rooms_cache.c -- what is known of rooms and users: bounded, least recently used first out.
 * In: memberships from answers, pushes and the store.  Out: records.
 * State: two maps and their orders of use.  Owns: all strings.  Blocks: never. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/str.h"
#include "out/rooms_int.h"

#define ROOMS_MAX 20000
#define USERS_MAX 10000
#define ID_MAX 255
#define STORED_STRANGERS 64 /* of one room: beyond, it is no room of two, and the homeserver is asked anyway */
#define RENEW_MS (24 * 60 * 60 * 1000)

/* --- rooms -------------------------------------------------------------------------------- */

static void room_unlink(struct cd_rooms *r, struct cd_room *room)
{
    if (room->newer)
        room->newer->older = room->older;
    else
        r->newest_room = room->older;
    if (room->older)
        room->older->newer = room->newer;
    else
        r->oldest_room = room->newer;
}

static void room_push(struct cd_rooms *r, struct cd_room *room)
{
    room->newer = NULL;
    room->older = r->newest_room;
    if (r->newest_room)
        r->newest_room->newer = room;
    else
        r->oldest_room = room;
    r->newest_room = room;
}

static void member_free(struct cd_member *m)
{
    free(m->user_id);
    free(m->display_name);
    free(m->avatar_url);
    free(m);
}

static void room_free(struct cd_rooms *r, struct cd_room *room)
{
    struct cd_member *m;
    size_t pos = 0;

    room_unlink(r, room);
    cd_map_del(&r->rooms, cd_str_of(room->id));
    while ((m = cd_map_next(&room->members, &pos))) {
        r->n_members--;
        member_free(m);
    }
    cd_map_done(&room->members);
    free(room->id);
    free(room);
}

/* A room somebody looks at, or asks about, stays. */
static void make_space(struct cd_rooms *r, const struct cd_room *keep)
{
    struct cd_room *room = r->oldest_room, *newer;

    for (; room && (r->rooms.count > ROOMS_MAX || r->n_members > CD_MEMBERS_MAX); room = newer) {
        newer = room->newer;
        if (!room->lookup && room->pins == 0 && room != keep)
            room_free(r, room);
    }
}

struct cd_room *cd_room_get(const struct cd_rooms *r, const char *room_id)
{
    return cd_map_get(&r->rooms, cd_str_of(room_id));
}

static struct cd_room *room_new(struct cd_rooms *r, const char *room_id)
{
    struct cd_room *room = calloc(1, sizeof(*room));

    if (!room)
        return NULL;
    cd_map_init(&room->members);
    room->id = strdup(room_id);
    if (!room->id || cd_map_put(&r->rooms, cd_str_of(room->id), room) != 0) {
        free(room->id);
        free(room);
        return NULL;
    }
    room_push(r, room);
    make_space(r, room);
    return room;
}

struct cd_room *cd_room_touch(struct cd_rooms *r, const char *room_id)
{
    struct cd_room *room = cd_room_get(r, room_id);

    if (room) {
        room_unlink(r, room);
        room_push(r, room);
        return room;
    }
    if (room_id[0] != '!' || room_id[1] == '\0' || strlen(room_id) > ID_MAX)
        return NULL;
    return room_new(r, room_id);
}

/* --- members ------------------------------------------------------------------------------ */

struct cd_member *cd_room_member(const struct cd_room *room, const char *user_id)
{
    return cd_map_get(&room->members, cd_str_of(user_id));
}

static bool same(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

/* @return true when it changed */
static bool set_text(char **field, const char *text)
{
    char *copy = NULL;

    if (same(*field, text))
        return false;
    if (text) {
        copy = strdup(text);
        if (!copy)
            return false; /* an old name is no harm */
    }
    free(*field);
    *field = copy;
    return true;
}

void cd_member_batch_flush(struct cd_rooms *r, struct cd_member_batch *batch)
{
    if (batch->n > 0 && r->store)
        r->store->ops->members_put(r->store, batch->rows, batch->n);
    batch->n = 0;
}

static void batch_add(struct cd_rooms *r, struct cd_member_batch *batch, const struct cd_room *room,
                      struct cd_member *m)
{
    if (m->joined && room->members.count > STORED_STRANGERS && !cd_is_local_user(m->user_id, r->server_name))
        return;
    m->stored_ms = cd_mono_ms();
    if (batch->n == CD_MEMBER_BATCH)
        cd_member_batch_flush(r, batch);
    batch->rows[batch->n++] = (struct cd_member_row){room->id, m->user_id, m->joined,
                                                     m->display_name,
                                                     m->avatar_url};
}

/* @return NULL: not an id, or no memory: then the next one who needs the whole list asks for it */
static struct cd_member *member_new(struct cd_rooms *r, struct cd_room *room, const char *user_id)
{
    struct cd_member *m;

    if (user_id[0] != '@' || strlen(user_id) > ID_MAX)
        return NULL;
    m = calloc(1, sizeof(*m));
    if (m)
        m->user_id = strdup(user_id);
    if (!m || !m->user_id || cd_map_put(&room->members, cd_str_of(m->user_id), m) != 0) {
        room->complete_ms = 0;
        if (m)
            member_free(m);
        return NULL;
    }
    r->n_members++;
    make_space(r, room);
    return m;
}

struct cd_member *cd_room_note(struct cd_rooms *r, struct cd_room *room,
                               const struct cd_room_member *m, bool joined, bool keep_names,
                               int64_t learned_ms, struct cd_member_batch *batch)
{
    struct cd_member *known = cd_room_member(room, m->user_id);
    bool changed = false;

    if (!known) {
        known = member_new(r, room, m->user_id);
        if (!known)
            return NULL;
        changed = joined; /* strangers who are not joined are no news for the store */
    }
    changed |= known->joined != joined;
    /* what is confirmed is kept longer */
    changed |= joined && learned_ms && learned_ms - known->stored_ms > RENEW_MS;
    known->joined = joined;
    known->learned_ms = learned_ms;
    if (!keep_names) {
        /* A row of the batch may borrow the old names. */
        if (batch && batch->n > 0 && !same(known->display_name, m->display_name))
            cd_member_batch_flush(r, batch);
        if (batch && batch->n > 0 && !same(known->avatar_url, m->avatar_url))
            cd_member_batch_flush(r, batch);
        changed |= set_text(&known->display_name, m->display_name);
        changed |= set_text(&known->avatar_url, m->avatar_url);
    }
    if (changed && batch)
        batch_add(r, batch, room, known);
    return known;
}

void cd_room_renew(struct cd_rooms *r, struct cd_room *room)
{
    struct cd_member_batch batch = {.n = 0};
    int64_t now = cd_mono_ms();
    struct cd_member *m;
    size_t pos = 0;

    while ((m = cd_map_next(&room->members, &pos)))
        if (m->joined && now - m->stored_ms > RENEW_MS)
            batch_add(r, &batch, room, m);
    cd_member_batch_flush(r, &batch);
}

/* --- users -------------------------------------------------------------------------------- */

static void user_unlink(struct cd_rooms *r, struct cd_known_user *u)
{
    if (u->newer)
        u->newer->older = u->older;
    else
        r->newest_user = u->older;
    if (u->older)
        u->older->newer = u->newer;
    else
        r->oldest_user = u->newer;
}

static void user_push(struct cd_rooms *r, struct cd_known_user *u)
{
    u->newer = NULL;
    u->older = r->newest_user;
    if (r->newest_user)
        r->newest_user->newer = u;
    else
        r->oldest_user = u;
    r->newest_user = u;
}

void cd_known_user_clear_ignored(struct cd_known_user *u)
{
    for (size_t i = 0; i < u->n_ignored; i++)
        free(u->ignored[i]);
    free(u->ignored);
    u->ignored = NULL;
    u->n_ignored = 0;
}

static void user_free(struct cd_rooms *r, struct cd_known_user *u)
{
    user_unlink(r, u);
    cd_map_del(&r->users, cd_str_of(u->id));
    cd_known_user_stop(u);
    cd_known_user_clear_ignored(u);
    cd_principal_unref(u->principal);
    free(u->id);
    free(u);
}

struct cd_known_user *cd_known_user_get(const struct cd_rooms *r, const char *user_id)
{
    return cd_map_get(&r->users, cd_str_of(user_id));
}

struct cd_known_user *cd_known_user_touch(struct cd_rooms *r, const char *user_id)
{
    struct cd_known_user *u = cd_known_user_get(r, user_id);

    if (u) {
        user_unlink(r, u);
        user_push(r, u);
        return u;
    }
    if (r->users.count >= USERS_MAX)
        user_free(r, r->oldest_user);
    u = calloc(1, sizeof(*u));
    if (!u)
        return NULL;
    u->rooms = r;
    u->id = strdup(user_id);
    if (!u->id || cd_map_put(&r->users, cd_str_of(u->id), u) != 0) {
        free(u->id);
        free(u);
        return NULL;
    }
    user_push(r, u);
    return u;
}

void cd_rooms_cache_free(struct cd_rooms *r)
{
    while (r->oldest_user)
        user_free(r, r->oldest_user);
    while (r->oldest_room)
        room_free(r, r->oldest_room);
    cd_map_done(&r->users);
    cd_map_done(&r->rooms);
}

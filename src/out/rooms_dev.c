/* rooms_dev.c -- rooms of --dev: each user is joined to each room !...:dev, and nobody is asked.
 * In: questions of users.  Out: a view of the room.
 * Why names are kept: a call without invitees needs "the other one": who has been in this room before,
 * or, in a new room, who else this daemon has seen at all.
 * State: the cache's rooms and users.  Blocks: never. */
#include <string.h>

#include "base/clock.h"
#include "out/rooms_int.h"

#define SUFFIX ":dev"
#define LISTED 64

static bool is_dev_room(const char *room_id)
{
    size_t n = strlen(room_id);

    return room_id[0] == '!' && n > strlen(SUFFIX) + 1 && strcmp(room_id + n - strlen(SUFFIX), SUFFIX) == 0;
}

static void list_add(struct cd_room_view *view, struct cd_room_member *listed, const char *user_id)
{
    view->n_joined++;
    if (view->n_members < LISTED)
        listed[view->n_members++] = (struct cd_room_member){.user_id = user_id};
}

static void list_room(struct cd_room_view *view, struct cd_room_member *listed, const struct cd_room *room,
                      const char *user)
{
    const struct cd_member *m;
    size_t pos = 0;

    while ((m = cd_map_next(&room->members, &pos)) && view->n_joined < LISTED)
        if (strcmp(m->user_id, user) != 0)
            list_add(view, listed, m->user_id);
}

static void list_known(struct cd_room_view *view, struct cd_room_member *listed, const struct cd_rooms *r,
                       const char *user)
{
    for (const struct cd_known_user *u = r->newest_user; u && view->n_joined < LISTED; u = u->older)
        if (strcmp(u->id, user) != 0)
            list_add(view, listed, u->id);
}

void cd_room_dev_show(struct cd_rooms *r, struct cd_principal *who, const char *room_id, enum cd_room_want want,
                      cd_room_fn fn, void *arg)
{
    struct cd_room *room = who && is_dev_room(room_id) ? cd_room_touch(r, room_id) : NULL;
    struct cd_room_member self = {.user_id = who ? who->user_id : ""}, listed[LISTED];
    struct cd_room_view view = {.room_id = room_id, .everybody = true, .members = listed};
    struct cd_err err;

    if (!room || !cd_room_note(r, room, &self, true, true, cd_mono_ms(), NULL)) {
        cd_fail(&err, CD_E_NOT_FOUND, "There is no such room: as --dev the rooms are !...:dev.");
        fn(arg, err.rc, NULL, &err);
        return;
    }
    cd_known_user_note(r, who);
    list_add(&view, listed, who->user_id);
    if (want == CD_WANT_VIEW)
        list_room(&view, listed, room, who->user_id);
    if (want == CD_WANT_VIEW && view.n_joined == 1)
        list_known(&view, listed, r, who->user_id);
    room->pins++;
    fn(arg, CD_OK, &view, NULL);
    room->pins--;
}

void cd_rooms_dev_met(struct cd_rooms *r, const char *room_id, const char *user_id)
{
    struct cd_room *room = cd_room_touch(r, room_id);
    struct cd_room_member m = {.user_id = user_id};

    if (room && cd_room_note(r, room, &m, true, true, cd_mono_ms(), NULL))
        cd_known_user_touch(r, user_id);
}

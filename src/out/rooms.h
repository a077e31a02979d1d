/* rooms.h -- who is joined where, what rooms are like: learnt from users' own tokens and pushed
 * events (design, membership). */
#ifndef CD_OUT_ROOMS_H
#define CD_OUT_ROOMS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "base/str.h"
#include "in/auth.h"
#include "store/store.h"

struct cd_rooms;

struct cd_rooms *cd_rooms_new(struct cd_loop *loop, struct cd_fetch_pool *pool,
                              struct cd_store *store,
                              const char *homeserver_url, const char *server_name);
void cd_rooms_free(struct cd_rooms *r);
/** As --dev: from now on no homeserver is asked; each user is joined to each room !...:dev. */
void cd_rooms_dev(struct cd_rooms *r);
/** As --dev: this user was called in that room, and is "the other one" there from now on. */
void cd_rooms_dev_met(struct cd_rooms *r, const char *room_id, const char *user_id);

struct cd_room_member {
    const char *user_id, *display_name, *avatar_url; /* names may be NULL */
};
/** What a caller wants to know of a room, borrowed for the callback: copy before asking again. */
struct cd_room_view {
    const char *room_id;
    bool encrypted;
    bool everybody;                       /* as --dev: those who are not listed are joined as well */
    size_t n_joined;                      /* may exceed n_members listed */
    const struct cd_room_member *members; /* joined, at most 64 listed */
    size_t n_members;
};
/** rc: CD_OK; CD_E_NOT_FOUND: the user is not joined (or no such room); CD_E_HOMESERVER;
 * CD_E_UNKNOWN_TOKEN: the homeserver has just refused the user's token. @p room is NULL unless
 * rc is CD_OK. */
typedef void (*cd_room_fn)(void *arg, enum cd_rc rc, const struct cd_room_view *room,
                           const struct cd_err *err);
/** Look at a room as @p who, who must be joined. From cache when fresh (then fn runs inside the
 * call); else joined_members and m.room.encryption with the user's token, single flight per
 * room. */
void cd_rooms_view(struct cd_rooms *r, struct cd_principal *who, const char *room_id, cd_room_fn fn,
                   void *arg);
/** As cd_rooms_view with whatever token is known of any joined member (for an invite that came
 * from Matrix); CD_E_NOT_FOUND when none is known. */
void cd_rooms_view_any(struct cd_rooms *r, const char *room_id, cd_room_fn fn, void *arg);
/** Is @p user joined? From cache, or asked with the user's token. fn gets CD_OK or CD_E_NOT_FOUND
 * (or the other failures above). The view may know only some of the members then. */
void cd_rooms_joined(struct cd_rooms *r, struct cd_principal *who, const char *room_id,
                     cd_room_fn fn,
                     void *arg);
/** A user connected or called: load joined_rooms once with that token (single flight, then cached),
 * keep the token reference for view_any while the user is around. */
void cd_rooms_user_seen(struct cd_rooms *r, struct cd_principal *who);
/** Does @p by_user ignore @p user_id (m.ignored_user_list, read with by_user's token, cached)?
 * False when that cannot be known: a call too many is better than one too few. */
void cd_rooms_ignored(struct cd_rooms *r, const char *user_id, const char *by_user,
                      void (*fn)(void *arg, bool ignored), void *arg);
/** From cache only. */
bool cd_rooms_is_joined_cached(const struct cd_rooms *r, const char *room_id, const char *user_id);
/** The other one of a room where pushed events have shown exactly two joined members, @p user among
 * them. A hint for records: members who joined before the registration was loaded are not counted.
 * @return borrowed until the next call here, or NULL */
const char *cd_rooms_hinted_other(struct cd_rooms *r, const char *room_id, const char *user);
/** A token we hold for that user right now, or NULL (borrowed). */
struct cd_principal *cd_rooms_token_of(const struct cd_rooms *r, const char *user_id);
/** The homeserver has refused this token (401): it is no longer used for anybody. */
void cd_rooms_token_bad(struct cd_rooms *r, const struct cd_principal *p);

/** A pushed state event changed the room (membership: join leave ban invite knock; encryption). */
void cd_rooms_on_member(struct cd_rooms *r, const char *room_id, const char *user_id,
                        const char *membership, const char *display_name, const char *avatar_url);
void cd_rooms_on_encryption(struct cd_rooms *r, const char *room_id);

#endif

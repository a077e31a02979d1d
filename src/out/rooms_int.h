/* rooms_int.h -- what rooms.c, rooms_ask.c and rooms_cache.c share, and nobody else sees. */
#ifndef CD_OUT_ROOMS_INT_H
#define CD_OUT_ROOMS_INT_H

#include "base/map.h"
#include "loop/loop.h"
#include "out/fetch.h"
#include "out/rooms.h"

#define CD_ROOMS_FRESH_MS 300000 /* pushes may be missing, so nothing is believed for longer */
#define CD_ROOMS_DENIED_MS 5000  /* a "not joined" is not asked again for so long */
#define CD_ROOMS_MANY 100001     /* n_joined of a room too large to be read */

struct cd_member {
    char *user_id, *display_name, *avatar_url;
    bool joined;
    int64_t learned_ms; /* monotonic, when the homeserver said so; 0: a hint (pushed, or stored) */
    int64_t stored_ms;  /* monotonic, when it was last written; 0: in another life */
};

struct cd_lookup;

struct cd_room {
    struct cd_room *newer, *older; /* by use */
    char *id;
    struct cd_map members;  /* by user id */
    int64_t complete_ms;    /* when all members were read; 0: some may be missing */
    bool many;              /* too large to be read: members are asked about one by one */
    bool encrypted;         /* never becomes false again */
    uint64_t generation;    /* cd_rooms.pushes at its last push; 0: none */
    struct cd_lookup *lookup; /* running, or NULL */
    unsigned pins;          /* callbacks are looking at it */
};

struct cd_ignored_waiter {
    struct cd_ignored_waiter *next;
    char *user_id;
    bool ignored;
    void (*fn)(void *arg, bool ignored);
    void *arg;
};

struct cd_known_user {
    struct cd_known_user *newer, *older; /* by use */
    struct cd_rooms *rooms;
    char *id;
    struct cd_principal *principal; /* newest token, NULL: none */
    int64_t seen_ms;
    int64_t joined_ms;  /* when joined_rooms was read, 0: never */
    int64_t ignored_ms; /* when the ignored users were read, 0: never */
    char **ignored;
    size_t n_ignored;
    uint64_t joined_fetch, ignored_fetch;
    uint64_t asked_at; /* cd_rooms.pushes when joined_rooms was asked for */
    struct cd_ignored_waiter *waiters;
};

struct cd_rooms {
    struct cd_loop *loop;
    struct cd_fetch_pool *pool;
    struct cd_store *store;
    char *base; /* homeserver URL without a slash at its end */
    char *server_name;
    struct cd_map rooms, users;
    struct cd_room *newest_room, *oldest_room;
    struct cd_known_user *newest_user, *oldest_user;
    size_t n_members, n_waiters;
    int64_t list_ms; /* when the last list of members was read */
    uint64_t pushes; /* memberships pushed so far */
    struct cd_timer sweep;
    struct cd_rooms **guard; /* what members_load calls back to; NULL inside once we are gone */
    bool closing, dev;
};

enum cd_room_want { CD_WANT_VIEW, CD_WANT_JOINED };

/* --- rooms_dev.c -------------------------------------------------------------------------- */
/** The answer of --dev: whoever asks is joined. @param who  NULL: nobody, so nothing is known */
void cd_room_dev_show(struct cd_rooms *r, struct cd_principal *who, const char *room_id, enum cd_room_want want,
                      cd_room_fn fn, void *arg);

/* --- rooms_cache.c ------------------------------------------------------------------------ */
/** @return NULL: not known */
struct cd_room *cd_room_get(const struct cd_rooms *r, const char *room_id);
/** Known or made, and used just now. @return NULL: out of memory or an impossible id */
struct cd_room *cd_room_touch(struct cd_rooms *r, const char *room_id);
struct cd_member *cd_room_member(const struct cd_room *room, const char *user_id);
/** Changed memberships on their way to the store. */
#define CD_MEMBER_BATCH 64
struct cd_member_batch {
    struct cd_member_row rows[CD_MEMBER_BATCH];
    size_t n;
};
/** Note a membership. @param batch  a changed one is added to it; may be NULL
 * @param keep_names  names are not known here: leave them
 * @return NULL: out of memory */
struct cd_member *cd_room_note(struct cd_rooms *r, struct cd_room *room,
                               const struct cd_room_member *m, bool joined, bool keep_names,
                               int64_t learned_ms, struct cd_member_batch *batch);
/** Somebody made use of the stored memberships: keep them for longer. */
void cd_room_renew(struct cd_rooms *r, struct cd_room *room);
void cd_member_batch_flush(struct cd_rooms *r, struct cd_member_batch *batch);
struct cd_known_user *cd_known_user_get(const struct cd_rooms *r, const char *user_id);
struct cd_known_user *cd_known_user_touch(struct cd_rooms *r, const char *user_id);
void cd_known_user_clear_ignored(struct cd_known_user *u);
void cd_rooms_cache_free(struct cd_rooms *r);

/* --- rooms_ask.c -------------------------------------------------------------------------- */
/** Ask with a token. @param who  NULL: with any token that is known. fn is called later or
 * within. */
void cd_room_ask(struct cd_rooms *r, struct cd_room *room, struct cd_principal *who,
                 enum cd_room_want want, cd_room_fn fn, void *arg);
/** @return CD_OK, CD_E_NOT_FOUND, or CD_PENDING: has to be asked. @p user NULL: anybody */
enum cd_rc cd_room_from_cache(const struct cd_room *room, const char *user, enum cd_room_want want);
/** Call back with the view of the room. */
void cd_room_show(struct cd_room *room, const char *user, enum cd_room_want want, cd_room_fn fn,
                  void *arg);
/** A push says otherwise than what is known of a member: a lookup under way reads the members again, once. */
void cd_room_ask_doubt(struct cd_room *room);
/** End all lookups, calling back. */
void cd_room_ask_stop(struct cd_rooms *r);
/** URL below the homeserver's client API: path pieces and encoded segments by turns, the last one
 * NULL.
 * @return to be freed, NULL: too long */
char *cd_rooms_url(const struct cd_rooms *r, const char *const *parts);

/* --- rooms_user.c ------------------------------------------------------------------------- */
void cd_known_user_stop(struct cd_known_user *u);
/** Keep the token of a user who is around. @return NULL: has none, or out of memory */
struct cd_known_user *cd_known_user_note(struct cd_rooms *r, struct cd_principal *who);

#endif

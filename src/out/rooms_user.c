/* rooms_user.c -- what a user's own token tells about the user: joined rooms and ignored users.
 * In: principals of users who connect or call.  Out: hints for the room cache; "is ignored".
 * State: the newest token of each user who is around, dropped a while after.  Blocks: never. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/scan.h"
#include "base/secret.h"
#include "out/rooms_int.h"

#define USER_TIMEOUT_MS 10000
#define IGNORED_FRESH_MS 30000  /* somebody who was just ignored must not ring for long */
#define IGNORED_TIMEOUT_MS 3000 /* a callee's phone must not wait longer for it */
#define TOKEN_KEPT_MS 900000    /* sockets are checked every 5 min, so this is "gone" */
#define SWEEP_MS 60000
#define JOINED_ROOMS_MAX 2000
#define IGNORED_MAX 1000
#define IGNORED_WAITERS_MAX 256

static uint64_t get(struct cd_known_user *u, const char *const *parts, long timeout_ms,
                    cd_fetch_fn fn)
{
    char *url = cd_rooms_url(u->rooms, parts);
    struct cd_fetch_req req = {.method = "GET", .url = url, .bearer = u->principal->matrix_token,
                               .timeout_ms = timeout_ms};
    uint64_t id = url ? cd_fetch(u->rooms->pool, &req, fn, u) : 0;

    free(url);
    return id;
}

/* --- joined rooms ------------------------------------------------------------------------- */

static void on_joined_rooms(void *arg, const struct cd_fetch_res *res)
{
    struct cd_known_user *u = arg;
    struct cd_rooms *r = u->rooms;
    struct cd_member_batch batch = {.n = 0};
    struct cd_room_member self = {.user_id = u->id};
    struct cd_str list, value;
    char id[256];
    size_t pos = 0, n = 0;

    u->joined_fetch = 0;
    if (res->status != 200 || !cd_json_is_object(res->body, 32) ||
        !cd_json_find(res->body, "joined_rooms", &list) || cd_json_kind(list) != CD_JSON_ARRAY)
        return; /* asked again when the user is seen next */
    u->joined_ms = cd_mono_ms();
    while (n < JOINED_ROOMS_MAX && cd_json_element(list, &pos, &value)) {
        struct cd_room *room;

        if (cd_json_text(value, id, sizeof(id)) <= 0)
            continue;
        room = cd_room_touch(r, id);
        if (!room || room->generation > u->asked_at)
            continue; /* the push may be newer */
        cd_room_note(r, room, &self, true, true, u->joined_ms, &batch);
        /* Rows borrow from the room, which the next one may push out. */
        cd_member_batch_flush(r, &batch);
        n++;
    }
}

/* --- ignored users ------------------------------------------------------------------------ */

static bool is_ignored(const struct cd_known_user *u, const char *user_id)
{
    for (size_t i = 0; i < u->n_ignored; i++) {
        if (strcmp(u->ignored[i], user_id) == 0)
            return true;
    }
    return false;
}

static void answer_waiters(struct cd_known_user *u)
{
    struct cd_ignored_waiter *list = u->waiters, *w;

    u->waiters = NULL;
    for (w = list; w; w = w->next) /* before the first callback: it may make the user go */
        w->ignored = is_ignored(u, w->user_id);
    while ((w = list)) {
        list = w->next;
        w->fn(w->arg, w->ignored);
        free(w->user_id);
        free(w);
    }
}

static void read_ignored(struct cd_known_user *u, struct cd_str body)
{
    struct cd_str users, key, value;
    char id[256], **fitting;
    size_t pos = 0;

    cd_known_user_clear_ignored(u);
    if (!cd_json_is_object(body, 32) || !cd_json_find(body, "ignored_users", &users) ||
        cd_json_kind(users) != CD_JSON_OBJECT)
        return;
    u->ignored = calloc(IGNORED_MAX, sizeof(*u->ignored));
    while (u->ignored && u->n_ignored < IGNORED_MAX && cd_json_member(users, &pos, &key, &value)) {
        struct cd_str quoted = {key.p - 1, key.n + 2};

        if (cd_json_text(quoted, id, sizeof(id)) <= 0)
            continue;
        u->ignored[u->n_ignored] = strdup(id);
        if (u->ignored[u->n_ignored])
            u->n_ignored++;
    }
    if (u->n_ignored == 0) {
        free(u->ignored);
        u->ignored = NULL;
    } else if ((fitting = realloc(u->ignored, u->n_ignored * sizeof(*fitting)))) {
        u->ignored = fitting; /* most people ignore few */
    }
}

static void on_ignored(void *arg, const struct cd_fetch_res *res)
{
    struct cd_known_user *u = arg;

    u->ignored_fetch = 0;
    if (res->status == 200 || res->status == 404) {
        u->ignored_ms = cd_mono_ms();
        read_ignored(u, res->status == 200 ? res->body : CD_STR("{}"));
    }
    answer_waiters(u);
}

static void ask_ignored(struct cd_known_user *u)
{
    const char *const parts[] = {"/user/", u->id, "/account_data/m.ignored_user_list", NULL};

    if (!u->ignored_fetch && u->principal && !u->rooms->closing)
        u->ignored_fetch = get(u, parts, IGNORED_TIMEOUT_MS, on_ignored);
}

void cd_rooms_ignored(struct cd_rooms *r, const char *user_id, const char *by_user,
                      void (*fn)(void *arg, bool ignored), void *arg)
{
    struct cd_known_user *u = cd_known_user_get(r, by_user);
    struct cd_ignored_waiter *w;
    size_t n = 0;

    if (r->dev || !u || (u->ignored_ms > 0 && cd_mono_ms() - u->ignored_ms < IGNORED_FRESH_MS)) {
        fn(arg, u && is_ignored(u, user_id));
        return;
    }
    ask_ignored(u);
    for (w = u->waiters; w; w = w->next)
        n++;
    w = u->ignored_fetch && n < IGNORED_WAITERS_MAX ? calloc(1, sizeof(*w)) : NULL;
    if (w)
        w->user_id = strdup(user_id);
    if (!w || !w->user_id) {
        free(w);
        fn(arg, is_ignored(u, user_id));
        return;
    }
    w->fn = fn;
    w->arg = arg;
    w->next = u->waiters;
    u->waiters = w;
}

/* --- tokens ------------------------------------------------------------------------------- */

static void on_sweep(void *arg)
{
    struct cd_rooms *r = arg;
    int64_t now = cd_mono_ms();
    bool left = false;

    for (struct cd_known_user *u = r->newest_user; u; u = u->older) {
        if (u->principal && now - u->seen_ms >= TOKEN_KEPT_MS) {
            cd_principal_unref(u->principal);
            u->principal = NULL;
        }
        left = left || u->principal;
    }
    if (left)
        cd_timer_set(r->loop, &r->sweep, SWEEP_MS, on_sweep, r);
}

struct cd_known_user *cd_known_user_note(struct cd_rooms *r, struct cd_principal *who)
{
    struct cd_known_user *u;

    if (!who->matrix_token || r->closing)
        return NULL;
    u = cd_known_user_touch(r, who->user_id);
    if (!u)
        return NULL;
    if (u->principal != who) {
        cd_principal_unref(u->principal);
        u->principal = cd_principal_ref(who);
    }
    u->seen_ms = cd_mono_ms();
    if (r->sweep.slot == 0)
        cd_timer_set(r->loop, &r->sweep, SWEEP_MS, on_sweep, r);
    return u;
}

void cd_rooms_user_seen(struct cd_rooms *r, struct cd_principal *who)
{
    const char *const parts[] = {"/joined_rooms", NULL};
    struct cd_known_user *u = cd_known_user_note(r, who);
    int64_t now = cd_mono_ms();

    if (!u || r->dev)
        return;
    if (!u->joined_fetch && (u->joined_ms == 0 || now - u->joined_ms >= CD_ROOMS_FRESH_MS)) {
        u->asked_at = r->pushes;
        u->joined_fetch = get(u, parts, USER_TIMEOUT_MS, on_joined_rooms);
    }
    if (u->ignored_ms == 0 || now - u->ignored_ms >= IGNORED_FRESH_MS)
        ask_ignored(u);
}

struct cd_principal *cd_rooms_token_of(const struct cd_rooms *r, const char *user_id)
{
    const struct cd_known_user *u = cd_known_user_get(r, user_id);

    return u ? u->principal : NULL;
}

void cd_rooms_token_bad(struct cd_rooms *r, const struct cd_principal *p)
{
    struct cd_known_user *u = cd_known_user_get(r, p->user_id);

    if (!u || !u->principal || !p->matrix_token ||
        !cd_secret_equal(cd_str_of(u->principal->matrix_token), cd_str_of(p->matrix_token)))
        return;
    cd_principal_unref(u->principal);
    u->principal = NULL;
}

void cd_known_user_stop(struct cd_known_user *u)
{
    cd_fetch_cancel(u->rooms->pool, u->joined_fetch);
    cd_fetch_cancel(u->rooms->pool, u->ignored_fetch);
    u->joined_fetch = u->ignored_fetch = 0;
    answer_waiters(u);
}

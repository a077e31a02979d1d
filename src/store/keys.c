/* keys.c -- answers kept under an Idempotency-Key, in memory.
 * In: rows. Out: the row of a user's key. Why: the memory store has no other place, and a store whose
 * database is away must know what was answered just before.
 * State: struct cd_keys: users by name, keys by user; every row in two lists from old to new, of all and of
 * its user. Owns: the rows. Blocks: never. */
#include "store/keys.h"

#include <stdlib.h>
#include <string.h>

#include "base/budget.h"

#define BLOCK 16 /* what an allocation costs beside its bytes */
#define SLOTS (4 * sizeof(struct cd_map_slot)) /* of a map for each entry, at most, while it grows */

#define MANY_SLOTS 16 /* for one entry */

struct cd_key_user;

struct cd_key {
    struct cd_idem_row *row;
    struct cd_key_user *user;
    struct cd_key *older, *newer;           /* of all */
    struct cd_key *user_older, *user_newer; /* of its user */
    int64_t put_ms;
    size_t bytes;
};

struct cd_key_user {
    char *name; /* the map's key */
    struct cd_map keys;
    struct cd_key *oldest, *newest;
    size_t bytes; /* of this struct, without its keys */
};

static void account(struct cd_keys *k, size_t bytes)
{
    k->bytes += bytes;
    cd_budget_take(CD_BUDGET_KEYS, bytes);
}

static void discount(struct cd_keys *k, size_t bytes)
{
    k->bytes -= bytes;
    cd_budget_give(CD_BUDGET_KEYS, bytes);
}

/* --- users ------------------------------------------------------------------------------------ */

static void user_free(struct cd_key_user *u)
{
    if (!u)
        return;
    cd_map_done(&u->keys);
    free(u->name);
    free(u);
}

/* A user's struct with room for one key, in no table yet. @return NULL out of memory */
static struct cd_key_user *user_new(const char *name)
{
    struct cd_key_user *u = calloc(1, sizeof *u);

    if (u && cd_dup(&u->name, name) && cd_map_reserve(&u->keys, 1) == 0) {
        u->bytes = sizeof *u + strlen(name) + 1 + SLOTS + 3 * BLOCK;
        return u;
    }
    user_free(u);
    return NULL;
}

static void user_drop_empty(struct cd_keys *k, struct cd_key_user *u)
{
    if (u->keys.count)
        return;
    cd_map_del(&k->users, cd_str_of(u->name));
    discount(k, u->bytes);
    user_free(u);
}

/* A map keeps the size it had; of a user who had many keys and has few now that would be uncounted. */
static void user_shrink(struct cd_key_user *u)
{
    struct cd_map fresh = {0};

    if (u->keys.cap < MANY_SLOTS * (u->keys.count + 1))
        return;
    for (struct cd_key *e = u->oldest; e; e = e->user_newer) {
        if (cd_map_put(&fresh, cd_str_of(e->row->key), e) < 0) {
            cd_map_done(&fresh);
            return;
        }
    }
    cd_map_done(&u->keys);
    u->keys = fresh;
}

/* --- keys ------------------------------------------------------------------------------------- */

static size_t bytes_of(const struct cd_idem_row *r)
{
    return sizeof(struct cd_key) + sizeof *r + SLOTS + strlen(r->user_id) + strlen(r->key) +
           strlen(r->response) + 3 + 5 * BLOCK;
}

static void link_newest(struct cd_keys *k, struct cd_key *e)
{
    struct cd_key_user *u = e->user;

    e->older = k->newest;
    *(k->newest ? &k->newest->newer : &k->oldest) = e;
    k->newest = e;
    e->user_older = u->newest;
    *(u->newest ? &u->newest->user_newer : &u->oldest) = e;
    u->newest = e;
    k->rows++;
    account(k, e->bytes);
}

/* Its user stays, even without keys. */
static void take_out(struct cd_keys *k, struct cd_key *e)
{
    struct cd_key_user *u = e->user;

    *(e->older ? &e->older->newer : &k->oldest) = e->newer;
    *(e->newer ? &e->newer->older : &k->newest) = e->older;
    *(e->user_older ? &e->user_older->user_newer : &u->oldest) = e->user_newer;
    *(e->user_newer ? &e->user_newer->user_older : &u->newest) = e->user_older;
    k->rows--;
    discount(k, e->bytes);
    cd_map_del(&u->keys, cd_str_of(e->row->key));
    cd_idem_row_free(e->row);
    free(e);
}

static void drop(struct cd_keys *k, struct cd_key *e)
{
    struct cd_key_user *u = e->user;

    take_out(k, e);
    user_shrink(u);
    user_drop_empty(k, u);
}

static bool honoured(const struct cd_key *e, int64_t now_ms)
{
    return e->row->at + CD_IDEM_TTL_MS > now_ms;
}

static struct cd_key *find(const struct cd_keys *k, const char *user, const char *key)
{
    const struct cd_key_user *u = cd_map_get(&k->users, cd_str_of(user));

    return u ? cd_map_get(&u->keys, cd_str_of(key)) : NULL;
}

const struct cd_idem_row *cd_keys_find(const struct cd_keys *k, const char *user, const char *key,
                                       int64_t now_ms)
{
    const struct cd_key *e = find(k, user, key);

    return e && honoured(e, now_ms) ? e->row : NULL;
}

void cd_keys_age(struct cd_keys *k, int64_t now_ms)
{
    while (k->oldest && k->oldest->put_ms + k->max.age_ms <= now_ms)
        drop(k, k->oldest);
}

static void trim(struct cd_keys *k)
{
    size_t part = cd_budget_limit() / CD_KEYS_BUDGET_PART;
    size_t bytes = part && part < k->max.bytes ? part : k->max.bytes;

    while (k->oldest && (k->rows > k->max.rows || k->bytes > bytes))
        drop(k, k->oldest);
}

struct cd_key *cd_keys_plan(struct cd_keys *k, const struct cd_idem_row *row)
{
    struct cd_key_user *u = cd_map_get(&k->users, cd_str_of(row->user_id));
    struct cd_key *e = calloc(1, sizeof *e);

    if (e && (u ? cd_map_reserve(&u->keys, 1) == 0
                : (e->user = user_new(row->user_id)) && cd_map_reserve(&k->users, 1) == 0))
        return e;
    cd_keys_plan_drop(e);
    return NULL;
}

void cd_keys_plan_drop(struct cd_key *plan)
{
    if (plan)
        user_free(plan->user);
    free(plan);
}

/* The user of @p plan, in the table. */
static struct cd_key_user *user_of(struct cd_keys *k, const struct cd_key *plan, const char *name)
{
    if (!plan->user)
        return cd_map_get(&k->users, cd_str_of(name));
    cd_map_put(&k->users, cd_str_of(plan->user->name), plan->user);
    account(k, plan->user->bytes);
    return plan->user;
}

void cd_keys_add(struct cd_keys *k, struct cd_key *plan, struct cd_idem_row *row, int64_t now_ms)
{
    struct cd_key *e = find(k, row->user_id, row->key);

    if (e && honoured(e, row->at)) {
        cd_idem_row_free(row);
        cd_keys_plan_drop(plan);
        return;
    }
    if (e)
        take_out(k, e);
    plan->user = user_of(k, plan, row->user_id);
    plan->row = row;
    plan->put_ms = now_ms;
    plan->bytes = bytes_of(row);
    cd_map_put(&plan->user->keys, cd_str_of(row->key), plan);
    link_newest(k, plan);
    if (plan->user->keys.count > k->max.rows_a_user)
        drop(k, plan->user->oldest);
    cd_keys_age(k, now_ms);
    trim(k);
}

void cd_keys_del(struct cd_keys *k, const char *user, const char *key)
{
    struct cd_key *e = find(k, user, key);

    if (e)
        drop(k, e);
}

bool cd_keys_put(struct cd_keys *k, struct cd_idem_row *row, int64_t now_ms)
{
    struct cd_key *plan = cd_keys_plan(k, row);

    if (plan)
        cd_keys_add(k, plan, row, now_ms);
    else
        cd_idem_row_free(row);
    return plan != NULL;
}

void cd_keys_move(struct cd_keys *to, struct cd_keys *from)
{
    struct cd_keys_limits max = to->max;

    cd_keys_done(to);
    *to = *from;
    to->max = max;
    *from = (struct cd_keys){.max = from->max};
    trim(to);
}

void cd_keys_done(struct cd_keys *k)
{
    while (k->oldest)
        drop(k, k->oldest);
    cd_map_done(&k->users);
}

/* mem_kv.c -- the memory store's small tables: remembered events, idempotency keys, tokens, members.
 * Why: runs without a database; everything has a cap and the oldest goes first.
 * State: in struct mem_store. Owns: every row. Blocks: never. */
#include "store/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"

struct mem_hash {
    uint8_t hash[16];
    struct mem_hash *next;
};

struct mem_token {
    char *user; /* the map's key, of the newest in the list */
    char *device;
    uint8_t *sealed;
    size_t n;
    struct mem_token *older;
};

struct mem_member {
    char *key;
    struct cd_member_row row;
};

bool mem_put_key2(char *to, size_t room, const char *a, const char *b)
{
    size_t na = strlen(a), nb = strlen(b);

    if (na + nb + 2 > room)
        return false;
    memcpy(to, a, na);
    to[na] = '\xff';
    memcpy(to + na + 1, b, nb + 1);
    return true;
}

char *mem_key2(const char *a, const char *b)
{
    size_t n = strlen(a) + strlen(b) + 2;
    char *key = malloc(n);

    if (key)
        mem_put_key2(key, n, a, b);
    return key;
}

struct cd_answer *mem_answer(enum cd_store_rc rc, void *arg)
{
    struct cd_answer *a = cd_answer_new();

    if (a) {
        a->rc = rc;
        a->arg = arg;
    }
    return a;
}

/* --- hashes of event ids ---------------------------------------------------------------------- */

static struct cd_str hash_key(const uint8_t hash[16])
{
    return (struct cd_str){(const char *)hash, 16};
}

bool mem_hash_has(const struct mem_hashes *t, const uint8_t hash[16])
{
    return cd_map_get(&t->map, hash_key(hash)) != NULL;
}

static void forget_oldest(struct mem_hashes *t)
{
    struct mem_hash *h = t->oldest;

    t->oldest = h->next;
    if (!t->oldest)
        t->newest = NULL;
    cd_map_del(&t->map, hash_key(h->hash));
    free(h);
}

bool mem_hash_plan(struct mem_hash **list, const uint8_t hash[16])
{
    struct mem_hash *h = calloc(1, sizeof *h);

    if (!h)
        return false;
    memcpy(h->hash, hash, 16);
    h->next = *list;
    *list = h;
    return true;
}

void mem_hash_drop(struct mem_hash *list)
{
    while (list) {
        struct mem_hash *h = list;

        list = h->next;
        free(h);
    }
}

static void hash_add(struct mem_hashes *t, struct mem_hash *h)
{
    h->next = NULL;
    if (mem_hash_has(t, h->hash)) {
        free(h);
        return;
    }
    cd_map_put(&t->map, hash_key(h->hash), h);
    if (t->newest)
        t->newest->next = h;
    else
        t->oldest = h;
    t->newest = h;
    if (t->map.count > MEM_HASH_MAX)
        forget_oldest(t);
}

void mem_hash_add(struct mem_hashes *t, struct mem_hash *list)
{
    while (list) {
        struct mem_hash *h = list;

        list = h->next;
        hash_add(t, h);
    }
}

void mem_hash_del(struct mem_hashes *t, const uint8_t hash[16])
{
    struct mem_hash *h = cd_map_del(&t->map, hash_key(hash)), *before = NULL;

    if (!h)
        return;
    for (struct mem_hash *at = t->oldest; at != h; at = at->next)
        before = at;
    *(before ? &before->next : &t->oldest) = h->next;
    if (t->newest == h)
        t->newest = before;
    free(h);
}

bool mem_hash_put(struct mem_hashes *t, const uint8_t hash[16])
{
    struct mem_hash *h = NULL;

    if (!mem_hash_plan(&h, hash) || cd_map_reserve(&t->map, 1) < 0) {
        mem_hash_drop(h);
        return false;
    }
    mem_hash_add(t, h);
    return true;
}

void mem_hashes_done(struct mem_hashes *t)
{
    while (t->oldest)
        forget_oldest(t);
    cd_map_done(&t->map);
}

void mem_seen_put(struct cd_store *b, const uint8_t hash[16], cd_commit_fn fn, void *arg)
{
    struct mem_store *s = mem_of(b);
    struct cd_answer *a = mem_answer(CD_STORE_OK, arg);

    if (!a)
        return;
    a->kind = CD_A_COMMIT;
    a->fn.commit = fn;
    if (mem_hash_has(&s->seen, hash))
        a->rc = CD_STORE_DUPLICATE;
    else if (!mem_hash_put(&s->seen, hash))
        a->rc = CD_STORE_FULL;
    cd_later_push(s->later, a);
}

/* --- idempotency keys ------------------------------------------------------------------------- */

void mem_idem_get(struct cd_store *b, const char *user, const char *key, cd_idem_fn fn, void *arg)
{
    struct mem_store *s = mem_of(b);
    const struct cd_idem_row *row = cd_keys_find(&s->keys, user, key, cd_wall_ms());
    struct cd_answer *a = mem_answer(CD_STORE_OK, arg);

    s->stats.reads++;
    if (!a)
        return;
    a->kind = CD_A_IDEM;
    a->fn.idem = fn;
    if (row && !(a->idem = cd_idem_row_copy(row)))
        a->rc = CD_STORE_DOWN;
    cd_later_push(s->later, a);
}

/* --- sealed tokens ---------------------------------------------------------------------------- */

static void token_free(struct mem_token *t)
{
    free(t->user);
    free(t->device);
    free(t->sealed);
    free(t);
}

static struct mem_token *token_new(const char *user, const char *device, const uint8_t *sealed,
                                   size_t n)
{
    struct mem_token *t = calloc(1, sizeof *t);

    if (!t)
        return NULL;
    t->sealed = malloc(n ? n : 1);
    if (!t->sealed || !cd_dup(&t->user, user) || !cd_dup(&t->device, device ? device : "")) {
        token_free(t);
        return NULL;
    }
    memcpy(t->sealed, sealed, n);
    t->n = n;
    return t;
}

static void token_list_free(struct mem_token *t)
{
    while (t) {
        struct mem_token *older = t->older;

        token_free(t);
        t = older;
    }
}

/* Take the device's former token out of the list behind @p head. */
static void drop_device(struct mem_token *head, const char *device)
{
    for (struct mem_token **p = &head->older; *p; p = &(*p)->older) {
        struct mem_token *t = *p;

        if (strcmp(t->device, device) == 0) {
            *p = t->older;
            token_free(t);
            return;
        }
    }
}

void mem_token_put(struct cd_store *b, const char *user, const char *device, const uint8_t *sealed,
                   size_t n)
{
    struct mem_store *s = mem_of(b);
    struct mem_token *t = token_new(user, device, sealed, n);

    if (!t) {
        cd_log(CD_LOG_WARN, "store", "token.full", NULL, "no memory for another sealed token");
        return;
    }
    t->older = cd_map_get(&s->tokens, cd_str_of(user));
    if ((!t->older && s->tokens.count >= MEM_TOKENS_MAX) || cd_map_put(&s->tokens, cd_str_of(t->user), t) < 0) {
        cd_log(CD_LOG_WARN, "store", "token.full", NULL, "no room for another sealed token");
        token_free(t);
        return;
    }
    drop_device(t, t->device);
}

void mem_token_get(struct cd_store *b, const char *user, cd_token_fn fn, void *arg)
{
    struct mem_store *s = mem_of(b);
    const struct mem_token *t = cd_map_get(&s->tokens, cd_str_of(user));
    struct cd_answer *a = mem_answer(CD_STORE_OK, arg);

    s->stats.reads++;
    if (!a)
        return;
    a->kind = CD_A_TOKEN;
    a->fn.token = fn;
    if (t && (a->bytes = malloc(t->n ? t->n : 1))) {
        memcpy(a->bytes, t->sealed, t->n);
        a->n = t->n;
    } else if (t) {
        a->rc = CD_STORE_DOWN;
    }
    cd_later_push(s->later, a);
}

void mem_token_del(struct cd_store *b, const char *user)
{
    token_list_free(cd_map_del(&mem_of(b)->tokens, cd_str_of(user)));
}

/* --- members ---------------------------------------------------------------------------------- */

static void member_free(struct mem_member *m)
{
    free(m->key);
    free(m->row.room_id);
    free(m->row.user_id);
    free(m->row.display_name);
    free(m->row.avatar_url);
    free(m);
}

static bool member_copy(struct cd_member_row *to, const struct cd_member_row *from)
{
    to->joined = from->joined;
    return cd_dup(&to->room_id, from->room_id) && cd_dup(&to->user_id, from->user_id) &&
           cd_dup(&to->display_name, from->display_name) &&
           cd_dup(&to->avatar_url, from->avatar_url);
}

/* Nobody ever reads who is not joined. */
static void member_drop(struct mem_store *s, const struct cd_member_row *row)
{
    char key[MEM_KEY_MAX];
    struct mem_member *m = mem_put_key2(key, sizeof key, row->room_id, row->user_id)
                               ? cd_map_del(&s->members, cd_str_of(key)) : NULL;

    if (m)
        member_free(m);
}

static void member_put(struct mem_store *s, const struct cd_member_row *row)
{
    struct mem_member *m = calloc(1, sizeof *m);
    struct mem_member *old;

    if (!m)
        return;
    m->key = mem_key2(row->room_id, row->user_id);
    if (!m->key || !member_copy(&m->row, row)) {
        member_free(m);
        return;
    }
    old = cd_map_get(&s->members, cd_str_of(m->key));
    if ((!old && s->members.count >= MEM_MEMBERS_MAX) || cd_map_put(&s->members, cd_str_of(m->key), m) < 0)
        member_free(m);
    else if (old)
        member_free(old);
}

void mem_members_put(struct cd_store *b, const struct cd_member_row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++)
        (rows[i].joined ? member_put : member_drop)(mem_of(b), &rows[i]);
}

void mem_members_load(struct cd_store *b, cd_members_fn fn, void *arg)
{
    struct mem_store *s = mem_of(b);
    struct cd_answer *a = mem_answer(CD_STORE_OK, arg);
    size_t pos = 0;
    const struct mem_member *m;

    s->stats.reads++;
    if (!a)
        return;
    a->kind = CD_A_MEMBERS;
    a->fn.members = fn;
    a->members = calloc(s->members.count + 1, sizeof *a->members);
    while (a->members && (m = cd_map_next(&s->members, &pos)))
        if (!member_copy(&a->members[a->n++], &m->row))
            a->rc = CD_STORE_DOWN;
    if (!a->members)
        a->rc = CD_STORE_DOWN;
    cd_later_push(s->later, a);
}

/* --- the rest --------------------------------------------------------------------------------- */

/* Without a database there is nobody to look at it later: the log line is what remains. */
void mem_quarantine(struct cd_store *b, const char *reason, struct cd_str raw, cd_done_fn fn,
                    void *arg)
{
    struct mem_store *s = mem_of(b);
    struct cd_answer *a = mem_answer(CD_STORE_OK, arg);

    cd_log(CD_LOG_WARN, "store", "event.quarantined", NULL, "%s (%zu bytes)", reason, raw.n);
    if (!a)
        return;
    a->kind = CD_A_DONE;
    a->fn.done = fn;
    cd_later_push(s->later, a);
}

void mem_kv_done(struct mem_store *s)
{
    struct mem_token *t;
    struct mem_member *m;
    size_t pos = 0;

    cd_keys_done(&s->keys);
    while ((t = cd_map_next(&s->tokens, &pos)))
        token_list_free(t);
    cd_map_done(&s->tokens);
    pos = 0;
    while ((m = cd_map_next(&s->members, &pos)))
        member_free(m);
    cd_map_done(&s->members);
}

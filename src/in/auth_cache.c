/* auth_cache.c -- what whoami said about tokens, least recently used first out.
 * In: keyed hashes of tokens, never tokens.  Out: a principal or a refusal.
 * State: bounded map and order of use.  Owns: references and copies.  Blocks: never. */
#include <stdlib.h>
#include <string.h>

#include "in/auth_int.h"

#define ONCE_GOOD_MS 3600000

static struct cd_str key_of(const uint8_t key[16])
{
    return (struct cd_str){(const char *)key, 16};
}

static void unlink_known(struct cd_auth_cache *c, struct cd_auth_known *k)
{
    if (k->newer)
        k->newer->older = k->older;
    else
        c->newest = k->older;
    if (k->older)
        k->older->newer = k->newer;
    else
        c->oldest = k->newer;
}

static void push_newest(struct cd_auth_cache *c, struct cd_auth_known *k)
{
    k->newer = NULL;
    k->older = c->newest;
    if (c->newest)
        c->newest->newer = k;
    else
        c->oldest = k;
    c->newest = k;
}

static void drop(struct cd_auth_cache *c, struct cd_auth_known *k)
{
    unlink_known(c, k);
    cd_map_del(&c->map, key_of(k->key));
    cd_principal_unref(k->principal);
    free(k->err);
    free(k);
}

void cd_auth_cache_init(struct cd_auth_cache *c, size_t max)
{
    memset(c, 0, sizeof(*c));
    cd_map_init(&c->map);
    c->max = max;
}

void cd_auth_cache_done(struct cd_auth_cache *c)
{
    while (c->oldest)
        drop(c, c->oldest);
    cd_map_done(&c->map);
}

struct cd_auth_known *cd_auth_cache_get(struct cd_auth_cache *c, const uint8_t key[16],
                                        int64_t now_ms)
{
    struct cd_auth_known *k = cd_map_get(&c->map, key_of(key));

    if (!k)
        return NULL;
    if (now_ms >= k->until_ms) {
        if (!k->principal || now_ms >= k->kept_ms)
            drop(c, k);
        return NULL;
    }
    unlink_known(c, k);
    push_newest(c, k);
    return k;
}

bool cd_auth_cache_was_good(struct cd_auth_cache *c, const uint8_t key[16], int64_t now_ms)
{
    const struct cd_auth_known *k = cd_map_get(&c->map, key_of(key));

    return k && k->principal && now_ms < k->kept_ms;
}

void cd_auth_cache_put(struct cd_auth_cache *c, const uint8_t key[16], struct cd_principal *p,
                       const struct cd_err *err, int64_t until_ms)
{
    struct cd_auth_known *k;

    cd_auth_cache_del(c, key);
    while (c->oldest && c->map.count >= c->max)
        drop(c, c->oldest);
    k = calloc(1, sizeof(*k));
    if (!k)
        return; /* then the homeserver is asked again */
    memcpy(k->key, key, sizeof(k->key));
    k->until_ms = until_ms;
    k->kept_ms = until_ms + ONCE_GOOD_MS;
    if (!p) {
        k->err = malloc(sizeof(*k->err));
        if (!k->err) {
            free(k);
            return;
        }
        *k->err = *err;
    }
    if (cd_map_put(&c->map, key_of(k->key), k) != 0) {
        free(k->err);
        free(k);
        return;
    }
    k->principal = cd_principal_ref(p);
    push_newest(c, k);
}

void cd_auth_cache_del(struct cd_auth_cache *c, const uint8_t key[16])
{
    struct cd_auth_known *k = cd_map_get(&c->map, key_of(key));

    if (k)
        drop(c, k);
}

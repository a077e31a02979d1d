/* map.c -- string-keyed hash table: open addressing, linear probing. The hash takes eight bytes a
 * step and is keyed at start, so that strangers cannot choose colliding keys. */
#include "base/map.h"

#include <stdbool.h>
#include <stdlib.h>

#include "base/secret.h"

static char tomb_mark;
#define TOMB ((void *)&tomb_mark)

/* Multiplying carries a difference up, the shift brings it down again; both keys are secret. */
static uint64_t mix(uint64_t h, uint64_t word, uint64_t factor)
{
    h = (h ^ word) * factor;
    return h ^ h >> 32;
}

static uint64_t hash_of(struct cd_str key)
{
    static uint64_t secret[2]; /* start and factor */
    uint64_t word;
    size_t i = 0;

    while (!(secret[1] & 1)) /* an odd factor loses nothing */
        cd_random(secret, sizeof(secret));
    uint64_t h = secret[0] ^ key.n;
    for (; key.n - i >= sizeof(word); i += sizeof(word)) {
        memcpy(&word, key.p + i, sizeof(word));
        h = mix(h, word, secret[1]);
    }
    word = 0;
    if (i < key.n)
        memcpy(&word, key.p + i, key.n - i);
    return mix(mix(h, word, secret[1]), 0, secret[1]);
}

void cd_map_init(struct cd_map *m)
{
    *m = (struct cd_map){0};
}

void cd_map_done(struct cd_map *m)
{
    free(m->slots);
    cd_map_init(m);
}

static struct cd_map_slot *find(const struct cd_map *m, struct cd_str key, uint64_t hash)
{
    if (!m->cap)
        return NULL;
    for (size_t i = hash & (m->cap - 1);; i = (i + 1) & (m->cap - 1)) {
        struct cd_map_slot *s = &m->slots[i];

        if (!s->value)
            return NULL;
        if (s->value != TOMB && s->hash == hash && cd_str_eq(s->key, key))
            return s;
    }
}

void *cd_map_get(const struct cd_map *m, struct cd_str key)
{
    struct cd_map_slot *s = m->count ? find(m, key, hash_of(key)) : NULL;

    return s ? s->value : NULL;
}

static void place(struct cd_map *m, struct cd_str key, uint64_t hash, void *value)
{
    size_t i = hash & (m->cap - 1);

    while (m->slots[i].value && m->slots[i].value != TOMB)
        i = (i + 1) & (m->cap - 1);
    if (!m->slots[i].value)
        m->used++;
    m->slots[i] = (struct cd_map_slot){hash, key, value};
    m->count++;
}

/* Rebuild when three quarters are used; tombstones go. */
int cd_map_reserve(struct cd_map *m, size_t n)
{
    if (m->cap && (m->used + n) * 4 <= m->cap * 3)
        return 0;
    size_t cap = 4; /* most maps are a room's members: two */
    while (cap < (m->count + n) * 2)
        cap *= 2;
    struct cd_map fresh = {calloc(cap, sizeof(struct cd_map_slot)), cap, 0, 0};
    if (!fresh.slots)
        return -1;
    for (size_t i = 0; i < m->cap; i++) {
        const struct cd_map_slot *s = &m->slots[i];
        if (s->value && s->value != TOMB)
            place(&fresh, s->key, s->hash, s->value);
    }
    free(m->slots);
    *m = fresh;
    return 0;
}

int cd_map_put(struct cd_map *m, struct cd_str key, void *value)
{
    uint64_t hash = hash_of(key);
    struct cd_map_slot *s = find(m, key, hash);

    if (s) {
        s->key = key;
        s->value = value;
        return 0;
    }
    if (cd_map_reserve(m, 1))
        return -1;
    place(m, key, hash, value);
    return 0;
}

void *cd_map_del(struct cd_map *m, struct cd_str key)
{
    struct cd_map_slot *s = m->count ? find(m, key, hash_of(key)) : NULL;

    if (!s)
        return NULL;
    void *value = s->value;
    s->value = TOMB;
    s->key = (struct cd_str){NULL, 0};
    m->count--;
    return value;
}

void *cd_map_next(const struct cd_map *m, size_t *pos)
{
    while (*pos < m->cap) {
        const struct cd_map_slot *s = &m->slots[(*pos)++];
        if (s->value && s->value != TOMB)
            return s->value;
    }
    return NULL;
}

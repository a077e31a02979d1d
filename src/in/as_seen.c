/* as_seen.c -- a ring of hashes with an index of chains.
 *
 * In:     128-bit hashes (of event ids; BLAKE2b, so their first bytes are as good as random).
 * Out:    known or new.
 * Why:    homeservers deliver events twice, under one transaction id or under several; the
 *         database's unique hash decides in the end, this saves it the question.
 * Owns:   1.5 MiB, touched as it fills. */
#include "in/as_seen.h"

#include <stdlib.h>
#include <string.h>

#define NONE 0U /* links are places + 1 */

struct slot {
    uint8_t hash[16];
    uint32_t next; /* of the same chain */
    bool used;
};

struct as_seen {
    struct slot slots[AS_SEEN_MAX];
    uint32_t heads[AS_SEEN_MAX];
    uint32_t write_at; /* the oldest place */
};

struct as_seen *cd_as_seen_new(void)
{
    return calloc(1, sizeof(struct as_seen));
}

void cd_as_seen_free(struct as_seen *s)
{
    free(s);
}

static uint32_t *head_of(struct as_seen *s, const uint8_t hash[16])
{
    uint32_t v;

    memcpy(&v, hash, sizeof v);
    return &s->heads[v % AS_SEEN_MAX];
}

/* @return the link that leads to the hash, or the chain's last one */
static uint32_t *find(struct as_seen *s, const uint8_t hash[16])
{
    uint32_t *link = head_of(s, hash);

    while (*link != NONE && memcmp(s->slots[*link - 1].hash, hash, 16) != 0)
        link = &s->slots[*link - 1].next;
    return link;
}

void cd_as_seen_del(struct as_seen *s, const uint8_t hash[16])
{
    uint32_t *link = find(s, hash);
    struct slot *gone;

    if (*link == NONE)
        return;
    gone = &s->slots[*link - 1];
    *link = gone->next;
    gone->used = false;
}

bool cd_as_seen_add(struct as_seen *s, const uint8_t hash[16])
{
    struct slot *slot = &s->slots[s->write_at];
    uint32_t *head;

    if (*find(s, hash) != NONE)
        return false;
    if (slot->used)
        cd_as_seen_del(s, slot->hash);
    head = head_of(s, hash);
    memcpy(slot->hash, hash, 16);
    slot->next = *head;
    slot->used = true;
    *head = s->write_at + 1;
    s->write_at = (s->write_at + 1) % AS_SEEN_MAX;
    return true;
}

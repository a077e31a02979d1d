/* map.h -- string-keyed hash table (open addressing); keys are borrowed from the values. */
#ifndef CD_BASE_MAP_H
#define CD_BASE_MAP_H

#include <stddef.h>
#include <stdint.h>

#include "base/str.h"

struct cd_map_slot {
    uint64_t hash;
    struct cd_str key; /* borrowed: the value must keep it alive while it is in the map */
    void *value;       /* NULL: free; the tombstone: deleted */
};

struct cd_map {
    struct cd_map_slot *slots;
    size_t cap; /* power of two, or 0 */
    size_t count;
    size_t used; /* count + tombstones */
};

void cd_map_init(struct cd_map *m);
void cd_map_done(struct cd_map *m); /* values are not freed */
void *cd_map_get(const struct cd_map *m, struct cd_str key);
/** Insert or replace. @return 0, or -1 without memory (nothing changed) */
int cd_map_put(struct cd_map *m, struct cd_str key, void *value);
/** Make room, so that the next @p n insertions cannot fail. @return 0, or -1 without memory */
int cd_map_reserve(struct cd_map *m, size_t n);
void *cd_map_del(struct cd_map *m, struct cd_str key); /* the removed value or NULL */
/** Iterate: start with *pos = 0; NULL at the end. Deleting the returned entry is allowed. */
void *cd_map_next(const struct cd_map *m, size_t *pos);

#endif

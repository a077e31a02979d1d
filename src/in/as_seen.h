/* as_seen.h -- remembers the hashes of the newest events, so that one delivered twice acts once. */
#ifndef CD_IN_AS_SEEN_H
#define CD_IN_AS_SEEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AS_SEEN_MAX 65536 /* the oldest goes first */

struct as_seen;

struct as_seen *cd_as_seen_new(void); /* NULL out of memory */
void cd_as_seen_free(struct as_seen *s);
/** @return true: new, now remembered; false: known */
bool cd_as_seen_add(struct as_seen *s, const uint8_t hash[16]);
/** Forget one: its effect did not become durable, so that it will be delivered again. */
void cd_as_seen_del(struct as_seen *s, const uint8_t hash[16]);

#endif

/* event.h -- an m.call.* event as it came in: its common members read, kept until its turn.
 * Internal to modules/matrix. */
#ifndef CD_MATRIX_EVENT_H
#define CD_MATRIX_EVENT_H

#include <jansson.h>

#include "core.h"

#define CD_MX_WAITING 64 /* events of one call that may wait */

/** Common members, borrowed from the event. */
struct cd_mx_in {
    struct cd_core *core;
    struct cd_txn *txn; /* NULL: it has been answered, nothing to hold */
    const char *room_id, *sender, *type, *call_id;
    const char *party;  /* "" for version 0 and for clients that give none */
    int version;        /* 0 or 1 */
    const json_t *content;
    int64_t age_ms;
    const uint8_t *hash; /* 16 bytes */
};

/** An event that waits: a copy. */
struct cd_mx_saved {
    struct cd_mx_saved *next;
    struct cd_mx_in in; /* its strings are in `strings`, content is owned */
    char *strings;
    json_t *content;
    uint8_t hash[16];
    int64_t saved_ms;
};

struct cd_mx_waiting {
    struct cd_mx_saved *first, **tail; /* tail: NULL while empty */
    size_t n;
};

/** Read the common members. @return false: no call event (bad call_id) */
bool cd_mx_in_read(struct cd_mx_in *in, struct cd_core *core, struct cd_txn *txn,
                   const struct cd_mx_event *ev);
/** A string member of @p object, or NULL. */
const char *cd_mx_text(const json_t *object, const char *name);
/** An integer member, also written as a float. @return @p missing when it is none */
int64_t cd_mx_number(const json_t *object, const char *name, int64_t missing);
/** sdp_stream_metadata under either name, or NULL. */
const json_t *cd_mx_metadata(const json_t *content);
/** Does this body show that its sender knows negotiate and stream metadata? */
bool cd_mx_is_modern(const json_t *content);
/** What the camera stream's metadata says; what it does not say stays. @return false: nothing */
bool cd_mx_muted(const json_t *content, bool *audio_enabled, bool *video_enabled);

/** Append a copy; its transaction is held. Full or out of memory: the transaction is told to come
 * again. */
void cd_mx_wait(struct cd_mx_waiting *w, const struct cd_mx_in *in);
/** Take the oldest out, NULL when none waits. Its transaction is still held. */
struct cd_mx_saved *cd_mx_wait_next(struct cd_mx_waiting *w);
/** Free it and let its transaction go. */
void cd_mx_saved_free(struct cd_mx_saved *s, enum cd_store_rc rc);
void cd_mx_wait_drop(struct cd_mx_waiting *w, enum cd_store_rc rc);

#endif

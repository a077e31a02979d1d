/* as_scan.h -- splits a transaction into its relevant events, step by step. */
#ifndef CD_IN_AS_SCAN_H
#define CD_IN_AS_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/str.h"

enum as_kind {
    AS_IRRELEVANT,
    AS_EVENT, /* of a type that somebody here wants */
    AS_POISON /* an element of `events` that is not valid JSON, or not an object */
};

/** One element of `events` that matters. */
struct as_item {
    uint32_t at, n; /* place and length within the body [bytes] */
    enum as_kind kind;
    bool marked;      /* its hash is in the list of seen events because of this transaction */
    bool held;        /* its effects must be durable before the answer */
    uint8_t hash[16]; /* of the event id, or of the raw text of poison; set when applied */
};

/** An event that ends a call's ringing: hangup, answer, reject, select_answer. */
struct as_ender {
    uint8_t call[16]; /* hash of room and call id */
    uint32_t item;    /* index of its as_item */
};

enum as_state { AS_AT_START, AS_AT_MEMBER, AS_IN_EVENTS, AS_BEHIND_MEMBER, AS_AT_END };

/** Zero-initialise, set body, step until it is not AS_MORE. */
struct as_scan {
    struct cd_str body; /* borrowed; < 4 GiB */
    size_t at;
    enum as_state state;
    bool first; /* no comma has to stand before the next element */
    bool seen_events;
    struct as_item *items;
    size_t n_items, cap_items;
    struct as_ender *enders; /* sorted once the scan is done */
    size_t n_enders, cap_enders;
    uint64_t n_events;
    struct cd_str last_event;
    int64_t last_event_ts; /* origin_server_ts of the last event, 0: unknown */
};

enum as_step {
    AS_MORE,     /* the time is up */
    AS_DONE,
    AS_NOT_JSON, /* no transaction can be made out */
    AS_BAD_JSON, /* JSON, but no object with an `events` array */
    AS_NO_MEMORY
};

/** @param until_us  monotonic time to stop at [us] */
enum as_step cd_as_scan_step(struct as_scan *s, int64_t until_us);
void cd_as_scan_done(struct as_scan *s);

/** Is a type of interest? m.call.*, org.matrix.call.*, m.room.member, m.room.encryption.
 * @param type  JSON string with its quotes */
bool cd_as_type_relevant(struct cd_str type);

/** Does an item behind @p item end that call's ringing? */
bool cd_as_scan_ends(const struct as_scan *s, size_t item, const char *room_id,
                     const char *call_id);

#endif

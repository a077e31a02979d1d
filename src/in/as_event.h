/* as_event.h -- reads one relevant event, trusting nothing in it. */
#ifndef CD_IN_AS_EVENT_H
#define CD_IN_AS_EVENT_H

#include "in/appservice.h"

#define AS_ID_BYTES 256 /* the specification's 255 and a NUL */

enum as_verdict {
    AS_GOOD,
    AS_IGNORED, /* the homeserver soft-failed it */
    AS_BROKEN,
    AS_STARVED /* out of memory: nothing is known of it */
};

/** An event with the memory behind it. ev points into this struct: do not copy it. */
struct as_event {
    struct cd_mx_event ev;
    struct cd_str raw_content;
    json_t *content;
    char event_id[AS_ID_BYTES], room_id[AS_ID_BYTES], sender[AS_ID_BYTES], type[AS_ID_BYTES],
        state_key[AS_ID_BYTES];
};

/** Read everything but the content: ids, times, marks.
 * @param raw        a valid JSON object
 * @param max_bytes  largest event, its `unsigned` not counted
 * @param wall_ms    now
 * @param why        says what is wrong, a literal, for AS_BROKEN */
enum as_verdict cd_as_event_head(struct as_event *e, struct cd_str raw, size_t max_bytes,
                                 int64_t wall_ms,
                                 const char **why);
/** Build the content. NUL characters and lone surrogates in it become U+FFFD.
 * @return AS_GOOD (cd_as_event_done() frees it), AS_BROKEN or AS_STARVED */
enum as_verdict cd_as_event_content(struct as_event *e, const char **why);
void cd_as_event_done(struct as_event *e);

#endif

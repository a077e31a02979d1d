/* as_scan.c -- splits a transaction into its relevant events.
 *
 * In:     the body of PUT /transactions, any size up to the listener's cap.
 * Out:    place and length of each relevant event, which calls stop ringing, poison.
 * Why:    nearly all of what a homeserver pushes is of no interest: each event is validated and its
 *         type looked at in one pass, nothing is built. An element that is not valid JSON is
 *         stepped over by its brackets, because a refused transaction comes back forever.
 * Owns:   the lists of items; the body is borrowed.
 * Blocks: never; stops when its time is up and goes on from there. */
#include "in/as_scan.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/scan.h"
#include "base/secret.h"

#define EVENT_DEPTH 2000U      /* deeper ones are poison: no DOM could take them */
#define STEP_BYTES (64 * 1024) /* between looks at the clock */
#define ID_BYTES 256           /* of a Matrix id with its NUL */
#define TYPE_BYTES 64          /* of a relevant type with its NUL */

static char byte_at(const struct as_scan *s)
{
    return s->at < s->body.n ? s->body.p[s->at] : '\0';
}

static void skip_space(struct as_scan *s)
{
    while (s->at < s->body.n && (s->body.p[s->at] == ' ' || s->body.p[s->at] == '\n' ||
                                 s->body.p[s->at] == '\r' || s->body.p[s->at] == '\t'))
        s->at++;
}

static struct cd_str rest(const struct as_scan *s)
{
    return (struct cd_str){s->body.p + s->at, s->body.n - s->at};
}

bool cd_as_type_relevant(struct cd_str type)
{
    char plain[TYPE_BYTES];
    long n;

    if (type.n < 2 || type.p[0] != '"')
        return false;
    if (memchr(type.p, '\\', type.n)) {
        n = cd_json_text(type, plain, sizeof plain);
        if (n < 0)
            return false; /* longer than any type we act on */
        type = (struct cd_str){plain, (size_t)n};
    } else {
        type = (struct cd_str){type.p + 1, type.n - 2};
    }
    return cd_str_starts(type, "m.call.") || cd_str_starts(type, "org.matrix.call.") ||
           cd_str_is(type, "m.room.member") || cd_str_is(type, "m.room.encryption");
}

/* Room for one more. @return the list, perhaps moved; NULL out of memory (the old one stays) */
static void *grow(void *list, size_t n, size_t *cap, size_t size)
{
    size_t more = *cap ? *cap * 2 : 64;
    void *p;

    if (n < *cap)
        return list;
    p = realloc(list, more * size);
    if (p)
        *cap = more;
    return p;
}

static bool add_item(struct as_scan *s, size_t at, size_t n, enum as_kind kind)
{
    struct as_item *items = grow(s->items, s->n_items, &s->cap_items, sizeof *items);

    if (!items)
        return false;
    s->items = items;
    items[s->n_items++] = (struct as_item){.at = (uint32_t)at, .n = (uint32_t)n, .kind = kind};
    return true;
}

static void hash_call(const char *room_id, const char *call_id, uint8_t out[16])
{
    char both[2 * ID_BYTES];
    size_t room = strnlen(room_id, ID_BYTES - 1), call = strnlen(call_id, ID_BYTES - 1);

    memcpy(both, room_id, room);
    both[room] = '\0';
    memcpy(both + room + 1, call_id, call);
    cd_hash16((struct cd_str){both, room + 1 + call}, out);
}

static bool ends_ringing(const char *type)
{
    static const char *const ends[] = {".call.hangup", ".call.answer", ".call.reject",
                                       ".call.select_answer"};
    const char *at = strstr(type, ".call.");

    for (size_t i = 0; at && i < sizeof ends / sizeof *ends; i++) {
        if (!strcmp(at, ends[i]))
            return true;
    }
    return false;
}

/* Note the last item when it ends a call's ringing. @return false out of memory */
static bool note_ender(struct as_scan *s, struct cd_str event, struct cd_str event_type)
{
    static const struct cd_json_pick picks[] = {CD_PICK("room_id"), CD_PICK("content")};
    char type[TYPE_BYTES], room_id[ID_BYTES], call_id[ID_BYTES];
    struct cd_str found[2], call;
    struct as_ender *enders;

    if (cd_json_text(event_type, type, sizeof type) < 0 || !ends_ringing(type))
        return true;
    cd_json_pick_valid(event, picks, 2, found);
    if (cd_json_text(found[0], room_id, sizeof room_id) < 0 ||
        cd_json_kind(found[1]) != CD_JSON_OBJECT || !cd_json_find(found[1], "call_id", &call) ||
        cd_json_text(call, call_id, sizeof call_id) < 0)
        return true;
    enders = grow(s->enders, s->n_enders, &s->cap_enders, sizeof *enders);
    if (!enders)
        return false;
    s->enders = enders;
    hash_call(room_id, call_id, enders[s->n_enders].call);
    enders[s->n_enders++].item = (uint32_t)(s->n_items - 1);
    return true;
}

/* One element of `events`. */
static enum as_step take_event(struct as_scan *s)
{
    static const struct cd_json_pick picks[] = {CD_PICK("type")};
    struct cd_str type;
    size_t start = 0, n = cd_json_pick(rest(s), EVENT_DEPTH, picks, 1, &type, &start);
    size_t at = s->at + start;
    enum as_kind kind = AS_POISON;

    if (n && s->body.p[at] == '{') {
        kind = cd_as_type_relevant(type) ? AS_EVENT : AS_IRRELEVANT;
    } else if (n == 0) {
        n = cd_json_split(rest(s), &start);
        at = s->at + start;
    }
    if (n == 0)
        return AS_NOT_JSON;
    s->n_events++;
    s->last_event = (struct cd_str){s->body.p + at, n};
    s->at = at + n;
    if (kind != AS_IRRELEVANT && !add_item(s, at, n, kind))
        return AS_NO_MEMORY;
    if (kind == AS_EVENT && !note_ender(s, (struct cd_str){s->body.p + at, n}, type))
        return AS_NO_MEMORY;
    return AS_MORE;
}

/* Between two elements, or at the first. */
static enum as_step step_events(struct as_scan *s)
{
    skip_space(s);
    if (byte_at(s) == ']') {
        s->at++;
        s->state = AS_BEHIND_MEMBER;
        return AS_MORE;
    }
    if (!s->first) {
        if (byte_at(s) != ',')
            return AS_NOT_JSON;
        s->at++;
    }
    s->first = false;
    return take_event(s);
}

/* A member that is no concern of ours: valid, or at least with an end. */
static enum as_step skip_member(struct as_scan *s)
{
    size_t start = 0, n = cd_json_value(rest(s), EVENT_DEPTH, &start);

    if (n == 0)
        n = cd_json_split(rest(s), &start);
    if (n == 0)
        return AS_NOT_JSON;
    s->at += start + n;
    s->state = AS_BEHIND_MEMBER;
    return AS_MORE;
}

static enum as_step step_member(struct as_scan *s)
{
    struct cd_str key;
    size_t start = 0, n;

    skip_space(s);
    n = byte_at(s) == '"' ? cd_json_value(rest(s), 1, &start) : 0;
    if (n == 0)
        return AS_NOT_JSON;
    key = (struct cd_str){s->body.p + s->at + 1, n - 2};
    s->at += n;
    skip_space(s);
    if (byte_at(s) != ':')
        return AS_NOT_JSON;
    s->at++;
    skip_space(s);
    if (!cd_json_key_is(key, "events"))
        return skip_member(s);
    if (byte_at(s) != '[')
        return AS_BAD_JSON;
    s->at++;
    s->first = true;
    s->seen_events = true;
    s->state = AS_IN_EVENTS;
    return AS_MORE;
}

static enum as_step step_start(struct as_scan *s)
{
    size_t start;

    skip_space(s);
    if (byte_at(s) != '{')
        return cd_json_valid(s->body, EVENT_DEPTH) ? AS_BAD_JSON : AS_NOT_JSON;
    s->at++;
    start = s->at;
    skip_space(s);
    if (byte_at(s) == '}') {
        s->at++;
        s->state = AS_AT_END;
    } else {
        s->at = start;
        s->state = AS_AT_MEMBER;
    }
    return AS_MORE;
}

static enum as_step step_behind(struct as_scan *s)
{
    skip_space(s);
    if (byte_at(s) == ',')
        s->state = AS_AT_MEMBER;
    else if (byte_at(s) == '}')
        s->state = AS_AT_END;
    else
        return AS_NOT_JSON;
    s->at++;
    return AS_MORE;
}

static int compare_enders(const void *a, const void *b)
{
    const struct as_ender *x = a, *y = b;
    int order = memcmp(x->call, y->call, sizeof x->call);

    if (order)
        return order;
    return (x->item > y->item) - (x->item < y->item);
}

/* When the last event was made, 0: unknown. */
static int64_t last_event_ts(const struct as_scan *s)
{
    static const struct cd_json_pick picks[] = {CD_PICK("origin_server_ts")};
    struct cd_str ts;
    size_t start;
    long long v = 0;

    if (s->last_event.n && cd_json_pick(s->last_event, EVENT_DEPTH, picks, 1, &ts, &start) &&
        ts.p &&
        cd_json_int(ts, &v) && v > 0)
        return v;
    return 0;
}

static enum as_step step_end(struct as_scan *s)
{
    skip_space(s);
    if (s->at != s->body.n)
        return AS_NOT_JSON;
    if (!s->seen_events)
        return AS_BAD_JSON;
    s->last_event_ts = last_event_ts(s);
    if (s->n_enders)
        qsort(s->enders, s->n_enders, sizeof *s->enders, compare_enders);
    return AS_DONE;
}

static enum as_step step(struct as_scan *s)
{
    switch (s->state) {
    case AS_AT_START:
        return step_start(s);
    case AS_AT_MEMBER:
        return step_member(s);
    case AS_IN_EVENTS:
        return step_events(s);
    case AS_BEHIND_MEMBER:
        return step_behind(s);
    case AS_AT_END:
        return step_end(s);
    }
    return AS_NOT_JSON;
}

enum as_step cd_as_scan_step(struct as_scan *s, int64_t until_us)
{
    size_t look_at = s->at + STEP_BYTES;

    for (;;) {
        enum as_step result = step(s);

        if (result != AS_MORE)
            return result;
        if (s->at >= look_at) {
            if (cd_mono_us() >= until_us)
                return AS_MORE;
            look_at = s->at + STEP_BYTES;
        }
    }
}

void cd_as_scan_done(struct as_scan *s)
{
    free(s->items);
    free(s->enders);
    memset(s, 0, sizeof *s);
}

bool cd_as_scan_ends(const struct as_scan *s, size_t item, const char *room_id, const char *call_id)
{
    size_t low = 0, high = s->n_enders;
    struct as_ender key = {.item = (uint32_t)item};

    hash_call(room_id, call_id, key.call);
    while (low < high) { /* the first one behind (call, item) */
        size_t middle = low + (high - low) / 2;

        if (compare_enders(&s->enders[middle], &key) <= 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low < s->n_enders && memcmp(s->enders[low].call, key.call, sizeof key.call) == 0;
}

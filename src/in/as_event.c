/* as_event.c -- reads one relevant event of a transaction.
 *
 * In:     the raw text of an event, valid JSON.
 * Out:    struct cd_mx_event, or what is wrong with it.
 * Why:    any user of any server can put nearly anything into an event: NUL characters, lone
 *         surrogates, numbers no C type holds, fields of other types.
 * Owns:   the content's tree, until cd_as_event_done.
 * Blocks: never. */
#include "in/as_event.h"

#include <stdlib.h>

#include "base/json_mem.h"
#include "base/scan.h"
#include "base/secret.h"

enum { TYPE, EVENT_ID, ROOM_ID, SENDER, STATE_KEY, CONTENT, TS, UNSIGNED, FIELDS };

static const struct cd_json_pick fields[FIELDS] = {
    [TYPE] = CD_PICK("type"),
    [EVENT_ID] = CD_PICK("event_id"),
    [ROOM_ID] = CD_PICK("room_id"),
    [SENDER] = CD_PICK("sender"),
    [STATE_KEY] = CD_PICK("state_key"),
    [CONTENT] = CD_PICK("content"),
    [TS] = CD_PICK("origin_server_ts"),
    [UNSIGNED] = CD_PICK("unsigned"),
};

static enum as_verdict broken(const char **why, const char *what)
{
    *why = what;
    return AS_BROKEN;
}

static bool is_true(struct cd_str object, const char *name)
{
    struct cd_str v;

    return cd_json_find(object, name, &v) && cd_json_kind(v) == CD_JSON_TRUE;
}

/* Marks that Synapse adds for administrators: events that its own clients never see. */
static bool soft_failed(struct cd_str unsigned_)
{
    return is_true(unsigned_, "io.element.synapse.soft_failed") ||
           is_true(unsigned_, "io.element.synapse.policy_server_spammy");
}

static void read_times(struct as_event *e, const struct cd_str f[FIELDS], int64_t wall_ms)
{
    struct cd_str age;
    long long v = 0;

    if (f[TS].p && cd_json_int(f[TS], &v) && v > 0)
        e->ev.origin_server_ts = v;
    if (f[UNSIGNED].p && cd_json_kind(f[UNSIGNED]) == CD_JSON_OBJECT &&
        cd_json_find(f[UNSIGNED], "age", &age) && cd_json_int(age, &v) && v >= 0) {
        e->ev.age_ms = v;
        return;
    }
    if (e->ev.origin_server_ts > 0 && e->ev.origin_server_ts < wall_ms)
        e->ev.age_ms = wall_ms - e->ev.origin_server_ts;
}

static bool read_id(struct cd_str v, char out[AS_ID_BYTES])
{
    return v.p && cd_json_text(v, out, AS_ID_BYTES) > 0;
}

enum as_verdict cd_as_event_head(struct as_event *e, struct cd_str raw, size_t max_bytes,
                                 int64_t wall_ms,
                                 const char **why)
{
    struct cd_str f[FIELDS];

    memset(&e->ev, 0, sizeof e->ev);
    e->content = NULL;
    cd_json_pick_valid(raw, fields, FIELDS, f);
    if (f[UNSIGNED].p && cd_json_kind(f[UNSIGNED]) == CD_JSON_OBJECT && soft_failed(f[UNSIGNED]))
        return AS_IGNORED;
    if (raw.n - f[UNSIGNED].n > max_bytes)
        return broken(why, "larger than an event may be");
    if (!read_id(f[TYPE], e->type))
        return broken(why, "type");
    if (!read_id(f[EVENT_ID], e->event_id) || e->event_id[0] != '$')
        return broken(why, "event_id");
    if (!read_id(f[ROOM_ID], e->room_id) || e->room_id[0] != '!')
        return broken(why, "room_id");
    if (!read_id(f[SENDER], e->sender) || e->sender[0] != '@')
        return broken(why, "sender");
    if (f[STATE_KEY].p && cd_json_text(f[STATE_KEY], e->state_key, sizeof e->state_key) < 0)
        return broken(why, "state_key");
    if (!f[CONTENT].p || cd_json_kind(f[CONTENT]) != CD_JSON_OBJECT)
        return broken(why, "content");
    e->raw_content = f[CONTENT];
    e->ev.type = e->type;
    e->ev.event_id = e->event_id;
    e->ev.room_id = e->room_id;
    e->ev.sender = e->sender;
    e->ev.state_key = f[STATE_KEY].p ? e->state_key : NULL;
    read_times(e, f, wall_ms);
    cd_hash16(cd_str_of(e->event_id), e->ev.hash);
    return AS_GOOD;
}

static unsigned hex4(const char *p)
{
    unsigned v = 0;

    for (int i = 0; i < 4; i++) {
        unsigned c = (unsigned char)p[i];

        v = v * 16 + (c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
    }
    return v;
}

/* At a \u escape of valid JSON. @return its length when it means a character: 6, or 12 for a pair;
 * 0 for a NUL or half a pair */
static size_t good_escape(const char *p, size_t left)
{
    unsigned v = hex4(p + 2), low;

    if (v == 0 || (v >= 0xDC00 && v <= 0xDFFF))
        return 0;
    if (v < 0xD800 || v > 0xDBFF)
        return 6;
    if (left < 12 || p[6] != '\\' || p[7] != 'u')
        return 0;
    low = hex4(p + 8);
    return low >= 0xDC00 && low <= 0xDFFF ? 12 : 0;
}

/* Copy valid JSON; escapes that stand for no character become U+FFFD, which is as long.
 * Backslashes stand in strings only. */
static char *mend(struct cd_str raw)
{
    char *out = malloc(raw.n + 1);

    for (size_t at = 0; out && at < raw.n;) {
        size_t n = 1;

        if (raw.p[at] == '\\' && raw.p[at + 1] == 'u') {
            n = good_escape(raw.p + at, raw.n - at);
            if (n == 0) {
                memcpy(out + at, "\\ufffd", 6);
                at += 6;
                continue;
            }
        } else if (raw.p[at] == '\\') {
            n = 2;
        }
        memcpy(out + at, raw.p + at, n);
        at += n;
    }
    return out;
}

enum as_verdict cd_as_event_content(struct as_event *e, const char **why)
{
    struct cd_str raw = e->raw_content;
    char *copy = NULL;
    unsigned long failures = cd_json_mem_failures();

    if (memchr(raw.p, '\\', raw.n)) {
        copy = mend(raw);
        if (!copy)
            return AS_STARVED;
        raw.p = copy;
    }
    e->content = json_loadb(raw.p, raw.n, 0, NULL);
    free(copy);
    e->ev.content = e->content;
    if (cd_json_mem_failures() != failures) {
        cd_as_event_done(e);
        return AS_STARVED;
    }
    return e->content ? AS_GOOD : broken(why, "content holds a number that is out of range");
}

void cd_as_event_done(struct as_event *e)
{
    json_decref(e->content);
    e->content = NULL;
    e->ev.content = NULL;
}

/* transaction.c -- fuzzes the splitting of pushed transactions and the reading of their events. */
#include "base/scan.h"
#include "fuzz.h"
#include "in/as_event.h"
#include "in/as_scan.h"

#define EVENTS 24 /* looked at in pairs */

struct seen {
    bool good, ender;
    char room_id[AS_ID_BYTES], call_id[AS_ID_BYTES];
};

static bool is_ender(const char *type)
{
    static const char *const names[] = {"hangup", "answer", "reject", "select_answer"};
    const char *word = !strncmp(type, "m.call.", 7) ? type + 7 : "";

    if (!strncmp(type, "org.matrix.call.", 16))
        word = type + 16;
    for (size_t i = 0; i < 4; i++)
        if (!strcmp(word, names[i]))
            return true;
    return false;
}

static void read_event(struct cd_str raw, struct seen *out)
{
    struct as_event e;
    const char *why = NULL;
    enum as_verdict v = cd_as_event_head(&e, raw, 65536, 1700000000000, &why);
    struct cd_str call;

    MUST(v == AS_GOOD || v == AS_IGNORED || why);
    if (v != AS_GOOD)
        return;
    MUST(e.event_id[0] == '$' && e.room_id[0] == '!' && e.sender[0] == '@' && e.type[0]);
    MUST(e.ev.age_ms >= 0 && e.ev.origin_server_ts >= 0 && fuzz_inside(e.raw_content, raw));
    MUST(cd_utf8_valid(e.room_id, strlen(e.room_id)));
    if (cd_as_event_content(&e, &why) == AS_GOOD) {
        MUST(json_is_object(e.content) && e.ev.content == e.content);
        if (cd_json_find(e.raw_content, "call_id", &call) &&
            cd_json_text(call, out->call_id, sizeof out->call_id) >= 0) {
            MUST(json_is_string(json_object_get(e.content, "call_id")));
            MUST(!strcmp(out->call_id, json_string_value(json_object_get(e.content, "call_id"))));
            memcpy(out->room_id, e.room_id, sizeof out->room_id);
            out->good = true;
            out->ender = is_ender(e.type);
        }
    }
    cd_as_event_done(&e);
}

/* Items lie in order and are what they are said to be. */
static void look_at_items(const struct as_scan *s)
{
    static struct seen seen[EVENTS];
    size_t behind = 0;

    memset(seen, 0, sizeof seen);
    MUST(s->n_items <= s->n_events);
    for (size_t i = 0; i < s->n_items; i++) {
        const struct as_item *it = &s->items[i];
        struct cd_str raw = {s->body.p + it->at, it->n};

        MUST(it->at >= behind && it->n > 0 && fuzz_inside(raw, s->body));
        behind = it->at + it->n;
        MUST(it->kind == AS_EVENT || it->kind == AS_POISON);
        MUST((it->kind == AS_EVENT) ==
             (cd_json_valid(raw, 2000) && cd_json_kind(raw) == CD_JSON_OBJECT));
        if (it->kind == AS_EVENT && i < EVENTS)
            read_event(raw, &seen[i]);
    }
    for (size_t i = 0; i < EVENTS; i++) {
        bool ends = false;

        for (size_t k = i + 1; seen[i].good && k < EVENTS; k++)
            ends = ends || (seen[k].ender && !strcmp(seen[i].room_id, seen[k].room_id) &&
                            !strcmp(seen[i].call_id, seen[k].call_id));
        MUST(!ends || cd_as_scan_ends(s, i, seen[i].room_id, seen[i].call_id));
    }
}

/* What a strict reader expects of a text that is all valid. */
static void judge(struct cd_str body, enum as_step got, const struct as_scan *s)
{
    struct cd_str key, value, element;
    size_t pos = 0, at = 0, lists = 0, events = 0;
    bool others = false;

    if (!cd_json_valid(body, 1000))
        return;
    if (cd_json_kind(body) == CD_JSON_OBJECT) {
        while (cd_json_member(body, &pos, &key, &value)) {
            if (!cd_json_key_is(key, "events"))
                continue;
            others = others || cd_json_kind(value) != CD_JSON_ARRAY;
            if (cd_json_kind(value) != CD_JSON_ARRAY)
                continue;
            lists++;
            for (at = 0; cd_json_element(value, &at, &element); events++)
                continue;
        }
    }
    MUST(got == (lists && !others ? AS_DONE : AS_BAD_JSON));
    if (got == AS_DONE)
        MUST(s->n_events == events);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct as_scan s = {.body = {(const char *)data, n}};
    enum as_step step;

    do
        step = cd_as_scan_step(&s, 0);
    while (step == AS_MORE);
    MUST(step == AS_DONE || step == AS_NOT_JSON || step == AS_BAD_JSON);
    MUST(s.at <= n);
    judge(s.body, step, &s);
    if (step == AS_DONE)
        look_at_items(&s);
    cd_as_scan_done(&s);
    return 0;
}

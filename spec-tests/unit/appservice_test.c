/* appservice_test.c -- the parts of the appservice listener that need no network: splitting a
 * transaction, reading an event, remembering event ids. */
#include "in/as_event.h"
#include "in/as_scan.h"
#include "in/as_seen.h"

#include <stdlib.h>

#include "base/scan.h"
#include "base/secret.h"
#include "../lib/tap.h"

#define NEVER INT64_MAX
#define EVENT(type, room, content) \
    "{\"type\":\"" type "\",\"event_id\":\"$e\",\"room_id\":\"" room "\",\"sender\":\"@a:x\"," \
    "\"origin_server_ts\":1000,\"content\":" content "}"

static enum as_step scan(struct as_scan *s, const char *body)
{
    memset(s, 0, sizeof *s);
    s->body = cd_str_of(body);
    return cd_as_scan_step(s, NEVER);
}

static void knows_relevant_types(void)
{
    static const char *const yes[] = {
        "\"m.call.invite\"", "\"m.call.x\"", "\"org.matrix.call.sdp_stream_metadata_changed\"",
        "\"m.room.member\"", "\"m.room.encryption\"", "\"m.c\\u0061ll.invite\"",
    };
    static const char *const no[] = {
        "\"m.room.message\"", "\"m.call\"", "\"m.room.members\"", "\"m.room.member\\u0000\"", "5",
        "null",
        "", "\"m.room.encrypted\"", "\"x.m.call.invite\"", "[\"m.call.invite\"]",
    };

    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++)
        CHECK(cd_as_type_relevant(cd_str_of(yes[i])));
    for (size_t i = 0; i < sizeof no / sizeof *no; i++)
        CHECK(!cd_as_type_relevant(cd_str_of(no[i])));
}

static void picks_relevant_events(void)
{
    struct as_scan s;

    CHECK_INT(scan(&s, "{\"ephemeral\":[1,{\"type\":\"m.call.invite\"}],\"events\" : [ "
                       EVENT("m.room.message", "!r", "{\"body\":\"m.call.invite\"}") " , "
                       EVENT("m.call.invite", "!r", "{}") "," EVENT("m.room.member", "!r", "{}")
                       " ] , \"org.matrix.msc3202.device_lists\":{\"changed\":[]} } \n"), AS_DONE);
    CHECK_INT(s.n_events, 3);
    CHECK_INT(s.n_items, 2);
    CHECK_INT(s.items[0].kind, AS_EVENT);
    CHECK(!strncmp(s.body.p + s.items[0].at, "{\"type\":\"m.call.invite\"", 23));
    CHECK_INT(s.body.p[s.items[1].at + s.items[1].n - 1], '}');
    CHECK_INT(s.last_event_ts, 1000);
    cd_as_scan_done(&s);
    CHECK_INT(scan(&s, "{\"events\":[]}"), AS_DONE);
    cd_as_scan_done(&s);
}

static void steps_over_poison(void)
{
    static const char *const poison[] = {
        "{\"type\":\"m.call.invite\",\"content\":{\"a\":Infinity}}",
        "{\"content\":{\"b\":\"\x01\"}}",
        "{\"content\":{\"b\":\"\xff\xfe\"}}", "{\"a\":\"\\x\"}", "{\"a\":01}", "5", "null",
        "\"text\"", "[1]",
        "{\"type\":'x'}", "NaN",
    };
    char body[512];
    struct as_scan s;

    for (size_t i = 0; i < sizeof poison / sizeof *poison; i++) {
        snprintf(body, sizeof body, "{\"events\":[%s,%s,%s]}", EVENT("m.call.invite", "!r", "{}"),
                 poison[i],
                 EVENT("m.call.hangup", "!r", "{}"));
        if (!CHECK_INT(scan(&s, body), AS_DONE) || !CHECK_INT(s.n_items, 3))
            printf("# poison: %s\n", poison[i]);
        else
            CHECK(s.items[0].kind == AS_EVENT && s.items[1].kind == AS_POISON &&
                  s.items[2].kind == AS_EVENT);
        cd_as_scan_done(&s);
    }
    /* numbers and surrogates that trees refuse are no grammar faults */
    CHECK_INT(scan(&s,
                   "{\"events\":[{\"type\":\"m.call.invite\",\"content\":{\"a\":1e400,"
                   "\"b\":\"\\ud800\"}}],"
                       "\"ephemeral\":[Infinity,{\"x\":\"\x02\"}]}"), AS_DONE);
    CHECK_INT(s.n_items, 1);
    CHECK_INT(s.items[0].kind, AS_EVENT);
    cd_as_scan_done(&s);
}

static void refuses_what_is_no_transaction(void)
{
    static const char *const not_json[] = {
        "", "x", "{", "{\"events\":[", "{\"events\":[{]}", "{\"events\":[{}]",
        "{\"events\":[{} {}]}",
        "{\"events\":[]} x", "{\"events\":[],}", "{\"events\" []}", "{events:[]}",
        "{\"events\":[,]}",
        "{\"events\":[],\"a\":}", "{\"a\":{\"events\":[]}", "[",
    };
    static const char *const bad_json[] = {
        "{}", "[]", "5", "null", "\"x\"", "{\"events\":{}}", "{\"events\":null}", "{\"Events\":[]}",
        "{\"a\":{\"events\":[]}}",
    };
    struct as_scan s;

    for (size_t i = 0; i < sizeof not_json / sizeof *not_json; i++) {
        if (!CHECK_INT(scan(&s, not_json[i]), AS_NOT_JSON))
            printf("# body: %s\n", not_json[i]);
        cd_as_scan_done(&s);
    }
    for (size_t i = 0; i < sizeof bad_json / sizeof *bad_json; i++) {
        if (!CHECK_INT(scan(&s, bad_json[i]), AS_BAD_JSON))
            printf("# body: %s\n", bad_json[i]);
        cd_as_scan_done(&s);
    }
}

/* A large body, a deadline that is always over: many steps, the same result. */
static void goes_on_where_it_stopped(void)
{
    static const char one[] = EVENT("m.call.invite", "!r", "{\"call_id\":\"c\"}") ",";
    size_t n = 20000, steps = 0;
    char *body = malloc(sizeof one * n + 64), *at = body;
    struct as_scan s = {.at = 0};
    enum as_step step;

    at += sprintf(at, "{\"events\":[");
    for (size_t i = 0; i < n; i++) {
        memcpy(at, one, sizeof one - 1);
        at += sizeof one - 1;
    }
    at += sprintf(at - 1, "]}") - 1;
    s.body = (struct cd_str){body, (size_t)(at - body)};
    while ((step = cd_as_scan_step(&s, 0)) == AS_MORE)
        steps++;
    CHECK_INT(step, AS_DONE);
    CHECK_INT(s.n_items, n);
    CHECK(steps >= s.body.n / (128 * 1024));
    cd_as_scan_done(&s);
    free(body);
}

static void knows_which_calls_end(void)
{
    struct as_scan s;

    CHECK_INT(scan(&s, "{\"events\":["
                       EVENT("m.call.hangup", "!r", "{\"call_id\":\"early\"}") ","
                       EVENT("m.call.invite", "!r", "{\"call_id\":\"a\"}") ","
                       EVENT("m.call.invite", "!r", "{\"call_id\":\"early\"}") ","
                       EVENT("m.call.hangup", "!r", "{\"call_id\":\"a\"}") ","
                       EVENT("m.call.candidates", "!r", "{\"call_id\":\"c\"}") ","
                       EVENT("m.call.answer", "!other", "{\"call_id\":\"d\"}") ","
                       EVENT("org.matrix.call.select_answer", "!r", "{\"call_id\":\"\\u0065\"}") ","
                       EVENT("m.call.reject", "!r", "{\"call_id\":5}") "]}"), AS_DONE);
    CHECK(cd_as_scan_ends(&s, 1, "!r", "a"));
    CHECK(!cd_as_scan_ends(&s, 3, "!r", "a"));
    CHECK(!cd_as_scan_ends(&s, 2, "!r", "early"));
    CHECK(!cd_as_scan_ends(&s, 0, "!r", "c"));
    CHECK(!cd_as_scan_ends(&s, 0, "!r", "d"));
    CHECK(cd_as_scan_ends(&s, 0, "!other", "d"));
    CHECK(cd_as_scan_ends(&s, 0, "!r", "e"));
    CHECK(!cd_as_scan_ends(&s, 0, "!r", "5"));
    cd_as_scan_done(&s);
}

static enum as_verdict read_event(struct as_event *e, const char *raw)
{
    static const char *why;
    enum as_verdict v = cd_as_event_head(e, cd_str_of(raw), 65536, 5000, &why);

    return v == AS_GOOD ? cd_as_event_content(e, &why) : v;
}

static void reads_an_event(void)
{
    struct as_event e;

    CHECK_INT(read_event(&e, "{\"content\":{\"call_id\":\"c\",\"n\":1},\"type\":\"m.call.invite\","
                             "\"event_id\":\"$abc\",\"room_id\":\"!r:x\",\"sender\":\"@a:x\","
                             "\"origin_server_ts\":4000,\"unsigned\":{\"age\":77},"
                             "\"user_id\":\"@a:x\"}"),
              AS_GOOD);
    CHECK_STR(e.ev.type, "m.call.invite");
    CHECK_STR(e.ev.event_id, "$abc");
    CHECK_STR(e.ev.room_id, "!r:x");
    CHECK_STR(e.ev.sender, "@a:x");
    CHECK(e.ev.state_key == NULL);
    CHECK_INT(e.ev.origin_server_ts, 4000);
    CHECK_INT(e.ev.age_ms, 77);
    CHECK_STR(json_string_value(json_object_get(e.ev.content, "call_id")), "c");
    cd_as_event_done(&e);
}

static void computes_the_age(void)
{
    static const struct {
        const char *fields;
        long long want;
    } cases[] = {
        {"\"origin_server_ts\":4000", 1000},
        {"\"origin_server_ts\":9000", 0},
        {"\"origin_server_ts\":4000,\"unsigned\":{\"age\":-5}", 1000},
        {"\"origin_server_ts\":4000,\"unsigned\":{\"age\":\"7\"}", 1000},
        {"\"origin_server_ts\":4000,\"unsigned\":{\"age\":0}", 0},
        {"\"origin_server_ts\":4000,\"unsigned\":null", 1000},
        {"\"origin_server_ts\":1e3", 4000},
        {"\"origin_server_ts\":\"x\"", 0},
        {"\"origin_server_ts\":-9e99", 0},
        {"\"x\":1", 0},
    };
    char raw[300];
    struct as_event e;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(raw, sizeof raw,
                 "{\"type\":\"m.call.invite\",\"event_id\":\"$e\",\"room_id\":\"!r\","
                                  "\"sender\":\"@a\",\"content\":{},%s}", cases[i].fields);
        CHECK_INT(read_event(&e, raw), AS_GOOD);
        if (!CHECK_INT(e.ev.age_ms, cases[i].want))
            printf("# fields: %s\n", cases[i].fields);
        cd_as_event_done(&e);
    }
}

static void mends_text(void)
{
    struct as_event e;

    CHECK_INT(read_event(&e, EVENT("m.call.invite", "!r",
                                   "{\"a\":\"x\\u0000y\",\"b\\u0000\":\"\\ud83d\","
                                   "\"c\":\"\\ude00\\ud83d\\ude00\",\"d\":\"\\ud83d\\\\u0041\\\\\","
                                   "\"e\":\"\\ud83d\\u0041\\u00e9\"}")), AS_GOOD);
    CHECK_STR(json_string_value(json_object_get(e.ev.content, "a")), "x\xef\xbf\xbdy");
    CHECK_STR(json_string_value(json_object_get(e.ev.content, "b\xef\xbf\xbd")), "\xef\xbf\xbd");
    CHECK_STR(json_string_value(json_object_get(e.ev.content, "c")),
              "\xef\xbf\xbd\xf0\x9f\x98\x80");
    CHECK_STR(json_string_value(json_object_get(e.ev.content, "d")), "\xef\xbf\xbd\\u0041\\");
    CHECK_STR(json_string_value(json_object_get(e.ev.content, "e")), "\xef\xbf\xbd" "A\xc3\xa9");
    cd_as_event_done(&e);
}

static void ignores_soft_failed(void)
{
    struct as_event e;

    CHECK_INT(read_event(&e, "{\"type\":\"m.call.invite\",\"unsigned\":"
                             "{\"io.element.synapse.soft_failed\":true}}"), AS_IGNORED);
    CHECK_INT(read_event(&e, "{\"type\":\"m.call.invite\",\"unsigned\":"
                             "{\"io.element.synapse.policy_server_spammy\":true}}"), AS_IGNORED);
    CHECK_INT(read_event(&e,
                         "{\"type\":\"m.call.invite\",\"event_id\":\"$e\",\"room_id\":\"!r\","
                         "\"content\":{},"
                             "\"sender\":\"@a\","
                             "\"unsigned\":{\"io.element.synapse.soft_failed\":false}}"),
              AS_GOOD);
    cd_as_event_done(&e);
}

static void names_broken_fields(void)
{
    static const char *const broken[] = {
        "{\"type\":\"m.call.x\",\"event_id\":5,\"room_id\":\"!r\",\"sender\":\"@a\","
        "\"content\":{}}",
        "{\"type\":\"m.call.x\",\"event_id\":\"\",\"room_id\":\"!r\",\"sender\":\"@a\","
        "\"content\":{}}",
        "{\"type\":\"m.call.x\",\"event_id\":\"$\\u0000\",\"room_id\":\"!r\",\"sender\":\"@a\","
        "\"content\":{}}",
        "{\"type\":\"m.call.x\",\"event_id\":\"$e\",\"room_id\":null,\"sender\":\"@a\","
        "\"content\":{}}",
        "{\"type\":\"m.call.x\",\"event_id\":\"$e\",\"room_id\":\"!r\",\"sender\":\"a\","
        "\"content\":{}}",
        "{\"type\":\"m.call.x\",\"event_id\":\"$e\",\"room_id\":\"!r\",\"sender\":\"@a\"}",
        "{\"type\":\"m.call.x\",\"event_id\":\"$e\",\"room_id\":\"!r\",\"sender\":\"@a\","
        "\"content\":[]}",
        "{\"type\":\"m.call.x\",\"event_id\":\"$e\",\"room_id\":\"!r\",\"sender\":\"@a\","
        "\"content\":{},"
        "\"state_key\":null}",
        EVENT("m.call.x", "!r", "{\"n\":1e400}"),
        EVENT("m.call.x", "!r", "{\"n\":9223372036854775808}"),
    };
    struct as_event e;
    char *big = malloc(80000);
    const char *why = NULL;

    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        if (!CHECK_INT(read_event(&e, broken[i]), AS_BROKEN))
            printf("# event: %s\n", broken[i]);
        cd_as_event_done(&e);
    }
    /* the size limit leaves `unsigned` out: old content may stand there once more */
    snprintf(big, 80000,
             "{\"type\":\"m.room.member\",\"event_id\":\"$e\",\"room_id\":\"!r\",\"sender\":\"@a\","
                         "\"content\":{},\"state_key\":\"@a\",\"unsigned\":{\"x\":\"%070000d\"}}",
                         0);
    CHECK_INT(read_event(&e, big), AS_GOOD);
    CHECK_STR(e.ev.state_key, "@a");
    cd_as_event_done(&e);
    CHECK_INT(cd_as_event_head(&e, cd_str_of(EVENT("m.call.x", "!r", "{}")), 50, 5000, &why),
              AS_BROKEN);
    CHECK_STR(why, "larger than an event may be");
    free(big);
}

static void number_hash(unsigned n, uint8_t out[16])
{
    cd_hash16((struct cd_str){(const char *)&n, sizeof n}, out);
}

static void remembers_events(void)
{
    struct as_seen *s = cd_as_seen_new();
    uint8_t h[16];
    unsigned known = 0;

    if (!CHECK(s != NULL))
        return;
    for (unsigned i = 0; i < 3 * AS_SEEN_MAX; i++) {
        number_hash(i, h);
        if (!cd_as_seen_add(s, h))
            known++;
    }
    CHECK_INT(known, 0);
    number_hash(2 * AS_SEEN_MAX, h);
    CHECK(!cd_as_seen_add(s, h));
    cd_as_seen_del(s, h);
    cd_as_seen_del(s, h);
    CHECK(cd_as_seen_add(s, h));
    for (unsigned i = 2 * AS_SEEN_MAX + 1; i < 3 * AS_SEEN_MAX; i++) {
        number_hash(i, h);
        known += !cd_as_seen_add(s, h);
    }
    CHECK_INT(known, AS_SEEN_MAX - 1);
    number_hash(0, h);
    CHECK(cd_as_seen_add(s, h)); /* long forgotten */
    cd_as_seen_free(s);
}

int main(void)
{
    if (cd_secret_init() != 0)
        return 1;
    TAP_RUN(knows_relevant_types);
    TAP_RUN(picks_relevant_events);
    TAP_RUN(steps_over_poison);
    TAP_RUN(refuses_what_is_no_transaction);
    TAP_RUN(goes_on_where_it_stopped);
    TAP_RUN(knows_which_calls_end);
    TAP_RUN(reads_an_event);
    TAP_RUN(computes_the_age);
    TAP_RUN(mends_text);
    TAP_RUN(ignores_soft_failed);
    TAP_RUN(names_broken_fields);
    TAP_RUN(remembers_events);
    return tap_done();
}

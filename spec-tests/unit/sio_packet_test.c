/* sio_packet_test.c -- every form of Socket.IO and Engine.IO packets, right, wrong and mutated. */
#include "in/sio_packet.h"

#include <stdint.h>
#include <stdlib.h>

#include "../lib/tap.h"
#include "base/scan.h"

static struct cd_sio_packet packet;

static bool parse(const char *text)
{
    return cd_sio_parse(cd_str_of(text), &packet);
}

/** NUL-terminated copy of a view, for comparison. */
static const char *text_of(struct cd_str s)
{
    static char copies[4][512];
    static unsigned next;
    char *copy = copies[next++ % 4];
    size_t n = s.n < sizeof(copies[0]) ? s.n : sizeof(copies[0]) - 1;

    memcpy(copy, s.p, n);
    copy[n] = '\0';
    return copy;
}

static const char *buf_text(const struct cd_buf *b)
{
    return text_of((struct cd_str){b->p, b->n});
}

static void connects(void)
{
    CHECK(parse("0"));
    CHECK_INT(packet.type, CD_SIO_CONNECT);
    CHECK_STR(text_of(packet.ns), "/");
    CHECK_INT(packet.data.n, 0);
    CHECK_INT(packet.id, -1);

    CHECK(parse("0{\"token\":\"x\"}"));
    CHECK_STR(text_of(packet.data), "{\"token\":\"x\"}");

    CHECK(parse("0/random,{\"a\":1}"));
    CHECK_STR(text_of(packet.ns), "/random");
    CHECK_STR(text_of(packet.data), "{\"a\":1}");
    CHECK(parse("0/random"));
    CHECK_STR(text_of(packet.ns), "/random");
    CHECK(parse("0/random,"));
    CHECK_STR(text_of(packet.ns), "/random");
    CHECK(parse("0/,{}"));
    CHECK_STR(text_of(packet.ns), "/");
}

static void events(void)
{
    CHECK(parse("2[\"ping\"]"));
    CHECK_INT(packet.type, CD_SIO_EVENT);
    CHECK_STR(text_of(packet.event), "\"ping\"");
    CHECK_STR(text_of(packet.payload), "{}");
    CHECK_INT(packet.id, -1);

    CHECK(parse("212[\"join-call\", {\"callId\":\"z1\"}, 3]"));
    CHECK_INT(packet.id, 12);
    CHECK_STR(text_of(packet.event), "\"join-call\"");
    CHECK_STR(text_of(packet.payload), "{\"callId\":\"z1\"}");

    CHECK(parse("2/admin,0[\"x\",null]"));
    CHECK_STR(text_of(packet.ns), "/admin");
    CHECK_INT(packet.id, 0);
    CHECK_STR(text_of(packet.payload), "null");

    CHECK(parse("2[7,\"number as name\"]"));
    CHECK_STR(text_of(packet.event), "7");

    CHECK(parse("29007199254740991[\"x\"]"));
    CHECK(packet.id == INT64_C(9007199254740991));
}

static void acks_and_ends(void)
{
    CHECK(parse("31[]"));
    CHECK_INT(packet.type, CD_SIO_ACK);
    CHECK_INT(packet.id, 1);
    CHECK(parse("3[\"no id\"]"));
    CHECK_INT(packet.id, -1);
    CHECK(parse("1"));
    CHECK_INT(packet.type, CD_SIO_DISCONNECT);
    CHECK(parse("1/admin,"));
    CHECK_STR(text_of(packet.ns), "/admin");
    CHECK(parse("4{\"message\":\"no\"}"));
    CHECK_INT(packet.type, CD_SIO_CONNECT_ERROR);
    CHECK(parse("4\"no\""));
}

static void binary(void)
{
    CHECK(parse("51-[\"file\",{\"_placeholder\":true,\"num\":0}]"));
    CHECK_INT(packet.type, CD_SIO_BINARY_EVENT);
    CHECK_INT(packet.attachments, 1);
    CHECK(parse("510-/admin,4[\"file\"]"));
    CHECK_INT(packet.attachments, 10);
    CHECK_STR(text_of(packet.ns), "/admin");
    CHECK_INT(packet.id, 4);
    CHECK(parse("50-[\"none\"]"));
    CHECK_INT(packet.attachments, 0);
    CHECK(parse("61-7[{\"_placeholder\":true,\"num\":0}]"));
    CHECK_INT(packet.type, CD_SIO_BINARY_ACK);
    CHECK_INT(packet.id, 7);
}

static void malformed(void)
{
    static const char *const bad[] = {
        "", "7", "9[\"x\"]", "a", "-1", " 0", "0[]", "0null", "0\"x\"", "0{", "0{}x", "0{}{}",
        "1{}", "1\"x\"", "2", "2{}", "2[]", "2[{}]", "2[null]", "2[[\"x\"]]", "2[true]", "2[\"x\"",
        "2abc[\"x\"]", "2[\"x\"]]", "2\"x\"", "2-1[\"x\"]", "2 1[\"x\"]", "2[\"connect\"]",
        "2[\"connect_error\"]", "2[\"disconnect\"]", "2[\"disconnecting\"]", "2[\"newListener\"]",
        "2[\"removeListener\"]", "2[\"d\\u0069sconnect\"]", "29007199254740992[\"x\"]",
        "299999999999999999999[\"x\"]", "2[\"\xff\"]", "2[\"x\",\"\\ud800\xc0\"]", "3", "31{}",
        "31\"x\"", "4", "4[]", "47", "5[\"x\"]", "51[\"x\"]", "511-[\"x\"]", "5-[\"x\"]",
        "5a-[\"x\"]",
        "51-", "51-{}", "5-1-[\"x\"]", "51.0-[\"x\"]", "61-{}", "6[]", "0/\xff", "2[01]",
        "2[\"x\",01]",
    };

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        if (!CHECK(!parse(bad[i])))
            printf("# taken: %s\n", bad[i]);
    }
}

static void limits(void)
{
    char deep[256] = "21[\"x\",", name[300] = "0/";
    size_t n = strlen(deep);

    memset(deep + n, '[', CD_SIO_JSON_DEPTH);
    memset(deep + n + CD_SIO_JSON_DEPTH, ']', CD_SIO_JSON_DEPTH + 1);
    CHECK(parse(deep));
    CHECK(!packet.too_deep);
    memset(deep + n, '[', CD_SIO_JSON_DEPTH + 1);
    memset(deep + n + CD_SIO_JSON_DEPTH + 1, ']', CD_SIO_JSON_DEPTH + 2);
    CHECK(parse(deep)); /* to be answered, which needs its name and its id */
    CHECK(packet.too_deep);
    CHECK_STR(text_of(packet.event), "\"x\"");
    CHECK_STR(text_of(packet.payload), "{}");
    CHECK_INT(packet.id, 1);
    deep[n + CD_SIO_JSON_DEPTH] = '{';
    CHECK(!parse(deep)); /* too deep, and no JSON either */

    memset(name + 2, 'n', CD_SIO_NAMESPACE_MAX - 1);
    CHECK(parse(name));
    name[2 + CD_SIO_NAMESPACE_MAX - 1] = 'n';
    CHECK(!parse(name));
}

/* Beyond what the checker follows, brackets are all that is looked at. */
static void bottomless(void)
{
    enum { DEPTH = 20000 };
    static char text[2 * DEPTH + 64] = "27[ \"x\",";
    size_t n = strlen(text);

    memset(text + n, '[', DEPTH);
    memset(text + n + DEPTH, ']', DEPTH + 1);
    CHECK(parse(text));
    CHECK(packet.too_deep);
    CHECK_STR(text_of(packet.event), "\"x\"");
    text[n + 2 * DEPTH] = '\0'; /* one bracket short */
    CHECK(!parse(text));
    memcpy(text, "27[[\"x\"],", 10);
    CHECK(!parse(text)); /* no name */
    CHECK(cd_json_too_deep(CD_STR("[[\"]\\\"[\"]]"), 1));
    CHECK(!cd_json_too_deep(CD_STR("[[\"]\\\"[\"]]"), 2));
    CHECK(!cd_json_too_deep(CD_STR("\"[[[["), 2));
}

static void names(void)
{
    char space[8];

    CHECK_STR(text_of(cd_sio_event_name(CD_STR("\"call\""), space, sizeof(space))), "call");
    CHECK_STR(text_of(cd_sio_event_name(CD_STR("\"\\u0061b\""), space, sizeof(space))), "ab");
    CHECK_STR(text_of(cd_sio_event_name(CD_STR("\"too-long-name\""), space, sizeof(space))),
              "too-long-name");
    CHECK_STR(text_of(cd_sio_event_name(CD_STR("42"), space, sizeof(space))), "42");
    CHECK_STR(text_of(cd_sio_event_name(CD_STR("\"\""), space, sizeof(space))), "");
}

static void written(void)
{
    struct cd_buf b;
    struct cd_err err;

    cd_buf_init(&b, 4096);
    cd_sio_add_event(&b, "call-\"ended\"", CD_STR("{\"a\":[1]}"));
    CHECK_STR(buf_text(&b), "42[\"call-\\\"ended\\\"\",{\"a\":[1]}]");
    cd_buf_reset(&b);
    cd_sio_add_ack_ok(&b, 12, CD_STR(""));
    CHECK_STR(buf_text(&b), "4312[{\"ok\":true}]");
    cd_buf_reset(&b);
    cd_sio_add_ack_ok(&b, 0, CD_STR(" { \"seq\": 3 } "));
    CHECK_STR(buf_text(&b), "430[{\"ok\":true,\"seq\": 3}]");
    cd_buf_reset(&b);
    cd_sio_add_ack_ok(&b, 1, CD_STR("{ }"));
    CHECK_STR(buf_text(&b), "431[{\"ok\":true}]");
    cd_buf_reset(&b);
    cd_sio_add_connected(&b, "abc");
    CHECK_STR(buf_text(&b), "40{\"sid\":\"abc\"}");
    cd_buf_reset(&b);
    cd_sio_add_no_namespace(&b, CD_STR("/random"));
    CHECK_STR(buf_text(&b), "44/random,{\"message\":\"Invalid namespace\"}");

    cd_fail(&err, CD_E_FORBIDDEN, "not \"yours\"");
    cd_buf_reset(&b);
    cd_sio_add_ack_fail(&b, 5, &err);
    CHECK_STR(buf_text(&b),
              "435[{\"ok\":false,\"errcode\":\"M_FORBIDDEN\",\"error\":\"not \\\"yours\\\"\"}]");
    cd_buf_reset(&b);
    cd_sio_add_refused(&b, &err);
    CHECK_STR(buf_text(&b), "44{\"message\":\"not \\\"yours\\\"\",\"data\":{\"errcode\":"
                            "\"M_FORBIDDEN\",\"error\":\"not \\\"yours\\\"\"}}");
    cd_buf_done(&b);
}

static void payloads(void)
{
    struct cd_str rest = CD_STR("4a\x1e" "2\x1e" "bAQID");
    struct cd_str one = {NULL, 0};

    CHECK(cd_eio_payload_next(&rest, &one));
    CHECK_STR(text_of(one), "4a");
    CHECK(cd_eio_payload_next(&rest, &one));
    CHECK_STR(text_of(one), "2");
    CHECK(cd_eio_payload_next(&rest, &one));
    CHECK_STR(text_of(one), "bAQID");
    CHECK(!cd_eio_payload_next(&rest, &one));

    rest = CD_STR("");
    CHECK(cd_eio_payload_next(&rest, &one));
    CHECK_INT(one.n, 0);
    CHECK(!cd_eio_payload_next(&rest, &one));

    rest = CD_STR("3\x1e");
    CHECK(cd_eio_payload_next(&rest, &one));
    CHECK(cd_eio_payload_next(&rest, &one));
    CHECK_INT(one.n, 0);
    CHECK(!cd_eio_payload_next(&rest, &one));
}

static void base64(void)
{
    CHECK(cd_eio_base64_valid(CD_STR("AQIDBA==")));
    CHECK(cd_eio_base64_valid(CD_STR("AQIDBA")));
    CHECK(cd_eio_base64_valid(CD_STR("-_+/")));
    CHECK(cd_eio_base64_valid(CD_STR("")));
    CHECK(!cd_eio_base64_valid(CD_STR("A")));
    CHECK(!cd_eio_base64_valid(CD_STR("AQ=A")));
    CHECK(!cd_eio_base64_valid(CD_STR("AQ===")));
    CHECK(!cd_eio_base64_valid(CD_STR("A Q=")));
}

static void queries(void)
{
    struct cd_str query = CD_STR("EIO=4&transport=web%73ocket&sid=&x&long=0123456789&bad=%zz");
    char out[10];

    CHECK(cd_eio_query(query, "EIO", out, sizeof(out)));
    CHECK_STR(out, "4");
    CHECK(cd_eio_query(query, "transport", out, sizeof(out)));
    CHECK_STR(out, "websocket");
    CHECK(cd_eio_query(query, "sid", out, sizeof(out)));
    CHECK_STR(out, "");
    CHECK(cd_eio_query(query, "x", out, sizeof(out)));
    CHECK_STR(out, "");
    CHECK(cd_eio_query(query, "long", out, sizeof(out)));
    CHECK_STR(out, "?");
    CHECK(cd_eio_query(query, "bad", out, sizeof(out)));
    CHECK_STR(out, "?");
    CHECK(!cd_eio_query(query, "EI", out, sizeof(out)));
    CHECK(!cd_eio_query(CD_STR(""), "EIO", out, sizeof(out)));
}

/* What a packet names must lie inside the text it came from, whatever was done to that text. */
static bool inside(struct cd_str part, struct cd_str whole)
{
    if (cd_str_is(part, "/") || cd_str_is(part, "{}") || part.n == 0)
        return true;
    return part.p >= whole.p && part.p + part.n <= whole.p + whole.n;
}

static uint32_t random_state = 20251;

static uint32_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state;
}

static bool taken_is_sound(const char *p, size_t n)
{
    struct cd_sio_packet got;
    struct cd_str whole = {p, n};
    char space[CD_SIO_EVENT_MAX];

    if (!cd_sio_parse(whole, &got))
        return true;
    if (got.data.n > 0 && !cd_json_valid(got.data, CD_SIO_JSON_DEPTH + 1))
        return false;
    if (got.attachments > CD_SIO_ATTACHMENTS || got.id < -1)
        return false;
    if (got.type == CD_SIO_EVENT && cd_sio_event_name(got.event, space, sizeof(space)).n > n)
        return false;
    return inside(got.data, whole) && inside(got.ns, whole) && inside(got.event, whole) &&
           inside(got.payload, whole);
}

static void mutations(void)
{
    static const char *const seeds[] = {
        "0{\"token\":\"x\"}", "0/random,{\"a\":1}", "212[\"join-call\",{\"callId\":\"z1\"},3]",
        "31[{\"ok\":true}]", "452-/a,7[\"f\",{\"_placeholder\":true,\"num\":0},\"\\ud83d\\ude00\"]",
        "51-[\"file\",{\"_placeholder\":true,\"num\":0}]", "1/admin,", "4{\"message\":\"no\"}",
    };
    static const char spice[] = "0123456789[]{}\",:-/\\ue\x1e\x80\xff tfn";
    unsigned unsound = 0;

    for (unsigned round = 0; round < 200000; round++) {
        const char *seed = seeds[next_random() % (sizeof(seeds) / sizeof(seeds[0]))];
        size_t n = strlen(seed);
        char *p = malloc(n + 1); /* exactly sized, so that address checkers see each overrun */

        if (!p)
            return;
        memcpy(p, seed, n + 1);
        for (unsigned k = next_random() % 4; k > 0 && n > 0; k--)
            p[next_random() % n] = spice[next_random() % (sizeof(spice) - 1)];
        n -= next_random() % 8 == 0 ? next_random() % (n + 1) : 0;
        p = realloc(p, n ? n : 1);
        if (p && !taken_is_sound(p, n))
            unsound++;
        free(p);
    }
    CHECK_INT(unsound, 0);
}

int main(void)
{
    TAP_RUN(connects);
    TAP_RUN(events);
    TAP_RUN(acks_and_ends);
    TAP_RUN(binary);
    TAP_RUN(malformed);
    TAP_RUN(limits);
    TAP_RUN(bottomless);
    TAP_RUN(names);
    TAP_RUN(written);
    TAP_RUN(payloads);
    TAP_RUN(base64);
    TAP_RUN(queries);
    TAP_RUN(mutations);
    return tap_done();
}

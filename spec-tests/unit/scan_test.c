/* scan_test.c -- the JSON scanner: grammar, UTF-8, depth, walking, decoding; and agreement with
 * jansson on thousands of damaged texts. */
#include "base/scan.h"

#include <jansson.h>
#include <stdint.h>
#include <stdlib.h>

#include "../lib/tap.h"

#define S(literal) CD_STR(literal)

static void takes_what_the_grammar_takes(void)
{
    static const char *const good[] = {
        "{}", "[]", "0", "-0", "-1", "1.5", "1e5", "1E+5", "1e-5", "-0.0e0", "\"\"", "true",
        "false",
        "null", " \t\r\n{ } ", "[1,2]", "[ 1 , 2 ]", "{\"a\":1,\"b\":[{}]}", "{\"\":0}",
        "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\"", "\"\\ud800\"", "\"\\u0000\"", "\"\x7f\"",
        "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\xed\x9f\xbf\xf4\x8f\xbf\xbf\"", "[[[[[[[[]]]]]]]]",
        "1e400", "123456789012345678901234567890",
    };

    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        if (!CHECK(cd_json_valid(cd_str_of(good[i]), 8)))
            printf("# text: %s\n", good[i]);
    }
}

static void refuses_the_rest(void)
{
    static const char *const bad[] = {
        "", " ", "{", "}", "[", "]", "{]", "[}", "[1,]", "[,1]", "[1 2]", "{\"a\"}", "{\"a\":}",
        "{\"a\":1,}", "{,}", "{1:2}", "{a:1}", "{'a':1}", "01", "-", "+1", "1.", ".5", "1e", "1e+",
        "0x1", "Infinity", "NaN", "-Infinity", "tru", "truex", "nul", "\"", "\"\\", "\"\\x\"",
        "\"\\u12\"", "\"\\u12g4\"", "\"\n\"", "\"\t\"", "\"\x01\"", "{} {}", "[] x", "1 2",
        "//x\n1",
        "\"\x80\"", "\"\xc0\x80\"", "\"\xc1\xbf\"", "\"\xe0\x80\x80\"", "\"\xed\xa0\x80\"",
        "\"\xf0\x80\x80\x80\"", "\"\xf4\x90\x80\x80\"", "\"\xf5\x80\x80\x80\"", "\"\xc3\"",
        "\"\xe2\x82\"", "\"\xf0\x9f\x98\"", "\xef\xbb\xbf{}", "{\"a\":1 \"b\":2}", "[[]",
        "{\"a\":{}",
        "[[[[[[[[[]]]]]]]]]", "\"abcdefghijklmnop\x1fq\"", "\"abcdefghijklmno\xff\"",
    };

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (!CHECK(!cd_json_valid(cd_str_of(bad[i]), 8)))
            printf("# text: %s\n", bad[i]);
    }
    CHECK(!cd_json_valid(S("\"a\0b\""), 8));
    CHECK(!cd_json_valid(S("{}\0"), 8));
}

/* Special bytes at every place of the 16-byte steps, and texts cut off everywhere. */
static void finds_specials_at_every_offset(void)
{
    char text[80];

    for (size_t len = 0; len < 64; len++) {
        for (size_t at = 0; at <= len; at++) {
            memset(text, 'x', sizeof text);
            text[0] = '"';
            text[len + 2] = '"';
            text[at + 1] = 0x1f;
            CHECK(!cd_json_valid((struct cd_str){text, len + 3}, 1));
            text[at + 1] = '"';
            CHECK_INT(cd_json_valid((struct cd_str){text, len + 3}, 1), at + 1 == len + 2);
            text[at + 1] = 'x';
            text[len + 2] = '"';
            CHECK(cd_json_valid((struct cd_str){text, len + 3}, 1));
            CHECK(!cd_json_valid((struct cd_str){text, len + 2}, 1));
        }
    }
}

static void caps_depth(void)
{
    static char deep[20001];
    size_t start;

    memset(deep, '[', 10000);
    memset(deep + 10000, ']', 10000);
    CHECK(!cd_json_valid((struct cd_str){deep, 20000}, 32));
    CHECK(!cd_json_valid((struct cd_str){deep, 20000}, 1000000));
    CHECK(cd_json_valid((struct cd_str){deep + 9000, 2000}, 1000));
    CHECK(!cd_json_valid((struct cd_str){deep + 9000, 2000}, 999));
    CHECK_INT(cd_json_split((struct cd_str){deep, 20000}, &start), 20000);
    CHECK(cd_json_valid(S("1"), 0));
    CHECK(!cd_json_valid(S("[]"), 0));
}

static void measures_one_value(void)
{
    size_t start = 99;

    CHECK_INT(cd_json_value(S("  {\"a\":[1,2]} , 5"), 4, &start), 11);
    CHECK_INT(start, 2);
    CHECK_INT(cd_json_value(S("12,"), 4, &start), 2);
    CHECK_INT(cd_json_value(S("\"a,b\"]"), 4, &start), 5);
    CHECK_INT(cd_json_value(S("{\"a\":[1,2}"), 4, &start), 0);
    CHECK_INT(cd_json_value(S(""), 4, &start), 0);
}

static void walks_members(void)
{
    struct cd_str o = S(" { \"a\" : 1 , \"b\":{\"a\":\"}\"}, \"c\\\"d\" :[ 1,\"]\",{} "
                        "],\"a\":\"x\" } ");
    struct cd_str key, value;
    size_t pos = 0;

    CHECK(cd_json_valid(o, 8));
    CHECK(cd_json_member(o, &pos, &key, &value));
    CHECK(cd_str_is(key, "a"));
    CHECK(cd_str_is(value, "1"));
    CHECK(cd_json_member(o, &pos, &key, &value));
    CHECK(cd_str_is(value, "{\"a\":\"}\"}"));
    CHECK(cd_json_member(o, &pos, &key, &value));
    CHECK(cd_str_is(key, "c\\\"d"));
    CHECK(cd_str_is(value, "[ 1,\"]\",{} ]"));
    CHECK(cd_json_member(o, &pos, &key, &value));
    CHECK(!cd_json_member(o, &pos, &key, &value));
    CHECK(cd_json_find(o, "a", &value));
    CHECK(cd_str_is(value, "\"x\""));
    CHECK(cd_json_find(o, "c\"d", &value));
    CHECK(!cd_json_find(o, "A", &value));
    pos = 0;
    CHECK(!cd_json_member(S("{}"), &pos, &key, &value));
    CHECK(!cd_json_member(S("[1]"), &pos, &key, &value));
}

static void reads_escaped_names(void)
{
    struct cd_str value;

    CHECK(cd_json_find(S("{\"t\\u0079pe\":1}"), "type", &value));
    CHECK(!cd_json_find(S("{\"type\\u0000\":1}"), "type", &value));
    CHECK(!cd_json_find(S("{\"\\ud800type\":1}"), "type", &value));
}

static void walks_elements(void)
{
    struct cd_str a = S("[1, \"a,b\" ,[2,[3]],{\"x\":[]},null]"), v;
    static const char *const want[] = {"1", "\"a,b\"", "[2,[3]]", "{\"x\":[]}", "null"};
    size_t pos = 0, n = 0;

    while (cd_json_element(a, &pos, &v) && n < 5)
        CHECK(cd_str_is(v, want[n++]));
    CHECK_INT(n, 5);
    pos = 0;
    CHECK(!cd_json_element(S("[]"), &pos, &v));
    CHECK(!cd_json_element(S("[ ]"), &pos, &v));
}

static void picks_members_in_the_same_pass(void)
{
    static const struct cd_json_pick picks[] = {CD_PICK("type"), CD_PICK("content"),
                                                CD_PICK("none")};
    struct cd_str found[3];
    size_t start;
    struct cd_str t = S(" {\"type\":\"old\",\"content\":{\"type\":\"inner\",\"content\":[]},"
                        "\"x\":[1],"
                        "\"typ\\u0065\" : \"m.call\" } tail");

    CHECK_INT(cd_json_pick(t, 8, picks, 3, found, &start), t.n - 6);
    CHECK_INT(start, 1);
    CHECK(cd_str_is(found[0], "\"m.call\""));
    CHECK(cd_str_is(found[1], "{\"type\":\"inner\",\"content\":[]}"));
    CHECK(found[2].p == NULL);
    memset(found, 0xff, sizeof found);
    cd_json_pick_valid((struct cd_str){t.p, t.n - 5}, picks, 3, found);
    CHECK(cd_str_is(found[0], "\"m.call\""));
    CHECK(cd_str_is(found[1], "{\"type\":\"inner\",\"content\":[]}"));
    CHECK(found[2].p == NULL);
    CHECK_INT(cd_json_pick(S("[1]"), 8, picks, 3, found, &start), 0);
    CHECK_INT(cd_json_pick(S("5"), 8, picks, 3, found, &start), 1);
    CHECK(found[0].p == NULL);
    CHECK_INT(cd_json_pick(S("{}"), 8, picks, 3, found, &start), 2);
}

static void splits_by_brackets(void)
{
    size_t start;

    CHECK_INT(cd_json_split(S(" {\"a\":Infinity,\"b\":\"]}\\\"\"} ,1"), &start), 25);
    CHECK_INT(start, 1);
    CHECK_INT(cd_json_split(S("{\"a\":\"\x01\xff\"}]"), &start), 10);
    CHECK_INT(cd_json_split(S("NaN,2"), &start), 3);
    CHECK_INT(cd_json_split(S("{\"a\":1"), &start), 0);
    CHECK_INT(cd_json_split(S("{\"a\":\"x}"), &start), 0);
    CHECK_INT(cd_json_split(S("]"), &start), 0);
    CHECK_INT(cd_json_split(S("\"\\"), &start), 0);
}

static void decodes_strings(void)
{
    char out[32];

    CHECK_INT(cd_json_text(S("\"a\\n\\u00e9\\ud83d\\ude00\\/\""), out, sizeof out), 9);
    CHECK_STR(out, "a\n\xc3\xa9\xf0\x9f\x98\x80/");
    CHECK_INT(cd_json_text(S("\"\""), out, sizeof out), 0);
    CHECK_INT(cd_json_text(S("5"), out, sizeof out), -1);
    CHECK_INT(cd_json_text(S("null"), out, sizeof out), -1);
    CHECK_INT(cd_json_text(S("\"\\ud800\""), out, sizeof out), -1);
    CHECK_INT(cd_json_text(S("\"\\ud800\\u0041\""), out, sizeof out), -1);
    CHECK_INT(cd_json_text(S("\"\\udc00\""), out, sizeof out), -1);
    CHECK_INT(cd_json_text(S("\"a\\u0000b\""), out, sizeof out), -1);
    CHECK_INT(cd_json_text(S("\"abc\""), out, 3), -1);
    CHECK_INT(cd_json_text(S("\"abc\""), out, 4), 3);
    CHECK_INT(cd_json_text(S("\"a\\ud83d\\ude00\""), out, 5), -1);
    CHECK_INT(cd_json_text(S("\"a\\ud83d\\ude00\""), out, 6), 5);
    CHECK_INT(cd_json_text(S("\"\\u00e9bc\\n\""), out, 5), -1);
    CHECK_INT(cd_json_text(S("\"\\u00e9bc\\n\""), out, 6), 5);
    CHECK_STR(out, "\xc3\xa9" "bc\n");
}

static void reads_integers(void)
{
    long long v = 0;

    CHECK(cd_json_int(S("42"), &v));
    CHECK_INT(v, 42);
    CHECK(cd_json_int(S("-1.0"), &v));
    CHECK_INT(v, -1);
    CHECK(cd_json_int(S("1e3"), &v));
    CHECK_INT(v, 1000);
    CHECK(cd_json_int(S("120.50e1"), &v));
    CHECK_INT(v, 1205);
    CHECK(cd_json_int(S("1000e-3"), &v));
    CHECK_INT(v, 1);
    CHECK(cd_json_int(S("-9223372036854775808"), &v));
    CHECK(v == INT64_MIN);
    CHECK(cd_json_int(S("9223372036854775807"), &v));
    CHECK(v == INT64_MAX);
    CHECK(cd_json_int(S("0e99999999999999999999"), &v));
    CHECK_INT(v, 0);
    CHECK(!cd_json_int(S("9223372036854775808"), &v));
    CHECK(!cd_json_int(S("1e400"), &v));
    CHECK(!cd_json_int(S("1e-1"), &v));
    CHECK(!cd_json_int(S("1.5"), &v));
    CHECK(!cd_json_int(S("\"1\""), &v));
    CHECK(!cd_json_int(S("true"), &v));
}

static uint32_t rng = 2463534242U;

static uint32_t next_random(void)
{
    rng ^= rng << 13;
    rng ^= rng >> 17;
    rng ^= rng << 5;
    return rng;
}

/* jansson refuses some valid texts (numbers out of range, lone surrogates, NUL in keys): only what
 * it takes must be taken, and what we take and it refuses must be one of those. */
static bool jansson_limit(const json_error_t *e)
{
    enum json_error_code code = json_error_code(e);

    return code == json_error_numeric_overflow || code == json_error_null_character ||
           code == json_error_null_byte_in_key || strstr(e->text, "invalid Unicode") != NULL;
}

static void agrees_with_jansson(void)
{
    static const char seed[] =
        "{\"events\":[{\"type\":\"m.call.invite\",\"content\":{\"v\":\"1\",\"n\":[1,-2.5e3,true,"
        "null],"
        "\"t\":\"gr\xc3\xbc\xc3\x9f \\u00e9\\ud83d\\ude00\\n \xf0\x9f\x98\x80 plain "
        "text\"}},{}],\"x\":[]}";
    static const char bytes[] = "\"\\{}[]:,0e-+.tfn u\x01\xc3\x80\xed\xf4";
    char text[sizeof seed + 8];

    for (int round = 0; round < 60000; round++) {
        size_t n = sizeof seed - 1;
        json_error_t error;
        json_t *j;
        bool ours;

        memcpy(text, seed, n);
        for (uint32_t k = next_random() % 3 + 1; k > 0; k--) {
            size_t at = next_random() % n;

            if (next_random() % 3 == 0) {
                memmove(text + at, text + at + 1, n - at - 1);
                n--;
            } else {
                text[at] = bytes[next_random() % (sizeof bytes - 1)];
            }
        }
        j = json_loadb(text, n, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
        ours = cd_json_valid((struct cd_str){text, n}, 64);
        if (ours != (j != NULL) && !(ours && jansson_limit(&error))) {
            CHECK_INT(ours, j != NULL);
            printf("# %s: %.*s\n", error.text, (int)n, text);
        }
        json_decref(j);
    }
    CHECK(1);
}

int main(void)
{
    TAP_RUN(takes_what_the_grammar_takes);
    TAP_RUN(refuses_the_rest);
    TAP_RUN(finds_specials_at_every_offset);
    TAP_RUN(caps_depth);
    TAP_RUN(measures_one_value);
    TAP_RUN(walks_members);
    TAP_RUN(reads_escaped_names);
    TAP_RUN(walks_elements);
    TAP_RUN(picks_members_in_the_same_pass);
    TAP_RUN(splits_by_brackets);
    TAP_RUN(decodes_strings);
    TAP_RUN(reads_integers);
    TAP_RUN(agrees_with_jansson);
    return tap_done();
}

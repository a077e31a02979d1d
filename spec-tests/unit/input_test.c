/* input_test.c -- request members: what is taken, and what the error says. */
#include "calls/input.h"
#include "tap.h"

static struct cd_err err;

static struct cd_input given(const char *text)
{
    struct cd_input in;

    err = (struct cd_err){0};
    cd_input_open(&in, cd_str_of(text), 8, &err);
    return in;
}

static void bodies_are_objects(void)
{
    CHECK_INT(given("{}").rc, CD_OK);
    CHECK_INT(given("").rc, CD_OK);
    CHECK_INT(given("[]").rc, CD_E_BAD_JSON);
    CHECK_INT(given("{").rc, CD_E_NOT_JSON);
    CHECK_INT(given("{\"a\":\"\xff\"}").rc, CD_E_NOT_JSON);
    CHECK_INT(given("{\"a\":[[[[[[[[1]]]]]]]]}").rc, CD_E_NOT_JSON);
}

static void texts_have_bounds(void)
{
    struct cd_input in = given("{\"a\":\"12345\",\"b\":5,\"c\":null}");
    char out[6];

    cd_input_text(&in, "a", true, out, sizeof(out));
    CHECK_STR(out, "12345");
    cd_input_text(&in, "c", false, out, sizeof(out));
    CHECK_STR(out, "");
    CHECK_INT(in.rc, CD_OK);
    cd_input_text(&in, "a", true, out, 5);
    CHECK_INT(in.rc, CD_E_INVALID_PARAM);
    CHECK(strstr(err.text, "a must be") != NULL);
    in = given("{\"b\":5}");
    cd_input_text(&in, "b", true, out, sizeof(out));
    CHECK_INT(in.rc, CD_E_BAD_JSON);
    in = given("{}");
    cd_input_text(&in, "b", true, out, sizeof(out));
    CHECK_INT(in.rc, CD_E_MISSING_PARAM);
}

static void numbers_and_words_name_what_they_take(void)
{
    static const char *const words[] = {"audio", "video", NULL};
    struct cd_input in = given("{\"n\":15,\"w\":\"video\",\"t\":true}");
    long long n = 0;
    bool t = false;

    CHECK(cd_input_int(&in, "n", 15, 180, &n) && n == 15);
    CHECK_INT(cd_input_word(&in, "w", words), 1);
    CHECK(cd_input_bool(&in, "t", &t) && t);
    CHECK(!cd_input_int(&in, "n", 16, 180, &n));
    CHECK_INT(in.rc, CD_E_INVALID_PARAM);
    CHECK(strstr(err.text, "16 to 180") != NULL);
    in = given("{\"w\":\"fax\"}");
    CHECK_INT(cd_input_word(&in, "w", words), -1);
    CHECK(strstr(err.text, "audio video") != NULL);
    in = given("{\"t\":1}");
    CHECK(!cd_input_bool(&in, "t", &t));
    CHECK_INT(in.rc, CD_E_BAD_JSON);
}

static void descriptions_are_text_of_their_type(void)
{
    static const struct {
        const char *text;
        enum cd_rc rc;
    } cases[] = {
        {"{\"offer\":{\"type\":\"offer\",\"sdp\":\"v=0\\r\\n\"}}", CD_OK},
        {"{\"offer\":{\"type\":\"offer\",\"sdp\":\"\\ud83d\\ude00\"}}", CD_OK},
        {"{\"offer\":{\"type\":\"answer\",\"sdp\":\"v=0\"}}", CD_E_INVALID_PARAM},
        {"{\"offer\":{\"type\":\"offer\",\"sdp\":\"\"}}", CD_E_INVALID_PARAM},
        {"{\"offer\":{\"type\":\"offer\",\"sdp\":\"a\\u0000b\"}}", CD_E_INVALID_PARAM},
        {"{\"offer\":{\"type\":\"offer\",\"sdp\":\"\\ud800\"}}", CD_E_INVALID_PARAM},
        {"{\"offer\":{\"type\":\"offer\"}}", CD_E_BAD_JSON},
        {"{\"offer\":\"v=0\"}", CD_E_BAD_JSON},
        {"{\"offer\":{\"type\":\"offer\",\"sdp\":\"0123456789012345678901234567890123456789\"}}", CD_E_TOO_LARGE},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct cd_input in = given(cases[i].text);
        struct cd_str sdp;

        CHECK(cd_input_sdp(&in, "offer", "offer", 60, &sdp) == (cases[i].rc == CD_OK));
        CHECK_INT(in.rc, cases[i].rc);
    }
}

int main(void)
{
    TAP_RUN(bodies_are_objects);
    TAP_RUN(texts_have_bounds);
    TAP_RUN(numbers_and_words_name_what_they_take);
    TAP_RUN(descriptions_are_text_of_their_type);
    return tap_done();
}

/* input.c -- fuzzes the reading of request members: what jansson says is there is what is read. */
#include "calls/input.h"

#include <jansson.h>

#include "fuzz.h"

#define DEPTH 32
#define TEXT 24

static const char *const words[] = {"audio", "video", NULL};

/* Every reader answers for the tree's member, or says why not. */
static struct cd_input opened(struct cd_str text, struct cd_err *err)
{
    struct cd_input in;

    memset(err, 0, sizeof *err);
    cd_input_open(&in, text, DEPTH, err);
    return in;
}

static const json_t *member(const json_t *j, const char *name)
{
    const json_t *m = json_object_get(j, name);

    return json_is_null(m) ? NULL : m;
}

static void consistent(const struct cd_input *in, const struct cd_err *err)
{
    MUST(in->rc == err->rc && (in->rc == CD_OK) == (err->text[0] == '\0'));
}

static void texts(struct cd_str text, const json_t *j)
{
    const json_t *m = member(j, "callId");
    size_t n = json_string_length(m);
    bool fits = json_is_string(m) && n > 0 && n < TEXT && !memchr(json_string_value(m), 0, n);
    char out[TEXT];
    struct cd_err err;
    struct cd_input in = opened(text, &err);

    cd_input_text(&in, "callId", true, out, sizeof out);
    consistent(&in, &err);
    MUST((in.rc == CD_OK) == fits);
    MUST(fits ? !strcmp(out, json_string_value(m)) : out[0] == '\0');
    MUST(m || in.rc == CD_E_MISSING_PARAM);
}

static void numbers(struct cd_str text, const json_t *j)
{
    const json_t *m = member(j, "limit"), *b = member(j, "enabled");
    struct cd_err err;
    struct cd_input in = opened(text, &err);
    long long v = -1;
    bool on = false, there = cd_input_int(&in, "limit", 1, 100, &v);

    consistent(&in, &err);
    MUST(there == (m && in.rc == CD_OK) && (!there || (v >= 1 && v <= 100)));
    if (json_is_integer(m))
        MUST(there == (json_integer_value(m) >= 1 && json_integer_value(m) <= 100));
    in = opened(text, &err);
    there = cd_input_bool(&in, "enabled", &on);
    MUST(there == json_is_boolean(b) && on == json_is_true(b) && (in.rc == CD_OK) == (there || !b));
    consistent(&in, &err);
}

static void choices(struct cd_str text, const json_t *j)
{
    const json_t *m = member(j, "callType"), *o = member(j, "offer");
    struct cd_err err;
    struct cd_input in = opened(text, &err);
    int w = cd_input_word(&in, "callType", words);
    struct cd_str raw;

    consistent(&in, &err);
    MUST((w >= 0) == (m && in.rc == CD_OK));
    if (w >= 0)
        MUST(!strcmp(words[w], json_string_value(m)));
    in = opened(text, &err);
    if (cd_input_sdp(&in, "offer", "offer", 200, &raw)) {
        MUST(fuzz_inside(raw, text) && raw.n <= 200 && in.rc == CD_OK);
        MUST(!strcmp(json_string_value(json_object_get(o, "type")), "offer"));
        MUST(json_string_length(json_object_get(o, "sdp")) > 0);
    } else {
        MUST(!o || in.rc != CD_OK);
    }
    consistent(&in, &err);
    in = opened(text, &err);
    if (cd_input_raw(&in, "candidates", CD_JSON_ARRAY, &raw))
        MUST(json_is_array(member(j, "candidates")) && fuzz_inside(raw, text));
    else
        MUST((in.rc == CD_OK) == !member(j, "candidates"));
}

/* One finding stands: the first. */
static void first_finding(struct cd_str text)
{
    struct cd_err err;
    struct cd_input in = opened(text, &err);
    char out[TEXT], said[sizeof err.text];
    enum cd_rc rc;
    struct cd_str raw;
    long long v;
    bool on;

    cd_input_text(&in, "callId", true, out, sizeof out);
    rc = in.rc;
    memcpy(said, err.text, sizeof said);
    cd_input_int(&in, "limit", 1, 100, &v);
    cd_input_bool(&in, "enabled", &on);
    cd_input_word(&in, "callType", words);
    cd_input_sdp(&in, "offer", "offer", 200, &raw);
    consistent(&in, &err);
    MUST(rc == CD_OK || (in.rc == rc && !strcmp(said, err.text)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct cd_str text = {(const char *)data, n};
    bool valid = cd_json_valid(text, DEPTH), empty = cd_str_trim(text).n == 0;
    json_t *j = valid ? json_loadb(text.p, n, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL) : NULL;
    struct cd_err err;
    struct cd_input in = opened(text, &err);

    consistent(&in, &err);
    if (!valid)
        MUST(in.rc == (empty ? CD_OK : CD_E_NOT_JSON));
    else if (j)
        MUST(in.rc == (json_is_object(j) ? CD_OK : CD_E_BAD_JSON));
    first_finding(text);
    if (json_is_object(j)) {
        texts(text, j);
        numbers(text, j);
        choices(text, j);
    }
    json_decref(j);
    return 0;
}

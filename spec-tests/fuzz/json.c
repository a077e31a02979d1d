/* json.c -- fuzzes the JSON scanner: it agrees with jansson on grammar, members, texts, numbers. */
#include <jansson.h>

#include "base/scan.h"
#include "fuzz.h"

#define DEPTH 1000

/* jansson refuses some valid texts: numbers out of range, lone surrogates, NUL in keys. */
static bool is_limit(const json_error_t *e)
{
    enum json_error_code code = json_error_code(e);

    return code == json_error_numeric_overflow || code == json_error_null_character ||
           code == json_error_null_byte_in_key || code == json_error_stack_overflow ||
           strstr(e->text, "invalid Unicode") != NULL;
}

static void compare_text(struct cd_str value, const json_t *j)
{
    size_t n = json_string_length(j);
    char *out = malloc(value.n + 1);
    long got = cd_json_text(value, out, value.n + 1);

    if (memchr(json_string_value(j), '\0', n)) {
        MUST(got == -1);
    } else {
        MUST(got == (long)n && memcmp(out, json_string_value(j), n + 1) == 0);
        MUST(cd_json_text(value, out, n + 1) == got);
        MUST(n == 0 || cd_json_text(value, out, n) == -1);
    }
    free(out);
}

static void compare_number(struct cd_str value, const json_t *j)
{
    long long v = 77;
    bool is_int = cd_json_int(value, &v);

    if (json_is_integer(j))
        MUST(is_int && v == json_integer_value(j));
    else if (is_int)
        MUST((double)v == json_real_value(j));
    else
        MUST(v == 77);
}

static void compare(struct cd_str value, json_t *j);

static void compare_object(struct cd_str value, json_t *j)
{
    struct cd_str key, member;
    size_t pos = 0, count = 0;
    const char *name;
    json_t *inner;

    while (cd_json_member(value, &pos, &key, &member)) {
        MUST(fuzz_inside(key, value) && fuzz_inside(member, value) && pos <= value.n);
        count++;
    }
    MUST(count >= json_object_size(j) && (count == 0) == (json_object_size(j) == 0));
    json_object_foreach(j, name, inner) {
        if (strlen(name) > 40) /* longer names with escapes are nobody's */
            continue;
        MUST(cd_json_find(value, name, &member));
        compare(member, inner);
    }
}

static void compare_array(struct cd_str value, json_t *j)
{
    struct cd_str element;
    size_t pos = 0, count = 0;

    while (cd_json_element(value, &pos, &element)) {
        MUST(fuzz_inside(element, value) && pos <= value.n);
        compare(element, json_array_get(j, count++));
    }
    MUST(count == json_array_size(j));
}

static void compare(struct cd_str value, json_t *j)
{
    switch (cd_json_kind(value)) {
    case CD_JSON_OBJECT:
        MUST(json_is_object(j));
        compare_object(value, j);
        break;
    case CD_JSON_ARRAY:
        MUST(json_is_array(j));
        compare_array(value, j);
        break;
    case CD_JSON_STRING:
        MUST(json_is_string(j));
        compare_text(value, j);
        break;
    case CD_JSON_NUMBER:
        MUST(json_is_number(j));
        compare_number(value, j);
        break;
    case CD_JSON_TRUE:
        MUST(json_is_true(j));
        break;
    case CD_JSON_FALSE:
        MUST(json_is_false(j));
        break;
    case CD_JSON_NULL:
        MUST(json_is_null(j));
        break;
    case CD_JSON_BAD:
        MUST(!"a kind");
    }
}

/* The three ways to find where a value ends say the same. */
static void measure(struct cd_str text, bool valid)
{
    static const struct cd_json_pick picks[] = {CD_PICK("a"), CD_PICK("type"), CD_PICK("events")};
    size_t start = 0, again = 0, split, n = cd_json_value(text, DEPTH, &start);
    struct cd_str found[3], slow[3], value = {text.p + start, n};
    const char *behind;

    MUST(!valid || n);
    split = cd_json_split(text, &again);
    MUST(split <= text.n && (!split || again + split <= text.n));
    if (!n)
        return;
    MUST(fuzz_inside(value, text) && cd_json_valid(value, DEPTH));
    behind = value.p + value.n;
    if (behind == text.p + text.n || memchr(" \t\r\n,]}", *behind, 7))
        MUST(split == n && again == start);
    if (cd_json_kind(value) != CD_JSON_OBJECT)
        return;
    MUST(cd_json_pick(text, DEPTH, picks, 3, found, &again) == n && again == start);
    cd_json_pick_valid(value, picks, 3, slow);
    for (size_t i = 0; i < 3; i++)
        MUST(found[i].p == slow[i].p && found[i].n == slow[i].n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct cd_str text = {(const char *)data, n};
    json_error_t error;
    json_t *j;
    bool valid = cd_json_valid(text, DEPTH);

    measure(text, valid);
    if (n && memchr(data, '\0', n)) {
        MUST(!valid); /* jansson does not see a NUL behind a number */
        return 0;
    }
    j = json_loadb(text.p, n, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
    if (j)
        MUST(cd_json_valid(text, 4096));
    else
        MUST(!valid || is_limit(&error));
    if (j && valid)
        compare(cd_str_trim(text), j);
    json_decref(j);
    return 0;
}

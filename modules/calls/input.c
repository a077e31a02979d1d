/* input.c -- request members with clear errors: the text names the field and what it takes. */
#include "input.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* The first finding is the one to tell. */
__attribute__((format(printf, 3, 4))) static void wrong(struct cd_input *in, enum cd_rc rc, const char *fmt,
                                                        ...)
{
    char text[200];
    va_list ap;

    if (in->rc != CD_OK)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    in->rc = cd_fail(in->err, rc, "%s", text);
}

void cd_input_open(struct cd_input *in, struct cd_str text, unsigned max_depth, struct cd_err *err)
{
    if (cd_str_trim(text).n == 0 || cd_json_valid(text, max_depth)) {
        cd_input_open_valid(in, text, err);
        return;
    }
    cd_input_open_valid(in, CD_STR("{}"), err);
    in->rc = cd_fail(err, CD_E_NOT_JSON,
                     "The body must be one JSON text in UTF-8, nested at most %u deep.", max_depth);
}

void cd_input_open_valid(struct cd_input *in, struct cd_str text, struct cd_err *err)
{
    text = cd_str_trim(text);
    in->text = text.n ? text : CD_STR("{}");
    in->err = err;
    in->rc = CD_OK;
    in->n_known = 0;
    in->indexed = in->searched = false;
    if (cd_json_kind(in->text) != CD_JSON_OBJECT) {
        in->rc = cd_fail(err, CD_E_BAD_JSON, "The body must be a JSON object.");
        in->text = CD_STR("{}");
    }
}

/* An operation asks for several members: the text is stepped through once for all of them. */
static void index_members(struct cd_input *in)
{
    struct cd_str name, value;
    size_t pos = 0;

    in->indexed = true;
    while (!in->searched && cd_json_member(in->text, &pos, &name, &value)) {
        in->searched = in->n_known == CD_INPUT_KNOWN || memchr(name.p, '\\', name.n);
        if (in->searched)
            break;
        in->known[in->n_known].name = name;
        in->known[in->n_known++].value = value;
    }
}

bool cd_input_member(struct cd_input *in, const char *name, struct cd_str *value)
{
    struct cd_str wanted = cd_str_of(name);

    if (!in->indexed)
        index_members(in);
    if (in->searched)
        return cd_json_find(in->text, name, value);
    for (size_t i = in->n_known; i-- > 0;) {
        if (cd_str_eq(in->known[i].name, wanted)) {
            *value = in->known[i].value;
            return true;
        }
    }
    return false;
}

/* A member that is there and not null. */
static bool find(struct cd_input *in, const char *name, struct cd_str *value)
{
    return cd_input_member(in, name, value) && cd_json_kind(*value) != CD_JSON_NULL;
}

void cd_input_text(struct cd_input *in, const char *name, bool required, char *out, size_t size)
{
    struct cd_str v;

    out[0] = '\0';
    if (!find(in, name, &v)) {
        if (required)
            wrong(in, CD_E_MISSING_PARAM, "%s is required.", name);
        return;
    }
    enum cd_rc rc = cd_json_kind(v) == CD_JSON_STRING ? CD_E_INVALID_PARAM : CD_E_BAD_JSON;
    if (rc == CD_E_INVALID_PARAM && cd_json_text(v, out, size) > 0)
        return;
    out[0] = '\0';
    wrong(in, rc, "%s must be a string of 1 to %zu bytes.", name, size - 1);
}

bool cd_input_bool(struct cd_input *in, const char *name, bool *out)
{
    struct cd_str v;

    if (!find(in, name, &v))
        return false;
    enum cd_json_kind kind = cd_json_kind(v);
    if (kind != CD_JSON_TRUE && kind != CD_JSON_FALSE) {
        wrong(in, CD_E_BAD_JSON, "%s must be %s.", name, "true or false");
        return false;
    }
    *out = kind == CD_JSON_TRUE;
    return true;
}

bool cd_input_int(struct cd_input *in, const char *name, long long min, long long max, long long *out)
{
    struct cd_str v;
    char what[80];

    if (!find(in, name, &v))
        return false;
    snprintf(what, sizeof(what), "a whole number from %lld to %lld", min, max);
    if (cd_json_kind(v) != CD_JSON_NUMBER) {
        wrong(in, CD_E_BAD_JSON, "%s must be %s.", name, what);
        return false;
    }
    if (!cd_json_int(v, out) || *out < min || *out > max) {
        wrong(in, CD_E_INVALID_PARAM, "%s must be %s.", name, what);
        return false;
    }
    return true;
}

bool cd_input_raw(struct cd_input *in, const char *name, enum cd_json_kind kind, struct cd_str *out)
{
    if (!find(in, name, out))
        return false;
    if (cd_json_kind(*out) == kind)
        return true;
    wrong(in, CD_E_BAD_JSON, "%s must be %s.", name, kind == CD_JSON_ARRAY ? "an array" : "an object");
    return false;
}

int cd_input_word(struct cd_input *in, const char *name, const char *const *names)
{
    char word[64], what[200] = "one of";
    struct cd_str v;

    if (!find(in, name, &v))
        return -1;
    for (size_t i = 0; names[i]; i++) {
        size_t n = strlen(what);
        snprintf(what + n, sizeof(what) - n, " %s", names[i]);
    }
    if (cd_json_kind(v) != CD_JSON_STRING) {
        wrong(in, CD_E_BAD_JSON, "%s must be %s.", name, what);
        return -1;
    }
    if (cd_json_text(v, word, sizeof(word)) > 0)
        for (int i = 0; names[i]; i++)
            if (strcmp(names[i], word) == 0)
                return i;
    wrong(in, CD_E_INVALID_PARAM, "%s must be %s.", name, what);
    return -1;
}

bool cd_input_is_text(struct cd_str value)
{
    char *text;
    bool good;

    if (!memmem(value.p, value.n, "\\u", 2)) /* only escapes can stand for what is no text */
        return true;
    text = malloc(value.n);
    good = text && cd_json_text(value, text, value.n) >= 0;
    free(text);
    return good;
}

bool cd_input_sdp(struct cd_input *in, const char *name, const char *type, size_t max, struct cd_str *out)
{
    struct cd_str t, sdp;

    if (!cd_input_raw(in, name, CD_JSON_OBJECT, out))
        return false;
    if (out->n > max) {
        wrong(in, CD_E_TOO_LARGE, "%s is larger than limits.sdp_bytes allows.", name);
        return false;
    }
    if (!cd_json_find(*out, "sdp", &sdp) || cd_json_kind(sdp) != CD_JSON_STRING ||
        !cd_json_find(*out, "type", &t) || cd_json_kind(t) != CD_JSON_STRING) {
        wrong(in, CD_E_BAD_JSON, "%s must be {\"type\": \"%s\", \"sdp\": \"...\"}.", name, type);
        return false;
    }
    if (t.n != strlen(type) + 2 || memcmp(t.p + 1, type, t.n - 2) != 0 || sdp.n <= 2) {
        wrong(in, CD_E_INVALID_PARAM, "%s.type must be \"%s\" and sdp not empty.", name, type);
        return false;
    }
    if (!cd_input_is_text(sdp)) {
        wrong(in, CD_E_INVALID_PARAM, "%s.sdp must be text, without \\u0000 and lone surrogates.", name);
        return false;
    }
    return true;
}

/* input.c -- request members with clear errors: the text names the field and what it takes. */
#include "input.h"

#include <stdarg.h>
#include <stdio.h>

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
    text = cd_str_trim(text);
    *in = (struct cd_input){.text = text, .err = err, .rc = CD_OK};
    if (text.n == 0) {
        in->text = CD_STR("{}");
        return;
    }
    if (!cd_json_valid(text, max_depth)) {
        in->rc = cd_fail(err, CD_E_NOT_JSON,
                         "The body must be one JSON text in UTF-8, nested at most %u deep.", max_depth);
        in->text = CD_STR("{}");
    } else if (cd_json_kind(text) != CD_JSON_OBJECT) {
        in->rc = cd_fail(err, CD_E_BAD_JSON, "The body must be a JSON object.");
        in->text = CD_STR("{}");
    }
}

/* A member that is there and not null. */
static bool find(struct cd_input *in, const char *name, struct cd_str *value)
{
    return cd_json_find(in->text, name, value) && cd_json_kind(*value) != CD_JSON_NULL;
}

void cd_input_text(struct cd_input *in, const char *name, bool required, char *out, size_t size)
{
    struct cd_str v;
    char what[64];

    out[0] = '\0';
    if (!find(in, name, &v)) {
        if (required)
            wrong(in, CD_E_MISSING_PARAM, "%s is required.", name);
        return;
    }
    snprintf(what, sizeof(what), "a string of 1 to %zu bytes", size - 1);
    if (cd_json_kind(v) != CD_JSON_STRING) {
        wrong(in, CD_E_BAD_JSON, "%s must be %s.", name, what);
    } else if (cd_json_text(v, out, size) <= 0) {
        out[0] = '\0';
        wrong(in, CD_E_INVALID_PARAM, "%s must be %s.", name, what);
    }
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
    return true;
}

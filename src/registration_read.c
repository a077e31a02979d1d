/* registration_read.c -- reads what the daemon needs from a registration file.
 *
 * In:     a path.
 * Out:    id, url, tokens and sender; or file, line and what is wrong.
 * Why:    the file is a dozen top-level lines in every homeserver's documentation; a YAML library
 *         would bring far more than that. What this does not understand it names instead of
 *         guessing.
 * Blocks: reads one file; at start and reload only. */
#include "registration.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"

#define LINE_MAX_BYTES 4096

struct where {
    const char *path;
    unsigned line;
    struct cd_err *err;
};

static enum cd_rc wrong(const struct where *w, const char *what)
{
    return cd_fail(w->err, CD_E_INVALID_PARAM, "%s:%u: %s", w->path, w->line, what);
}

static char **field_for(struct cd_registration *r, struct cd_str key)
{
    if (cd_str_is(key, "id"))
        return &r->id;
    if (cd_str_is(key, "url"))
        return &r->url;
    if (cd_str_is(key, "as_token"))
        return &r->as_token;
    if (cd_str_is(key, "hs_token"))
        return &r->hs_token;
    return cd_str_is(key, "sender_localpart") ? &r->sender_localpart : NULL;
}

/* After a value only blanks and a comment may stand. */
static bool ends(struct cd_str rest)
{
    rest = cd_str_trim(rest);
    return rest.n == 0 || rest.p[0] == '#';
}

/* 'text' with '' for a quote, or "text" with \" and \\. @return NULL: broken or anything fancier */
static char *quoted(struct cd_str v)
{
    char quote = v.p[0], *out = malloc(v.n);
    size_t at = 1, n = 0;

    while (out && at < v.n) {
        char c = v.p[at++];

        if (quote == '"' && c == '\\') {
            if (at >= v.n || (v.p[at] != '"' && v.p[at] != '\\' && v.p[at] != '/'))
                break;
            c = v.p[at++];
        } else if (c == quote) {
            if (quote == '\'' && at < v.n && v.p[at] == '\'') {
                at++;
            } else if (ends((struct cd_str){v.p + at, v.n - at})) {
                out[n] = '\0';
                return out;
            } else {
                break;
            }
        }
        out[n++] = c;
    }
    free(out);
    return NULL;
}

static struct cd_str without_comment(struct cd_str v)
{
    for (size_t i = 1; i < v.n; i++) {
        if (v.p[i] == '#' && (v.p[i - 1] == ' ' || v.p[i - 1] == '\t'))
            return cd_str_trim((struct cd_str){v.p, i - 1});
    }
    return v;
}

static enum cd_rc read_value(const struct where *w, struct cd_str v, char **out)
{
    v = cd_str_trim(v);
    if (v.n == 0 || v.p[0] == '#')
        return CD_OK; /* null */
    if (v.p[0] == '\'' || v.p[0] == '"') {
        *out = quoted(v);
        return *out ? CD_OK : wrong(w, "this quoted text does not end, or is written in a way "
                                       "that is not understood here");
    }
    if (strchr("|>&*!{[%@`", v.p[0]))
        return wrong(w, "write this value as plain or quoted text on one line");
    v = without_comment(v);
    if (cd_str_is(v, "null") || cd_str_is(v, "~") || cd_str_is(v, "Null") || cd_str_is(v, "NULL"))
        return CD_OK;
    *out = strndup(v.p, v.n);
    return *out ? CD_OK : wrong(w, "out of memory");
}

static enum cd_rc read_line(const struct where *w, struct cd_str line, struct cd_registration *r)
{
    const char *colon = memchr(line.p, ':', line.n);
    struct cd_str key;
    char **field;

    if (line.n == 0 || strchr(" \t#-.%", line.p[0]))
        return CD_OK; /* nested, comment, document mark */
    if (line.p[0] == '{')
        return wrong(w, "write one key a line");
    if (!colon || ((size_t)(colon - line.p) + 1 < line.n && colon[1] != ' ' && colon[1] != '\t'))
        return wrong(w, "expected `key: value`");
    key = cd_str_trim((struct cd_str){line.p, (size_t)(colon - line.p)});
    if (key.n >= 2 && (key.p[0] == '"' || key.p[0] == '\'') && key.p[key.n - 1] == key.p[0])
        key = (struct cd_str){key.p + 1, key.n - 2};
    field = field_for(r, key);
    if (!field)
        return CD_OK;
    if (*field)
        return wrong(w, "this key stands here a second time");
    return read_value(w, (struct cd_str){colon + 1, line.n - (size_t)(colon - line.p) - 1}, field);
}

static enum cd_rc read_lines(FILE *f, struct where *w, struct cd_registration *r)
{
    char text[LINE_MAX_BYTES];
    enum cd_rc rc = CD_OK;

    while (rc == CD_OK && fgets(text, sizeof text, f)) {
        struct cd_str line = cd_str_of(text);

        w->line++;
        if (w->line == 1 && cd_str_starts(line, "\xef\xbb\xbf"))
            line = (struct cd_str){line.p + 3, line.n - 3};
        if (line.n == sizeof text - 1 && line.p[line.n - 1] != '\n')
            return wrong(w, "this line is too long");
        while (line.n && strchr("\r\n \t", line.p[line.n - 1]))
            line.n--;
        rc = read_line(w, line, r);
    }
    explicit_bzero(text, sizeof text);
    return rc;
}

static enum cd_rc require(const char *path, const char *name, const char *value, struct cd_err *err)
{
    if (value && *value)
        return CD_OK;
    return cd_fail(err, CD_E_INVALID_PARAM, "%s: no %s; is this a registration file?", path, name);
}

enum cd_rc cd_registration_read(const char *path, struct cd_registration *out, struct cd_err *err)
{
    struct where w = {path, 0, err};
    FILE *f = fopen(path, "re");
    enum cd_rc rc;

    memset(out, 0, sizeof *out);
    if (!f)
        return cd_fail(err, CD_E_INVALID_PARAM, "cannot read %s: %s", path, strerror(errno));
    rc = read_lines(f, &w, out);
    if (rc == CD_OK && ferror(f))
        rc = cd_fail(err, CD_E_INVALID_PARAM, "cannot read %s: %s", path, strerror(errno));
    fclose(f);
    if (rc == CD_OK)
        rc = require(path, "id", out->id, err);
    if (rc == CD_OK)
        rc = require(path, "as_token", out->as_token, err);
    if (rc == CD_OK)
        rc = require(path, "hs_token", out->hs_token, err);
    if (rc != CD_OK)
        cd_registration_done(out);
    return rc;
}

static void free_secret(char *s)
{
    if (s)
        explicit_bzero(s, strlen(s));
    free(s);
}

void cd_registration_done(struct cd_registration *r)
{
    free(r->id);
    free(r->url);
    free_secret(r->as_token);
    free_secret(r->hs_token);
    free(r->sender_localpart);
    memset(r, 0, sizeof *r);
}

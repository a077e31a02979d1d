/* router.c -- routing on the raw path: split on raw slashes, then decode each segment.
 * Why: decoding first turns %2F into a separator and lets %00 cut a path short.
 * State: compiled rows, fixed after start. Pure otherwise. */
#include "in/router.h"

#include <stdlib.h>
#include <string.h>

#include "base/str.h"

#define ROWS_MAX 1024

enum kind { LITERAL, PARAM, REST };

struct segment {
    enum kind kind;
    struct cd_str text;
};

struct row {
    const struct cd_route *route;
    void *self;
    unsigned n;
    struct segment seg[CD_PATH_SEGMENTS];
};

struct cd_router {
    struct row *rows;
    size_t n, cap;
};

/* A request path, split and decoded. */
struct path {
    unsigned n;
    struct cd_str seg[CD_PATH_SEGMENTS];
    const char *raw_rest[CD_PATH_SEGMENTS]; /* where segment i starts in the raw path */
};

struct cd_router *cd_router_new(void)
{
    return calloc(1, sizeof(struct cd_router));
}

void cd_router_free(struct cd_router *r)
{
    if (!r)
        return;
    free(r->rows);
    free(r);
}

/* --- compiling ----------------------------------------------------------------------- */

static bool compile(struct row *row)
{
    const char *p = row->route->path;
    unsigned params = 0;

    if (*p != '/')
        return false;
    while (*p == '/') {
        size_t n = strcspn(++p, "/");
        struct segment *seg = &row->seg[row->n];

        if (row->n++ == CD_PATH_SEGMENTS || (row->n > 1 && seg[-1].kind == REST))
            return false;
        seg->kind = *p == ':' ? PARAM : *p == '*' ? REST : LITERAL;
        seg->text = (struct cd_str){p, n};
        params += seg->kind != LITERAL;
        p += n;
    }
    return params <= CD_PATH_PARAMS;
}

static bool same_place(const struct row *a, const struct row *b)
{
    if (!(a->route->roles & b->route->roles) || a->n != b->n ||
        strcmp(a->route->method, b->route->method) != 0)
        return false;
    for (unsigned i = 0; i < a->n; i++) {
        if (a->seg[i].kind != b->seg[i].kind)
            return false;
        if (a->seg[i].kind == LITERAL && !cd_str_eq(a->seg[i].text, b->seg[i].text))
            return false;
    }
    return true;
}

static enum cd_rc add_row(struct cd_router *r, const struct cd_route *route, void *self)
{
    struct row row = {.route = route, .self = self};

    if (!route->method || !route->handle || !route->roles || !compile(&row))
        return CD_E_INTERNAL;
    for (size_t i = 0; i < r->n; i++) {
        if (same_place(&r->rows[i], &row))
            return CD_E_INTERNAL;
    }
    if (r->n == r->cap) {
        size_t cap = r->cap ? r->cap * 2 : 64;
        struct row *rows = cap > ROWS_MAX ? NULL : realloc(r->rows, cap * sizeof(*rows));

        if (!rows)
            return CD_E_INTERNAL;
        r->rows = rows;
        r->cap = cap;
    }
    r->rows[r->n++] = row;
    return CD_OK;
}

enum cd_rc cd_router_add(struct cd_router *r, const struct cd_route *routes, void *self)
{
    for (; routes->path; routes++) {
        enum cd_rc rc = add_row(r, routes, self);

        if (rc != CD_OK)
            return rc;
    }
    return CD_OK;
}

/* --- matching ------------------------------------------------------------------------ */

/* Split and decode into @p text, which holds path.n + 1 bytes at least. */
static enum cd_rc split(struct cd_str path, char *text, struct path *out)
{
    const char *p = path.p;
    const char *end = path.p + path.n;

    out->n = 0;
    while (p < end && *p == '/' && out->n < CD_PATH_SEGMENTS) { /* deeper: for a *rest row only */
        const char *start = p + 1;
        const char *slash = memchr(start, '/', (size_t)(end - start));
        struct cd_str raw = {start, (size_t)((slash ? slash : end) - start)};
        long n = cd_percent_decode(raw, false, text, raw.n + 1);

        if (n < 0 || !cd_utf8_valid(text, (size_t)n))
            return CD_E_INVALID_PARAM;
        out->raw_rest[out->n] = start;
        out->seg[out->n++] = (struct cd_str){text, (size_t)n};
        text += n + 1;
        p = start + raw.n;
    }
    return out->n ? CD_OK : CD_E_UNRECOGNIZED;
}

/* A specificity: the higher the better, 0 no match. Literals weigh more the further left. */
static unsigned long score(const struct row *row, const struct path *path, bool whole)
{
    unsigned long sum = 1;
    bool rest = row->seg[row->n - 1].kind == REST;

    if (rest ? path->n < row->n : path->n != row->n || !whole)
        return 0;
    for (unsigned i = 0; i < row->n; i++) {
        if (row->seg[i].kind == LITERAL) {
            if (!cd_str_eq(row->seg[i].text, path->seg[i]))
                return 0;
        } else if (row->seg[i].kind == PARAM && path->seg[i].n == 0) {
            return 0; /* nobody is called "" */
        }
        sum = sum * 3 + (row->seg[i].kind == LITERAL ? 2 : row->seg[i].kind == PARAM ? 1 : 0);
    }
    for (unsigned i = row->n; i < CD_PATH_SEGMENTS; i++)
        sum *= 3;
    return sum;
}

/* Does the path go on after the segments that were split off? */
static bool is_whole(struct cd_str path, const struct path *split_path)
{
    unsigned slashes = 0;

    for (size_t i = 0; i < path.n; i++)
        slashes += path.p[i] == '/';
    return slashes == split_path->n;
}

/* The most specific shape that the path has, whatever the method: what a POST-only literal names is
 * that resource, and no parameter's value for another method. @return its score, 0: unknown */
static unsigned long best_shape(const struct cd_router *r, enum cd_role role,
                                const struct path *path, bool whole)
{
    unsigned long top = 0;

    for (size_t i = 0; i < r->n; i++) {
        unsigned long s = r->rows[i].route->roles & (unsigned)role ? score(&r->rows[i], path, whole)
                                                                   : 0;

        if (s > top)
            top = s;
    }
    return top;
}

/* The row of that shape for the method; equal scores of one path are equal shapes. */
static const struct row *row_for(const struct cd_router *r, enum cd_role role, const char *method,
                                 const struct path *path, bool whole, unsigned long shape)
{
    for (size_t i = 0; i < r->n; i++) {
        const struct row *row = &r->rows[i];

        if (row->route->roles & (unsigned)role && strcmp(row->route->method, method) == 0 &&
            score(row, path, whole) == shape)
            return row;
    }
    return NULL;
}

/* Point the parameters at the decoded segments; a *rest is decoded anew, slashes and all. */
static enum cd_rc bind_params(const struct row *row, const struct path *path, struct cd_str raw,
                              char *spare, struct cd_match *out)
{
    for (unsigned i = 0; i < row->n; i++) {
        struct cd_str rest;

        if (row->seg[i].kind == LITERAL)
            continue;
        if (row->seg[i].kind == PARAM) {
            out->params[out->param_n++] = path->seg[i].p;
            continue;
        }
        rest = (struct cd_str){path->raw_rest[i],
                               raw.n - (size_t)(path->raw_rest[i] - raw.p)};
        if (cd_percent_decode(rest, false, spare, rest.n + 1) < 0 ||
            !cd_utf8_valid(spare, strlen(spare)))
            return CD_E_INVALID_PARAM;
        out->params[out->param_n++] = spare;
    }
    return CD_OK;
}

enum cd_rc cd_router_match(const struct cd_router *r, enum cd_role role, const char *method,
                           struct cd_str path, struct cd_match *out)
{
    struct path parts;
    const struct row *row = NULL;
    unsigned long shape;
    bool whole;
    enum cd_rc rc;

    *out = (struct cd_match){0};
    if (path.n > CD_PATH_MAX)
        return CD_E_UNRECOGNIZED;
    out->text = malloc(2 * path.n + CD_PATH_SEGMENTS + 2);
    if (!out->text)
        return CD_E_NO_MEMORY;
    rc = split(path, out->text, &parts);
    if (rc == CD_OK) {
        whole = is_whole(path, &parts);
        shape = best_shape(r, role, &parts, whole);
        if (shape)
            row = row_for(r, role, method, &parts, whole, shape);
        if (shape && !row && strcmp(method, "HEAD") == 0)
            row = row_for(r, role, "GET", &parts, whole, shape);
        if (row) {
            out->route = row->route;
            out->self = row->self;
            rc = bind_params(row, &parts, path, out->text + path.n + CD_PATH_SEGMENTS, out);
        } else {
            rc = shape ? CD_E_METHOD : CD_E_UNRECOGNIZED;
        }
    }
    if (rc != CD_OK)
        cd_match_done(out);
    return rc;
}

void cd_match_done(struct cd_match *m)
{
    free(m->text);
    *m = (struct cd_match){0};
}

void cd_router_allow(const struct cd_router *r, enum cd_role role, struct cd_str path,
                     struct cd_buf *out)
{
    static const char *const methods[] = {"GET", "POST", "PUT", "PATCH", "DELETE"};
    struct path parts;
    char *text;

    if (path.n > CD_PATH_MAX)
        return;
    text = malloc(path.n + CD_PATH_SEGMENTS + 1);
    if (text && split(path, text, &parts) == CD_OK) {
        bool whole = is_whole(path, &parts);
        unsigned long shape = best_shape(r, role, &parts, whole);

        for (size_t i = 0; shape && i < sizeof(methods) / sizeof(methods[0]); i++) {
            if (row_for(r, role, methods[i], &parts, whole, shape))
                cd_buf_addf(out, "%s, %s", methods[i], i == 0 ? "HEAD, " : "");
        }
        if (shape)
            cd_buf_adds(out, "OPTIONS");
    }
    free(text);
}

/* http_head.c -- what a request's head says of itself: lines of one name, and where its body ends.
 * In: the headers that libmicrohttpd has read. Out: values, verdicts.
 * Why: two readings of a head are how a request is smuggled past a proxy; libmicrohttpd reads on where
 *      RFC 9112 demands a refusal.
 * State: none. Blocks: never. */
#include <string.h>
#include <strings.h>

#include "base/scan.h"
#include "in/classify.h"
#include "in/http_priv.h"

struct lines {
    const char *name;
    char *out;
    size_t n, size;
    unsigned count;
};

static void add_line(void *arg, const char *name, const char *value)
{
    struct lines *l = arg;
    size_t n = strlen(value);

    if (strcasecmp(name, l->name) != 0)
        return;
    l->count++;
    while (l->n > 0 && n + 2 > l->size - l->n) /* too long: the first ones go, which say least */
        memmove(l->out, l->out + 1, --l->n);
    if (n + 2 > l->size)
        return;
    if (l->n > 0)
        l->out[l->n++] = ',';
    memcpy(l->out + l->n, value, n);
    l->n += n;
}

unsigned cd_http_header_all(const struct cd_req *req, const char *name, char *out, size_t size)
{
    struct lines l = {.name = name, .out = out, .size = size};

    cd_http_each_header(req, add_line, &l);
    if (size)
        out[l.n] = '\0';
    return l.count;
}

static void check_name(void *arg, const char *name, const char *value)
{
    bool *good = arg;

    (void)value;
    *good &= cd_is_header_name(cd_str_of(name));
}

bool cd_http_names_are_sound(const struct cd_req *req)
{
    bool good = true;

    cd_http_each_header(req, check_name, &good);
    return good;
}

bool cd_http_framing(const struct cd_req *req, bool *chunked, uint64_t *bytes)
{
    const char *length = cd_http_header(req, "Content-Length");
    const char *coding = cd_http_header(req, "Transfer-Encoding");

    *chunked = coding != NULL;
    *bytes = 0;
    if (coding)
        return !length && strcasecmp(coding, "chunked") == 0 &&
               cd_http_header_all(req, "Transfer-Encoding", NULL, 0) == 1;
    return !length || (cd_http_header_all(req, "Content-Length", NULL, 0) == 1 &&
                       cd_parse_u64(cd_str_of(length), 0, UINT64_MAX, bytes));
}

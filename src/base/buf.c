/* buf.c -- growing byte buffer. */
#include "base/buf.h"

#include <stdio.h>
#include <stdlib.h>

void cd_buf_init(struct cd_buf *b, size_t max)
{
    *b = (struct cd_buf){.max = max};
}

void cd_buf_done(struct cd_buf *b)
{
    free(b->p);
    *b = (struct cd_buf){.max = b->max};
}

void cd_buf_reset(struct cd_buf *b)
{
    b->n = 0;
    b->failed = b->no_memory = false;
    if (b->p)
        b->p[0] = '\0';
}

/* Room for n more bytes and the NUL. */
static bool reserve(struct cd_buf *b, size_t n)
{
    if (b->failed)
        return false;
    if (n > b->max || b->n > b->max - n) {
        b->failed = true;
        return false;
    }
    size_t need = b->n + n + 1;
    if (need <= b->cap)
        return true;

    size_t cap = b->cap ? b->cap : 64;
    while (cap < need)
        cap += cap / 2 + 16;
    if (cap > b->max + 1)
        cap = b->max + 1;
    char *p = realloc(b->p, cap);
    if (!p) {
        b->failed = b->no_memory = true;
        return false;
    }
    b->p = p;
    b->cap = cap;
    return true;
}

void cd_buf_add(struct cd_buf *b, const void *p, size_t n)
{
    if (!reserve(b, n))
        return;
    if (n)
        memcpy(b->p + b->n, p, n);
    b->n += n;
    b->p[b->n] = '\0';
}

void cd_buf_adds(struct cd_buf *b, const char *s)
{
    cd_buf_add(b, s, strlen(s));
}

void cd_buf_addc(struct cd_buf *b, char c)
{
    cd_buf_add(b, &c, 1);
}

void cd_buf_add_i64(struct cd_buf *b, int64_t v)
{
    char digits[24];
    char *end = digits + sizeof(digits), *p = end;
    uint64_t u = v < 0 ? 0 - (uint64_t)v : (uint64_t)v;

    do {
        *--p = (char)('0' + u % 10);
        u /= 10;
    } while (u);
    if (v < 0)
        *--p = '-';
    cd_buf_add(b, p, (size_t)(end - p));
}

void cd_buf_addf(struct cd_buf *b, const char *fmt, ...)
{
    va_list ap;
    char small[256];

    va_start(ap, fmt);
    int n = vsnprintf(small, sizeof(small), fmt, ap);
    va_end(ap);
    if (n < 0) {
        b->failed = true;
        return;
    }
    if ((size_t)n < sizeof(small)) {
        cd_buf_add(b, small, (size_t)n);
        return;
    }
    if (!reserve(b, (size_t)n))
        return;
    va_start(ap, fmt);
    vsnprintf(b->p + b->n, (size_t)n + 1, fmt, ap);
    va_end(ap);
    b->n += (size_t)n;
}

/* Length of the valid UTF-8 sequence at p, 0 when it is none. */
static size_t utf8_sequence(const unsigned char *p, size_t n)
{
    size_t len = p[0] < 0x80 ? 1 : p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : p[0] < 0xf5 ? 4 : 0;

    if (len == 0 || len > n || !cd_utf8_valid((const char *)p, len))
        return 0;
    return len;
}

static void add_json_special(struct cd_buf *b, unsigned char c)
{
    static const char hex[] = "0123456789abcdef";

    switch (c) {
    case '"':
        cd_buf_add(b, "\\\"", 2);
        break;
    case '\\':
        cd_buf_add(b, "\\\\", 2);
        break;
    case '\n':
        cd_buf_add(b, "\\n", 2);
        break;
    case '\r':
        cd_buf_add(b, "\\r", 2);
        break;
    case '\t':
        cd_buf_add(b, "\\t", 2);
        break;
    default: {
        char esc[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};
        cd_buf_add(b, esc, sizeof(esc));
    }
    }
}

/* What does not stand for itself: quotes, controls, and what may be no UTF-8. */
static const bool json_special[256] = {
    [0 ... 0x1f] = true, ['"'] = true, ['\\'] = true, [0x7f ... 0xff] = true};

void cd_buf_add_json(struct cd_buf *b, struct cd_str s)
{
    const unsigned char *p = (const unsigned char *)s.p;
    size_t i = 0, run = 0; /* run: start of what can be copied as it is */

    cd_buf_addc(b, '"');
    while (i < s.n) {
        while (i < s.n && !json_special[p[i]])
            i++;
        if (i == s.n)
            break;
        size_t len = p[i] >= 0x80 ? utf8_sequence(p + i, s.n - i) : 0;
        if (len) {
            i += len;
            continue;
        }
        cd_buf_add(b, p + run, i - run);
        if (p[i] >= 0x80)
            cd_buf_add(b, "\xef\xbf\xbd", 3);
        else
            add_json_special(b, p[i]);
        run = ++i;
    }
    cd_buf_add(b, p + run, i - run);
    cd_buf_addc(b, '"');
}

void cd_buf_add_jsons(struct cd_buf *b, const char *s)
{
    if (s)
        cd_buf_add_json(b, cd_str_of(s));
    else
        cd_buf_adds(b, "null");
}

void cd_buf_add_segment(struct cd_buf *b, struct cd_str s)
{
    static const char hex[] = "0123456789ABCDEF";

    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                     c == '-' || c == '.' || c == '_' || c == '~';
        char esc[3] = {'%', hex[c >> 4], hex[c & 15]};

        if (plain)
            cd_buf_addc(b, (char)c);
        else
            cd_buf_add(b, esc, 3);
    }
}

void cd_buf_consume(struct cd_buf *b, size_t n)
{
    if (n >= b->n) {
        b->n = 0;
    } else {
        memmove(b->p, b->p + n, b->n - n);
        b->n -= n;
    }
    if (b->p)
        b->p[b->n] = '\0';
}

char *cd_buf_steal(struct cd_buf *b, size_t *out_n)
{
    char *p = NULL;

    if (!b->failed && reserve(b, 0)) {
        p = b->p;
        p[b->n] = '\0';
        if (out_n)
            *out_n = b->n;
        b->p = NULL;
    }
    cd_buf_done(b);
    return p;
}

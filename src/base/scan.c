/* scan.c -- checks JSON text without building anything: grammar, UTF-8, depth.
 *
 * In:     bytes from the network.
 * Out:    yes or no, the length of a value, the top-level members somebody asked for.
 * Why:    most of what arrives is of no interest; a tree for each event would cost ten times more.
 * State:  none; the nesting is a bit a level on the C stack.
 * Blocks: never; time is linear in the input. */
#include "base/scan.h"

#include <stdint.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

/* One bit a level says "object"; deeper texts are refused whatever the caller allows. */
#define DEPTH_HARD_CAP 4096U

struct cur {
    const unsigned char *p, *end;
};

/* Bytes that end a run of plain string characters. */
static inline bool is_special(unsigned char c)
{
    return c == '"' || c == '\\' || c < 0x20 || c >= 0x80;
}

static inline void skip_plain(struct cur *c)
{
#ifdef __SSE2__
    const __m128i quote = _mm_set1_epi8('"');
    const __m128i slash = _mm_set1_epi8('\\');
    const __m128i control = _mm_set1_epi8(0x1f);

    while (c->end - c->p >= 16) {
        __m128i v = _mm_loadu_si128((const __m128i *)(const void *)c->p);
        __m128i bad = _mm_or_si128(_mm_cmpeq_epi8(v, quote), _mm_cmpeq_epi8(v, slash));
        unsigned mask;

        bad = _mm_or_si128(bad, _mm_cmpeq_epi8(_mm_min_epu8(v, control), v));
        /* v itself: its sign bits are the bytes of multi-byte characters */
        mask = (unsigned)_mm_movemask_epi8(_mm_or_si128(bad, v));
        if (mask) {
            c->p += __builtin_ctz(mask);
            return;
        }
        c->p += 16;
    }
#endif
    while (c->p < c->end && !is_special(*c->p))
        c->p++;
}

static inline bool is_hex(unsigned char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* At the backslash. */
static bool scan_escape(struct cur *c)
{
    if (c->end - c->p < 2)
        return false;
    switch (c->p[1]) {
    case '"': case '\\': case '/': case 'b': case 'f': case 'n': case 'r': case 't':
        c->p += 2;
        return true;
    case 'u':
        if (c->end - c->p < 6 || !is_hex(c->p[2]) || !is_hex(c->p[3]) || !is_hex(c->p[4]) ||
            !is_hex(c->p[5]))
            return false;
        c->p += 6;
        return true;
    default:
        return false;
    }
}

static inline bool is_cont(unsigned char c)
{
    return (c & 0xC0) == 0x80;
}

/* At a byte >= 0x80: one well-formed character (Unicode table 3-7). */
static bool scan_utf8(struct cur *c)
{
    const unsigned char *p = c->p;
    ptrdiff_t left = c->end - p;

    if (p[0] >= 0xC2 && p[0] <= 0xDF) {
        if (left < 2 || !is_cont(p[1]))
            return false;
        c->p += 2;
        return true;
    }
    if (p[0] >= 0xE0 && p[0] <= 0xEF) {
        if (left < 3 || !is_cont(p[1]) || !is_cont(p[2]) || (p[0] == 0xE0 && p[1] < 0xA0) ||
            (p[0] == 0xED && p[1] > 0x9F))
            return false;
        c->p += 3;
        return true;
    }
    if (p[0] >= 0xF0 && p[0] <= 0xF4) {
        if (left < 4 || !is_cont(p[1]) || !is_cont(p[2]) || !is_cont(p[3]) ||
            (p[0] == 0xF0 && p[1] < 0x90) || (p[0] == 0xF4 && p[1] > 0x8F))
            return false;
        c->p += 4;
        return true;
    }
    return false;
}

/* At the opening quote; ends behind the closing one. */
static bool scan_string(struct cur *c)
{
    c->p++;
    for (;;) {
        skip_plain(c);
        if (c->p >= c->end)
            return false;
        if (*c->p == '"') {
            c->p++;
            return true;
        }
        if (*c->p == '\\') {
            if (!scan_escape(c))
                return false;
        } else if (*c->p < 0x20 || !scan_utf8(c)) {
            return false;
        }
    }
}

static inline bool is_digit(const struct cur *c)
{
    return c->p < c->end && *c->p >= '0' && *c->p <= '9';
}

static bool scan_digits(struct cur *c)
{
    if (!is_digit(c))
        return false;
    while (is_digit(c))
        c->p++;
    return true;
}

static bool scan_number(struct cur *c)
{
    if (*c->p == '-')
        c->p++;
    if (!is_digit(c))
        return false;
    if (*c->p == '0')
        c->p++;
    else
        (void)scan_digits(c);
    if (c->p < c->end && *c->p == '.') {
        c->p++;
        if (!scan_digits(c))
            return false;
    }
    if (c->p < c->end && (*c->p == 'e' || *c->p == 'E')) {
        c->p++;
        if (c->p < c->end && (*c->p == '+' || *c->p == '-'))
            c->p++;
        return scan_digits(c);
    }
    return true;
}

static bool scan_word(struct cur *c, const char *word, size_t n)
{
    if ((size_t)(c->end - c->p) < n || memcmp(c->p, word, n) != 0)
        return false;
    c->p += n;
    return true;
}

static bool scan_scalar(struct cur *c)
{
    switch (*c->p) {
    case '"':
        return scan_string(c);
    case 't':
        return scan_word(c, "true", 4);
    case 'f':
        return scan_word(c, "false", 5);
    case 'n':
        return scan_word(c, "null", 4);
    default:
        return scan_number(c);
    }
}

static inline void skip_space(struct cur *c)
{
    while (c->p < c->end && (*c->p == ' ' || *c->p == '\n' || *c->p == '\r' || *c->p == '\t'))
        c->p++;
}

/* What scan_tree knows while it walks. */
struct tree {
    unsigned depth, max_depth;
    uint64_t object[DEPTH_HARD_CAP / 64]; /* bit (depth - 1): that level is an object */
    const struct cd_json_pick *picks;     /* members of level 1 to remember */
    size_t n_picks;
    struct cd_str *found;
    struct cd_str *pending; /* where the level-1 value being read goes; NULL: nobody asked */
    const unsigned char *pending_at;
};

static inline bool in_object(const struct tree *t)
{
    return (t->object[(t->depth - 1) / 64] >> ((t->depth - 1) % 64)) & 1U;
}

static bool push(struct tree *t, bool object)
{
    uint64_t *word;
    unsigned bit;

    if (t->depth >= t->max_depth)
        return false;
    word = &t->object[t->depth / 64];
    bit = t->depth % 64;
    if (bit == 0)
        *word = 0; /* the first level of this word */
    *word = (*word & ~((uint64_t)1 << bit)) | (uint64_t)object << bit;
    t->depth++;
    return true;
}

/* `"key" :` -- leaves the cursor at the value. */
static bool scan_key(struct cur *c, struct tree *t)
{
    const unsigned char *start;

    if (c->p >= c->end || *c->p != '"')
        return false;
    start = c->p + 1;
    if (!scan_string(c))
        return false;
    if (t->depth == 1 && t->n_picks) {
        struct cd_str key = {(const char *)start, (size_t)(c->p - start) - 1};
        size_t i = cd_json_pick_index(key, t->picks, t->n_picks);

        t->pending = i < t->n_picks ? &t->found[i] : NULL;
    }
    skip_space(c);
    if (c->p >= c->end || *c->p != ':')
        return false;
    c->p++;
    skip_space(c);
    if (t->depth == 1)
        t->pending_at = c->p;
    return true;
}

/* Behind a complete value: close what ends here.
 * @return 1: the whole text is complete; 0: another value follows at the cursor; -1: broken */
static int after_value(struct cur *c, struct tree *t)
{
    for (;;) {
        if (t->depth == 0)
            return 1;
        if (t->depth == 1 && t->pending) {
            *t->pending = (struct cd_str){(const char *)t->pending_at,
                                          (size_t)(c->p - t->pending_at)};
            t->pending = NULL;
        }
        skip_space(c);
        if (c->p >= c->end)
            return -1;
        if (*c->p == ',') {
            c->p++;
            skip_space(c);
            return !in_object(t) || scan_key(c, t) ? 0 : -1;
        }
        if (*c->p != (in_object(t) ? '}' : ']'))
            return -1;
        c->p++;
        t->depth--;
    }
}

/* One value at the cursor. */
static bool scan_tree(struct cur *c, struct tree *t)
{
    for (;;) {
        int done;

        if (c->p >= c->end)
            return false;
        if (*c->p == '{' || *c->p == '[') {
            bool object = *c->p == '{';

            if (!push(t, object))
                return false;
            c->p++;
            skip_space(c);
            if (c->p >= c->end)
                return false;
            if (*c->p == (object ? '}' : ']')) {
                c->p++;
                t->depth--;
            } else {
                if (object && !scan_key(c, t))
                    return false;
                continue;
            }
        } else if (!scan_scalar(c)) {
            return false;
        }
        done = after_value(c, t);
        if (done != 0)
            return done > 0;
    }
}

size_t cd_json_pick(struct cd_str text, unsigned max_depth, const struct cd_json_pick *picks,
                    size_t n_picks, struct cd_str *found, size_t *out_start)
{
    struct cur c = {(const unsigned char *)text.p, (const unsigned char *)text.p + text.n};
    struct tree t;
    const unsigned char *start;

    t.depth = 0;
    t.max_depth = max_depth < DEPTH_HARD_CAP ? max_depth : DEPTH_HARD_CAP;
    t.picks = picks;
    t.n_picks = n_picks;
    t.found = found;
    t.pending = NULL;
    t.pending_at = NULL;
    for (size_t i = 0; i < n_picks; i++)
        found[i] = (struct cd_str){NULL, 0};
    if (text.n == 0)
        return 0;
    skip_space(&c);
    start = c.p;
    if (c.p >= c.end || (*c.p == '[' && n_picks) || !scan_tree(&c, &t))
        return 0;
    *out_start = (size_t)(start - (const unsigned char *)text.p);
    return (size_t)(c.p - start);
}

size_t cd_json_value(struct cd_str text, unsigned max_depth, size_t *out_start)
{
    return cd_json_pick(text, max_depth, NULL, 0, NULL, out_start);
}

bool cd_json_valid(struct cd_str text, unsigned max_depth)
{
    size_t start, n = cd_json_value(text, max_depth, &start);
    struct cur c;

    if (n == 0)
        return false;
    c.p = (const unsigned char *)text.p + start + n;
    c.end = (const unsigned char *)text.p + text.n;
    skip_space(&c);
    return c.p == c.end;
}

/* scan_read.c -- reads values out of JSON text that scan.c has found valid.
 *
 * In:     validated text.
 * Out:    views of members and elements, decoded strings, integers.
 * Why:    trusting the grammar lets it step over what nobody asked for by brackets and quotes
 *         alone.
 * State:  none. */
#include "base/scan.h"

#include <limits.h>
#include <stdint.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define KEY_BYTES 256 /* a longer key written with escapes is nobody's name */

static inline bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

static size_t over_space(struct cd_str s, size_t at)
{
    while (at < s.n && is_space(s.p[at]))
        at++;
    return at;
}

/* @param at  behind the opening quote. @return behind the closing one, 0 when there is none */
static size_t over_string(struct cd_str s, size_t at)
{
    for (;;) {
#ifdef __SSE2__
        while (s.n - at >= 16) {
            __m128i v = _mm_loadu_si128((const __m128i *)(const void *)(s.p + at));
            __m128i hit = _mm_or_si128(_mm_cmpeq_epi8(v, _mm_set1_epi8('"')),
                                       _mm_cmpeq_epi8(v, _mm_set1_epi8('\\')));
            unsigned mask = (unsigned)_mm_movemask_epi8(hit);

            if (mask) {
                at += (size_t)__builtin_ctz(mask);
                break;
            }
            at += 16;
        }
#endif
        while (at < s.n && s.p[at] != '"' && s.p[at] != '\\')
            at++;
        if (at >= s.n)
            return 0;
        if (s.p[at] == '"')
            return at + 1;
        if (s.n - at < 2)
            return 0;
        at += 2;
    }
}

/* @param at  at the value's first byte. @return behind it, 0 when brackets or quotes do not end */
static size_t over_value(struct cd_str s, size_t at)
{
    size_t depth = 0;

    while (at < s.n) {
        char c = s.p[at];

        if (c == '"') {
            at = over_string(s, at + 1);
            if (at == 0 || depth == 0)
                return at;
            continue;
        }
        if (c == '{' || c == '[') {
            depth++;
        } else if (c == '}' || c == ']') {
            if (depth == 0)
                return at; /* the container around a bare number or word ends here */
            if (--depth == 0)
                return at + 1;
        } else if (depth == 0 && (c == ',' || is_space(c))) {
            return at;
        }
        at++;
    }
    return depth == 0 ? at : 0;
}

size_t cd_json_split(struct cd_str text, size_t *out_start)
{
    size_t start = over_space(text, 0);
    size_t end = start < text.n ? over_value(text, start) : 0;

    if (end <= start)
        return 0;
    *out_start = start;
    return end - start;
}

enum cd_json_kind cd_json_kind(struct cd_str value)
{
    size_t at = over_space(value, 0);

    if (at >= value.n)
        return CD_JSON_BAD;
    switch (value.p[at]) {
    case '{':
        return CD_JSON_OBJECT;
    case '[':
        return CD_JSON_ARRAY;
    case '"':
        return CD_JSON_STRING;
    case 't':
        return CD_JSON_TRUE;
    case 'f':
        return CD_JSON_FALSE;
    case 'n':
        return CD_JSON_NULL;
    case '-': case '0': case '1': case '2': case '3': case '4':
    case '5': case '6': case '7': case '8': case '9':
        return CD_JSON_NUMBER;
    default:
        return CD_JSON_BAD;
    }
}

bool cd_json_is_object(struct cd_str text, unsigned max_depth)
{
    return cd_json_valid(text, max_depth) && cd_json_kind(text) == CD_JSON_OBJECT;
}

/* Step to the next entry of a container. @return its first byte's place, 0 at the end */
static size_t next_entry(struct cd_str s, size_t at, char open, char close)
{
    if (at == 0) {
        at = over_space(s, 0);
        if (at >= s.n || s.p[at] != open)
            return 0;
        at = over_space(s, at + 1);
    } else {
        at = over_space(s, at);
        if (at >= s.n || s.p[at] != ',')
            return 0;
        at = over_space(s, at + 1);
    }
    return at < s.n && s.p[at] != close ? at : 0;
}

bool cd_json_member(struct cd_str object, size_t *pos, struct cd_str *key, struct cd_str *value)
{
    size_t at = next_entry(object, *pos, '{', '}');
    size_t end;

    if (at == 0 || object.p[at] != '"')
        return false;
    end = over_string(object, at + 1);
    if (end == 0)
        return false;
    *key = (struct cd_str){object.p + at + 1, end - at - 2};
    at = over_space(object, end);
    if (at >= object.n || object.p[at] != ':')
        return false;
    at = over_space(object, at + 1);
    end = over_value(object, at);
    if (end <= at)
        return false;
    *value = (struct cd_str){object.p + at, end - at};
    *pos = end;
    return true;
}

bool cd_json_element(struct cd_str array, size_t *pos, struct cd_str *value)
{
    size_t at = next_entry(array, *pos, '[', ']');
    size_t end;

    if (at == 0)
        return false;
    end = over_value(array, at);
    if (end <= at)
        return false;
    *value = (struct cd_str){array.p + at, end - at};
    *pos = end;
    return true;
}

bool cd_json_find(struct cd_str object, const char *name, struct cd_str *value)
{
    struct cd_json_pick pick = {cd_str_of(name)};
    struct cd_str found;

    cd_json_pick_valid(object, &pick, 1, &found);
    if (found.p)
        *value = found;
    return found.p != NULL;
}

/* Four hex digits at s.p[at]. @return the code unit, or -1 */
static long code_unit(struct cd_str s, size_t at)
{
    long v = 0;

    if (at + 4 > s.n)
        return -1;
    for (size_t i = 0; i < 4; i++) {
        int d = cd_hex_digit(s.p[at + i]);

        if (d < 0)
            return -1;
        v = v * 16 + d;
    }
    return v;
}

/* The character of a \u escape whose digits start at *at, which moves behind it (and behind the
 * second half of a pair). @return the code point; -1: lone surrogate, NUL or broken */
static long escaped_char(struct cd_str s, size_t *at)
{
    long hi = code_unit(s, *at), lo;

    *at += 4;
    if (hi <= 0 || (hi >= 0xDC00 && hi <= 0xDFFF))
        return -1;
    if (hi < 0xD800 || hi > 0xDBFF)
        return hi;
    if (*at + 6 > s.n || s.p[*at] != '\\' || s.p[*at + 1] != 'u')
        return -1;
    lo = code_unit(s, *at + 2);
    if (lo < 0xDC00 || lo > 0xDFFF)
        return -1;
    *at += 6;
    return 0x10000 + ((hi - 0xD800) << 10) + (lo - 0xDC00);
}

static size_t put_utf8(long cp, char *out)
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (char)(0xC0 | (cp >> 6));
        out[1] = (char)(0x80 | (cp & 0x3F));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (char)(0xE0 | (cp >> 12));
        out[1] = (char)(0x80 | ((cp >> 6) & 0x3F));
        out[2] = (char)(0x80 | (cp & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | (cp >> 18));
    out[1] = (char)(0x80 | ((cp >> 12) & 0x3F));
    out[2] = (char)(0x80 | ((cp >> 6) & 0x3F));
    out[3] = (char)(0x80 | (cp & 0x3F));
    return 4;
}

static long short_escape(char c)
{
    switch (c) {
    case 'b':
        return '\b';
    case 'f':
        return '\f';
    case 'n':
        return '\n';
    case 'r':
        return '\r';
    case 't':
        return '\t';
    case '"': case '\\': case '/':
        return c;
    default:
        return -1;
    }
}

/* The character of the escape at *at, which moves behind it. @return -1 as escaped_char */
static long next_escape(struct cd_str s, size_t *at)
{
    if (*at + 1 >= s.n)
        return -1;
    *at += 2;
    return s.p[*at - 1] == 'u' ? escaped_char(s, at) : short_escape(s.p[*at - 1]);
}

static size_t utf8_bytes(long cp)
{
    return cp < 0x80 ? 1 : cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
}

/* Resolve the escapes of raw string text. @return length, or -1 as cd_json_text */
static long unescape(struct cd_str s, char *out, size_t out_size)
{
    size_t at = 0, n = 0;

    while (at < s.n) {
        const char *slash = memchr(s.p + at, '\\', s.n - at);
        size_t plain = slash ? (size_t)(slash - (s.p + at)) : s.n - at;
        long cp;

        if (n + plain >= out_size)
            return -1;
        memcpy(out + n, s.p + at, plain);
        n += plain;
        at += plain;
        if (!slash)
            break;
        cp = next_escape(s, &at);
        if (cp < 0 || n + utf8_bytes(cp) >= out_size)
            return -1;
        n += put_utf8(cp, out + n);
    }
    if (n >= out_size)
        return -1;
    out[n] = '\0';
    return (long)n;
}

size_t cd_json_pick_index(struct cd_str key, const struct cd_json_pick *picks, size_t n_picks)
{
    char plain[KEY_BYTES];
    size_t i = 0;
    long n;

    if (key.n && memchr(key.p, '\\', key.n)) {
        n = unescape(key, plain, sizeof plain);
        if (n < 0)
            return n_picks;
        key = (struct cd_str){plain, (size_t)n};
    }
    while (i < n_picks && !cd_str_eq(key, picks[i].name))
        i++;
    return i;
}

bool cd_json_key_is(struct cd_str key, const char *name)
{
    struct cd_json_pick pick = {cd_str_of(name)};

    return cd_json_pick_index(key, &pick, 1) == 0;
}

void cd_json_pick_valid(struct cd_str object, const struct cd_json_pick *picks, size_t n_picks,
                        struct cd_str *found)
{
    struct cd_str key, value;
    size_t pos = 0, i;

    for (i = 0; i < n_picks; i++)
        found[i] = (struct cd_str){NULL, 0};
    while (cd_json_member(object, &pos, &key, &value)) {
        i = cd_json_pick_index(key, picks, n_picks);
        if (i < n_picks)
            found[i] = value;
    }
}

long cd_json_text(struct cd_str value, char *out, size_t out_size)
{
    struct cd_str s = cd_str_trim(value);

    if (s.n < 2 || s.p[0] != '"' || s.p[s.n - 1] != '"')
        return -1;
    return unescape((struct cd_str){s.p + 1, s.n - 2}, out, out_size);
}

/* The parts of a number as text: digits with the place of the decimal point. */
struct decimal {
    char digits[40]; /* significant digits, no leading zeros */
    int n;
    long scale; /* value = digits * 10^scale */
    bool negative;
};

/* @return false: not a number, or more digits than any integer we take */
static bool read_decimal(struct cd_str s, struct decimal *d)
{
    size_t at = 0;
    bool fraction = false, exp_negative = false;
    long exponent = 0;

    d->n = 0;
    d->scale = 0;
    d->negative = s.p[0] == '-';
    for (at = d->negative; at < s.n && s.p[at] != 'e' && s.p[at] != 'E'; at++) {
        if (s.p[at] == '.') {
            fraction = true;
            continue;
        }
        if (s.p[at] < '0' || s.p[at] > '9')
            return false;
        d->scale -= fraction;
        if (d->n == 0 && s.p[at] == '0')
            continue;
        if (d->n == (int)sizeof d->digits)
            return false;
        d->digits[d->n++] = s.p[at];
    }
    for (at++; at < s.n; at++) {
        if (s.p[at] == '-')
            exp_negative = true;
        else if (s.p[at] != '+' && exponent < 10000)
            exponent = exponent * 10 + (s.p[at] - '0');
    }
    d->scale += exp_negative ? -exponent : exponent;
    return true;
}

bool cd_json_int(struct cd_str value, long long *out)
{
    struct cd_str s = cd_str_trim(value);
    struct decimal d;
    long long v = 0;

    if (cd_json_kind(s) != CD_JSON_NUMBER || !read_decimal(s, &d))
        return false;
    while (d.n > 0 && d.digits[d.n - 1] == '0') {
        d.n--;
        d.scale++;
    }
    if (d.n == 0) {
        *out = 0;
        return true;
    }
    if (d.scale < 0 || d.n + d.scale > 19)
        return false;
    /* counted downwards: the smallest integer has no positive twin */
    for (long i = 0; i < d.n + d.scale; i++) {
        int digit = i < d.n ? d.digits[i] - '0' : 0;

        if (__builtin_mul_overflow(v, 10LL, &v) || __builtin_sub_overflow(v, (long long)digit, &v))
            return false;
    }
    if (!d.negative && __builtin_sub_overflow(0LL, v, &v))
        return false;
    *out = v;
    return true;
}

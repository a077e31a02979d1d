/* str.c -- string views and small parsers. */
#include "base/str.h"

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

struct cd_str cd_str_trim(struct cd_str s)
{
    while (s.n && is_blank(s.p[0])) {
        s.p++;
        s.n--;
    }
    while (s.n && is_blank(s.p[s.n - 1]))
        s.n--;
    return s;
}

bool cd_parse_u64(struct cd_str s, uint64_t min, uint64_t max, uint64_t *out)
{
    uint64_t v = 0;

    if (s.n == 0 || s.n > 20)
        return false;
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] < '0' || s.p[i] > '9')
            return false;
        if (__builtin_mul_overflow(v, (uint64_t)10, &v) ||
            __builtin_add_overflow(v, (uint64_t)(s.p[i] - '0'), &v))
            return false;
    }
    if (v < min || v > max)
        return false;
    *out = v;
    return true;
}

bool cd_utf8_valid(const char *text, size_t n)
{
    const unsigned char *p = (const unsigned char *)text, *end = p + n;

    while (p < end) {
        uint64_t eight; /* ASCII is what most text is made of: eight bytes a step */

        if (end - p >= (ptrdiff_t)sizeof(eight)) {
            memcpy(&eight, p, sizeof(eight));
            if (!(eight & 0x8080808080808080u)) {
                p += sizeof(eight);
                continue;
            }
        }
        if (*p < 0x80) {
            p++;
            continue;
        }
        unsigned more = *p >= 0xf0 ? 3 : *p >= 0xe0 ? 2 : 1;
        unsigned char lo = 0x80, hi = 0xbf; /* of the second byte: no overlong, no surrogate */

        if (*p < 0xc2 || *p > 0xf4 || (size_t)(end - p) <= more)
            return false;
        if (*p == 0xe0)
            lo = 0xa0;
        else if (*p == 0xed)
            hi = 0x9f;
        else if (*p == 0xf0)
            lo = 0x90;
        else if (*p == 0xf4)
            hi = 0x8f;
        if (p[1] < lo || p[1] > hi)
            return false;
        for (unsigned i = 2; i <= more; i++)
            if (p[i] < 0x80 || p[i] > 0xbf)
                return false;
        p += more + 1;
    }
    return true;
}

int cd_hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

bool cd_is_local_user(const char *user_id, const char *server_name)
{
    const char *colon = strchr(user_id, ':');

    return user_id[0] == '@' && colon && (!server_name[0] || strcmp(colon + 1, server_name) == 0);
}

long cd_percent_decode(struct cd_str s, bool plus_is_space, char *out, size_t out_size)
{
    size_t n = 0;

    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];

        if (c == '%') {
            int hi = i + 2 < s.n ? cd_hex_digit(s.p[i + 1]) : -1;
            int lo = hi >= 0 ? cd_hex_digit(s.p[i + 2]) : -1;
            if (lo < 0 || (hi == 0 && lo == 0))
                return -1;
            c = (char)(hi << 4 | lo);
            i += 2;
        } else if (c == '+' && plus_is_space) {
            c = ' ';
        }
        if (n + 1 >= out_size)
            return -1;
        out[n++] = c;
    }
    if (out_size == 0)
        return -1;
    out[n] = '\0';
    return (long)n;
}

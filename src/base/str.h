/* str.h -- borrowed string views and the few parsers everybody needs. */
#ifndef CD_BASE_STR_H
#define CD_BASE_STR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/** A borrowed view: bytes that somebody else owns, not NUL-terminated. */
struct cd_str {
    const char *p;
    size_t n;
};

#define CD_STR(literal) ((struct cd_str){(literal), sizeof(literal) - 1})

static inline struct cd_str cd_str_of(const char *s)
{
    return (struct cd_str){s, s ? strlen(s) : 0};
}

static inline bool cd_str_eq(struct cd_str a, struct cd_str b)
{
    return a.n == b.n && (b.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

static inline bool cd_str_is(struct cd_str a, const char *b)
{
    return cd_str_eq(a, cd_str_of(b));
}

static inline bool cd_str_starts(struct cd_str s, const char *prefix)
{
    size_t n = strlen(prefix);

    return s.n >= n && memcmp(s.p, prefix, n) == 0;
}

/** White space at both ends cut off. */
struct cd_str cd_str_trim(struct cd_str s);

/** Decimal digits only, no sign, no blanks.
 * @param min,max  inclusive bounds
 * @return false, and *out untouched, when the text is anything else */
bool cd_parse_u64(struct cd_str s, uint64_t min, uint64_t max, uint64_t *out);

/** Valid UTF-8: no overlong forms, no surrogates, nothing above U+10FFFF. */
bool cd_utf8_valid(const char *p, size_t n);

/** @return 0 to 15, or -1: no hexadecimal digit */
int cd_hex_digit(char c);

/** Is this a Matrix user id of that server (specification, appendices, "User Identifiers")?
 * @param server_name  "": not known, any will do */
bool cd_is_local_user(const char *user_id, const char *server_name);

/** Percent-decode one path or query segment into @p out (NUL-terminated).
 * @param plus_is_space  query strings write blanks as '+'
 * @return bytes written, or -1: bad escape, %00, or out_size too small */
long cd_percent_decode(struct cd_str s, bool plus_is_space, char *out, size_t out_size);

#endif

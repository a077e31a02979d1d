/* buf.h -- a growing byte buffer, born with its maximum, failing sticky. */
#ifndef CD_BASE_BUF_H
#define CD_BASE_BUF_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/str.h"

struct cd_buf {
    char *p;     /* NUL-terminated whenever n > 0 or p != NULL */
    size_t n;    /* bytes used */
    size_t cap;  /* bytes allocated */
    size_t max;  /* bytes it may ever hold */
    bool no_memory; /* it failed for want of memory, not of room */
    bool failed; /* set by the first append that did not fit; later ones do nothing */
};

/** @param max  largest size [bytes] */
void cd_buf_init(struct cd_buf *b, size_t max);
void cd_buf_done(struct cd_buf *b);
/** Empty it and keep the memory; clears `failed`. */
void cd_buf_reset(struct cd_buf *b);
void cd_buf_add(struct cd_buf *b, const void *p, size_t n);
void cd_buf_adds(struct cd_buf *b, const char *s);
void cd_buf_addc(struct cd_buf *b, char c);
void cd_buf_add_i64(struct cd_buf *b, int64_t v);
void cd_buf_addf(struct cd_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/** Append @p s as a JSON string, quotes included; invalid UTF-8 becomes U+FFFD. */
void cd_buf_add_json(struct cd_buf *b, struct cd_str s);
/** As cd_buf_add_json; NULL becomes `null`. */
void cd_buf_add_jsons(struct cd_buf *b, const char *s);
/** Append @p s percent-encoded as one path segment (RFC 3986 unreserved kept). */
void cd_buf_add_segment(struct cd_buf *b, struct cd_str s);
/** Cut the first @p n bytes off. */
void cd_buf_consume(struct cd_buf *b, size_t n);
/** Take the memory out: NUL-terminated, caller frees. NULL when failed. */
char *cd_buf_steal(struct cd_buf *b, size_t *out_n);

#endif

/* fuzz.h -- what the fuzz targets share: an assertion that names itself, and bytes taken apart.
 * A target is one file with LLVMFuzzerTestOneInput; `run` builds and runs it. */
#ifndef CD_FUZZ_H
#define CD_FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* An invariant: what does not hold ends the run, and the input is kept. */
#define MUST(what)                                                                         \
    do {                                                                                   \
        if (!(what)) {                                                                     \
            fprintf(stderr, "%s:%d: %s: MUST(%s)\n", __FILE__, __LINE__, __func__, #what); \
            abort();                                                                       \
        }                                                                                  \
    } while (0)

static inline uint8_t fuzz_byte(struct cd_str *in)
{
    uint8_t b = 0;

    if (in->n) {
        b = (uint8_t)in->p[0];
        in->p++;
        in->n--;
    }
    return b;
}

/* Bytes up to @p separator, which goes too. */
static inline struct cd_str fuzz_part(struct cd_str *in, char separator)
{
    const char *end = in->n ? memchr(in->p, separator, in->n) : NULL;
    struct cd_str part = {in->p, end ? (size_t)(end - in->p) : in->n};
    size_t gone = part.n + (end ? 1 : 0);

    in->p += gone;
    in->n -= gone;
    return part;
}

/* A copy of exactly its size, ended by NUL, so that reading behind it is noticed. */
static inline char *fuzz_text(struct cd_str s)
{
    char *copy = malloc(s.n + 1);

    MUST(copy);
    if (s.n)
        memcpy(copy, s.p, s.n);
    copy[s.n] = '\0';
    return copy;
}

/* Does @p part lie within @p whole? */
static inline int fuzz_inside(struct cd_str part, struct cd_str whole)
{
    return part.p >= whole.p && part.n <= whole.n && part.p + part.n <= whole.p + whole.n;
}

#endif

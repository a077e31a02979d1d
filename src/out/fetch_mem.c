/* fetch_mem.c -- curl's memory, with some put aside for the time when there is none.
 * Why: an allocation that fails in the wrong place crashes libcurl (7.88 divides by the size of a table that it
 * could not make), and with it every call. So it never sees one fail: what is under way ends with what was put
 * aside, and nothing new begins until that has come back.
 * State: one static block, handed out in units; first fit. Blocks: never. */
#include "out/fetch_mem.h"

#include <malloc.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define UNIT 64
#define UNITS 16384 /* 1 MiB */
#define ENOUGH (UNITS / 2)

static struct {
    _Alignas(max_align_t) unsigned char p[UNITS][UNIT];
    uint16_t run[UNITS];  /* at the first unit of a piece: how many */
    bool taken[UNITS];
    atomic_size_t n_taken;
    atomic_flag busy; /* curl resolves names on a thread of its own */
} aside = {.busy = ATOMIC_FLAG_INIT};

static void enter(void)
{
    while (atomic_flag_test_and_set(&aside.busy))
        ; /* a few hundred instructions at most */
}

static void leave(void)
{
    atomic_flag_clear(&aside.busy);
}

/* A page that was never written to is only a promise. */
void cd_fm_setup(void)
{
    volatile unsigned char *p = &aside.p[0][0];

    if (aside.n_taken > 0)
        return;
    for (size_t i = 0; i < sizeof aside.p; i += 4096)
        p[i] = 0;
}

static bool is_aside(const void *p)
{
    return (uintptr_t)p >= (uintptr_t)aside.p && (uintptr_t)p < (uintptr_t)aside.p + sizeof aside.p;
}

static size_t first_of(const void *p)
{
    return ((uintptr_t)p - (uintptr_t)aside.p) / UNIT;
}

/* @return index of the first of so many free units; UNITS: there are not as many in a row */
static size_t find_free(size_t want)
{
    size_t run = 0;

    for (size_t i = 0; i < UNITS; i++) {
        run = aside.taken[i] ? 0 : run + 1;
        if (run == want)
            return i + 1 - want;
    }
    return UNITS;
}

static void *take_aside(size_t n)
{
    size_t want = n / UNIT + 1, i;

    if (want > UNITS)
        return NULL;
    enter();
    i = find_free(want);
    if (i < UNITS) {
        memset(&aside.taken[i], true, want);
        aside.run[i] = (uint16_t)want;
        aside.n_taken += want;
    }
    leave();
    return i < UNITS ? aside.p[i] : NULL;
}

void *cd_fm_malloc(size_t n)
{
    void *p = malloc(n);

    if (!p)
        p = take_aside(n);
    return p;
}

void *cd_fm_calloc(size_t n, size_t size)
{
    void *p = calloc(n, size);

    if (!p && (size == 0 || n <= sizeof aside.p / size) && (p = take_aside(n * size)))
        memset(p, 0, n * size);
    return p;
}

void *cd_fm_realloc(void *p, size_t n)
{
    bool was_aside = is_aside(p);
    void *to;
    size_t had;

    n = n ? n : 1; /* realloc to nothing would free it, and answer as if it had failed */
    to = was_aside ? malloc(n) : realloc(p, n);
    if (to && !was_aside)
        return to;
    if (!to && !(to = take_aside(n)))
        return NULL;
    had = was_aside ? (size_t)aside.run[first_of(p)] * UNIT : p ? malloc_usable_size(p) : 0;
    if (had)
        memcpy(to, p, had < n ? had : n);
    cd_fm_free(p);
    return to;
}

char *cd_fm_strdup(const char *s)
{
    size_t n = strlen(s) + 1;
    char *p = cd_fm_malloc(n);

    return p ? memcpy(p, s, n) : NULL;
}

void cd_fm_free(void *p)
{
    size_t i, n;

    if (!is_aside(p)) {
        free(p);
        return;
    }
    enter();
    i = first_of(p);
    n = aside.run[i];
    memset(&aside.taken[i], false, n);
    aside.n_taken -= n;
    leave();
}

bool cd_fm_ready(void)
{
    return aside.n_taken <= UNITS - ENOUGH;
}

/* limit.c -- how often by key: the times of the last events, newest overwriting oldest.
 * In: keys and the time.  Out: 0 or milliseconds to wait.
 * Why: a bucket that refills lets twice the number through in its first window; "10 a minute" is
 * a promise to the homeserver, so the window is exact.
 * State: a ring of times a key, keys in order of use.  Owns: copies of the keys.  Blocks: never. */
#include "in/limit.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/map.h"

#define MAX_PER_WINDOW 4096

struct entry {
    struct entry *newer, *older; /* by last use */
    char *key;
    unsigned n;    /* events in the ring */
    unsigned head; /* where the next one goes */
    int64_t at[];  /* per_window of them */
};

struct cd_limit {
    unsigned per_window, max_keys;
    int64_t window_ms;
    struct cd_map map;
    struct entry *newest, *oldest;
};

static void unlink_entry(struct cd_limit *l, struct entry *e)
{
    if (e->newer)
        e->newer->older = e->older;
    else
        l->newest = e->older;
    if (e->older)
        e->older->newer = e->newer;
    else
        l->oldest = e->newer;
}

static void push_newest(struct cd_limit *l, struct entry *e)
{
    e->newer = NULL;
    e->older = l->newest;
    if (l->newest)
        l->newest->newer = e;
    else
        l->oldest = e;
    l->newest = e;
}

static void drop(struct cd_limit *l, struct entry *e)
{
    unlink_entry(l, e);
    cd_map_del(&l->map, cd_str_of(e->key));
    free(e->key);
    free(e);
}

static struct entry *add(struct cd_limit *l, const char *key)
{
    struct entry *e;

    while (l->oldest && l->map.count >= l->max_keys)
        drop(l, l->oldest);
    e = calloc(1, sizeof(*e) + l->per_window * sizeof(e->at[0]));
    if (!e)
        return NULL;
    e->key = strdup(key);
    if (!e->key || cd_map_put(&l->map, cd_str_of(e->key), e) != 0) {
        free(e->key);
        free(e);
        return NULL;
    }
    push_newest(l, e);
    return e;
}

/* The oldest counted event decides: when it leaves the window there is room for one more. */
static int64_t wait_ms(const struct cd_limit *l, const struct entry *e, int64_t now_ms)
{
    int64_t oldest;

    if (e->n < l->per_window)
        return 0;
    oldest = e->at[(e->head + l->per_window - e->n) % l->per_window];
    return now_ms - oldest >= l->window_ms ? 0 : oldest + l->window_ms - now_ms;
}

struct cd_limit *cd_limit_new(unsigned per_window, int64_t window_ms, unsigned max_keys)
{
    struct cd_limit *l = calloc(1, sizeof(*l));

    if (!l)
        return NULL;
    l->per_window = per_window > MAX_PER_WINDOW ? MAX_PER_WINDOW : per_window;
    l->window_ms = window_ms;
    l->max_keys = max_keys ? max_keys : 1;
    cd_map_init(&l->map);
    return l;
}

unsigned cd_limit_per_window(const struct cd_limit *l)
{
    return l->per_window;
}

void cd_limit_free(struct cd_limit *l)
{
    if (!l)
        return;
    while (l->oldest)
        drop(l, l->oldest);
    cd_map_done(&l->map);
    free(l);
}

int64_t cd_limit_peek(struct cd_limit *l, const char *key, int64_t now_ms)
{
    const struct entry *e = cd_map_get(&l->map, cd_str_of(key));

    return e ? wait_ms(l, e, now_ms) : 0;
}

int64_t cd_limit_take(struct cd_limit *l, const char *key, int64_t now_ms)
{
    struct entry *e;
    int64_t wait;

    if (l->per_window == 0)
        return 0;
    e = cd_map_get(&l->map, cd_str_of(key));
    if (!e)
        e = add(l, key);
    if (!e)
        return l->window_ms; /* without memory nobody passes */
    wait = wait_ms(l, e, now_ms);
    if (wait > 0)
        return wait;
    e->at[e->head] = now_ms;
    e->head = (e->head + 1) % l->per_window;
    if (e->n < l->per_window)
        e->n++;
    unlink_entry(l, e);
    push_newest(l, e);
    return 0;
}

/* Position in the ring of the i-th event, counted from the newest. */
static unsigned slot(const struct cd_limit *l, const struct entry *e, unsigned i)
{
    return (e->head + l->per_window - 1 - i) % l->per_window;
}

void cd_limit_refund(struct cd_limit *l, const char *key, int64_t at_ms)
{
    struct entry *e = cd_map_get(&l->map, cd_str_of(key));
    unsigned i = 0;

    if (!e)
        return;
    while (i < e->n && e->at[slot(l, e, i)] != at_ms)
        i++;
    if (i == e->n)
        return;
    /* Newer ones move down over it, so that what stays keeps its own time. */
    for (; i > 0; i--)
        e->at[slot(l, e, i)] = e->at[slot(l, e, i - 1)];
    e->head = slot(l, e, 0);
    if (--e->n == 0)
        drop(l, e);
}

/* timer.c -- binary heap of timers; each knows its place, so that cancelling costs O(log n).
 * Why: ring timeouts and heartbeats of thousands of clients; lws_sul is a sorted list. */
#include "loop/timer.h"

#include <stdlib.h>

#define AHEAD 64 /* places that are kept free */

static void place(struct cd_heap *h, size_t i, struct cd_timer *t)
{
    h->v[i] = t;
    t->slot = (uint32_t)(i + 1);
}

static void sift_up(struct cd_heap *h, size_t i)
{
    struct cd_timer *t = h->v[i];

    while (i > 0 && h->v[(i - 1) / 2]->due_ms > t->due_ms) {
        place(h, i, h->v[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    place(h, i, t);
}

static void sift_down(struct cd_heap *h, size_t i)
{
    struct cd_timer *t = h->v[i];

    for (;;) {
        size_t kid = 2 * i + 1;

        if (kid >= h->n)
            break;
        if (kid + 1 < h->n && h->v[kid + 1]->due_ms < h->v[kid]->due_ms)
            kid++;
        if (h->v[kid]->due_ms >= t->due_ms)
            break;
        place(h, i, h->v[kid]);
        i = kid;
    }
    place(h, i, t);
}

void cd_heap_done(struct cd_heap *h)
{
    for (size_t i = 0; i < h->n; i++) {
        h->v[i]->slot = 0;
        h->v[i]->due_ms = 0;
    }
    free(h->v);
    *h = (struct cd_heap){0};
}

/* Ahead of need: a moment without memory must not cost a timer, which would never be set again. */
static int grow(struct cd_heap *h)
{
    size_t cap = h->cap ? h->cap * 2 : 2 * AHEAD;
    struct cd_timer **v;

    if (h->n + AHEAD < h->cap)
        return 0;
    v = cap > CD_HEAP_MAX ? NULL : realloc(h->v, cap * sizeof(struct cd_timer *));
    if (!v)
        return h->n < h->cap ? 0 : -1;
    h->v = v;
    h->cap = cap;
    return 0;
}

int cd_heap_set(struct cd_heap *h, struct cd_timer *t, int64_t due_ms)
{
    if (!t->slot) {
        if (grow(h) < 0)
            return -1;
        place(h, h->n++, t);
    }
    t->due_ms = due_ms;
    sift_up(h, t->slot - 1);
    sift_down(h, t->slot - 1);
    return 0;
}

void cd_heap_del(struct cd_heap *h, struct cd_timer *t)
{
    size_t i;
    struct cd_timer *last;

    if (!t->slot)
        return;
    i = t->slot - 1;
    t->slot = 0;
    t->due_ms = 0;
    last = h->v[--h->n];
    if (last == t)
        return;
    place(h, i, last);
    sift_up(h, i);
    sift_down(h, last->slot - 1);
}

struct cd_timer *cd_heap_top(const struct cd_heap *h)
{
    return h->n ? h->v[0] : NULL;
}

/* timer_test.c -- the timer heap: order, moving, cancelling, reuse. */
#include "loop/timer.h"

#include <stdlib.h>

#include "tap.h"

#define N 500

static int64_t drain(struct cd_heap *h, size_t *count)
{
    int64_t last = 0;
    int64_t out_of_order = 0;
    struct cd_timer *t;

    *count = 0;
    while ((t = cd_heap_top(h))) {
        if (t->due_ms < last)
            out_of_order++;
        last = t->due_ms;
        cd_heap_del(h, t);
        ++*count;
    }
    return out_of_order;
}

static void comes_out_in_order(void)
{
    struct cd_heap h = {0};
    struct cd_timer t[N] = {0};
    size_t count;

    srandom(7);
    for (int i = 0; i < N; i++)
        CHECK_INT(cd_heap_set(&h, &t[i], 1 + random() % 1000), 0);
    CHECK_INT(drain(&h, &count), 0);
    CHECK_INT(count, N);
    for (int i = 0; i < N; i++)
        CHECK_INT(t[i].slot, 0);
    cd_heap_done(&h);
}

static void moves_both_ways(void)
{
    struct cd_heap h = {0};
    struct cd_timer a = {0}, b = {0}, c = {0};

    cd_heap_set(&h, &a, 10);
    cd_heap_set(&h, &b, 20);
    cd_heap_set(&h, &c, 30);
    cd_heap_set(&h, &c, 5);
    CHECK(cd_heap_top(&h) == &c);
    cd_heap_set(&h, &c, 40);
    CHECK(cd_heap_top(&h) == &a);
    CHECK_INT(h.n, 3);
    cd_heap_done(&h);
    CHECK_INT(a.slot, 0);
}

static void cancels_anywhere(void)
{
    struct cd_heap h = {0};
    struct cd_timer t[N] = {0};
    size_t count;

    srandom(11);
    for (int i = 0; i < N; i++)
        cd_heap_set(&h, &t[i], 1 + random() % 100);
    for (int i = 0; i < N; i += 3)
        cd_heap_del(&h, &t[i]);
    cd_heap_del(&h, &t[0]); /* twice is harmless */
    for (int i = 0; i < N; i += 5)
        cd_heap_set(&h, &t[i], 1 + random() % 100);
    for (size_t i = 0; i < h.n; i++)
        CHECK_INT(h.v[i]->slot, i + 1);
    CHECK_INT(drain(&h, &count), 0);
    CHECK_INT(count, N - (N + 2) / 3 + (N + 14) / 15);
    CHECK(cd_heap_top(&h) == NULL);
    cd_heap_done(&h);
}

int main(void)
{
    TAP_RUN(comes_out_in_order);
    TAP_RUN(moves_both_ways);
    TAP_RUN(cancels_anywhere);
    return tap_done();
}

/* timer.h -- the heap that keeps armed timers in order. Used by loop.c; owners use loop.h. */
#ifndef CD_LOOP_TIMER_H
#define CD_LOOP_TIMER_H

#include <stddef.h>
#include <stdint.h>

#include "loop/loop.h"

#define CD_HEAP_MAX (1u << 20) /* armed timers in all */

struct cd_heap {
    struct cd_timer **v; /* v[0] is due first */
    size_t n, cap;
};

void cd_heap_done(struct cd_heap *h);
/** Arm or move. @param due_ms  monotonic [ms], > 0. @return 0, or -1: out of memory or full */
int cd_heap_set(struct cd_heap *h, struct cd_timer *t, int64_t due_ms);
/** Disarm; harmless when not armed. */
void cd_heap_del(struct cd_heap *h, struct cd_timer *t);
/** The timer due first, or NULL. */
struct cd_timer *cd_heap_top(const struct cd_heap *h);

#endif

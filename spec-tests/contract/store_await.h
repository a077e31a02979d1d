/* store_await.h -- test code that reads top to bottom while the loop runs: the tests are one coroutine,
 * which goes on at the end of a turn when what it waits for has happened. */
#ifndef STORE_AWAIT_H
#define STORE_AWAIT_H

#include <stdbool.h>
#include <stdlib.h>
#include <ucontext.h>

#include "base/clock.h"
#include "loop/loop.h"

#define AWAIT_STACK (1 << 20)
#define AWAIT_POLL_MS 10

static struct {
    struct cd_loop *loop;
    ucontext_t loop_ctx, test_ctx;
    struct cd_timer poll;
    void (*body)(void);
    bool inside, finished;
    char *stack;
} await;

static inline void await_enter(void)
{
    await.inside = true;
    swapcontext(&await.loop_ctx, &await.test_ctx);
    await.inside = false;
    if (await.finished)
        cd_loop_stop(await.loop);
}

static inline void await_turn(void *arg)
{
    (void)arg;
    if (!await.inside && !await.finished)
        await_enter();
}

static inline void await_poll(void *arg)
{
    (void)arg; /* makes a turn */
    if (!await.finished)
        cd_timer_set(await.loop, &await.poll, AWAIT_POLL_MS, await_poll, NULL);
}

static inline void await_yield(void)
{
    swapcontext(&await.test_ctx, &await.loop_ctx);
}

static inline void await_body(void)
{
    await.body();
    await.finished = true;
}

/** Run @p body inside a loop of its own. @return false: no loop */
static inline bool await_run(void (*body)(void))
{
    const struct cd_loop_conf conf = {.max_fds = 256};

    await.loop = cd_loop_new(&conf);
    await.stack = malloc(AWAIT_STACK);
    if (!await.loop || !await.stack)
        return false;
    await.body = body;
    getcontext(&await.test_ctx);
    await.test_ctx.uc_stack.ss_sp = await.stack;
    await.test_ctx.uc_stack.ss_size = AWAIT_STACK;
    await.test_ctx.uc_link = &await.loop_ctx;
    makecontext(&await.test_ctx, await_body, 0);
    cd_loop_after(await.loop, await_turn, NULL);
    cd_timer_set(await.loop, &await.poll, 1, await_poll, NULL);
    cd_loop_run(await.loop);
    cd_loop_free(await.loop);
    free(await.stack);
    return true;
}

/** Wait until @p cond holds. */
#define UNTIL(cond) do { while (!(cond)) await_yield(); } while (0)

#endif

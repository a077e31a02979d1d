/* relief.c -- the memory budget is used up: who has to go?
 * In: base/budget.c says so, from within whatever took the last of it. Out: a socket is closed, a line in the log.
 * Why later, and one a turn: the taker may be that socket's own send; and what one frees may be enough.
 * State: relieving of struct cd_core. Blocks: never. */
#include "relief.h"

#include "base/budget.h"
#include "base/clock.h"
#include "base/log.h"
#include "in/engineio.h"
#include "in/ws.h"

#define QUEUES_PART 8       /* queues with less than this part of the budget are not what uses it up */
#define SAY_EVERY_MS 10000

/* Bodies and logs: they end by deadlines and with their calls, and no more of them are taken. */
static void say_full(void)
{
    static int64_t said_ms;
    int64_t now = cd_mono_ms();

    if (said_ms && now - said_ms < SAY_EVERY_MS)
        return;
    said_ms = now;
    cd_log(CD_LOG_WARN, "daemon", "memory.full", NULL,
           "limits.memory_mb is used up (%zu bytes, %zu of them bodies, %zu logs of calls, %zu queues); "
           "larger bodies, new calls and new connections are refused",
           cd_budget_used(), cd_budget_used_by(CD_BUDGET_BODIES), cd_budget_used_by(CD_BUDGET_REPLAY),
           cd_budget_used_by(CD_BUDGET_QUEUES));
}

/* @return bytes freed; 0: nothing waits */
static size_t close_largest(void)
{
    size_t freed = cd_ws_close_largest(cd_eio_largest());

    return freed ? freed : cd_eio_close_largest();
}

static void relieve(void *arg)
{
    struct cd_core *core = arg;
    size_t freed;

    core->relieving = false;
    if (!cd_budget_full())
        return;
    freed = cd_budget_used_by(CD_BUDGET_QUEUES) < cd_budget_limit() / QUEUES_PART ? 0 : close_largest();
    if (!freed) {
        say_full();
        return;
    }
    cd_log(CD_LOG_WARN, "daemon", "memory.full", NULL,
           "limits.memory_mb is used up (%zu bytes); the largest queue, %zu bytes, was closed", cd_budget_used(),
           freed);
}

static void is_full(void *arg)
{
    struct cd_core *core = arg;

    if (!core->relieving && core->loop)
        core->relieving = cd_loop_defer(core->loop, relieve, core) == 0;
}

void cd_relief_setup(struct cd_core *core)
{
    cd_budget_setup((size_t)core->conf->limits.memory_mb * 1024 * 1024, is_full, core);
}

/* budget.c -- counts what clients and calls make grow.
 *
 * State: one counter a kind; the process has one thread that touches them. */
#include "base/budget.h"

static struct {
    size_t limit, total, used[CD_BUDGET_KINDS];
    void (*on_full)(void *arg);
    void *arg;
} budget;

void cd_budget_setup(size_t bytes, void (*on_full)(void *arg), void *arg)
{
    budget.limit = bytes;
    budget.on_full = on_full;
    budget.arg = arg;
}

void cd_budget_take(enum cd_budget_kind kind, size_t bytes)
{
    budget.used[kind] += bytes;
    budget.total += bytes;
    if (cd_budget_full() && budget.on_full)
        budget.on_full(budget.arg);
}

void cd_budget_give(enum cd_budget_kind kind, size_t bytes)
{
    size_t n = bytes < budget.used[kind] ? bytes : budget.used[kind];

    budget.used[kind] -= n;
    budget.total -= n;
}

size_t cd_budget_used(void)
{
    return budget.total;
}

size_t cd_budget_used_by(enum cd_budget_kind kind)
{
    return budget.used[kind];
}

size_t cd_budget_limit(void)
{
    return budget.limit;
}

bool cd_budget_high(void)
{
    return budget.limit && budget.total / 4 >= budget.limit / 5;
}

bool cd_budget_full(void)
{
    return budget.limit && budget.total >= budget.limit;
}

const char *cd_budget_name(enum cd_budget_kind kind)
{
    static const char *const names[] = {"bodies", "queues", "replay", "spool", "keys"};

    return names[kind];
}

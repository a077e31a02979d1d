/* budget.h -- one memory budget for what clients and calls can make grow: bodies, queues, replay logs,
 * spool buffers (design, section 3). Beyond 80 % new connections are refused, at 100 % the owner of
 * the largest queue is closed, never the process. */
#ifndef CD_BASE_BUDGET_H
#define CD_BASE_BUDGET_H

#include <stdbool.h>
#include <stddef.h>

enum cd_budget_kind {
    CD_BUDGET_BODIES, /* request bodies being read or served */
    CD_BUDGET_QUEUES, /* messages waiting for slow sockets */
    CD_BUDGET_REPLAY, /* logs of live calls */
    CD_BUDGET_SPOOL,  /* changes waiting for the store */
    CD_BUDGET_KEYS,   /* answers kept under an Idempotency-Key */
    CD_BUDGET_KINDS
};

/** @param bytes  the whole budget; 0: no limit. @param on_full  called when a take reaches the limit,
 *  from within that take: only note it, act later */
void cd_budget_setup(size_t bytes, void (*on_full)(void *arg), void *arg);
void cd_budget_take(enum cd_budget_kind kind, size_t bytes);
void cd_budget_give(enum cd_budget_kind kind, size_t bytes);
size_t cd_budget_used(void);
size_t cd_budget_used_by(enum cd_budget_kind kind);
size_t cd_budget_limit(void);
/** 80 % are used: no new connections. */
bool cd_budget_high(void);
/** All of it is used. */
bool cd_budget_full(void);
const char *cd_budget_name(enum cd_budget_kind kind);

#endif

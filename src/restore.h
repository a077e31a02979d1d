/* restore.h -- calls on their way from the store into memory, and back when the store asks: daemon.c. */
#ifndef CD_RESTORE_H
#define CD_RESTORE_H

#include "core.h"
#include "store/spool.h"

/** Bring a call (taken over) into memory. @return it, when it was not there; else NULL */
struct cd_live *cd_restore_one(struct cd_core *core, struct cd_stored_call *sc);
/** Bring calls (taken over) into memory. One that is there already keeps its state, and gets the outbox
 * rows that it does not know. @return how many came new */
size_t cd_restore_calls(struct cd_core *core, struct cd_stored_call **calls, size_t n);
/** Tell @p fn of each call in memory as it was last committed. @param arg  a struct cd_core */
void cd_restore_each(void *arg, cd_spool_call_fn fn, void *fn_arg);
/** Another call takes the place of @p older (taken over): end it. @param arg  a struct cd_core
 * @param fn  told once that is committed, or could not be; maybe within this call */
void cd_restore_yield(void *arg, struct cd_stored_call *older, cd_spool_yield_fn fn, void *fn_arg);
/** Another call took the place of this one: end it. @param arg  a struct cd_core */
void cd_restore_displaced(void *arg, const char *call_id);
/** Start without a database is over: load what is not in memory yet. @param core  a struct cd_core */
void cd_restore_rest(void *core);

#endif

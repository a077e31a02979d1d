/* spool.h -- a PostgreSQL store that goes on without PostgreSQL: what it cannot take is synced to files,
 * and written to it when it is back (design, section 6). */
#ifndef CD_STORE_SPOOL_H
#define CD_STORE_SPOOL_H

#include "store/spool_dir.h"
#include "store/store.h"

typedef void (*cd_spool_call_fn)(void *arg, const struct cd_call *committed);

/** @param ended  false: it could not be done now */
typedef void (*cd_spool_yield_fn)(void *arg, bool ended);

struct cd_spool_conf {
    struct cd_pg_conf pg;         /* node is taken from @p dir */
    struct cd_migrate_conf migrate; /* run on a helper thread when the store is opened offline */
    const struct cd_spool_dir *dir; /* borrowed until the store is closed */
    long max_mb;
    bool offline;                 /* the database was not there just now: begin without it */
    cd_done_fn ready;             /* once: calls can be loaded and changed now */
    /** Tell @p fn of every call in memory as it was committed. Degraded mode judges by these. */
    void (*live)(void *arg, cd_spool_call_fn fn, void *fn_arg);
    /** Calls were loaded from the spool alone, and now the database is there: load the others. */
    void (*came)(void *arg);
    /** A call of ours that nobody here attended stands in the database where one belongs that was begun
     * without it: end @p older (taken over) and tell @p fn, once that is committed. NULL: it stays, and
     * the newer one gives way. */
    void (*yield)(void *arg, struct cd_stored_call *older, cd_spool_yield_fn fn, void *fn_arg);
    /** Another call stands in the database where this one belongs, which is written as ended: end it. */
    void (*displaced)(void *arg, const char *call_id);
    void *arg;
};

/** Reads the spool (blocks), then starts connecting. @return NULL with @p err */
struct cd_store *cd_store_spool_open(struct cd_loop *loop, const struct cd_spool_conf *conf,
                                     struct cd_err *err);

#endif

/* pg_keep.h -- how long rows are kept, and the job that lets old ones go. */
#ifndef CD_STORE_PG_KEEP_H
#define CD_STORE_PG_KEEP_H

#include <libpq-fe.h>
#include <stdint.h>

#include "loop/timer.h"
#include "store/pg_stmt.h"

struct pg_store;
struct pg_op;

#define PG_KEEP_STEPS (CD_PG_KEEP_TOKENS - CD_PG_KEEP_SESSIONS + 1)

/** The round that runs, or the pause between two. */
struct pg_keep {
    struct cd_timer timer;
    int64_t age_s[PG_KEEP_STEPS]; /* how old a row may be; 0: for ever */
    unsigned step;
    bool asked;        /* a delete was submitted; its outcome stands in `took` */
    long took;         /* rows of the last one, -1: not known yet */
    int64_t asked_ms;  /* monotonic */
    uint64_t gone[PG_KEEP_STEPS]; /* rows of this round */
};

/** Begin: the first round follows soon, the next ones hourly. @return false: out of memory */
bool pg_keep_start(struct pg_store *s, const struct cd_keep *keep);
void pg_keep_stop(struct pg_store *s);
/** What a delete's statement says: how many rows. */
void pg_keep_take(struct pg_store *s, const PGresult *res);
/** The statement of a PG_OP_PURGE; its parameter, the age of what it deletes, is the op's key. */
enum cd_pg_stmt pg_keep_stmt(const struct pg_op *op);

#endif

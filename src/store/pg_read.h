/* pg_read.h -- one read of the read connection: pg_load.c sends it, pg_take.c takes its rows. */
#ifndef CD_STORE_PG_READ_H
#define CD_STORE_PG_READ_H

#include <libpq-fe.h>

#include "store/later.h"
#include "store/pg_call.h"

#define PG_MEMBERS_AT_ONCE 1000

enum read_kind { READ_CALL, READ_BY_MATRIX, READ_LIVE, READ_IDS, READ_IDEM, READ_TOKEN, READ_MEMBERS,
                 READ_PING, READ_LISTEN };

struct pg_read {
    struct pg_read *next;
    enum read_kind kind;
    int64_t queued_ms; /* monotonic */
    char *a, *b, *c;   /* parameters, may be NULL */
    char listen[64];   /* LISTEN on our own channel */
    size_t step;       /* results taken so far */
    size_t given;      /* members of earlier slices */
    bool failed;
    struct cd_pg_calls calls; /* what was read so far */
    struct cd_answer *answer;
};

/** Take one result. @param owner  who asks. What fails is noted in the read. */
void pg_read_take(struct pg_read *r, const PGresult *res, const char *owner);
/** Hand the calls that were read over to the answer. */
void pg_read_give_calls(struct pg_read *r);

#endif

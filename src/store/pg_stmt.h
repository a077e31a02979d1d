/* pg_stmt.h -- the statements of the write connection, and the rows they take. */
#ifndef CD_STORE_PG_STMT_H
#define CD_STORE_PG_STMT_H

#include "store/pg_rows.h"
#include "store/store_int.h"

#define CD_PG_KEEP_ROWS 50 /* that one delete takes at most */
#define CD_PG_KEEP_ROWS_TEXT "50"
#define CD_PG_ROBBED (-1) /* among the marks of an owner: another daemon took its calls over */
#define CD_PG_ROBBED_TEXT "(-1)"

/** In the order in which one transaction runs them. */
enum cd_pg_stmt {
    CD_PG_MARK,       /* number of this transaction, under this connection's epoch */
    CD_PG_HOLD,       /* only with other daemons: first all calls that are written to, in one order */
    CD_PG_TRIED,      /* outbox rows that were attempted */
    CD_PG_TOKEN_PUT,
    CD_PG_TOKEN_DEL,
    CD_PG_TOKEN_DEL_SHARED, /* unless another daemon may need it */
    CD_PG_MEMBERS,
    CD_PG_QUARANTINE,
    CD_PG_CLAIM,      /* calls of daemons that are gone become ours */
    CD_PG_PEERS,      /* how many other daemons are there? */
    CD_PG_LEAVE,
    CD_PG_KEEP_SESSIONS, /* and the following: rows that are older than they are kept: pg_keep.c */
    CD_PG_KEEP_STATS,
    CD_PG_KEEP_SEEN,
    CD_PG_KEEP_INBOX,
    CD_PG_KEEP_IDEM,
    CD_PG_KEEP_MEMBERS,
    CD_PG_KEEP_TOKENS,
    CD_PG_LIVING,     /* calls that rows without a transition belong to; outbox rows only while they live */
    CD_PG_UPDATE,     /* sessions; before inserts: one call may end where the next begins */
    CD_PG_INSERT,
    CD_PG_PARTICIPANT,     /* of new calls */
    CD_PG_PARTICIPANT_SET, /* of calls that were there */
    CD_PG_EVENT,
    CD_PG_IDEM,
    CD_PG_DROP,       /* outbox rows that nobody needs any more */
    CD_PG_OUTBOX,
    CD_PG_UNTOLD,     /* all outbox rows of calls whose invite was never tried */
    CD_PG_SIGNAL,
    CD_PG_DROP_SIGNALS,
    CD_PG_DONE,       /* outbox rows that are finished */
    CD_PG_SEEN,
    CD_PG_DIAG,       /* not part of a transaction: why did a change fail? */
    CD_PG_STMT_COUNT
};

struct cd_pg_stmt_row {
    const char *name; /* of the prepared statement */
    const char *sql;
    const char *types; /* columns as for cd_pg_rows_begin; NULL: no unnested rows */
};

extern const struct cd_pg_stmt_row cd_pg_stmts[CD_PG_STMT_COUNT];

/** Add the rows that @p ch has for statement @p s; nothing when it has none. @param owner  who writes */
void cd_pg_change_rows(struct cd_pg_rows *r, enum cd_pg_stmt s, const struct cd_change *ch, const char *owner);

#endif

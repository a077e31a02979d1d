/* pg_call.h -- calls as rows of five tables: the queries, and what becomes of their results. */
#ifndef CD_STORE_PG_CALL_H
#define CD_STORE_PG_CALL_H

#include <libpq-fe.h>

#include "base/map.h"
#include "store/store_int.h"

enum cd_pg_which { CD_PG_BY_ID, CD_PG_BY_MATRIX, CD_PG_LIVE, CD_PG_BY_IDS };

#define CD_PG_CALL_TABLES 5 /* sessions, participants, events, signals, outbox: in this order */

/** Calls being put together. Zeroed at first. */
struct cd_pg_calls {
    struct cd_map by_id;
    struct cd_stored_call **v;
    size_t n, cap;
    const char *owner; /* us: calls of others are elsewhere; borrowed */
};

/** @param table  0 .. CD_PG_CALL_TABLES - 1. CD_PG_BY_ID takes one parameter, CD_PG_BY_MATRIX
 * two (room, Matrix call id), CD_PG_LIVE one (the owner), CD_PG_BY_IDS one (an array) */
const char *cd_pg_calls_sql(enum cd_pg_which which, size_t table);
/** Add one table's rows. @return false out of memory, or a row that makes no sense */
bool cd_pg_calls_take(struct cd_pg_calls *c, size_t table, const PGresult *res);
/** Free all and start anew. */
void cd_pg_calls_done(struct cd_pg_calls *c);
/** 32 hex digits to 16 bytes. */
void cd_pg_hash(const char *hex, uint8_t out[16]);

#endif

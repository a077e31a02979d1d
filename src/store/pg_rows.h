/* pg_rows.h -- rows on their way to a statement: one binary array a column, unnested by the server. */
#ifndef CD_STORE_PG_ROWS_H
#define CD_STORE_PG_ROWS_H

#include <libpq-fe.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"

#define CD_PG_COLUMNS_MAX 28

/** Reused for one statement after the other; zero it and call cd_pg_rows_done at the end. */
struct cd_pg_rows {
    const char *types; /* a letter a column, see cd_pg_rows_begin */
    size_t n_columns;
    size_t at; /* column that the next value goes to */
    int32_t n; /* rows */
    bool used[CD_PG_COLUMNS_MAX]; /* buffer is initialised */
    bool nulls[CD_PG_COLUMNS_MAX];
    struct cd_buf column[CD_PG_COLUMNS_MAX];
};

/** Start anew.
 * @param types  one letter a column: t text, i bigint, n integer, s smallint, b boolean, x bytea,
 *               d timestamptz; a literal, at most CD_PG_COLUMNS_MAX letters */
void cd_pg_rows_begin(struct cd_pg_rows *r, const char *types);
/* Values in column order, row after row. */
void cd_pg_text(struct cd_pg_rows *r, const char *s); /* NULL: null */
void cd_pg_int(struct cd_pg_rows *r, int64_t v);      /* bigint, integer or smallint, as the column is */
void cd_pg_bool(struct cd_pg_rows *r, bool v);
void cd_pg_bytes(struct cd_pg_rows *r, const void *p, size_t n); /* p NULL: null */
void cd_pg_time(struct cd_pg_rows *r, int64_t wall_ms);          /* 0: null */
/** Queue the prepared statement @p name with these rows.
 * @param binary  wanted format of its result
 * @return false: libpq took it not, or a column did not fit in memory */
bool cd_pg_rows_send(struct cd_pg_rows *r, PGconn *pg, const char *name, bool binary);
void cd_pg_rows_done(struct cd_pg_rows *r);

#endif

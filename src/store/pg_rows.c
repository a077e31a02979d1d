/* pg_rows.c -- columns as PostgreSQL's binary arrays.
 * Why: a batch is a handful of statements with one array a column, whatever its size; binary arrays
 *      need no quoting, so no byte of any text can end a value early.
 * State: the caller's struct cd_pg_rows. Owns: its buffers. Blocks: never. */
#include "store/pg_rows.h"

#include <string.h>

#define COLUMN_BYTES (64u << 20) /* largest column of one statement */
#define HEADER_BYTES 20          /* dimensions, has-null flag, element type, length, lower bound */
#define EPOCH_2000_MS 946684800000LL

static void put32(char *to, uint32_t v)
{
    to[0] = (char)(v >> 24);
    to[1] = (char)(v >> 16 & 255);
    to[2] = (char)(v >> 8 & 255);
    to[3] = (char)(v & 255);
}

static void put64(char *to, uint64_t v)
{
    put32(to, (uint32_t)(v >> 32));
    put32(to + 4, (uint32_t)v);
}

/* Type numbers are fixed: src/include/catalog/pg_type.dat of every server version. */
static uint32_t type_oid(char letter)
{
    switch (letter) {
    case 'i':
        return 20;
    case 'n':
        return 23;
    case 's':
        return 21;
    case 'b':
        return 16;
    case 'x':
        return 17;
    case 'd':
        return 1184;
    default:
        return 25;
    }
}

void cd_pg_rows_begin(struct cd_pg_rows *r, const char *types)
{
    static const char header[HEADER_BYTES];

    r->types = types;
    r->n_columns = strlen(types);
    r->at = 0;
    r->n = 0;
    for (size_t i = 0; i < r->n_columns; i++) {
        if (!r->used[i])
            cd_buf_init(&r->column[i], COLUMN_BYTES);
        r->used[i] = true;
        r->nulls[i] = false;
        cd_buf_reset(&r->column[i]);
        cd_buf_add(&r->column[i], header, sizeof header);
    }
}

static size_t next_column(struct cd_pg_rows *r)
{
    size_t i = r->at;

    if (++r->at == r->n_columns) {
        r->at = 0;
        r->n++;
    }
    return i;
}

static void value(struct cd_pg_rows *r, const void *p, size_t n)
{
    size_t i = next_column(r);
    char len[4];

    put32(len, p ? (uint32_t)n : UINT32_MAX);
    cd_buf_add(&r->column[i], len, sizeof len);
    if (p)
        cd_buf_add(&r->column[i], p, n);
    else
        r->nulls[i] = true;
}

void cd_pg_text(struct cd_pg_rows *r, const char *s)
{
    value(r, s, s ? strlen(s) : 0);
}

void cd_pg_bytes(struct cd_pg_rows *r, const void *p, size_t n)
{
    value(r, p, n);
}

void cd_pg_int(struct cd_pg_rows *r, int64_t v)
{
    char b[8];

    put64(b, (uint64_t)v);
    switch (r->types[r->at]) {
    case 'n':
        value(r, b + 4, 4);
        break;
    case 's':
        value(r, b + 6, 2);
        break;
    default:
        value(r, b, 8);
        break;
    }
}

void cd_pg_bool(struct cd_pg_rows *r, bool v)
{
    const char b = v;

    value(r, &b, 1);
}

void cd_pg_time(struct cd_pg_rows *r, int64_t wall_ms)
{
    char b[8];

    put64(b, (uint64_t)((wall_ms - EPOCH_2000_MS) * 1000));
    value(r, wall_ms ? b : NULL, sizeof b);
}

bool cd_pg_rows_send(struct cd_pg_rows *r, PGconn *pg, const char *name, bool binary)
{
    const char *values[CD_PG_COLUMNS_MAX];
    int lengths[CD_PG_COLUMNS_MAX], formats[CD_PG_COLUMNS_MAX];

    for (size_t i = 0; i < r->n_columns; i++) {
        struct cd_buf *b = &r->column[i];

        if (b->failed || b->n < HEADER_BYTES)
            return false;
        put32(b->p, r->n ? 1 : 0);
        put32(b->p + 4, r->nulls[i]);
        put32(b->p + 8, type_oid(r->types[i]));
        put32(b->p + 12, (uint32_t)r->n);
        put32(b->p + 16, 1);
        values[i] = b->p;
        lengths[i] = r->n ? (int)b->n : 12; /* an empty array has no dimension */
        formats[i] = 1;
    }
    return PQsendQueryPrepared(pg, name, (int)r->n_columns, values, lengths, formats, binary) == 1;
}

void cd_pg_rows_done(struct cd_pg_rows *r)
{
    for (size_t i = 0; i < CD_PG_COLUMNS_MAX; i++)
        if (r->used[i])
            cd_buf_done(&r->column[i]);
    memset(r, 0, sizeof *r);
}

/* pg_take.c -- what the rows of a read become.
 * In: results. Out: calls, memberships, kept answers, sealed tokens in the read's answer.
 * State: none. Owns: nothing. Blocks: never. */
#include <stdlib.h>
#include <string.h>

#include "store/pg_read.h"

static char *column(const PGresult *res, int row, int col)
{
    return PQgetisnull(res, row, col) ? NULL : strdup(PQgetvalue(res, row, col));
}

static bool lost_column(const char *copy, const PGresult *res, int row, int col)
{
    return !copy && !PQgetisnull(res, row, col);
}

static void take_idem(struct pg_read *r, const PGresult *res)
{
    struct cd_idem_row *i;

    if (PQntuples(res) == 0)
        return;
    i = calloc(1, sizeof *i);
    if (!i || !cd_dup(&i->user_id, r->a) || !cd_dup(&i->key, r->b) ||
        !(i->response = column(res, 0, 2))) {
        cd_idem_row_free(i);
        r->failed = true;
        return;
    }
    cd_pg_hash(PQgetvalue(res, 0, 0), i->request_hash);
    i->status = (int)strtol(PQgetvalue(res, 0, 1), NULL, 10);
    memcpy(i->call_id, PQgetvalue(res, 0, 3), strnlen(PQgetvalue(res, 0, 3), CD_CALL_ID_LEN));
    i->at = strtoll(PQgetvalue(res, 0, 4), NULL, 10);
    r->answer->idem = i;
}

static void take_token(struct pg_read *r, const PGresult *res)
{
    size_t n;

    if (PQntuples(res) == 0)
        return;
    n = (size_t)PQgetlength(res, 0, 0);
    r->answer->bytes = malloc(n ? n : 1);
    if (!r->answer->bytes) {
        r->failed = true;
        return;
    }
    memcpy(r->answer->bytes, PQgetvalue(res, 0, 0), n);
    r->answer->n = n;
}

/* Before the first slice: what was heard of before then is not read. */
static void take_since(struct pg_read *r, const PGresult *res)
{
    r->failed |= !cd_dup(&r->a, "") || !cd_dup(&r->b, "") || !(r->c = column(res, 0, 0));
}

static void take_members(struct pg_read *r, const PGresult *res)
{
    int n = PQntuples(res);
    struct cd_answer *a = r->answer;

    cd_members_free(a->members, a->n); /* of a connection that was lost in this very slice */
    a->n = 0;
    a->members = calloc((size_t)n + 1, sizeof *a->members);
    if (!a->members) {
        r->failed = true;
        return;
    }
    for (int i = 0; i < n; i++) {
        struct cd_member_row *m = &a->members[a->n++];

        m->joined = true;
        m->room_id = column(res, i, 0);
        m->user_id = column(res, i, 1);
        m->display_name = column(res, i, 2);
        m->avatar_url = column(res, i, 3);
        r->failed |= !m->room_id || !m->user_id || lost_column(m->display_name, res, i, 2) ||
                     lost_column(m->avatar_url, res, i, 3);
    }
}

void pg_read_take(struct pg_read *r, const PGresult *res, const char *owner)
{
    size_t step = r->step++;

    r->calls.owner = owner;

    switch (r->kind) {
    case READ_CALL:
    case READ_BY_MATRIX:
    case READ_LIVE:
    case READ_IDS:
        if (step >= CD_PG_CALL_TABLES || !cd_pg_calls_take(&r->calls, step, res))
            r->failed = true;
        break;
    case READ_IDEM:
        take_idem(r, res);
        break;
    case READ_TOKEN:
        take_token(r, res);
        break;
    case READ_MEMBERS:
        (r->c ? take_members : take_since)(r, res);
        break;
    case READ_PING:
    case READ_LISTEN:
        break;
    }
}

void pg_read_give_calls(struct pg_read *r)
{
    struct cd_answer *a = r->answer;

    if (r->kind == READ_LIVE || r->kind == READ_IDS) {
        a->calls = r->calls.v;
        a->n = r->calls.n;
        r->calls.v = NULL;
        r->calls.n = 0;
    } else if (r->kind <= READ_BY_MATRIX && r->calls.n) {
        a->call = r->calls.v[0];
        r->calls.v[0] = NULL;
    }
}

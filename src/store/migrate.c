/* migrate.c -- brings a database to the schema this binary knows, or back.
 * In: database URL, schema name, target number. Out: migrations applied, one line each on a stream.
 * Why: the daemon refuses to run on a schema it does not know, and psql alone must do the same work.
 * State: none. Owns: its connection. Blocks: yes; it runs before the loop, or as a command. */
#include "store/migrate.h"

#include <libpq-fe.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "store/pg_notice.h"
#include "store/store.h"

#define CHECKSUM_LEN 64 /* hex digits of SHA-256 */
#define APPLIED_MAX 1000

/* One row of schema_migrations. */
struct applied {
    int number;
    char name[128];
    char checksum[CHECKSUM_LEN + 1]; /* empty: psql ran it */
};

struct run {
    PGconn *pg;
    const struct cd_migrate_conf *conf;
    FILE *out;
    struct cd_err *err;
    struct applied *applied;
    size_t n_applied;
};

static void say(const struct run *r, const char *verb, const char *name)
{
    if (r->out)
        fprintf(r->out, "%s%s %s\n", r->conf->dry_run ? "would " : "", verb, name);
}

static void checksum(const char *text, char out[CHECKSUM_LEN + 1])
{
    static const char hex[] = "0123456789abcdef";
    unsigned char md[EVP_MAX_MD_SIZE];
    unsigned n = 0;

    out[0] = '\0';
    if (EVP_Digest(text, strlen(text), md, &n, EVP_sha256(), NULL) != 1 || n * 2 != CHECKSUM_LEN)
        return;
    for (unsigned i = 0; i < n; i++) {
        out[2 * i] = hex[md[i] >> 4];
        out[2 * i + 1] = hex[md[i] & 15];
    }
    out[CHECKSUM_LEN] = '\0';
}

/* libpq's messages end in a line feed and may hold several lines: one line reads better in a log. */
static void one_line(const char *from, char *to, size_t size)
{
    size_t n = 0;

    for (; *from && n + 1 < size; from++)
        to[n++] = *from == '\n' || *from == '\t' ? ' ' : *from;
    while (n && to[n - 1] == ' ')
        n--;
    to[n] = '\0';
}

static enum cd_rc fail_pg(struct run *r, const char *what, const PGresult *res)
{
    const char *primary = res ? PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY) : NULL;
    const char *hint = res ? PQresultErrorField(res, PG_DIAG_MESSAGE_HINT) : NULL;
    char text[1200], line[1200];

    snprintf(text, sizeof text, "%s: %s%s%s", what, primary ? primary : PQerrorMessage(r->pg),
             hint ? ". " : "", hint ? hint : "");
    one_line(text, line, sizeof line);
    /* the whole of it: struct cd_err may have to cut the fix off */
    cd_log(CD_LOG_ERROR, "store", "migrate.failed", NULL, "%s", line);
    if (r->out)
        fprintf(r->out, "%s\n", line);
    return cd_fail(r->err, CD_E_INTERNAL, "%.230s", line);
}

static bool res_ok(const PGresult *res)
{
    ExecStatusType st = PQresultStatus(res);

    return st == PGRES_COMMAND_OK || st == PGRES_TUPLES_OK;
}

/* A statement without a result that matters. */
static enum cd_rc exec(struct run *r, const char *what, const char *sql, int n, const char *const *v)
{
    PGresult *res = n ? PQexecParams(r->pg, sql, n, NULL, v, NULL, NULL, 0) : PQexec(r->pg, sql);
    enum cd_rc rc = res_ok(res) ? CD_OK : fail_pg(r, what, res);

    PQclear(res);
    return rc;
}

/* Nobody there, nobody who answers, or one who says that he is starting or stopping: that passes. Whoever
 * has an answer, be it "no such database", means what he says. */
static bool may_pass(const char *const *keys, const char *const *values, int64_t took_ms, int64_t limit_ms)
{
    PGPing p = took_ms >= limit_ms ? PQPING_NO_RESPONSE : PQpingParams(keys, values, 1);

    return p == PQPING_NO_RESPONSE || p == PQPING_REJECT;
}

static enum cd_rc no_connection(struct run *r, bool passes)
{
    char line[1200];

    if (!passes)
        return fail_pg(r, "the database does not answer; check database.url", NULL);
    one_line(PQerrorMessage(r->pg), line, sizeof line);
    return cd_fail(r->err, CD_E_OVERLOADED, "the database does not answer; check database.url: %.180s", line);
}

static enum cd_rc connect_db(struct run *r)
{
    char seconds[12];
    const char *const keys[] = {"dbname", "fallback_application_name", "connect_timeout", NULL};
    const char *const values[] = {r->conf->url, "matrix-calld migrate", seconds, NULL};
    int64_t began = cd_mono_ms();
    const char *schema = r->conf->schema;
    PQconninfoOption *parsed = PQconninfoParse(r->conf->url, NULL);

    if (!parsed) /* libpq's own words would quote the URL with its password */
        return cd_fail(r->err, CD_E_INVALID_PARAM,
                       "database.url is neither a URI (postgresql://user@host/db)"
                       " nor \"key=value ...\"");
    PQconninfoFree(parsed);
    snprintf(seconds, sizeof seconds, "%d", r->conf->connect_s ? r->conf->connect_s : 10);
    r->pg = PQconnectdbParams(keys, values, 1);
    if (!r->pg || PQstatus(r->pg) != CONNECTION_OK)
        return no_connection(r, may_pass(keys, values, cd_mono_ms() - began,
                                         (r->conf->connect_s ? r->conf->connect_s : 10) * 900));
    PQsetNoticeReceiver(r->pg, cd_pg_notice, NULL);
    return exec(r, "cannot set the schema",
                "SELECT set_config('search_path', quote_ident($1), false),"
                " set_config('client_min_messages', 'warning', false)", 1, &schema);
}

static enum cd_rc lock(struct run *r)
{
    const char *schema = r->conf->schema;
    PGresult *res;
    bool mine;

    if (r->conf->wait)
        return exec(r, "cannot take the migration lock",
                    "SELECT pg_advisory_lock(hashtextextended('matrix-calld migrations ' || $1, 0))",
                    1, &schema);
    res = PQexecParams(r->pg,
                       "SELECT pg_try_advisory_lock("
                       "hashtextextended('matrix-calld migrations ' || $1, 0))", 1, NULL, &schema, NULL, NULL, 0);
    if (!res_ok(res)) {
        enum cd_rc rc = fail_pg(r, "cannot take the migration lock", res);

        PQclear(res);
        return rc;
    }
    mine = PQgetvalue(res, 0, 0)[0] == 't';
    PQclear(res);
    return mine ? CD_OK : cd_fail(r->err, CD_E_INTERNAL,
                                  "another matrix-calld migrates this database now;"
                                  " try again when it is done");
}

static enum cd_rc read_applied(struct run *r)
{
    const char *schema = r->conf->schema;
    PGresult *res = PQexecParams(r->pg,
                                 "SELECT 1 FROM pg_attribute"
                                 " WHERE NOT attisdropped AND attname = 'checksum'"
                                 " AND attrelid = to_regclass(quote_ident($1) || '.schema_migrations')",
                                 1, NULL, &schema, NULL, NULL, 0);
    int rows = PQntuples(res);

    if (!res_ok(res)) {
        enum cd_rc rc = fail_pg(r, "cannot read the schema's state", res);

        PQclear(res);
        return rc;
    }
    PQclear(res);
    if (rows == 0)
        return CD_OK; /* nothing yet; or a foreign table, which the first file will name */
    res = PQexec(r->pg, "SELECT number, name, coalesce(checksum, '') FROM schema_migrations"
                        " ORDER BY number");
    rows = PQntuples(res);
    if (res_ok(res) && rows <= APPLIED_MAX)
        r->applied = calloc((size_t)rows + 1, sizeof *r->applied);
    if (!r->applied) {
        enum cd_rc rc = fail_pg(r, "cannot read schema_migrations", res);

        PQclear(res);
        return rc;
    }
    for (int i = 0; i < rows; i++) {
        struct applied *a = &r->applied[r->n_applied++];

        a->number = (int)strtol(PQgetvalue(res, i, 0), NULL, 10);
        snprintf(a->name, sizeof a->name, "%s", PQgetvalue(res, i, 1));
        snprintf(a->checksum, sizeof a->checksum, "%s", PQgetvalue(res, i, 2));
    }
    PQclear(res);
    return CD_OK;
}

static const struct applied *find_applied(const struct run *r, int number)
{
    for (size_t i = 0; i < r->n_applied; i++)
        if (r->applied[i].number == number)
            return &r->applied[i];
    return NULL;
}

static const struct cd_migration *find_known(int number)
{
    for (size_t i = 0; i < cd_migrations_count; i++)
        if (cd_migrations[i].number == number)
            return &cd_migrations[i];
    return NULL;
}

/* Only go on where the database's history is the one this binary carries. */
static enum cd_rc check_history(struct run *r)
{
    for (size_t i = 0; i < r->n_applied; i++) {
        const struct applied *a = &r->applied[i];
        const struct cd_migration *m = find_known(a->number);
        char sum[CHECKSUM_LEN + 1];

        if (!m)
            return cd_fail(r->err, CD_E_INTERNAL,
                           "schema \"%s\" is newer than this matrix-calld: it holds migration %s,"
                           " we know up to %s. Install the newer version, or restore a backup.",
                           r->conf->schema, a->name, cd_migrations[cd_migrations_count - 1].name);
        checksum(m->up, sum);
        if (a->checksum[0] && strcmp(a->checksum, sum) != 0)
            return cd_fail(r->err, CD_E_INTERNAL,
                           "migration %s was applied from another file (checksum %.12s, ours %.12s)."
                           " Use the version that made this schema, or take it back and apply again.",
                           a->name, a->checksum, sum);
    }
    return CD_OK;
}

static enum cd_rc record_checksum(struct run *r, const struct cd_migration *m)
{
    char number[12], sum[CHECKSUM_LEN + 1];
    const char *const v[] = {number, sum};

    snprintf(number, sizeof number, "%d", m->number);
    checksum(m->up, sum);
    return exec(r, m->name, "UPDATE schema_migrations SET checksum = $2 WHERE number = $1::integer"
                            " AND checksum IS NULL", 2, v);
}

static enum cd_rc run_file(struct run *r, const char *name, const char *sql)
{
    enum cd_rc rc = exec(r, name, sql, 0, NULL);

    if (rc != CD_OK)
        PQclear(PQexec(r->pg, "ROLLBACK"));
    return rc;
}

static enum cd_rc go_up(struct run *r, int to)
{
    size_t missing = 0;

    for (size_t i = 0; i < cd_migrations_count && cd_migrations[i].number <= to; i++) {
        const struct cd_migration *m = &cd_migrations[i];
        const struct applied *a = find_applied(r, m->number);
        enum cd_rc rc = CD_OK;

        if (!a)
            say(r, "apply", m->name);
        missing += !a;
        if (r->conf->dry_run)
            continue;
        if (!a)
            rc = run_file(r, m->name, m->up);
        if (rc == CD_OK && (!a || !a->checksum[0]))
            rc = record_checksum(r, m);
        if (rc != CD_OK)
            return rc;
    }
    if (missing && r->conf->complete)
        return cd_fail(r->err, CD_E_INTERNAL,
                       "%zu migrations are missing in schema \"%s\", and database.auto_migrate is off: run"
                       " matrix-calld migrate", missing, r->conf->schema);
    return CD_OK;
}

static enum cd_rc go_down(struct run *r, int to)
{
    for (size_t i = cd_migrations_count; i-- > 0 && cd_migrations[i].number > to;) {
        const struct cd_migration *m = &cd_migrations[i];
        enum cd_rc rc;

        if (!find_applied(r, m->number))
            continue;
        say(r, "take back", m->name);
        rc = r->conf->dry_run ? CD_OK : run_file(r, m->name, m->down);
        if (rc != CD_OK)
            return rc;
    }
    return CD_OK;
}

static enum cd_rc migrate(struct run *r)
{
    int newest = cd_migrations[cd_migrations_count - 1].number;
    int to = r->conf->to < 0 ? newest : r->conf->to;
    enum cd_rc rc;

    if (to != 0 && !find_known(to))
        return cd_fail(r->err, CD_E_INVALID_PARAM,
                       "there is no migration number %d; the newest is %d, 0 takes all back", to,
                       newest);
    rc = connect_db(r);
    if (rc != CD_OK)
        return rc;
    rc = lock(r);
    if (rc == CD_OK)
        rc = read_applied(r);
    if (rc == CD_OK)
        rc = check_history(r);
    if (rc == CD_OK && r->conf->to >= 0)
        rc = go_down(r, to);
    if (rc == CD_OK)
        rc = go_up(r, to);
    /* it went away in the middle */
    return rc != CD_OK && PQstatus(r->pg) == CONNECTION_BAD ? CD_E_OVERLOADED : rc;
}

enum cd_rc cd_migrate(const struct cd_migrate_conf *conf, void *out_file, struct cd_err *err)
{
    struct run r = {.conf = conf, .out = out_file, .err = err};
    enum cd_rc rc = migrate(&r);

    free(r.applied);
    PQfinish(r.pg); /* gives the advisory lock back */
    return rc;
}

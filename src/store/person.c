/* person.c -- export and erasure of what the database holds of one user.
 * In: a user id. Out: rows as JSON; or rows changed and deleted in one transaction.
 * Why not through the daemon: nothing of it needs a running one. Those that run are told which calls to forget.
 * State: none. Owns: its connection. Blocks: yes; it runs as a command. */
#include "store/person.h"

#include <libpq-fe.h>
#include <stdlib.h>

#include "base/id.h"
#include "store/pg_notice.h"
#include "store/store_int.h"

#define PSEUDONYM_LETTERS 16

#define LIVE "('ringing', 'accepted', 'connected')"
/* $1 is the user. Through the index on participants; who was called and never became one is named in the session. */
#define THEIR_CALLS \
    "(SELECT call_session_id FROM call_participants WHERE user_id = $1::text" \
    " UNION SELECT id FROM call_sessions WHERE $1::text IN (caller, callee, ended_by))"

/* A text as a pattern of itself; and where an id ends: @a:x.org is not meant where @a:x.org.uk stands. */
#define LITERALLY(text) "regexp_replace(" text ", '([][\\\\.^$*+?{}()|])', '\\\\\\1', 'g')"
#define WHOLE(text) "(" LITERALLY(text) " || '(?![0-9A-Za-z-]|[.:][0-9A-Za-z])')"
#define THEM WHOLE("$1::text")
/* As it stands between the quotes of a JSON string, where the quotes and backslashes of historical ids are escaped. */
#define SPELLED "substr(to_json($1::text)::text, 2, length(to_json($1::text)::text) - 2)"
#define THEM_IN_JSON WHOLE(SPELLED)
#define AS_BYTES(text) "encode(convert_to(" text ", 'UTF8'), 'escape')"

/* --- the connection --------------------------------------------------------------------------- */

static enum cd_rc fail(PGconn *pg, const PGresult *res, struct cd_err *err)
{
    const char *text = res ? PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY) : NULL;

    return cd_fail(err, CD_E_INTERNAL, "the database says: %.200s", text ? text : PQerrorMessage(pg));
}

static PGresult *run(PGconn *pg, const char *sql, int n, const char *const *values)
{
    return PQexecParams(pg, sql, n, NULL, values, NULL, NULL, 0);
}

static enum cd_rc must(PGconn *pg, const char *sql, int n, const char *const *values, struct cd_err *err)
{
    PGresult *res = run(pg, sql, n, values);
    ExecStatusType st = PQresultStatus(res);
    enum cd_rc rc = st == PGRES_COMMAND_OK || st == PGRES_TUPLES_OK ? CD_OK : fail(pg, res, err);

    PQclear(res);
    return rc;
}

static enum cd_rc open_db(const struct cd_person *p, PGconn **out, struct cd_err *err)
{
    const char *const keys[] = {"dbname", "fallback_application_name", "connect_timeout", NULL};
    const char *const values[] = {p->url, "matrix-calld person", "10", NULL};
    PQconninfoOption *parsed = PQconninfoParse(p->url, NULL);
    const char *schema = p->schema;

    *out = NULL;
    if (!parsed) /* libpq's own words would quote the URL with its password */
        return cd_fail(err, CD_E_INVALID_PARAM, "database.url is not set, or is no URI and no list of key=value");
    PQconninfoFree(parsed);
    *out = PQconnectdbParams(keys, values, 1);
    if (!*out || PQstatus(*out) != CONNECTION_OK)
        return fail(*out, NULL, err);
    PQsetNoticeReceiver(*out, cd_pg_notice, NULL);
    return must(*out, "SELECT set_config('search_path', quote_ident($1::text), false)", 1, &schema, err);
}

/* --- export ----------------------------------------------------------------------------------- */

struct part {
    const char *name, *sql; /* rows as JSON texts; $1 is the user */
};

static const struct part parts[] = {
    {"call_sessions", "SELECT to_json(t) FROM call_sessions t WHERE id IN " THEIR_CALLS " ORDER BY id"},
    {"call_participants", "SELECT to_json(t) FROM call_participants t WHERE user_id = $1::text"
                          " ORDER BY call_session_id"},
    {"call_events", "SELECT to_json(t) FROM (SELECT call_session_id, seq, event_type, event_data, created_at"
                    " FROM call_events WHERE user_id = $1::text AND call_session_id IN " THEIR_CALLS
                    " ORDER BY call_session_id, seq) t"},
    {"call_quality_stats", "SELECT to_json(t) FROM call_quality_stats t WHERE user_id = $1::text"
                           " AND call_session_id IN " THEIR_CALLS " ORDER BY id"},
    {"call_signals", "SELECT to_json(t) FROM call_signals t WHERE from_user = $1::text"
                     " AND call_session_id IN " THEIR_CALLS " ORDER BY call_session_id, seq"},
    {"matrix_outbox", "SELECT to_json(t) FROM matrix_outbox t WHERE user_id = $1::text ORDER BY created_at"},
    {"room_members", "SELECT to_json(t) FROM room_members t WHERE user_id = $1::text ORDER BY room_id"},
    {"idempotency_keys", "SELECT to_json(t) FROM (SELECT key, status, response, call_session_id, created_at"
                         " FROM idempotency_keys WHERE user_id = $1::text ORDER BY created_at) t"},
    {"devices", "SELECT to_json(t) FROM (SELECT device_id, updated_at FROM sealed_tokens WHERE user_id = $1::text"
                " ORDER BY device_id) t"},
};

static enum cd_rc export_part(PGconn *pg, const struct part *part, const char *user, FILE *out, struct cd_err *err)
{
    PGresult *res = run(pg, part->sql, 1, &user);
    enum cd_rc rc = PQresultStatus(res) == PGRES_TUPLES_OK ? CD_OK : fail(pg, res, err);

    if (rc == CD_OK) {
        fprintf(out, ",\n\"%s\": [", part->name);
        for (int i = 0; i < PQntuples(res); i++)
            fprintf(out, "%s\n%s", i ? "," : "", PQgetvalue(res, i, 0));
        fputs("]", out);
    }
    PQclear(res);
    return rc;
}

static enum cd_rc export_head(PGconn *pg, const char *user, FILE *out, struct cd_err *err)
{
    PGresult *res = run(pg, "SELECT to_json($1::text), to_json(now())", 1, &user);
    enum cd_rc rc = PQresultStatus(res) == PGRES_TUPLES_OK ? CD_OK : fail(pg, res, err);

    if (rc == CD_OK)
        fprintf(out, "{\"userId\": %s,\n\"exportedAt\": %s", PQgetvalue(res, 0, 0), PQgetvalue(res, 0, 1));
    PQclear(res);
    return rc;
}

enum cd_rc cd_person_export(const struct cd_person *p, FILE *out, struct cd_err *err)
{
    PGconn *pg;
    enum cd_rc rc = open_db(p, &pg, err);

    if (rc == CD_OK) /* one moment for all tables */
        rc = must(pg, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", 0, NULL, err);
    if (rc == CD_OK)
        rc = export_head(pg, p->user_id, out, err);
    for (size_t i = 0; rc == CD_OK && i < sizeof parts / sizeof *parts; i++)
        rc = export_part(pg, &parts[i], p->user_id, out, err);
    if (rc == CD_OK && (fputs("}\n", out) < 0 || fflush(out) != 0))
        rc = cd_fail(err, CD_E_INTERNAL, "the export could not be written");
    PQfinish(pg);
    return rc;
}

/* --- erasure ---------------------------------------------------------------------------------- */

/* $1 the user, $2 the pseudonym (where it is not needed it is named all the same: each statement takes both). In this
 * order: the participants' rows tell which calls are theirs, and go last. */
static const struct part erasures[] = {
    {"signals deleted", "DELETE FROM call_signals WHERE call_session_id IN " THEIR_CALLS " AND $2::text <> ''"},
    {"unsent events deleted", "DELETE FROM matrix_outbox WHERE (user_id = $1::text"
                              " OR call_session_id IN " THEIR_CALLS ") AND $2::text <> ''"},
    {"kept answers deleted", "DELETE FROM idempotency_keys WHERE (user_id = $1::text"
                             " OR call_session_id IN " THEIR_CALLS ") AND $2::text <> ''"},
    {"memberships deleted", "DELETE FROM room_members WHERE user_id = $1::text AND $2::text <> ''"},
    {"sealed tokens deleted", "DELETE FROM sealed_tokens WHERE user_id = $1::text AND $2::text <> ''"},
    {"put-aside events deleted", "DELETE FROM event_inbox WHERE (encode(raw, 'escape') ~ " WHOLE(AS_BYTES("$1::text"))
                               " OR encode(raw, 'escape') ~ " WHOLE(AS_BYTES(SPELLED))
                               " OR reason ~ " THEM ") AND $2::text <> ''"},
    {"quality figures changed", "UPDATE call_quality_stats SET user_id = $2::text WHERE user_id = $1::text"
                                " AND call_session_id IN " THEIR_CALLS},
    {"events changed", "UPDATE call_events SET user_id = CASE WHEN user_id = $1::text THEN $2::text ELSE user_id END,"
                       " event_data = regexp_replace(event_data::text, " THEM_IN_JSON ", $2::text, 'g')::jsonb"
                       " WHERE call_session_id IN " THEIR_CALLS
                       " AND (user_id = $1::text OR event_data::text ~ " THEM_IN_JSON ")"},
    {"calls changed", "UPDATE call_sessions SET caller = CASE WHEN caller = $1::text THEN $2::text ELSE caller END,"
                      " callee = CASE WHEN callee = $1::text THEN $2::text ELSE callee END,"
                      " ended_by = CASE WHEN ended_by = $1::text THEN $2::text ELSE ended_by END,"
                      " metadata = regexp_replace(metadata::text, " THEM_IN_JSON ", $2::text, 'g')::jsonb"
                      " WHERE id IN " THEIR_CALLS},
    {"participants changed", "UPDATE call_participants SET user_id = $2::text, display_name = NULL,"
                             " avatar_url = NULL, party_id = NULL, device_id = NULL WHERE user_id = $1::text"},
};

/* A call that is not over still writes the user's name. */
static enum cd_rc check_idle(PGconn *pg, const char *user, struct cd_err *err)
{
    PGresult *res = run(pg, "SELECT id FROM call_sessions WHERE status IN " LIVE
                            " AND id IN " THEIR_CALLS " LIMIT 1", 1, &user);
    enum cd_rc rc = PQresultStatus(res) == PGRES_TUPLES_OK ? CD_OK : fail(pg, res, err);

    if (rc == CD_OK && PQntuples(res))
        rc = cd_fail(err, CD_E_INVALID_STATE, "%.150s is in call %.40s, which is not over; end it first, then erase",
                     user, PQgetvalue(res, 0, 0));
    PQclear(res);
    return rc;
}

/* What daemons have in memory of an ended call names the user still, and would be written with a late request. */
static enum cd_rc tell_daemons(PGconn *pg, const char *pseudonym, struct cd_err *err)
{
    return must(pg, "SELECT count(pg_notify('" CD_NODES_CHANNEL "', '" CD_NODES_FORGET "' || id)::text)"
                " FROM call_sessions WHERE id IN " THEIR_CALLS, 1, &pseudonym, err);
}

static enum cd_rc erase_part(PGconn *pg, const struct part *part, const char *const *values, FILE *out,
                             struct cd_err *err)
{
    PGresult *res = run(pg, part->sql, 2, values);
    enum cd_rc rc = PQresultStatus(res) == PGRES_COMMAND_OK ? CD_OK : fail(pg, res, err);

    if (rc == CD_OK)
        fprintf(out, "%s: %s\n", part->name, PQcmdTuples(res));
    PQclear(res);
    return rc;
}

enum cd_rc cd_person_erase(const struct cd_person *p, FILE *out, struct cd_err *err)
{
    char letters[PSEUDONYM_LETTERS + 1], pseudonym[64];
    const char *const values[] = {p->user_id, pseudonym};
    PGconn *pg;
    enum cd_rc rc = open_db(p, &pg, err);

    cd_id_alnum(PSEUDONYM_LETTERS, letters);
    snprintf(pseudonym, sizeof pseudonym, "@erased-%s:invalid", letters);
    if (rc == CD_OK)
        rc = must(pg, "BEGIN", 0, NULL, err);
    if (rc == CD_OK)
        rc = check_idle(pg, p->user_id, err);
    for (size_t i = 0; rc == CD_OK && i < sizeof erasures / sizeof *erasures; i++)
        rc = erase_part(pg, &erasures[i], values, out, err);
    if (rc == CD_OK)
        rc = check_idle(pg, pseudonym, err); /* a call that began meanwhile was changed, too: all of it back */
    if (rc == CD_OK)
        rc = tell_daemons(pg, pseudonym, err);
    if (rc == CD_OK)
        rc = must(pg, "COMMIT", 0, NULL, err);
    PQfinish(pg);
    return rc;
}

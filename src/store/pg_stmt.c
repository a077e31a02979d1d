/* pg_stmt.c -- the write connection's SQL, and the rows that a change has for each statement.
 * In: changes. Out: rows. Why: each statement takes the rows of a whole batch, so that a batch of 64
 *      changes costs what a few single ones would.
 * Plain inserts unnest in the select list: as a FROM item each column is gathered in a store of its own first,
 * which costs a fifth of the server's time. All arrays are of one length.
 * A statement that must touch every row it was given divides by zero when it did not: an error is what
 * takes the whole transaction back, and 22012 comes from nowhere else.
 * State: none. Owns: nothing. Blocks: never. */
#include "store/pg_stmt.h"

#include <string.h>

#define LIVE "('ringing', 'accepted', 'connected')"

/* What somebody has to act for. */
#define HELD \
    "(SELECT id FROM call_sessions WHERE status IN " LIVE " UNION SELECT call_session_id FROM matrix_outbox)"

/* Of the calls written to (id, owner, and us): those that another daemon owns, which hears of it. */
#define ELSEWHERE \
    " string_agg(id, ',') FILTER (WHERE owner IS DISTINCT FROM me)," \
    " count(CASE WHEN owner <> me THEN pg_notify('calld_' || owner, id)::text END)"

/* $1: how long a row is kept [s]. */
#define OLDER "now() - make_interval(secs => $1::bigint)"
#define FEW(table, condition) \
    "WITH d AS (DELETE FROM " table " WHERE ctid = ANY (ARRAY(SELECT ctid FROM " table " WHERE " condition \
    " LIMIT " CD_PG_KEEP_ROWS_TEXT " FOR UPDATE SKIP LOCKED)) RETURNING 1) SELECT count(*) FROM d"

/* New calls' participants go without ON CONFLICT: looking first costs a quarter more. */
#define PARTICIPANTS \
    "INSERT INTO call_participants AS p (call_session_id, position, user_id, display_name, avatar_url," \
    " party_id, device_id, state, side, leave_reason, audio_enabled, video_enabled, screen_sharing," \
    " joined_at, left_at)" \
    " SELECT unnest($1::text[]), unnest($2::smallint[]), unnest($3::text[]), unnest($4::text[])," \
    " unnest($5::text[]), unnest($6::text[]), unnest($7::text[]), unnest($8::text[])," \
    " unnest($9::text[]), unnest($10::text[]), unnest($11::boolean[]), unnest($12::boolean[])," \
    " unnest($13::boolean[]), unnest($14::timestamptz[]), unnest($15::timestamptz[])"
#define PARTICIPANT_TYPES "tsttttttttbbbdd"

const struct cd_pg_stmt_row cd_pg_stmts[CD_PG_STMT_COUNT] = {
    [CD_PG_MARK] = {"mark",
        "WITH u AS (UPDATE store_writers SET seen_at = now(),"
        " committed = CASE WHEN $3::boolean THEN ARRAY[$4::bigint] ELSE committed || $4::bigint END"
        " WHERE owner = $1::text AND epoch = $2::bigint RETURNING 1)"
        " SELECT 1 / count(*) FROM u", NULL},
    [CD_PG_HOLD] = {"hold",
        /* what the statements behind it see and judge is what stands when we commit; and whoever locks in the same
         * order never waits in a circle, which costs all of a daemon's calls a second */
        "SELECT FROM call_sessions WHERE id = ANY (ARRAY(SELECT unnest($1::text[]) UNION"
        " SELECT call_session_id FROM matrix_outbox WHERE txn_id = ANY ($2::text[])))"
        " ORDER BY id FOR NO KEY UPDATE", "tt"},
    [CD_PG_TRIED] = {"tried",
        "UPDATE matrix_outbox o SET tried = true, attempts = d.attempts"
        " FROM (SELECT t, max(a) AS attempts FROM unnest($1::text[], $2::integer[]) AS x(t, a) GROUP BY t) d"
        " WHERE o.txn_id = d.t RETURNING d.t", "tn"},
    [CD_PG_TOKEN_PUT] = {"token_put",
        "INSERT INTO sealed_tokens (user_id, device_id, sealed)"
        " SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[])"
        " ON CONFLICT (user_id, device_id) DO UPDATE SET sealed = excluded.sealed,"
        " updated_at = clock_timestamp()", "ttx"},
    [CD_PG_TOKEN_DEL] = {"token_del",
        "DELETE FROM sealed_tokens WHERE user_id = ANY ($1::text[])", "t"},
    [CD_PG_TOKEN_DEL_SHARED] = {"token_del_shared",
        "DELETE FROM sealed_tokens t USING unnest($1::text[], $2::text[]) AS d(u, me) WHERE t.user_id = d.u"
        " AND NOT EXISTS (SELECT FROM call_participants p JOIN call_sessions s ON s.id = p.call_session_id"
        " WHERE p.user_id = d.u AND s.status IN " LIVE ")"
        " AND NOT EXISTS (SELECT FROM matrix_outbox o JOIN call_sessions s ON s.id = o.call_session_id"
        " WHERE o.user_id = d.u AND s.owner <> d.me)", "tt"},
    [CD_PG_MEMBERS] = {"members",
        "WITH x AS (SELECT DISTINCT ON (r, u) r, u, j, d, a FROM unnest($1::text[], $2::text[], $3::boolean[],"
        " $4::text[], $5::text[]) WITH ORDINALITY AS x(r, u, j, d, a, n) ORDER BY r, u, n DESC),"
        " gone AS (DELETE FROM room_members m USING x WHERE m.room_id = x.r AND m.user_id = x.u AND NOT x.j)"
        " INSERT INTO room_members (room_id, user_id, joined, display_name, avatar_url)"
        " SELECT r, u, j, d, a FROM x WHERE j ORDER BY r, u"
        " ON CONFLICT (room_id, user_id) DO UPDATE SET joined = excluded.joined,"
        " display_name = excluded.display_name, avatar_url = excluded.avatar_url, updated_at = now()",
        "ttbtt"},
    [CD_PG_QUARANTINE] = {"quarantine",
        "INSERT INTO event_inbox (reason, size_bytes, raw)"
        " SELECT * FROM unnest($1::text[], $2::integer[], $3::bytea[])", "tnx"},
    [CD_PG_CLAIM] = {"claim",
        /* a raised epoch shuts the former owner out, should it only have slept; the mark tells it why. Where its
         * row is locked it is writing just now; a row that changed meanwhile is judged anew */
        "WITH dead AS (UPDATE store_writers w SET epoch = w.epoch + 1, has_left = true,"
        " committed = committed || " CD_PG_ROBBED_TEXT "::bigint WHERE w.owner IN"
        " (SELECT d.owner FROM store_writers d WHERE d.owner <> $1::text"
        " AND (d.has_left OR d.seen_at < now() - interval '30 seconds')"
        " AND EXISTS (SELECT FROM call_sessions c WHERE c.owner = d.owner AND c.id IN " HELD ")"
        " FOR UPDATE SKIP LOCKED) RETURNING w.owner),"
        " taken AS (UPDATE call_sessions s SET owner = $1::text WHERE s.id IN " HELD
        " AND s.owner IS DISTINCT FROM $1::text AND (s.owner IS NULL OR s.owner IN (SELECT owner FROM dead)"
        " OR NOT EXISTS (SELECT FROM store_writers w WHERE w.owner = s.owner)) RETURNING s.id)"
        " SELECT '{' || string_agg(id, ',') || '}', count(*) FROM taken", NULL},
    [CD_PG_PEERS] = {"peers",
        "SELECT count(*) FROM store_writers WHERE owner <> $1::text AND NOT has_left"
        " AND seen_at > now() - interval '15 minutes'", NULL},
    [CD_PG_LEAVE] = {"leave",
        "UPDATE store_writers SET has_left = true WHERE owner = $1::text", NULL},
    [CD_PG_KEEP_SESSIONS] = {"keep_sessions",
        /* ids begin with their time, so that the oldest stand first in the primary key */
        "WITH old AS MATERIALIZED (SELECT id FROM call_sessions"
        " WHERE id < 'z' || lpad(to_hex(((extract(epoch FROM now()) - $1::bigint) * 1000)::bigint), 12, '0')"
        " AND ended_at < " OLDER " ORDER BY id LIMIT " CD_PG_KEEP_ROWS_TEXT " FOR UPDATE SKIP LOCKED),"
        " p AS (DELETE FROM call_participants t USING old WHERE t.call_session_id = old.id),"
        " e AS (DELETE FROM call_events t USING old WHERE t.call_session_id = old.id),"
        " q AS (DELETE FROM call_quality_stats t USING old WHERE t.call_session_id = old.id),"
        " g AS (DELETE FROM call_signals t USING old WHERE t.call_session_id = old.id),"
        " o AS (DELETE FROM matrix_outbox t USING old WHERE t.call_session_id = old.id),"
        " s AS (DELETE FROM call_sessions t USING old WHERE t.id = old.id RETURNING 1) SELECT count(*) FROM s", NULL},
    [CD_PG_KEEP_STATS] = {"keep_stats",
        "WITH d AS (DELETE FROM call_quality_stats WHERE id IN (SELECT id FROM (SELECT id, captured_at"
        " FROM call_quality_stats ORDER BY id LIMIT " CD_PG_KEEP_ROWS_TEXT ") first WHERE captured_at < " OLDER ")"
        " RETURNING 1) SELECT count(*) FROM d", NULL},
    [CD_PG_KEEP_SEEN] = {"keep_seen", FEW("seen_events", "seen_at < " OLDER), NULL},
    [CD_PG_KEEP_INBOX] = {"keep_inbox", FEW("event_inbox", "received_at < " OLDER), NULL},
    [CD_PG_KEEP_IDEM] = {"keep_idem", FEW("idempotency_keys", "created_at < " OLDER), NULL},
    [CD_PG_KEEP_MEMBERS] = {"keep_members", FEW("room_members", "updated_at < " OLDER), NULL},
    [CD_PG_KEEP_TOKENS] = {"keep_tokens",
        FEW("sealed_tokens", "updated_at < " OLDER
            " AND NOT EXISTS (SELECT FROM matrix_outbox o WHERE o.user_id = sealed_tokens.user_id)"
            " AND NOT EXISTS (SELECT FROM call_participants p JOIN call_sessions s ON s.id = p.call_session_id"
            " WHERE p.user_id = sealed_tokens.user_id AND s.status IN " LIVE ")"), NULL},
    [CD_PG_LIVING] = {"living",
        "SELECT 1 / (CASE WHEN count(*) = cardinality($1::text[]) THEN 1 ELSE 0 END)," ELSEWHERE
        " FROM call_sessions JOIN unnest($1::text[], $2::text[], $3::boolean[]) AS d(wanted, me, sends)"
        " ON id = d.wanted AND (NOT d.sends OR status IN " LIVE ")", "ttb"},
    [CD_PG_UPDATE] = {"session_update",
        "WITH u AS (UPDATE call_sessions s SET callee = d.callee, call_type = d.call_type,"
        " media = d.media, status = d.status, end_reason = d.end_reason, ended_by = d.ended_by,"
        " matrix_signalling = d.matrix_signalling, accepted_at = d.accepted_at,"
        " connected_at = d.connected_at, ended_at = d.ended_at, ring_expires_at = d.ring_expires_at,"
        " ring_seconds = d.ring_seconds, connected_inferred = d.connected_inferred,"
        " mx_version = d.mx_version, is_foreign = d.is_foreign,"
        " answer_provisional = d.answer_provisional,"
        " invite_tried = s.invite_tried OR d.invite_tried,"
        " version = d.version, seq = d.seq"
        " FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],"
        " $8::text[], $9::text[], $10::timestamptz[], $11::timestamptz[], $12::timestamptz[],"
        " $13::timestamptz[], $14::integer[], $15::boolean[], $16::smallint[], $17::boolean[],"
        " $18::boolean[], $19::boolean[], $20::bigint[], $21::bigint[], $22::text[])"
        " AS d(id, expected, callee, call_type, media, status, end_reason, ended_by, matrix_signalling,"
        " accepted_at, connected_at, ended_at, ring_expires_at, ring_seconds, connected_inferred,"
        " mx_version, is_foreign, answer_provisional, invite_tried, version, seq, me)"
        " WHERE s.id = d.id AND s.version = d.expected RETURNING s.id, s.owner, d.me)"
        " SELECT 1 / (CASE WHEN count(*) = cardinality($1::text[]) THEN 1 ELSE 0 END)," ELSEWHERE " FROM u",
        "titttttttddddnbsbbbiit"},
    [CD_PG_INSERT] = {"session_insert",
        "INSERT INTO call_sessions (id, room_id, matrix_call_id, caller, callee, call_type, kind, media,"
        " origin, status, end_reason, ended_by, matrix_signalling, initiated_at, accepted_at,"
        " connected_at, ended_at, ring_expires_at, ring_seconds, connected_inferred, mx_version,"
        " is_foreign, answer_provisional, invite_tried, version, seq, owner)"
        " SELECT unnest($1::text[]), unnest($2::text[]), unnest($3::text[]), unnest($4::text[]),"
        " unnest($5::text[]), unnest($6::text[]), unnest($7::text[]), unnest($8::text[]),"
        " unnest($9::text[]), unnest($10::text[]), unnest($11::text[]), unnest($12::text[]),"
        " unnest($13::text[]), unnest($14::timestamptz[]), unnest($15::timestamptz[]),"
        " unnest($16::timestamptz[]), unnest($17::timestamptz[]), unnest($18::timestamptz[]),"
        " unnest($19::integer[]), unnest($20::boolean[]), unnest($21::smallint[]),"
        " unnest($22::boolean[]), unnest($23::boolean[]), unnest($24::boolean[]),"
        " unnest($25::bigint[]), unnest($26::bigint[]), unnest($27::text[])",
        "tttttttttttttdddddnbsbbbiit"},
    [CD_PG_PARTICIPANT] = {"participant", PARTICIPANTS, PARTICIPANT_TYPES},
    [CD_PG_PARTICIPANT_SET] = {"participant_set",
        PARTICIPANTS
        " ON CONFLICT (call_session_id, user_id) DO UPDATE SET position = excluded.position,"
        " display_name = excluded.display_name, avatar_url = excluded.avatar_url,"
        " party_id = excluded.party_id, device_id = excluded.device_id, state = excluded.state,"
        " side = excluded.side, leave_reason = excluded.leave_reason,"
        " audio_enabled = excluded.audio_enabled, video_enabled = excluded.video_enabled,"
        " screen_sharing = excluded.screen_sharing, joined_at = excluded.joined_at,"
        " left_at = excluded.left_at WHERE p IS DISTINCT FROM excluded", PARTICIPANT_TYPES},
    [CD_PG_EVENT] = {"event",
        "INSERT INTO call_events (call_session_id, seq, event_type, user_id, event_data, created_at, mx_hash)"
        " SELECT unnest($1::text[]), unnest($2::bigint[]), unnest($3::text[]), unnest($4::text[]),"
        " unnest($5::text[])::jsonb, unnest($6::timestamptz[]), unnest($7::bytea[])", "titttdx"},
    [CD_PG_IDEM] = {"idem",
        "WITH i AS (INSERT INTO idempotency_keys AS k (user_id, key, request_hash, status, response,"
        " call_session_id, created_at)"
        " SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[], $4::smallint[], $5::text[], $6::text[],"
        " $7::timestamptz[])"
        " ON CONFLICT (user_id, key) DO UPDATE SET request_hash = excluded.request_hash,"
        " status = excluded.status, response = excluded.response,"
        " call_session_id = excluded.call_session_id, created_at = excluded.created_at"
        " WHERE k.created_at <= excluded.created_at - interval '24 hours' RETURNING 1)"
        " SELECT 1 / (CASE WHEN count(*) = cardinality($1::text[]) THEN 1 ELSE 0 END) FROM i", "ttxsttd"},
    [CD_PG_DROP] = {"drop",
        "DELETE FROM matrix_outbox WHERE call_session_id = ANY ($1::text[]) AND rank = 9 AND NOT tried", "t"},
    [CD_PG_OUTBOX] = {"outbox",
        "INSERT INTO matrix_outbox (txn_id, call_session_id, room_id, user_id, event_type, content, rank,"
        " ord, created_at, not_before, deadline, tried, attempts)"
        " SELECT unnest($1::text[]), unnest($2::text[]), unnest($3::text[]), unnest($4::text[]),"
        " unnest($5::text[]), unnest($6::text[]), unnest($7::smallint[]), unnest($8::bigint[]),"
        " unnest($9::timestamptz[]), unnest($10::timestamptz[]), unnest($11::timestamptz[]),"
        " unnest($12::boolean[]), unnest($13::integer[])", "ttttttsidddbn"},
    [CD_PG_UNTOLD] = {"untold",
        "DELETE FROM matrix_outbox o USING unnest($1::text[]) AS d(id) WHERE o.call_session_id = d.id"
        " AND NOT EXISTS (SELECT FROM call_sessions s WHERE s.id = d.id AND s.invite_tried)"
        " AND NOT EXISTS (SELECT FROM matrix_outbox i WHERE i.call_session_id = d.id AND i.rank = 0"
        " AND i.tried)", "t"},
    [CD_PG_SIGNAL] = {"signal",
        "INSERT INTO call_signals (call_session_id, seq, kind, from_user, from_party, to_target, payload)"
        " SELECT c, q, k, u, f, t, p FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[],"
        " $6::text[], $7::text[]) AS x(c, q, k, u, f, t, p)"
        " JOIN call_sessions s ON s.id = x.c AND s.status IN " LIVE
        " ON CONFLICT (call_session_id, seq) DO NOTHING", "tittttt"},
    [CD_PG_DROP_SIGNALS] = {"drop_signals",
        "DELETE FROM call_signals WHERE call_session_id = ANY ($1::text[])", "t"},
    [CD_PG_DONE] = {"done",
        "WITH gone AS (DELETE FROM matrix_outbox WHERE txn_id = ANY ($1::text[])"
        " RETURNING call_session_id, rank, tried)"
        " UPDATE call_sessions s SET invite_tried = true FROM gone"
        " WHERE gone.rank = 0 AND gone.tried AND s.id = gone.call_session_id AND NOT s.invite_tried", "t"},
    [CD_PG_SEEN] = {"seen",
        "INSERT INTO seen_events (hash) SELECT DISTINCT h FROM unnest($1::bytea[]) AS h"
        " ON CONFLICT (hash) DO NOTHING RETURNING hash", "x"},
    [CD_PG_DIAG] = {"diag",
        "SELECT EXISTS (SELECT FROM call_events WHERE mx_hash = ANY ($1::bytea[])),"
        " EXISTS (SELECT FROM idempotency_keys WHERE user_id = $2::text AND key = $3::text"
        " AND created_at > $4::timestamptz - interval '24 hours'),"
        " EXISTS (SELECT FROM call_sessions WHERE id = $5::text),"
        " CASE WHEN $6::text = 'direct' THEN (SELECT id FROM call_sessions WHERE room_id = $7::text"
        " AND least(caller, callee) = least($8::text COLLATE \"C\", $9::text COLLATE \"C\")"
        " AND greatest(caller, callee) = greatest($8::text COLLATE \"C\", $9::text COLLATE \"C\")"
        " AND kind = 'direct' AND callee IS NOT NULL AND origin IN ('rest', 'socket') AND status IN " LIVE ")"
        " WHEN $6::text = 'group' THEN (SELECT id FROM call_sessions WHERE room_id = $7::text"
        " AND kind = 'group' AND origin IN ('rest', 'socket') AND status IN " LIVE ") END", NULL},
};

/* A column that takes no null: nought would be one. */
static void time_needed(struct cd_pg_rows *r, int64_t wall_ms)
{
    cd_pg_time(r, wall_ms ? wall_ms : 1);
}

/* The columns that both statements end with. */
static void rest_of_row(struct cd_pg_rows *r, const struct cd_call *c, const char *owner)
{
    cd_pg_time(r, c->accepted_at);
    cd_pg_time(r, c->connected_at);
    cd_pg_time(r, c->ended_at);
    cd_pg_time(r, c->ring_expires_at);
    cd_pg_int(r, c->ring_seconds);
    cd_pg_bool(r, c->connected_inferred);
    cd_pg_int(r, c->mx_version);
    cd_pg_bool(r, c->foreign);
    cd_pg_bool(r, c->answer_provisional);
    cd_pg_bool(r, c->invite_tried);
    cd_pg_int(r, (int64_t)c->version);
    cd_pg_int(r, (int64_t)c->seq);
    cd_pg_text(r, owner);
}

static void insert_row(struct cd_pg_rows *r, const struct cd_call *c, const char *owner)
{
    cd_pg_text(r, c->id);
    cd_pg_text(r, c->room_id);
    cd_pg_text(r, c->matrix_call_id);
    cd_pg_text(r, c->caller);
    cd_pg_text(r, c->callee);
    cd_pg_text(r, cd_type_name(c->type));
    cd_pg_text(r, cd_kind_name(c->kind));
    cd_pg_text(r, cd_media_name(c->media));
    cd_pg_text(r, cd_origin_name(c->origin));
    cd_pg_text(r, cd_status_name(c->status));
    cd_pg_text(r, cd_reason_name(c->end_reason));
    cd_pg_text(r, c->ended_by);
    cd_pg_text(r, cd_mx_state_name(c->mx_state));
    time_needed(r, c->initiated_at);
    rest_of_row(r, c, owner);
}

static void update_row(struct cd_pg_rows *r, const struct cd_call *c, uint64_t expected, const char *owner)
{
    cd_pg_text(r, c->id);
    cd_pg_int(r, (int64_t)expected);
    cd_pg_text(r, c->callee);
    cd_pg_text(r, cd_type_name(c->type));
    cd_pg_text(r, cd_media_name(c->media));
    cd_pg_text(r, cd_status_name(c->status));
    cd_pg_text(r, cd_reason_name(c->end_reason));
    cd_pg_text(r, c->ended_by);
    cd_pg_text(r, cd_mx_state_name(c->mx_state));
    rest_of_row(r, c, owner);
}

static void participant_rows(struct cd_pg_rows *r, const struct cd_call *c)
{
    for (size_t i = 0; i < c->n_participants; i++) {
        const struct cd_participant *p = &c->participants[i];

        cd_pg_text(r, c->id);
        cd_pg_int(r, (int64_t)i);
        cd_pg_text(r, p->user_id);
        cd_pg_text(r, p->display_name);
        cd_pg_text(r, p->avatar_url);
        cd_pg_text(r, p->party_id);
        cd_pg_text(r, p->device_id);
        cd_pg_text(r, cd_pstate_name(p->state));
        cd_pg_text(r, cd_side_name(p->side));
        cd_pg_text(r, p->leave_reason);
        cd_pg_bool(r, p->audio_enabled);
        cd_pg_bool(r, p->video_enabled);
        cd_pg_bool(r, p->screen_sharing);
        cd_pg_time(r, p->joined_at);
        cd_pg_time(r, p->left_at);
    }
}

static void event_rows(struct cd_pg_rows *r, const struct cd_change *ch)
{
    for (size_t i = 0; i < ch->n_events; i++) {
        const struct cd_event_row *e = &ch->events[i];

        cd_pg_text(r, ch->call_id);
        cd_pg_int(r, (int64_t)e->seq);
        cd_pg_text(r, e->type);
        cd_pg_text(r, e->user_id);
        cd_pg_text(r, e->data ? e->data : "{}");
        time_needed(r, e->at);
        cd_pg_bytes(r, e->has_mx_hash ? e->mx_hash : NULL, sizeof e->mx_hash);
    }
}

static void outbox_rows(struct cd_pg_rows *r, const struct cd_change *ch)
{
    for (size_t i = 0; i < ch->n_outbox; i++) {
        const struct cd_outbox_row *o = &ch->outbox[i];

        cd_pg_text(r, o->txn_id);
        cd_pg_text(r, ch->call_id);
        cd_pg_text(r, o->room_id);
        cd_pg_text(r, o->user_id);
        cd_pg_text(r, o->event_type);
        cd_pg_text(r, o->content);
        cd_pg_int(r, o->rank);
        cd_pg_int(r, o->ord);
        time_needed(r, o->created_at);
        time_needed(r, o->not_before);
        time_needed(r, o->deadline);
        cd_pg_bool(r, o->tried);
        cd_pg_int(r, o->attempts);
    }
}

static void signal_rows(struct cd_pg_rows *r, const struct cd_change *ch)
{
    for (size_t i = 0; i < ch->n_signals; i++) {
        const struct cd_signal_row *s = &ch->signals[i];

        cd_pg_text(r, ch->call_id);
        cd_pg_int(r, (int64_t)s->seq);
        cd_pg_text(r, s->kind);
        cd_pg_text(r, s->from_user);
        cd_pg_text(r, s->from_party);
        cd_pg_text(r, s->to);
        cd_pg_text(r, s->payload);
    }
}

static void idem_row(struct cd_pg_rows *r, const struct cd_idem_row *i)
{
    cd_pg_text(r, i->user_id);
    cd_pg_text(r, i->key);
    cd_pg_bytes(r, i->request_hash, sizeof i->request_hash);
    cd_pg_int(r, i->status);
    cd_pg_text(r, i->response);
    cd_pg_text(r, i->call_id);
    time_needed(r, i->at);
}

/* Not what is new, or signals alone: nobody else locks that. */
static bool touches_call(const struct cd_change *ch)
{
    bool is_new = ch->call && !ch->expect_version;

    return !is_new && (ch->call || ch->n_outbox || ch->n_events || ch->drop_untried_droppable || ch->drop_untried_all);
}

/* Statements about a call as a whole. */
static void naming_row(struct cd_pg_rows *r, enum cd_pg_stmt s, const struct cd_change *ch, const char *owner)
{
    bool adds = !ch->call && (ch->n_outbox || ch->n_events);

    if ((s == CD_PG_DROP && ch->drop_untried_droppable) || (s == CD_PG_UNTOLD && ch->drop_untried_all) ||
        (s == CD_PG_DROP_SIGNALS && ch->drop_signals)) {
        cd_pg_text(r, ch->call_id);
    } else if (s == CD_PG_HOLD && touches_call(ch)) {
        cd_pg_text(r, ch->call_id);
        cd_pg_text(r, NULL);
    } else if (s == CD_PG_LIVING && adds) {
        cd_pg_text(r, ch->call_id);
        cd_pg_text(r, owner);
        cd_pg_bool(r, ch->n_outbox > 0);
    }
}

void cd_pg_change_rows(struct cd_pg_rows *r, enum cd_pg_stmt s, const struct cd_change *ch, const char *owner)
{
    const struct cd_call *c = ch->call;
    bool newborn = c && !ch->expect_version && c->version == 1; /* not one whose row got lost */

    if (s == CD_PG_UPDATE && c && ch->expect_version) {
        update_row(r, c, ch->expect_version, owner);
    } else if (s == CD_PG_INSERT && c && !ch->expect_version) {
        insert_row(r, c, owner);
    } else if (s == (newborn ? CD_PG_PARTICIPANT : CD_PG_PARTICIPANT_SET) && c) {
        participant_rows(r, c);
    } else if (s == CD_PG_EVENT) {
        event_rows(r, ch);
    } else if (s == CD_PG_IDEM && ch->idem) {
        idem_row(r, ch->idem);
    } else if (s == CD_PG_OUTBOX) {
        outbox_rows(r, ch);
    } else if (s == CD_PG_SIGNAL) {
        signal_rows(r, ch);
    } else {
        naming_row(r, s, ch, owner);
    }
}

-- 004_voice_video_calls: sessions, participants and events of calls.
--
-- Goes into the first schema of search_path, which is created when it is missing:
--     PGOPTIONS='-c search_path=calld' psql -d DATABASE -f migrations/004_voice_video_calls.sql
-- May be run again at any time. Ids sort by byte (COLLATE "C"), whatever the database's locale.

BEGIN;
SET LOCAL client_min_messages = warning;

DO $$
DECLARE
    first_schema text := trim(split_part(current_setting('search_path'), ',', 1));
BEGIN
    IF first_schema IN ('', '"$user"', '$user') THEN
        RETURN; -- the default path: whatever current_schema() finds, mostly public
    END IF;
    IF left(first_schema, 1) = '"' THEN
        first_schema := replace(substr(first_schema, 2, length(first_schema) - 2), '""', '"');
    ELSE
        first_schema := lower(first_schema);
    END IF;
    -- looked up first: IF NOT EXISTS asks for the right to create even when nothing is to be done
    IF NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = first_schema) THEN
        EXECUTE format('CREATE SCHEMA %I', first_schema);
    END IF;
END
$$;

-- Refuses to touch a table that something else made: `wanted` holds 'column type' of our columns.
CREATE OR REPLACE FUNCTION calld_check_table(tbl text, wanted text[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    rel regclass := to_regclass(format('%I.%I', current_schema(), tbl));
    missing text;
BEGIN
    IF rel IS NULL THEN
        RETURN;
    END IF;
    SELECT string_agg(w, ', ') INTO missing
      FROM unnest(wanted) AS w
     WHERE NOT EXISTS (SELECT FROM pg_attribute a
                        WHERE a.attrelid = rel AND a.attnum > 0 AND NOT a.attisdropped
                          AND a.attname || ' ' || format_type(a.atttypid, NULL) = w);
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'table %.% exists and was not made by matrix-calld: it lacks the columns (%)',
                        current_schema(), tbl, missing
              USING HINT = format('Give matrix-calld a schema of its own (database.schema = NAME, or '
                                  'PGOPTIONS=''-c search_path=NAME'' with psql), or move that table away: '
                                  'ALTER TABLE %I.%I RENAME TO %I;', current_schema(), tbl, 'old_' || tbl);
    END IF;
END
$$;

-- Later files call this first: they belong into a schema where 004 has run.
CREATE OR REPLACE FUNCTION calld_check_schema() RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF to_regclass(format('%I.schema_migrations', current_schema())) IS NULL
       OR to_regclass(format('%I.call_sessions', current_schema())) IS NULL THEN
        RAISE EXCEPTION 'schema % holds no tables of matrix-calld', coalesce(current_schema(), '(none)')
              USING HINT = 'Run 004_voice_video_calls.sql first, with the same search_path.';
    END IF;
END
$$;

DO $$
BEGIN
    PERFORM calld_check_table('schema_migrations', ARRAY['number integer', 'name text', 'checksum text']);
    PERFORM calld_check_table('call_sessions',
                ARRAY['id text', 'room_id text', 'caller text', 'callee text', 'call_type text',
                'status text', 'end_reason text', 'initiated_at timestamp with time zone',
                'ring_expires_at timestamp with time zone', 'version bigint']);
    PERFORM calld_check_table('call_participants',
                ARRAY['call_session_id text', 'user_id text', 'party_id text', 'state text']);
    PERFORM calld_check_table('call_events',
                ARRAY['call_session_id text', 'seq bigint', 'event_type text',
                'event_data jsonb', 'mx_hash bytea']);
END
$$;

CREATE TABLE IF NOT EXISTS schema_migrations (
    number     integer PRIMARY KEY,
    name       text NOT NULL,
    checksum   text, -- sha256 of the file, by `matrix-calld migrate`; NULL: psql ran it
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- One row a call. It is the truth: every write says WHERE version = the version it read.
CREATE TABLE IF NOT EXISTS call_sessions (
    id                 text COLLATE "C" PRIMARY KEY, -- the callId
    room_id            text COLLATE "C" NOT NULL,
    matrix_call_id     text COLLATE "C", -- a Matrix client started it: its id, unique within the room
    caller             text COLLATE "C" NOT NULL,
    callee             text COLLATE "C", -- NULL: group call
    call_type          text NOT NULL CHECK (call_type IN ('audio', 'video')),
    kind               text NOT NULL,    -- direct, group
    media              text NOT NULL,    -- p2p, mesh, sfu
    origin             text NOT NULL,    -- rest, socket, matrix, rtc
    status             text NOT NULL CHECK (status IN ('ringing', 'accepted', 'connected', 'ended',
                                                       'declined', 'missed', 'canceled', 'failed')),
    end_reason         text,
    ended_by           text COLLATE "C",
    initiated_at       timestamptz NOT NULL,
    accepted_at        timestamptz,
    connected_at       timestamptz,
    ended_at           timestamptz,
    ring_expires_at    timestamptz,
    ring_seconds       integer NOT NULL,
    connected_inferred boolean NOT NULL DEFAULT false,
    matrix_signalling  text NOT NULL,
    mx_version         smallint NOT NULL DEFAULT 1,
    is_foreign         boolean NOT NULL DEFAULT false, -- between two Matrix clients: a record only
    answer_provisional boolean NOT NULL DEFAULT false,
    invite_tried       boolean NOT NULL DEFAULT false,
    version            bigint NOT NULL,
    seq                bigint NOT NULL
);

CREATE UNIQUE INDEX IF NOT EXISTS idx_call_sessions_matrix
    ON call_sessions (room_id, matrix_call_id) WHERE matrix_call_id IS NOT NULL;

CREATE TABLE IF NOT EXISTS call_participants (
    call_session_id text COLLATE "C" NOT NULL REFERENCES call_sessions (id) ON DELETE CASCADE,
    position        smallint NOT NULL, -- order within the call; the caller is 0
    user_id         text COLLATE "C" NOT NULL,
    display_name    text,
    avatar_url      text,
    party_id        text COLLATE "C",
    device_id       text COLLATE "C",
    state           text NOT NULL, -- invited ringing joined reconnecting left declined missed busy
    side            text NOT NULL, -- none ours matrix
    leave_reason    text,
    audio_enabled   boolean NOT NULL,
    video_enabled   boolean NOT NULL,
    screen_sharing  boolean NOT NULL,
    joined_at       timestamptz,
    left_at         timestamptz,
    PRIMARY KEY (call_session_id, user_id)
);

CREATE INDEX IF NOT EXISTS idx_call_participants_user ON call_participants (user_id);

-- Append only. Never holds SDP or candidates.
CREATE TABLE IF NOT EXISTS call_events (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    call_session_id text COLLATE "C" NOT NULL REFERENCES call_sessions (id) ON DELETE CASCADE,
    seq             bigint NOT NULL, -- number within the call
    event_type      text NOT NULL,
    user_id         text COLLATE "C", -- NULL: the daemon itself
    event_data      jsonb NOT NULL DEFAULT '{}',
    created_at      timestamptz NOT NULL,
    mx_hash         bytea -- of the id of the Matrix event that made this row
);

CREATE INDEX IF NOT EXISTS idx_call_events_session ON call_events (call_session_id, seq);
-- a Matrix event is applied once, however often the homeserver sends it
CREATE UNIQUE INDEX IF NOT EXISTS idx_call_events_mx_hash
    ON call_events (mx_hash) WHERE mx_hash IS NOT NULL;

INSERT INTO schema_migrations (number, name) VALUES (4, '004_voice_video_calls')
    ON CONFLICT (number) DO NOTHING;
COMMIT;

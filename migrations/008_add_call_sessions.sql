-- 008_add_call_sessions: what billing, group calls and call quality need, and the rule of one active
-- call a conversation.

BEGIN;
SET LOCAL client_min_messages = warning;
DO $$
BEGIN
    PERFORM calld_check_schema();
    PERFORM calld_check_table('call_quality_stats',
                ARRAY['call_session_id text', 'user_id text', 'packet_loss double precision',
                'captured_at timestamp with time zone']);
END
$$;

ALTER TABLE call_sessions
    ADD COLUMN IF NOT EXISTS metadata jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN IF NOT EXISTS livekit_room_name text,
    -- from connected_at, or accepted_at where nobody reported a connection
    ADD COLUMN IF NOT EXISTS duration_seconds integer GENERATED ALWAYS AS
        (greatest(0, floor(extract(epoch FROM ended_at - coalesce(connected_at, accepted_at))))::integer)
        STORED;

-- Decides simultaneous starts: one active call of ours per room and pair ...
CREATE UNIQUE INDEX IF NOT EXISTS idx_call_sessions_active_conversation
    ON call_sessions (room_id, least(caller, callee), greatest(caller, callee))
    WHERE kind = 'direct' AND callee IS NOT NULL AND origin IN ('rest', 'socket')
      AND status IN ('ringing', 'accepted', 'connected');
-- ... and one group call a room
CREATE UNIQUE INDEX IF NOT EXISTS idx_call_sessions_active_group
    ON call_sessions (room_id)
    WHERE kind = 'group' AND origin IN ('rest', 'socket')
      AND status IN ('ringing', 'accepted', 'connected');

CREATE INDEX IF NOT EXISTS idx_call_sessions_conversation ON call_sessions (room_id, initiated_at);
-- what a start loads: only the few that are not over
CREATE INDEX IF NOT EXISTS idx_call_sessions_status
    ON call_sessions (status) WHERE status IN ('ringing', 'accepted', 'connected');

CREATE TABLE IF NOT EXISTS call_quality_stats (
    id                 bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    call_session_id    text COLLATE "C" NOT NULL REFERENCES call_sessions (id) ON DELETE CASCADE,
    user_id            text COLLATE "C" NOT NULL,
    packet_loss        double precision,
    round_trip_time_ms double precision,
    jitter_ms          double precision,
    bitrate_kbps       double precision,
    captured_at        timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX IF NOT EXISTS idx_call_quality_stats_session
    ON call_quality_stats (call_session_id, captured_at);

INSERT INTO schema_migrations (number, name) VALUES (8, '008_add_call_sessions')
    ON CONFLICT (number) DO NOTHING;
COMMIT;

-- 014_event_inbox: Matrix events that were set aside, and those that made no row of their own.

BEGIN;
SET LOCAL client_min_messages = warning;
DO $$
BEGIN
    PERFORM calld_check_schema();
    PERFORM calld_check_table('event_inbox', ARRAY['id bigint', 'reason text', 'raw bytea']);
    PERFORM calld_check_table('seen_events', ARRAY['hash bytea', 'seen_at timestamp with time zone']);
END
$$;

-- Poison: what could not be applied. Bytes, because it may not even be text.
CREATE TABLE IF NOT EXISTS event_inbox (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    received_at timestamptz NOT NULL DEFAULT now(),
    reason      text NOT NULL,
    size_bytes  integer NOT NULL, -- of the whole event; raw may hold less
    raw         bytea NOT NULL
);

CREATE INDEX IF NOT EXISTS idx_event_inbox_received ON event_inbox (received_at);

CREATE TABLE IF NOT EXISTS seen_events (
    hash    bytea PRIMARY KEY, -- of the event id
    seen_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX IF NOT EXISTS idx_seen_events_seen ON seen_events (seen_at);

INSERT INTO schema_migrations (number, name) VALUES (14, '014_event_inbox')
    ON CONFLICT (number) DO NOTHING;
COMMIT;

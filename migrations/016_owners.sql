-- 016_owners: which daemon acts for a call, where several share one database.

BEGIN;
SET LOCAL client_min_messages = warning;
DO $$
BEGIN
    PERFORM calld_check_schema();
END
$$;

-- The owner arms the call's timers and sends its outbox rows. The lease is the owner's, not the row's:
-- store_writers.seen_at, renewed by each transaction; a daemon that was not seen for 30 s, or has left,
-- loses its calls to whoever asks first.
ALTER TABLE call_sessions ADD COLUMN IF NOT EXISTS owner text COLLATE "C"; -- NULL: nobody yet
ALTER TABLE store_writers ADD COLUMN IF NOT EXISTS has_left boolean NOT NULL DEFAULT false;
-- never used: an outbox row belongs to whoever owns its call, so that the call's order is kept in one place
ALTER TABLE matrix_outbox DROP COLUMN IF EXISTS owner, DROP COLUMN IF EXISTS lease_until;

INSERT INTO schema_migrations (number, name) VALUES (16, '016_owners')
    ON CONFLICT (number) DO NOTHING;
COMMIT;

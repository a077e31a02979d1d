-- Takes 008_add_call_sessions back. Drops only what this schema has on record.

BEGIN;
SET LOCAL client_min_messages = warning;

DO $$
DECLARE
    s text := current_schema();
    ours boolean := false;
BEGIN
    IF to_regclass(format('%I.schema_migrations', s)) IS NOT NULL THEN
        EXECUTE format('SELECT EXISTS (SELECT FROM %I.schema_migrations WHERE number = 8)', s) INTO ours;
    END IF;
    IF NOT ours THEN
        RETURN;
    END IF;
    EXECUTE format('DROP TABLE IF EXISTS %I.call_quality_stats', s);
    EXECUTE format('DROP INDEX IF EXISTS %I.idx_call_sessions_status', s);
    EXECUTE format('DROP INDEX IF EXISTS %I.idx_call_sessions_conversation', s);
    EXECUTE format('DROP INDEX IF EXISTS %I.idx_call_sessions_active_group', s);
    EXECUTE format('DROP INDEX IF EXISTS %I.idx_call_sessions_active_conversation', s);
    EXECUTE format('ALTER TABLE IF EXISTS %I.call_sessions DROP COLUMN IF EXISTS duration_seconds, '
                   'DROP COLUMN IF EXISTS livekit_room_name, DROP COLUMN IF EXISTS metadata', s);
    EXECUTE format('DELETE FROM %I.schema_migrations WHERE number = 8', s);
END
$$;
COMMIT;

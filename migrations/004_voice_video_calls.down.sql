-- Takes 004_voice_video_calls back: every call is lost. Drops only what this schema has on record.

BEGIN;
SET LOCAL client_min_messages = warning;

DO $$
DECLARE
    s text := current_schema();
    ours boolean := false;
BEGIN
    IF to_regclass(format('%I.schema_migrations', s)) IS NOT NULL THEN
        EXECUTE format('SELECT EXISTS (SELECT FROM %I.schema_migrations WHERE number = 4)', s) INTO ours;
    END IF;
    IF NOT ours THEN
        RETURN;
    END IF;
    EXECUTE format('DROP TABLE IF EXISTS %I.call_events', s);
    EXECUTE format('DROP TABLE IF EXISTS %I.call_participants', s);
    EXECUTE format('DROP TABLE IF EXISTS %I.call_sessions', s);
    EXECUTE format('DROP FUNCTION IF EXISTS %I.calld_check_table(text, text[])', s);
    EXECUTE format('DROP FUNCTION IF EXISTS %I.calld_check_schema()', s);
    EXECUTE format('DELETE FROM %I.schema_migrations WHERE number = 4', s);
END
$$;
COMMIT;

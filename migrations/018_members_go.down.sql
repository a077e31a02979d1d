-- Takes 018_members_go back. Drops only what this schema has on record.

BEGIN;
SET LOCAL client_min_messages = warning;

DO $$
DECLARE
    s text := current_schema();
    ours boolean := false;
BEGIN
    IF to_regclass(format('%I.schema_migrations', s)) IS NOT NULL THEN
        EXECUTE format('SELECT EXISTS (SELECT FROM %I.schema_migrations WHERE number = 18)', s) INTO ours;
    END IF;
    IF NOT ours THEN
        RETURN;
    END IF;
    EXECUTE format('DROP INDEX IF EXISTS %I.idx_room_members_updated', s);
    EXECUTE format('DELETE FROM %I.schema_migrations WHERE number = 18', s);
END
$$;
COMMIT;

-- Takes 016_owners back. Drops only what this schema has on record.

BEGIN;
SET LOCAL client_min_messages = warning;

DO $$
DECLARE
    s text := current_schema();
    ours boolean := false;
BEGIN
    IF to_regclass(format('%I.schema_migrations', s)) IS NOT NULL THEN
        EXECUTE format('SELECT EXISTS (SELECT FROM %I.schema_migrations WHERE number = 16)', s) INTO ours;
    END IF;
    IF NOT ours THEN
        RETURN;
    END IF;
    EXECUTE format('ALTER TABLE IF EXISTS %I.matrix_outbox ADD COLUMN IF NOT EXISTS owner text, '
                   'ADD COLUMN IF NOT EXISTS lease_until timestamptz', s);
    EXECUTE format('ALTER TABLE IF EXISTS %I.store_writers DROP COLUMN IF EXISTS has_left', s);
    EXECUTE format('ALTER TABLE IF EXISTS %I.call_sessions DROP COLUMN IF EXISTS owner', s);
    EXECUTE format('DELETE FROM %I.schema_migrations WHERE number = 16', s);
END
$$;
COMMIT;

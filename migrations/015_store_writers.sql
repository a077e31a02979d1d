-- 015_store_writers: which batches of each daemon are in: what a lost connection leaves unknown.

BEGIN;
SET LOCAL client_min_messages = warning;
DO $$
BEGIN
    PERFORM calld_check_schema();
    PERFORM calld_check_table('store_writers', ARRAY['owner text', 'epoch bigint', 'committed bigint[]']);
END
$$;

-- Each transaction of a daemon first writes its number here, under the epoch of its connection. After
-- a lost connection the next one raises the epoch, which waits for what still runs and shuts out what
-- comes late, and reads which numbers are in.
CREATE TABLE IF NOT EXISTS store_writers (
    owner     text COLLATE "C" PRIMARY KEY, -- one a process
    epoch     bigint NOT NULL,
    committed bigint[] NOT NULL DEFAULT '{}',
    seen_at   timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

INSERT INTO schema_migrations (number, name) VALUES (15, '015_store_writers')
    ON CONFLICT (number) DO NOTHING;
COMMIT;

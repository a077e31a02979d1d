-- 013_sealed_tokens: access tokens, encrypted with the seal key, while a call or the outbox needs them.

BEGIN;
SET LOCAL client_min_messages = warning;
DO $$
BEGIN
    PERFORM calld_check_schema();
    PERFORM calld_check_table('sealed_tokens', ARRAY['user_id text', 'device_id text', 'sealed bytea']);
END
$$;

CREATE TABLE IF NOT EXISTS sealed_tokens (
    user_id    text COLLATE "C" NOT NULL,
    device_id  text COLLATE "C" NOT NULL, -- '' where the homeserver names none
    sealed     bytea NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (user_id, device_id)
);

INSERT INTO schema_migrations (number, name) VALUES (13, '013_sealed_tokens')
    ON CONFLICT (number) DO NOTHING;
COMMIT;

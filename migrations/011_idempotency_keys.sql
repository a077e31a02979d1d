-- 011_idempotency_keys: answers to requests that came with an Idempotency-Key, kept for 24 hours.

BEGIN;
SET LOCAL client_min_messages = warning;
DO $$
BEGIN
    PERFORM calld_check_schema();
    PERFORM calld_check_table('idempotency_keys', ARRAY['user_id text', 'key text', 'request_hash bytea', 'response text']);
END
$$;

CREATE TABLE IF NOT EXISTS idempotency_keys (
    user_id         text COLLATE "C" NOT NULL,
    key             text COLLATE "C" NOT NULL,
    request_hash    bytea NOT NULL,
    status          smallint NOT NULL,
    response        text NOT NULL, -- JSON without credentials and SDP
    call_session_id text COLLATE "C" NOT NULL,
    created_at      timestamptz NOT NULL,
    PRIMARY KEY (user_id, key)
);

CREATE INDEX IF NOT EXISTS idx_idempotency_keys_created ON idempotency_keys (created_at);

INSERT INTO schema_migrations (number, name) VALUES (11, '011_idempotency_keys')
    ON CONFLICT (number) DO NOTHING;
COMMIT;

-- 010_matrix_outbox: events waiting to be sent into rooms.

BEGIN;
SET LOCAL client_min_messages = warning;
DO $$
BEGIN
    PERFORM calld_check_schema();
    PERFORM calld_check_table('matrix_outbox', ARRAY['txn_id text', 'call_session_id text', 'user_id text', 'content text']);
END
$$;

-- No foreign key, here and in call_signals: rows come with their call and go soon; the writer checks.
CREATE TABLE IF NOT EXISTS matrix_outbox (
    txn_id          text COLLATE "C" PRIMARY KEY, -- Matrix transaction id: the same at every attempt
    call_session_id text COLLATE "C" NOT NULL,
    room_id         text COLLATE "C" NOT NULL,
    user_id         text COLLATE "C" NOT NULL, -- whose token it is sent with
    event_type      text NOT NULL,
    content         text NOT NULL, -- JSON as it will be sent
    rank            smallint NOT NULL, -- order within the call; 9 may be dropped
    ord             bigint NOT NULL,   -- order within the rank
    created_at      timestamptz NOT NULL,
    not_before      timestamptz NOT NULL,
    deadline        timestamptz NOT NULL,
    tried           boolean NOT NULL DEFAULT false, -- its outcome may be unknown
    attempts        integer NOT NULL DEFAULT 0,
    owner           text, -- the daemon that sends it, until lease_until
    lease_until     timestamptz
);

CREATE INDEX IF NOT EXISTS idx_matrix_outbox_session ON matrix_outbox (call_session_id, rank, ord);

INSERT INTO schema_migrations (number, name) VALUES (10, '010_matrix_outbox')
    ON CONFLICT (number) DO NOTHING;
COMMIT;

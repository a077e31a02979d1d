-- 009_call_signals: offers, answers and candidates of calls that are not over, for late joiners and restarts.

BEGIN;
SET LOCAL client_min_messages = warning;
DO $$
BEGIN
    PERFORM calld_check_schema();
    PERFORM calld_check_table('call_signals', ARRAY['call_session_id text', 'seq bigint', 'kind text', 'payload text']);
END
$$;

CREATE TABLE IF NOT EXISTS call_signals (
    call_session_id text COLLATE "C" NOT NULL,
    seq             bigint NOT NULL, -- number within the call
    kind            text NOT NULL,   -- webrtc-offer, webrtc-answer, ice-candidate
    from_user       text COLLATE "C" NOT NULL,
    from_party      text COLLATE "C",
    to_target       text COLLATE "C", -- user or party; NULL: everyone
    payload         text NOT NULL,    -- JSON as it was sent
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (call_session_id, seq)
);

INSERT INTO schema_migrations (number, name) VALUES (9, '009_call_signals')
    ON CONFLICT (number) DO NOTHING;
COMMIT;

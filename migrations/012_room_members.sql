-- 012_room_members: who is in which room, as far as the homeserver told.

BEGIN;
SET LOCAL client_min_messages = warning;
DO $$
BEGIN
    PERFORM calld_check_schema();
    PERFORM calld_check_table('room_members', ARRAY['room_id text', 'user_id text', 'joined boolean', 'display_name text']);
END
$$;

CREATE TABLE IF NOT EXISTS room_members (
    room_id      text COLLATE "C" NOT NULL,
    user_id      text COLLATE "C" NOT NULL,
    joined       boolean NOT NULL,
    display_name text,
    avatar_url   text,
    updated_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (room_id, user_id)
);

CREATE INDEX IF NOT EXISTS idx_room_members_user ON room_members (user_id) WHERE joined;

INSERT INTO schema_migrations (number, name) VALUES (12, '012_room_members')
    ON CONFLICT (number) DO NOTHING;
COMMIT;

-- 018_members_go: memberships are kept for a time, and who left is forgotten.

BEGIN;
SET LOCAL client_min_messages = warning;
DO $$
BEGIN
    PERFORM calld_check_schema();
END
$$;

DELETE FROM room_members WHERE NOT joined;
CREATE INDEX IF NOT EXISTS idx_room_members_updated ON room_members (updated_at);

INSERT INTO schema_migrations (number, name) VALUES (18, '018_members_go')
    ON CONFLICT (number) DO NOTHING;
COMMIT;

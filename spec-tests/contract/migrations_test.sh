#!/usr/bin/env bash
# migrations_test.sh: the files with psql alone and with cd_migrate, against one private PostgreSQL.
# Needs CALLD_TEST_DATABASE_URL (starts one by itself otherwise) and, in MIGRATE_TOOL, the program made
# from store_migrate_tool.c. TAP.
set -u
here=$(cd "$(dirname "$0")" && pwd)
migrations=$here/../../migrations

if [ -z "${CALLD_TEST_DATABASE_URL:-}" ]; then
    exec "$here/../lib/pg-run" "$0" "$@"
fi
tool=${MIGRATE_TOOL:?path of store_migrate_tool}
url=$CALLD_TEST_DATABASE_URL
out=$(mktemp) || exit 1
trap 'rm -f "$out"' EXIT

tests=0
failed=0
# check NAME CONDITION...: one TAP line; what the command said stands below a failure
check() {
    local name=$1
    shift
    tests=$((tests + 1))
    if "$@"; then
        echo "ok $tests - $name"
    else
        failed=$((failed + 1))
        echo "not ok $tests - $name"
        sed 's/^/# /' "$out"
    fi
}
query() { psql -X -q -At -v ON_ERROR_STOP=1 -d "$url" -c "$1" 2>&1; }
# blanks in PGOPTIONS are escaped, or they would end the setting
file() { PGOPTIONS="-c search_path=${1// /\\ }" psql -X -q -v ON_ERROR_STOP=1 -d "$url" -f "$2" >"$out" 2>&1; }
ups() { find "$migrations" -name '*.sql' ! -name '*.down.sql' | sort; }
downs() { find "$migrations" -name '*.down.sql' | sort -r; }
each() { # each SCHEMA LIST...: run the files in order
    local schema=$1 f
    shift
    for f in "$@"; do file "$schema" "$f" || return 1; done
}
# a digest of everything that makes up a schema; its name, oids and times left out
shape() {
    query "SELECT count(*) || ' ' || md5(replace(string_agg(x, E'\n' ORDER BY x), '$1.', '')) FROM (
        SELECT c.relname || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod) || a.attnotnull AS x
          FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
         WHERE c.relnamespace = '$1'::regnamespace AND a.attnum > 0 AND NOT a.attisdropped
        UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = '$1'
        UNION ALL SELECT conname || pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = '$1'::regnamespace) s"
}
tables() { query "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relkind = 'r' AND relnamespace = to_regnamespace('$1')"; }
run_tool() { "$tool" "$url" "$@" >"$out" 2>&1; }
is() { [ "$1" = "$2" ] || { echo "got: $1; wanted: $2" >>"$out"; return 1; }; }
said() { grep -q -- "$1" "$out"; }
not() { ! "$@"; }

mapfile -t up_files < <(ups)
mapfile -t down_files < <(downs)
count=${#up_files[@]}

# --- psql alone -------------------------------------------------------------------------------------
check "004 alone creates its schema" file bypsql "${up_files[0]}"
check "004 alone makes the three call tables" is \
    "$(tables bypsql)" "call_events call_participants call_sessions schema_migrations"
check "004 runs a second time" file bypsql "${up_files[0]}"
check "all files run in order" each bypsql "${up_files[@]}"
check "all files run a second time" each bypsql "${up_files[@]}"
check "each recorded its number and name" is \
    "$(query "SELECT string_agg(name, ' ' ORDER BY number) FROM bypsql.schema_migrations")" \
    "$(for f in "${up_files[@]}"; do basename "$f" .sql; done | tr '\n' ' ' | sed 's/ $//')"
check "every migration has its down file" is "${#down_files[@]}" "$count"
first=$(shape bypsql)
check "every down file runs, newest first" each bypsql "${down_files[@]}"
check "nothing but the record is left" is "$(tables bypsql)" "schema_migrations"
check "down files run a second time" each bypsql "${down_files[@]}"
check "up again" each bypsql "${up_files[@]}"
check "up, down, up makes the same schema" is "$(shape bypsql)" "$first"
check "004 runs after all others" file bypsql "${up_files[0]}"
check "a schema name that needs quotes" file '"Odd Name"' "${up_files[0]}"
check "is created as written" is "$(query "SELECT count(*) FROM pg_class WHERE relname = 'call_sessions' AND relnamespace = '\"Odd Name\"'::regnamespace")" 1
check "a later file without 004 refuses" not file fresh "${up_files[1]}"

# the acceptance names
check "indexes of the conversation rule exist" is "$(query "SELECT count(*) FROM pg_indexes WHERE schemaname = 'bypsql' AND indexname IN ('idx_call_sessions_active_conversation', 'idx_call_sessions_conversation', 'idx_call_sessions_status')")" 3
query "INSERT INTO bypsql.call_sessions (id, room_id, caller, callee, call_type, kind, media, origin, status, initiated_at, accepted_at, ended_at, ring_seconds, matrix_signalling, version, seq) VALUES ('z1', '!r:x', '@a:x', '@b:x', 'audio', 'direct', 'p2p', 'rest', 'ended', now(), '2026-01-01 10:00:00+00', '2026-01-01 10:01:05.9+00', 60, 'off', 1, 1)" >"$out"
check "duration counts from accepted_at when nobody connected" is "$(query "SELECT duration_seconds FROM bypsql.call_sessions WHERE id = 'z1'")" 65
query "UPDATE bypsql.call_sessions SET connected_at = '2026-01-01 10:00:05+00'" >"$out"
check "and from connected_at otherwise" is "$(query "SELECT duration_seconds FROM bypsql.call_sessions WHERE id = 'z1'")" 60

# --- a foreign table ---------------------------------------------------------------------------------
query "CREATE SCHEMA theirs; CREATE TABLE theirs.call_sessions (id uuid PRIMARY KEY, room_id text)" >"$out"
check "psql: a foreign call_sessions is refused" not file theirs "${up_files[0]}"
check "the text names the table" said 'theirs.call_sessions'
check "the text names columns, also one of another type" said 'id text.*ring_expires_at'
check "the text names the fix" said 'search_path=NAME'
check "nothing was made beside it" is "$(tables theirs)" "call_sessions"
check "cd_migrate: refused too" not run_tool theirs
check "with the columns" said 'ring_expires_at'
check "and still nothing was made" is "$(tables theirs)" "call_sessions"
check "a down file leaves foreign tables alone" file theirs "$migrations/004_voice_video_calls.down.sql"
check "it is still there" is "$(tables theirs)" "call_sessions"
query "CREATE SCHEMA rails; CREATE TABLE rails.schema_migrations (version text PRIMARY KEY)" >"$out"
check "a foreign schema_migrations is refused" not run_tool rails
check "and named" said 'rails.schema_migrations'

# --- cd_migrate --------------------------------------------------------------------------------------
check "dry-run on an empty database succeeds" run_tool calld --dry-run
check "it names every file" is "$(grep -c '^would apply' "$out")" "$count"
check "it makes nothing" is "$(tables calld)" ""
check "apply all" run_tool calld
check "one line a migration" is "$(grep -c '^apply' "$out")" "$count"
check "the same schema as psql makes" is "$(shape calld)" "$first"
check "with a checksum each" is "$(query "SELECT count(*) FROM calld.schema_migrations WHERE checksum ~ '^[0-9a-f]{64}\$'")" "$count"
check "which is sha256sum's" is "$(query "SELECT checksum FROM calld.schema_migrations WHERE number = 4")" \
    "$(sha256sum "${up_files[0]}" | cut -d' ' -f1)"
check "again: nothing to do" run_tool calld
check "it says nothing" is "$(cat "$out")" ""
check "--to 8 takes the rest back" run_tool calld --to 8
check "two are left" is "$(query "SELECT string_agg(number::text, ' ' ORDER BY number) FROM calld.schema_migrations")" "4 8"
check "--to 10 goes up" run_tool calld --to 10
check "four are there" is "$(query "SELECT string_agg(number::text, ' ' ORDER BY number) FROM calld.schema_migrations")" "4 8 9 10"
check "--to 0 takes all back" run_tool calld --to 0
check "only the record is left" is "$(tables calld)" "schema_migrations"
check "up again" run_tool calld
check "up, down, up makes the same schema" is "$(shape calld)" "$first"
check "a number that does not exist is refused" not run_tool calld --to 7
check "what psql applied gets its checksum" run_tool bypsql
check "all of them" is "$(query "SELECT count(*) FROM bypsql.schema_migrations WHERE checksum IS NULL")" 0
query "INSERT INTO calld.schema_migrations (number, name) VALUES (999, '999_from_the_future')" >"$out"
check "a newer schema is refused" not run_tool calld
check "by name" said '999_from_the_future'
query "DELETE FROM calld.schema_migrations WHERE number = 999; UPDATE calld.schema_migrations SET checksum = repeat('0', 64) WHERE number = 8" >"$out"
check "another file's checksum is refused" not run_tool calld
check "by name" said '008_add_call_sessions was applied from another file'
check "a URL that is none is refused" not "$tool" 'postgresql://u:hunter2@[h/d' calld 2>"$out"
check "and its password not shown" not said hunter2

# two at once: one waits for the other, and both end well
query "DROP SCHEMA calld CASCADE" >"$out" 2>&1
"$tool" "$url" calld >"$out.1" 2>&1 &
one=$!
"$tool" "$url" calld >"$out.2" 2>&1 &
two=$!
wait "$one"; rc1=$?
wait "$two"; rc2=$?
check "two daemons that start together both succeed" is "$rc1 $rc2" "0 0"
check "each file was applied once" is "$(cat "$out.1" "$out.2" | grep -c '^apply')" "$count"
rm -f "$out.1" "$out.2"

echo "1..$tests"
echo "# $failed of $tests failed"
[ "$failed" = 0 ]

#!/bin/sh
# embed-sql.sh DIRECTORY: writes the C source that holds every migration of DIRECTORY to stdout.
# NNN_name.sql goes up, NNN_name.down.sql takes it back; both must exist. Order is by number.
set -eu
LC_ALL=C
export LC_ALL

dir=${1:?usage: embed-sql.sh DIRECTORY}

cat <<'HEAD'
/* migrations_data.c -- the files of migrations/, byte for byte. Made by contrib/embed-sql.sh. */
#include "store/migrate.h"

HEAD

# One file as a string literal, a line each. Long ones are the compiler's problem: gcc takes them.
literal() {
    awk '{ gsub(/\\/, "&&"); gsub(/"/, "\\\""); gsub(/\t/, "\\t"); gsub(/\?\?/, "?\\?");
           printf "    \"%s\\n\"\n", $0 }' "$1"
}

list=
for up in "$dir"/[0-9][0-9][0-9]_*.sql; do
    case $up in *.down.sql) continue ;; esac
    down=${up%.sql}.down.sql
    [ -f "$up" ] && [ -f "$down" ] || { echo "embed-sql.sh: $up or $down is missing" >&2; exit 1; }
    name=$(basename "$up" .sql)
    number=${name%%_*}
    for file in "$up" "$down"; do
        # the loader compares checksums of whole files: a missing last line feed would be added
        [ "$(tail -c 1 "$file" | wc -l)" -eq 1 ] || { echo "embed-sql.sh: $file lacks its last line feed" >&2; exit 1; }
    done
    printf 'static const char up_%s[] =\n' "$number"
    literal "$up"
    printf '    "";\nstatic const char down_%s[] =\n' "$number"
    literal "$down"
    printf '    "";\n\n'
    list="$list $name"
done

echo 'const struct cd_migration cd_migrations[] = {'
for name in $list; do
    number=${name%%_*}
    printf '    {%d, "%s", up_%s, down_%s},\n' "$(expr "$number" + 0)" "$name" "$number" "$number"
done
echo '};'
echo 'const size_t cd_migrations_count = sizeof cd_migrations / sizeof cd_migrations[0];'

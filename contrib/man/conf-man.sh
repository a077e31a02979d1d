#!/bin/sh
# conf-man.sh SAMPLE [VERSION]: writes matrix-calld.conf(5) to stdout, from what `matrix-calld sample-config` prints.
# The sample comes from the same table as the settings themselves, so the manual cannot lag behind.
set -eu
LC_ALL=C
export LC_ALL

sample=${1:?usage: conf-man.sh SAMPLE [VERSION]}
version=${2:-}

cat <<HEAD
.\\" Made by contrib/man/conf-man.sh from the table of settings.
.TH MATRIX\\-CALLD.CONF 5 "" "matrix\\-calld $version" "File formats"
.SH NAME
matrix\\-calld.conf \\- settings of the Matrix calling daemon
.SH DESCRIPTION
.BR matrix\\-calld (8)
reads this file when it is started with
.BR \\-c .
It has sections in brackets and lines of the form
.IR "key = value" .
A line that begins with # or ; is a comment; comments stand on lines of their own.
Lists are separated by blanks or commas; text that begins or ends with blanks is put in double quotes.
An unknown key or section is an error, which names the nearest known one and the line.
Every setting has a default: an empty file is a valid one.
.PP
Each setting is also taken from the environment as
.BI CALLD_ SECTION _ KEY
in upper case, for example
.BR CALLD_SERVER_LISTEN ,
which wins over the file.
A secret may be kept in a file of its own, named by
.IB key _file
here or by the variable with
.B _FILE
at its end.
Between file and environment stand the names
.BR DATABASE_URL ,
.BR PORT ,
.BR TURN_URLS ,
.BR TURN_SERVER_URL ,
.BR TURN_MODE ,
.BR TURN_USERNAME ,
.BR TURN_CREDENTIAL ,
.BR TURN_SECRET ,
.BR STUN_URLS ,
.BR TRUST_PROXY
and
.BR NODE_ENV ,
which other calling back ends use.
.PP
SIGHUP makes the daemon read the file again; settings marked
.I Reloads
take effect, the others wait for a restart.
HEAD

awk '
function text(s) {
    gsub(/\\/, "\\e", s); gsub(/-/, "\\-", s)
    if (s ~ /^[.\047]/) s = "\\&" s
    return s
}
function flush_help(   i) { for (i = 1; i <= n; i++) print text(help[i]); n = 0 }
/^\[/ { section = substr($0, 2, length($0) - 2); n = 0; fresh = 1
        print ".SH [" text(section) "]"; next }
section == "" { next }
/^# / { help[++n] = substr($0, 3); next }
/^$/ { if (fresh) { flush_help(); fresh = 0 } n = 0; next }
/^#[a-z_]+ =/ {
    key = $1; sub(/^#/, "", key)
    value = $0; sub(/^#[a-z_]+ = ?/, "", value)
    print ".TP"
    if (value == "") print ".B " text(key)
    else print ".BI \"" text(key) " = \" \"" text(value) "\""
    flush_help()
}
' "$sample"

cat <<'TAIL'
.SH EXAMPLE
.nf
[server]
path_prefix = /calld
trust_proxy = true
public_base_url = https://matrix.example.org/calld

[database]
url_file = /etc/matrix\-calld/secret/database_url

[matrix]
homeserver_url = http://127.0.0.1:8008
public_homeserver_url = https://matrix.example.org
server_name = example.org
registration = /etc/matrix\-calld/calld.yaml

[ice]
stun_urls = stun:turn.example.org:3478
turn_mode = secret
turn_urls = turn:turn.example.org:3478?transport=udp, turn:turn.example.org:3478?transport=tcp
turn_secret_file = /etc/matrix\-calld/secret/turn_secret
.fi
.SH "SEE ALSO"
.BR matrix\-calld (8),
.BR turnserver (1)
TAIL

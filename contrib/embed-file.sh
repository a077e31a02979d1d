#!/bin/sh
# embed-file.sh FILE SYMBOL HEADER: writes the C source that holds FILE byte for byte to stdout, as
# SYMBOL and SYMBOL_size.
set -eu
file=${1:?usage: embed-file.sh FILE SYMBOL HEADER}
symbol=${2:?usage: embed-file.sh FILE SYMBOL HEADER}
header=${3:?usage: embed-file.sh FILE SYMBOL HEADER}

printf '/* made by contrib/embed-file.sh */\n#include "%s"\n\nconst unsigned char %s[] = {\n' "$header" "$symbol"
od -An -v -tu1 "$file" | sed 's/^ *//; s/  */,/g; s/$/,/'
printf '};\nconst size_t %s_size = sizeof(%s);\n' "$symbol" "$symbol"

# build.sh, sourced: builds the checkout outside its sources. The caller has set $top.

# build_in DIR [CONFIGURE-ARGUMENT ...]: configures DIR once, and runs make there every time.
build_in() {
    local dir=$1
    shift
    if [ ! -x "$top/configure" ] || [ "$top/configure.ac" -nt "$top/configure" ]; then
        (cd "$top" && autoreconf -i) </dev/null
    fi
    if [ -e "$top/config.status" ]; then
        echo "this checkout was configured in place, which excludes builds elsewhere: run 'make distclean' first" >&2
        return 1
    fi
    mkdir -p "$dir"
    if [ ! -e "$dir/config.status" ] || [ "$(cat "$dir/.configured-with" 2>/dev/null)" != "$*" ]; then
        (cd "$dir" && "$top/configure" --silent "$@") </dev/null
        printf '%s\n' "$*" >"$dir/.configured-with"
    fi
    make -C "$dir" --no-print-directory -s -j"${BUILD_JOBS:-$(nproc)}" </dev/null
}

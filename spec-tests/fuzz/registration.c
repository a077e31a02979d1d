/* registration.c -- fuzzes the reading of registration files: refused with a place, or read so that
 * the same values in quotes read the same. */
#include "base/buf.h"
#include "memfile.h"
#include "registration.h"

static void add_quoted(struct cd_buf *b, const char *key, const char *value)
{
    cd_buf_addf(b, "%s: \"", key);
    for (; value && *value; value++) {
        if (*value == '"' || *value == '\\')
            cd_buf_addc(b, '\\');
        cd_buf_addc(b, *value);
    }
    cd_buf_adds(b, "\"  # quoted\n");
}

static void reread(const struct cd_registration *r)
{
    struct cd_registration again;
    struct cd_err err;
    struct cd_buf b;
    char path[32];
    int fd;

    cd_buf_init(&b, 1 << 20);
    add_quoted(&b, "as_token", r->as_token);
    add_quoted(&b, "hs_token", r->hs_token);
    add_quoted(&b, "id", r->id);
    fd = memfile((struct cd_str){b.p, b.n}, path);
    MUST(cd_registration_read(path, &again, &err) == CD_OK);
    MUST(!strcmp(again.id, r->id) && !strcmp(again.as_token, r->as_token) &&
         !strcmp(again.hs_token, r->hs_token) && !again.url);
    cd_registration_done(&again);
    close(fd);
    cd_buf_done(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct cd_registration r;
    struct cd_err err = {.rc = CD_OK};
    char path[32];
    int fd;

    if (n > 1800) /* quoted, it would not fit a line */
        return 0;
    fd = memfile((struct cd_str){(const char *)data, n}, path);
    if (cd_registration_read(path, &r, &err) == CD_OK) {
        MUST(r.id[0] && r.as_token[0] && r.hs_token[0]);
        reread(&r);
        cd_registration_done(&r);
    } else {
        MUST(strstr(err.text, path));
    }
    MUST(!r.id && !r.url && !r.as_token && !r.hs_token && !r.sender_localpart);
    close(fd);
    return 0;
}

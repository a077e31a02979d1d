/* err.c -- the error table, readable. */
#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"

static const struct {
    int status;
    const char *errcode, *text, *name;
} rows[] = {
    {200, "", "", "OK"},
    {202, "", "", "PENDING"},
#define CD_ERR(name, status, errcode, text) {status, errcode, text, #name},
#include "base/err.def"
#undef CD_ERR
};

static unsigned row_of(enum cd_rc rc)
{
    unsigned i = (unsigned)rc;

    return i < sizeof(rows) / sizeof(rows[0]) ? i : (unsigned)CD_E_INTERNAL;
}

int cd_rc_status(enum cd_rc rc)
{
    return rows[row_of(rc)].status;
}

const char *cd_rc_errcode(enum cd_rc rc)
{
    return rows[row_of(rc)].errcode;
}

const char *cd_rc_text(enum cd_rc rc)
{
    return rows[row_of(rc)].text;
}

const char *cd_rc_name(enum cd_rc rc)
{
    return rows[row_of(rc)].name;
}

enum cd_rc cd_fail(struct cd_err *err, enum cd_rc rc, const char *fmt, ...)
{
    if (!err)
        return rc;
    err->rc = rc;
    err->retry_after_ms = 0;
    err->extra[0] = '\0';
    if (!fmt) {
        snprintf(err->text, sizeof(err->text), "%s", cd_rc_text(rc));
        return rc;
    }
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(err->text, sizeof(err->text), fmt, ap);
    va_end(ap);
    return rc;
}

void cd_err_members(struct cd_buf *b, const struct cd_err *err)
{
    cd_buf_adds(b, "\"errcode\":");
    cd_buf_add_jsons(b, cd_rc_errcode(err->rc));
    cd_buf_adds(b, ",\"error\":");
    cd_buf_add_jsons(b, err->text[0] ? err->text : cd_rc_text(err->rc));
    if (err->extra[0]) {
        cd_buf_addc(b, ',');
        cd_buf_adds(b, err->extra);
    }
    if (err->retry_after_ms > 0) {
        cd_buf_adds(b, ",\"retry_after_ms\":");
        cd_buf_add_i64(b, err->retry_after_ms);
    }
}

void cd_err_json(struct cd_buf *b, const struct cd_err *err)
{
    cd_buf_addc(b, '{');
    cd_err_members(b, err);
    cd_buf_addc(b, '}');
}

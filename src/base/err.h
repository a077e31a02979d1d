/* err.h -- result codes and the text that goes with a failure. One table: err.def. */
#ifndef CD_BASE_ERR_H
#define CD_BASE_ERR_H

enum cd_rc {
    CD_OK = 0,
    CD_PENDING, /* parked: the answer comes later */
#define CD_ERR(name, status, errcode, text) CD_E_##name,
#include "base/err.def"
#undef CD_ERR
    CD_RC_COUNT
};

/** A failure with its sentence. Fixed size: it is passed up by value or on the stack. */
struct cd_err {
    enum cd_rc rc;
    long retry_after_ms; /* CD_E_LIMITED, CD_E_OVERLOADED, ...: 0 when not known */
    char text[240];
    char extra[240]; /* further JSON members without braces, e.g. "callId":"z01"; may be empty */
};

#define CD_MUST_CHECK __attribute__((warn_unused_result))

int cd_rc_status(enum cd_rc rc);          /* HTTP status; 200 for CD_OK */
const char *cd_rc_errcode(enum cd_rc rc); /* "M_..." */
const char *cd_rc_text(enum cd_rc rc);    /* default sentence */
const char *cd_rc_name(enum cd_rc rc);    /* "CALL_EXISTS": for logs and tests */

/** Fill @p err (NULL is allowed) and return @p rc, so that `return cd_fail(...)` reads well.
 * @param fmt  sentence for the client; NULL takes the default of err.def */
enum cd_rc cd_fail(struct cd_err *err, enum cd_rc rc, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

struct cd_buf;
/** The members of cd_err_json alone, joined by commas. */
void cd_err_members(struct cd_buf *b, const struct cd_err *err);
/** Append {"errcode":..,"error":..[,extra][,retry_after_ms]} for @p err. */
void cd_err_json(struct cd_buf *b, const struct cd_err *err);

#endif

/* log.h -- one line an event: JSON on stderr (or text for people). Secrets have no way in:
 * callers never pass tokens, SDP, candidates or TURN passwords. */
#ifndef CD_BASE_LOG_H
#define CD_BASE_LOG_H

enum cd_log_level { CD_LOG_DEBUG, CD_LOG_INFO, CD_LOG_WARN, CD_LOG_ERROR };

/** What a line is about; each may be NULL. Borrowed for the call only. */
struct cd_log_ctx {
    const char *call_id;
    const char *conn; /* connection, socket or request id */
    const char *user;
    const char *room;
};

/** @param json  JSON lines, else text; @param level  lines below it are dropped */
void cd_log_setup(enum cd_log_level level, int json);
/** From now on a stderr that nobody reads costs lines, not time: a pipe or terminal is opened anew as
 * non-blocking (fd 2 is replaced), a socket is sent to without waiting. For the daemon, once, at start. */
void cd_log_never_block(void);
/** @return lines that stderr did not take since the start; each run of them is told of by `lines.dropped` */
unsigned long long cd_log_dropped(void);
int cd_log_enabled(enum cd_log_level level);

/** Write one line: ts lvl ev mod call_id conn user room msg.
 * @param mod  module or folder, a literal
 * @param ev   what happened, a literal `noun.verb`
 * @param ctx  may be NULL */
void cd_log(enum cd_log_level level, const char *mod, const char *ev, const struct cd_log_ctx *ctx,
            const char *fmt, ...) __attribute__((format(printf, 5, 6)));

#endif

/* log.c -- one line an event on stderr, written with one write(2) so that lines never mix. */
#include "base/log.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"

#define LINE_MAX_BYTES 4096

static struct {
    enum cd_log_level level;
    bool json;
} state = {CD_LOG_INFO, true};

static const char *const level_names[] = {"debug", "info", "warn", "error"};

void cd_log_setup(enum cd_log_level level, int json)
{
    state.level = level;
    state.json = json != 0;
}

int cd_log_enabled(enum cd_log_level level)
{
    return level >= state.level;
}

static void add_time(struct cd_buf *b)
{
    int64_t ms = cd_wall_ms();
    time_t s = (time_t)(ms / 1000);
    struct tm tm;
    char text[40];

    gmtime_r(&s, &tm);
    size_t n = strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
    cd_buf_add(b, text, n);
    cd_buf_addf(b, ".%03dZ", (int)(ms % 1000));
}

static void add_field(struct cd_buf *b, const char *name, const char *value)
{
    if (!value)
        return;
    if (state.json) {
        cd_buf_addf(b, ",\"%s\":", name);
        cd_buf_add_jsons(b, value);
    } else {
        cd_buf_addf(b, " %s=%s", name, value);
    }
}

static void write_line(struct cd_buf *b)
{
    cd_buf_addc(b, '\n');
    for (size_t done = 0; done < b->n;) {
        ssize_t w = write(STDERR_FILENO, b->p + done, b->n - done);
        if (w <= 0)
            return;
        done += (size_t)w;
    }
}

void cd_log(enum cd_log_level level, const char *mod, const char *ev, const struct cd_log_ctx *ctx,
            const char *fmt, ...)
{
    static const struct cd_log_ctx none;
    char msg[1024];
    struct cd_buf b;
    va_list ap;

    if (!cd_log_enabled(level))
        return;
    if (!ctx)
        ctx = &none;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof(msg), fmt, ap);
    va_end(ap);

    cd_buf_init(&b, LINE_MAX_BYTES);
    cd_buf_adds(&b, state.json ? "{\"ts\":\"" : "");
    add_time(&b);
    if (state.json)
        cd_buf_addf(&b, "\",\"lvl\":\"%s\",\"ev\":\"%s\",\"mod\":\"%s\"", level_names[level], ev, mod);
    else
        cd_buf_addf(&b, " %-5s %s %s", level_names[level], mod, ev);
    add_field(&b, "call_id", ctx->call_id);
    add_field(&b, "conn", ctx->conn);
    add_field(&b, "user", ctx->user);
    add_field(&b, "room", ctx->room);
    if (state.json) {
        add_field(&b, "msg", msg);
        cd_buf_addc(&b, '}');
    } else {
        cd_buf_addf(&b, ": %s", msg);
    }
    if (!b.failed)
        write_line(&b);
    cd_buf_done(&b);
}

/* log.c -- one line an event on stderr, written with one write(2) so that lines never mix.
 * Why it may lose lines: whoever reads them (journald, a pipe) may stop reading, and calls must not wait
 * for that. What was lost is counted, and said as soon as a line gets through again.
 * State: how fd 2 has to be written to; lines lost. Blocks: never, but for a file on a disk that hangs. */
#include "base/log.h"

#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"

#define LINE_MAX_BYTES 4096 /* PIPE_BUF: a pipe takes all of it or nothing */

enum out_kind {
    OUT_PLAIN,  /* a file, or made non-blocking: write */
    OUT_SOCKET, /* each send says that it must not wait */
    OUT_ASK,    /* shared with others and blocking: ask first */
};

static struct {
    enum cd_log_level level;
    bool json;
    enum out_kind out;
    bool torn;                         /* the last line was cut off */
    unsigned long long dropped, unsaid; /* lines lost; of them not mentioned yet */
} state = {.level = CD_LOG_INFO, .json = true};

static const char *const level_names[] = {"debug", "info", "warn", "error"};

void cd_log_setup(enum cd_log_level level, int json)
{
    state.level = level;
    state.json = json != 0;
}

/* O_NONBLOCK belongs to the open file, which a shell or a parent may share: open it anew. */
static bool open_anew(void)
{
    int fd = open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    bool ok;

    if (fd < 0)
        return false;
    ok = dup2(fd, STDERR_FILENO) >= 0;
    close(fd);
    return ok;
}

void cd_log_never_block(void)
{
    struct stat st;

    state.out = OUT_PLAIN;
    if (fstat(STDERR_FILENO, &st) != 0)
        return;
    if (S_ISSOCK(st.st_mode))
        state.out = OUT_SOCKET;
    else if (!S_ISREG(st.st_mode) && !open_anew())
        state.out = OUT_ASK;
}

unsigned long long cd_log_dropped(void)
{
    return state.dropped;
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

static ssize_t write_some(const char *p, size_t n)
{
    struct pollfd ask = {.fd = STDERR_FILENO, .events = POLLOUT};

    if (state.out == OUT_SOCKET)
        return send(STDERR_FILENO, p, n, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (state.out == OUT_ASK && poll(&ask, 1, 0) != 1)
        return -1;
    return write(STDERR_FILENO, p, n);
}

/* @return false: it is lost, or its end is */
static bool write_line(struct cd_buf *b)
{
    ssize_t w;

    cd_buf_addc(b, '\n');
    if (b->failed)
        return false;
    if (state.torn && write_some("\n", 1) != 1)
        return false;
    w = write_some(b->p, b->n);
    state.torn = w > 0 && (size_t)w < b->n;
    return w == (ssize_t)b->n;
}

static void compose(struct cd_buf *b, enum cd_log_level level, const char *mod, const char *ev,
                    const struct cd_log_ctx *ctx, const char *msg)
{
    cd_buf_adds(b, state.json ? "{\"ts\":\"" : "");
    add_time(b);
    if (state.json)
        cd_buf_addf(b, "\",\"lvl\":\"%s\",\"ev\":\"%s\",\"mod\":\"%s\"", level_names[level], ev, mod);
    else
        cd_buf_addf(b, " %-5s %s %s", level_names[level], mod, ev);
    add_field(b, "call_id", ctx->call_id);
    add_field(b, "conn", ctx->conn);
    add_field(b, "user", ctx->user);
    add_field(b, "room", ctx->room);
    if (state.json) {
        add_field(b, "msg", msg);
        cd_buf_addc(b, '}');
    } else {
        cd_buf_addf(b, ": %s", msg);
    }
}

static bool put(enum cd_log_level level, const char *mod, const char *ev, const struct cd_log_ctx *ctx,
                const char *msg)
{
    struct cd_buf b;
    bool ok;

    cd_buf_init(&b, LINE_MAX_BYTES);
    compose(&b, level, mod, ev, ctx, msg);
    ok = write_line(&b);
    cd_buf_done(&b);
    return ok;
}

/* @return false: still no line gets through */
static bool say_what_was_lost(const struct cd_log_ctx *none)
{
    char msg[80];

    if (!state.unsaid)
        return true;
    snprintf(msg, sizeof(msg), "%llu lines before this one are lost: nobody took them", state.unsaid);
    if (!put(CD_LOG_WARN, "log", "lines.dropped", none, msg))
        return false;
    state.unsaid = 0;
    return true;
}

void cd_log(enum cd_log_level level, const char *mod, const char *ev, const struct cd_log_ctx *ctx,
            const char *fmt, ...)
{
    static const struct cd_log_ctx none;
    char msg[1024];
    va_list ap;

    if (!cd_log_enabled(level))
        return;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof(msg), fmt, ap);
    va_end(ap);
    if (!say_what_was_lost(&none) || !put(level, mod, ev, ctx ? ctx : &none, msg)) {
        state.dropped++;
        state.unsaid++;
    }
}

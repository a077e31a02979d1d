/* http_raw.c -- composes complete error answers as text. Blocks: never. */
#include "in/http_raw.h"

#include <fcntl.h>
#include <sys/socket.h>

#include "in/cors.h"
#include "in/linger.h"

static const char *phrase(int status)
{
    static const struct {
        int status;
        const char *text;
    } phrases[] = {
        {400, "Bad Request"}, {403, "Forbidden"}, {404, "Not Found"},
        {408, "Request Timeout"}, {413, "Content Too Large"}, {426, "Upgrade Required"}, {429, "Too Many Requests"},
        {503, "Service Unavailable"},
    };

    for (size_t i = 0; i < sizeof(phrases) / sizeof(phrases[0]); i++) {
        if (phrases[i].status == status)
            return phrases[i].text;
    }
    return "Error";
}

void cd_http_raw_json(struct cd_buf *b, int status, struct cd_str json, const char *allow_origin,
                      const char *request_id, long retry_after_ms)
{
    cd_buf_addf(b, "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\n"
                "Content-Length: %zu\r\nCache-Control: no-store\r\n"
                "X-Content-Type-Options: nosniff\r\nConnection: close\r\n",
                status, phrase(status), json.n);
    if (status == 426)
        cd_buf_adds(b, "Upgrade: websocket\r\n");
    if (allow_origin)
        cd_buf_addf(b, "Access-Control-Allow-Origin: %s\r\n"
                    "Access-Control-Expose-Headers: " CD_CORS_EXPOSED "\r\n", allow_origin);
    if (request_id)
        cd_buf_addf(b, "X-Request-ID: %s\r\n", request_id);
    if (retry_after_ms > 0)
        cd_buf_addf(b, "Retry-After: %ld\r\n", (retry_after_ms + 999) / 1000);
    cd_buf_adds(b, "\r\n");
    cd_buf_add(b, json.p, json.n);
}

void cd_http_raw_error(struct cd_buf *b, const struct cd_err *err, int status,
                       const char *allow_origin, const char *request_id)
{
    struct cd_buf json;

    cd_buf_init(&json, 4096);
    cd_err_json(&json, err);
    cd_http_raw_json(b, status, (struct cd_str){json.p, json.n}, allow_origin, request_id,
                     err->retry_after_ms);
    cd_buf_done(&json);
}

void cd_http_raw_send(int fd, const struct cd_buf *b)
{
    if (b->failed || send(fd, b->p, b->n, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        return; /* the client sees the close instead */
}

static enum cd_rc rc_of(int status)
{
    switch (status) {
    case 400:
    case 426:
        return CD_E_INVALID_PARAM;
    case 401:
        return CD_E_UNKNOWN_TOKEN;
    case 403:
        return CD_E_FORBIDDEN;
    case 404:
        return CD_E_UNRECOGNIZED;
    case 429:
        return CD_E_LIMITED;
    case 503:
        return CD_E_OVERLOADED;
    default:
        return CD_E_INTERNAL;
    }
}

void cd_http_raw_refuse(struct cd_loop *loop, int fd, const char *origins, const char *origin,
                        int status, const char *why)
{
    const char *allow = NULL;
    struct cd_err err = {0};
    struct cd_buf b;
    int copy;

    if (cd_cors_any(origins))
        allow = "*";
    else if (origin && cd_cors_allows(origins, origin))
        allow = origin;
    cd_buf_init(&b, 8192);
    if (*why == '{') {
        cd_http_raw_json(&b, status, cd_str_of(why), allow, NULL, 0);
    } else {
        cd_fail(&err, rc_of(status), *why ? "%s" : NULL, why);
        err.retry_after_ms = status == 429 || status == 503 ? 5000 : 0;
        cd_http_raw_error(&b, &err, status, allow, NULL);
    }
    cd_http_raw_send(fd, &b);
    cd_buf_done(&b);
    copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy >= 0) {
        shutdown(copy, SHUT_WR);
        cd_linger(loop, copy);
    }
}

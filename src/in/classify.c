/* classify.c -- HTTP or WebSocket: the request line tells. */
#include "in/classify.h"

#include <string.h>
#include <strings.h>

#define LENGTH_DIGITS 18 /* what fits into 64 bits, and no more than anybody sends */

struct cd_str cd_strip_prefix(struct cd_str target, const char *prefix)
{
    size_t n = prefix ? strlen(prefix) : 0;

    if (n == 0 || !cd_str_starts(target, prefix))
        return target;
    if (target.n > n && target.p[n] != '/' && target.p[n] != '?')
        return target; /* /calldx is not below /calld */
    if (target.n == n || target.p[n] == '?')
        return target; /* the prefix alone names nothing of ours */
    return (struct cd_str){target.p + n, target.n - n};
}

/* One "transport=websocket" among the pairs of a query. */
static bool asks_for_websocket(struct cd_str query)
{
    static const char pair[] = "transport=websocket";
    const size_t n = sizeof(pair) - 1;

    for (size_t at = 0; at + n <= query.n; at++) {
        if (memcmp(query.p + at, pair, n) != 0)
            continue;
        if ((at == 0 || query.p[at - 1] == '&') && (at + n == query.n || query.p[at + n] == '&'))
            return true;
    }
    return false;
}

bool cd_is_ws_target(struct cd_str target)
{
    const char *mark = target.n ? memchr(target.p, '?', target.n) : NULL;
    struct cd_str path = {target.p, mark ? (size_t)(mark - target.p) : target.n};
    struct cd_str query = {mark ? mark + 1 : "", mark ? target.n - path.n - 1 : 0};

    if (cd_str_is(path, "/ws") || cd_str_starts(path, "/ws/"))
        return true;
    return (cd_str_is(path, "/socket.io/") || cd_str_is(path, "/socket.io")) &&
           asks_for_websocket(query);
}

bool cd_is_header_name(struct cd_str name)
{
    static const char marks[] = "!#$%&'*+-.^_`|~";

    for (size_t i = 0; i < name.n; i++) {
        char c = name.p[i], letter = (char)(c | 0x20);

        if (!(letter >= 'a' && letter <= 'z') && !(c >= '0' && c <= '9') && !(c && strchr(marks, c)))
            return false;
    }
    return name.n > 0;
}

/* @param line  without its end */
static const char *line_fault(struct cd_str line)
{
    static const char length[] = "Content-Length";
    const char *colon = memchr(line.p, ':', line.n);
    size_t n = colon ? (size_t)(colon - line.p) : 0, digits = 0;

    if (line.p[0] == ' ' || line.p[0] == '\t')
        return NULL; /* goes on with the line before it */
    if (!colon || !cd_is_header_name((struct cd_str){line.p, n}))
        return "A line of the head is no header: a name without blanks, then a colon.";
    if (n != sizeof(length) - 1 || strncasecmp(line.p, length, n) != 0)
        return NULL;
    for (n++; n < line.n && (line.p[n] == ' ' || line.p[n] == '\t'); n++)
        ;
    while (n + digits < line.n && line.p[n + digits] >= '0' && line.p[n + digits] <= '9')
        digits++;
    /* libmicrohttpd takes no blank behind it either */
    return digits > 0 && digits <= LENGTH_DIGITS && n + digits == line.n ? NULL : "Content-Length takes digits only.";
}

const char *cd_head_fault(struct cd_str head)
{
    const char *at = head.n ? memchr(head.p, '\n', head.n) : NULL, *end = head.p + head.n, *fault = NULL;

    while (at && !fault) {
        const char *begin = at + 1;
        size_t n;

        at = begin < end ? memchr(begin, '\n', (size_t)(end - begin)) : NULL;
        if (!at)
            break; /* not all of it is here */
        n = (size_t)(at - begin);
        n -= n > 0 && begin[n - 1] == '\r';
        if (n == 0)
            break; /* the end of the head */
        fault = line_fault((struct cd_str){begin, n});
    }
    return fault;
}

enum cd_class cd_classify(struct cd_str head, const char *prefix)
{
    static const char get[] = "GET ";
    size_t method_n = sizeof(get) - 1;
    struct cd_str target;
    size_t end = method_n;

    if (head.n == 0)
        return CD_CLASS_MORE;
    if (head.p[0] == 0x16)
        return CD_CLASS_CLOSE;
    if (memcmp(head.p, get, head.n < method_n ? head.n : method_n) != 0)
        return CD_CLASS_HTTP;
    while (end < head.n && head.p[end] != ' ' && head.p[end] != '\r' && head.p[end] != '\n')
        end++;
    if (end >= head.n)
        return head.n >= CD_CLASSIFY_BYTES ? CD_CLASS_HTTP : CD_CLASS_MORE;
    target = cd_strip_prefix((struct cd_str){head.p + method_n, end - method_n}, prefix);
    return cd_is_ws_target(target) ? CD_CLASS_WS : CD_CLASS_HTTP;
}

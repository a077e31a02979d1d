/* classify.c -- HTTP or WebSocket: the request line tells. */
#include "in/classify.h"

#include <string.h>

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

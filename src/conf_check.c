/* conf_check.c -- the shapes that single values must have.
 *
 * In:    one value, or one item of a list.
 * Out:   yes or no; the table's row says in words what is allowed.
 * State: none. */
#include "conf_priv.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"

static bool only(const char *v, size_t n, const char *extra)
{
    for (size_t i = 0; i < n; i++) {
        if (!isalnum((unsigned char)v[i]) && (v[i] == '\0' || !strchr(extra, v[i])))
            return false;
    }
    return n > 0;
}

static bool is_port(const char *v, uint64_t min)
{
    uint64_t port;

    return cd_parse_u64(cd_str_of(v), min, 65535, &port) && strlen(v) <= 5;
}

static bool is_ip(int family, const char *p, size_t n)
{
    char text[INET6_ADDRSTRLEN];
    unsigned char raw[sizeof(struct in6_addr)];

    if (n >= sizeof text)
        return false;
    memcpy(text, p, n);
    text[n] = '\0';
    return inet_pton(family, text, raw) == 1;
}

/* HOST, HOST:PORT, [IPv6] or [IPv6]:PORT; the host is a name or an IPv4 address. */
static bool is_host_port(const char *v, size_t n)
{
    const char *colon = NULL;
    char port[8];
    size_t host = n, left;

    if (n > 0 && v[0] == '[') {
        const char *close = memchr(v, ']', n);

        if (!close || !is_ip(AF_INET6, v + 1, (size_t)(close - v) - 1))
            return false;
        host = (size_t)(close - v) + 1;
        if (host == n)
            return true;
        if (v[host] != ':')
            return false;
        colon = v + host;
    } else {
        colon = memchr(v, ':', n);
        if (colon)
            host = (size_t)(colon - v);
        if (!only(v, host, ".-_"))
            return false;
        if (!colon)
            return true;
    }
    left = n - host - 1;
    if (left == 0 || left >= sizeof port)
        return false;
    memcpy(port, colon + 1, left);
    port[left] = '\0';
    return is_port(port, 1);
}

bool cd_conf_is_address(const char *v)
{
    const char *colon = strrchr(v, ':');

    if (v[0] == '/' || !strncmp(v, "unix:/", 6))
        return strlen(v) < 108; /* sun_path */
    if (!colon || !is_port(colon + 1, 0))
        return false;
    if (v[0] == '[')
        return colon > v + 2 && colon[-1] == ']' && is_ip(AF_INET6, v + 1, (size_t)(colon - v) - 2);
    return is_ip(AF_INET, v, (size_t)(colon - v));
}

/* @return what follows the scheme, NULL when it is another one */
static const char *after_scheme(const char *v)
{
    if (!strncmp(v, "http://", 7))
        return v + 7;
    return strncmp(v, "https://", 8) == 0 ? v + 8 : NULL;
}

bool cd_conf_is_http_url(const char *v)
{
    const char *host = after_scheme(v);
    size_t n;

    if (!host || strlen(v) > 2000)
        return false;
    n = strcspn(host, "/");
    if (!is_host_port(host, n))
        return false;
    return host[n] == '\0' || only(host + n, strlen(host + n), "/-._~%");
}

bool cd_conf_is_origin(const char *v)
{
    const char *host = after_scheme(v);

    return !strcmp(v, "*") || (host && is_host_port(host, strlen(host)));
}

bool cd_conf_is_prefix(const char *v)
{
    size_t n = strlen(v);

    return n >= 2 && n < 200 && v[0] == '/' && v[n - 1] != '/' && !strstr(v, "//") &&
           !strstr(v, "/.") && only(v, n, "/-._~");
}

bool cd_conf_is_proxy(const char *v)
{
    const char *slash = strchr(v, '/');
    size_t n = slash ? (size_t)(slash - v) : strlen(v);
    int family = memchr(v, ':', n) ? AF_INET6 : AF_INET;
    uint64_t bits;

    if (!strcmp(v, "true") || !strcmp(v, "false"))
        return true;
    return is_ip(family, v, n) &&
           (!slash || cd_parse_u64(cd_str_of(slash + 1), 0, family == AF_INET ? 32 : 128, &bits));
}

bool cd_conf_is_word(const char *v)
{
    return strlen(v) <= 64 && only(v, strlen(v), "-_.");
}

bool cd_conf_is_database(const char *v)
{
    return !strncmp(v, "postgres://", 11) || !strncmp(v, "postgresql://", 13) ||
           (strchr(v, '=') && !strstr(v, "://"));
}

bool cd_conf_is_identifier(const char *v)
{
    size_t n = strlen(v);

    if (n == 0 || n > 63 || isdigit((unsigned char)v[0]))
        return false;
    for (size_t i = 0; i < n; i++) {
        if (!islower((unsigned char)v[i]) && !isdigit((unsigned char)v[i]) && v[i] != '_')
            return false;
    }
    return true;
}

bool cd_conf_is_server_name(const char *v)
{
    size_t n = strlen(v);

    return n <= 230 && is_host_port(v, n) && !strchr(v, '_');
}

bool cd_conf_is_token(const char *v)
{
    for (size_t i = 0; v[i]; i++) {
        if (v[i] <= ' ' || v[i] > '~')
            return false;
    }
    return strlen(v) <= 1024;
}

/* SCHEME:HOST[:PORT]; what may follow is the caller's business. @return the rest, NULL: not so */
static const char *after_ice_host(const char *v, const char *plain, const char *tls)
{
    const char *host = NULL;
    size_t n;

    if (!strncmp(v, tls, strlen(tls)))
        host = v + strlen(tls);
    else if (!strncmp(v, plain, strlen(plain)))
        host = v + strlen(plain);
    if (!host)
        return NULL;
    n = strcspn(host, "?");
    return is_host_port(host, n) ? host + n : NULL;
}

/* Chromium refuses a whole peer connection for a STUN address with a query. */
bool cd_conf_is_stun(const char *v)
{
    const char *rest = after_ice_host(v, "stun:", "stuns:");

    return rest && *rest == '\0';
}

bool cd_conf_is_turn(const char *v)
{
    const char *rest = after_ice_host(v, "turn:", "turns:");

    return rest && (*rest == '\0' || !strcmp(rest, "?transport=udp") ||
                    !strcmp(rest, "?transport=tcp"));
}

bool cd_conf_is_user_id(const char *v)
{
    const char *colon = strchr(v, ':');

    return v[0] == '@' && colon && colon > v + 1 && strlen(v) <= 255 &&
           cd_conf_is_server_name(colon + 1);
}

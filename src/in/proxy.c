/* proxy.c -- trusted proxies and X-Forwarded-For. Pure: text in, text out.
 * Why: the header is written by anybody; only its right end, written by proxies we know, counts. */
#include "in/proxy.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"

#define FORWARDED_HOPS 32 /* entries looked at, from the right */

static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

/* An address literal as 16 bytes. @return 32 or 128: its family's width in bits, 0: none */
static unsigned parse_ip(struct cd_str s, uint8_t out[16])
{
    char text[CD_IP_LEN];

    if (s.n == 0 || s.n >= sizeof(text))
        return 0;
    memcpy(text, s.p, s.n);
    text[s.n] = '\0';
    if (inet_pton(AF_INET, text, out + 12) == 1) {
        memcpy(out, mapped, sizeof(mapped));
        return 32;
    }
    return inet_pton(AF_INET6, text, out) == 1 ? 128 : 0;
}

static bool in_net(const struct cd_cidr *net, const uint8_t ip[16])
{
    unsigned whole = net->bits / 8;
    unsigned rest = net->bits % 8;

    if (memcmp(net->addr, ip, whole) != 0)
        return false;
    return rest == 0 || (net->addr[whole] ^ ip[whole]) >> (8 - rest) == 0;
}

static bool parse_cidr(struct cd_str s, struct cd_cidr *out)
{
    const char *slash = memchr(s.p, '/', s.n);
    size_t n = slash ? (size_t)(slash - s.p) : s.n;
    unsigned width = parse_ip((struct cd_str){s.p, n}, out->addr);
    uint64_t bits = width;

    if (!width)
        return false;
    if (slash && !cd_parse_u64((struct cd_str){slash + 1, s.n - n - 1}, 0, width, &bits))
        return false;
    out->bits = (unsigned)bits + (128 - width);
    return true;
}

/* Next word of a list separated by commas and blanks. */
static struct cd_str next_word(const char **at)
{
    const char *p = *at + strspn(*at, ", \t");
    struct cd_str word = {p, strcspn(p, ", \t")};

    *at = p + word.n;
    return word;
}

enum cd_rc cd_proxy_parse(struct cd_proxy *p, const char *text, struct cd_err *err)
{
    struct cd_proxy out = {0};
    struct cd_str word;

    *p = out;
    if (!text || strcmp(text, "false") == 0)
        return CD_OK;
    if (strcmp(text, "true") == 0) {
        p->adjacent = true;
        return CD_OK;
    }
    while ((word = next_word(&text)).n > 0) {
        if (out.n == CD_PROXY_CIDRS)
            return cd_fail(err, CD_E_INVALID_PARAM, "trust_proxy takes at most %d networks.",
                           CD_PROXY_CIDRS);
        if (!parse_cidr(word, &out.cidr[out.n++]))
            return cd_fail(err, CD_E_INVALID_PARAM,
                           "trust_proxy: \"%.*s\" is no address and no CIDR network.",
                           (int)(word.n > 60 ? 60 : word.n), word.p);
    }
    *p = out;
    return CD_OK;
}

static void format_ip(const uint8_t ip[16], char *out)
{
    if (memcmp(ip, mapped, sizeof(mapped)) == 0)
        inet_ntop(AF_INET, ip + 12, out, CD_IP_LEN);
    else
        inet_ntop(AF_INET6, ip, out, CD_IP_LEN);
}

void cd_proxy_peer(const struct sockaddr *addr, socklen_t len, char *out)
{
    uint8_t ip[16];

    if (addr && addr->sa_family == AF_INET && len >= sizeof(struct sockaddr_in)) {
        struct sockaddr_in in;

        memcpy(&in, addr, sizeof(in));
        memcpy(ip, mapped, sizeof(mapped));
        memcpy(ip + 12, &in.sin_addr, 4);
        format_ip(ip, out);
    } else if (addr && addr->sa_family == AF_INET6 && len >= sizeof(struct sockaddr_in6)) {
        struct sockaddr_in6 in6;

        memcpy(&in6, addr, sizeof(in6));
        format_ip(in6.sin6_addr.s6_addr, out);
    } else {
        memcpy(out, "unix", 5);
    }
}

void cd_proxy_share(const char *ip, char *out)
{
    uint8_t bytes[16];

    if (strchr(ip, ':') && parse_ip(cd_str_of(ip), bytes)) {
        memset(bytes + 8, 0, 8);
        format_ip(bytes, out);
    } else {
        snprintf(out, CD_IP_LEN, "%s", ip);
    }
}

/* Loopback and private networks: RFC 1918, RFC 4193, link-local. */
static bool is_near(const uint8_t ip[16])
{
    static const struct cd_cidr near_nets[] = {
        {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127}, 104},
        {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10}, 104},
        {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 172, 16}, 108},
        {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 168}, 112},
        {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 169, 254}, 112},
        {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}, 128},
        {{0xfc}, 7},
        {{0xfe, 0x80}, 10},
    };

    for (size_t i = 0; i < sizeof(near_nets) / sizeof(near_nets[0]); i++) {
        if (in_net(&near_nets[i], ip))
            return true;
    }
    return false;
}

static bool trusts(const struct cd_proxy *p, const uint8_t ip[16])
{
    if (p->adjacent)
        return is_near(ip);
    for (size_t i = 0; i < p->n; i++) {
        if (in_net(&p->cidr[i], ip))
            return true;
    }
    return false;
}

bool cd_proxy_trusts(const struct cd_proxy *p, const char *peer_ip)
{
    uint8_t ip[16];

    if (!p->adjacent && p->n == 0)
        return false;
    if (!parse_ip(cd_str_of(peer_ip), ip))
        return true; /* a unix socket: its file mode has decided who may connect */
    return trusts(p, ip);
}

/* Entries are addresses, some proxies add a port: 1.2.3.4:5, [::1]:5. */
static bool parse_hop(struct cd_str s, uint8_t ip[16])
{
    const char *end;

    if (s.n && s.p[0] == '[') {
        end = memchr(s.p, ']', s.n);
        return end && parse_ip((struct cd_str){s.p + 1, (size_t)(end - s.p) - 1}, ip);
    }
    if (parse_ip(s, ip))
        return true;
    end = memchr(s.p, ':', s.n);
    return end && parse_ip((struct cd_str){s.p, (size_t)(end - s.p)}, ip);
}

void cd_proxy_client(const struct cd_proxy *p, const char *peer_ip, const char *forwarded,
                     char *out)
{
    struct cd_str rest = cd_str_of(forwarded);
    uint8_t ip[16];

    snprintf(out, CD_IP_LEN, "%s", peer_ip);
    if (rest.n == 0 || !cd_proxy_trusts(p, peer_ip))
        return;
    for (int hop = 0; hop < FORWARDED_HOPS && rest.n > 0; hop++) {
        size_t at = rest.n;

        while (at > 0 && rest.p[at - 1] != ',')
            at--;
        if (!parse_hop(cd_str_trim((struct cd_str){rest.p + at, rest.n - at}), ip))
            return; /* what stands left of nonsense is not worth more */
        format_ip(ip, out);
        if (p->adjacent || !trusts(p, ip))
            return;
        rest.n = at ? at - 1 : 0;
    }
}

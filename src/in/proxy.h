/* proxy.h -- who the client is when trusted proxies stand before us (server.trust_proxy). */
#ifndef CD_IN_PROXY_H
#define CD_IN_PROXY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/err.h"

#define CD_IP_LEN 46 /* text of an address with its NUL; unix sockets are called "unix" */

struct cd_cidr {
    uint8_t addr[16]; /* IPv4 as ::ffff:a.b.c.d */
    unsigned bits;    /* 0..128 */
};

#define CD_PROXY_CIDRS 32

struct cd_proxy {
    bool adjacent; /* "true": the direct peer, one hop, if it is loopback or private */
    size_t n;
    struct cd_cidr cidr[CD_PROXY_CIDRS];
};

/** @param text  "", "false", "true", or addresses and CIDRs separated by commas or blanks
 * @return CD_OK, or CD_E_INVALID_PARAM with @p err naming the bad entry; @p p then trusts nobody */
enum cd_rc cd_proxy_parse(struct cd_proxy *p, const char *text, struct cd_err *err);
/** Text form of a socket address, IPv4-mapped ones as IPv4. @param out  CD_IP_LEN bytes */
void cd_proxy_peer(const struct sockaddr *addr, socklen_t len, char *out);
/** The address that limits count: of IPv6 the network of 64 bits, which one customer has whole.
 * @param out  CD_IP_LEN bytes */
void cd_proxy_share(const char *ip, char *out);
/** May this direct peer name the client? */
bool cd_proxy_trusts(const struct cd_proxy *p, const char *peer_ip);
/** The client's address: the peer, or the last X-Forwarded-For entry that no trusted proxy wrote
 * about another trusted proxy.
 * @param forwarded  header value or NULL; @param out  CD_IP_LEN bytes */
void cd_proxy_client(const struct cd_proxy *p, const char *peer_ip, const char *forwarded,
                     char *out);

#endif

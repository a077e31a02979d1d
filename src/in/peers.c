/* peers.c -- connections by client address.
 * State: one table for the process, emptied as connections close; its size is bounded by theirs. */
#include "in/peers.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/map.h"
#include "in/proxy.h"

struct peer {
    char ip[CD_IP_LEN];
    unsigned n;
};

static struct {
    struct cd_map map;
    unsigned per_ip;
} peers;

void cd_peers_limit(unsigned per_ip)
{
    peers.per_ip = per_ip;
}

bool cd_peers_take(const char *client_ip)
{
    char ip[CD_IP_LEN];
    struct peer *p;

    cd_proxy_share(client_ip, ip);
    p = cd_map_get(&peers.map, cd_str_of(ip));
    if (!p) {
        p = calloc(1, sizeof(*p));
        if (!p)
            return false;
        snprintf(p->ip, sizeof(p->ip), "%s", ip);
        if (cd_map_put(&peers.map, cd_str_of(p->ip), p) < 0) {
            free(p);
            return false;
        }
    }
    if (peers.per_ip && p->n >= peers.per_ip)
        return false;
    p->n++;
    return true;
}

void cd_peers_give(const char *client_ip)
{
    char ip[CD_IP_LEN];
    struct peer *p;

    cd_proxy_share(client_ip, ip);
    p = cd_map_get(&peers.map, cd_str_of(ip));
    if (!p || --p->n > 0)
        return;
    cd_map_del(&peers.map, cd_str_of(ip));
    free(p);
    if (peers.map.count == 0)
        cd_map_done(&peers.map);
}

size_t cd_peers_addresses(void)
{
    return peers.map.count;
}

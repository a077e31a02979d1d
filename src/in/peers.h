/* peers.h -- how many public connections each client address holds, HTTP and WebSocket together. */
#ifndef CD_IN_PEERS_H
#define CD_IN_PEERS_H

#include <stdbool.h>
#include <stddef.h>

/** @param per_ip  connections an address may hold; 0: no limit */
void cd_peers_limit(unsigned per_ip);
/** Count one more. @return false: over the limit (or out of memory), not counted */
bool cd_peers_take(const char *client_ip);
/** Give back one that was taken. */
void cd_peers_give(const char *client_ip);
size_t cd_peers_addresses(void); /* addresses that hold any */

#endif

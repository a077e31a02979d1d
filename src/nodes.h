/* nodes.h -- calls that several daemons on one database share: whose they are, and what others did to them. */
#ifndef CD_NODES_H
#define CD_NODES_H

#include "core.h"

/** Listen to what other daemons do. */
void cd_nodes_start(struct cd_core *core);
/** Before the store is closed. */
void cd_nodes_stop(struct cd_core *core);
/** Take over what another daemon wrote: the state, unless a commit of ours is in flight, and outbox rows,
 * if they are ours to send. @param sc  taken over */
void cd_nodes_adopt(struct cd_live *l, struct cd_stored_call *sc);
/** Another daemon owns the call now: stop acting for it. */
void cd_nodes_lose(struct cd_live *l);
/** Read a call of ours, or one that sockets here sit in, again. */
void cd_nodes_reload(struct cd_core *core, const char *call_id);

#endif

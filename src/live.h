/* live.h -- the registry of calls in memory: internal to the core (live.c, flow.c, signal.c). */
#ifndef CD_LIVE_H
#define CD_LIVE_H

#include "core.h"

/** Register a call. Takes @p call (as `born` when it is being created, else as `cur`).
 * @return NULL out of memory (call is freed) */
struct cd_live *cd_live_new(struct cd_core *core, struct cd_call *call, bool being_created);
/** Take it out of the maps; freed as soon as no commit is in flight and no command waits. */
void cd_live_unlink(struct cd_live *l);
/** Free @p l when nothing refers to it any more. */
void cd_live_maybe_free(struct cd_live *l);
/** Shutdown: free whatever is left. */
void cd_live_free_all(struct cd_core *core);
/** Append to the log, oldest signals that are written give way at the caps.
 * @param payload  taken over. @return the entry or NULL (payload freed) */
struct cd_log_entry *cd_live_log(struct cd_live *l, uint64_t seq, const char *event, char *payload,
                                 size_t payload_n);
/** Build a live call from its rows. @param sc  taken over. @return NULL out of memory */
struct cd_live *cd_live_restore(struct cd_core *core, struct cd_stored_call *sc);
/** Take signals into the log that are not there, and raise the last number to theirs. */
void cd_live_merge(struct cd_live *l, const struct cd_stored_call *sc);
/** Log again what the rows of call_events tell of a restored call, after its signals. Comings and
 * goings of sockets are not among them: after a restart everybody has to join again. */
void cd_records_restore(struct cd_live *l, const struct cd_event_row *events, size_t n);
/** Final calls rest a while in memory for late questions, then leave: arm that. */
void cd_live_retire(struct cd_live *l);
/** A final call leaves memory, as soon as nothing of it is under way. */
void cd_live_forget(struct cd_live *l);
/** Write behind, with the next batch, what was signalled and is not stored yet. */
void cd_signal_flush_soon(struct cd_live *l);
/** Give the store the signals of calls that wait for their turn, as many as may be under way. */
void cd_signal_flush_line(struct cd_core *core);
/** The second half of cd_create(), run from the loop. @param job  a struct cd_job */
void cd_flow_start_creation(void *job);

#endif

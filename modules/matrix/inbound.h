/* inbound.h -- events that Matrix clients sent, applied to calls. Internal to modules/matrix. */
#ifndef CD_MATRIX_INBOUND_H
#define CD_MATRIX_INBOUND_H

#include "event.h"
#include "state.h"

extern const struct cd_as_ops cd_mx_as_ops; /* self is the core */

/** Our own event, pushed back to us. Reads sender and party of @p in. */
bool cd_mx_is_echo(const struct cd_live *live, const struct cd_mx_in *in);
/** The appservice's question before it builds an event's content: is it worth that? */
bool cd_mx_wants(void *self, const struct cd_mx_event *ev, struct cd_str raw_content);
/** A commit of this call is through: look at the events that wait for it. */
void cd_mx_drain_soon(struct cd_live *live, int64_t delay_ms);
/** What a command's result means for the transaction that brought it. */
enum cd_store_rc cd_mx_store_rc(const struct cd_result *res);
/** There was no memory for an event: its transaction must come again. */
void cd_mx_lost(struct cd_txn *txn);
/** A cd_cmd_fn: arg is the held transaction, or NULL. */
void cd_mx_applied(void *arg, const struct cd_result *res);
/** Relay candidates of a Matrix client, in signals of at most limits.signal_bytes.
 * @param list  comma-joined JSON objects of cd_mxc_candidate() */
void cd_mx_relay_candidates(struct cd_live *live, const char *user, const char *party,
                            struct cd_str list);
/** Relay a description. @param silent  its SDP rides on another event. @return false out of memory */
bool cd_mx_relay_sdp(struct cd_live *live, const struct cd_mx_in *in, const char *sdp,
                     bool is_answer, bool silent);

/* invite.c */
void cd_mx_on_invite(struct cd_mx_in *in);
/** Queue the event of a call whose invite is being looked into. @return false: no such invite */
bool cd_mx_invite_wait(const struct cd_mx_in *in);
/** Is the invite of the call that @p in names being looked into? Reads room and call id only. */
bool cd_mx_invite_looks(const struct cd_mx_in *in);
/** The module hook: somebody connected. */
void cd_mx_on_client(struct cd_core *core, struct cd_client *client, bool connected);
enum cd_rc cd_mx_invites_start(void);
void cd_mx_invites_stop(void);

#endif

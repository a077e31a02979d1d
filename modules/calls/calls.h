/* calls.h -- the calls module: REST routes, socket events, announcements, timers. Internal to its folder,
 * but for the module itself. */
#ifndef CD_CALLS_CALLS_H
#define CD_CALLS_CALLS_H

#include "op.h"

extern const struct cd_module cd_module_calls;

/* operations: each answers its op */
void calls_initiate(struct cd_op *op);
void calls_answer(struct cd_op *op);
void calls_reject(struct cd_op *op);
void calls_end(struct cd_op *op);
void calls_leave(struct cd_op *op);
void calls_connected(struct cd_op *op);
void calls_offer(struct cd_op *op);
void calls_answer_sdp(struct cd_op *op);
void calls_candidate(struct cd_op *op);
void calls_toggle_audio(struct cd_op *op);
void calls_toggle_video(struct cd_op *op);
void calls_toggle_screen(struct cd_op *op);
void calls_join(struct cd_op *op);
void calls_status(struct cd_op *op);
void calls_events(struct cd_op *op);
void calls_active(struct cd_op *op);
void calls_ice_servers(struct cd_op *op);
/** What another daemon did, to the sockets here. @param prev  the state before */
void calls_announce_moved(struct cd_core *core, struct cd_live *l, const struct cd_call *prev);
/** Public: no user. */
enum cd_rc calls_config(void *self, struct cd_req *req);
/** Neither parked nor kept under an Idempotency-Key: a token is no answer to be stored. */
enum cd_rc calls_session_token(void *self, struct cd_req *req);
void calls_auth_refresh(struct cd_core *core, struct cd_client *client, struct cd_str payload,
                        const struct cd_ack *ack);

/** The answer to a toggle: {userId, audioEnabled, videoEnabled, screenSharing}. */
void calls_render_switches(struct cd_buf *b, const struct cd_call *c, const char *user);

/* seats.c */
/** Seat the acting client of @p user. @param sock_id  0: a REST client */
void calls_seat_take(struct cd_live *l, int seat, uint64_t sock_id);
/** May this client speak for its user's party: signal, toggle, report, leave? REST acts for the seated
 * party always, a socket only from the seat. @return false: the operation has been answered */
bool calls_seat_speaks(struct cd_op *op);
void calls_seats_client(struct cd_core *core, struct cd_client *client, bool connected);
/** The call came back from the store: seats of ours wait for their sockets. */
void calls_seats_restored(struct cd_core *core, struct cd_live *l);
/** The call is over: nobody sits any more. */
void calls_seats_clear(struct cd_live *l);

/* announce.c */
void calls_announce(struct cd_core *core, struct cd_live *l, const struct cd_call *prev,
                    const struct cd_cmd *cmd);
/** Ring @p sock_id (0: every socket of the callee). */
void calls_ring(struct cd_core *core, struct cd_live *l, uint64_t sock_id);
/** Emit {userId, ...} to the call, numbered and logged. */
void calls_announce_user(struct cd_core *core, struct cd_live *l, const char *event, const char *user,
                         const char *more_json, uint64_t except);

/* timers.c */
void calls_timers(struct cd_core *core, struct cd_live *l, const struct cd_call *prev);
/** Give a daemon's own command (a timer's, a lost seat's) to the call. When it could not be stored,
 * @p again runs a few seconds later: nobody else would ever repeat it.
 * @param t  the timer that waits for it, free by now; its argument is @p arg */
void calls_submit_own(struct cd_live *l, enum cd_ev ev, const char *user, struct cd_timer *t,
                      void (*again)(void *arg), void *arg);

#endif

/* op.h -- one request of a client, whichever way it came: REST and socket events are two spellings of
 * the same operation (design, section 1). */
#ifndef CD_CALLS_OP_H
#define CD_CALLS_OP_H

#include "core.h"
#include "input.h"

struct cd_op;

/** What an operation does. It answers with cd_op_ok() or cd_op_fail(), now or later, exactly once. */
typedef void (*cd_op_fn)(struct cd_op *op);

struct cd_op {
    struct cd_core *core;
    struct cd_principal *who; /* referenced */
    struct cd_req *req;       /* REST: NULL once answered or given up */
    struct cd_ack ack;        /* socket */
    uint64_t sock_id;         /* 0: REST */
    char call_id[CD_MAX_ID + 1];
    char client[CD_MAX_ID + 8]; /* identifies the party: the device, or "socket:N" */
    char *body;               /* owned copy of the JSON text */
    size_t body_cap;
    struct cd_input in;
    struct cd_err err;
    cd_op_fn run;
    struct cd_live *live;     /* once found */
    bool parked, answered;
    /* Idempotency-Key */
    char *key;
    uint8_t request_hash[16];
    bool key_held;            /* no other request with this key runs meanwhile */
    bool idem_given;          /* the row rides in a transition */
    bool with_party;          /* the answer names the viewer's party */
    /* The start counted before it is one, so that others at the same time see it. */
    char *charged_room;       /* owned; NULL: not counted */
    int64_t charged_ms;       /* monotonic */
    struct cd_str sdp;        /* raw answer or offer within body */
    struct cd_op *next_waiting;
    /* what goes on when the call is found */
    cd_op_fn found;
    bool found_own;
    /* an answer is durable, and there is no memory yet for its description */
    struct cd_timer again;
    unsigned tries;
};

/** A REST request. @return what the route handler returns */
enum cd_rc cd_op_rest(struct cd_core *core, struct cd_req *req, cd_op_fn run);
/** A socket event. */
void cd_op_socket(struct cd_core *core, struct cd_client *client, struct cd_str payload,
                  const struct cd_ack *ack, cd_op_fn run);

/** Answer with success. @param body  a JSON object (taken over). A socket gets its members in the ack. */
void cd_op_ok(struct cd_op *op, int status, struct cd_buf *body);
/** Answer with op->err as it stands. */
void cd_op_fail(struct cd_op *op, enum cd_rc rc);
/** Answer with this error. */
void cd_op_error(struct cd_op *op, enum cd_rc rc, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/** Answer with the call object. */
void cd_op_ok_call(struct cd_op *op, int status, const char *party_id);

/** Find the call named by the request, check that its user may see it (room membership on each
 * request), then run @p next with op->live set. Strangers and unknown ids get the same 404. */
void cd_op_with_call(struct cd_op *op, cd_op_fn next);
/** As cd_op_with_call, but the user must be a participant: else 403. */
void cd_op_with_own_call(struct cd_op *op, cd_op_fn next);

/** The Idempotency-Key was taken meanwhile, by another daemon: answer as that one did. */
void cd_op_key_taken(struct cd_op *op);
/** The idempotency row to ride in a transition: @p out is NULL when none was asked for. Ownership passes.
 * @return false out of memory: without the row a repetition would act again, so nothing may be done */
bool cd_op_idem(struct cd_op *op, int status, struct cd_idem_row **out);
/** Keep the answer of a transition with its row, without credentials and SDP.
 * @param prev  NULL: the call is new */
void cd_op_fill_idem(struct cd_core *core, struct cd_live *live, const struct cd_call *prev,
                     const struct cd_call *next, const struct cd_cmd *cmd, struct cd_idem_row *row);

#endif

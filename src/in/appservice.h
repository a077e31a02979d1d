/* appservice.h -- the homeserver's pushes: PUT transactions, users, rooms, ping, thirdparty.
 * Transactions are scanned, never parsed whole; relevant events are handed over one at a time. */
#ifndef CD_IN_APPSERVICE_H
#define CD_IN_APPSERVICE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "in/http.h"
#include "store/store.h"

/** One relevant event, valid for the call. */
struct cd_mx_event {
    const char *event_id, *room_id, *sender, *type;
    const char *state_key; /* NULL: not a state event */
    const json_t *content; /* an object */
    int64_t origin_server_ts;
    int64_t age_ms; /* effective: unsigned.age, else now - origin_server_ts, never < 0 */
    uint8_t hash[16]; /* of the event id */
};

struct cd_txn; /* a transaction being applied */

struct cd_as_ops {
    /** Before the first event: the whole transaction's relevant events are known.
     * Called once an event, in order. When the event leads to something that must be durable before
     * the answer: cd_txn_hold(), and cd_txn_release() from the commit's callback. */
    void (*on_event)(void *self, struct cd_txn *txn, const struct cd_mx_event *ev);
    /** Asked before the content is built, which costs more than all the rest; may be NULL:
     * everything is wanted. A no drops the event: it is not remembered and comes to nobody.
     * @param ev           all but its content
     * @param raw_content  its content as valid JSON text, for base/scan.h */
    bool (*wants)(void *self, const struct cd_mx_event *ev, struct cd_str raw_content);
};
void cd_txn_hold(struct cd_txn *txn);
/** @param rc  CD_STORE_DOWN or _FULL: the transaction answers 503 and the homeserver retries */
void cd_txn_release(struct cd_txn *txn, enum cd_store_rc rc);
/** Is there, later in this transaction, an event of this call that ends its ringing (hangup,
 * answer, reject, select_answer)? Scanned before the first on_event: a stale invite must not ring.
 * Ask from within on_event: "later" counts from the event that is being handed over. */
bool cd_txn_ends_call(const struct cd_txn *txn, const char *room_id, const char *call_id);

struct cd_as_conf {
    bool legacy_paths;      /* also /transactions/:t, /users/:u, /rooms/:a */
    size_t max_event_bytes; /* 65536 */
    int64_t answer_ms;      /* 503 when the answer is not ready by then; 0: 25000, as the least
                             * patient homeserver waits 30 s */
};

struct cd_appservice;
struct cd_appservice *cd_as_new(struct cd_loop *loop, struct cd_http *http, struct cd_store *store,
                                const struct cd_as_conf *conf, const struct cd_as_ops *ops,
                                void *self);
void cd_as_free(struct cd_appservice *as);

struct cd_as_stats {
    uint64_t transactions, duplicate_txns, events, relevant, duplicate_events, quarantined;
    int64_t last_txn_at; /* wall ms */
    int64_t last_lag_ms; /* age of the newest event of the last transaction */
    int64_t last_ping_at;  /* wall ms, 0: never */
    char last_ping_id[64]; /* its transaction_id, "" when it had none */
};
void cd_as_stats(const struct cd_appservice *as, struct cd_as_stats *out);

#endif

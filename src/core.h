/* core.h -- what a module sees of the daemon: live calls, commands, signals, fan-out, and the
 * module interface itself. */
#ifndef CD_CORE_H
#define CD_CORE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/map.h"
#include "base/str.h"
#include "call/call.h"
#include "call/fsm.h"
#include "conf.h"
#include "in/appservice.h"
#include "in/auth.h"
#include "in/http.h"
#include "in/limit.h"
#include "in/rate.h"
#include "in/sock.h"
#include "loop/loop.h"
#include "out/fetch.h"
#include "out/outbox.h"
#include "out/rooms.h"
#include "store/store.h"

struct cd_core;
struct cd_live;

/* --- a call in memory -------------------------------------------------------------------------- */

/** One numbered thing that happened in a call, kept for late joiners. */
struct cd_log_entry {
    uint64_t seq;
    char event[24];   /* socket event name */
    char *payload;    /* whole JSON object as sent to sockets */
    size_t payload_n;
    char *from_user, *from_party; /* NULL: the daemon */
    char *to;         /* user or party it is addressed to; NULL: everyone else */
    size_t body_at, body_n; /* signals: the members as the client gave them, within payload */
    bool signal, written;   /* written: stands in call_signals, or needs not */
};


/** Who sits where, on our side. One a participant, same index. */
struct cd_seat {
    struct cd_live *live;   /* the call it belongs to */
    uint64_t sock_id;       /* 0: nobody on a socket */
    bool held;              /* a socket or a REST client of ours took it */
    struct cd_timer grace;  /* armed while a dropped socket may come back */
    unsigned n_candidates;  /* logged so far */
};

struct cd_job;

/** A call as this process knows it. The row is the truth: `cur` is the last committed state. */
struct cd_live {
    struct cd_core *core;
    struct cd_call *cur;  /* NULL while it is being created */
    struct cd_call *born; /* being created; NULL afterwards */
    char id[CD_CALL_ID_LEN + 1]; /* outlives every state: the registry's key */
    char *mx_key;         /* room_id '\n' matrix call_id */
    uint64_t seq;         /* last number given out */
    uint64_t event_seq;   /* of the transition being announced */
    enum cd_mx_state mx_state;
    bool invite_tried;
    bool busy;            /* a commit is in flight */
    bool starved;         /* being created, and there was no memory for what belongs to it */
    bool elsewhere;       /* another daemon owns it: timers and outbox rows are that one's */
    bool gone;            /* unlinked; freed when not busy and no jobs wait */
    struct cd_job *jobs, **jobs_tail;
    unsigned n_jobs;
    struct cd_log_entry *log;
    size_t n_log, log_bytes, log_cap;
    size_t stored_bytes;  /* of signals, since the process started */
    size_t n_unwritten;   /* signals in the log that are not with the store yet */
    size_t first_offer, first_answer; /* index + 1 into log; 0: not known */
    struct cd_seat seats[CD_MAX_PARTICIPANTS];
    struct cd_timer ring, max_age, unattended, infer, evict;
    bool flush_queued; /* signals wait for write-behind, or are being written */
    struct cd_live *flush_next; /* in the line of calls whose signals wait for their turn */
    int64_t touched_ms; /* monotonic, of the last request of a participant */
    void *mx;           /* the matrix module's own state, freed by its on_gone hook */
};

/** The state to judge by: cur, or born while it is being created. */
static inline const struct cd_call *cd_live_call(const struct cd_live *l)
{
    return l->cur ? l->cur : l->born;
}
static inline const char *cd_live_id(const struct cd_live *l)
{
    return l->id;
}

/** rc: CD_OK with live; CD_E_NOT_FOUND; CD_E_OVERLOADED when the store cannot be asked.
 * live is valid for the call of fn; it stays in memory at least until its call has ended. */
typedef void (*cd_live_fn)(void *arg, enum cd_rc rc, struct cd_live *live);
/** Find by our id: memory first (fn runs inside), then the store. */
void cd_live_find(struct cd_core *core, const char *call_id, cd_live_fn fn, void *arg);
/** Find by room and Matrix call id. */
void cd_live_find_mx(struct cd_core *core, const char *room_id, const char *mx_call_id, cd_live_fn fn,
                     void *arg);
struct cd_live *cd_live_get(struct cd_core *core, const char *call_id); /* memory only */
struct cd_live *cd_live_get_mx(struct cd_core *core, const char *room_id, const char *mx_call_id);
/** Iterate over the calls in memory; *pos starts at 0. */
struct cd_live *cd_live_next(struct cd_core *core, size_t *pos);
int cd_live_seat_of(const struct cd_live *l, const char *user); /* index or -1 */
/** Calls in memory that @p user takes part in, also those that ended lately.
 * @param n  set to their number. @return borrowed until the next call is created or leaves memory */
struct cd_live *const *cd_live_of_user(const struct cd_core *core, const char *user, size_t *n);

/* --- commands ------------------------------------------------------------------------------------ */

struct cd_result {
    enum cd_rc rc; /* CD_OK: done or unchanged */
    struct cd_err err;
    struct cd_live *live; /* NULL only when the call is unknown */
    bool moved;
    bool key_taken;       /* another daemon has answered a request with the same Idempotency-Key */
};
typedef void (*cd_cmd_fn)(void *arg, const struct cd_result *res);

/** INVALID_STATE with the state that stands in the way. */
enum cd_rc cd_fail_state(struct cd_err *err, const struct cd_call *c);

/** What rides along in the command's transaction. Everything is copied. */
struct cd_extra {
    const uint8_t *mx_hash;   /* event id hash of the Matrix event that is the command; NULL: none */
    struct cd_idem_row *idem; /* taken over; NULL: none */
};

/** Give a command to a call: decided when its turn comes, answered after COMMIT. fn may be NULL; it may
 * run inside this call. At most 64 commands of one call wait (then CD_E_OVERLOADED). */
void cd_submit(struct cd_core *core, struct cd_live *live, const struct cd_cmd *cmd,
               const struct cd_extra *extra, cd_cmd_fn fn, void *arg);

/** Create a call. @param born  taken over: id, room, caller, participants, times set; status ringing.
 * Registered at once (cd_live_get finds it), visible after COMMIT. CD_E_CALL_EXISTS: err.extra
 * names the live call. @return the live call, or NULL after fn was called with an error */
struct cd_live *cd_create(struct cd_core *core, struct cd_call *born, const struct cd_extra *extra,
                          cd_cmd_fn fn, void *arg);

/* --- signals ------------------------------------------------------------------------------------- */

enum cd_signal { CD_SIG_OFFER, CD_SIG_ANSWER, CD_SIG_CANDIDATE };

struct cd_sig {
    enum cd_signal kind;
    enum cd_source source;
    const char *from_user, *from_party;
    const char *to;        /* user or party; NULL: everyone else */
    struct cd_str members; /* JSON members without braces: "offer":{"type":..,"sdp":..} */
    bool silent;           /* logged and mirrored, not emitted: the SDP rides on another event */
    uint64_t seq;          /* != 0: number already taken by cd_take_seq() */
};
/** Relay a signal at once, log it, queue its write-behind, show it to the modules.
 * Authority (seat, side) is the caller's business. @return CD_OK and *out_seq, CD_E_INVALID_STATE for
 * a call that is over, CD_E_TOO_LARGE, CD_E_NO_MEMORY */
enum cd_rc cd_signal(struct cd_core *core, struct cd_live *live, const struct cd_sig *sig,
                     uint64_t *out_seq, struct cd_err *err);
uint64_t cd_take_seq(struct cd_live *live);

/* --- events of record: their payloads (records.c) ------------------------------------------------ */

/** Each appends the whole payload, a JSON object, of the event with that number. @p b is fresh. */
void cd_record_answered(struct cd_buf *b, const struct cd_live *l, uint64_t seq, const char *user);
void cd_record_connected(struct cd_buf *b, const struct cd_live *l, uint64_t seq);
void cd_record_final(struct cd_buf *b, const struct cd_live *l, uint64_t seq);
void cd_record_toggled(struct cd_buf *b, const struct cd_live *l, uint64_t seq, const char *user, bool on);
/** "{"callId":...,"seq":..." without its end, for payloads that have more. @param seq  0: none */
void cd_record_open(struct cd_buf *b, const struct cd_live *l, uint64_t seq);
/** Name of the event that ends a call of that final status. */
const char *cd_record_final_name(enum cd_status status);
/** Log a non-signal event of record under @p seq with its payload (copied). */
void cd_log_record(struct cd_live *live, uint64_t seq, const char *event, struct cd_str payload,
                   const char *from_user);

/* --- fan-out ------------------------------------------------------------------------------------- */

/** A client's socket, seen from above: user pointer of sock.h's callbacks. */
struct cd_client {
    struct cd_core *core;
    uint64_t sock_id;
    struct cd_principal *who;
    struct cd_client *next_of_user;
    struct cd_timer recheck, auth_grace;
    struct cd_rate_mark rate; /* of its events */
};
/** Every socket of @p user. @param except  a socket id to leave out, 0: none. @return sockets reached */
size_t cd_emit_user(struct cd_core *core, const char *user, const char *event, struct cd_str payload,
                    uint64_t except);
/** Every seated socket of the call. */
size_t cd_emit_call(struct cd_core *core, const struct cd_live *live, const char *event,
                    struct cd_str payload, uint64_t except);
bool cd_user_online(const struct cd_core *core, const char *user);
/** Sockets of one user, for the cap. */
size_t cd_user_sockets(const struct cd_core *core, const char *user);
/** The socket callbacks that keep the clients; self is the core (clients.c). */
extern const struct cd_sock_ops cd_client_ops;
/** A client proved its identity again (auth-refresh): same user, new token. */
void cd_client_renew(struct cd_client *c, struct cd_principal *who);
/** The homeserver refused this token: its sockets get auth-required and 60 s of grace. */
void cd_clients_refused(struct cd_core *core, const char *user, const struct cd_principal *p);

/* --- tokens --------------------------------------------------------------------------------------- */

/** Remember that this user acts in this call: its token is kept (sealed in the store, too) while the
 * call or its outbox needs it. */
void cd_tokens_hold(struct cd_core *core, struct cd_principal *who);
/** A usable token of that user, or NULL (borrowed). */
struct cd_principal *cd_tokens_of(struct cd_core *core, const char *user);
/** Call ended or outbox drained: let go of what nobody needs any more. */
void cd_tokens_release(struct cd_core *core, const char *user);
void cd_tokens_refused(struct cd_core *core, const char *user, struct cd_principal *p);
/** Start-up: fetch and open the sealed token of a user whose call or outbox rows came back. */
void cd_tokens_restore(struct cd_core *core, const char *user);
void cd_tokens_free(struct cd_core *core);
/** A newer token of that user came in: it replaces the held one, if one is held. */
void cd_tokens_renewed(struct cd_core *core, struct cd_principal *who);

/* --- the module interface ------------------------------------------------------------------------- */

/** A socket event. */
struct cd_sock_event {
    const char *name;
    void (*handle)(struct cd_core *core, struct cd_client *client, struct cd_str payload,
                   const struct cd_ack *ack);
    const char *help;
};

/** A feature: tables and callbacks. Each pointer may be NULL. Tables end in an all-zero row. */
struct cd_module {
    const char *name, *help;
    const struct cd_route *routes; /* self of the handlers is the core */
    const struct cd_sock_event *events;
    enum cd_rc (*start)(struct cd_core *core, struct cd_err *err);
    void (*stop)(struct cd_core *core);
    void (*reload)(struct cd_core *core);
    /** A transition is about to be written: add rows to @p change. prev is NULL for a new call. */
    void (*before_commit)(struct cd_core *core, struct cd_live *live, const struct cd_call *prev,
                          const struct cd_call *next, const struct cd_cmd *cmd, struct cd_change *change);
    /** It is durable; live->cur is the new state, @p prev (NULL: new) the one before. */
    void (*after_commit)(struct cd_core *core, struct cd_live *live, const struct cd_call *prev,
                         const struct cd_cmd *cmd, const struct cd_change *change);
    /** A signal was relayed. May add rows to the write-behind by cd_flush_add(). */
    void (*on_signal)(struct cd_core *core, struct cd_live *live, const struct cd_sig *sig, uint64_t seq);
    /** A client's socket was accepted, or is gone (it is freed afterwards). */
    void (*on_client)(struct cd_core *core, struct cd_client *client, bool connected);
    /** The call leaves memory. */
    void (*on_gone)(struct cd_core *core, struct cd_live *live);
    /** The call came back from the store with these outbox rows: at start, or from another daemon. One that
     * is live->elsewhere must not be acted for. */
    void (*on_restored)(struct cd_core *core, struct cd_live *live, const struct cd_outbox_row *rows,
                        size_t n);
    /** Another daemon wrote to the call; live->cur is the state it left.
     * @param prev  the one before; NULL: as it was
     * @param rows  all outbox rows of the call that are stored */
    void (*on_moved)(struct cd_core *core, struct cd_live *live, const struct cd_call *prev,
                     const struct cd_outbox_row *rows, size_t n);
    void (*metrics)(struct cd_core *core, struct cd_buf *out); /* Prometheus text */
};

/** Write outbox rows (taken over) outside a transition; they are sent after COMMIT.
 * @return CD_OK or CD_E_NO_MEMORY */
enum cd_rc cd_write_outbox(struct cd_core *core, struct cd_live *live, struct cd_outbox_row *rows, size_t n);

/** One metric without labels as Prometheus text. @param name  without the prefix "calld_"
 * @param type  "counter" or "gauge" */
void cd_metric(struct cd_buf *b, const char *name, const char *type, const char *help, double value);

/** Counters of the core, for metrics. */
struct cd_counts {
    uint64_t calls_created, transitions, refused, ignored, signals, signals_bytes, rate_limited;
    uint64_t final_by_status[CD_STATUS_COUNT];
};

struct cd_core {
    struct cd_loop *loop;
    struct cd_conf *conf;
    struct cd_http *http;
    struct cd_fetch_pool *fetch;
    struct cd_store *store;
    struct cd_auth_svc *auth;
    struct cd_rooms *rooms;
    struct cd_outbox *outbox;
    struct cd_appservice *as;
    struct cd_limit *starts, *room_starts; /* call starts an hour, by user and by room */
    struct cd_seal *seal;
    struct cd_map calls;    /* id -> cd_live */
    struct cd_map mx_calls; /* mx_key -> cd_live */
    struct cd_map by_user;  /* user id -> its calls: live.c */
    struct cd_map users;    /* user id -> first cd_client */
    struct cd_map tokens;   /* user id -> held token */
    struct cd_map events;   /* socket event name -> its row */
    struct cd_map idem;     /* Idempotency-Keys of requests being served: modules/calls */
    struct cd_counts counts;
    int64_t started_at;     /* wall ms */
    int64_t started_mono;
    struct cd_live *flush_first, *flush_last; /* signal.c: the line of write-behind */
    unsigned n_flushing;                      /* changes of signals that the store has */
    struct cd_timer resync; /* reading all calls of ours again, once more: nodes.c */
    bool relieving; /* a queue is about to be closed for want of memory */
    bool ready, draining, no_homeserver, persistent;
    bool dev; /* started as --dev */
};

extern const struct cd_module *const cd_modules[]; /* NULL-terminated: module_table.c */

/* --- rendering ------------------------------------------------------------------------------------ */

/** The call object of the API contract for @p viewer.
 * @param party_id  adds "partyId"; NULL: not. @param full  adds ICE servers and SDP (participants only,
 * while the call is not over) */
void cd_render_call(struct cd_buf *b, struct cd_core *core, const struct cd_live *live, const char *viewer,
                    const char *party_id, bool full);
/** The same of a state that is not committed yet: for the answer kept under an Idempotency-Key. */
void cd_render_state(struct cd_buf *b, struct cd_core *core, const struct cd_live *live,
                     const struct cd_call *c, const char *viewer, const char *party_id, bool full);
/** ,"iceServers":.. and the SDPs: what is never kept with an answer, for participants of a live call. */
void cd_render_private(struct cd_buf *b, struct cd_core *core, const struct cd_live *live, const char *viewer);
/** "iceServers":[..],"iceServersTtlSeconds":N,"iceTransportPolicy":".." for a user (modules/ice). */
void cd_render_ice(struct cd_buf *b, const struct cd_core *core, const char *user);

#endif

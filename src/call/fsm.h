/* fsm.h -- decides what a command does to a call. Pure: no I/O, no clock; time is an argument. */
#ifndef CD_CALL_FSM_H
#define CD_CALL_FSM_H

#include "base/err.h"
#include "call/call.h"

enum cd_ev {
#define CD_FSM(event, ringing, accepted, connected, final) CD_EV_##event,
#include "call/fsm.def"
#undef CD_FSM
    CD_EV_COUNT
};

/** Who speaks: decides whether a refusal is an answer (409) or a shrug. */
enum cd_source { CD_S_REST, CD_S_SOCKET, CD_S_MATRIX, CD_S_TIMER, CD_S_ADMIN };

/** One command. Strings are borrowed. */
struct cd_cmd {
    enum cd_ev ev;
    enum cd_source source;
    const char *user;      /* actor; NULL: the daemon */
    const char *client;    /* ANSWER: device, "socket:N", or a Matrix party; identifies the party */
    const char *party_id;  /* ANSWER: the party id of the seat, "" for a version 0 Matrix client */
    enum cd_reason reason; /* END, LEAVE, REJECT; CD_R_NONE: the default */
    int enabled;           /* TOGGLE_*: 0, 1, or -1: the other way */
    int mx_version;        /* of the Matrix event; 1 otherwise */
    int64_t now_ms;        /* wall clock */
};

enum cd_verdict {
    CD_V_MOVED,     /* next holds the new state */
    CD_V_SAME,      /* 200, unchanged */
    CD_V_REFUSED,   /* 409 for a command, ignored and counted otherwise */
    CD_V_FORBIDDEN, /* 403: not a member of this call, or not the one who may */
    CD_V_NO_MEMORY
};

struct cd_decision {
    enum cd_verdict verdict;
    struct cd_call *next;   /* CD_V_MOVED only: owned by the caller, version already raised */
    const char *event_type; /* literal for call_events */
};

/** Decide @p cmd on @p cur (not changed). The table is fsm.def; what it does not list changes nothing.
 * @see the transition table of the design, section 4 */
struct cd_decision cd_fsm_decide(const struct cd_call *cur, const struct cd_cmd *cmd);

const char *cd_ev_name(enum cd_ev ev);

#endif

/* state.h -- what the matrix module remembers of one call. Internal to modules/matrix. */
#ifndef CD_MATRIX_STATE_H
#define CD_MATRIX_STATE_H

#include "core.h"
#include "event.h"

#define CD_MX_PARTIES 4              /* answering parties whose early candidates are kept */
#define CD_MX_PARTY_BYTES 32768      /* of early candidates, each */
#define CD_MX_QUEUE_BYTES 49152      /* of candidates waiting to be sent, a side */

enum { CD_MX_CALLER, CD_MX_CALLEE, CD_MX_SIDES };

struct cd_mx;

/** One of our users in the call, as a sender into the room. */
struct cd_mx_side {
    struct cd_mx *mx;
    char *sdp;              /* latest description it gave; NULL: none */
    char *party;            /* made up for a reject of a user that never took a seat */
    struct cd_buf queue;    /* candidates waiting, comma-joined JSON objects */
    unsigned n_seen;        /* candidates taken so far */
    struct cd_timer flush;
    int64_t based_ms;       /* monotonic, when its invite or answer was written; 0: not yet */
    int64_t next_ms;        /* monotonic, of the next regular batch */
    bool relay_due;         /* a relay candidate waits: send at once */
    bool said_audio, said_video; /* what the room was last told of its switches */
};

/** Candidates of a Matrix party before it is the chosen one. */
struct cd_mx_early {
    char *party;
    struct cd_buf list; /* comma-joined JSON objects */
};

/** live->mx */
struct cd_mx {
    struct cd_live *live;
    struct cd_mx_side side[CD_MX_SIDES];
    bool invite_written, answer_written;
    bool refused;    /* the homeserver took no invite: nothing more of this call goes there */
    bool negotiates; /* the Matrix client has shown that it knows negotiate and stream metadata */
    bool unread;      /* a description found no memory: the log is read again by retry */
    unsigned rereads; /* so often was it */
    struct cd_timer retry; /* also of rows that could not be written while a commit was in flight */
    int64_t ord;
    struct cd_mx_early early[CD_MX_PARTIES];
    size_t n_early;
    unsigned n_heard[CD_MX_SIDES]; /* candidates taken from Matrix, by sender */
    struct cd_mx_waiting waiting;  /* events that came while a commit was in flight */
    struct cd_timer drain;
};

/** The call's state, made when missing. @return NULL out of memory */
struct cd_mx *cd_mx_of(struct cd_live *live);
/** Free it and stop its timers; live->mx becomes NULL. */
void cd_mx_drop(struct cd_live *live);
/** CD_MX_CALLER, CD_MX_CALLEE, or -1. */
int cd_mx_side_of(const struct cd_call *c, const char *user);
/** The participant on that side, or NULL. */
const struct cd_participant *cd_mx_participant(const struct cd_call *c, int side);
/** Is a Matrix client a party of this call, or may one still become it? */
bool cd_mx_has_counterpart(const struct cd_call *c);

#endif

/* call.h -- what a call is: the record, its vocabulary, its row. Pure data, no I/O. */
#ifndef CD_CALL_CALL_H
#define CD_CALL_CALL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/id.h"
#include "base/str.h"

enum cd_status {
    CD_RINGING,
    CD_ACCEPTED,
    CD_CONNECTED,
    CD_ENDED, /* from here on final */
    CD_DECLINED,
    CD_MISSED,
    CD_CANCELED,
    CD_FAILED,
    CD_STATUS_COUNT
};

enum cd_reason {
    CD_R_NONE,
    CD_R_USER_HANGUP,
    CD_R_USER_BUSY,
    CD_R_DECLINED,
    CD_R_CANCELED,
    CD_R_INVITE_TIMEOUT,
    CD_R_ICE_FAILED,
    CD_R_ICE_TIMEOUT,
    CD_R_USER_MEDIA_FAILED,
    CD_R_LEFT_ROOM,
    CD_R_PEER_LOST,
    CD_R_REPLACED,
    CD_R_MAX_DURATION,
    CD_R_KICKED,
    CD_R_SHUTDOWN,
    CD_R_UNKNOWN_ERROR,
    CD_REASON_COUNT
};

enum cd_type { CD_AUDIO, CD_VIDEO };
enum cd_kind { CD_DIRECT, CD_GROUP };
enum cd_media { CD_P2P, CD_MESH, CD_SFU };
enum cd_origin { CD_O_REST, CD_O_SOCKET, CD_O_MATRIX, CD_O_RTC };

enum cd_pstate {
    CD_P_INVITED,
    CD_P_RINGING,
    CD_P_JOINED,
    CD_P_RECONNECTING,
    CD_P_LEFT,
    CD_P_DECLINED,
    CD_P_MISSED,
    CD_P_BUSY
};

/** Where a participant's client is. */
enum cd_side {
    CD_SIDE_NONE,  /* not known yet: an invited user */
    CD_SIDE_OURS,  /* REST or socket */
    CD_SIDE_MATRIX /* an ordinary Matrix client */
};

/** matrixSignalling of the API contract. */
enum cd_mx_state {
    CD_MX_OFF,
    CD_MX_WAITING_FOR_OFFER,
    CD_MX_SENT,
    CD_MX_UNAVAILABLE_ENCRYPTED,
    CD_MX_UNAVAILABLE_NO_TOKEN,
    CD_MX_FAILED
};

#define CD_MAX_PARTICIPANTS 8
#define CD_MAX_ID 255 /* bytes of any id */

struct cd_participant {
    char *user_id;
    char *display_name; /* may be NULL */
    char *avatar_url;   /* may be NULL */
    char *party_id;     /* NULL until seated */
    char *device_id;    /* the client that took the seat: the token's device over REST, "socket:N"
                         * over a socket, the party id of a Matrix client; may be NULL */
    char *leave_reason; /* may be NULL */
    enum cd_pstate state;
    enum cd_side side;
    bool audio_enabled, video_enabled, screen_sharing;
    int64_t joined_at, left_at; /* wall ms, 0: not */
};

/** One call. Committed copies are immutable; a transition works on a clone. All strings are owned. */
struct cd_call {
    char id[CD_CALL_ID_LEN + 1];
    char *room_id;
    char *matrix_call_id; /* NULL unless a Matrix client started it */
    char *caller;
    char *callee; /* NULL: group */
    char *ended_by;
    enum cd_kind kind;
    enum cd_media media;
    enum cd_origin origin;
    enum cd_type type;
    enum cd_status status;
    enum cd_reason end_reason;
    enum cd_mx_state mx_state;
    int mx_version;          /* 0 or 1: what the Matrix counterpart speaks; 1 otherwise */
    bool foreign;            /* between two Matrix clients: a record; we never send for it */
    bool answer_provisional; /* a Matrix client called, we answered, select_answer not yet seen */
    bool invite_tried;       /* our invite was handed to the homeserver at least once */
    bool connected_inferred;
    int64_t initiated_at, accepted_at, connected_at, ended_at, ring_expires_at; /* wall ms, 0: not */
    unsigned ring_seconds;
    uint64_t version; /* rises with each committed transition; 0: not stored yet */
    uint64_t seq;     /* number of the last event of record or signal at the time of the copy */
    size_t n_participants;
    struct cd_participant participants[CD_MAX_PARTICIPANTS];
};

static inline bool cd_status_final(enum cd_status s)
{
    return s >= CD_ENDED;
}

/** Answered, and not over. */
static inline bool cd_call_is_active(const struct cd_call *c)
{
    return c->status == CD_ACCEPTED || c->status == CD_CONNECTED;
}

struct cd_call *cd_call_new(void);
/** Deep copy. @return NULL out of memory */
struct cd_call *cd_call_clone(const struct cd_call *c);
void cd_call_free(struct cd_call *c);
/** @return the participant of @p user, or NULL */
struct cd_participant *cd_call_participant(struct cd_call *c, const char *user);
const struct cd_participant *cd_call_participant_const(const struct cd_call *c, const char *user);
/** Add a participant. @return NULL: full or out of memory */
struct cd_participant *cd_call_add_participant(struct cd_call *c, const char *user);
/** Replace an owned string. @param s  copied; NULL clears. @return false out of memory */
bool cd_set_str(char **field, const char *s);
/** The call_id that stands in m.call.* events. */
const char *cd_call_mx_id(const struct cd_call *c);
/** Seconds from connectedAt, or acceptedAt, to endedAt; -1: not known. */
int64_t cd_call_duration_s(const struct cd_call *c);

const char *cd_status_name(enum cd_status s);
const char *cd_phase_name(enum cd_status s); /* ringing active ended rejected */
const char *cd_reason_name(enum cd_reason r); /* NULL for CD_R_NONE */
const char *cd_type_name(enum cd_type t);
const char *cd_kind_name(enum cd_kind k);
const char *cd_media_name(enum cd_media m);
const char *cd_origin_name(enum cd_origin o);
const char *cd_pstate_name(enum cd_pstate s);
const char *cd_side_name(enum cd_side s);
const char *cd_mx_state_name(enum cd_mx_state s);
/** Each returns -1 for an unknown name. */
int cd_status_parse(const char *name);
int cd_reason_parse(const char *name);
int cd_type_parse(const char *name);
int cd_kind_parse(const char *name);
int cd_media_parse(const char *name);
int cd_origin_parse(const char *name);
int cd_pstate_parse(const char *name);
int cd_side_parse(const char *name);
int cd_mx_state_parse(const char *name);

#endif

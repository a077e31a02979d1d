/* content.h -- the bodies of m.call.* events as we send them, and the vocabulary both ways. */
#ifndef CD_MATRIX_CONTENT_H
#define CD_MATRIX_CONTENT_H

#include <jansson.h>

#include "base/buf.h"
#include "call/call.h"

/** What stands in every body. Borrowed. */
struct cd_mxc_head {
    const char *call_id, *party_id;
};

/** What the sender has switched on, for sdp_stream_metadata. */
struct cd_mxc_media {
    bool audio, video;
};

/* Each returns the JSON text, which the caller frees, or NULL: errno is ENOMEM, or EMSGSIZE when it
 * would be larger than a Matrix event may be. Version is always the string "1". */

/** @param invitee  never NULL; @param lifetime_ms  remaining ring time */
char *cd_mxc_invite(const struct cd_mxc_head *h, struct cd_str sdp, const char *invitee,
                    int64_t lifetime_ms, const struct cd_mxc_media *media);
char *cd_mxc_answer(const struct cd_mxc_head *h, struct cd_str sdp,
                    const struct cd_mxc_media *media);
/** @param list  JSON objects of cd_mxc_candidate(), joined by commas */
char *cd_mxc_candidates(const struct cd_mxc_head *h, struct cd_str list);
char *cd_mxc_select_answer(const struct cd_mxc_head *h, const char *selected_party);
char *cd_mxc_reject(const struct cd_mxc_head *h, bool busy);
char *cd_mxc_hangup(const struct cd_mxc_head *h, enum cd_reason reason);
char *cd_mxc_negotiate(const struct cd_mxc_head *h, bool is_answer, struct cd_str sdp,
                       int64_t lifetime_ms, const struct cd_mxc_media *media);
/** @param sdp  the sender's latest description; NULL as well when it names no stream */
char *cd_mxc_metadata(const struct cd_mxc_head *h, struct cd_str sdp,
                      const struct cd_mxc_media *media);

/** One candidate of a client as Matrix clients take it: string sdpMid and integer sdpMLineIndex or
 * neither, no nulls. Appends nothing and returns false when it is no candidate. */
bool cd_mxc_candidate(struct cd_buf *b, const json_t *candidate);

/** The word for a hang-up (API contract, section 5). */
const char *cd_mxc_reason_out(enum cd_reason r);
/** A hang-up's word; missing and other spellings are user_hangup, unknown ones unknown_error. */
enum cd_reason cd_mxc_reason_in(const char *word);

#endif

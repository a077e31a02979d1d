/* sdp.h -- the little that we read of a session description: which media it sends, in which
 * streams. */
#ifndef CD_MATRIX_SDP_H
#define CD_MATRIX_SDP_H

#include <stdbool.h>
#include <stddef.h>

#include "base/str.h"

#define CD_SDP_STREAMS 4     /* streams remembered */
#define CD_SDP_STREAM_ID 128 /* longest stream id [bytes] */

struct cd_sdp_stream {
    char id[CD_SDP_STREAM_ID + 1];
    bool audio, video; /* tracks of that kind belong to it */
};

struct cd_sdp {
    bool audio, video; /* a section of that kind that is not rejected (port 0) */
    size_t n_streams;
    /* that the sender sends, in order of appearance */
    struct cd_sdp_stream streams[CD_SDP_STREAMS];
};

/** Scan a session description. Never fails: what is not understood is not there. Streams come from
 * `a=msid:<stream> <track>` of sections that send (RFC 8830), else from `a=ssrc:N msid:<stream>`.
 * @param sdp  any bytes; lines end in CRLF or LF */
void cd_sdp_scan(struct cd_str sdp, struct cd_sdp *out);

#endif

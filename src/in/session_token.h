/* session_token.h -- our own short-lived tokens: signed, so that neither homeserver nor database is asked. */
#ifndef CD_IN_SESSION_TOKEN_H
#define CD_IN_SESSION_TOKEN_H

#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/secret.h"

#define CD_SESSION_PREFIX "calld_"
#define CD_SESSION_SKEW_MS 60000 /* another daemon's clock may be so far ahead */

/** What a token carries. */
struct cd_session {
    char user_id[256], device_id[256]; /* device_id may be "" */
    int64_t issued_at, expires_at;     /* wall ms */
    uint8_t ref[16];                   /* names the Matrix token it was made from: cd_seal_name() */
};

/** Append the token. @return false when an id is too long or the buffer is full */
bool cd_session_write(const struct cd_seal *seal, const struct cd_session *s, struct cd_buf *out);
/** Read and judge a token. The signature is judged first, in constant time.
 * @return CD_OK; CD_E_UNKNOWN_TOKEN with a sentence. @p forged is set when nobody with our key made it */
enum cd_rc cd_session_read(const struct cd_seal *seal, struct cd_str token, int64_t now_ms, struct cd_session *out,
                           bool *forged, struct cd_err *err);

#endif

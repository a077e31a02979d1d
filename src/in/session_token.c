/* session_token.c -- writes and reads session tokens: "calld_" and base64url of a record and its signature.
 *
 * The record: version, issued, expires (big-endian ms), the reference to the Matrix token, the lengths and
 * texts of user and device. In: bytes that anybody may have made.  Out: who and until when, or a refusal.
 * Why a record and no JSON: there is one way to write it, and nothing to parse before it is trusted. */
#include "in/session_token.h"

#include <string.h>

#define RECORD_VERSION 1
#define REF_AT 17
#define TEXT_AT 33
#define RECORD_MAX (TEXT_AT + 2 * 256)

static void put_i64(uint8_t *at, int64_t v)
{
    for (int i = 0; i < 8; i++)
        at[i] = (uint8_t)((uint64_t)v >> (56 - 8 * i));
}

static int64_t get_i64(const uint8_t *at)
{
    uint64_t v = 0;

    for (int i = 0; i < 8; i++)
        v = v << 8 | at[i];
    return (int64_t)v;
}

/* A length and its bytes. @return false: longer than 255 */
static bool put_text(uint8_t *record, size_t *n, const char *text)
{
    size_t len = strlen(text);

    if (len > 255)
        return false;
    record[(*n)++] = (uint8_t)len;
    memcpy(record + *n, text, len);
    *n += len;
    return true;
}

static bool get_text(const uint8_t *record, size_t n, size_t *at, char out[256])
{
    size_t len;

    if (*at >= n || (len = record[*at]) > n - *at - 1)
        return false;
    memcpy(out, record + *at + 1, len);
    out[len] = '\0';
    *at += 1 + len;
    return memchr(out, '\0', len) == NULL;
}

bool cd_session_write(const struct cd_seal *seal, const struct cd_session *s, struct cd_buf *out)
{
    uint8_t record[RECORD_MAX + CD_SIGN_BYTES];
    char text[2 * sizeof(record)];
    size_t n = TEXT_AT;

    record[0] = RECORD_VERSION;
    put_i64(record + 1, s->issued_at);
    put_i64(record + 9, s->expires_at);
    memcpy(record + REF_AT, s->ref, sizeof(s->ref));
    if (!put_text(record, &n, s->user_id) || !put_text(record, &n, s->device_id))
        return false;
    cd_seal_sign(seal, record, n, record + n);
    cd_base64url(record, n + CD_SIGN_BYTES, text);
    cd_buf_adds(out, CD_SESSION_PREFIX);
    cd_buf_adds(out, text);
    cd_wipe(text, sizeof(text));
    return !out->failed;
}

static bool read_record(const uint8_t *record, size_t n, struct cd_session *out)
{
    size_t at = TEXT_AT;

    if (record[0] != RECORD_VERSION)
        return false;
    out->issued_at = get_i64(record + 1);
    out->expires_at = get_i64(record + 9);
    memcpy(out->ref, record + REF_AT, sizeof(out->ref));
    return get_text(record, n, &at, out->user_id) && get_text(record, n, &at, out->device_id) && at == n &&
           out->user_id[0] == '@';
}

enum cd_rc cd_session_read(const struct cd_seal *seal, struct cd_str token, int64_t now_ms, struct cd_session *out,
                           bool *forged, struct cd_err *err)
{
    uint8_t record[RECORD_MAX + CD_SIGN_BYTES];
    size_t prefix = strlen(CD_SESSION_PREFIX);
    long n = -1;

    if (cd_str_starts(token, CD_SESSION_PREFIX))
        n = cd_base64url_read((struct cd_str){token.p + prefix, token.n - prefix}, record, sizeof(record)) -
            CD_SIGN_BYTES;
    *forged = n < TEXT_AT || !cd_seal_signed(seal, record, (size_t)n, record + n) ||
              !read_record(record, (size_t)n, out);
    if (*forged)
        return cd_fail(err, CD_E_UNKNOWN_TOKEN,
                       "This is not a session token of this server, or its key was changed; ask for a new one.");
    if (now_ms >= out->expires_at)
        return cd_fail(err, CD_E_UNKNOWN_TOKEN, "This session token has expired; ask for a new one.");
    if (out->issued_at > now_ms + CD_SESSION_SKEW_MS)
        return cd_fail(err, CD_E_UNKNOWN_TOKEN,
                       "This session token is not valid yet; the clocks of the servers differ.");
    return CD_OK;
}

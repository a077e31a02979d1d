/* token.c -- fuzzes session tokens: what nobody signed is refused, what we signed reads as it was written, and a
 * record that only looks like one does no harm.
 * Input: a byte of choices, then the text of a token, the bytes of a record, or user and device ended by NUL. */
#include "in/session_token.h"

#include "fuzz.h"

#define NOW_MS 1700000000000

static struct cd_seal *seal;

static struct cd_str as_str(const struct cd_buf *b)
{
    return (struct cd_str){b->p, b->n};
}

/* Bytes of anybody: the key that signs is made anew in each process, so none of them can be ours. */
static void a_stranger(struct cd_str in)
{
    struct cd_session out;
    struct cd_err err;
    bool forged = false;
    char *copy = fuzz_text(in);

    MUST(cd_session_read(seal, (struct cd_str){copy, in.n}, NOW_MS, &out, &forged, &err) == CD_E_UNKNOWN_TOKEN);
    MUST(forged && err.text[0]);
    free(copy);
}

static enum cd_rc reread(const struct cd_buf *token, struct cd_session *out, bool *forged)
{
    struct cd_err err;

    return cd_session_read(seal, as_str(token), NOW_MS, out, forged, &err);
}

/* Another daemon with our key, perhaps a newer one: the record is signed, but what it holds is anything. */
static void a_signed_record(struct cd_str in)
{
    uint8_t record[1024];
    char text[2 * sizeof record];
    size_t n = in.n < sizeof record - CD_SIGN_BYTES ? in.n : sizeof record - CD_SIGN_BYTES;
    struct cd_session out;
    struct cd_buf token, again;
    bool forged;

    if (n)
        memcpy(record, in.p, n);
    cd_seal_sign(seal, record, n, record + n);
    cd_base64url(record, n + CD_SIGN_BYTES, text);
    cd_buf_init(&token, 4096);
    cd_buf_init(&again, 4096);
    cd_buf_adds(&token, CD_SESSION_PREFIX);
    cd_buf_adds(&token, text);
    if (reread(&token, &out, &forged) == CD_OK) {
        MUST(!forged && out.user_id[0] == '@' && out.expires_at > NOW_MS);
        MUST(cd_session_write(seal, &out, &again)); /* there is one way to write it */
        MUST(cd_str_eq(as_str(&token), as_str(&again)));
    }
    cd_buf_done(&token);
    cd_buf_done(&again);
}

static bool take_id(struct cd_str *in, char out[256])
{
    struct cd_str part = fuzz_part(in, '\0');

    if (part.n > 255)
        return false;
    if (part.n)
        memcpy(out, part.p, part.n);
    out[part.n] = '\0';
    return true;
}

static void our_own(struct cd_str in, unsigned bit)
{
    struct cd_session s = {.issued_at = NOW_MS - 1, .expires_at = NOW_MS + 1}, out;
    struct cd_buf token;
    bool forged;

    s.user_id[0] = '@';
    if (!take_id(&in, s.user_id) || !take_id(&in, s.device_id) || s.user_id[0] != '@')
        return;
    cd_buf_init(&token, 4096);
    MUST(cd_session_write(seal, &s, &token));
    MUST(reread(&token, &out, &forged) == CD_OK && !forged);
    MUST(strcmp(out.user_id, s.user_id) == 0 && strcmp(out.device_id, s.device_id) == 0);
    MUST(out.expires_at == s.expires_at && memcmp(out.ref, s.ref, sizeof s.ref) == 0);
    token.p[bit % token.n] ^= (char)(1u << (bit >> 4 & 7)); /* one bit of it turned over */
    MUST(reread(&token, &out, &forged) != CD_OK);
    cd_buf_done(&token);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct cd_str in = {(const char *)data, n};
    unsigned how = fuzz_byte(&in);

    if (!seal)
        MUST(cd_secret_init() == 0 && (seal = cd_seal_ephemeral()));
    if (how % 3 == 0)
        a_stranger(in);
    else if (how % 3 == 1)
        a_signed_record(in);
    else
        our_own(in, fuzz_byte(&in) * 7u + how);
    return 0;
}

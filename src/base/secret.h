/* secret.h -- everything cryptographic that is not TURN: the one door to libsodium. */
#ifndef CD_BASE_SECRET_H
#define CD_BASE_SECRET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/str.h"

/** Must run once before anything else here. @return 0, or -1 when libsodium does not start */
int cd_secret_init(void);
void cd_random(void *out, size_t n);
/** Constant-time comparison of strings of any lengths. */
bool cd_secret_equal(struct cd_str a, struct cd_str b);
/** Keyed hash with a key drawn at start: for cache keys of tokens, never stored. @p out 16 bytes */
void cd_secret_hash16(struct cd_str data, uint8_t out[16]);
/** Unkeyed BLAKE2b: for event ids and request bodies. @p out 16 bytes */
void cd_hash16(struct cd_str data, uint8_t out[16]);

/** Seals tokens for the database. */
struct cd_seal;
/** Load the 32-byte key file, or make it (mode 0600). @param path2  older key, may be NULL */
enum cd_rc cd_seal_open(const char *path, const char *path2, struct cd_seal **out,
                        struct cd_err *err) CD_MUST_CHECK;
/** A key of this process alone, for runs without a database. */
struct cd_seal *cd_seal_ephemeral(void);
void cd_seal_close(struct cd_seal *seal);
#define CD_SEAL_OVERHEAD 40 /* nonce and tag [bytes] */
/** @param out  n + CD_SEAL_OVERHEAD bytes */
void cd_seal_wrap(const struct cd_seal *seal, const void *p, size_t n, uint8_t *out);
/** @param out  n - CD_SEAL_OVERHEAD bytes. @return false when neither key opens it */
bool cd_seal_unwrap(const struct cd_seal *seal, const uint8_t *p, size_t n, void *out);
/** Keys of their own, derived from the seal's: what is signed or named with them says nothing about the
 * sealed tokens. Both keys are accepted while the seal's key is being changed. */
#define CD_SIGN_BYTES 32
void cd_seal_sign(const struct cd_seal *seal, const void *p, size_t n, uint8_t out[CD_SIGN_BYTES]);
/** Constant time. @return true when one of the keys made @p tag of these bytes */
bool cd_seal_signed(const struct cd_seal *seal, const void *p, size_t n, const uint8_t tag[CD_SIGN_BYTES]);
/** A keyed name for a secret, the same after each start. @p out 16 bytes */
void cd_seal_name(const struct cd_seal *seal, struct cd_str secret, uint8_t out[16]);
/** Is @p name what cd_seal_name() says, or said with the key before, of that secret? */
bool cd_seal_named(const struct cd_seal *seal, struct cd_str secret, const uint8_t name[16]);
/** base64url without padding. @param out  cd_base64url_size(n) bytes, NUL-terminated */
size_t cd_base64url_size(size_t n);
void cd_base64url(const void *p, size_t n, char *out);
/** Strict: no padding, no other characters, no stray bits. @return bytes written, -1: not that, or too long */
long cd_base64url_read(struct cd_str text, void *out, size_t out_size);
/** Overwrite before free. */
void cd_wipe(void *p, size_t n);

#endif

/* ice.h -- ICE servers and TURN credentials. */
#ifndef CD_ICE_ICE_H
#define CD_ICE_ICE_H

#include <stdint.h>

#include "base/err.h"
#include "core.h"

extern const struct cd_module cd_module_ice;

#define CD_TURN_PASSWORD 28 /* base64 of an HMAC-SHA1 */

struct cd_turn_cred {
    char username[16 + 1 + CD_MAX_ID + 1]; /* "<expiry>:<user id>" */
    char password[CD_TURN_PASSWORD + 1];
};

/** Derive a time-limited TURN credential for one user.
 * @param secret    coturn's static-auth-secret
 * @param user      full Matrix id, at most CD_MAX_ID bytes
 * @param expiry_s  when it ends [s since the epoch], passed in so that tests own the time
 * @return CD_OK, CD_E_INVALID_PARAM (id too long), CD_E_INTERNAL (OpenSSL)
 * @see draft-uberti-behave-turn-rest-00; Matrix Client-Server API, turnServer */
enum cd_rc cd_turn_mint(const char *secret, const char *user, int64_t expiry_s, struct cd_turn_cred *out);

#endif

/* turn.c -- time-limited TURN credentials: username is "<expiry>:<user>", password its HMAC-SHA1. */
#include <inttypes.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <string.h>

#include "ice.h"

enum cd_rc cd_turn_mint(const char *secret, const char *user, int64_t expiry_s, struct cd_turn_cred *out)
{
    unsigned char mac[EVP_MAX_MD_SIZE];
    struct cd_turn_cred c;
    unsigned mac_n = 0;
    int n = snprintf(c.username, sizeof(c.username), "%" PRId64 ":%s", expiry_s, user);

    if (n < 0 || (size_t)n >= sizeof(c.username))
        return CD_E_INVALID_PARAM;
    if (!HMAC(EVP_sha1(), secret, (int)strlen(secret), (const unsigned char *)c.username, (size_t)n, mac,
              &mac_n))
        return CD_E_INTERNAL;
    if (EVP_EncodeBlock((unsigned char *)c.password, mac, (int)mac_n) != CD_TURN_PASSWORD)
        return CD_E_INTERNAL;
    *out = c;
    return CD_OK;
}

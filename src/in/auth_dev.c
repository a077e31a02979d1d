/* auth_dev.c -- tokens of --dev: they name their user, and nobody is asked.
 * In: a token.  Out: a principal or a refusal.  Blocks: never. */
#include <stdio.h>
#include <string.h>

#include "in/auth_int.h"

#define PREFIX "dev_"
#define USER_MAX 255
#define DEVICE_MAX 64

struct cd_principal *cd_auth_dev_user(struct cd_str token, struct cd_err *err)
{
    char user[USER_MAX + 1], device[DEVICE_MAX + 1], text[USER_MAX + DEVICE_MAX + 16];
    struct cd_principal *p;
    const char *tilde;
    int name_n, n;

    if (token.n >= sizeof(text) || !cd_str_starts(token, PREFIX) || token.n == strlen(PREFIX) ||
        token.p[strlen(PREFIX)] == '~') {
        cd_fail(err, CD_E_UNKNOWN_TOKEN, "This server runs as --dev: its tokens are dev_NAME, for the user @NAME:dev.");
        return NULL;
    }
    memcpy(text, token.p, token.n);
    text[token.n] = '\0';
    tilde = strchr(text, '~');
    name_n = tilde ? (int)(tilde - text) : (int)token.n;
    n = snprintf(user, sizeof(user), "@%.*s:dev", name_n - (int)strlen(PREFIX), text + strlen(PREFIX));
    if (n >= (int)sizeof(user) || (tilde && strlen(tilde + 1) > DEVICE_MAX)) {
        cd_fail(err, CD_E_UNKNOWN_TOKEN, "This token names a user or device that is too long.");
        return NULL;
    }
    snprintf(device, sizeof(device), "%s", tilde && tilde[1] ? tilde + 1 : "DEV");
    p = cd_principal_new(user, device, text);
    if (!p)
        cd_fail(err, CD_E_NO_MEMORY, NULL);
    return p;
}

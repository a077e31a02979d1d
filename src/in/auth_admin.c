/* auth_admin.c -- principals, and the tokens that are judged here: the homeserver's, the
 * admin's, and what cannot be a user's.
 * In: settings.  Out: yes or no, in constant time.  Owns: copies of the tokens, wiped at the
 * end.
 * Blocks: reading the admin token file, at start and on SIGHUP. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/secret.h"
#include "in/auth_int.h"

#define TOKEN_MAX_BYTES 4096

/* --- principals --------------------------------------------------------------------------- */

struct cd_principal *cd_principal_new(const char *user_id, const char *device_id,
                                      const char *matrix_token)
{
    struct cd_principal *p = calloc(1, sizeof(*p));

    if (!p)
        return NULL;
    p->refs = 1;
    p->user_id = strdup(user_id);
    p->device_id = device_id ? strdup(device_id) : NULL;
    p->matrix_token = matrix_token ? strdup(matrix_token) : NULL;
    if (!p->user_id || (device_id && !p->device_id) || (matrix_token && !p->matrix_token)) {
        cd_principal_unref(p);
        return NULL;
    }
    return p;
}

struct cd_principal *cd_principal_ref(struct cd_principal *p)
{
    if (p)
        p->refs++;
    return p;
}

void cd_principal_unref(struct cd_principal *p)
{
    if (!p || --p->refs > 0)
        return;
    if (p->matrix_token)
        cd_wipe(p->matrix_token, strlen(p->matrix_token));
    free(p->matrix_token);
    free(p->user_id);
    free(p->device_id);
    free(p);
}

/* --- tokens that are known here ----------------------------------------------------------- */

static bool is_secret(const char *known, struct cd_str token)
{
    return known && *known && cd_secret_equal(cd_str_of(known), token);
}

bool cd_auth_is_hs(const struct cd_auth_svc *a, struct cd_str token)
{
    return is_secret(a->hs_token, token) || is_secret(a->hs_token_previous, token);
}

bool cd_auth_is_admin_token(const struct cd_auth_svc *a, struct cd_str token)
{
    return is_secret(a->admin_token, token);
}

bool cd_auth_is_admin_user(const struct cd_auth_svc *a, const char *user_id)
{
    const char *p = a->admin_users;
    size_t n = strlen(user_id);

    while (p && *p) {
        size_t len = strcspn(p, " ,\t\r\n");

        if (len == n && n > 0 && memcmp(p, user_id, n) == 0)
            return true;
        p += len;
        p += strspn(p, " ,\t\r\n");
    }
    return false;
}

static bool possible(struct cd_str token)
{
    if (token.n < 1 || token.n > TOKEN_MAX_BYTES)
        return false;
    for (size_t i = 0; i < token.n; i++) {
        unsigned char ch = (unsigned char)token.p[i];

        if (!((ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || (ch >= '0' && ch <= '9') ||
              (ch != '\0' && strchr("-._~+/=", ch))))
            return false;
    }
    return true;
}

enum cd_rc cd_auth_refuse_here(const struct cd_auth_svc *a, struct cd_str token, struct cd_err *err)
{
    if (!possible(token))
        return cd_fail(err, CD_E_UNKNOWN_TOKEN, "This cannot be an access token.");
    if (cd_auth_is_hs(a, token) ||
        (*a->as_token && cd_secret_equal(cd_str_of(a->as_token), token)))
        return cd_fail(err, CD_E_UNKNOWN_TOKEN, "This is not a user's token.");
    return CD_OK;
}

/* The first line of the file; NULL when there is none. */
static char *read_token_file(const char *path)
{
    char line[4100];
    struct cd_str token = {line, 0};
    char *copy = NULL;
    FILE *f = fopen(path, "re");

    if (!f) {
        cd_log(CD_LOG_WARN, "auth", "admin.token_unreadable", NULL,
               "%s cannot be read; the admin bearer is off", path);
        return NULL;
    }
    if (fgets(line, sizeof(line), f))
        token = cd_str_trim(cd_str_of(line));
    fclose(f);
    if (token.n >= 16)
        copy = strndup(token.p, token.n);
    else
        cd_log(CD_LOG_WARN, "auth", "admin.token_short", NULL,
               "%s needs one line of at least 16 characters; the admin bearer is off", path);
    cd_wipe(line, sizeof(line));
    return copy;
}

void cd_auth_set_admins(struct cd_auth_svc *a, const char *users, const char *token_file)
{
    free(a->admin_users);
    a->admin_users = users ? strdup(users) : NULL;
    if (a->admin_token)
        cd_wipe(a->admin_token, strlen(a->admin_token));
    free(a->admin_token);
    a->admin_token = token_file && *token_file ? read_token_file(token_file) : NULL;
    for (struct cd_auth_known *k = a->cache.newest; k; k = k->older) {
        if (k->principal)
            k->principal->admin = cd_auth_is_admin_user(a, k->principal->user_id);
    }
}

/* dev.c -- what --dev changes in the configuration, and what it refuses.
 *
 * In: the environment, the address. Out: another environment, findings, the warning.
 * Why by the environment: SIGHUP reads it again, and each value still goes through the one table.
 * Owns: the entries it makes, for the life of the process. Blocks: at start only. */
#include "dev.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"

#define MAX_ENTRY 4096
#define DEFAULT_LISTEN "127.0.0.1:3000"
#define SEAL "CALLD_MATRIX_SEAL_KEY_FILE" /* and ..._PREVIOUS */
#define SPOOL "CALLD_DATABASE_SPOOL_DIR="

/* Whatever the environment says. */
static const char *const forced[] = {
    "CALLD_MATRIX_HOMESERVER_URL=",
    "CALLD_MATRIX_SERVER_NAME=dev",
    "CALLD_SERVER_APPSERVICE_LISTEN=127.0.0.1:0", /* never opened; must not be in listen's way */
};

/* Unless the environment says otherwise: a developer may want to meet a limit. */
static const char *const defaults[] = {
    "CALLD_SERVER_CALL_TEST=yes",
    "CALLD_SERVER_CONTROL_SOCKET=",
    "CALLD_SERVER_ENVIRONMENT=dev",
    "CALLD_LIMITS_MAX_CONNECTIONS=65000",
    "CALLD_LIMITS_CONNECTIONS_PER_IP=0",
    "CALLD_LIMITS_SOCKETS_PER_USER=10000",
    "CALLD_LIMITS_FAILED_TOKENS_PER_MINUTE=0",
    "CALLD_LIMITS_STARTS_PER_HOUR=0",
    "CALLD_LIMITS_ROOM_STARTS_PER_HOUR=0",
    "CALLD_LIMITS_REQUESTS_PER_SECOND=0",
    "CALLD_LIMITS_USER_REQUESTS_PER_SECOND=0",
    "CALLD_LIMITS_EVENTS_PER_SECOND=0",
};

#define N(list) (sizeof(list) / sizeof((list)[0]))

/* Does this entry set the variable that `like` sets? */
static bool same_name(const char *entry, const char *like)
{
    size_t n = strcspn(like, "=");

    return strncmp(entry, like, n) == 0 && entry[n] == '=';
}

static bool is_set(char *const *env, const char *like)
{
    for (; *env; env++)
        if (same_name(*env, like))
            return true;
    return false;
}

static bool survives(const char *entry, const char *listen)
{
    bool matrix = strncmp(entry, "CALLD_MATRIX_", 13) == 0 && strncmp(entry, SEAL, sizeof(SEAL) - 1) != 0;

    if (matrix || (listen && same_name(entry, "CALLD_SERVER_LISTEN")))
        return false;
    for (size_t i = 0; i < N(forced); i++)
        if (same_name(entry, forced[i]))
            return false;
    return true;
}

/* A directory for each address, so that a restarted daemon finds its own again. */
static char *spool_entry(const char *listen)
{
    const char *tmp = getenv("TMPDIR");
    size_t n = strlen(listen);
    struct cd_buf b;

    cd_buf_init(&b, MAX_ENTRY);
    cd_buf_addf(&b, SPOOL "%s/matrix-calld-dev-%lu-", tmp && tmp[0] == '/' ? tmp : "/tmp",
                (unsigned long)geteuid());
    for (size_t i = 0; i < n; i++)
        cd_buf_addc(&b, strchr("0123456789.", listen[i]) ? listen[i] : '-');
    if (n >= 2 && strcmp(listen + n - 2, ":0") == 0)
        cd_buf_addf(&b, "-%ld", (long)getpid());
    return cd_buf_steal(&b, NULL);
}

static char *listen_entry(const char *listen)
{
    struct cd_buf b;

    cd_buf_init(&b, MAX_ENTRY);
    cd_buf_addf(&b, "CALLD_SERVER_LISTEN=%s", listen);
    return cd_buf_steal(&b, NULL);
}

char **cd_dev_environ(char *const *env, const char *listen)
{
    size_t n = 0, k = 0;
    char **out;

    while (env[n])
        n++;
    out = calloc(n + N(forced) + N(defaults) + 3, sizeof(*out));
    if (!out)
        return NULL;
    for (size_t i = 0; i < n; i++)
        if (survives(env[i], listen))
            out[k++] = env[i];
    for (size_t i = 0; i < N(forced); i++)
        if (!(out[k++] = strdup(forced[i])))
            return NULL;
    for (size_t i = 0; i < N(defaults); i++)
        if (!is_set(env, defaults[i]) && !(out[k++] = strdup(defaults[i])))
            return NULL;
    if (listen && !(out[k++] = listen_entry(listen)))
        return NULL;
    if (!is_set(env, SPOOL) && !(out[k++] = spool_entry(listen ? listen : DEFAULT_LISTEN)))
        return NULL;
    return out;
}

bool cd_dev_keeps_key(void)
{
    const char *file = getenv(SEAL);

    return file && *file;
}

/* Everybody who can connect can be any user, so only this machine may. */
static bool is_loopback(const char *address, size_t n)
{
    return (n > 4 && strncmp(address, "127.", 4) == 0) || (n > 6 && strncmp(address, "[::1]:", 6) == 0) ||
           (n > 5 && strncmp(address, "unix:", 5) == 0) || address[0] == '/';
}

/* Temporary directories are shared: nobody else may have made ours. */
static enum cd_rc check_spool(const char *path, struct cd_err *err)
{
    struct stat st;

    if (mkdir(path, 0700) == 0)
        return CD_OK;
    if (errno != EEXIST || lstat(path, &st) != 0)
        return cd_fail(err, CD_E_INVALID_PARAM, "cannot make the directory %.120s: %s", path, strerror(errno));
    if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 022))
        return cd_fail(err, CD_E_INVALID_PARAM, "%.120s must be a directory of yours that nobody else can write to;"
                                                " CALLD_DATABASE_SPOOL_DIR names another one", path);
    return CD_OK;
}

enum cd_rc cd_dev_check(const struct cd_conf *c, struct cd_err *err)
{
    for (const char *at = c->server.listen; *at;) {
        size_t n = strcspn(at, " ");

        if (!is_loopback(at, n))
            return cd_fail(err, CD_E_INVALID_PARAM,
                           "--dev listens on loopback only, such as 127.0.0.1:3000 or [::1]:3000, not on %.*s: "
                           "whoever reaches it can be any user", (int)(n < 80 ? n : 80), at);
        at += n + strspn(at + n, " ");
    }
    return c->database.url[0] ? check_spool(c->database.spool_dir, err) : CD_OK;
}

void cd_dev_banner(FILE *out, const struct cd_conf *c)
{
    fprintf(out,
            "*** matrix-calld --dev: FOR DEVELOPMENT AND LOAD TESTS ONLY ***\n"
            "*** Nobody is authenticated: the token dev_NAME is the user @NAME:dev.\n"
            "*** There is no homeserver: each user is joined to each room !...:dev.\n"
            "*** Rates and connection counts are lifted. It listens on loopback only.\n"
            "*** Calls are kept %s.\n",
            c->database.url[0] ? "in the database that DATABASE_URL names" : "in memory and end with the process");
    fflush(out);
}

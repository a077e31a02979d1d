/* dev.h -- matrix-calld --dev: a daemon without a homeserver, for load tests and client developers. */
#ifndef CD_DEV_H
#define CD_DEV_H

#include <stdio.h>

#include "conf.h"

/** Does the environment name a file for the key that signs session tokens? Else it ends with the process. */
bool cd_dev_keeps_key(void);
/** The environment that --dev is configured from: what is set, without what concerns a homeserver, and
 * with rates and connection counts lifted unless they are set.
 * @param env     the process's own, borrowed
 * @param listen  the argument of --listen; NULL: none
 * @return NULL-terminated, to be kept while the process lives; NULL: out of memory */
char **cd_dev_environ(char *const *env, const char *listen);
/** What --dev insists on: loopback addresses alone, a spool directory of the user's own.
 * @return CD_OK or CD_E_INVALID_PARAM with a text for the terminal */
enum cd_rc cd_dev_check(const struct cd_conf *c, struct cd_err *err) CD_MUST_CHECK;
/** Says loudly what it is. */
void cd_dev_banner(FILE *out, const struct cd_conf *c);

#endif

/* registration.h -- the application service's registration file: written for the homeserver's
 * admin, and read back by the daemon. */
#ifndef CD_REGISTRATION_H
#define CD_REGISTRATION_H

#include <stdio.h>

#include "base/err.h"

/** What the daemon needs of the file. Texts are owned; NULL when absent or null. */
struct cd_registration {
    char *id, *url, *as_token, *hs_token, *sender_localpart;
};

/** Read a registration file: the top-level `key: value` lines of YAML as people and generators
 * write them, with any quotes; everything nested is skipped.
 * @return CD_OK, or CD_E_INVALID_PARAM with file, line and what is wrong; id and both tokens are
 *         required */
enum cd_rc cd_registration_read(const char *path, struct cd_registration *out, struct cd_err *err);
void cd_registration_done(struct cd_registration *r);

enum cd_profile {
    CD_PROFILE_OBSERVE, /* sees all events, acts for nobody */
    CD_PROFILE_PUPPET   /* may act as each local user; gets no events */
};

struct cd_registration_conf {
    enum cd_profile profile;
    const char *server_name;
    const char *url; /* ignored for CD_PROFILE_PUPPET */
    const char *as_token, *hs_token;
};
/** Write the file's text. */
void cd_registration_print(FILE *out, const struct cd_registration_conf *conf);

/** `matrix-calld generate-registration`. @param argv  argv[0] is the command's name
 * @return the exit status: 0, 1 (could not write), 2 (usage) */
int cd_registration_main(int argc, char **argv);

#endif

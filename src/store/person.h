/* person.h -- what the database holds of one user: given out, or made nobody's. For the commands, not for the loop. */
#ifndef CD_STORE_PERSON_H
#define CD_STORE_PERSON_H

#include <stdio.h>

#include "base/err.h"

struct cd_person {
    const char *url, *schema; /* of the database */
    const char *user_id;
};

/** Write every row that names the user as one JSON object: a list for each table. Sealed tokens are counted among
 * devices, never written. Blocks.
 * @return CD_OK, or an error whose text says why */
enum cd_rc cd_person_export(const struct cd_person *p, FILE *out, struct cd_err *err);

/** Put a random pseudonym in the user's place where others share the row, delete the rows that are the
 * user's alone; all of it or nothing. A line for each table goes to @p out. Blocks.
 * @return CD_OK; CD_E_INVALID_STATE while the user is in a call that is not over; or another error */
enum cd_rc cd_person_erase(const struct cd_person *p, FILE *out, struct cd_err *err);

#endif

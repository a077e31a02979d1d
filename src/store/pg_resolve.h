/* pg_resolve.h -- a database URL as connection parameters whose host names are addresses already. */
#ifndef CD_STORE_PG_RESOLVE_H
#define CD_STORE_PG_RESOLVE_H

#include <stdbool.h>
#include <stddef.h>

#define CD_PG_PARAMS_MAX 72

/** NULL-terminated lists for PQconnectStartParams; the strings are owned. */
struct cd_pg_params {
    char *keys[CD_PG_PARAMS_MAX];
    char *values[CD_PG_PARAMS_MAX];
    size_t n;
};

struct cd_pg_target; /* a parsed URL */

/** @return NULL: not a URI or conninfo, or out of memory */
struct cd_pg_target *cd_pg_target_parse(const char *url);
void cd_pg_target_free(struct cd_pg_target *t);
/** Does it hold a host name that only the resolver knows? */
bool cd_pg_target_needs_dns(const struct cd_pg_target *t);
/** Look all names up. Blocks: call it off the loop. @return false: none has an address */
bool cd_pg_target_resolve(struct cd_pg_target *t);
/** Fill @p out, one entry an address.
 * @param turn  rotates the list, so that one silent address does not hide the others
 * @return false out of memory */
bool cd_pg_target_params(const struct cd_pg_target *t, const char *application, unsigned turn,
                         struct cd_pg_params *out);
void cd_pg_params_done(struct cd_pg_params *p);

#endif

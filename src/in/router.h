/* router.h -- which route a raw request path means. Pure. */
#ifndef CD_IN_ROUTER_H
#define CD_IN_ROUTER_H

#include "base/buf.h"
#include "in/http.h"

#define CD_PATH_SEGMENTS 16
#define CD_PATH_MAX 4096 /* bytes of a path */

struct cd_router;

/** What a path means. Parameters point into @c text. */
struct cd_match {
    const struct cd_route *route; /* NULL: see rc */
    void *self;
    unsigned param_n;
    const char *params[CD_PATH_PARAMS];
    char *text; /* decoded segments; freed by cd_match_done() */
};

struct cd_router *cd_router_new(void);
void cd_router_free(struct cd_router *r);
/** @param routes  borrowed; ends in an all-zero row. @return CD_OK; CD_E_INTERNAL: a row is not
 * well-formed, or the same method, path and role are there twice */
enum cd_rc cd_router_add(struct cd_router *r, const struct cd_route *routes, void *self);
/** Find the route: first the most specific shape of the path, whatever the method, then the method
 * among the rows of that shape. Literal segments beat parameters, parameters beat the rest; a
 * parameter is never empty; HEAD means GET where HEAD has no row.
 * @param path  raw: percent-encoded, without query
 * @return CD_OK; CD_E_UNRECOGNIZED: no such path for the role; CD_E_METHOD: none for the method;
 * CD_E_INVALID_PARAM: bad escape, %00 or bytes that are not UTF-8; CD_E_NO_MEMORY */
enum cd_rc cd_router_match(const struct cd_router *r, enum cd_role role, const char *method,
                           struct cd_str path, struct cd_match *out);
void cd_match_done(struct cd_match *m);
/** Append "GET, HEAD, OPTIONS, ..." for a path; nothing when the path is unknown. */
void cd_router_allow(const struct cd_router *r, enum cd_role role, struct cd_str path,
                     struct cd_buf *out);

#endif

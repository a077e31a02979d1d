/* fetch.h -- outgoing HTTP on the loop. libcurl lives in fetch.c. */
#ifndef CD_OUT_FETCH_H
#define CD_OUT_FETCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/str.h"

struct cd_loop;
struct cd_fetch_pool;

struct cd_fetch_req {
    const char *method; /* GET PUT POST */
    const char *url;    /* copied */
    const char *bearer; /* may be NULL; copied, wiped afterwards */
    struct cd_str body; /* JSON; copied */
    long timeout_ms;    /* 0: 15000 */
    size_t max_body;    /* cap of the answer [bytes], 0: 1 MiB */
};

struct cd_fetch_res {
    int status;           /* HTTP status, or 0: transport error */
    const char *error;    /* transport error text when status == 0 */
    bool too_large;       /* status == 0 because the answer passed max_body */
    bool unsent;          /* status == 0, and not a byte of the request had left */
    struct cd_str body;   /* borrowed for the callback */
    long retry_after_ms;  /* Retry-After header or retry_after_ms of the body, -1 when none */
};

typedef void (*cd_fetch_fn)(void *arg, const struct cd_fetch_res *res);

struct cd_fetch_pool *cd_fetch_new(struct cd_loop *loop);
void cd_fetch_free(struct cd_fetch_pool *pool); /* callbacks of open requests get status 0 */
/** Start. @return an id for cd_fetch_cancel, 0 when it could not start (callback not called) */
uint64_t cd_fetch(struct cd_fetch_pool *pool, const struct cd_fetch_req *req, cd_fetch_fn fn,
                  void *arg);
/** Did the last request that ended get an HTTP answer below 500? true before the first. */
bool cd_fetch_reachable(const struct cd_fetch_pool *pool);
void cd_fetch_cancel(struct cd_fetch_pool *pool, uint64_t id); /* callback not called */

#endif

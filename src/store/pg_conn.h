/* pg_conn.h -- one PostgreSQL connection that never blocks: resolves off the loop, connects, sets its
 * session up, stays in pipeline mode, and comes back by itself when it is lost. */
#ifndef CD_STORE_PG_CONN_H
#define CD_STORE_PG_CONN_H

#include <libpq-fe.h>
#include <stdbool.h>
#include <stdint.h>

struct cd_loop;
struct cd_pgconn;

/** What the owner is told. All on the loop; cd_pgconn_reset may be called from any of them. */
struct cd_pgconn_ops {
    void (*up)(void *self);   /* session set up, pipeline idle: prepare statements now */
    void (*down)(void *self); /* lost, or an attempt failed; the next attempt is under way */
    /** One result; PGRES_PIPELINE_SYNC ends what a Sync ended. Cleared by the caller. */
    void (*result)(void *self, const PGresult *res);
    /** Somebody said NOTIFY on a channel that was listened to. May be NULL. */
    void (*notified)(void *self, const char *channel, const char *payload);
};

struct cd_pgconn_conf {
    const char *url, *schema; /* borrowed for the call */
    const char *application;  /* application_name */
    bool read_only;           /* every transaction reads, and sees one snapshot */
};

/** @return NULL out of memory. Starts connecting at once */
struct cd_pgconn *cd_pgconn_new(struct cd_loop *loop, const struct cd_pgconn_conf *conf,
                                const struct cd_pgconn_ops *ops, void *self);
void cd_pgconn_free(struct cd_pgconn *c);
/** @return the connection to send on, NULL while it is not up */
PGconn *cd_pgconn_pq(const struct cd_pgconn *c);
/** Hand what was queued to the socket; the rest goes when it drains. */
void cd_pgconn_flush(struct cd_pgconn *c);
/** Give this connection up and make another. @param why  for the log, a literal */
void cd_pgconn_reset(struct cd_pgconn *c, const char *why);
/** The connection does its work: the next loss starts with short waits again. */
void cd_pgconn_settled(struct cd_pgconn *c);
/** Process id of the server's last backend for us, 0: none yet. */
int cd_pgconn_backend(const struct cd_pgconn *c);
uint64_t cd_pgconn_connects(const struct cd_pgconn *c);

#endif

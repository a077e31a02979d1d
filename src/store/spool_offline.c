/* spool_offline.c -- how a store that was opened without its database comes to it.
 * In: a tick, once a second. Out: pg_connect(), when the schema is what this daemon needs.
 * Why: the schema could not be looked at when the daemon started, and migrating blocks.
 * Owns: struct spool_migration, which the helper thread works on. Blocks: on the helper thread only. */
#include <stdlib.h>

#include "base/log.h"
#include "store/spool_priv.h"

/* What the helper thread works on; it outlives a store that is closed meanwhile. */
struct spool_migration {
    struct spool_store *store; /* NULL: closed */
    struct cd_migrate_conf conf;
    char *url, *schema;
    struct cd_err err;
    enum cd_rc rc;
};

static void migration_free(struct spool_migration *m)
{
    free(m->url);
    free(m->schema);
    free(m);
}

static void migrate(void *arg)
{
    struct spool_migration *m = arg;

    m->rc = cd_migrate(&m->conf, NULL, &m->err);
}

static void migrated(void *arg)
{
    struct spool_migration *m = arg;
    struct spool_store *s = m->store;

    if (s) {
        s->migration = NULL;
        if (m->rc == CD_OK) {
            s->offline = false;
            if (!pg_connect(pg_of(s->pg)))
                cd_log(CD_LOG_ERROR, "spool", "spool.no_memory", NULL, "no memory to connect");
        } else if (m->rc != CD_E_OVERLOADED) { /* it is there, and something has to be done about it */
            cd_log(CD_LOG_ERROR, "spool", "migrate.failed", NULL, "still without PostgreSQL: %s", m->err.text);
        }
    }
    migration_free(m);
}

void spool_offline_migrate(struct spool_store *s)
{
    struct spool_migration *m = calloc(1, sizeof *m);

    if (!m || !cd_dup(&m->url, s->url) || !cd_dup(&m->schema, s->schema)) {
        if (m)
            migration_free(m);
        return;
    }
    m->store = s;
    m->conf = s->conf.migrate;
    m->conf.url = m->url;
    m->conf.schema = m->schema;
    m->conf.connect_s = 5;
    if (cd_worker_run(s->loop, migrate, migrated, m) != 0)
        migration_free(m);
    else
        s->migration = m;
}

void spool_offline_leave(struct spool_store *s)
{
    if (s->migration)
        s->migration->store = NULL;
    s->migration = NULL;
}

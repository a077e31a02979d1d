/* store_away.h -- a store with a spool whose PostgreSQL stands behind a proxy that can refuse, reset and hang. */
#ifndef STORE_AWAY_H
#define STORE_AWAY_H

#include "store_kit.h"
#include "store_proxy.h"
#include "store_url.h"

#define CALLS 12

static struct proxy P;
static struct cd_call *memory[CALLS]; /* as the daemon has them: what was committed */

static inline void in_memory(void *arg, cd_spool_call_fn fn, void *fn_arg)
{
    (void)arg;
    for (size_t i = 0; i < CALLS; i++)
        if (memory[i] && memory[i]->version)
            fn(fn_arg, memory[i]);
}

static inline void forget(void)
{
    for (size_t i = 0; i < CALLS; i++) {
        cd_call_free(memory[i]);
        memory[i] = NULL;
    }
}

static inline struct cd_store_stats stats_of(const struct cd_store *s)
{
    struct cd_store_stats st;

    s->ops->stats(s, &st);
    return st;
}

static inline void until_spooling(const struct cd_store *s, bool yes)
{
    UNTIL(stats_of(s).spooling == yes);
}

static inline long long count(const char *from_where)
{
    char sql[512];

    snprintf(sql, sizeof sql, "SET search_path = %s; SELECT count(*) FROM %s", kit_schema, from_where);
    return kit_sql_int(sql);
}

/* @return NULL only when a check has failed */
static inline struct cd_store *open_through_proxy(void)
{
    if (!CHECK(proxy_init(&P, atoi(part_port))) || !CHECK(proxy_listen(&P)))
        return NULL;
    return kit_open_spool(url_at("127.0.0.1", P.port), false, 64, in_memory);
}

static inline void a_call_each(struct cd_store *s, const char *room, size_t from, size_t to)
{
    char name[64], txn[80];

    for (size_t i = from; i < to; i++) {
        struct cd_change *ch;

        snprintf(name, sizeof name, "%s%zu:x", room, i);
        snprintf(txn, sizeof txn, "%s-%zu", room, i);
        memory[i] = kit_call(name, "@a:x", "@b:x");
        ch = kit_change(memory[i], 0);
        kit_outbox(ch, txn, 0, 0, "{}");
        CHECK_INT(kit_put(s, ch), CD_STORE_OK);
    }
}

enum fault { REFUSED, RESET, HUNG };

static inline void strike(enum fault how)
{
    switch (how) {
    case REFUSED:
        proxy_refuse(&P);
        break;
    case RESET:
        P.swallow_new = true; /* it lets in, and says nothing */
        proxy_cut_all(&P);
        break;
    case HUNG:
        P.swallow_new = true;
        proxy_swallow(&P, true);
        break;
    }
}

static inline void heal(enum fault how)
{
    if (how != REFUSED)
        proxy_refuse(&P);
    CHECK(proxy_accept_again(&P));
}

#endif

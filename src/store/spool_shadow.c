/* spool_shadow.c -- what degraded mode knows: a memory store beside the spool.
 * In: the calls in memory when the database went away, what a former process spooled, what is spooled since.
 * Out: the verdicts that the database's constraints would give, and the calls that reads ask for.
 * Why: a record that PostgreSQL will refuse must be refused now, while somebody waits for the answer.
 * Owns: s->shadow, s->old. Blocks: no. */
#include <string.h>

#include "base/clock.h"
#include "store/spool_priv.h"

static struct mem_call *find(const struct spool_store *s, const char *call_id)
{
    return s->shadow && call_id ? cd_map_get(&s->shadow->calls, cd_str_of(call_id)) : NULL;
}

const struct cd_call *spool_shadow_call(const struct spool_store *s, const char *call_id)
{
    const struct mem_call *m = find(s, call_id);

    return m ? m->call : NULL;
}

/* --- calls that no database ever heard of ------------------------------------------------------- */

/* No other daemon can have claimed them. */
static void note_birth(struct spool_store *s, const struct cd_change *ch)
{
    struct mem_call *m = ch && ch->call && !ch->expect_version && !s->taking_back ? find(s, ch->call_id) : NULL;

    if (m)
        m->unshared = true;
}

bool spool_shadow_unshared(const struct spool_store *s, const char *call_id)
{
    const struct mem_call *m = find(s, call_id);

    return m && m->unshared;
}

void spool_shadow_shared(struct spool_store *s, const char *call_id)
{
    struct mem_call *m = find(s, call_id);

    if (m)
        m->unshared = false;
}

/* --- how it begins and ends --------------------------------------------------------------------- */

static void seed(void *arg, const struct cd_call *c)
{
    struct spool_store *s = arg;
    struct cd_change ch = {.call = c};

    memcpy(ch.call_id, c->id, sizeof ch.call_id);
    if (mem_apply(s->shadow, &ch) != CD_STORE_OK)
        s->unseeded = true;
}

bool spool_shadow_open(struct spool_store *s)
{
    struct cd_store *m = cd_store_mem_open(s->loop);

    s->shadow = m ? mem_of(m) : NULL;
    s->unseeded = false;
    return m != NULL;
}

bool spool_shadow_fill(struct spool_store *s, bool live)
{
    if (!s->shadow) {
        if (!spool_shadow_open(s))
            return false;
        spool_keys_lend(s);
    }
    if (live && s->conf.live)
        s->conf.live(s->conf.arg, seed, s);
    if (s->unseeded)
        spool_shadow_drop(s);
    return !s->unseeded;
}

void spool_shadow_close_old(struct spool_store *s)
{
    if (s->old)
        s->old->base.ops->close(&s->old->base);
    s->old = NULL;
}

void spool_shadow_drop(struct spool_store *s)
{
    spool_shadow_close_old(s);
    spool_keys_take_back(s);
    s->old = s->shadow;
    s->shadow = NULL;
}

/* --- what is spooled, and was ------------------------------------------------------------------- */

/* What an op other than a change means to degraded mode. */
static void apply_small(struct spool_store *s, struct pg_op *op)
{
    struct cd_store *m = &s->shadow->base;

    switch (op->kind) {
    case PG_OP_TRIED:
        m->ops->outbox_tried(m, op->key, op->number, NULL, NULL);
        break;
    case PG_OP_DONE:
        m->ops->outbox_done(m, op->key);
        break;
    case PG_OP_TOKEN_PUT:
        m->ops->token_put(m, op->key, op->device, op->data, op->n_data);
        break;
    case PG_OP_TOKEN_DEL:
        m->ops->token_del(m, op->key);
        break;
    case PG_OP_MEMBERS:
        m->ops->members_put(m, op->members, op->n_members);
        break;
    case PG_OP_CHANGE:
    case PG_OP_SEEN:
    case PG_OP_QUARANTINE:
    case PG_OP_PURGE:
    case PG_OP_FLUSH:
    case PG_OP_CLAIM:
    case PG_OP_PEERS:
    case PG_OP_LEAVE:
        break;
    }
}

void spool_shadow_found(void *self, const struct cd_spool_rec *rec)
{
    struct spool_store *s = self;
    struct pg_op *op = rec->op;
    struct cd_change *ch = op->change;
    const struct cd_call *c = ch ? spool_shadow_call(s, ch->call_id) : NULL;

    if (ch && ch->call && c && c->version >= ch->call->version)
        return; /* written twice, when a disk refused the first time */
    if (ch && !ch->call && !c && rec->row)
        seed(s, rec->row);
    if (op->kind == PG_OP_CHANGE && mem_apply(s->shadow, ch) != CD_STORE_OK)
        s->unseeded = true;
    else if (op->kind == PG_OP_SEEN)
        mem_hash_put(&s->shadow->seen, op->data);
    else
        apply_small(s, op);
}

enum cd_store_rc spool_shadow_judge(const struct spool_store *s, struct pg_op *op)
{
    if (op->kind == PG_OP_CHANGE)
        return mem_judge(s->shadow, op->change, op->live);
    if (op->kind == PG_OP_SEEN && mem_hash_has(&s->shadow->seen, op->data))
        return CD_STORE_DUPLICATE;
    return CD_STORE_OK;
}

/* What the op will need in memory; what was allocated is the caller's, also when it does not suffice. */
static bool plan_op(struct spool_store *s, const struct pg_op *op, struct mem_plan *plan, struct mem_hash **seen)
{
    if (op->kind == PG_OP_CHANGE)
        return mem_plan(s->shadow, op->change, plan);
    if (op->kind == PG_OP_SEEN)
        return mem_hash_plan(seen, op->data) && cd_map_reserve(&s->shadow->seen.map, 1) == 0;
    return true;
}

bool spool_shadow_keep(struct spool_store *s, enum spool_class cls, struct pg_op *op, const struct cd_buf *rec)
{
    struct mem_plan plan = {0};
    struct mem_hash *seen = NULL;
    const struct cd_idem_row *asked = op->change ? op->change->idem : NULL;
    struct cd_idem_row *idem = asked ? cd_idem_row_copy(asked) : NULL;

    if ((asked && !idem) || !plan_op(s, op, &plan, &seen) || !spool_log_add(s->log, cls, op, rec)) {
        mem_plan_drop(&plan);
        mem_hash_drop(seen);
        cd_idem_row_free(idem);
        return false;
    }
    if (op->kind == PG_OP_CHANGE) {
        mem_write(s->shadow, op->change, &plan);
        op->change->idem = idem; /* for the case that the disk refuses it */
    } else {
        apply_small(s, op);
    }
    note_birth(s, op->change);
    mem_hash_add(&s->shadow->seen, seen);
    return true;
}

/* --- what the disk refused ---------------------------------------------------------------------- */

struct taking_back {
    struct spool_store *store;
    const char *call_id;
};

static void seed_one(void *arg, const struct cd_call *c)
{
    const struct taking_back *t = arg;

    if (strcmp(c->id, t->call_id) == 0)
        seed(t->store, c);
}

/* The call as it is in memory, which has not moved. */
static void unlearn_call(struct spool_store *s, const struct cd_change *ch)
{
    struct mem_call *m = mem_find(s->shadow, ch->call_id);
    struct taking_back t = {s, ch->call_id};
    bool unshared = m && m->unshared;

    if (!m || !ch->call || m->call->version != ch->call->version)
        return;
    if (!ch->expect_version || m->ended)
        mem_forget(s->shadow, m);
    if (!ch->expect_version || !s->conf.live)
        return;
    s->conf.live(s->conf.arg, seed_one, &t);
    m = mem_find(s->shadow, ch->call_id);
    if (m)
        m->unshared = unshared;
}

void spool_shadow_unlearn(struct spool_store *s, const struct pg_op *op)
{
    const struct cd_change *ch = op->change;

    if (!s->shadow)
        return;
    if (op->kind == PG_OP_SEEN)
        mem_hash_del(&s->shadow->seen, op->data);
    if (op->kind != PG_OP_CHANGE)
        return;
    if (ch->idem)
        cd_keys_del(&s->shadow->keys, ch->idem->user_id, ch->idem->key);
    for (size_t i = 0; i < ch->n_events; i++)
        if (ch->events[i].has_mx_hash)
            mem_hash_del(&s->shadow->applied, ch->events[i].mx_hash);
    unlearn_call(s, ch);
}

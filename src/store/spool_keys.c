/* spool_keys.c -- which Idempotency-Keys were answered of late.
 * In: rows that the database has taken, and rows it was asked for. Out: what degraded mode starts with.
 * Why: clients repeat what they sent exactly when the database goes away, and then it cannot be asked.
 * State: keys and keys_timer of struct spool_store. Owns: the rows. Blocks: never. */
#include "store/spool_priv.h"

#include "base/clock.h"

/* Who got no answer asks again within seconds or a few minutes, so ten of these are enough; the caps are for
 * what a flood of large answers may take of the memory: 16384 are the starts of a busy minute. */
#define AGE_MS (10 * 60 * 1000)
#define ROWS_MAX 16384
#define BYTES_MAX (16u << 20)
#define LOOK_MS 60000

void spool_keys_init(struct spool_store *s)
{
    s->keys.max = (struct cd_keys_limits){ROWS_MAX, MEM_KEYS_A_USER, BYTES_MAX, AGE_MS};
}

static void watch_age(struct spool_store *s);

static void look(void *arg)
{
    struct spool_store *s = arg;

    cd_keys_age(&s->keys, cd_wall_ms());
    watch_age(s);
}

/* So that an idle daemon forgets them, too. Without memory for a timer the next row sees to it. */
static void watch_age(struct spool_store *s)
{
    if (s->keys.rows && !s->keys_timer.due_ms && cd_timer_set(s->loop, &s->keys_timer, LOOK_MS, look, s) < 0)
        return;
}

void spool_keys_kept(void *arg, struct cd_idem_row *row)
{
    struct spool_store *s = arg;

    cd_keys_put(s->shadow ? &s->shadow->keys : &s->keys, row, cd_wall_ms());
    watch_age(s);
}

void spool_keys_seen(struct spool_store *s, const struct cd_idem_row *row)
{
    const struct cd_keys *k = s->shadow ? &s->shadow->keys : &s->keys;
    struct cd_idem_row *copy;

    if (cd_keys_find(k, row->user_id, row->key, row->at))
        return;
    copy = cd_idem_row_copy(row);
    if (copy)
        spool_keys_kept(s, copy);
}

void spool_keys_lend(struct spool_store *s)
{
    cd_keys_move(&s->shadow->keys, &s->keys);
}

void spool_keys_take_back(struct spool_store *s)
{
    if (!s->shadow)
        return;
    cd_keys_move(&s->keys, &s->shadow->keys);
    watch_age(s);
}

void spool_keys_done(struct spool_store *s)
{
    cd_timer_cancel(s->loop, &s->keys_timer);
    cd_keys_done(&s->keys);
}

/* rate.c -- so many a second by key: one moment a key, moved on by each event (a virtual schedule).
 * In: keys and the time.  Out: 0 or milliseconds to wait.
 * Why beside limit.c: exact windows keep a time for each event, which for hundreds a second and
 * thousands of keys would be megabytes. Here a key costs one number, whatever the rate.
 * State: keys in order of use.  Owns: copies of the keys.  Blocks: never. */
#include "in/rate.h"

#include <stdlib.h>
#include <string.h>

#include "base/map.h"

struct entry {
    struct entry *newer, *older; /* by last use */
    struct cd_rate_mark mark;
    char key[];
};

struct cd_rate {
    struct cd_map map;
    unsigned max_keys;
    struct entry *newest, *oldest;
};

int64_t cd_rate_mark_take(struct cd_rate_mark *m, unsigned per_second, int64_t now_us)
{
    int64_t step, ahead;

    if (per_second == 0)
        return 0;
    step = 1000000 / per_second > 0 ? 1000000 / per_second : 1;
    if (m->due_us < now_us)
        m->due_us = now_us;
    ahead = m->due_us + step - now_us - (int64_t)CD_RATE_BURST_S * 1000000;
    if (ahead > 0)
        return (ahead + 999) / 1000;
    m->due_us += step;
    return 0;
}

static void unlink_entry(struct cd_rate *r, struct entry *e)
{
    if (e->newer)
        e->newer->older = e->older;
    else
        r->newest = e->older;
    if (e->older)
        e->older->newer = e->newer;
    else
        r->oldest = e->newer;
}

static void push_newest(struct cd_rate *r, struct entry *e)
{
    e->newer = NULL;
    e->older = r->newest;
    if (r->newest)
        r->newest->newer = e;
    else
        r->oldest = e;
    r->newest = e;
}

static void drop(struct cd_rate *r, struct entry *e)
{
    unlink_entry(r, e);
    cd_map_del(&r->map, cd_str_of(e->key));
    free(e);
}

static struct entry *touch(struct cd_rate *r, const char *key)
{
    struct entry *e = cd_map_get(&r->map, cd_str_of(key));
    size_t n = strlen(key);

    if (e) {
        if (e != r->newest) {
            unlink_entry(r, e);
            push_newest(r, e);
        }
        return e;
    }
    while (r->oldest && r->map.count >= r->max_keys)
        drop(r, r->oldest);
    e = calloc(1, sizeof(*e) + n + 1);
    if (!e)
        return NULL;
    memcpy(e->key, key, n + 1);
    if (cd_map_put(&r->map, cd_str_of(e->key), e) != 0) {
        free(e);
        return NULL;
    }
    push_newest(r, e);
    return e;
}

struct cd_rate *cd_rate_new(unsigned max_keys)
{
    struct cd_rate *r = calloc(1, sizeof(*r));

    if (!r)
        return NULL;
    r->max_keys = max_keys ? max_keys : 1;
    cd_map_init(&r->map);
    return r;
}

void cd_rate_free(struct cd_rate *r)
{
    if (!r)
        return;
    while (r->oldest)
        drop(r, r->oldest);
    cd_map_done(&r->map);
    free(r);
}

int64_t cd_rate_take(struct cd_rate *r, const char *key, unsigned per_second, int64_t now_us)
{
    struct entry *e = r && per_second ? touch(r, key) : NULL;

    return e ? cd_rate_mark_take(&e->mark, per_second, now_us) : 0;
}

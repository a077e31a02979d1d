/* spool_replay.c -- writes to the database what was spooled, in order.
 * In: chunks of the log. Out: ops of the PostgreSQL store, records done with.
 * Why it may be done twice: a process that dies in the middle leaves the files, and an op that was under
 * way when the database went away may be in. What is there already is recognised by the call's version or
 * by its transaction id. A record that cannot be written never stops the others.
 * State: a wave of records that touch different things; each is written, looked up when it was refused,
 * and written again as it fits. Owns: the wave. Blocks: never. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "call/fsm.h"
#include "store/spool_file.h"
#include "store/spool_priv.h"

#define WAVE_MAX 128
#define SUBJECTS 2048  /* slots of the set of what a wave touches; a power of two */
#define LAST_RECORDS 512 /* so few left: what is submitted waits for the end */
#define TRIES_MAX 4

enum item_state { IT_SENT, IT_DONE, IT_AGAIN, IT_DOWN };

struct item {
    struct spool_replay *replay;
    struct cd_spool_rec rec; /* its op belongs to the PostgreSQL store while it is sent */
    size_t at, n;            /* its bytes in the wave's copy */
    enum item_state state;
    enum cd_store_rc rc;
    char sqlstate[6];
    char rival[CD_CALL_ID_LEN + 1]; /* the call that stands in its place */
    unsigned tries;
};

struct spool_replay {
    struct spool_store *store; /* NULL: given up; freed with the last answer */
    uint8_t *bytes;
    size_t n_bytes;
    struct item item[WAVE_MAX];
    size_t n, open; /* items; of them not answered yet */
    size_t at;      /* the one that is being looked up */
    uint64_t subject[SUBJECTS];
};

static void replay_free(struct spool_replay *r)
{
    for (size_t i = 0; i < r->n; i++)
        cd_spool_rec_done(&r->item[i].rec);
    free(r->bytes);
    free(r);
}

void spool_replay_stop(struct spool_store *s)
{
    struct spool_replay *r = s->replay;

    s->replay = NULL;
    if (!r)
        return;
    r->store = NULL;
    if (r->open == 0)
        replay_free(r);
}

/* --- a wave ----------------------------------------------------------------------------------- */

/* @return false: it is in the set already; a wrong one costs a wave, no more */
static bool add_subject(struct spool_replay *r, const char *name)
{
    uint64_t h = 1469598103934665603u;
    size_t slot;

    for (const char *p = name; *p; p++)
        h = (h ^ (unsigned char)*p) * 1099511628211u;
    h |= 1;
    for (slot = h >> 32 & (SUBJECTS - 1); r->subject[slot]; slot = (slot + 1) & (SUBJECTS - 1))
        if (r->subject[slot] == h)
            return false;
    r->subject[slot] = h;
    return true;
}

/* Within a transaction rows have an order of their own: one wave must not touch a thing twice. */
static bool add_subjects(struct spool_replay *r, const struct pg_op *op)
{
    const struct cd_change *ch = op->change;

    if (!ch)
        return !op->key || op->kind == PG_OP_QUARANTINE || add_subject(r, op->key);
    if (!add_subject(r, ch->call_id))
        return false;
    for (size_t i = 0; i < ch->n_outbox; i++)
        if (!add_subject(r, ch->outbox[i].txn_id))
            return false;
    return true;
}

static void wave_done(struct spool_replay *r);

/* Its connection is well, and still it does not want this one: that will not change. */
static bool is_for_good(const struct item *it)
{
    static const char *const passing[] = {"08", "25", "28", "3D", "40", "42", "53", "55", "57", "58"};

    if (!it->sqlstate[0])
        return false;
    for (size_t i = 0; i < sizeof passing / sizeof passing[0]; i++)
        if (strncmp(it->sqlstate, passing[i], 2) == 0)
            return false;
    return true;
}

static void answered(struct item *it, enum cd_store_rc rc)
{
    struct spool_replay *r = it->replay;
    struct pg_op *op = it->rec.op;

    it->rc = rc;
    memcpy(it->sqlstate, op->failed ? op->sqlstate : "", op->failed ? sizeof it->sqlstate : 1);
    it->state = rc == CD_STORE_OK || (op->kind == PG_OP_SEEN && rc == CD_STORE_DUPLICATE) ||
                        (op->kind == PG_OP_TRIED && rc == CD_STORE_LOST_RACE) ? IT_DONE
                : rc == CD_STORE_DOWN && !is_for_good(it) ? IT_DOWN
                : rc == CD_STORE_FULL ? IT_DOWN
                                      : IT_AGAIN;
    it->rec.op = NULL; /* freed by the store after this */
    r->open--;
    if (!r->store && r->open == 0)
        replay_free(r);
    else if (r->store && r->open == 0)
        wave_done(r);
}

static void on_commit(void *arg, enum cd_store_rc rc, const char *live)
{
    struct item *it = arg;

    snprintf(it->rival, sizeof it->rival, "%s", rc == CD_STORE_CALL_EXISTS && live ? live : "");
    answered(it, rc);
}

static void on_done(void *arg, enum cd_store_rc rc)
{
    answered(arg, rc);
}

static void send(struct item *it)
{
    struct pg_op *op = it->rec.op;

    if (op->change)
        spool_shadow_shared(it->replay->store, op->change->call_id);
    op->arg = it;
    if (op->kind == PG_OP_CHANGE || op->kind == PG_OP_SEEN)
        op->commit_fn = on_commit;
    else
        op->done_fn = on_done;
    it->state = IT_SENT;
    it->replay->open++;
    pg_put(pg_of(it->replay->store->pg), op);
}

/* Checked when it was opened, or written by us: a disk that changes its mind. */
static void skip_damage(struct spool_store *s, const uint8_t *p, size_t damaged)
{
    cd_log(CD_LOG_ERROR, "spool", "spool.damaged", NULL,
           "%zu bytes cannot be read back; they are kept in the file rejected", damaged);
    spool_log_reject(s->log, p, damaged);
    s->rejected++;
    spool_log_advance(s->log, damaged, 0); /* nobody knows how many it was; the end of the segment settles it */
    spool_replay_stop(s);
    spool_replay_go(s);
}

void spool_replay_chunk(struct spool_store *s, const uint8_t *p, size_t n)
{
    struct spool_replay *r = s->replay;
    enum cd_spool_read read = CD_SPOOL_END;
    size_t at = 0, used = 0;

    if (!r)
        return; /* given up meanwhile */
    if (!p || !(r->bytes = malloc(n + 1))) {
        spool_leave(s, "the spool cannot be read");
        return;
    }
    memcpy(r->bytes, p, n);
    while (r->n < WAVE_MAX) {
        struct item *it = &r->item[r->n];

        read = cd_spool_rec_read(p + at, n - at, &it->rec, &used);
        if (read != CD_SPOOL_REC)
            break;
        if (!add_subjects(r, it->rec.op)) {
            cd_spool_rec_done(&it->rec);
            break;
        }
        *it = (struct item){.replay = r, .rec = it->rec, .at = at, .n = used};
        r->n++;
        at += used;
    }
    r->n_bytes = at;
    if (r->n == 0 && read == CD_SPOOL_STARVED) {
        spool_leave(s, "no memory for what was spooled");
        return;
    }
    if (r->n == 0) {
        skip_damage(s, p, read == CD_SPOOL_UNREAD ? used : spool_file_next(p, n, true));
        return;
    }
    r->open = 1; /* so that no answer ends the wave while it is being sent */
    for (size_t i = 0; i < r->n; i++)
        send(&r->item[i]);
    if (--r->open == 0)
        wave_done(r);
}

/* --- what the database did not want as it was --------------------------------------------------- */

static void look_on(struct spool_replay *r);

static void reject(struct item *it, const char *why)
{
    struct spool_store *s = it->replay->store;
    const struct cd_call *c = it->rec.row;

    cd_log(CD_LOG_ERROR, "spool", "spool.rejected", &(struct cd_log_ctx){.call_id = c ? c->id : NULL},
           "PostgreSQL does not take a record of the spool: %s%s%s; it is kept in database.spool_dir,"
           " file rejected", why,
           it->sqlstate[0] ? ", " : "", it->sqlstate);
    spool_log_reject(s->log, it->replay->bytes + it->at, it->n);
    s->rejected++;
    it->state = IT_DONE;
}

static bool decode(struct item *it)
{
    size_t used;

    cd_spool_rec_done(&it->rec);
    return cd_spool_rec_read(it->replay->bytes + it->at, it->n, &it->rec, &used) == CD_SPOOL_REC;
}

/* What may be there already under another name is left out; the call's own row is what counts. */
static void strip(struct cd_change *ch)
{
    for (size_t i = 0; i < ch->n_events; i++)
        ch->events[i].has_mx_hash = false;
    cd_idem_row_free(ch->idem);
    ch->idem = NULL;
}

/* @return true: it is in, or something newer is */
static bool is_in(const struct cd_stored_call *sc, const struct cd_change *ch)
{
    if (!sc)
        return false;
    if (!ch->call)
        return true; /* its call is over by now, or a transaction id or key is there: all of a change is, or nothing */
    return sc->call->version >= ch->call->version &&
           (cd_status_final(sc->call->status) || !cd_status_final(ch->call->status));
}

static const char *why_not(enum cd_store_rc rc)
{
    return rc == CD_STORE_CALL_EXISTS ? "another call is under way there"
           : rc == CD_STORE_REFUSED   ? "it cannot be stored"
           : rc == CD_STORE_DUPLICATE ? "its Matrix event was applied before"
           : rc == CD_STORE_LOST_RACE ? "another daemon's call stands in its place"
                                      : "an error that does not pass";
}

/* What has ended does not begin again: the rest of such a record is kept. @return false: out of memory */
static bool write_as_ended(struct item *it)
{
    const struct cd_cmd cmd = {.ev = CD_EV_DISPLACED, .source = CD_S_TIMER, .mx_version = 1,
                               .now_ms = cd_wall_ms()};
    struct cd_call *row = it->rec.row;
    struct cd_decision d = {0};

    if (cd_status_final(row->status))
        return true;
    d = cd_fsm_decide(row, &cmd);
    if (d.verdict != CD_V_MOVED)
        return false;
    d.next->version = row->version;
    it->rec.row = d.next;
    it->rec.op->change->call = d.next;
    it->rec.op->change->drop_signals = true;
    cd_call_free(row);
    return true;
}

/* Write the row over what is there, which is older or not the end that we told everybody of. */
static void fit(struct item *it, const struct cd_stored_call *sc)
{
    bool ended = sc && cd_status_final(sc->call->status);
    struct cd_change *ch = it->rec.op->change;
    struct cd_call *row;

    if (ended && !write_as_ended(it)) {
        it->state = IT_DOWN;
        return;
    }
    row = it->rec.row;

    strip(ch);
    if (!ch->call && row)
        ch->call = row;
    ch->expect_version = sc ? sc->call->version : 0;
    if (sc && row->version <= sc->call->version)
        row->version = sc->call->version + 1;
    send(it);
}

/* --- another call where it belongs ---------------------------------------------------------------
 * Two calls of the same people in one room: one was stored, the other one was begun while the database was
 * away, by a daemon that did not know of the first. If the first is ours, it was not in memory and nobody
 * attended it; its people are in the newer one. Otherwise somebody attends it elsewhere. Either way one of
 * them ends as calls end: for everybody, once, and in the room. */

/* @return false: given up meanwhile, and maybe freed */
static bool is_wanted(struct item *it)
{
    struct spool_replay *r = it->replay;

    r->open--;
    if (r->store)
        return true;
    if (r->open == 0)
        replay_free(r);
    return false;
}

static const struct cd_call *as_spooled(const struct item *it)
{
    const struct spool_store *s = it->replay->store;
    const struct cd_call *c = spool_shadow_call(s, it->rec.row->id);

    return c ? c : it->rec.row;
}

static void lose(struct item *it)
{
    struct spool_store *s = it->replay->store;
    const char *id = it->rec.row->id;

    if (!cd_status_final(as_spooled(it)->status)) {
        cd_log(CD_LOG_WARN, "spool", "spool.displaced", &(struct cd_log_ctx){.call_id = id},
               "it was begun without PostgreSQL, where call %s runs in its place: it ends", it->rival);
        s->displaced++;
        if (s->conf.displaced)
            s->conf.displaced(s->conf.arg, id);
    }
    if (write_as_ended(it))
        send(it);
    else
        it->state = IT_DOWN;
}

static void on_yielded(void *arg, bool ended)
{
    struct item *it = arg;

    if (!is_wanted(it))
        return;
    it->replay->store->yielding[0] = '\0';
    if (ended) {
        send(it);
        return;
    }
    it->state = IT_DOWN;
    wave_done(it->replay);
}

static bool gives_way(const struct item *it, const struct cd_stored_call *rival)
{
    return !rival->elsewhere && rival->call->initiated_at <= it->rec.row->initiated_at &&
           it->replay->store->conf.yield;
}

static void on_rival(void *arg, enum cd_store_rc rc, struct cd_stored_call *rival)
{
    struct item *it = arg;
    struct spool_store *s = it->replay->store;
    bool over;

    if (!is_wanted(it)) {
        cd_stored_call_free(rival);
        return;
    }
    over = cd_status_final(as_spooled(it)->status);
    if (rc != CD_STORE_OK) {
        it->state = IT_DOWN;
    } else if (!rival || cd_status_final(rival->call->status)) {
        send(it);
    } else if (!over && s->conf.ready) { /* who has to tell of an end has not begun */
        cd_stored_call_free(rival);
        spool_begin_without(s);
        return;
    } else if (!over && gives_way(it, rival)) {
        cd_log(CD_LOG_WARN, "spool", "spool.yields", &(struct cd_log_ctx){.call_id = rival->call->id},
               "call %s was begun in its place without PostgreSQL: it ends", it->rec.row->id);
        s->displaced++;
        snprintf(s->yielding, sizeof s->yielding, "%s", rival->call->id);
        it->replay->open++;
        s->conf.yield(s->conf.arg, rival, on_yielded, it);
        return;
    } else {
        lose(it);
    }
    cd_stored_call_free(rival);
    if (it->state == IT_DOWN)
        wave_done(it->replay);
}

static void meet_rival(struct item *it)
{
    struct cd_store *pg = it->replay->store->pg;
    struct cd_change *ch = it->rec.op->change;

    ch->call = it->rec.row; /* its own row is not there, whatever the record expects */
    ch->expect_version = 0;
    it->replay->open++;
    pg->ops->load_call(pg, it->rival, on_rival, it);
}

static void on_looked_up(void *arg, enum cd_store_rc rc, struct cd_stored_call *sc)
{
    struct item *it = arg;
    struct spool_replay *r = it->replay;

    if (!is_wanted(it)) {
        cd_stored_call_free(sc);
        return;
    }
    if (rc != CD_STORE_OK || !decode(it))
        it->state = IT_DOWN;
    else if (is_in(sc, it->rec.op->change))
        it->state = IT_DONE;
    else if (it->rec.row && !sc && it->rc == CD_STORE_CALL_EXISTS && it->tries++ < TRIES_MAX)
        meet_rival(it);
    else if (it->rec.row && !sc && it->rc == CD_STORE_CALL_EXISTS)
        lose(it);
    else if (it->rec.row && it->tries++ < TRIES_MAX)
        fit(it, sc);
    else
        reject(it, it->rec.row ? why_not(it->rc) : "its call is not there");
    cd_stored_call_free(sc);
    if (it->state == IT_DOWN)
        wave_done(r);
    else if (it->state == IT_DONE)
        look_on(r);
}

static void look_up(struct item *it)
{
    struct spool_replay *r = it->replay;
    struct cd_store *pg = r->store->pg;

    if (!decode(it)) {
        it->state = IT_DOWN; /* no memory now */
        wave_done(r);
        return;
    }
    if (!it->rec.op->change || it->rc == CD_STORE_REFUSED || it->rc == CD_STORE_DOWN) {
        reject(it, why_not(it->rc));
        look_on(r);
        return;
    }
    r->open++;
    pg->ops->load_call(pg, it->rec.op->change->call_id, on_looked_up, it);
}

/* One after the other: the exceptions. */
static void look_on(struct spool_replay *r)
{
    while (r->at < r->n && r->item[r->at].state == IT_DONE)
        r->at++;
    if (r->at < r->n)
        look_up(&r->item[r->at]);
    else
        wave_done(r);
}

/* Every record of the wave was answered, or one could not be. */
static void wave_done(struct spool_replay *r)
{
    struct spool_store *s = r->store;
    size_t n = r->n, bytes = r->n_bytes;
    bool all = true;

    for (size_t i = 0; i < n; i++) {
        if (r->item[i].state == IT_DOWN) {
            spool_leave(s, "it does not take what was spooled");
            return;
        }
        all &= r->item[i].state == IT_DONE;
    }
    if (!all) {
        look_on(r);
        return;
    }
    s->replayed += n;
    s->failures = 0;
    spool_replay_stop(s);
    spool_log_advance(s->log, bytes, n);
    spool_replay_go(s);
}

/* --- all of it -------------------------------------------------------------------------------- */

void spool_replay_go(struct spool_store *s)
{
    struct spool_log_stats st;

    if (s->replay)
        return;
    spool_log_stats(s->log, &st);
    if (st.records <= LAST_RECORDS)
        s->mode = SPOOL_LAST;
    if (st.records == 0) {
        if (!spool_log_busy(s->log))
            spool_return(s);
        return;
    }
    s->replay = calloc(1, sizeof *s->replay);
    if (!s->replay)
        return; /* the next tick tries again */
    s->replay->store = s;
    if (!spool_log_next(s->log)) {
        free(s->replay);
        s->replay = NULL;
    }
}

/* store.c -- fuzzes the memory store with commits in any order, in time and too late: what is
 * answered OK is what is read back, nothing else changes anything, each commit is answered once.
 * Input: operations of a byte each, with the bytes of calls and commands behind them. */
#include "calls.h"
#include "store/mem.h"

#define CALLS 4
#define DEFERRED 8

/* The loop: what it was asked to run. */
static struct {
    void (*fn)(void *arg);
    void *arg;
} deferred[DEFERRED];
static size_t n_deferred;

int cd_loop_defer(struct cd_loop *loop, void (*fn)(void *arg), void *arg)
{
    (void)loop;
    MUST(n_deferred < DEFERRED);
    deferred[n_deferred].fn = fn;
    deferred[n_deferred++].arg = arg;
    return 0;
}

/* Answers ask for a timer only when they cannot be deferred, which does not happen here. */
int cd_timer_set(struct cd_loop *loop, struct cd_timer *t, int64_t delay_ms, void (*fn)(void *arg),
                 void *arg)
{
    (void)loop;
    (void)t;
    (void)delay_ms;
    (void)fn;
    (void)arg;
    abort();
}

void cd_timer_cancel(struct cd_loop *loop, struct cd_timer *t)
{
    (void)loop;
    (void)t;
}

static void turn(void)
{
    while (n_deferred) {
        size_t n = n_deferred--;

        deferred[n - 1].fn(deferred[n - 1].arg);
    }
}

static struct cd_call *committed[CALLS]; /* as they must stand in the store; NULL: not inserted */
static uint64_t seq;

struct answer {
    unsigned times;
    enum cd_store_rc rc;
    char live[CD_CALL_ID_LEN + 1];
};

static void answered(void *arg, enum cd_store_rc rc, const char *live_call_id)
{
    struct answer *a = arg;

    a->times++;
    a->rc = rc;
    MUST((live_call_id != NULL) == (rc == CD_STORE_CALL_EXISTS));
    if (live_call_id)
        snprintf(a->live, sizeof a->live, "%s", live_call_id);
}

static void same_call(const struct cd_call *a, const struct cd_call *b)
{
    char *x = fuzz_describe(a), *y = fuzz_describe(b);

    MUST(!strcmp(x, y));
    free(x);
    free(y);
}

static void loaded(void *arg, enum cd_store_rc rc, struct cd_stored_call *sc)
{
    struct cd_call *want = *(struct cd_call **)arg;

    MUST(rc == CD_STORE_OK && (sc != NULL) == (want != NULL));
    if (sc)
        same_call(sc->call, want);
    for (size_t i = 1; sc && i < sc->n_events; i++)
        MUST(sc->events[i - 1].seq <= sc->events[i].seq);
    for (size_t i = 1; sc && i < sc->n_outbox; i++)
        MUST(sc->outbox[i - 1].rank <= sc->outbox[i].rank);
    cd_stored_call_free(sc);
}

static void loaded_live(void *arg, enum cd_store_rc rc, struct cd_stored_call **calls, size_t n)
{
    size_t live = 0, found = 0;

    MUST(rc == CD_STORE_OK);
    for (unsigned k = 0; k < CALLS; k++)
        live += committed[k] && !cd_status_final(committed[k]->status);
    for (size_t i = 0; i < n; i++) {
        found += !cd_status_final(calls[i]->call->status);
        MUST(!cd_status_final(calls[i]->call->status) || calls[i]->n_outbox);
        cd_stored_call_free(calls[i]);
    }
    free(calls);
    MUST(found == live && mem_of(arg)->n_live == live); /* the cap counts by n_live */
}

static void add_rows(struct cd_change *ch, unsigned how, const struct cd_cmd *cmd)
{
    seq++;
    MUST(cd_change_event(ch, seq, "moved", cmd ? cmd->user : NULL, how & 1 ? "{\"a\":1}" : NULL,
                         5));
    if (how & 2) {
        struct cd_outbox_row *o = cd_change_outbox(ch);
        char txn[32];

        snprintf(txn, sizeof txn, "t%u", how & 64 ? 0 : (unsigned)seq);
        memcpy(o->call_id, ch->call_id, sizeof o->call_id);
        o->rank = how & 4 ? 9 : (int)(how % 4);
        MUST(cd_set_str(&o->txn_id, txn) && cd_set_str(&o->room_id, "!one:x") &&
             cd_set_str(&o->user_id, "@a:x") && cd_set_str(&o->event_type, "m.call.invite") &&
             cd_set_str(&o->content, "{}"));
    }
    if (how & 8) {
        struct cd_signal_row *s = cd_change_signal(ch);

        s->seq = seq;
        MUST(cd_set_str(&s->kind, "webrtc-offer") && cd_set_str(&s->from_user, "@a:x") &&
             cd_set_str(&s->from_party, "p") && cd_set_str(&s->payload, "{}"));
    }
    ch->drop_untried_droppable = how & 16;
    ch->drop_untried_all = how & 32;
    ch->drop_signals = how & 128;
}

/* Commit @p next in place of version @p expect. Takes @p next over. */
static void commit(struct cd_store *s, unsigned k, struct cd_call *next, uint64_t expect,
                   unsigned how, const struct cd_cmd *cmd)
{
    struct cd_change *ch = cd_change_new(next->id);
    struct answer a = {0};
    bool in_time = expect == (committed[k] ? committed[k]->version : 0);

    MUST(ch);
    ch->call = next;
    ch->expect_version = expect;
    add_rows(ch, how, cmd);
    s->ops->commit(s, ch, answered, &a);
    MUST(a.times == 0); /* never inside the submitting call */
    turn();
    MUST(a.times == 1 && a.rc != CD_STORE_DUPLICATE && a.rc != CD_STORE_REFUSED);
    if (!in_time)
        MUST(a.rc == CD_STORE_LOST_RACE || a.rc == CD_STORE_CALL_EXISTS);
    if (in_time && expect && !(how & 64))
        MUST(a.rc == CD_STORE_OK);
    if (a.rc == CD_STORE_CALL_EXISTS) {
        bool there = false;

        for (unsigned i = 0; i < CALLS; i++)
            there = there || (committed[i] && !strcmp(committed[i]->id, a.live) &&
                              !cd_status_final(committed[i]->status) &&
                              !strcmp(committed[i]->room_id, next->room_id));
        MUST(there && expect == 0);
    }
    if (a.rc != CD_STORE_OK) {
        cd_call_free(next);
        return;
    }
    cd_call_free(committed[k]);
    committed[k] = next;
}

static void operation(struct cd_store *s, struct cd_str *in, int64_t now)
{
    unsigned op = fuzz_byte(in), k = op >> 2 & 3, how = fuzz_byte(in);
    struct cd_decision d = {0};
    struct cd_cmd cmd;

    switch (op & 3) {
    case 0:
        commit(s, k, fuzz_call(in, k), 0, how, NULL);
        break;
    case 1:
        cmd = fuzz_command(in, now);
        if (committed[k])
            d = cd_fsm_decide(committed[k], &cmd);
        if (d.next)
            commit(s, k, d.next, committed[k]->version + (op >> 4 & 1), how, &cmd);
        break;
    case 2:
        s->ops->load_live(s, loaded_live, s);
        turn();
        break;
    default:
        s->ops->outbox_done(s, how & 1 ? "t0" : "t1");
        if (committed[k] && committed[k]->matrix_call_id) {
            s->ops->load_by_matrix(s, committed[k]->room_id, committed[k]->matrix_call_id, loaded,
                                   &committed[k]);
            turn();
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct cd_str in = {(const char *)data, n};
    struct cd_store *s;
    char id[CD_CALL_ID_LEN + 1];

    if (n > 1500)
        return 0;
    s = cd_store_mem_open((struct cd_loop *)(void *)deferred);
    MUST(s);
    seq = 0;
    for (int64_t now = 1000; in.n; now += 100)
        operation(s, &in, now);
    for (unsigned k = 0; k < CALLS; k++) {
        snprintf(id, sizeof id, "z%032u", k);
        s->ops->load_call(s, id, loaded, &committed[k]);
        turn();
        cd_call_free(committed[k]);
        committed[k] = NULL;
    }
    s->ops->close(s);
    turn();
    return 0;
}

/* batch.c -- gathers our clients' candidates and writes them in batches.
 *
 * In: candidates, one by one. Out: m.call.candidates rows: the first 500 ms after the invite or
 * answer, later ones every 2 s, relay candidates at once. Why batched: homeservers let a user send
 * 0.2 events a second. State: a side's queue, capped in bytes and number. */
#include "batch.h"

#include "base/clock.h"
#include "content.h"
#include "rows.h"

#define FIRST_MS 500
#define EVERY_MS 2000
#define RELAY_MS 20  /* relay candidates come in bursts: one event for each burst */
#define BUSY_MS 100  /* a transition is being written: it may make the batch pointless */

static void flush(void *arg);

static void arm(struct cd_mx_side *s, int64_t delay_ms)
{
    int64_t due = cd_mono_ms() + delay_ms;

    if (s->flush.due_ms == 0 || s->flush.due_ms > due)
        cd_timer_set(s->mx->live->core->loop, &s->flush, delay_ms > 0 ? delay_ms : 1, flush, s);
}

static void schedule(struct cd_mx_side *s)
{
    if (!s->based_ms || s->queue.n == 0)
        return;
    arm(s, s->relay_due ? RELAY_MS : s->next_ms - cd_mono_ms());
}

static void flush(void *arg)
{
    struct cd_mx_side *s = arg;
    struct cd_mx *m = s->mx;
    struct cd_live *live = m->live;
    struct cd_mx_rows rows = {0};

    if (live->busy || !live->cur) {
        arm(s, BUSY_MS);
        return;
    }
    if (cd_mx_mirrors(live, live->cur) && cd_mx_has_counterpart(live->cur) && s->queue.n) {
        cd_mx_add_candidates(&rows, m, live->cur,
                             s == &m->side[CD_MX_CALLER] ? CD_MX_CALLER : CD_MX_CALLEE,
                             (struct cd_str){s->queue.p, s->queue.n});
        if (!cd_mx_rows_write(&rows, live)) {
            arm(s, BUSY_MS);
            return;
        }
    }
    cd_buf_reset(&s->queue);
    s->relay_due = false;
    s->next_ms = cd_mono_ms() + EVERY_MS;
}

void cd_mx_batch_base(struct cd_mx *m, int side)
{
    struct cd_mx_side *s = &m->side[side];

    s->based_ms = cd_mono_ms();
    s->next_ms = s->based_ms + FIRST_MS;
    schedule(s);
}

static void take_one(struct cd_mx *m, struct cd_mx_side *s, const json_t *candidate)
{
    const char *text = json_string_value(json_object_get(candidate, "candidate"));
    struct cd_buf one;

    if (s->n_seen >= (unsigned)m->live->core->conf->limits.candidates)
        return;
    cd_buf_init(&one, CD_MX_QUEUE_BYTES);
    if (s->queue.n)
        cd_buf_addc(&one, ',');
    if (!cd_mxc_candidate(&one, candidate) || one.failed || s->queue.n + one.n > CD_MX_QUEUE_BYTES) {
        cd_buf_done(&one);
        return;
    }
    s->n_seen++;
    cd_buf_add(&s->queue, one.p, one.n); /* whole, or not at all */
    s->queue.failed = false;
    cd_buf_done(&one);
    if (text && strstr(text, " typ relay"))
        s->relay_due = true;
}

/* An empty string, or null as browsers say it, ends the candidates. */
static void take_value(struct cd_mx *m, struct cd_mx_side *s, const json_t *value)
{
    json_t *end;

    if (json_is_object(value)) {
        take_one(m, s, value);
    } else if (json_is_null(value) || (json_is_string(value) && json_string_length(value) == 0)) {
        end = json_pack("{s:s}", "candidate", "");
        take_one(m, s, end);
        json_decref(end);
    }
}

void cd_mx_batch_take(struct cd_mx *m, int side, const json_t *members)
{
    struct cd_mx_side *s = &m->side[side];
    const json_t *list = json_object_get(members, "candidates");
    const json_t *single = json_object_get(members, "candidate");

    if (single)
        take_value(m, s, single);
    for (size_t i = 0; i < json_array_size(list); i++)
        take_value(m, s, json_array_get(list, i));
    schedule(s);
}

void cd_mx_batch_stop(struct cd_mx *m)
{
    for (size_t i = 0; i < CD_MX_SIDES; i++) {
        cd_timer_cancel(m->live->core->loop, &m->side[i].flush);
        cd_buf_reset(&m->side[i].queue);
        m->side[i].relay_due = false;
    }
}

/* outbox_send.c -- one attempt to send one event.
 * In: a row and its user's token.  Out: finished, or blocked until later.
 * Why: an attempt at an invite is noted in the store before it is made, so that after a crash
 * "never tried" can be told from "outcome unknown"; the same transaction id makes every
 * repetition harmless while the homeserver remembers it. It may not, after a restart: an event whose
 * outcome is unknown is looked for in the room first.
 * State: in the user's record.  Owns: a reference to the principal while it runs.  Blocks:
 * never. */
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/scan.h"
#include "base/secret.h"
#include "out/outbox_int.h"

#define SEND_TIMEOUT_MS 15000
#define SEND_TIMEOUT_MIN_MS 250
#define RATE_LIMIT_DEFAULT_MS 1000
#define ECHO_BYTES (4 * 1024 * 1024) /* thirty of the largest events */

/* Survives the outbox until the store has called back. */
struct cd_ob_mark {
    struct cd_outbox *outbox; /* NULL: gone meanwhile */
    struct cd_ob_user *user;
};

static int64_t jitter(int64_t up_to)
{
    uint32_t x;

    cd_random(&x, sizeof(x));
    return up_to > 0 ? (int64_t)x % up_to : 0;
}

/* --- the end of an attempt ---------------------------------------------------------------- */

static void attempt_over(struct cd_outbox *o, struct cd_ob_user *u)
{
    for (struct cd_ob_item *it = u->sending; it; it = it->batch)
        it->in_flight = false;
    u->sending->call->busy = false;
    u->sending = NULL;
    u->fetch = 0;
    cd_principal_unref(u->principal);
    u->principal = NULL;
    o->sending--;
    cd_ob_attempt_ends(o, u);
}

static void try_later(struct cd_outbox *o, struct cd_ob_item *it, int64_t wait_ms)
{
    it->user->blocked_until_ms = cd_mono_ms() + wait_ms;
    o->stats.retries++;
    if (it->dropped)
        cd_ob_finish(o, it, CD_SENT_EXPIRED, NULL);
}

static void back_off(struct cd_outbox *o, struct cd_ob_item *it)
{
    try_later(o, it, cd_ob_back_off_ms(it->user->failures++));
}

static void rate_limited(struct cd_outbox *o, struct cd_ob_item *it, long retry_after_ms)
{
    int64_t wait_ms = retry_after_ms > 0 ? retry_after_ms : RATE_LIMIT_DEFAULT_MS;

    o->stats.rate_limited++;
    it->user->failures = 0;
    try_later(o, it, wait_ms + jitter(200));
}

static void refused_token(struct cd_outbox *o, struct cd_ob_item *it, struct cd_principal *p)
{
    struct cd_ob_user *u = it->user;

    cd_secret_hash16(cd_str_of(p->matrix_token), u->refused);
    u->has_refused = true;
    if (it->dropped)
        cd_ob_finish(o, it, CD_SENT_NO_TOKEN, NULL);
    o->ops->token_refused(o->self, u->id, p);
}

static void sent(struct cd_outbox *o, struct cd_ob_item *it, struct cd_str body)
{
    char event_id[256];
    struct cd_str value;
    bool known = cd_json_is_object(body, 16) &&
                 cd_json_find(body, "event_id", &value) &&
                 cd_json_text(value, event_id, sizeof(event_id)) > 0;

    it->user->failures = 0;
    it->user->has_refused = false;
    cd_ob_finish(o, it, CD_SENT_OK, known ? event_id : NULL);
}

static void refused(struct cd_outbox *o, struct cd_ob_item *it, const struct cd_fetch_res *res)
{
    struct cd_log_ctx ctx = {.call_id = it->row.call_id, .user = it->row.user_id,
                             .room = it->row.room_id};
    char errcode[64] = "";
    struct cd_str value;

    if (cd_json_is_object(res->body, 16) &&
        cd_json_find(res->body, "errcode", &value))
        cd_json_text(value, errcode, sizeof(errcode));
    cd_log(CD_LOG_WARN, "outbox", "event.refused", &ctx, "%s: homeserver says %d %s",
           it->row.event_type, res->status, errcode);
    cd_ob_finish(o, it, CD_SENT_REFUSED, NULL);
}

static bool is_unclear(const struct cd_fetch_res *res)
{
    return res->status == 0 || res->status >= 500 || res->status == 408;
}

/* The attempt is over: what it leaves is judged afterwards. */
static void conclude(struct cd_outbox *o, struct cd_ob_user *u, const struct cd_fetch_res *res)
{
    struct cd_ob_call *call = u->sending->call;

    attempt_over(o, u);
    /* Before the row may go, and with it the call. */
    cd_ob_wake_call(o, call);
    cd_ob_wake(o, u);
    o->stats.homeserver_up = res->status > 0 && res->status < 500;
    cd_ob_judge(o, u, res);
}

static void on_answer(void *arg, const struct cd_fetch_res *res)
{
    struct cd_ob_user *u = arg;
    struct cd_outbox *o = u->outbox;
    struct cd_ob_item *it = u->sending;
    struct cd_principal *p = cd_principal_ref(u->principal);

    conclude(o, u, res);
    it->unknown = it->unknown || (is_unclear(res) && !res->unsent);
    if (res->status >= 200 && res->status < 300)
        sent(o, it, res->body);
    else if (it->forgotten)
        cd_ob_discard(o, it);
    else if (res->status == 401)
        refused_token(o, it, p);
    else if (res->status == 429)
        rate_limited(o, it, res->retry_after_ms);
    else if (is_unclear(res))
        back_off(o, it);
    else
        refused(o, it, res);
    cd_principal_unref(p);
}

/* --- the attempt -------------------------------------------------------------------------- */

static char *send_url(const struct cd_outbox *o, const struct cd_outbox_row *row)
{
    struct cd_buf b;

    cd_buf_init(&b, 8192);
    cd_buf_adds(&b, o->base);
    cd_buf_adds(&b, "/_matrix/client/v3/rooms/");
    cd_buf_add_segment(&b, cd_str_of(row->room_id));
    cd_buf_adds(&b, "/send/");
    cd_buf_add_segment(&b, cd_str_of(row->event_type));
    cd_buf_addc(&b, '/');
    cd_buf_add_segment(&b, cd_str_of(row->txn_id));
    return cd_buf_steal(&b, NULL);
}

static long timeout_ms(const struct cd_outbox_row *row)
{
    int64_t left = row->deadline > 0 ? row->deadline - cd_wall_ms() : SEND_TIMEOUT_MS;

    if (left > SEND_TIMEOUT_MS)
        left = SEND_TIMEOUT_MS;
    return (long)(left < SEND_TIMEOUT_MIN_MS ? SEND_TIMEOUT_MIN_MS : left);
}

static void put(struct cd_outbox *o, struct cd_ob_user *u)
{
    struct cd_ob_item *it = u->sending;
    char *url = send_url(o, &it->row);
    char *merged = it->batch ? cd_batch_merge(it) : NULL;
    struct cd_fetch_req req = {.method = "PUT", .url = url, .bearer = u->principal->matrix_token,
                               .body = cd_str_of(merged ? merged : it->row.content),
                               .timeout_ms = timeout_ms(&it->row), .max_body = 65536};
    struct cd_fetch_res failed = {.status = 0, .error = "not started", .retry_after_ms = -1,
                                  .unsent = true};

    u->fetch = url && (merged || !it->batch) ? cd_fetch(o->pool, &req, on_answer, u) : 0;
    free(url);
    free(merged);
    if (!u->fetch)
        on_answer(u, &failed);
}

static bool is_too_late(const struct cd_ob_item *it)
{
    return it->dropped || (it->row.deadline > 0 && it->row.deadline <= cd_wall_ms());
}

static void expire_unsent(struct cd_outbox *o, struct cd_ob_user *u)
{
    struct cd_ob_item *it = u->sending;

    attempt_over(o, u);
    cd_ob_wake_call(o, it->call);
    cd_ob_wake(o, u);
    cd_ob_finish(o, it, CD_SENT_EXPIRED, NULL);
}

static void on_marked(void *arg, enum cd_store_rc rc)
{
    struct cd_ob_mark *mark = arg;
    struct cd_outbox *o = mark->outbox;
    struct cd_ob_user *u = mark->user;

    free(mark);
    if (!o)
        return;
    u->mark = NULL;
    if (rc == CD_STORE_LOST_RACE && !u->sending->row.unwritten) { /* sent or taken back by another daemon */
        char call_id[CD_CALL_ID_LEN + 1];

        memcpy(call_id, u->sending->row.call_id, sizeof(call_id));
        attempt_over(o, u);
        cd_ob_wake(o, u);
        cd_outbox_forget(o, call_id);
        return;
    }
    /* Without its note the invite still has to ring: a store that is down must not stop calls. */
    if (rc != CD_STORE_OK)
        cd_log(CD_LOG_WARN, "outbox", "attempt.unnoted", NULL, "the store did not note an attempt");
    if (is_too_late(u->sending)) /* the note took that long */
        expire_unsent(o, u);
    else
        put(o, u);
}

static void on_noted(void *arg, enum cd_store_rc rc)
{
    (void)arg;
    (void)rc;
}

/* @return true: send when the store has called back */
static bool note_attempt(struct cd_outbox *o, struct cd_ob_item *it)
{
    const struct cd_store_ops *ops = o->store->ops;
    bool first = !it->row.tried;
    struct cd_ob_mark *mark = NULL;

    it->row.tried = true;
    it->row.attempts++;
    if (first && it->row.rank == 0)
        mark = malloc(sizeof(*mark));
    if (mark) {
        *mark = (struct cd_ob_mark){.outbox = o, .user = it->user};
        it->user->mark = mark;
    }
    if (first)
        o->ops->tried(o->self, &it->row);
    ops->outbox_tried(o->store, it->row.txn_id, it->row.attempts, mark ? on_marked : on_noted,
                      mark);
    return mark != NULL;
}

static void attempt(struct cd_outbox *o, struct cd_ob_user *u)
{
    bool wait = false;

    for (struct cd_ob_item *x = u->sending; x; x = x->batch)
        wait = note_attempt(o, x) || wait;
    if (!wait)
        put(o, u);
}

/* --- looking first ------------------------------------------------------------------------ */

static void found(struct cd_outbox *o, struct cd_ob_item *it, const struct cd_fetch_res *res)
{
    struct cd_log_ctx ctx = {.call_id = it->row.call_id, .user = it->row.user_id,
                             .room = it->row.room_id};

    o->stats.echoes_found++;
    cd_log(CD_LOG_INFO, "outbox", "echo.found", &ctx, "%s had arrived: not sent again",
           it->row.event_type);
    conclude(o, it->user, res);
    it->user->failures = 0;
    cd_ob_finish(o, it, CD_SENT_OK, NULL);
}

/* Whoever may not read, or asks a homeserver that cannot say, sends again: the transaction id is the
 * same, and a lost hang-up is worse than one too many. */
static void on_looked(void *arg, const struct cd_fetch_res *res)
{
    struct cd_ob_user *u = arg;
    struct cd_outbox *o = u->outbox;
    struct cd_ob_item *it = u->sending;

    u->fetch = 0;
    if (res->status == 401 || res->status == 429 || (is_unclear(res) && !res->too_large)) {
        on_answer(u, res);
    } else if (res->status == 200 && cd_ob_echo_in(it, res->body)) {
        found(o, it, res);
    } else if (it->forgotten) {
        conclude(o, u, res);
        cd_ob_discard(o, it);
    } else if (is_too_late(it)) {
        conclude(o, u, res);
        cd_ob_finish(o, it, CD_SENT_EXPIRED, NULL);
    } else {
        o->stats.echoes_missing++;
        attempt(o, u);
    }
}

static void look(struct cd_outbox *o, struct cd_ob_user *u)
{
    char *url = cd_ob_echo_url(o, &u->sending->row);
    struct cd_fetch_req req = {.method = "GET", .url = url, .bearer = u->principal->matrix_token,
                               .timeout_ms = timeout_ms(&u->sending->row), .max_body = ECHO_BYTES};
    struct cd_fetch_res failed = {.status = 0, .error = "not started", .retry_after_ms = -1,
                                  .unsent = true};

    u->fetch = url ? cd_fetch(o->pool, &req, on_looked, u) : 0;
    free(url);
    if (!u->fetch)
        on_looked(u, &failed);
}

void cd_ob_start(struct cd_outbox *o, struct cd_ob_item *it, struct cd_principal *p)
{
    struct cd_ob_user *u = it->user;

    cd_ob_gather(it, cd_wall_ms());
    for (struct cd_ob_item *x = it; x; x = x->batch)
        x->in_flight = true; /* before the owner hears of it: it may drop rows then */
    u->sending = it;
    u->principal = cd_principal_ref(p);
    it->call->busy = true;
    o->sending++;
    cd_ob_attempt_begins(o, u);
    if (it->unknown)
        look(o, u);
    else
        attempt(o, u);
}

void cd_ob_stop(struct cd_outbox *o, struct cd_ob_user *u)
{
    if (!u->sending)
        return;
    if (u->mark)
        u->mark->outbox = NULL;
    u->mark = NULL;
    cd_fetch_cancel(o->pool, u->fetch);
    attempt_over(o, u);
}

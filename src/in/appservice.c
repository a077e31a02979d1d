/* appservice.c -- what the homeserver calls: transactions, users, rooms, ping.
 *
 * In:     requests on the appservice listener, already authenticated with the hs_token.
 * Out:    one call of on_event for each new relevant event, in order; quarantined poison; the
 *         answer.
 * Why:    `200 {}` tells the homeserver to forget the events, so it is given only when what they
 *         led to is durable; everything else that could be said makes it send them again, forever.
 * State:  transactions in order of arrival, one of them being applied; hashes of recent event ids.
 * Owns:   its transactions; one outlives its request and the service while something holds it.
 * Blocks: never; large transactions are worked on in slices of 5 ms. */
#include "in/appservice.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/scan.h"
#include "base/secret.h"
#include "in/as_event.h"
#include "in/as_scan.h"
#include "in/as_seen.h"
#include "loop/loop.h"

#define SLICE_US 5000
#define ANSWER_MS 25000
#define WAITING_MAX 32       /* transactions behind the one being applied */
#define HOLDS_MAX 1024U      /* effects on their way to the store; more wait */
#define QUARANTINE_BYTES 65536

enum phase { PHASE_SCAN, PHASE_APPLY, PHASE_HOLD };

struct cd_txn {
    struct cd_appservice *as; /* NULL: the service is gone */
    struct cd_req *req;       /* NULL: answered */
    struct as_scan scan;
    enum phase phase;
    size_t next; /* item to apply */
    unsigned holds;
    enum cd_store_rc worst; /* of what was released */
    bool paused;            /* too many holds */
    bool inside;            /* within the request's handler */
    bool finished;          /* only while inside */
    uint8_t id_hash[16];
    struct cd_timer timer; /* the next slice */
    struct cd_txn *behind;
};

struct cd_appservice {
    struct cd_loop *loop;
    struct cd_store *store;
    struct cd_as_conf conf;
    struct cd_as_ops ops;
    void *self;
    struct as_seen *seen;
    struct cd_txn *first, *last; /* first: being applied */
    unsigned waiting;
    struct cd_as_stats stats;
};

static void run(struct cd_txn *t);

static void run_slice(void *arg)
{
    run(arg);
}

/* Go on soon, after others had their turn. */
static void go_on_later(struct cd_txn *t)
{
    if (cd_timer_set(t->as->loop, &t->timer, 0, run_slice, t) != 0)
        cd_log(CD_LOG_ERROR, "appservice", "txn.stuck", NULL, "out of memory for a timer");
}

/* --- the answer ---------------------------------------------------------------------------- */

static void answer(struct cd_txn *t, enum cd_rc rc, const char *text)
{
    struct cd_err err = {0};

    if (!t->req)
        return;
    if (rc == CD_OK) {
        cd_req_reply(t->req, 200, "application/json", CD_STR("{}"));
    } else {
        cd_fail(&err, rc, text ? "%s" : NULL, text);
        cd_req_fail(t->req, &err);
    }
    t->req = NULL;
}

static void free_txn(struct cd_txn *t)
{
    cd_as_scan_done(&t->scan);
    free(t);
}

/* Take it out of the line and let the next one start. */
static void leave_line(struct cd_txn *t)
{
    struct cd_appservice *as = t->as;
    struct cd_txn **link = &as->first;

    cd_timer_cancel(as->loop, &t->timer);
    as->last = NULL;
    while (*link) {
        if (*link == t)
            *link = t->behind;
        else {
            as->last = *link;
            link = &(*link)->behind;
        }
    }
    as->waiting--;
    if (as->first && as->first->phase == PHASE_SCAN && as->first->scan.at == 0)
        go_on_later(as->first);
}

/* Events whose effects were lost come again and must not be taken for known ones. */
static void forget_lost(struct cd_txn *t)
{
    for (size_t i = 0; i < t->scan.n_items; i++) {
        struct as_item *item = &t->scan.items[i];

        if (item->marked && item->held)
            cd_as_seen_del(t->as->seen, item->hash);
    }
}

static void finish(struct cd_txn *t, enum cd_rc rc, const char *text)
{
    if (rc == CD_OK && (t->worst == CD_STORE_DOWN || t->worst == CD_STORE_FULL)) {
        rc = CD_E_OVERLOADED;
        text = "The events could not be stored; send them again.";
    }
    if (t->as) {
        if (rc != CD_OK)
            forget_lost(t);
        leave_line(t);
    }
    answer(t, rc, text);
    if (t->inside)
        t->finished = true;
    else
        free_txn(t);
}

/* --- holds --------------------------------------------------------------------------------- */

void cd_txn_hold(struct cd_txn *txn)
{
    txn->holds++;
    if (txn->next > 0 && txn->phase == PHASE_APPLY)
        txn->scan.items[txn->next - 1].held = true;
}

static bool is_worse(enum cd_store_rc rc)
{
    return rc == CD_STORE_DOWN || rc == CD_STORE_FULL;
}

void cd_txn_release(struct cd_txn *txn, enum cd_store_rc rc)
{
    if (rc == CD_STORE_DUPLICATE && txn->as)
        txn->as->stats.duplicate_events++;
    if (is_worse(rc))
        txn->worst = rc;
    txn->holds--;
    if (txn->phase == PHASE_HOLD && txn->holds == 0) {
        finish(txn, CD_OK, NULL);
    } else if (txn->paused && txn->holds <= HOLDS_MAX / 2) {
        txn->paused = false;
        go_on_later(txn);
    }
}

bool cd_txn_ends_call(const struct cd_txn *txn, const char *room_id, const char *call_id)
{
    return cd_as_scan_ends(&txn->scan, txn->next > 0 ? txn->next - 1 : 0, room_id, call_id);
}

/* --- applying ------------------------------------------------------------------------------ */

/* A quarantine that fails is only logged: poison must never stop what comes behind it. */
static void on_quarantined(void *arg, enum cd_store_rc rc)
{
    if (rc != CD_STORE_OK)
        cd_log(CD_LOG_WARN, "appservice", "quarantine.failed", NULL, "a broken event was not kept");
    cd_txn_release(arg, CD_STORE_OK);
}

static void quarantine(struct cd_txn *t, struct as_item *item, struct cd_str raw, const char *why)
{
    struct cd_appservice *as = t->as;

    cd_hash16(raw, item->hash);
    if (!cd_as_seen_add(as->seen, item->hash))
        return; /* kept before */
    item->marked = true;
    as->stats.quarantined++;
    cd_log(CD_LOG_WARN, "appservice", "event.quarantined", NULL, "event of %zu bytes: %s", raw.n,
           why);
    if (raw.n > QUARANTINE_BYTES)
        raw.n = QUARANTINE_BYTES;
    t->holds++;
    as->store->ops->quarantine(as->store, why, raw, on_quarantined, t);
}

/* An event that there is no memory for, and what follows it, must come again. */
static void starve(struct cd_txn *t, struct as_item *item)
{
    item->held = true;
    t->worst = CD_STORE_FULL;
    t->scan.n_items = t->next;
}

static void apply_event(struct cd_txn *t, struct as_item *item, struct cd_str raw)
{
    struct cd_appservice *as = t->as;
    struct as_event e;
    const char *why = NULL;
    enum as_verdict v = cd_as_event_head(&e, raw, as->conf.max_event_bytes, cd_wall_ms(), &why);

    as->stats.relevant++;
    if (v == AS_GOOD && as->ops.wants && !as->ops.wants(as->self, &e.ev, e.raw_content))
        return;
    if (v == AS_GOOD) {
        memcpy(item->hash, e.ev.hash, sizeof item->hash);
        if (!cd_as_seen_add(as->seen, item->hash)) {
            as->stats.duplicate_events++;
            return;
        }
        item->marked = true;
        v = cd_as_event_content(&e, &why);
    }
    if (v == AS_BROKEN)
        quarantine(t, item, raw, why);
    else if (v == AS_STARVED)
        starve(t, item);
    else if (v == AS_GOOD)
        as->ops.on_event(as->self, t, &e.ev);
    cd_as_event_done(&e);
}

static void apply_next(struct cd_txn *t)
{
    struct as_item *item = &t->scan.items[t->next++];
    struct cd_str raw = {t->scan.body.p + item->at, item->n};

    if (item->kind == AS_POISON)
        quarantine(t, item, raw, "not a JSON object");
    else
        apply_event(t, item, raw);
}

/* @return false: to be continued */
static bool apply(struct cd_txn *t, int64_t until_us)
{
    while (t->next < t->scan.n_items) {
        if (t->holds > HOLDS_MAX) {
            t->paused = true;
            return false;
        }
        apply_next(t);
        if (cd_mono_us() >= until_us && t->next < t->scan.n_items) {
            go_on_later(t);
            return false;
        }
    }
    return true;
}

static void note_scanned(struct cd_txn *t)
{
    struct cd_as_stats *stats = &t->as->stats;
    int64_t now = cd_wall_ms();

    stats->transactions++;
    stats->events += t->scan.n_events;
    stats->last_txn_at = now;
    if (t->scan.last_event_ts > 0)
        stats->last_lag_ms = now > t->scan.last_event_ts ? now - t->scan.last_event_ts : 0;
}

/* @return true: everything is known and can be applied */
static bool scan(struct cd_txn *t, int64_t until_us)
{
    switch (cd_as_scan_step(&t->scan, until_us)) {
    case AS_MORE:
        go_on_later(t);
        return false;
    case AS_DONE:
        note_scanned(t);
        return true;
    case AS_BAD_JSON:
        finish(t, CD_E_BAD_JSON, "A transaction is an object with an array `events`.");
        return false;
    case AS_NO_MEMORY:
        finish(t, CD_E_NO_MEMORY, NULL);
        return false;
    case AS_NOT_JSON:
        break;
    }
    finish(t, CD_E_NOT_JSON, NULL);
    return false;
}

/* One slice of work. May free t. */
static void run(struct cd_txn *t)
{
    int64_t until_us = cd_mono_us() + SLICE_US;

    if (t->phase == PHASE_SCAN) {
        if (!scan(t, until_us))
            return;
        t->phase = PHASE_APPLY;
    }
    if (t->phase == PHASE_APPLY) {
        if (!apply(t, until_us))
            return;
        t->phase = PHASE_HOLD;
        if (t->holds == 0)
            finish(t, CD_OK, NULL);
    }
}

/* --- routes -------------------------------------------------------------------------------- */

/* The answer was due: the body goes away with the request, so what was not applied waits for the
 * homeserver to send it again; what was applied keeps its holds. */
static void on_timeout(void *arg)
{
    struct cd_txn *t = arg;

    t->req = NULL;
    t->scan.n_items = t->next; /* the rest is not applied */
    if (t->phase == PHASE_HOLD)
        return;
    cd_timer_cancel(t->as->loop, &t->timer);
    t->paused = false;
    t->phase = PHASE_HOLD;
    if (t->holds == 0)
        finish(t, CD_E_OVERLOADED, NULL);
}

static bool same_id_waits(const struct cd_appservice *as, const uint8_t hash[16])
{
    for (const struct cd_txn *t = as->first; t; t = t->behind) {
        if (memcmp(t->id_hash, hash, 16) == 0)
            return true;
    }
    return false;
}

static struct cd_txn *enqueue(struct cd_appservice *as, struct cd_req *req)
{
    struct cd_txn *t = calloc(1, sizeof *t);

    if (!t)
        return NULL;
    t->as = as;
    t->req = req;
    t->scan.body = cd_req_body(req);
    cd_hash16(cd_str_of(cd_req_param(req, 0)), t->id_hash);
    /* A repeated id proves nothing: some homeservers add events to a transaction when they send it
     * again. It waits for the first one like any other; then the event ids decide. */
    if (same_id_waits(as, t->id_hash))
        as->stats.duplicate_txns++;
    if (as->last)
        as->last->behind = t;
    else
        as->first = t;
    as->last = t;
    as->waiting++;
    return t;
}

static enum cd_rc put_transaction(void *self, struct cd_req *req)
{
    struct cd_appservice *as = self;
    struct cd_txn *t;

    if (as->waiting > WAITING_MAX)
        return cd_fail(cd_req_err(req), CD_E_OVERLOADED, "Other transactions are being applied.");
    t = enqueue(as, req);
    if (!t)
        return cd_fail(cd_req_err(req), CD_E_NO_MEMORY, NULL);
    t->inside = true;
    if (as->first == t)
        run(t);
    t->inside = false;
    if (t->finished) {
        free_txn(t);
        return CD_OK;
    }
    cd_req_park(req, as->conf.answer_ms, false, on_timeout, t);
    return CD_PENDING;
}

/* We make no users and no rooms, and homeservers hold events back while they wait for this. */
static enum cd_rc get_nothing(void *self, struct cd_req *req)
{
    (void)self;
    return cd_fail(cd_req_err(req), CD_E_NOT_FOUND, "Not created by this application service.");
}

static enum cd_rc unrecognized(void *self, struct cd_req *req)
{
    (void)self;
    return cd_fail(cd_req_err(req), CD_E_UNRECOGNIZED, NULL);
}

static enum cd_rc post_ping(void *self, struct cd_req *req)
{
    struct cd_appservice *as = self;
    struct cd_str body = cd_str_trim(cd_req_body(req)), id;

    if (body.n && !cd_json_valid(body, 32))
        return cd_fail(cd_req_err(req), CD_E_NOT_JSON, NULL);
    as->stats.last_ping_at = cd_wall_ms();
    as->stats.last_ping_id[0] = '\0';
    if (cd_json_kind(body) == CD_JSON_OBJECT && cd_json_find(body, "transaction_id", &id) &&
        cd_json_text(id, as->stats.last_ping_id, sizeof as->stats.last_ping_id) < 0)
        as->stats.last_ping_id[0] = '\0'; /* null: nobody named it */
    cd_req_reply(req, 200, "application/json", CD_STR("{}"));
    return CD_OK;
}

#define SMALL_BODY 65536
#define ROUTE(method, path, body, handle, help) \
    {CD_ROLE_APPSERVICE, method, path, CD_AUTH_HS, body, handle, help}
#define V1 "/_matrix/app/v1"
#define UNSTABLE "/_matrix/app/unstable"

static const struct cd_route routes[] = {
    ROUTE("PUT", V1 "/transactions/:txnId", 0, put_transaction, "Events from the homeserver."),
    ROUTE("GET", V1 "/users/*userId", SMALL_BODY, get_nothing, "Does this user exist? Never."),
    ROUTE("GET", V1 "/rooms/*roomAlias", SMALL_BODY, get_nothing, "Does this alias exist? Never."),
    ROUTE("POST", V1 "/ping", SMALL_BODY, post_ping, "Can the homeserver reach us?"),
    ROUTE("GET", V1 "/thirdparty/*rest", SMALL_BODY, unrecognized, "No third party networks."),
    ROUTE("POST", UNSTABLE "/org.matrix.msc3983/keys/claim", 0, unrecognized, "No keys."),
    ROUTE("POST", UNSTABLE "/org.matrix.msc3984/keys/query", 0, unrecognized, "No keys."),
    {0},
};

static const struct cd_route legacy_routes[] = {
    ROUTE("PUT", "/transactions/:txnId", 0, put_transaction, "As above, for old homeservers."),
    ROUTE("GET", "/users/*userId", SMALL_BODY, get_nothing, "As above."),
    ROUTE("GET", "/rooms/*roomAlias", SMALL_BODY, get_nothing, "As above."),
    ROUTE("GET", UNSTABLE "/thirdparty/*rest", SMALL_BODY, unrecognized, "As above."),
    {0},
};

/* --- life ---------------------------------------------------------------------------------- */

struct cd_appservice *cd_as_new(struct cd_loop *loop, struct cd_http *http, struct cd_store *store,
                                const struct cd_as_conf *conf, const struct cd_as_ops *ops,
                                void *self)
{
    struct cd_appservice *as = calloc(1, sizeof *as);

    if (!as)
        return NULL;
    as->loop = loop;
    as->store = store;
    as->conf = *conf;
    if (as->conf.answer_ms <= 0)
        as->conf.answer_ms = ANSWER_MS;
    as->ops = *ops;
    as->self = self;
    as->seen = cd_as_seen_new();
    if (!as->seen || cd_http_add_routes(http, routes, as) != CD_OK ||
        (conf->legacy_paths && cd_http_add_routes(http, legacy_routes, as) != CD_OK)) {
        cd_as_free(as);
        return NULL;
    }
    return as;
}

void cd_as_free(struct cd_appservice *as)
{
    struct cd_txn *t, *behind;

    if (!as)
        return;
    for (t = as->first; t; t = behind) {
        behind = t->behind;
        cd_timer_cancel(as->loop, &t->timer);
        answer(t, CD_E_OVERLOADED, "The daemon is stopping; send it again.");
        t->as = NULL;
        t->paused = false;
        t->phase = PHASE_HOLD;
        if (t->holds == 0)
            free_txn(t);
    }
    cd_as_seen_free(as->seen);
    free(as);
}

void cd_as_stats(const struct cd_appservice *as, struct cd_as_stats *out)
{
    *out = as->stats;
}

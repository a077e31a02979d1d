/* auth.c -- whose token is this: the homeserver's whoami, asked as seldom as possible.
 * In: tokens from HTTP and sockets.  Out: a principal or a refusal.
 * Why: SDKs sign users out on M_UNKNOWN_TOKEN, so only the homeserver's own 401 becomes one; a
 * flood of made-up tokens must not become a flood of requests to the homeserver.
 * State: cache, one check a token in question, who waits for it.  Owns: copies of tokens, wiped.
 * Blocks: never. */
#include "in/auth.h"

#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/scan.h"
#include "base/secret.h"
#include "in/auth_int.h"
#include "in/proxy.h"
#include "in/session_token.h"
#include "out/fetch.h"

#define CACHE_MAX 20000
#define BAD_TTL_MS 5000
#define QUEUE_WAIT_MS 2000 /* unless the settings say otherwise */
#define USERS_MAX 65536    /* whose rates are remembered */
#define WHOAMI_TIMEOUT_MS 10000
#define MAX_CHECKS 1024
#define MAX_WAITERS 8192
#define ADDRESSES_MAX 16384
#define QUIET_MAX_MS 30000

struct waiter {
    struct waiter *next;
    uint64_t ticket;
    struct cd_auth_check *check;
    cd_auth_done_fn fn;
    void *arg;
};

struct cd_auth_check {
    struct cd_auth_check *next, *prev;
    struct cd_auth_svc *svc;
    uint8_t key[16];
    char *token;        /* secret */
    char *ip;           /* whose count it is on */
    int64_t charged_ms; /* when it was counted, 0: not */
    bool once_good;     /* a token that was valid before is not one of a flood */
    bool asked;         /* whoami is on its way */
    uint64_t fetch;
    struct cd_timer patience;
    struct waiter *waiters;
};

static struct cd_str key_str(const uint8_t key[16])
{
    return (struct cd_str){(const char *)key, 16};
}

static struct cd_str ticket_key(const uint64_t *ticket)
{
    return (struct cd_str){(const char *)ticket, sizeof(*ticket)};
}

/* --- checks ------------------------------------------------------------------------------- */

static void check_unlink(struct cd_auth_check *c)
{
    struct cd_auth_svc *a = c->svc;

    if (c->prev)
        c->prev->next = c->next;
    else
        a->first = c->next;
    if (c->next)
        c->next->prev = c->prev;
    else
        a->last = c->prev;
    cd_map_del(&a->checks, key_str(c->key));
    cd_timer_cancel(a->loop, &c->patience);
    a->n_checks--;
    if (c->asked)
        a->in_flight--;
}

static void check_free(struct cd_auth_check *c)
{
    if (c->token)
        cd_wipe(c->token, strlen(c->token));
    free(c->token);
    free(c->ip);
    free(c);
}

static struct cd_auth_check *check_new(struct cd_auth_svc *a, struct cd_str token,
                                       const uint8_t key[16],
                                       const char *ip)
{
    struct cd_auth_check *c = calloc(1, sizeof(*c));

    if (!c)
        return NULL;
    c->svc = a;
    memcpy(c->key, key, sizeof(c->key));
    c->token = strndup(token.p, token.n);
    c->ip = strdup(ip);
    if (!c->token || !c->ip || cd_map_put(&a->checks, key_str(c->key), c) != 0) {
        check_free(c);
        return NULL;
    }
    c->prev = a->last;
    if (a->last)
        a->last->next = c;
    else
        a->first = c;
    a->last = c;
    a->n_checks++;
    return c;
}

/* Answer everybody who waits. The check is gone before the first callback, which may ask again. */
static void check_finish(struct cd_auth_check *c, enum cd_rc rc, struct cd_principal *p,
                         const struct cd_err *err)
{
    struct cd_auth_svc *a = c->svc;
    struct waiter *list = c->waiters, *w;

    check_unlink(c);
    for (w = list; w; w = w->next) {
        cd_map_del(&a->waiters, ticket_key(&w->ticket));
        w->check = NULL;
    }
    check_free(c);
    while ((w = list)) {
        list = w->next;
        if (w->fn)
            w->fn(w->arg, rc, p, err);
        free(w);
    }
}

static void check_fail(struct cd_auth_check *c, struct cd_err *err)
{
    if (err->rc == CD_E_OVERLOADED)
        c->svc->stats.overloaded++;
    else if (err->rc == CD_E_LIMITED)
        c->svc->stats.limited++;
    else if (err->rc == CD_E_HOMESERVER)
        c->svc->stats.unavailable++;
    check_finish(c, err->rc, NULL, err);
}

static void on_patience_over(void *arg)
{
    const struct cd_auth_check *c = arg;
    struct cd_err err;

    cd_fail(&err, CD_E_OVERLOADED, "Too many sign-ins are being checked; try again in a moment.");
    err.retry_after_ms = (long)c->svc->wait_ms;
    check_fail(arg, &err);
}

/* --- what whoami said --------------------------------------------------------------------- */

/* @return 1, 0, or -1: not a string that fits */
static int text_member(struct cd_str object, const char *name, char *out, size_t size)
{
    struct cd_str value;

    if (!cd_json_find(object, name, &value) || cd_json_kind(value) == CD_JSON_NULL)
        return 0;
    return cd_json_text(value, out, size) > 0 ? 1 : -1;
}

static enum cd_rc judge_user(struct cd_auth_check *c, struct cd_str body, struct cd_principal **out,
                             struct cd_err *err)
{
    struct cd_auth_svc *a = c->svc;
    char user[256], device[256];
    struct cd_str guest;
    int has_device;

    if (!cd_json_is_object(body, 16) ||
        text_member(body, "user_id", user, sizeof(user)) != 1)
        return cd_fail(err, CD_E_HOMESERVER, "The homeserver's whoami answer makes no sense.");
    has_device = text_member(body, "device_id", device, sizeof(device));
    if (has_device < 0)
        return cd_fail(err, CD_E_HOMESERVER, "The homeserver's whoami answer makes no sense.");
    if (!cd_is_local_user(user, a->server_name))
        return cd_fail(err, CD_E_UNKNOWN_TOKEN,
                       "This token belongs to a user of another server; sign in on %s.",
                           a->server_name);
    if (cd_json_find(body, "is_guest", &guest) && cd_json_kind(guest) == CD_JSON_TRUE)
        return cd_fail(err, CD_E_GUEST, NULL);
    *out = cd_principal_new(user, has_device ? device : NULL, c->token);
    if (!*out)
        return cd_fail(err, CD_E_NO_MEMORY, NULL);
    (*out)->admin = cd_auth_is_admin_user(a, user);
    (*out)->checked_ms = cd_mono_ms();
    return CD_OK;
}

static enum cd_rc judge_401(struct cd_str body, struct cd_err *err)
{
    char errcode[64] = "";
    struct cd_str soft;
    bool object = cd_json_is_object(body, 16);

    if (object)
        text_member(body, "errcode", errcode, sizeof(errcode));
    if (strcmp(errcode, "M_USER_LOCKED") == 0)
        return cd_fail(err, CD_E_FORBIDDEN, "This account is locked.");
    cd_fail(err, CD_E_UNKNOWN_TOKEN, NULL);
    if (object && cd_json_find(body, "soft_logout", &soft) && cd_json_kind(soft) == CD_JSON_TRUE)
        memcpy(err->extra, "\"soft_logout\":true", sizeof("\"soft_logout\":true"));
    return err->rc;
}

static enum cd_rc judge(struct cd_auth_check *c, const struct cd_fetch_res *res,
                        struct cd_principal **out, struct cd_err *err)
{
    long wait_ms = res->retry_after_ms;

    switch (res->status) {
    case 200:
        return judge_user(c, res->body, out, err);
    case 401:
        return judge_401(res->body, err);
    case 403:
        return cd_fail(err, CD_E_FORBIDDEN, "The homeserver does not let this account in.");
    case 429:
        if (wait_ms < 500)
            wait_ms = 500;
        if (wait_ms > QUIET_MAX_MS)
            wait_ms = QUIET_MAX_MS;
        c->svc->quiet_until_ms = cd_mono_ms() + wait_ms;
        cd_fail(err, CD_E_HOMESERVER, "The homeserver is busy; try again later.");
        err->retry_after_ms = wait_ms;
        return err->rc;
    default:
        cd_log(CD_LOG_WARN, "auth", "whoami.failed", NULL, "homeserver: status %d %s", res->status,
               res->error ? res->error : "");
        return cd_fail(err, CD_E_HOMESERVER, NULL);
    }
}

static void pump(struct cd_auth_svc *a);

static void on_whoami(void *arg, const struct cd_fetch_res *res)
{
    struct cd_auth_check *c = arg;
    struct cd_auth_svc *a = c->svc;
    struct cd_principal *p = NULL;
    struct cd_err err = {0};
    int64_t now = cd_mono_ms();
    enum cd_rc rc = judge(c, res, &p, &err);

    c->fetch = 0;
    if (rc == CD_E_UNKNOWN_TOKEN && res->status == 401)
        cd_auth_sessions_refuse(a, cd_str_of(c->token));
    /* Only a refusal by the homeserver itself counts as a failed token. */
    if (rc == CD_E_FORBIDDEN || (rc == CD_E_UNKNOWN_TOKEN && res->status == 401)) {
        if (c->charged_ms == 0)
            cd_limit_take(a->failures, c->ip, now);
    } else if (c->charged_ms > 0) {
        cd_limit_refund(a->failures, c->ip, c->charged_ms);
    }
    if (res->status == 200 && (rc == CD_OK || rc == CD_E_GUEST || rc == CD_E_UNKNOWN_TOKEN))
        cd_auth_cache_put(&a->cache, c->key, p, &err, now + CD_AUTH_GOOD_TTL_MS);
    else if (rc == CD_E_UNKNOWN_TOKEN)
        cd_auth_cache_put(&a->cache, c->key, NULL, &err, now + BAD_TTL_MS);
    if (rc == CD_OK)
        check_finish(c, CD_OK, p, NULL);
    else
        check_fail(c, &err);
    cd_principal_unref(p);
    if (!a->closing)
        pump(a);
}

/* --- asking ------------------------------------------------------------------------------- */

static bool address_has_open_checks(const struct cd_auth_svc *a, const char *ip)
{
    for (const struct cd_auth_check *c = a->first; c; c = c->next) {
        if (c->asked && c->charged_ms > 0 && strcmp(c->ip, ip) == 0)
            return true;
    }
    return false;
}

static void ask(struct cd_auth_check *c)
{
    struct cd_auth_svc *a = c->svc;
    struct cd_fetch_req req = {.method = "GET", .url = a->whoami_url, .bearer = c->token,
                               .timeout_ms = WHOAMI_TIMEOUT_MS, .max_body = 65536};
    struct cd_err err;

    cd_timer_cancel(a->loop, &c->patience);
    c->fetch = cd_fetch(a->pool, &req, on_whoami, c);
    if (c->fetch) {
        c->asked = true;
        a->in_flight++;
        a->stats.asked++;
        return;
    }
    if (c->charged_ms > 0)
        cd_limit_refund(a->failures, c->ip, c->charged_ms);
    cd_fail(&err, CD_E_OVERLOADED, NULL);
    check_fail(c, &err);
}

/* Move one waiting check on: ask, or refuse. @return false when it has to wait. */
static bool advance(struct cd_auth_check *c)
{
    struct cd_auth_svc *a = c->svc;
    int64_t now = cd_mono_ms(), wait_ms;
    struct cd_err err;

    if (now < a->quiet_until_ms) {
        cd_fail(&err, CD_E_HOMESERVER, "The homeserver is busy; try again later.");
        err.retry_after_ms = (long)(a->quiet_until_ms - now);
        check_fail(c, &err);
        return true;
    }
    wait_ms = c->once_good ? 0 : cd_limit_peek(a->failures, c->ip, now);
    if (wait_ms > 0 && !address_has_open_checks(a, c->ip)) {
        cd_fail(&err, CD_E_LIMITED,
                "Too many failed tokens from this address; wait retry_after_ms.");
        err.retry_after_ms = (long)wait_ms;
        check_fail(c, &err);
        return true;
    }
    if (wait_ms > 0 || a->in_flight >= a->max_in_flight)
        return false;
    if (!c->once_good) {
        cd_limit_take(a->failures, c->ip, now);
        c->charged_ms = now;
    }
    ask(c);
    return true;
}

/* Callbacks may add and cancel checks, so each step starts from the front. */
static void pump(struct cd_auth_svc *a)
{
    struct cd_auth_check *c = a->first;

    while (c && a->in_flight < a->max_in_flight) {
        if (!c->asked && advance(c))
            c = a->first;
        else
            c = c->next;
    }
}

/* --- the door ----------------------------------------------------------------------------- */

static enum cd_rc join(struct cd_auth_svc *a, struct cd_auth_check *c, cd_auth_done_fn fn,
                       void *arg,
                       struct cd_err *err)
{
    struct waiter *w = NULL, **tail = &c->waiters;

    if (a->waiters.count < MAX_WAITERS)
        w = calloc(1, sizeof(*w));
    if (!w)
        return cd_fail(err, CD_E_OVERLOADED, NULL);
    *w = (struct waiter){.ticket = ++a->last_ticket, .check = c, .fn = fn, .arg = arg};
    if (cd_map_put(&a->waiters, ticket_key(&w->ticket), w) != 0) {
        free(w);
        return cd_fail(err, CD_E_OVERLOADED, NULL);
    }
    while (*tail)
        tail = &(*tail)->next;
    *tail = w;
    return CD_OK;
}

/* A waiting check with its patience running. @return NULL: full */
static struct cd_auth_check *check_start(struct cd_auth_svc *a, struct cd_str token,
                                         const uint8_t key[16], const char *ip)
{
    struct cd_auth_check *c;

    if (a->closing || a->n_checks >= MAX_CHECKS)
        return NULL;
    c = check_new(a, token, key, ip);
    if (c)
        c->once_good = cd_auth_cache_was_good(&a->cache, key, cd_mono_ms());
    if (c && cd_timer_set(a->loop, &c->patience, a->wait_ms, on_patience_over, c) != 0) {
        check_unlink(c);
        check_free(c);
        return NULL;
    }
    return c;
}

/* Start a check, or join the one that runs. @return CD_PENDING: fn has the answer or will get
 * it, by *ticket; else refused and fn was not called */
static enum cd_rc begin(struct cd_auth_svc *a, struct cd_str token, const uint8_t key[16],
                        const char *ip, cd_auth_done_fn fn, void *arg, uint64_t *ticket,
                        struct cd_err *err)
{
    struct cd_auth_check *c = cd_map_get(&a->checks, key_str(key));
    bool fresh = !c;
    enum cd_rc rc;

    if (!a->whoami_url)
        return cd_fail(err, CD_E_HOMESERVER, "No homeserver is configured here.");
    if (fresh)
        c = check_start(a, token, key, ip);
    if (!c)
        return cd_fail(err, CD_E_OVERLOADED, NULL);
    rc = join(a, c, fn, arg, err);
    if (rc == CD_OK) {
        *ticket = a->last_ticket;
        if (fresh)
            advance(c);
        return CD_PENDING;
    }
    if (fresh) {
        check_unlink(c);
        check_free(c);
    }
    return rc;
}

static void too_many_failures(struct cd_auth_svc *a, struct cd_err *err, int64_t wait_ms)
{
    cd_fail(err, CD_E_LIMITED, "Too many failed tokens from this address; wait retry_after_ms.");
    err->retry_after_ms = (long)wait_ms;
    a->stats.limited++;
}

/* --dev: the token itself says who it is. */
static void dev_answer(struct cd_auth_svc *a, struct cd_str token, const uint8_t key[16], cd_auth_done_fn fn,
                       void *arg)
{
    struct cd_err err = {0};
    struct cd_principal *p = cd_auth_dev_user(token, &err);

    if (p) {
        p->checked_ms = cd_mono_ms();
        p->admin = cd_auth_is_admin_user(a, p->user_id);
        cd_auth_cache_put(&a->cache, key, p, NULL, p->checked_ms + CD_AUTH_GOOD_TTL_MS);
    }
    fn(arg, p ? CD_OK : err.rc, p, p ? NULL : &err);
    cd_principal_unref(p);
}

/* A session token: judged here. Forged ones count like those that the homeserver refuses. */
static void session_answer(struct cd_auth_svc *a, struct cd_str token, const uint8_t key[16], const char *ip,
                           cd_auth_done_fn fn, void *arg)
{
    struct cd_err err = {0};
    bool forged;
    struct cd_principal *p = cd_auth_session_user(a, token, key, &forged, &err);
    int64_t wait_ms = forged ? cd_limit_take(a->failures, ip, cd_mono_ms()) : 0;

    if (wait_ms > 0) {
        too_many_failures(a, &err, wait_ms);
    } else if (!p) {
        a->stats.refused_here++;
    }
    fn(arg, p ? CD_OK : err.rc, p, p ? NULL : &err);
    cd_principal_unref(p);
}

uint64_t cd_auth_token(struct cd_auth_svc *a, struct cd_str token, const char *client_ip,
                       cd_auth_done_fn fn, void *arg)
{
    char ip[CD_IP_LEN] = "";
    struct cd_auth_known *known;
    struct cd_principal *p;
    struct cd_err err = {0};
    uint8_t key[16];
    int64_t wait_ms;
    uint64_t ticket;

    if (client_ip)
        cd_proxy_share(client_ip, ip);
    if (cd_auth_refuse_here(a, token, &err) != CD_OK) {
        a->stats.refused_here++;
        fn(arg, err.rc, NULL, &err);
        return 0;
    }
    cd_secret_hash16(token, key);
    if (cd_str_starts(token, CD_SESSION_PREFIX)) {
        session_answer(a, token, key, ip, fn, arg);
        return 0;
    }
    known = cd_auth_cache_get(&a->cache, key, cd_mono_ms());
    if (known && known->principal) {
        a->stats.cache_hits++;
        p = cd_principal_ref(known->principal);
        fn(arg, CD_OK, p, NULL);
        cd_principal_unref(p);
        return 0;
    }
    if (a->dev) {
        dev_answer(a, token, key, fn, arg);
        return 0;
    }
    wait_ms = known ? cd_limit_peek(a->failures, ip, cd_mono_ms()) : 0;
    if (wait_ms > 0) {
        too_many_failures(a, &err, wait_ms);
    } else if (known) {
        a->stats.cache_hits++;
        err = *known->err;
    } else if (begin(a, token, key, ip, fn, arg, &ticket, &err) == CD_PENDING) {
        return cd_map_get(&a->waiters, ticket_key(&ticket)) ? ticket : 0;
    }
    fn(arg, err.rc, NULL, &err);
    return 0;
}

void cd_auth_cancel(struct cd_auth_svc *a, uint64_t ticket)
{
    struct waiter *w = ticket ? cd_map_del(&a->waiters, ticket_key(&ticket)) : NULL;
    struct cd_auth_check *c;
    struct waiter **at;

    if (!w)
        return;
    c = w->check;
    for (at = &c->waiters; *at != w; at = &(*at)->next)
        ;
    *at = w->next;
    free(w);
    if (!c->waiters && !c->asked) {
        check_unlink(c);
        check_free(c);
    }
}

void cd_auth_forget(struct cd_auth_svc *a, struct cd_str token)
{
    uint8_t key[16];

    cd_secret_hash16(token, key);
    cd_auth_cache_del(&a->cache, key);
}

void cd_auth_refused(struct cd_auth_svc *a, struct cd_str token)
{
    cd_auth_forget(a, token);
    cd_auth_sessions_refuse(a, token);
}

void cd_auth_set_rate(struct cd_auth_svc *a, unsigned per_second)
{
    a->per_second = per_second;
}

void cd_auth_set_held(struct cd_auth_svc *a, struct cd_principal *(*held)(void *arg, const char *user), void *arg)
{
    a->held = held;
    a->held_arg = arg;
}

/* --- life --------------------------------------------------------------------------------- */

static char *whoami_url(const char *homeserver)
{
    struct cd_buf b;
    size_t n = strlen(homeserver);

    while (n > 0 && homeserver[n - 1] == '/')
        n--;
    cd_buf_init(&b, 4096);
    cd_buf_add(&b, homeserver, n);
    cd_buf_adds(&b, "/_matrix/client/v3/account/whoami");
    return cd_buf_steal(&b, NULL);
}

static char *copy(const char *s)
{
    return strdup(s ? s : "");
}

struct cd_auth_svc *cd_auth_new(struct cd_loop *loop, struct cd_fetch_pool *pool,
                                const struct cd_auth_conf *conf)
{
    struct cd_auth_svc *a = calloc(1, sizeof(*a));

    if (!a)
        return NULL;
    a->loop = loop;
    a->pool = pool;
    a->max_in_flight = conf->whoami_in_flight ? conf->whoami_in_flight : 16;
    a->wait_ms = conf->whoami_wait_ms ? conf->whoami_wait_ms : QUEUE_WAIT_MS;
    a->rate = cd_rate_new(USERS_MAX);
    a->query_token = conf->query_token;
    a->dev = conf->dev;
    a->server_name = copy(conf->server_name);
    a->as_token = copy(conf->as_token);
    a->hs_token = copy(conf->hs_token);
    a->hs_token_previous = copy(conf->hs_token_previous);
    a->failures = cd_limit_new(conf->failed_tokens_per_minute, 60000, ADDRESSES_MAX);
    cd_auth_cache_init(&a->cache, CACHE_MAX);
    cd_map_init(&a->checks);
    cd_map_init(&a->waiters);
    cd_map_init(&a->sessions.refs);
    a->sessions.seal = conf->seal;
    cd_auth_set_admins(a, conf->admin_users, conf->admin_token_file);
    if (conf->homeserver_url && *conf->homeserver_url)
        a->whoami_url = whoami_url(conf->homeserver_url);
    if (!a->server_name || !a->as_token || !a->hs_token || !a->hs_token_previous || !a->failures ||
        !a->rate ||
        (conf->homeserver_url && *conf->homeserver_url && !a->whoami_url)) {
        cd_auth_free(a);
        return NULL;
    }
    return a;
}

static void free_secret(char *s)
{
    if (s)
        cd_wipe(s, strlen(s));
    free(s);
}

void cd_auth_free(struct cd_auth_svc *a)
{
    struct cd_err err;

    if (!a)
        return;
    a->closing = true;
    cd_fail(&err, CD_E_OVERLOADED, "The server is shutting down.");
    while (a->first) {
        cd_fetch_cancel(a->pool, a->first->fetch);
        check_finish(a->first, err.rc, NULL, &err);
    }
    cd_auth_cache_done(&a->cache);
    cd_auth_sessions_done(&a->sessions);
    cd_map_done(&a->checks);
    cd_map_done(&a->waiters);
    cd_limit_free(a->failures);
    cd_rate_free(a->rate);
    free_secret(a->as_token);
    free_secret(a->hs_token);
    free_secret(a->hs_token_previous);
    free_secret(a->admin_token);
    free(a->admin_users);
    free(a->server_name);
    free(a->whoami_url);
    free(a);
}

void cd_auth_stats(const struct cd_auth_svc *a, struct cd_auth_stats *out)
{
    *out = a->stats;
    out->in_flight = a->in_flight;
    out->waiting = a->n_checks - a->in_flight;
    out->cached = a->cache.map.count;
}

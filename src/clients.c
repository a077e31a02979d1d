/* clients.c -- connected sockets as users: CONNECT, events, re-checks of their tokens.
 *
 * State: core->users, one list of clients a user. Why: fan-out goes by user, authority by token; a
 * socket outlives its token only for a grace time (design, section 5). */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/scan.h"
#include "base/secret.h"
#include "core.h"

#define RECHECK_MS (5 * 60 * 1000) /* jittered by a fifth either way */
#define GRACE_MS (60 * 1000)
#define MAX_TOKEN 4096
#define SOCKETS_RETRY_MS 5000 /* one that was dropped is noticed about then */

static void arm_recheck(struct cd_client *c);

size_t cd_user_sockets(const struct cd_core *core, const char *user)
{
    size_t n = 0;

    for (struct cd_client *c = cd_map_get(&core->users, cd_str_of(user)); c; c = c->next_of_user)
        n++;
    return n;
}

static bool link_client(struct cd_core *core, struct cd_client *c)
{
    struct cd_str key = cd_str_of(c->who->user_id);

    c->next_of_user = cd_map_get(&core->users, key);
    return cd_map_put(&core->users, key, c) == 0;
}

/* The map's key is borrowed from the head of the list: a new head brings its own. */
static void unlink_client(struct cd_core *core, struct cd_client *c)
{
    struct cd_str key = cd_str_of(c->who->user_id);
    struct cd_client *head = cd_map_get(&core->users, key);

    if (head == c) {
        cd_map_del(&core->users, key);
        if (c->next_of_user)
            cd_map_put(&core->users, cd_str_of(c->next_of_user->who->user_id), c->next_of_user);
        return;
    }
    while (head && head->next_of_user != c)
        head = head->next_of_user;
    if (head)
        head->next_of_user = c->next_of_user;
}

static void tell_modules(struct cd_core *core, struct cd_client *c, bool connected)
{
    for (size_t i = 0; cd_modules[i]; i++)
        if (cd_modules[i]->on_client)
            cd_modules[i]->on_client(core, c, connected);
}

/* --- CONNECT -------------------------------------------------------------------------------------- */

struct connecting {
    struct cd_core *core;
    uint64_t sock_id;
    bool inside; /* on_connect is still on the stack */
    enum cd_rc rc;
    struct cd_client *client;
    struct cd_err err;
};

static struct cd_client *client_new(struct cd_core *core, uint64_t sock_id, struct cd_principal *who)
{
    struct cd_client *c = calloc(1, sizeof(*c));

    if (!c)
        return NULL;
    c->core = core;
    c->sock_id = sock_id;
    c->who = cd_principal_ref(who);
    if (link_client(core, c))
        return c;
    cd_principal_unref(c->who);
    free(c);
    return NULL;
}

struct greeting {
    struct cd_core *core;
    uint64_t sock_id;
};

/* Deferred, so that the CONNECT answer leaves before the first event. */
static void greet(void *arg)
{
    struct greeting *g = arg;
    struct cd_sock *s = cd_sock_by_id(g->sock_id);

    if (s && cd_sock_user(s))
        tell_modules(g->core, cd_sock_user(s), true);
    free(g);
}

static void greet_soon(struct cd_core *core, uint64_t sock_id)
{
    struct greeting *g = malloc(sizeof(*g));

    if (!g)
        return;
    *g = (struct greeting){core, sock_id};
    if (cd_loop_defer(core->loop, greet, g) != 0)
        free(g);
}

static enum cd_rc admit(struct connecting *k, struct cd_principal *who)
{
    struct cd_core *core = k->core;
    long cap = core->conf->limits.sockets_per_user;

    if (core->draining)
        return cd_fail(&k->err, CD_E_OVERLOADED, "The server is restarting; connect again shortly.");
    if (cap > 0 && cd_user_sockets(core, who->user_id) >= (size_t)cap) {
        core->counts.rate_limited++;
        cd_fail(&k->err, CD_E_LIMITED, "You have %ld sockets open, which is the limit.", cap);
        k->err.retry_after_ms = SOCKETS_RETRY_MS;
        return k->err.rc;
    }
    k->client = client_new(core, k->sock_id, who);
    if (!k->client)
        return cd_fail(&k->err, CD_E_NO_MEMORY, NULL);
    arm_recheck(k->client);
    greet_soon(core, k->sock_id);
    cd_rooms_user_seen(core->rooms, who);
    if (core->outbox)
        cd_outbox_token_ready(core->outbox, who->user_id);
    return CD_OK;
}

static void on_checked(void *arg, enum cd_rc rc, struct cd_principal *who, const struct cd_err *err)
{
    struct connecting *k = arg;

    if (!cd_sock_by_id(k->sock_id)) { /* it went away while the homeserver was asked */
        free(k);
        return;
    }
    k->rc = rc;
    if (rc != CD_OK && err)
        k->err = *err;
    else if (rc == CD_OK)
        k->rc = admit(k, who);
    if (k->inside)
        return;
    cd_sock_connected(k->sock_id, k->rc, k->client, &k->err);
    free(k);
}

static enum cd_rc on_connect(void *self, struct cd_sock *sock, struct cd_str auth, void **out_user,
                             struct cd_err *err)
{
    struct cd_core *core = self;
    struct cd_str value;
    char token[MAX_TOKEN + 1];

    if (cd_json_find(auth, "dialect", &value) &&
        (cd_json_text(value, token, sizeof(token)) < 0 || strcmp(token, "calld") != 0))
        return cd_fail(err, CD_E_INVALID_PARAM, "auth.dialect: this server speaks \"calld\".");
    if (!cd_json_find(auth, "token", &value))
        return cd_fail(err, CD_E_MISSING_TOKEN, "Connect with auth: {token: \"...\"}.");
    long n = cd_json_text(value, token, sizeof(token));
    if (n <= 0)
        return cd_fail(err, CD_E_UNKNOWN_TOKEN, "auth.token must be a string of 1 to %d bytes.", MAX_TOKEN);
    struct connecting *k = calloc(1, sizeof(*k));
    if (!k)
        return cd_fail(err, CD_E_NO_MEMORY, NULL);
    k->core = core;
    k->sock_id = cd_sock_id(sock);
    k->inside = true;
    k->rc = CD_PENDING;
    uint64_t ticket = cd_auth_token(core->auth, (struct cd_str){token, (size_t)n},
                                    cd_sock_client_ip(sock), on_checked, k);
    cd_wipe(token, sizeof(token));
    k->inside = false;
    if (ticket)
        return CD_PENDING;
    enum cd_rc rc = k->rc;
    *out_user = k->client;
    *err = k->err;
    free(k);
    return rc;
}

/* --- events --------------------------------------------------------------------------------------- */

static void on_event(void *user, struct cd_sock *sock, struct cd_str event, struct cd_str payload,
                     const struct cd_ack *ack)
{
    struct cd_client *c = user;
    const struct cd_sock_event *row = cd_map_get(&c->core->events, event);
    int64_t wait = cd_rate_mark_take(&c->rate, (unsigned)c->core->conf->limits.events_per_second, cd_mono_us());
    struct cd_err err;

    (void)sock;
    if (wait > 0) {
        c->core->counts.rate_limited++;
        cd_fail(&err, CD_E_LIMITED, "This socket sends too many events; wait retry_after_ms.");
        err.retry_after_ms = (long)wait;
        cd_ack_fail(ack, &err, NULL);
        return;
    }
    if (row) {
        row->handle(c->core, c, payload, ack);
        return;
    }
    cd_fail(&err, CD_E_UNRECOGNIZED, "There is no event \"%.*s\".", (int)(event.n < 64 ? event.n : 64), event.p);
    cd_ack_fail(ack, &err, NULL);
}

static void on_disconnect(void *self, void *user, struct cd_sock *sock)
{
    struct cd_core *core = self;
    struct cd_client *c = user;

    (void)sock;
    if (!c)
        return;
    cd_timer_cancel(core->loop, &c->recheck);
    cd_timer_cancel(core->loop, &c->auth_grace);
    unlink_client(core, c);
    tell_modules(core, c, false);
    cd_principal_unref(c->who);
    free(c);
}

const struct cd_sock_ops cd_client_ops = {
    .on_connect = on_connect, .on_event = on_event, .on_disconnect = on_disconnect};

/* --- tokens that go stale ------------------------------------------------------------------------- */

static void grace_over(void *arg)
{
    struct cd_client *c = arg;
    struct cd_sock *s = cd_sock_by_id(c->sock_id);

    if (s)
        cd_sock_disconnect(s);
}

static void require_auth(struct cd_client *c)
{
    struct cd_sock *s = cd_sock_by_id(c->sock_id);
    char payload[48];

    if (!s || c->auth_grace.due_ms)
        return;
    int n = snprintf(payload, sizeof(payload), "{\"graceSeconds\":%d}", GRACE_MS / 1000);
    cd_sock_emit(s, "auth-required", (struct cd_str){payload, (size_t)n});
    cd_timer_set(c->core->loop, &c->auth_grace, GRACE_MS, grace_over, c);
}

void cd_clients_refused(struct cd_core *core, const char *user, const struct cd_principal *p)
{
    for (struct cd_client *c = cd_map_get(&core->users, cd_str_of(user)); c; c = c->next_of_user)
        if (c->who == p || (c->who->matrix_token && p->matrix_token &&
                            cd_secret_equal(cd_str_of(c->who->matrix_token), cd_str_of(p->matrix_token))))
            require_auth(c);
}

void cd_client_renew(struct cd_client *c, struct cd_principal *who)
{
    struct cd_principal *old = c->who;

    unlink_client(c->core, c);
    c->who = cd_principal_ref(who);
    link_client(c->core, c);
    cd_principal_unref(old);
    cd_timer_cancel(c->core->loop, &c->auth_grace);
    arm_recheck(c);
}

struct rechecking {
    struct cd_core *core;
    uint64_t sock_id;
};

static void on_rechecked(void *arg, enum cd_rc rc, struct cd_principal *who, const struct cd_err *err)
{
    struct rechecking *r = arg;
    struct cd_sock *s = cd_sock_by_id(r->sock_id);
    struct cd_client *c = s ? cd_sock_user(s) : NULL;

    (void)err;
    if (c && rc == CD_OK) /* an idle socket's token still serves for questions about its rooms */
        cd_rooms_user_seen(r->core->rooms, who);
    else if (c && (rc == CD_E_UNKNOWN_TOKEN || rc == CD_E_GUEST))
        require_auth(c);
    free(r);
}

static void recheck(void *arg)
{
    struct cd_client *c = arg;
    struct rechecking *r = malloc(sizeof(*r));

    if (c->who->expires_at && cd_wall_ms() >= c->who->expires_at)
        require_auth(c);
    arm_recheck(c);
    if (!r || !c->who->matrix_token) {
        free(r);
        return;
    }
    *r = (struct rechecking){c->core, c->sock_id};
    struct cd_sock *s = cd_sock_by_id(c->sock_id);
    cd_auth_token(c->core->auth, cd_str_of(c->who->matrix_token), s ? cd_sock_client_ip(s) : "", on_rechecked, r);
}

static void arm_recheck(struct cd_client *c)
{
    int64_t wait, left;
    uint16_t jitter;

    cd_random(&jitter, sizeof(jitter));
    wait = (int64_t)RECHECK_MS * 4 / 5 + (int64_t)jitter * (RECHECK_MS * 2 / 5) / 65536;
    left = c->who->expires_at - cd_wall_ms(); /* a session's socket asks for a new token when it expires */
    if (c->who->expires_at && left < wait && !c->auth_grace.due_ms)
        wait = left > 0 ? left + 1 : 1;
    cd_timer_set(c->core->loop, &c->recheck, wait, recheck, c);
}

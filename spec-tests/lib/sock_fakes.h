/* sock_fakes.h -- a loop, an HTTP server and WebSockets made of memory, with a clock that the test
 * turns: what the socket code (src/in/sock.h) sees of the world, without the world. */
#ifndef CD_TEST_SOCK_FAKES_H
#define CD_TEST_SOCK_FAKES_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/clock.h"
#include "in/http.h"
#include "in/ws.h"
#include "loop/loop.h"

#define FAKE_TIMERS 8192

static struct {
    int64_t now_ms;
    struct cd_timer *timers[FAKE_TIMERS];
    const struct cd_ws_ops *ws_ops;
    const struct cd_route *routes;
} fake = {.now_ms = 1000};

/* --- clock and timers ------------------------------------------------------------------------- */

int64_t cd_mono_ms(void)
{
    return fake.now_ms;
}

void cd_timer_cancel(struct cd_loop *loop, struct cd_timer *t)
{
    (void)loop;
    if (t->slot)
        fake.timers[t->slot - 1] = NULL;
    t->slot = 0;
}

int cd_timer_set(struct cd_loop *loop, struct cd_timer *t, int64_t delay_ms, void (*fn)(void *arg),
                 void *arg)
{
    cd_timer_cancel(loop, t);
    t->due_ms = fake.now_ms + delay_ms;
    t->fn = fn;
    t->arg = arg;
    for (uint32_t i = 0; i < FAKE_TIMERS; i++) {
        if (!fake.timers[i]) {
            fake.timers[i] = t;
            t->slot = i + 1;
            return 0;
        }
    }
    return -1;
}

static inline struct cd_timer *fake_earliest(int64_t until_ms)
{
    struct cd_timer *first = NULL;

    for (size_t i = 0; i < FAKE_TIMERS; i++) {
        struct cd_timer *t = fake.timers[i];

        if (t && t->due_ms <= until_ms && (!first || t->due_ms < first->due_ms))
            first = t;
    }
    return first;
}

/** Let @p ms pass; timers fire in order at their time. */
static inline void fake_pass(int64_t ms)
{
    int64_t until_ms = fake.now_ms + ms;
    struct cd_timer *t;

    while ((t = fake_earliest(until_ms)) != NULL) {
        fake.now_ms = t->due_ms > fake.now_ms ? t->due_ms : fake.now_ms;
        cd_timer_cancel(NULL, t);
        t->fn(t->arg);
    }
    fake.now_ms = until_ms;
}

static inline unsigned fake_timers_armed(void)
{
    unsigned n = 0;

    for (size_t i = 0; i < FAKE_TIMERS; i++)
        n += fake.timers[i] != NULL;
    return n;
}

/* --- HTTP ------------------------------------------------------------------------------------- */

struct cd_req {
    const char *method, *type, *origin, *upgrade;
    char query[256];
    char values[3][64];
    struct cd_str body;
    int status; /* 0: not answered */
    char answer[4096];
    void (*cancel)(void *arg);
    void *arg;
};

enum cd_rc cd_http_add_routes(struct cd_http *http, const struct cd_route *routes, void *self)
{
    (void)http;
    (void)self;
    fake.routes = routes;
    return CD_OK;
}

const char *cd_req_method(const struct cd_req *req)
{
    return req->method;
}

const char *cd_req_query(struct cd_req *req, const char *name)
{
    static const char *const names[] = {"transport", "sid", "EIO"};
    char key[32];
    const char *at;

    snprintf(key, sizeof(key), "&%s=", name);
    at = strstr(req->query, key);
    for (size_t i = 0; at && i < 3; i++) {
        size_t n = strcspn(at + strlen(key), "&");

        if (strcmp(name, names[i]) != 0)
            continue;
        snprintf(req->values[i], sizeof(req->values[i]), "%.*s", (int)n, at + strlen(key));
        return req->values[i];
    }
    return NULL;
}

const char *cd_req_header(struct cd_req *req, const char *name)
{
    if (strcmp(name, "Upgrade") == 0)
        return req->upgrade;
    return strcmp(name, "Origin") == 0 ? req->origin : req->type;
}

struct cd_str cd_req_body(const struct cd_req *req)
{
    return req->body;
}

const char *cd_req_client_ip(const struct cd_req *req)
{
    (void)req;
    return "192.0.2.7";
}

void cd_req_add_header(struct cd_req *req, const char *name, const char *value)
{
    (void)req;
    (void)name;
    (void)value;
}

bool cd_req_starved(const struct cd_req *req);

bool cd_req_starved(const struct cd_req *req)
{
    (void)req;
    return false;
}

bool cd_req_reply(struct cd_req *req, int status, const char *content_type, struct cd_str body)
{
    (void)content_type;
    if (req->status) {
        fprintf(stderr, "answered twice\n");
        abort();
    }
    req->status = status;
    snprintf(req->answer, sizeof(req->answer), "%.*s", (int)body.n, body.n ? body.p : "");
    return true;
}

void cd_req_reply_json(struct cd_req *req, int status, struct cd_buf *body_steal)
{
    cd_req_reply(req, status, "application/json", (struct cd_str){body_steal->p, body_steal->n});
    cd_buf_done(body_steal);
}

void cd_req_park(struct cd_req *req, int64_t timeout_ms, bool watch_peer, void (*cancel)(void *arg),
                 void *arg)
{
    (void)timeout_ms;
    if (!watch_peer)
        abort();
    req->cancel = cancel;
    req->arg = arg;
}

/** Send a request. @param query  without '?'. Free it with free(). */
static inline struct cd_req *fake_request(const char *method, const char *query, const char *body)
{
    struct cd_req *req = calloc(1, sizeof(*req));

    if (!req)
        abort();
    req->method = method;
    req->body = cd_str_of(body);
    snprintf(req->query, sizeof(req->query), "&%s", query);
    fake.routes[0].handle(NULL, req);
    return req;
}

/** The client of a parked request goes away. */
static inline void fake_leave(struct cd_req *req)
{
    req->cancel(req->arg);
}

/* --- WebSockets ------------------------------------------------------------------------------- */

struct cd_ws {
    void *user;
    int refused; /* the status; 0: open */
    int code;    /* the server closed with; 0: not */
    bool slow;   /* nothing more fits */
    unsigned sent, pings;
    char last[4096];
    char all[8192]; /* messages, each followed by a newline */
};

void cd_ws_setup(const struct cd_ws_ops *ops, void *self, const struct cd_ws_conf *conf)
{
    (void)self;
    (void)conf;
    fake.ws_ops = ops;
}

bool cd_ws_send(struct cd_ws *ws, const char *text, size_t n)
{
    size_t used = strlen(ws->all);

    if (ws->slow || ws->code)
        return false;
    ws->sent++;
    snprintf(ws->last, sizeof(ws->last), "%.*s", (int)n, text);
    snprintf(ws->all + used, sizeof(ws->all) - used, "%.*s\n", (int)n, text);
    return true;
}

bool cd_ws_ping(struct cd_ws *ws)
{
    if (ws->slow || ws->code)
        return false;
    ws->pings++;
    return true;
}

void cd_ws_close(struct cd_ws *ws, uint16_t code, const char *reason)
{
    (void)reason;
    if (!ws->code)
        ws->code = code;
}

static inline struct cd_ws *fake_ws_open(const char *target)
{
    struct cd_ws *ws = calloc(1, sizeof(*ws));
    struct cd_ws_hello hello = {.target = target, .client_ip = "192.0.2.8"};
    char why[128];

    if (!ws)
        abort();
    ws->user = fake.ws_ops->on_open(NULL, ws, &hello, &ws->refused, why, sizeof(why));
    if (ws->user) {
        ws->refused = 0;
        fake.ws_ops->on_ready(ws->user);
    }
    return ws;
}

static inline void fake_ws_say(struct cd_ws *ws, const char *text)
{
    char *copy = strdup(text);

    if (copy)
        fake.ws_ops->on_text(ws->user, copy, strlen(copy));
    free(copy);
}

static inline void fake_ws_binary(struct cd_ws *ws)
{
    fake.ws_ops->on_binary(ws->user, "\1", 1);
}

/** The connection is gone; frees @p ws. */
static inline void fake_ws_gone(struct cd_ws *ws)
{
    if (ws->user)
        fake.ws_ops->on_close(ws->user);
    free(ws);
}

#endif

/* req.c -- what handlers see of a request: its parts, parking, answering.
 * In: handlers' calls. Out: cd_http_answered(), after which http.c sends. Owns: the answer. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/log.h"
#include "in/auth.h"
#include "in/http_priv.h"

enum cd_role cd_req_role(const struct cd_req *req)
{
    return req->role;
}

const char *cd_req_method(const struct cd_req *req)
{
    return req->method;
}

const char *cd_req_id(const struct cd_req *req)
{
    return req->id;
}

const char *cd_req_path(const struct cd_req *req)
{
    return req->path_text ? req->path_text : "";
}

const char *cd_req_param(const struct cd_req *req, unsigned i)
{
    return i < req->match.param_n ? req->match.params[i] : NULL;
}

struct cd_str cd_req_body(const struct cd_req *req)
{
    return (struct cd_str){req->body.p ? req->body.p : "", req->body.n};
}

const char *cd_req_client_ip(const struct cd_req *req)
{
    return req->client_ip;
}

struct cd_err *cd_req_err(struct cd_req *req)
{
    return &req->err;
}

struct cd_principal *cd_req_principal(const struct cd_req *req)
{
    return req->principal;
}

void cd_req_set_principal(struct cd_req *req, struct cd_principal *p)
{
    if (p)
        cd_principal_ref(p);
    cd_principal_unref(req->principal);
    req->principal = p;
}

const char *cd_req_header(struct cd_req *req, const char *name)
{
    return cd_http_header(req, name);
}

/* --- query --------------------------------------------------------------------------- */

static char *decode(struct cd_str raw, bool *starved)
{
    char *out = malloc(raw.n + 1);

    if (!out)
        *starved = true;
    if (out && cd_percent_decode(raw, true, out, raw.n + 1) < 0) {
        free(out);
        out = NULL;
    }
    return out;
}

/* The decoded value of the first pair with this name. @return NULL: absent or badly escaped */
static char *find_query(struct cd_req *req, const char *name)
{
    const char *query = req->query;

    while (*query) {
        size_t pair_n = strcspn(query, "&");
        const char *equals = memchr(query, '=', pair_n);
        size_t name_n = equals ? (size_t)(equals - query) : pair_n;
        size_t value_at = equals ? name_n + 1 : pair_n;
        char *key = decode((struct cd_str){query, name_n}, &req->starved);
        bool hit = key && strcmp(key, name) == 0;

        free(key);
        if (hit)
            return decode((struct cd_str){query + value_at, pair_n - value_at}, &req->starved);
        query += pair_n + (query[pair_n] == '&');
    }
    return NULL;
}

const char *cd_req_query(struct cd_req *req, const char *name)
{
    struct req_pair *pair = &req->queries[req->query_n];

    for (unsigned i = 0; i < req->query_n; i++) {
        if (strcmp(req->queries[i].name, name) == 0)
            return req->queries[i].value;
    }
    if (req->query_n == CD_REQ_QUERIES)
        return NULL;
    pair->name = strdup(name);
    if (!pair->name) {
        req->starved = true;
        return NULL;
    }
    pair->value = find_query(req, name);
    req->query_n++;
    return pair->value;
}

bool cd_req_starved(const struct cd_req *req)
{
    return req->starved;
}

/* --- parking ------------------------------------------------------------------------- */

void cd_req_unpark(struct cd_req *req)
{
    req->parked = false;
    req->cancel = NULL;
    cd_timer_cancel(req->http->loop, &req->timer);
    cd_io_del(req->watch);
    req->watch = NULL;
}

void cd_req_cancel(struct cd_req *req, enum cd_rc rc, const char *text)
{
    void (*cancel)(void *arg) = req->cancel;
    struct cd_err err = {0};

    req->cancel = NULL;
    if (cancel)
        cancel(req->cancel_arg);
    if (req->answered)
        return; /* cancel() gave an answer of its own */
    cd_fail(&err, rc, text ? "%s" : NULL, text);
    cd_req_fail(req, &err);
}

static void timed_out(void *arg)
{
    cd_req_cancel(arg, CD_E_OVERLOADED, NULL);
}

void cd_req_park(struct cd_req *req, int64_t timeout_ms, bool watch_peer, void (*cancel)(void *arg),
                 void *arg)
{
    cd_req_unpark(req);
    req->parked = true;
    req->cancel = cancel;
    req->cancel_arg = arg;
    if (timeout_ms > 0 &&
        cd_timer_set(req->http->loop, &req->timer, timeout_ms, timed_out, req) < 0)
        cd_log(CD_LOG_ERROR, "in", "http.park", NULL, "out of memory: a request has no timer");
    if (watch_peer)
        cd_http_watch(req);
}

/* --- answering ----------------------------------------------------------------------- */

/* Header values come from handlers and, echoed, from clients: no control characters, ever. */
static bool is_clean(const char *s)
{
    for (; *s; s++) {
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            return false;
    }
    return true;
}

void cd_req_add_header(struct cd_req *req, const char *name, const char *value)
{
    struct req_pair *h = &req->headers[req->header_n];

    if (req->answered)
        return;
    if (req->header_n == CD_REQ_HEADERS || !is_clean(name) || !is_clean(value)) {
        cd_log(CD_LOG_ERROR, "in", "http.header", NULL, "header %.60s dropped",
               is_clean(name) ? name : "(unclean)");
        return;
    }
    h->name = strdup(name);
    h->value = strdup(value);
    if (h->name && h->value) {
        req->header_n++;
        return;
    }
    free(h->name);
    free(h->value);
}

/* The one place where an answer is put down.
 * @param body  malloc'ed, owned from here on; NULL: there was no memory for it, and that is the answer */
static void answer(struct cd_req *req, int status, const char *content_type, char *body, size_t n)
{
    if (req->answered) {
        cd_log(CD_LOG_ERROR, "in", "http.twice", NULL, "a request was answered twice: %.60s",
               req->match.route ? req->match.route->path : "?");
        free(body);
        return;
    }
    req->answered = true;
    req->status = body ? status : 503;
    if (!body)
        content_type = "application/json";
    snprintf(req->content_type, sizeof(req->content_type), "%s", content_type ? content_type : "");
    req->answer = body;
    req->answer_n = n;
    cd_req_unpark(req);
    cd_http_answered(req);
}

bool cd_req_reply(struct cd_req *req, int status, const char *content_type, struct cd_str body)
{
    char *copy = malloc(body.n + 1);

    if (!copy) {
        answer(req, 503, NULL, NULL, 0);
        return false;
    }
    if (body.n)
        memcpy(copy, body.p, body.n);
    copy[body.n] = '\0';
    answer(req, status, content_type, copy, body.n);
    return true;
}

void cd_req_reply_json(struct cd_req *req, int status, struct cd_buf *body_steal)
{
    size_t n = 0;
    bool no_memory = body_steal->no_memory;
    char *body = body_steal->failed ? NULL : cd_buf_steal(body_steal, &n);
    struct cd_err err = {0};

    if (body) {
        answer(req, status, "application/json", body, n);
        return;
    }
    cd_buf_done(body_steal);
    cd_fail(&err, no_memory ? CD_E_NO_MEMORY : CD_E_INTERNAL, NULL);
    cd_req_fail(req, &err);
}

void cd_req_fail(struct cd_req *req, const struct cd_err *err)
{
    struct cd_buf b;
    char *body;
    size_t n = 0;

    cd_buf_init(&b, 4096);
    cd_err_json(&b, err);
    body = cd_buf_steal(&b, &n);
    cd_buf_done(&b);
    if (err->retry_after_ms > 0) {
        char seconds[24];

        snprintf(seconds, sizeof(seconds), "%ld", (err->retry_after_ms + 999) / 1000);
        cd_req_add_header(req, "Retry-After", seconds);
    }
    answer(req, cd_rc_status(err->rc), "application/json", body, n);
}

void cd_req_clear(struct cd_req *req)
{
    cd_req_unpark(req);
    cd_principal_unref(req->principal);
    cd_match_done(&req->match);
    cd_buf_done(&req->body);
    for (unsigned i = 0; i < req->query_n; i++) {
        free(req->queries[i].name);
        free(req->queries[i].value);
    }
    for (unsigned i = 0; i < req->header_n; i++) {
        free(req->headers[i].name);
        free(req->headers[i].value);
    }
    free(req->answer);
    free(req->path_text);
    free(req->uri);
}

/* fetch.c -- outgoing HTTP: libcurl's multi interface on the event loop.
 * In: requests of auth, rooms and outbox.  Out: one callback a request, never inside cd_fetch().
 * Why: curl brings keep-alive, TLS and name resolution; the loop brings sockets and time.
 * State: one flight a request.  Owns: curl's handles and its copies of the request.
 * Blocks: never; names are resolved on curl's own thread. */
#include "out/fetch.h"

#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/buf.h"
#include "base/scan.h"
#include "base/secret.h"
#include "base/spare.h"
#include "loop/loop.h"
#include "out/fetch_mem.h"

#define DEFAULT_TIMEOUT_MS 15000
#define CONNECT_TIMEOUT_MS 5000
#define DEFAULT_MAX_BODY ((size_t)1 << 20)
#define MAX_FLIGHTS 512
#define MAX_CONNECTIONS 32L /* 16 whoami, 8 senders and some for rooms */
#define MAX_RETRY_AFTER_S 86400
#define RETRY_BODY_BYTES 65536 /* larger bodies are not searched for retry_after_ms */

struct flight {
    struct flight *next, *prev;
    struct cd_fetch_pool *pool;
    uint64_t id;
    CURL *easy;
    struct curl_slist *headers; /* holds the bearer: wiped before it is freed */
    char *body_out;
    struct cd_buf body_in;
    struct cd_timer deadline;
    bool too_large;
    cd_fetch_fn fn;
    void *arg;
};

struct cd_fetch_pool {
    struct cd_loop *loop;
    CURLM *multi;
    struct cd_timer timer; /* curl's */
    struct flight *flights;
    size_t n_flights;
    uint64_t last_id;
    bool closing;
    bool unreachable; /* the last request that ended got no answer, or one of 500 and more */
};

/* --- flights ------------------------------------------------------------------------------ */

static void wipe_headers(struct curl_slist *list)
{
    for (struct curl_slist *h = list; h; h = h->next)
        cd_wipe(h->data, strlen(h->data));
    curl_slist_free_all(list);
}

/* Out of the pool's list and out of curl. Its callback will not run any more. */
static void flight_free(struct flight *f)
{
    struct cd_fetch_pool *pool = f->pool;

    if (f->prev)
        f->prev->next = f->next;
    else if (pool->flights == f)
        pool->flights = f->next;
    if (f->next)
        f->next->prev = f->prev;
    if (f->id)
        pool->n_flights--;
    cd_timer_cancel(pool->loop, &f->deadline);
    if (f->easy) {
        curl_multi_remove_handle(pool->multi, f->easy);
        curl_easy_cleanup(f->easy);
    }
    wipe_headers(f->headers);
    free(f->body_out);
    cd_buf_done(&f->body_in);
    free(f);
}

/* Retry-After is authoritative; the body's retry_after_ms is its deprecated elder. */
static long retry_after_ms(struct flight *f, long status)
{
    struct cd_str body = {f->body_in.p, f->body_in.n}, value;
    curl_off_t seconds = 0;
    long long ms;

    if (curl_easy_getinfo(f->easy, CURLINFO_RETRY_AFTER, &seconds) == CURLE_OK && seconds > 0)
        return (long)(seconds > MAX_RETRY_AFTER_S ? MAX_RETRY_AFTER_S : seconds) * 1000;
    if (status < 400 || body.n == 0 || body.n > RETRY_BODY_BYTES || !cd_json_is_object(body, 32))
        return -1;
    if (!cd_json_find(body, "retry_after_ms", &value) || !cd_json_int(value, &ms) || ms < 0)
        return -1;
    return ms > MAX_RETRY_AFTER_S * 1000LL ? MAX_RETRY_AFTER_S * 1000L : (long)ms;
}

/* An answer that is too large is one as well; what ends by our own stop tells nothing. */
static void note_reachable(struct flight *f, long status)
{
    if (f->too_large)
        curl_easy_getinfo(f->easy, CURLINFO_RESPONSE_CODE, &status);
    if (!f->pool->closing)
        f->pool->unreachable = status <= 0 || status >= 500;
}

static bool nothing_left(struct flight *f)
{
    long bytes = 0;

    return curl_easy_getinfo(f->easy, CURLINFO_REQUEST_SIZE, &bytes) == CURLE_OK && bytes == 0;
}

/* Tell the owner and forget the flight. The callback may start and cancel others. */
static void finish(struct flight *f, const char *error)
{
    struct cd_fetch_res res = {.error = error, .retry_after_ms = -1, .too_large = f->too_large};
    cd_fetch_fn fn = f->fn;
    long status = 0;

    if (!error && curl_easy_getinfo(f->easy, CURLINFO_RESPONSE_CODE, &status) == CURLE_OK &&
        status > 0) {
        res.status = (int)status;
        res.body = (struct cd_str){f->body_in.p ? f->body_in.p : "", f->body_in.n};
        res.retry_after_ms = retry_after_ms(f, status);
    } else if (!error) {
        res.error = "no status line";
    }
    res.unsent = res.status == 0 && nothing_left(f);
    note_reachable(f, status);
    /* Cancelling this very flight from its callback must find nothing. */
    f->id = 0;
    f->pool->n_flights--;
    fn(f->arg, &res);
    flight_free(f);
}

static void on_deadline(void *arg)
{
    finish(arg, "timed out");
}

static size_t on_body(char *p, size_t size, size_t n, void *arg)
{
    struct flight *f = arg;

    cd_buf_add(&f->body_in, p, size * n);
    f->too_large = f->body_in.failed && !f->body_in.no_memory;
    if (f->body_in.failed)
        return 0;
    return size * n;
}

/* --- curl and the loop -------------------------------------------------------------------- */

static void collect(struct cd_fetch_pool *pool)
{
    CURLMsg *msg;
    int left;

    while ((msg = curl_multi_info_read(pool->multi, &left))) {
        struct flight *f = NULL;
        CURLcode rc = msg->data.result;

        if (msg->msg != CURLMSG_DONE ||
            curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, (char **)&f) != CURLE_OK || !f)
            continue;
        if (f->too_large)
            finish(f, "answer too large");
        else
            finish(f, rc == CURLE_OK ? NULL : curl_easy_strerror(rc));
    }
}

struct watch {
    struct cd_fetch_pool *pool;
    struct cd_io *io;
    curl_socket_t fd;
};

/* A socket that cannot be watched makes curl give up all of its requests. */
static struct cd_spare watches = CD_SPARE(struct watch, 2 * MAX_CONNECTIONS);

static void on_ready(void *arg, uint32_t events)
{
    struct watch *w = arg;
    struct cd_fetch_pool *pool = w->pool;
    int bits = 0, running;

    if (events & EPOLLIN)
        bits |= CURL_CSELECT_IN;
    if (events & EPOLLOUT)
        bits |= CURL_CSELECT_OUT;
    if (events & (EPOLLERR | EPOLLHUP))
        bits |= CURL_CSELECT_ERR;
    curl_multi_socket_action(pool->multi, w->fd, bits, &running);
    collect(pool);
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *sock)
{
    struct cd_fetch_pool *pool = arg;
    struct watch *w = sock;
    uint32_t events = 0;

    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        if (w) {
            cd_io_del(w->io);
            curl_multi_assign(pool->multi, fd, NULL);
            cd_spare_give(&watches, w);
        }
        return 0;
    }
    if (what & CURL_POLL_IN)
        events |= EPOLLIN;
    if (what & CURL_POLL_OUT)
        events |= EPOLLOUT;
    if (w) {
        cd_io_mod(w->io, events);
        return 0;
    }
    w = cd_spare_take(&watches);
    if (!w)
        return -1;
    *w = (struct watch){.pool = pool, .fd = fd};
    w->io = cd_io_add(pool->loop, fd, events, on_ready, w);
    if (!w->io) {
        cd_spare_give(&watches, w);
        return -1;
    }
    curl_multi_assign(pool->multi, fd, w);
    return 0;
}

static void on_timeout(void *arg)
{
    struct cd_fetch_pool *pool = arg;
    int running;

    curl_multi_socket_action(pool->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    collect(pool);
}

static int on_timer(CURLM *multi, long timeout_ms, void *arg)
{
    struct cd_fetch_pool *pool = arg;

    (void)multi;
    if (timeout_ms < 0) {
        cd_timer_cancel(pool->loop, &pool->timer);
        return 0;
    }
    return cd_timer_set(pool->loop, &pool->timer, timeout_ms, on_timeout, pool);
}

/* --- requests ----------------------------------------------------------------------------- */

static bool add_header(struct flight *f, const char *line)
{
    struct curl_slist *list = curl_slist_append(f->headers, line);

    if (list)
        f->headers = list;
    return list != NULL;
}

static bool add_headers(struct flight *f, const struct cd_fetch_req *req)
{
    struct cd_buf line;
    bool ok;

    if (!add_header(f, "Accept: application/json") || !add_header(f, "Expect:"))
        return false;
    if (req->body.p && !add_header(f, "Content-Type: application/json"))
        return false;
    if (!req->bearer)
        return true;
    cd_buf_init(&line, 8192);
    cd_buf_adds(&line, "Authorization: Bearer ");
    cd_buf_adds(&line, req->bearer);
    ok = !line.failed && !strpbrk(line.p, "\r\n") && add_header(f, line.p);
    if (line.p)
        cd_wipe(line.p, line.n);
    cd_buf_done(&line);
    return ok;
}

static bool set_method(struct flight *f, const struct cd_fetch_req *req)
{
    CURL *e = f->easy;

    if (strcmp(req->method, "GET") == 0)
        return curl_easy_setopt(e, CURLOPT_HTTPGET, 1L) == CURLE_OK;
    f->body_out = malloc(req->body.n + 1);
    if (!f->body_out)
        return false;
    if (req->body.n)
        memcpy(f->body_out, req->body.p, req->body.n);
    f->body_out[req->body.n] = '\0';
    return curl_easy_setopt(e, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)req->body.n) == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_POSTFIELDS, f->body_out) == CURLE_OK &&
           curl_easy_setopt(e, CURLOPT_CUSTOMREQUEST, req->method) == CURLE_OK;
}

static bool set_options(struct flight *f, const struct cd_fetch_req *req)
{
    CURL *e = f->easy;
    CURLcode rc = CURLE_OK;

    rc |= curl_easy_setopt(e, CURLOPT_URL, req->url);
    rc |= curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
    rc |= curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L); /* a token goes to one place only */
    rc |= curl_easy_setopt(e, CURLOPT_PROXY, "");          /* whatever the environment says */
    rc |= curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    rc |= curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_TIMEOUT_MS);
    rc |= curl_easy_setopt(e, CURLOPT_USERAGENT, "matrix-calld");
    rc |= curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_body);
    rc |= curl_easy_setopt(e, CURLOPT_WRITEDATA, f);
    rc |= curl_easy_setopt(e, CURLOPT_PRIVATE, f);
    rc |= curl_easy_setopt(e, CURLOPT_HTTPHEADER, f->headers);
    return rc == CURLE_OK && set_method(f, req);
}

uint64_t cd_fetch(struct cd_fetch_pool *pool, const struct cd_fetch_req *req, cd_fetch_fn fn,
                  void *arg)
{
    struct flight *f;
    long timeout_ms = req->timeout_ms > 0 ? req->timeout_ms : DEFAULT_TIMEOUT_MS;

    if (pool->closing || pool->n_flights >= MAX_FLIGHTS || !cd_fm_ready())
        return 0;
    f = calloc(1, sizeof(*f));
    if (!f)
        return 0;
    f->pool = pool;
    f->fn = fn;
    f->arg = arg;
    f->easy = curl_easy_init();
    cd_buf_init(&f->body_in, req->max_body ? req->max_body : DEFAULT_MAX_BODY);
    f->next = pool->flights;
    if (f->next)
        f->next->prev = f;
    pool->flights = f;
    f->id = ++pool->last_id;
    pool->n_flights++;
    /* Our own deadline, not curl's: it also counts the wait for a free connection. */
    if (!f->easy || !add_headers(f, req) || !set_options(f, req) ||
        cd_timer_set(pool->loop, &f->deadline, timeout_ms, on_deadline, f) != 0 ||
        curl_multi_add_handle(pool->multi, f->easy) != CURLM_OK) {
        flight_free(f);
        return 0;
    }
    return f->id;
}

bool cd_fetch_reachable(const struct cd_fetch_pool *pool)
{
    return !pool->unreachable;
}

void cd_fetch_cancel(struct cd_fetch_pool *pool, uint64_t id)
{
    if (id == 0)
        return;
    for (struct flight *f = pool->flights; f; f = f->next) {
        if (f->id == id) {
            flight_free(f);
            return;
        }
    }
}

/* --- the pool ----------------------------------------------------------------------------- */

struct cd_fetch_pool *cd_fetch_new(struct cd_loop *loop)
{
    struct cd_fetch_pool *pool = calloc(1, sizeof(*pool));
    CURLMcode rc = CURLM_OK;

    if (!pool)
        return NULL;
    pool->loop = loop;
    cd_fm_setup();
    cd_spare_fill(&watches);
    if (curl_global_init_mem(CURL_GLOBAL_DEFAULT, cd_fm_malloc, cd_fm_free, cd_fm_realloc,
                             cd_fm_strdup, cd_fm_calloc) != CURLE_OK) {
        free(pool);
        return NULL;
    }
    pool->multi = curl_multi_init();
    if (!pool->multi) {
        curl_global_cleanup();
        free(pool);
        return NULL;
    }
    rc |= curl_multi_setopt(pool->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    rc |= curl_multi_setopt(pool->multi, CURLMOPT_SOCKETDATA, pool);
    rc |= curl_multi_setopt(pool->multi, CURLMOPT_TIMERFUNCTION, on_timer);
    rc |= curl_multi_setopt(pool->multi, CURLMOPT_TIMERDATA, pool);
    rc |= curl_multi_setopt(pool->multi, CURLMOPT_MAXCONNECTS, MAX_CONNECTIONS);
    rc |= curl_multi_setopt(pool->multi, CURLMOPT_MAX_HOST_CONNECTIONS, MAX_CONNECTIONS);
    if (rc != CURLM_OK) {
        cd_fetch_free(pool);
        return NULL;
    }
    return pool;
}

void cd_fetch_free(struct cd_fetch_pool *pool)
{
    if (!pool)
        return;
    pool->closing = true;
    while (pool->flights)
        finish(pool->flights, "shutting down");
    cd_timer_cancel(pool->loop, &pool->timer);
    curl_multi_cleanup(pool->multi);
    cd_timer_cancel(pool->loop, &pool->timer); /* cleaning up may have armed it again */
    curl_global_cleanup();
    free(pool);
}

/* ws.c -- WebSocket connections on libwebsockets, whole messages in and out.
 * In: accepted sockets; cd_ws_send() from anywhere on the loop. Out: the endpoint's callbacks.
 * Why: what the library leaves to its users is done here once: putting messages together, UTF-8,
 *      bounded queues, refusals that close, writing at once when nothing waits.
 * State: one endpoint and the list of connections, for the process. Owns: connections and their
 *        queues. Blocks: never. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "in/ws.h"

#include <libwebsockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/budget.h"
#include "base/buf.h"
#include "base/log.h"
#include "in/classify.h"
#include "in/cors.h"
#include "in/http_raw.h"
#include "in/peers.h"
#include "in/proxy.h"
#include "loop/loop.h"

/* Upstream writes from its WRITEABLE callback only, which costs four epoll_ctl calls a message with
 * libuv. Writing at once is sound while nothing is queued here or there. 0: the official way. */
#ifndef CD_WS_DIRECT
#define CD_WS_DIRECT 1
#endif

#define CLOSE_SECONDS 5     /* for what is queued and the closing handshake */
#define KEEP_BYTES 2048     /* a message buffer up to this size is kept for the next one */
#define FORWARDED_BYTES 1024
#define ORIGIN_BYTES 512

struct frame {
    struct frame *next;
    size_t n;
    enum lws_write_protocol kind; /* LWS_WRITE_TEXT, _BINARY or _PING */
    unsigned char data[]; /* LWS_PRE bytes of headroom, then the message */
};

struct cd_ws {
    struct lws *wsi;
    struct cd_loop *loop;
    struct cd_ws *prev, *next;
    void *user;
    char *target;               /* until the handshake has been judged */
    struct frame *first, *last; /* waiting to be written */
    size_t queued_n, queued_bytes;
    struct cd_buf in;           /* the message being put together */
    bool in_message, in_binary;
    bool bridged, ready, closing, close_sent;
    uint16_t close_code;
    char close_reason[124];
    char peer_ip[CD_IP_LEN];
    char counted_ip[CD_IP_LEN];
};

static struct {
    const struct cd_ws_ops *ops;
    void *self;
    struct cd_ws_conf conf;
    struct cd_proxy proxy;
    char *prefix, *origins;
    struct cd_ws *first;
    size_t n;
    struct cd_ws *adopting; /* still ours if libwebsockets refuses it */
    unsigned char *scratch; /* LWS_PRE + scratch_n bytes, for writing at once */
    size_t scratch_n;
    char *text;             /* for a message that came in one piece */
    size_t text_n;
} ws;

/* --- life of a connection ------------------------------------------------------------ */

static void drop_queue(struct cd_ws *w)
{
    while (w->first) {
        struct frame *f = w->first;

        w->first = f->next;
        free(f);
    }
    w->last = NULL;
    cd_budget_give(CD_BUDGET_QUEUES, w->queued_bytes);
    w->queued_n = w->queued_bytes = 0;
}

static void tell_closed(struct cd_ws *w)
{
    void *user = w->user;

    w->user = NULL;
    w->ready = false;
    w->closing = true;
    if (user)
        ws.ops->on_close(user);
}

static void forget(struct cd_ws *w)
{
    tell_closed(w);
    if (ws.adopting == w)
        ws.adopting = NULL;
    if (w->next)
        w->next->prev = w->prev;
    if (w->prev)
        w->prev->next = w->next;
    else
        ws.first = w->next;
    ws.n--;
    if (w->counted_ip[0])
        cd_peers_give(w->counted_ip);
    drop_queue(w);
    cd_buf_done(&w->in);
    free(w->target);
    free(w);
    if (!ws.first) { /* the last one out: nothing stays allocated */
        free(ws.scratch);
        free(ws.text);
        ws.scratch = NULL;
        ws.text = NULL;
        ws.scratch_n = ws.text_n = 0;
    }
}

/* Never closes inside: the caller may stand in another connection's callback. */
static void kill_later(struct cd_ws *w)
{
    w->closing = true;
    drop_queue(w);
    lws_set_timeout(w->wsi, PENDING_TIMEOUT_USER_OK, LWS_TO_KILL_ASYNC);
}

/* --- the handshake ------------------------------------------------------------------- */

/* Any answer but 101 ends the connection: a proxy would send REST requests on it.
 * @return what libwebsockets' callback must return */
static int refuse(struct cd_ws *w, const char *origin, int status, const char *why)
{
    w->closing = true;
    cd_http_raw_refuse(w->loop, lws_get_socket_fd(w->wsi), ws.origins, origin, status, why);
    return -1;
}

static const char *copy_header(struct lws *wsi, enum lws_token_indexes token, char *out, size_t n)
{
    int len = lws_hdr_total_length(wsi, token);

    if (len <= 0 || lws_hdr_copy(wsi, out, (int)n, token) <= 0)
        return NULL;
    return out;
}

/* libwebsockets would take drafts of 2011, too. */
static bool is_version_13(struct lws *wsi)
{
    char version[8];
    const char *v = copy_header(wsi, WSI_TOKEN_VERSION, version, sizeof(version));

    return v && strcmp(v, "13") == 0 && lws_hdr_total_length(wsi, WSI_TOKEN_KEY) == 24;
}

static bool count_client(struct cd_ws *w, const char *client_ip)
{
    if (w->bridged || strcmp(w->counted_ip, client_ip) == 0)
        return true;
    if (w->counted_ip[0])
        cd_peers_give(w->counted_ip);
    w->counted_ip[0] = '\0';
    if (!cd_peers_take(client_ip))
        return false;
    memcpy(w->counted_ip, client_ip, strlen(client_ip) + 1);
    return true;
}

/* An upgrade request is complete; headers can still be read. */
static int judge(struct cd_ws *w)
{
    char forwarded[FORWARDED_BYTES], origin[ORIGIN_BYTES], client_ip[CD_IP_LEN], why[512] = "";
    struct cd_ws_hello hello = {.client_ip = client_ip};
    int status = 400;
    void *user;

    hello.origin = copy_header(w->wsi, WSI_TOKEN_ORIGIN, origin, sizeof(origin));
    if (!hello.origin && lws_hdr_total_length(w->wsi, WSI_TOKEN_ORIGIN) > 0)
        return refuse(w, NULL, 400, "The Origin header is too long.");
    if (!is_version_13(w->wsi))
        return refuse(w, hello.origin, 400, "This is no WebSocket handshake of version 13.");
    if (lws_hdr_total_length(w->wsi, WSI_TOKEN_PROTOCOL) > 0)
        return refuse(w, hello.origin, 400, "This endpoint speaks no WebSocket subprotocol.");
    if (!cd_cors_allows(ws.origins, hello.origin))
        return refuse(w, hello.origin, 403, "This web origin is not allowed.");
    cd_proxy_client(&ws.proxy, w->peer_ip,
                    w->bridged ? NULL : copy_header(w->wsi, WSI_TOKEN_X_FORWARDED_FOR, forwarded,
                                                    sizeof(forwarded)),
                    client_ip);
    if (!count_client(w, client_ip))
        return refuse(w, hello.origin, 429, "Too many connections from your address.");
    hello.target = cd_strip_prefix(cd_str_of(w->target), ws.prefix).p;
    user = ws.ops->on_open(ws.self, w, &hello, &status, why, sizeof(why));
    free(w->target);
    w->target = NULL;
    if (!user)
        return refuse(w, hello.origin, status, why);
    w->user = user;
    return 0;
}

bool cd_ws_accept_key(const char *key, char *out, size_t out_size)
{
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    unsigned char text[128], sum[20];
    size_t n = strlen(key);

    if (n + sizeof(guid) > sizeof(text))
        return false;
    memcpy(text, key, n);
    memcpy(text + n, guid, sizeof(guid) - 1);
    lws_SHA1(text, n + sizeof(guid) - 1, sum);
    return lws_b64_encode_string((const char *)sum, sizeof(sum), out, (int)out_size) > 0;
}

/* --- receiving ----------------------------------------------------------------------- */

/* The client broke a rule: tell it why, and ignore what else it sends.
 * @return what libwebsockets' callback must return */
static int fail_with(struct cd_ws *w, uint16_t code, const char *reason)
{
    drop_queue(w);
    cd_ws_close(w, code, reason);
    return 0;
}

/* A whole message; @p p is writable and has room for a NUL. */
static int deliver(struct cd_ws *w, char *p, size_t n)
{
    if (w->in_binary) {
        ws.ops->on_binary(w->user, p, n);
        return 0;
    }
    if (!cd_utf8_valid(p, n))
        return fail_with(w, 1007, "not UTF-8");
    p[n] = '\0';
    ws.ops->on_text(w->user, p, n);
    return 0;
}

static int deliver_whole(struct cd_ws *w, const void *p, size_t n)
{
    if (n >= ws.text_n) {
        char *larger = realloc(ws.text, n + 1024);

        if (!larger)
            return fail_with(w, 1011, "out of memory");
        ws.text = larger;
        ws.text_n = n + 1024;
    }
    if (n)
        memcpy(ws.text, p, n);
    return deliver(w, ws.text, n);
}

/* A piece: even a short message may come in several, when its frame crosses the read buffer. */
static int receive(struct cd_ws *w, const void *p, size_t n)
{
    bool whole = lws_is_final_fragment(w->wsi) && !lws_remaining_packet_payload(w->wsi);
    bool begins = !w->in_message;
    int rc;

    if (w->closing)
        return 0;
    if (begins) {
        w->in_message = true;
        w->in_binary = lws_frame_is_binary(w->wsi) != 0;
    }
    if (w->in.n + n > ws.conf.max_message)
        return fail_with(w, 1009, "message too large");
    if (begins && whole) {
        w->in_message = false;
        return deliver_whole(w, p, n);
    }
    cd_buf_add(&w->in, p, n);
    if (w->in.failed)
        return fail_with(w, 1011, "out of memory");
    if (!whole)
        return 0;
    w->in_message = false;
    cd_buf_addc(&w->in, '\0');
    if (w->in.failed)
        return fail_with(w, 1011, "out of memory");
    rc = deliver(w, w->in.p, w->in.n - 1);
    if (w->in.cap > KEEP_BYTES)
        cd_buf_done(&w->in);
    cd_buf_reset(&w->in);
    return rc;
}

/* --- sending ------------------------------------------------------------------------- */

/* @param p  the message, with LWS_PRE writable bytes before it. @return false: it failed */
static bool write_now(struct cd_ws *w, unsigned char *p, size_t n, enum lws_write_protocol kind)
{
    return lws_write(w->wsi, p, n, kind) >= (int)n;
}

static bool write_scratch(struct cd_ws *w, const void *p, size_t n, enum lws_write_protocol kind)
{
    if (n > ws.scratch_n || !ws.scratch) {
        unsigned char *larger = realloc(ws.scratch, LWS_PRE + n + 4096);

        if (!larger)
            return false;
        ws.scratch = larger;
        ws.scratch_n = n + 4096;
    }
    if (n)
        memcpy(ws.scratch + LWS_PRE, p, n);
    return write_now(w, ws.scratch + LWS_PRE, n, kind);
}

static bool enqueue(struct cd_ws *w, const void *p, size_t n, enum lws_write_protocol kind)
{
    struct frame *f;

    if (w->queued_n + 1 > ws.conf.queue_messages || w->queued_bytes + n > ws.conf.queue_bytes) {
        struct cd_log_ctx ctx = {.conn = w->peer_ip};

        cd_log(CD_LOG_INFO, "in", "ws.slow", &ctx, "%zu messages, %zu bytes wait: closed",
               w->queued_n, w->queued_bytes);
        drop_queue(w);
        cd_ws_close(w, 1008, "too slow");
        return false;
    }
    f = malloc(sizeof(*f) + LWS_PRE + n);
    if (!f) {
        kill_later(w);
        return false;
    }
    f->next = NULL;
    f->n = n;
    f->kind = kind;
    if (n)
        memcpy(f->data + LWS_PRE, p, n);
    if (w->last)
        w->last->next = f;
    else
        w->first = f;
    w->last = f;
    w->queued_n++;
    w->queued_bytes += n;
    cd_budget_take(CD_BUDGET_QUEUES, n);
    lws_callback_on_writable(w->wsi);
    return true;
}

static bool send_any(struct cd_ws *w, const void *p, size_t n, enum lws_write_protocol kind)
{
    if (!w->ready || w->closing)
        return false;
    if (!CD_WS_DIRECT || w->first || lws_partial_buffered(w->wsi))
        return enqueue(w, p, n, kind);
    if (write_scratch(w, p, n, kind))
        return true;
    kill_later(w);
    return false;
}

/* lws_close_reason() and returning -1 would do, but for Debian's build: with libuv it closes twice
 * in a row, and the second time drops the frame. The client's close, or the timeout, ends it. */
static bool write_close(struct cd_ws *w)
{
    unsigned char out[LWS_PRE + 4 + sizeof(w->close_reason)];
    unsigned char *frame = out + LWS_PRE; /* a final, unmasked close frame of at most 125 bytes */
    size_t n = strlen(w->close_reason);

    frame[0] = 0x88;
    frame[1] = (unsigned char)(2 + n);
    frame[2] = (unsigned char)(w->close_code >> 8);
    frame[3] = (unsigned char)(w->close_code & 0xff);
    memcpy(frame + 4, w->close_reason, n);
    w->close_sent = true;
    return lws_write(w->wsi, frame, 4 + n, LWS_WRITE_RAW) >= 0;
}

static int writeable(struct cd_ws *w)
{
    while (w->first && !lws_partial_buffered(w->wsi)) {
        struct frame *f = w->first;
        bool ok = write_now(w, f->data + LWS_PRE, f->n, f->kind);

        w->first = f->next;
        if (!w->first)
            w->last = NULL;
        w->queued_n--;
        w->queued_bytes -= f->n;
        cd_budget_give(CD_BUDGET_QUEUES, f->n);
        free(f);
        if (!ok)
            return -1;
    }
    if (w->first || (w->closing && !w->close_sent && lws_partial_buffered(w->wsi))) {
        lws_callback_on_writable(w->wsi);
        return 0;
    }
    if (w->closing)
        return w->close_sent || write_close(w) ? 0 : -1;
    return 0;
}

/* --- libwebsockets ------------------------------------------------------------------- */

static int callback(struct lws *wsi, int reason, void *user, void *in, size_t len)
{
    struct cd_ws *w = lws_get_opaque_user_data(wsi);

    (void)user;
    if (!w)
        return 0;
    w->wsi = wsi;
    switch (reason) {
    case LWS_CALLBACK_HTTP:
        return refuse(w, NULL, 426, "This address takes WebSocket handshakes only.");
    case LWS_CALLBACK_HTTP_CONFIRM_UPGRADE:
        if (!in || strcasecmp(in, "websocket") != 0)
            return refuse(w, NULL, 400, "This is no WebSocket handshake.");
        return judge(w);
    case LWS_CALLBACK_FILTER_PROTOCOL_CONNECTION:
        return w->user ? 0 : -1;
    case LWS_CALLBACK_ESTABLISHED:
        w->ready = true;
        if (w->closing)
            lws_callback_on_writable(wsi);
        else
            ws.ops->on_ready(w->user);
        return 0;
    case LWS_CALLBACK_RECEIVE:
        return receive(w, in, len);
    case LWS_CALLBACK_RECEIVE_PONG:
        if (!w->closing && ws.ops->on_pong)
            ws.ops->on_pong(w->user);
        return 0;
    case LWS_CALLBACK_SERVER_WRITEABLE:
        return writeable(w);
    case LWS_CALLBACK_WS_PEER_INITIATED_CLOSE:
        w->closing = true; /* nothing may be sent any more */
        return w->close_sent ? -1 : 0;
    case LWS_CALLBACK_CLOSED:
        tell_closed(w);
        return 0;
    case LWS_CALLBACK_WSI_DESTROY:
        forget(w);
        return 0;
    default:
        return 0;
    }
}

/* The request target as it was sent; libwebsockets' own copy is decoded. It is all there:
 * listener.c and bridge.c hand over complete request lines. */
static char *peek_target(int fd)
{
    char head[CD_CLASSIFY_BYTES * 8];
    ssize_t n = recv(fd, head, sizeof(head) - 1, MSG_PEEK | MSG_DONTWAIT);
    size_t target_n;

    if (n < 5 || memcmp(head, "GET ", 4) != 0)
        return NULL;
    head[n] = '\0';
    target_n = strcspn(head + 4, " \r\n");
    return head[4 + target_n] ? strndup(head + 4, target_n) : NULL;
}

static void adopt(struct cd_loop *loop, int fd, const char *ip, bool bridged)
{
    struct cd_ws *w = calloc(1, sizeof(*w));
    lws_adopt_desc_t desc = {.vh = cd_loop_vhost(loop), .type = LWS_ADOPT_SOCKET | LWS_ADOPT_HTTP,
                             .fd.sockfd = fd, .opaque = w};
    struct lws *wsi;

    if (w)
        w->target = peek_target(fd);
    if (!w || !w->target || !desc.vh) {
        if (w)
            free(w->target);
        free(w);
        close(fd);
        return;
    }
    w->loop = loop;
    w->bridged = bridged;
    snprintf(w->peer_ip, sizeof(w->peer_ip), "%s", ip);
    cd_buf_init(&w->in, ws.conf.max_message + 1);
    w->next = ws.first;
    if (w->next)
        w->next->prev = w;
    ws.first = w;
    ws.n++;
    if (!cd_proxy_trusts(&ws.proxy, ip) && !count_client(w, ip)) {
        cd_http_raw_refuse(loop, fd, ws.origins, NULL, 429,
                           "Too many connections from your address.");
        close(fd);
        forget(w);
        return;
    }
    ws.adopting = w;
    wsi = lws_adopt_descriptor_vhost_via_info(&desc);
    if (ws.adopting != w)
        return; /* gone already, inside that call */
    ws.adopting = NULL;
    if (wsi)
        w->wsi = wsi;
    else
        forget(w);
}

/* --- interface ----------------------------------------------------------------------- */

void cd_ws_setup(const struct cd_ws_ops *ops, void *self, const struct cd_ws_conf *conf)
{
    ws.ops = ops;
    ws.self = self;
    ws.conf = *conf;
    cd_loop_set_ws_callback(callback, 0);
}

void cd_ws_set_proxy(const char *path_prefix, const char *trust_proxy)
{
    struct cd_err err = {0};

    free(ws.prefix);
    ws.prefix = strdup(path_prefix ? path_prefix : "");
    if (cd_proxy_parse(&ws.proxy, trust_proxy, &err) != CD_OK)
        cd_log(CD_LOG_ERROR, "in", "ws.proxy", NULL, "%s", err.text);
}

void cd_ws_set_origins(const char *cors_origins)
{
    free(ws.origins);
    ws.origins = strdup(cors_origins ? cors_origins : "*");
}

void cd_ws_adopt(struct cd_loop *loop, int fd, const char *peer_ip)
{
    adopt(loop, fd, peer_ip, false);
}

void cd_ws_adopt_bridged(struct cd_loop *loop, int fd, const char *client_ip)
{
    adopt(loop, fd, client_ip, true);
}

bool cd_ws_send(struct cd_ws *w, const char *text, size_t n)
{
    return send_any(w, text, n, LWS_WRITE_TEXT);
}

bool cd_ws_send_binary(struct cd_ws *w, const void *p, size_t n)
{
    return send_any(w, p, n, LWS_WRITE_BINARY);
}

bool cd_ws_ping(struct cd_ws *w)
{
    return send_any(w, "?", 1, LWS_WRITE_PING); /* upstream does not report an empty pong */
}

size_t cd_ws_queued(const struct cd_ws *w)
{
    return w->queued_bytes;
}

void cd_ws_close(struct cd_ws *w, uint16_t code, const char *reason)
{
    if (w->closing)
        return;
    w->closing = true;
    w->close_code = code;
    snprintf(w->close_reason, sizeof(w->close_reason), "%s", reason ? reason : "");
    lws_set_timeout(w->wsi, PENDING_TIMEOUT_USER_OK, CLOSE_SECONDS);
    if (w->ready)
        lws_callback_on_writable(w->wsi);
}

void cd_ws_close_all(void)
{
    for (struct cd_ws *w = ws.first; w; w = w->next) {
        if (w->ready)
            cd_ws_close(w, 1001, "server stops");
        else
            kill_later(w);
    }
}

size_t cd_ws_close_largest(size_t above)
{
    struct cd_ws *most = NULL;
    size_t bytes = above;

    for (struct cd_ws *w = ws.first; w; w = w->next) {
        if (w->queued_bytes > bytes && !w->closing) {
            most = w;
            bytes = w->queued_bytes;
        }
    }
    if (!most)
        return 0;
    drop_queue(most);
    cd_ws_close(most, 1013, "server short of memory");
    return bytes;
}

size_t cd_ws_count(void)
{
    size_t n = 0;

    for (const struct cd_ws *w = ws.first; w; w = w->next)
        n += w->ready;
    return n;
}

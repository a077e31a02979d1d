/* listener.c -- listening sockets. Accepts, looks at the first bytes without taking them, and hands
 * the connection to HTTP or to WebSockets.
 * Why: one public port carries both, and neither library can give a connection to the other. The
 *      look is nearly always decided at once; the rest waits edge-triggered, so that a client that
 *      sends half a line and stops costs nothing.
 * State: one struct a listener, one a waiting connection. Owns: their sockets. Blocks: never. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "in/listener.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fds.h"
#include "base/log.h"
#include "in/classify.h"
#include "in/proxy.h"
#include "in/ws.h"
#include "loop/loop.h"

#define ACCEPT_BATCH 64      /* then other sources get their turn */
#define WAITING_MAX 4096     /* undecided connections of one listener */
#define RETRY_MS 200         /* after running out of descriptors */
#define BACKLOG 1024
#define KEEPALIVE_IDLE_S 45
#define KEEPALIVE_STEP_S 10
#define KEEPALIVE_PROBES 3

union address {
    struct sockaddr sa;
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
    struct sockaddr_un un;
    struct sockaddr_storage storage;
};

struct cd_listener {
    struct cd_loop *loop;
    struct cd_http *http;
    struct cd_io *io;
    struct cd_timer retry;
    enum cd_role role;
    char *prefix;
    char *unix_path; /* to be removed; NULL for TCP */
    char text[160];
    int fd;
    bool failing; /* said so, and nothing was accepted since */
    struct waiting *first;
    unsigned waiting_n;
};

/* An accepted connection whose request line is not complete. */
struct waiting {
    struct cd_listener *listener;
    struct waiting *prev, *next;
    struct cd_io *io;
    struct cd_timer timer;
    union address addr;
    socklen_t addr_len;
    int fd;
};

/* --- deciding ------------------------------------------------------------------------ */

static enum cd_class look(const struct cd_listener *l, int fd, const char **fault)
{
    char head[CD_CLASSIFY_BYTES];
    enum cd_class class;
    ssize_t n;

    *fault = NULL;
    if (l->role != CD_ROLE_PUBLIC)
        return CD_CLASS_HTTP;
    n = recv(fd, head, sizeof(head), MSG_PEEK | MSG_DONTWAIT);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? CD_CLASS_MORE : CD_CLASS_CLOSE;
    class = n == 0 ? CD_CLASS_CLOSE : cd_classify((struct cd_str){head, (size_t)n}, l->prefix);
    if (class == CD_CLASS_HTTP)
        *fault = cd_head_fault((struct cd_str){head, (size_t)n});
    return class;
}

/* Hand a decided connection on. */
static void settle(struct cd_listener *l, int fd, enum cd_class class, const char *fault,
                   const union address *addr, socklen_t addr_len)
{
    char ip[CD_IP_LEN];

    if (fault) {
        cd_http_turn_away(l->http, fd, 400, fault);
    } else if (class == CD_CLASS_HTTP) {
        cd_http_adopt(l->http, fd, l->role, &addr->sa, addr_len);
    } else if (class == CD_CLASS_WS) {
        cd_proxy_peer(&addr->sa, addr_len, ip);
        cd_ws_adopt(l->loop, fd, ip);
    } else {
        close(fd);
    }
}

static void forget(struct waiting *w)
{
    struct cd_listener *l = w->listener;

    if (w->next)
        w->next->prev = w->prev;
    if (w->prev)
        w->prev->next = w->next;
    else
        l->first = w->next;
    l->waiting_n--;
    cd_timer_cancel(l->loop, &w->timer);
    cd_io_del(w->io);
    free(w);
}

static void drop(void *arg)
{
    struct waiting *w = arg;
    int fd = w->fd;

    forget(w);
    close(fd);
}

static void more_came(void *arg, uint32_t events)
{
    struct waiting *w = arg;
    const char *fault;
    enum cd_class class = look(w->listener, w->fd, &fault);
    struct waiting found = *w;

    if (class == CD_CLASS_MORE) {
        if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
            drop(w); /* nothing more will come */
        return;
    }
    forget(w); /* it must not be watched twice */
    settle(found.listener, found.fd, class, fault, &found.addr, found.addr_len);
}

static void wait_for_more(struct cd_listener *l, int fd, const union address *addr,
                          socklen_t addr_len)
{
    struct waiting *w = l->waiting_n < WAITING_MAX ? calloc(1, sizeof(*w)) : NULL;

    if (w) {
        w->listener = l;
        w->fd = fd;
        w->addr = *addr;
        w->addr_len = addr_len;
        w->io = cd_io_add(l->loop, fd, EPOLLIN | EPOLLRDHUP | EPOLLET, more_came, w);
    }
    if (!w || !w->io) {
        free(w);
        close(fd);
        return;
    }
    w->next = l->first;
    if (w->next)
        w->next->prev = w;
    l->first = w;
    l->waiting_n++;
    if (cd_timer_set(l->loop, &w->timer, cd_http_line_ms(l->http), drop, w) < 0)
        drop(w);
}

/* --- accepting ----------------------------------------------------------------------- */

static void accept_some(void *arg, uint32_t events);

static void accept_again(void *arg)
{
    struct cd_listener *l = arg;

    cd_io_mod(l->io, EPOLLIN);
}

/* Out of descriptors: the level-triggered socket would spin, so look away for a moment. */
static void rest(struct cd_listener *l, int error)
{
    if (!l->failing)
        cd_log(CD_LOG_ERROR, "in", "accept.failed", NULL, "%s: %s; tried again until it works", l->text,
               strerror(error));
    l->failing = true;
    cd_io_mod(l->io, 0);
    cd_timer_set(l->loop, &l->retry, RETRY_MS, accept_again, l);
}

static void works(struct cd_listener *l)
{
    if (l->failing)
        cd_log(CD_LOG_INFO, "in", "accept.works", NULL, "%s: everybody who waited was taken", l->text);
    l->failing = false;
}

/* A peer that is gone without a word is noticed by the kernel: idle WebSockets on /ws have no heartbeat. */
static void tune(int fd)
{
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &(int){1}, sizeof(int));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &(int){KEEPALIVE_IDLE_S}, sizeof(int));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &(int){KEEPALIVE_STEP_S}, sizeof(int));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &(int){KEEPALIVE_PROBES}, sizeof(int));
}

/* The last descriptors are for the database, the homeserver and the admin. */
static void turn_away(struct cd_listener *l, int fd)
{
    char bin[4096];

    /* what has come already would make the close a reset, which overtakes the answer */
    for (int i = 0; i < 16 && recv(fd, bin, sizeof(bin), MSG_DONTWAIT) > 0; i++)
        ;
    cd_http_turn_away(l->http, fd, 503, "The server has no room for another connection; try again later.");
}

static void accept_some(void *arg, uint32_t events)
{
    struct cd_listener *l = arg;

    (void)events;
    for (int i = 0; i < ACCEPT_BATCH; i++) {
        union address addr = {0};
        socklen_t addr_len = sizeof(addr);
        int fd = accept4(l->fd, &addr.sa, &addr_len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        enum cd_class class;
        const char *fault;

        if (fd < 0) {
            if (errno == ECONNABORTED || errno == EINTR)
                continue;
            if (errno == EAGAIN)
                works(l);
            else
                rest(l, errno);
            return;
        }
        if (l->role == CD_ROLE_PUBLIC && cd_fds_scarce(fd)) {
            turn_away(l, fd);
            continue;
        }
        if (!l->unix_path)
            tune(fd);
        class = look(l, fd, &fault);
        if (class == CD_CLASS_MORE)
            wait_for_more(l, fd, &addr, addr_len);
        else
            settle(l, fd, class, fault, &addr, addr_len);
    }
}

/* --- opening ------------------------------------------------------------------------- */

static bool fill_unix(const char *path, union address *out, socklen_t *len)
{
    size_t n = strlen(path);

    if (n == 0 || n >= sizeof(out->un.sun_path))
        return false;
    out->un.sun_family = AF_UNIX;
    memcpy(out->un.sun_path, path, n + 1);
    *len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + 1);
    return true;
}

/* "host:port" with a literal address; "[v6]:port"; a bare port means loopback. */
static bool fill_tcp(const char *text, union address *out, socklen_t *len)
{
    const char *colon = strrchr(text, ':');
    struct cd_str host = {text, colon ? (size_t)(colon - text) : 0};
    char name[64];
    uint64_t port;

    if (!cd_parse_u64(cd_str_of(colon ? colon + 1 : text), 0, 65535, &port))
        return false;
    if (host.n >= 2 && host.p[0] == '[' && host.p[host.n - 1] == ']')
        host = (struct cd_str){host.p + 1, host.n - 2};
    if (host.n >= sizeof(name))
        return false;
    snprintf(name, sizeof(name), "%.*s", (int)host.n, host.p);
    if (!colon || strcmp(name, "localhost") == 0)
        snprintf(name, sizeof(name), "127.0.0.1");
    if (inet_pton(AF_INET, name, &out->in.sin_addr) == 1) {
        out->in.sin_family = AF_INET;
        out->in.sin_port = htons((uint16_t)port);
        *len = sizeof(out->in);
        return true;
    }
    if (inet_pton(AF_INET6, name, &out->in6.sin6_addr) != 1)
        return false;
    out->in6.sin6_family = AF_INET6;
    out->in6.sin6_port = htons((uint16_t)port);
    *len = sizeof(out->in6);
    return true;
}

/* A socket file of a daemon that died is in the way; one that answers belongs to a living one. */
static bool is_stale(const union address *addr, socklen_t len)
{
    struct stat st;
    int fd, rc;

    if (lstat(addr->un.sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
        return false;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    rc = connect(fd, &addr->sa, len) < 0 && errno == ECONNREFUSED;
    close(fd);
    return rc;
}

static int bind_socket(const union address *addr, socklen_t len)
{
    int fd = socket(addr->sa.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    mode_t mask;
    int rc;

    if (fd < 0)
        return -1;
    if (addr->sa.sa_family == AF_UNIX) {
        if (is_stale(addr, len))
            unlink(addr->un.sun_path);
        mask = umask(0117); /* 0660 from the first moment */
        rc = bind(fd, &addr->sa, len);
        umask(mask);
    } else {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
        if (addr->sa.sa_family == AF_INET6)
            setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &(int){0}, sizeof(int));
        rc = bind(fd, &addr->sa, len);
    }
    if (rc == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    rc = errno;
    close(fd);
    errno = rc;
    return -1;
}

static void describe(struct cd_listener *l)
{
    union address addr = {0};
    socklen_t len = sizeof(addr);
    char ip[CD_IP_LEN];

    if (l->unix_path) {
        snprintf(l->text, sizeof(l->text), "unix:%s", l->unix_path);
        return;
    }
    getsockname(l->fd, &addr.sa, &len);
    if (addr.sa.sa_family == AF_INET6) {
        inet_ntop(AF_INET6, &addr.in6.sin6_addr, ip, sizeof(ip));
        snprintf(l->text, sizeof(l->text), "[%s]:%u", ip, ntohs(addr.in6.sin6_port));
    } else {
        inet_ntop(AF_INET, &addr.in.sin_addr, ip, sizeof(ip));
        snprintf(l->text, sizeof(l->text), "%s:%u", ip, ntohs(addr.in.sin_port));
    }
}

static struct cd_listener *start(struct cd_listener *l, const char *address, struct cd_err *err)
{
    const char *path = strncmp(address, "unix:", 5) == 0 ? address + 5
                       : *address == '/'                 ? address
                                                         : NULL;
    union address addr = {0};
    socklen_t len = 0;

    if (path ? !fill_unix(path, &addr, &len) : !fill_tcp(address, &addr, &len)) {
        cd_fail(err, CD_E_INVALID_PARAM, "\"%.120s\" is no address to listen on: "
                "write 127.0.0.1:3000, [::1]:3000 or unix:/path.", address);
        return NULL;
    }
    l->fd = bind_socket(&addr, len);
    if (l->fd < 0) {
        cd_fail(err, CD_E_INTERNAL, "Cannot listen on %.120s: %s.", address, strerror(errno));
        return NULL;
    }
    l->unix_path = path ? strdup(path) : NULL;
    describe(l);
    l->io = cd_io_add(l->loop, l->fd, EPOLLIN, accept_some, l);
    if (l->io && (l->unix_path || !path))
        return l;
    cd_fail(err, CD_E_NO_MEMORY, NULL);
    return NULL;
}

struct cd_listener *cd_listener_open(struct cd_loop *loop, struct cd_http *http, const char *address,
                                     enum cd_role role, const char *path_prefix, struct cd_err *err)
{
    struct cd_listener *l = calloc(1, sizeof(*l));

    if (!l) {
        cd_fail(err, CD_E_NO_MEMORY, NULL);
        return NULL;
    }
    l->loop = loop;
    l->http = http;
    l->role = role;
    l->fd = -1;
    l->prefix = strdup(path_prefix ? path_prefix : "");
    if (l->prefix && start(l, address, err))
        return l;
    cd_listener_close(l);
    return NULL;
}

const char *cd_listener_address(const struct cd_listener *l)
{
    return l->text;
}

void cd_listener_close(struct cd_listener *l)
{
    if (!l)
        return;
    while (l->first)
        drop(l->first);
    cd_timer_cancel(l->loop, &l->retry);
    cd_io_del(l->io);
    if (l->fd >= 0)
        close(l->fd);
    if (l->unix_path)
        unlink(l->unix_path);
    free(l->unix_path);
    free(l->prefix);
    free(l);
}

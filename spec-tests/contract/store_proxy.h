/* store_proxy.h -- a TCP proxy on the tests' own loop that loses what it is told to lose. */
#ifndef STORE_PROXY_H
#define STORE_PROXY_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "loop/loop.h"

#define PROXY_LINKS 64

struct proxy_link {
    struct proxy *proxy;
    int fd[2]; /* client, server */
    struct cd_io *io[2];
    bool swallow; /* what the server says is read and lost */
};

struct proxy {
    int listener, port, server_port;
    struct cd_io *io;
    struct proxy_link link[PROXY_LINKS];
    size_t n;
    bool swallow_new; /* links made from now on swallow */
    size_t swallowed; /* bytes */
};

static inline int proxy_socket(void)
{
    return socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

static inline struct sockaddr_in proxy_addr(int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};

    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return a;
}

static inline void proxy_cut(struct proxy_link *l)
{
    for (int i = 0; i < 2; i++) {
        if (l->fd[i] < 0)
            continue;
        cd_io_del(l->io[i]);
        close(l->fd[i]);
        l->fd[i] = -1;
    }
}

static inline void proxy_write(int fd, const char *p, size_t n)
{
    while (n) {
        ssize_t w = send(fd, p, n, MSG_NOSIGNAL);
        struct pollfd pf = {.fd = fd, .events = POLLOUT};

        if (w > 0) {
            p += w;
            n -= (size_t)w;
        } else if (errno != EAGAIN || poll(&pf, 1, 1000) <= 0) {
            return;
        }
    }
}

static inline void proxy_move(struct proxy_link *l, int from)
{
    char buf[65536];
    ssize_t n;

    if (l->fd[from] < 0)
        return;
    n = recv(l->fd[from], buf, sizeof buf, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0)
        proxy_cut(l);
    else if (from == 1 && l->swallow)
        l->proxy->swallowed += (size_t)n;
    else
        proxy_write(l->fd[!from], buf, (size_t)n);
}

static inline void proxy_client(void *arg, uint32_t events)
{
    (void)events;
    proxy_move(arg, 0);
}

static inline void proxy_server(void *arg, uint32_t events)
{
    (void)events;
    proxy_move(arg, 1);
}

static inline void proxy_accept(void *arg, uint32_t events)
{
    struct proxy *p = arg;
    struct proxy_link *l = &p->link[p->n];
    struct sockaddr_in to = proxy_addr(p->server_port);
    int fd = accept(p->listener, NULL, NULL);

    (void)events;
    if (fd < 0 || p->n == PROXY_LINKS) {
        close(fd);
        return;
    }
    l->proxy = p;
    l->swallow = p->swallow_new;
    l->fd[0] = fd;
    l->fd[1] = proxy_socket();
    if (connect(l->fd[1], (struct sockaddr *)&to, sizeof to) < 0) {
        close(l->fd[0]);
        close(l->fd[1]);
        return;
    }
    l->io[0] = cd_io_add(await.loop, l->fd[0], EPOLLIN, proxy_client, l);
    l->io[1] = cd_io_add(await.loop, l->fd[1], EPOLLIN, proxy_server, l);
    p->n++;
}

/** Reserve a port; nothing listens there yet. */
static inline bool proxy_init(struct proxy *p, int server_port)
{
    struct sockaddr_in a = proxy_addr(0);
    socklen_t len = sizeof a;
    int on = 1;

    memset(p, 0, sizeof *p);
    p->server_port = server_port;
    p->listener = proxy_socket();
    /* so that it can be listened to again */
    if (p->listener < 0 || setsockopt(p->listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
        bind(p->listener, (struct sockaddr *)&a, sizeof a) < 0 ||
        getsockname(p->listener, (struct sockaddr *)&a, &len) < 0)
        return false;
    p->port = ntohs(a.sin_port);
    return true;
}

static inline bool proxy_listen(struct proxy *p)
{
    if (listen(p->listener, 16) < 0)
        return false;
    p->io = cd_io_add(await.loop, p->listener, EPOLLIN, proxy_accept, p);
    return p->io != NULL;
}

static inline void proxy_cut_all(struct proxy *p);

/** Refuse from now on: nobody listens at the port. */
static inline void proxy_refuse(struct proxy *p)
{
    cd_io_del(p->io);
    p->io = NULL;
    close(p->listener);
    p->listener = -1;
    proxy_cut_all(p);
}

/** Listen at the same port again. */
static inline bool proxy_accept_again(struct proxy *p)
{
    struct sockaddr_in a = proxy_addr(p->port);
    int on = 1;

    p->swallow_new = false;
    p->n = 0; /* all are cut */
    p->listener = proxy_socket();
    return p->listener >= 0 && setsockopt(p->listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
           bind(p->listener, (struct sockaddr *)&a, sizeof a) == 0 && proxy_listen(p);
}

static inline void proxy_cut_all(struct proxy *p)
{
    for (size_t i = 0; i < p->n; i++)
        proxy_cut(&p->link[i]);
}

static inline void proxy_swallow(struct proxy *p, bool on)
{
    for (size_t i = 0; i < p->n; i++)
        p->link[i].swallow = on;
}

static inline void proxy_done(struct proxy *p)
{
    proxy_cut_all(p);
    cd_io_del(p->io);
    close(p->listener);
}

#endif

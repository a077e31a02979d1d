/* bridge.c -- two sockets, two small buffers, bytes both ways.
 * Why: a proxy that keeps connections alive sends upgrades on connections that served REST before,
 *      and libmicrohttpd cannot give those back.
 * State: one struct a bridge. Owns: its end of the socketpair. Blocks: never. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "in/bridge.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buf.h"
#include "in/ws.h"
#include "loop/loop.h"

#define PIPE_BYTES 16384
#define HEAD_MAX 4096 /* the WebSocket side's 101 */

struct pipe {
    char data[PIPE_BYTES];
    size_t from, to; /* data[from, to) waits */
    bool ended;      /* the source sends no more */
};

struct side {
    struct cd_bridge *bridge;
    struct cd_io *io;
    int fd;
    uint32_t events; /* what epoll is asked for */
};

struct cd_bridge {
    struct cd_loop *loop;
    struct side client, ws;
    struct pipe in, out; /* client to ws, ws to client */
    bool head_done;      /* the inner 101 has been cut off */
    void (*closed)(void *arg);
    void *arg;
};

void cd_bridge_close(struct cd_bridge *b)
{
    cd_io_del(b->client.io);
    cd_io_del(b->ws.io);
    close(b->ws.fd);
    b->closed(b->arg);
    free(b);
}

/* @return false: the source failed */
static bool fill(struct pipe *p, int fd)
{
    ssize_t n;

    if (p->from == p->to)
        p->from = p->to = 0;
    if (p->ended || p->to == PIPE_BYTES)
        return true;
    n = recv(fd, p->data + p->to, PIPE_BYTES - p->to, MSG_DONTWAIT);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR;
    if (n == 0)
        p->ended = true;
    p->to += (size_t)n;
    return true;
}

static bool drain(struct pipe *p, int fd)
{
    ssize_t n;

    if (p->from == p->to)
        return true;
    n = send(fd, p->data + p->from, p->to - p->from, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR;
    p->from += (size_t)n;
    return true;
}

/* Drop the inner response head. @return false: it is no 101, so the handshake was refused */
static bool cut_head(struct cd_bridge *b)
{
    struct pipe *p = &b->out;
    const char *start = p->data + p->from;
    const char *end = memmem(start, p->to - p->from, "\r\n\r\n", 4);

    if (!end)
        return p->to - p->from < HEAD_MAX && !p->ended;
    if (p->to - p->from < 12 || memcmp(start, "HTTP/1.1 101", 12) != 0)
        return false;
    p->from = (size_t)(end + 4 - p->data);
    b->head_done = true;
    return true;
}

static void want(struct side *s, bool in, bool out)
{
    uint32_t events = (in ? (uint32_t)EPOLLIN : 0) | (out ? (uint32_t)EPOLLOUT : 0);

    if (events == s->events)
        return;
    s->events = events;
    cd_io_mod(s->io, events);
}

static bool room(const struct pipe *p)
{
    return !p->ended && (p->to < PIPE_BYTES || p->from == p->to);
}

static void pump(void *arg, uint32_t events)
{
    struct cd_bridge *b = ((struct side *)arg)->bridge;
    bool ok = fill(&b->in, b->client.fd) && fill(&b->out, b->ws.fd);

    if (ok && !b->head_done)
        ok = cut_head(b);
    ok = ok && drain(&b->in, b->ws.fd) && (!b->head_done || drain(&b->out, b->client.fd));
    /* Either end gone and nothing left to deliver to the other: done. */
    if (!ok || (b->in.ended && b->in.from == b->in.to) ||
        (b->out.ended && b->out.from == b->out.to) || (events & EPOLLERR)) {
        cd_bridge_close(b);
        return;
    }
    want(&b->client, room(&b->in), b->head_done && b->out.from < b->out.to);
    want(&b->ws, room(&b->out), b->in.from < b->in.to);
}

/* The socketpair takes a request head and a few frames at once: its buffer is larger. */
static bool feed(int fd, struct cd_str s)
{
    return s.n == 0 || send(fd, s.p, s.n, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)s.n;
}

struct cd_bridge *cd_bridge_start(struct cd_loop *loop, int fd, struct cd_str head,
                                  struct cd_str extra, const char *peer_ip,
                                  void (*closed)(void *arg), void *arg)
{
    struct cd_bridge *b = calloc(1, sizeof(*b));
    int pair[2];

    if (!b || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) < 0) {
        free(b);
        return NULL;
    }
    *b = (struct cd_bridge){.loop = loop, .closed = closed, .arg = arg};
    b->client = (struct side){.bridge = b, .fd = fd, .events = EPOLLIN};
    b->ws = (struct side){.bridge = b, .fd = pair[0], .events = EPOLLIN};
    b->client.io = cd_io_add(loop, fd, EPOLLIN, pump, &b->client);
    b->ws.io = cd_io_add(loop, pair[0], EPOLLIN, pump, &b->ws);
    if (!b->client.io || !b->ws.io || !feed(pair[0], head) || !feed(pair[0], extra)) {
        cd_io_del(b->client.io);
        cd_io_del(b->ws.io);
        close(pair[0]);
        close(pair[1]);
        free(b);
        return NULL;
    }
    cd_ws_adopt_bridged(loop, pair[1], peer_ip);
    return b;
}

/* rest_generator.c -- keep-alive connections that each start one call after the other over REST, as fast as they are
 * answered.
 *
 * In:   PORT CONNECTIONS SECONDS.
 * Out:  one JSON line: answers by kind, a second, percentiles of the time from request to answer.
 * Why:  a generator in a script costs more than the server it is to measure.
 * State: the connections. Blocks: in epoll_wait only. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define IN_BYTES 32768
#define BATCH 256
#define HIST_US 4000000u /* latencies are counted by the microsecond up to here */
#define USERS 500        /* callers and callees take turns */

struct conn {
    int fd;
    bool waits; /* for an answer */
    uint64_t sent_ns;
    char in[IN_BYTES];
    size_t in_n;
};

static struct {
    struct conn *conns;
    unsigned n_conns;
    int ep;
    uint16_t port;
    uint64_t next_room, ends_ns;
    uint64_t created, refused, dropped;
    unsigned waiting;
    uint32_t hist[HIST_US];
} g;

__attribute__((noreturn)) static void die(const char *what)
{
    fprintf(stderr, "rest_generator: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* --- one connection ------------------------------------------------------------------------------ */

static void connect_one(struct conn *c)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(g.port)};
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};
    int on = 1;

    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&to, sizeof to) != 0)
        die("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (fcntl(c->fd, F_SETFL, O_NONBLOCK) != 0 || epoll_ctl(g.ep, EPOLL_CTL_ADD, c->fd, &ev) != 0)
        die("epoll");
}

/* A room of its own for each call, so that none is in another one's way. */
static void ask(struct conn *c)
{
    unsigned long long room = g.next_room++;
    char body[256], text[768];
    int n = snprintf(body, sizeof body, "{\"roomId\":\"!load%llu:dev\",\"callType\":\"video\",\"invitees\":[\"@b%llu:dev\"]}",
                     room, room % USERS);

    n = snprintf(text, sizeof text,
                 "POST /api/calls/initiate HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer dev_a%llu\r\n"
                 "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
                 room % USERS, n, body);
    if (write(c->fd, text, (size_t)n) != n)
        die("write");
    c->sent_ns = now_ns();
    c->waits = true;
    g.waiting++;
}

/* Length of the whole answer at the start of @p p, 0: not all there yet. */
static size_t answer_length(const char *p, size_t n)
{
    const char *end = memmem(p, n, "\r\n\r\n", 4), *at;
    size_t head, length = 0;

    if (!end)
        return 0;
    head = (size_t)(end - p) + 4;
    for (at = p; at < end; at++) {
        if (*at == '\n' && strncasecmp(at + 1, "content-length:", 15) == 0)
            length = strtoul(at + 16, NULL, 10);
    }
    return head + length <= n ? head + length : 0;
}

static void answered(struct conn *c)
{
    uint64_t us = (now_ns() - c->sent_ns) / 1000;

    g.hist[us < HIST_US ? us : HIST_US - 1]++;
    if (memcmp(c->in, "HTTP/1.1 201", 12) == 0)
        g.created++;
    else if (g.refused++ == 0)
        fprintf(stderr, "rest_generator: %.*s\n", (int)(c->in_n < 400 ? c->in_n : 400), c->in);
    c->waits = false;
    g.waiting--;
    if (now_ns() < g.ends_ns)
        ask(c);
}

static void readable(struct conn *c)
{
    ssize_t got = read(c->fd, c->in + c->in_n, sizeof c->in - c->in_n);
    size_t n;

    if (got <= 0 && errno == EAGAIN)
        return;
    if (got <= 0) {
        g.dropped++;
        g.waiting -= c->waits;
        close(c->fd);
        return;
    }
    c->in_n += (size_t)got;
    n = answer_length(c->in, c->in_n);
    if (n == 0)
        return;
    answered(c);
    memmove(c->in, c->in + n, c->in_n - n);
    c->in_n -= n;
}

/* --- the run ------------------------------------------------------------------------------------- */

static double percentile_ms(double part)
{
    uint64_t all = 0, seen = 0;

    for (size_t i = 0; i < HIST_US; i++)
        all += g.hist[i];
    for (size_t i = 0; i < HIST_US; i++) {
        seen += g.hist[i];
        if (seen && (double)seen >= part * (double)all)
            return (double)i / 1000;
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct epoll_event evs[BATCH];
    uint64_t began;
    double took;

    if (argc != 4) {
        fputs("usage: rest_generator PORT CONNECTIONS SECONDS\n", stderr);
        return 2;
    }
    g.port = (uint16_t)strtoul(argv[1], NULL, 10);
    g.n_conns = (unsigned)strtoul(argv[2], NULL, 10);
    g.ep = epoll_create1(EPOLL_CLOEXEC);
    g.conns = calloc(g.n_conns ? g.n_conns : 1, sizeof *g.conns);
    if (g.ep < 0 || !g.conns)
        die("start");
    for (unsigned i = 0; i < g.n_conns; i++)
        connect_one(&g.conns[i]);
    began = now_ns();
    g.ends_ns = began + (uint64_t)(strtod(argv[3], NULL) * 1e9);
    for (unsigned i = 0; i < g.n_conns; i++)
        ask(&g.conns[i]);
    while (g.waiting > 0) {
        int n = epoll_wait(g.ep, evs, BATCH, 20000);

        if (n <= 0)
            die("no answer within 20 s");
        for (int i = 0; i < n; i++)
            readable(evs[i].data.ptr);
    }
    took = (double)(now_ns() - began) / 1e9;
    printf("{\"created\":%llu,\"refused\":%llu,\"dropped\":%llu,\"per_s\":%.0f,\"p50_ms\":%.2f,\"p99_ms\":%.2f}\n",
           (unsigned long long)g.created, (unsigned long long)g.refused, (unsigned long long)g.dropped,
           (double)g.created / took, percentile_ms(0.5), percentile_ms(0.99));
    return 0;
}

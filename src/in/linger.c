/* linger.c -- closes refused connections late.
 * Why: closing a socket with unread bytes resets it, and the reset overtakes the answer.
 * State: a bounded list for the process. Owns: the descriptors. */
#include "in/linger.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fds.h"
#include "base/log.h"
#include "loop/loop.h"

#define LINGER_BYTES (4u << 20)
#define LINGER_MS 2000
#define LINGER_MAX 256 /* at once; more are closed straight away */
#define TURN_BYTES (256u << 10)

struct slow_close {
    struct cd_loop *loop;
    struct cd_io *io;
    struct cd_timer timer;
    struct slow_close *prev, *next;
    size_t left_bytes;
    int fd;
};

static struct {
    struct slow_close *first;
    unsigned n;
} all;

static void end(struct slow_close *l)
{
    if (l->next)
        l->next->prev = l->prev;
    if (l->prev)
        l->prev->next = l->next;
    else
        all.first = l->next;
    all.n--;
    cd_timer_cancel(l->loop, &l->timer);
    cd_io_del(l->io);
    close(l->fd);
    free(l);
}

static void too_long(void *arg)
{
    end(arg);
}

static void swallow(void *arg, uint32_t events)
{
    static char bin[16384];
    struct slow_close *l = arg;
    size_t turn = 0;

    (void)events;
    while (turn < TURN_BYTES) {
        ssize_t n = recv(l->fd, bin, sizeof(bin), MSG_DONTWAIT);

        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n <= 0 || (size_t)n >= l->left_bytes) {
            end(l);
            return;
        }
        turn += (size_t)n;
        l->left_bytes -= (size_t)n;
    }
}

void cd_linger(struct cd_loop *loop, int fd)
{
    struct slow_close *l = all.n < LINGER_MAX && !cd_fds_scarce(fd) ? calloc(1, sizeof(*l)) : NULL;

    if (l) {
        l->loop = loop;
        l->fd = fd;
        l->left_bytes = LINGER_BYTES;
        l->io = cd_io_add(loop, fd, EPOLLIN | EPOLLRDHUP, swallow, l);
    }
    if (!l || !l->io) {
        free(l);
        close(fd);
        return;
    }
    l->next = all.first;
    if (l->next)
        l->next->prev = l;
    all.first = l;
    all.n++;
    if (cd_timer_set(loop, &l->timer, LINGER_MS, too_long, l) < 0)
        end(l);
}

void cd_linger_end(void)
{
    while (all.first)
        end(all.first);
}

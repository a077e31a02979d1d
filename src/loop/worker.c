/* worker.c -- one helper thread for what only blocks (files, name resolution).
 * In: jobs from the loop. Out: done() on the loop, through an eventfd.
 * State: a ring of jobs under one mutex. Blocks: only the helper thread does. */
#include "loop/worker.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "loop/loop.h"

#define JOIN_MS 2000 /* for work under way when the daemon stops */

struct job {
    void (*work)(void *arg);
    void (*done)(void *arg);
    void *arg;
};

struct cd_worker {
    struct cd_loop *loop;
    struct cd_io *io;
    int fd;
    bool started, stop;
    bool *gone; /* set while done() runs: freed by it */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct job ring[CD_WORKER_JOBS];
    /* jobs [first, worked) wait for done(), [worked, last) for the thread */
    uint64_t first, worked, last;
};

static void *serve(void *arg)
{
    struct cd_worker *w = arg;
    const uint64_t one = 1;

    pthread_mutex_lock(&w->lock);
    for (;;) {
        struct job job;

        while (!w->stop && w->worked == w->last)
            pthread_cond_wait(&w->wake, &w->lock);
        if (w->stop)
            break;
        job = w->ring[w->worked % CD_WORKER_JOBS];
        pthread_mutex_unlock(&w->lock);
        job.work(job.arg);
        pthread_mutex_lock(&w->lock);
        w->worked++;
        while (write(w->fd, &one, sizeof(one)) < 0 && errno == EINTR)
            ;
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

static void report(void *arg, uint32_t events)
{
    struct cd_worker *w = arg;
    uint64_t count;
    bool gone = false;

    (void)events;
    w->gone = &gone;
    if (read(w->fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
        cd_log(CD_LOG_ERROR, "loop", "worker.read", NULL, "eventfd: errno %d", errno);
    for (;;) {
        struct job job;

        pthread_mutex_lock(&w->lock);
        if (w->first == w->worked) {
            pthread_mutex_unlock(&w->lock);
            w->gone = NULL;
            return;
        }
        job = w->ring[w->first++ % CD_WORKER_JOBS];
        pthread_mutex_unlock(&w->lock);
        job.done(job.arg);
        if (gone)
            return;
    }
}

struct cd_worker *cd_worker_new(struct cd_loop *loop)
{
    struct cd_worker *w = calloc(1, sizeof(*w));

    if (!w)
        return NULL;
    w->loop = loop;
    w->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    w->io = w->fd < 0 ? NULL : cd_io_add(loop, w->fd, EPOLLIN, report, w);
    if (!w->io) {
        if (w->fd >= 0)
            close(w->fd);
        free(w);
        return NULL;
    }
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->wake, NULL);
    return w;
}

static bool join_within(pthread_t thread, int64_t ms)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += ms / 1000;
    until.tv_nsec += ms % 1000 * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    return pthread_timedjoin_np(thread, NULL, &until) == 0;
}

void cd_worker_free(struct cd_worker *w)
{
    if (!w)
        return;
    if (w->gone)
        *w->gone = true;
    if (w->started) {
        pthread_mutex_lock(&w->lock);
        w->stop = true;
        pthread_cond_signal(&w->wake);
        pthread_mutex_unlock(&w->lock);
        if (!join_within(w->thread, JOIN_MS)) {
            /* A resolver that hangs must not hold the process: what the thread still uses stays. */
            cd_io_del(w->io);
            pthread_detach(w->thread);
            return;
        }
    }
    cd_io_del(w->io);
    close(w->fd);
    pthread_cond_destroy(&w->wake);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

int cd_worker_push(struct cd_worker *w, void (*work)(void *arg), void (*done)(void *arg), void *arg)
{
    int rc = -1;

    if (!w->started) {
        if (pthread_create(&w->thread, NULL, serve, w) != 0)
            return -1;
        w->started = true;
    }
    pthread_mutex_lock(&w->lock);
    if (w->last - w->first < CD_WORKER_JOBS) {
        w->ring[w->last++ % CD_WORKER_JOBS] = (struct job){work, done, arg};
        pthread_cond_signal(&w->wake);
        rc = 0;
    }
    pthread_mutex_unlock(&w->lock);
    return rc;
}

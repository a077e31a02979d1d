/* loop.c -- the one event loop. libwebsockets waits outside (its libuv plugin, or poll()); our own
 * sources sit in one private epoll set that it watches as a single raw file.
 * In: descriptors, timers, deferred calls, signals. Out: their callbacks, in turns.
 * Why: this libwebsockets cannot be a guest in a foreign loop; adopting one epoll descriptor costs
 *      one extra epoll_wait and keeps every other library out of its reach.
 * State: struct cd_loop; the WebSocket callback is a file static, set before the loop exists.
 * Owns: epoll set, timerfd, eventfd, signalfd, libwebsockets context. Blocks: in cd_loop_run. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "loop/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <libwebsockets.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/spare.h"
#include "loop/timer.h"
#include "loop/worker.h"

#define BATCH 256          /* events taken from epoll in one turn */
#define HOOKS_MAX 8        /* cd_loop_after and cd_loop_on_signal */
#define DEFER_MAX 65536    /* deferred calls waiting */
#define DEFAULT_FDS 65536u
#define SLOW_TURN_MS 50    /* a turn longer than this is logged */
#define STOP_SECONDS 3     /* that libwebsockets gets for its goodbyes */

struct cd_io {
    struct cd_loop *loop;
    cd_io_fn fn;
    void *arg;
    struct cd_io *next; /* in the graveyard */
    int fd;
    bool dead;
};

struct call {
    void (*fn)(void *arg);
    void *arg;
};

struct signal_hook {
    void (*fn)(void *arg, int signo);
    void *arg;
};

struct cd_loop {
    struct lws_context *ctx;
    struct lws_vhost *vhost;
    lws_sorted_usec_list_t stop_sul;
    bool uv, stop, in_turn, woken;
    int ep, timer_fd, wake_fd, signal_fd;
    struct cd_io *timer_io, *wake_io, *signal_io, *graveyard;
    struct cd_heap heap;
    int64_t armed_ms; /* what the timerfd is set to, 0: off */
    bool firing;
    struct call *defers;
    size_t defer_n, defer_cap;
    struct call after[HOOKS_MAX];
    size_t after_n;
    struct signal_hook on_signal[HOOKS_MAX];
    size_t on_signal_n;
    struct cd_worker *worker;
};

static struct {
    int (*cb)(struct lws *wsi, int reason, void *user, void *in, size_t len);
    size_t per_session_bytes;
} ws;

void cd_loop_set_ws_callback(int (*cb)(struct lws *wsi, int reason, void *user, void *in,
                                       size_t len),
                             size_t per_session_bytes)
{
    ws.cb = cb;
    ws.per_session_bytes = per_session_bytes;
}

/* --- sources ------------------------------------------------------------------------- */

/* libcurl and libpq give up, for long, when a socket of theirs cannot be watched. */
static struct cd_spare ios = CD_SPARE(struct cd_io, 64);

struct cd_io *cd_io_add(struct cd_loop *loop, int fd, uint32_t events, cd_io_fn fn, void *arg)
{
    struct cd_io *io = cd_spare_take(&ios);
    struct epoll_event ev = {.events = events, .data.ptr = io};

    if (!io)
        return NULL;
    io->loop = loop;
    io->fd = fd;
    io->fn = fn;
    io->arg = arg;
    if (epoll_ctl(loop->ep, EPOLL_CTL_ADD, fd, &ev) < 0) {
        cd_log(CD_LOG_ERROR, "loop", "io.add", NULL, "epoll_ctl ADD fd %d: errno %d", fd, errno);
        cd_spare_give(&ios, io);
        return NULL;
    }
    return io;
}

void cd_io_mod(struct cd_io *io, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.ptr = io};

    if (io->dead)
        return;
    if (epoll_ctl(io->loop->ep, EPOLL_CTL_MOD, io->fd, &ev) < 0)
        cd_log(CD_LOG_ERROR, "loop", "io.mod", NULL, "epoll_ctl MOD fd %d: errno %d", io->fd,
               errno);
}

void cd_io_del(struct cd_io *io)
{
    if (!io || io->dead)
        return;
    io->dead = true;
    epoll_ctl(io->loop->ep, EPOLL_CTL_DEL, io->fd, NULL);
    if (!io->loop->in_turn) {
        cd_spare_give(&ios, io);
        return;
    }
    io->next = io->loop->graveyard;
    io->loop->graveyard = io;
}

static void bury(struct cd_loop *loop)
{
    while (loop->graveyard) {
        struct cd_io *io = loop->graveyard;

        loop->graveyard = io->next;
        cd_spare_give(&ios, io);
    }
}

/* --- timers -------------------------------------------------------------------------- */

/* Set the timerfd to the heap's top. Inside a turn this is done once, at its end. */
static void arm(struct cd_loop *loop)
{
    const struct cd_timer *top = cd_heap_top(&loop->heap);
    int64_t due = top ? top->due_ms : 0;
    struct itimerspec its = {0};

    if (!top || (loop->armed_ms && due >= loop->armed_ms))
        return; /* waking too early once is cheaper than a system call for each timer */
    its.it_value.tv_sec = due / 1000;
    its.it_value.tv_nsec = due % 1000 * 1000000;
    loop->armed_ms = due;
    timerfd_settime(loop->timer_fd, TFD_TIMER_ABSTIME, &its, NULL);
}

int cd_timer_set(struct cd_loop *loop, struct cd_timer *t, int64_t delay_ms,
                 void (*fn)(void *arg), void *arg)
{
    /* A timer that re-arms itself with 0 must not keep the firing loop busy. */
    int64_t least_ms = loop->firing ? 1 : 0;

    t->fn = fn;
    t->arg = arg;
    if (cd_heap_set(&loop->heap, t, cd_mono_ms() + (delay_ms > least_ms ? delay_ms : least_ms)) < 0)
        return -1;
    if (!loop->in_turn)
        arm(loop);
    return 0;
}

void cd_timer_cancel(struct cd_loop *loop, struct cd_timer *t)
{
    cd_heap_del(&loop->heap, t);
}

static void timers_due(void *arg, uint32_t events)
{
    struct cd_loop *loop = arg;
    int64_t now_ms = cd_mono_ms();
    uint64_t expirations;
    struct cd_timer *t;

    (void)events;
    if (read(loop->timer_fd, &expirations, sizeof(expirations)) < 0 && errno != EAGAIN)
        cd_log(CD_LOG_ERROR, "loop", "timer.read", NULL, "timerfd: errno %d", errno);
    loop->armed_ms = 0;
    loop->firing = true;
    while ((t = cd_heap_top(&loop->heap)) && t->due_ms <= now_ms) {
        cd_heap_del(&loop->heap, t);
        t->fn(t->arg);
    }
    loop->firing = false;
}

/* --- deferred calls and hooks -------------------------------------------------------- */

static void wake(struct cd_loop *loop)
{
    const uint64_t one = 1;

    if (loop->woken)
        return;
    loop->woken = true;
    if (write(loop->wake_fd, &one, sizeof(one)) < 0)
        loop->woken = false;
}

static void woken(void *arg, uint32_t events)
{
    struct cd_loop *loop = arg;
    uint64_t count;

    (void)events;
    if (read(loop->wake_fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
        cd_log(CD_LOG_ERROR, "loop", "wake.read", NULL, "eventfd: errno %d", errno);
    loop->woken = false;
}

int cd_loop_defer(struct cd_loop *loop, void (*fn)(void *arg), void *arg)
{
    if (loop->defer_n == loop->defer_cap) {
        size_t cap = loop->defer_cap ? loop->defer_cap * 2 : 64;
        struct call *v = cap > DEFER_MAX ? NULL : realloc(loop->defers, cap * sizeof(*v));

        if (!v)
            return -1;
        loop->defers = v;
        loop->defer_cap = cap;
    }
    loop->defers[loop->defer_n++] = (struct call){fn, arg};
    if (!loop->in_turn)
        wake(loop);
    return 0;
}

/* Run what was deferred up to now; what these calls defer waits for the next round. */
static void run_deferred(struct cd_loop *loop)
{
    size_t n = loop->defer_n;

    for (size_t i = 0; i < n; i++) {
        struct call call = loop->defers[i];

        call.fn(call.arg);
    }
    loop->defer_n -= n;
    if (loop->defer_n)
        memmove(loop->defers, loop->defers + n, loop->defer_n * sizeof(*loop->defers));
}

void cd_loop_after(struct cd_loop *loop, void (*fn)(void *arg), void *arg)
{
    if (loop->after_n == HOOKS_MAX)
        abort(); /* a fixed set, wired at start */
    loop->after[loop->after_n++] = (struct call){fn, arg};
}

/* One turn: a batch of events, then deferred calls, hooks, and what the hooks deferred. */
static void turn(struct cd_loop *loop)
{
    struct epoll_event ev[BATCH];
    int64_t start_ms = cd_mono_ms();
    int64_t took_ms;
    int n = epoll_wait(loop->ep, ev, BATCH, 0);

    loop->in_turn = true;
    for (int i = 0; i < n; i++) {
        struct cd_io *io = ev[i].data.ptr;

        if (!io->dead)
            io->fn(io->arg, ev[i].events);
    }
    run_deferred(loop);
    for (size_t i = 0; i < loop->after_n; i++)
        loop->after[i].fn(loop->after[i].arg);
    run_deferred(loop);
    bury(loop);
    loop->in_turn = false;
    arm(loop);
    if (loop->defer_n)
        wake(loop);
    took_ms = cd_mono_ms() - start_ms;
    if (took_ms > SLOW_TURN_MS)
        cd_log(CD_LOG_WARN, "loop", "loop.stall", NULL, "one turn took %lld ms",
               (long long)took_ms);
}

/* --- signals ------------------------------------------------------------------------- */

void cd_loop_on_signal(struct cd_loop *loop, void (*fn)(void *arg, int signo), void *arg)
{
    if (loop->on_signal_n == HOOKS_MAX)
        abort(); /* a fixed set, wired at start */
    loop->on_signal[loop->on_signal_n++] = (struct signal_hook){fn, arg};
}

static void signalled(void *arg, uint32_t events)
{
    struct cd_loop *loop = arg;
    struct signalfd_siginfo info;

    (void)events;
    while (read(loop->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        for (size_t i = 0; i < loop->on_signal_n; i++)
            loop->on_signal[i].fn(loop->on_signal[i].arg, (int)info.ssi_signo);
    }
}

static int block_signals(void)
{
    sigset_t set;

    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a file size limit is an error of write(), too */
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    return signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
}

/* --- libwebsockets ------------------------------------------------------------------- */

static int ws_protocol(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in,
                       size_t len)
{
    return ws.cb ? ws.cb(wsi, (int)reason, user, in, len) : 0;
}

static int reactor_protocol(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in,
                            size_t len)
{
    (void)user;
    (void)in;
    (void)len;
    if (reason == LWS_CALLBACK_RAW_RX_FILE) {
        turn(lws_context_user(lws_get_context(wsi)));
    } else if (reason == LWS_CALLBACK_FILTER_PROTOCOL_CONNECTION ||
               reason == LWS_CALLBACK_ESTABLISHED) {
        return -1; /* a stranger named this protocol in a handshake */
    }
    return 0;
}

static void lws_says(int level, const char *line)
{
    size_t n = strlen(line);

    cd_log(level == LLL_ERR ? CD_LOG_WARN : CD_LOG_DEBUG, "lws", "lws.log", NULL, "%.*s",
           (int)(n && line[n - 1] == '\n' ? n - 1 : n), line);
}

static struct lws_protocols protocols[3];
static const lws_retry_bo_t no_pings; /* own heartbeats: libwebsockets' list is linear */

/* With libuv the first destroy closes the handles and stops the loop, the second frees. */
static void destroy_lws(struct cd_loop *loop)
{
    for (int i = 0; i < 3 && loop->ctx; i++)
        lws_context_destroy(loop->ctx);
    loop->ctx = NULL;
    loop->vhost = NULL;
}

static struct lws_context *make_context(struct cd_loop *loop, bool uv)
{
    struct lws_context_creation_info info;

    /* Index 0 is what a handshake without a subprotocol gets, and also sees plain HTTP. Its read buffer, one for
     * each client, is also the most that one recv() takes: 128 bytes would save 0.9 kB, and cost a relay four times
     * the CPU. */
    protocols[0] = (struct lws_protocols){.name = "calld-ws", .callback = ws_protocol,
                                          .per_session_data_size = ws.per_session_bytes,
                                          .rx_buffer_size = 1024};
    protocols[1] = (struct lws_protocols){.name = "calld-reactor", .callback = reactor_protocol};
    memset(&info, 0, sizeof(info));
    info.port = CONTEXT_PORT_NO_LISTEN_SERVER;
    info.gid = -1;
    info.uid = -1;
    info.options = LWS_SERVER_OPTION_EXPLICIT_VHOSTS | (uv ? LWS_SERVER_OPTION_LIBUV : 0);
    info.pt_serv_buf_size = 4096;
    info.max_http_header_data = 16384; /* the default of 4096 drops large cookies unanswered */
    info.protocols = protocols;
    info.retry_and_idle_policy = &no_pings;
    info.timeout_secs = 5;
    info.user = loop;
    info.vhost_name = "calld";
    info.pcontext = &loop->ctx; /* becomes NULL when the context is really gone */
    loop->ctx = lws_create_context(&info);
    if (!loop->ctx)
        return NULL;
    loop->vhost = lws_create_vhost(loop->ctx, &info);
    if (!loop->vhost)
        destroy_lws(loop);
    return loop->ctx;
}

/* Tables are sized by the descriptor limit, so an "infinite" one must come down first. */
static void limit_fds(unsigned max_fds)
{
    struct rlimit lim;
    rlim_t want = max_fds ? max_fds : DEFAULT_FDS;

    if (getrlimit(RLIMIT_NOFILE, &lim) < 0)
        return;
    lim.rlim_cur = want;
    if (lim.rlim_max < want) {
        struct rlimit raised = {.rlim_cur = want, .rlim_max = want};

        if (setrlimit(RLIMIT_NOFILE, &raised) == 0)
            return;
        lim.rlim_cur = lim.rlim_max;
    }
    if (setrlimit(RLIMIT_NOFILE, &lim) < 0)
        cd_log(CD_LOG_WARN, "loop", "loop.rlimit", NULL, "setrlimit: errno %d", errno);
}

static int start_lws(struct cd_loop *loop, bool force_poll)
{
    lws_sock_file_fd_type fd;

    lws_set_log_level(0, lws_says); /* a missing plugin is no error */
    loop->uv = !force_poll && make_context(loop, true);
    if (!loop->uv && !make_context(loop, false))
        return -1;
    lws_set_log_level(LLL_ERR | LLL_WARN, lws_says);
    signal(SIGSEGV, SIG_DFL); /* the libuv plugin catches these and would spin instead of dying */
    signal(SIGFPE, SIG_DFL);
    fd.filefd = fcntl(loop->ep, F_DUPFD_CLOEXEC, 0); /* libwebsockets closes what it adopts */
    if (fd.filefd < 0)
        return -1;
    return lws_adopt_descriptor_vhost(loop->vhost, LWS_ADOPT_RAW_FILE_DESC, fd, "calld-reactor",
                                      NULL) ? 0 : -1;
}

static int start_own(struct cd_loop *loop)
{
    loop->ep = epoll_create1(EPOLL_CLOEXEC);
    loop->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    loop->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    loop->signal_fd = block_signals();
    if (loop->ep < 0 || loop->timer_fd < 0 || loop->wake_fd < 0 || loop->signal_fd < 0)
        return -1;
    loop->timer_io = cd_io_add(loop, loop->timer_fd, EPOLLIN, timers_due, loop);
    loop->wake_io = cd_io_add(loop, loop->wake_fd, EPOLLIN, woken, loop);
    loop->signal_io = cd_io_add(loop, loop->signal_fd, EPOLLIN, signalled, loop);
    return loop->timer_io && loop->wake_io && loop->signal_io ? 0 : -1;
}

struct cd_loop *cd_loop_new(const struct cd_loop_conf *conf)
{
    struct cd_loop *loop = calloc(1, sizeof(*loop));

    if (!loop)
        return NULL;
    cd_spare_fill(&ios);
    limit_fds(conf->max_fds);
    if (start_own(loop) < 0 || start_lws(loop, conf->force_poll) < 0) {
        cd_log(CD_LOG_ERROR, "loop", "loop.start", NULL, "the event loop does not start: errno %d",
               errno);
        cd_loop_free(loop);
        return NULL;
    }
    return loop;
}

/* All that matters was done before the loop was asked to stop. */
static void give_up(int signo)
{
    static const char why[] = "warn loop loop.stop: libwebsockets does not end its loop; leaving without it\n";

    (void)signo;
    (void)!write(STDERR_FILENO, why, sizeof(why) - 1);
    _exit(EXIT_SUCCESS);
}

/* libwebsockets 4.1 counts its connections, and when memory ran out for one once, never gets back to none: then
 * its loop would go on for ever. */
static void stop_uv(lws_sorted_usec_list_t *sul)
{
    struct cd_loop *loop = lws_container_of(sul, struct cd_loop, stop_sul);

    signal(SIGALRM, give_up);
    alarm(STOP_SECONDS);
    lws_context_destroy(loop->ctx);
}

void cd_loop_run(struct cd_loop *loop)
{
    if (loop->uv) {
        lws_service(loop->ctx, 0); /* returns after stop_uv */
        alarm(0);
    } else {
        while (!loop->stop && lws_service(loop->ctx, 0) >= 0)
            ;
    }
    destroy_lws(loop);
}

void cd_loop_stop(struct cd_loop *loop)
{
    if (loop->stop || !loop->ctx)
        return;
    loop->stop = true;
    if (loop->uv)
        lws_sul_schedule(loop->ctx, 0, &loop->stop_sul, stop_uv, 1);
}

void cd_loop_free(struct cd_loop *loop)
{
    if (!loop)
        return;
    destroy_lws(loop);
    cd_worker_free(loop->worker);
    cd_io_del(loop->timer_io);
    cd_io_del(loop->wake_io);
    cd_io_del(loop->signal_io);
    bury(loop);
    cd_heap_done(&loop->heap);
    free(loop->defers);
    for (size_t i = 0; i < 4; i++) {
        int fd = (const int[]){loop->ep, loop->timer_fd, loop->wake_fd, loop->signal_fd}[i];

        if (fd > 0)
            close(fd);
    }
    free(loop);
}

const char *cd_loop_backend(const struct cd_loop *loop)
{
    return loop->uv ? "libuv" : "poll";
}

struct lws_vhost *cd_loop_vhost(struct cd_loop *loop)
{
    return loop->vhost;
}

int cd_worker_run(struct cd_loop *loop, void (*work)(void *arg), void (*done)(void *arg), void *arg)
{
    if (!loop->worker)
        loop->worker = cd_worker_new(loop);
    return loop->worker ? cd_worker_push(loop->worker, work, done, arg) : -1;
}

/* loop_test.c -- the event loop on both backends: sources, timers, deferred calls, hooks, signals,
 * the helper thread, stopping, and an idle loop that costs nothing. */
#include "loop/loop.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

#include "base/log.h"
#include "tap.h"

static bool poll_backend;
static struct cd_loop *loop;
static char trace[256];

static void note(const char *what)
{
    strncat(trace, what, sizeof(trace) - strlen(trace) - 1);
}

static void begin(void)
{
    struct cd_loop_conf conf = {.max_fds = 4096, .force_poll = poll_backend};

    trace[0] = '\0';
    loop = cd_loop_new(&conf);
    if (!CHECK(loop != NULL))
        exit(tap_done());
}

static void stop(void *arg)
{
    (void)arg;
    cd_loop_stop(loop);
}

/* --- timers --- */

static void timer_note(void *arg)
{
    note(arg);
}

static void timers_fire_in_order(void)
{
    static char letters[3][2] = {"b", "a", "d"};
    struct cd_timer a = {0}, b = {0}, c = {0}, d = {0};

    begin();
    cd_timer_set(loop, &c, 60, stop, NULL);
    cd_timer_set(loop, &b, 30, timer_note, letters[0]);
    cd_timer_set(loop, &a, 1, timer_note, letters[1]);
    cd_timer_set(loop, &d, 20, timer_note, letters[2]);
    cd_timer_cancel(loop, &d);
    cd_loop_run(loop);
    CHECK_STR(trace, "ab");
    CHECK_INT(a.slot, 0);
    cd_loop_free(loop);
}

static int again;
static struct cd_timer self;

static void rearm(void *arg)
{
    (void)arg;
    if (++again == 5)
        cd_loop_stop(loop);
    else
        cd_timer_set(loop, &self, 0, rearm, NULL);
}

static void timer_rearms_itself(void)
{
    again = 0;
    begin();
    cd_timer_set(loop, &self, 0, rearm, NULL);
    cd_loop_run(loop);
    CHECK_INT(again, 5);
    cd_loop_free(loop);
}

/* --- sources --- */

static int pair[2], other[2];
static struct cd_io *io_a, *io_b;

static void reads(void *arg, uint32_t events)
{
    char byte = 0;

    (void)arg;
    note(events & EPOLLIN ? "r" : "?");
    CHECK_INT(read(pair[0], &byte, 1), 1);
    if (byte == 'z')
        cd_loop_stop(loop);
}

static void source_is_served(void)
{
    begin();
    CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    io_a = cd_io_add(loop, pair[0], EPOLLIN, reads, NULL);
    CHECK_INT(write(pair[1], "xyz", 3), 3);
    cd_loop_run(loop);
    CHECK_STR(trace, "rrr");
    cd_io_del(io_a);
    cd_loop_free(loop);
    close(pair[0]);
    close(pair[1]);
}

/* Whichever of the two runs first removes the other one, whose event is in the same batch. */
static struct cd_io **first_served; /* the victim */

static void removes_other(void *arg, uint32_t events)
{
    (void)events;
    note("x");
    first_served = arg;
    cd_io_del(*(struct cd_io **)arg);
    cd_loop_defer(loop, stop, NULL);
}

static void removed_source_stays_silent(void)
{
    begin();
    CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM, 0, other), 0);
    io_a = cd_io_add(loop, pair[0], EPOLLIN | EPOLLET, removes_other, &io_b);
    io_b = cd_io_add(loop, other[0], EPOLLIN | EPOLLET, removes_other, &io_a);
    CHECK_INT(write(pair[1], "x", 1), 1);
    CHECK_INT(write(other[1], "x", 1), 1);
    cd_loop_run(loop);
    CHECK_STR(trace, "x");
    cd_io_del(first_served == &io_b ? io_a : io_b); /* the one that ran */
    cd_loop_free(loop);
    close(pair[0]);
    close(pair[1]);
    close(other[0]);
    close(other[1]);
}

/* --- deferred calls, hooks --- */

static void deferred_again(void *arg)
{
    note("2");
    cd_loop_defer(loop, stop, arg);
}

static void deferred(void *arg)
{
    note("1");
    cd_loop_defer(loop, deferred_again, arg);
}

static void hook(void *arg)
{
    (void)arg;
    note("h");
}

static void deferred_calls_run_later(void)
{
    begin();
    cd_loop_after(loop, hook, NULL);
    CHECK_INT(cd_loop_defer(loop, deferred, NULL), 0);
    CHECK_STR(trace, "");
    cd_loop_run(loop);
    CHECK(strncmp(trace, "1h2", 3) == 0);
    cd_loop_free(loop);
}

/* --- signals --- */

static void got_signal(void *arg, int signo)
{
    (void)arg;
    note(signo == SIGHUP ? "H" : signo == SIGTERM ? "T" : "?");
    if (signo == SIGTERM)
        cd_loop_stop(loop);
}

static void raise_term(void *arg)
{
    (void)arg;
    kill(getpid(), SIGTERM);
}

static void signals_arrive_on_the_loop(void)
{
    struct cd_timer t = {0};
    struct sigaction now;

    begin();
    CHECK_INT(sigaction(SIGSEGV, NULL, &now), 0);
#if !defined(__SANITIZE_ADDRESS__)
    CHECK(now.sa_handler == SIG_DFL); /* a crash must leave a core, not a spinning process */
#endif
    CHECK_INT(sigaction(SIGPIPE, NULL, &now), 0);
    CHECK(now.sa_handler == SIG_IGN);
    cd_loop_on_signal(loop, got_signal, NULL);
    kill(getpid(), SIGHUP);
    cd_timer_set(loop, &t, 30, raise_term, NULL);
    cd_loop_run(loop);
    CHECK_STR(trace, "HT");
    cd_loop_free(loop);
}

/* --- worker --- */

static int worked, reported;

static void work(void *arg)
{
    (void)arg;
    __atomic_add_fetch(&worked, 1, __ATOMIC_SEQ_CST);
}

static void work_done(void *arg)
{
    (void)arg;
    if (++reported == 64)
        cd_loop_stop(loop);
}

static void worker_reports_and_is_bounded(void)
{
    int queued = 0;

    begin();
    worked = reported = 0;
    for (int i = 0; i < 64; i++)
        queued += cd_worker_run(loop, work, work_done, NULL) == 0;
    CHECK_INT(queued, 64);
    CHECK_INT(cd_worker_run(loop, work, work_done, NULL), -1);
    cd_loop_run(loop);
    CHECK_INT(worked, 64);
    CHECK_INT(reported, 64);
    cd_loop_free(loop);
}

/* --- costs --- */

static void idle_costs_nothing(void)
{
    struct cd_timer t = {0};
    struct timespec before, after;

    begin();
    cd_timer_set(loop, &t, 1000, stop, NULL);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    cd_loop_run(loop);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    /* A busy loop would take the whole second. */
    CHECK((after.tv_sec - before.tv_sec) * 1000 + (after.tv_nsec - before.tv_nsec) / 1000000 < 300);
    cd_loop_free(loop);
}

static void never_run_loop_is_freed(void)
{
    struct rlimit lim;

    begin();
    CHECK_INT(getrlimit(RLIMIT_NOFILE, &lim), 0);
    CHECK(lim.rlim_cur <= 4096);
    cd_loop_free(loop);
}

static void all(void)
{
    TAP_RUN(never_run_loop_is_freed);
    TAP_RUN(timers_fire_in_order);
    TAP_RUN(timer_rearms_itself);
    TAP_RUN(source_is_served);
    TAP_RUN(removed_source_stays_silent);
    TAP_RUN(deferred_calls_run_later);
    TAP_RUN(signals_arrive_on_the_loop);
    TAP_RUN(worker_reports_and_is_bounded);
    TAP_RUN(idle_costs_nothing);
}

int main(void)
{
    cd_log_setup(CD_LOG_WARN, 0);
    poll_backend = true;
    all();
    poll_backend = false;
    begin();
    printf("# second round: %s\n", cd_loop_backend(loop));
    cd_loop_free(loop);
    all();
    return tap_done();
}

/* loop.h -- the one event loop: libwebsockets waits outside, our epoll set inside (process
 * architecture: nothing here blocks). */
#ifndef CD_LOOP_LOOP_H
#define CD_LOOP_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cd_loop;
struct lws_vhost;

/** @param events  EPOLLIN | EPOLLOUT | ... as epoll reported them */
typedef void (*cd_io_fn)(void *arg, uint32_t events);
/** A source that was removed rests until the end of the turn, so late events find it harmless. */
struct cd_io;

struct cd_loop_conf {
    unsigned max_fds;   /* raises RLIMIT_NOFILE before libwebsockets sizes its tables */
    bool force_poll;    /* do not ask for the libuv plugin (tests) */
};

/** Create the loop and the libwebsockets context. @return NULL on failure (logged) */
struct cd_loop *cd_loop_new(const struct cd_loop_conf *conf);
void cd_loop_free(struct cd_loop *loop);
/** Serve until cd_loop_stop(). */
void cd_loop_run(struct cd_loop *loop);
void cd_loop_stop(struct cd_loop *loop);
const char *cd_loop_backend(const struct cd_loop *loop); /* "libuv" or "poll" */

/** Watch @p fd. @param events  epoll bits; EPOLLET allowed. @return NULL when out of memory */
struct cd_io *cd_io_add(struct cd_loop *loop, int fd, uint32_t events, cd_io_fn fn, void *arg);
void cd_io_mod(struct cd_io *io, uint32_t events);
/** Stop watching; NULL is allowed. The fd stays open. */
void cd_io_del(struct cd_io *io);

/** Run @p fn at the end of each turn that handled something (curl results, pg kick, MHD pump). */
void cd_loop_after(struct cd_loop *loop, void (*fn)(void *arg), void *arg);
/** Run @p fn once, soon, outside the present call stack. @return 0, or -1 out of memory */
int cd_loop_defer(struct cd_loop *loop, void (*fn)(void *arg), void *arg);
/** Signals are read through signalfd: TERM, INT, HUP, USR1. */
void cd_loop_on_signal(struct cd_loop *loop, void (*fn)(void *arg, int signo), void *arg);

/** For src/in/ws.c alone: the vhost that connections are adopted into. */
struct lws_vhost *cd_loop_vhost(struct cd_loop *loop);
/** For src/in/ws.c alone, before cd_loop_new: libwebsockets' callback of protocol index 0. */
struct lws;
void cd_loop_set_ws_callback(int (*cb)(struct lws *wsi, int reason, void *user, void *in,
                                       size_t len),
                             size_t per_session_bytes);

/* --- timers: one heap behind one timerfd --------------------------------------------------- */
struct cd_timer {
    int64_t due_ms; /* monotonic; 0: not armed */
    uint32_t slot;  /* place in the heap + 1; 0: not armed */
    void (*fn)(void *arg);
    void *arg;
};
/** Arm or re-arm. Embedded in its owner, zero-initialised. @return 0, or -1 out of memory */
int cd_timer_set(struct cd_loop *loop, struct cd_timer *t, int64_t delay_ms,
                 void (*fn)(void *arg), void *arg);
void cd_timer_cancel(struct cd_loop *loop, struct cd_timer *t);

/* --- worker: the one helper thread, for what only blocks ------------------------------------- */
/** Run @p work on the helper thread, then @p done on the loop. At most 64 wait.
 * @return 0, or -1 when the queue is full */
int cd_worker_run(struct cd_loop *loop, void (*work)(void *arg), void (*done)(void *arg),
                  void *arg);

#endif

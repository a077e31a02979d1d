/* worker.h -- the helper thread as loop.c holds it; users call cd_worker_run() of loop.h. */
#ifndef CD_LOOP_WORKER_H
#define CD_LOOP_WORKER_H

struct cd_loop;
struct cd_worker;

#define CD_WORKER_JOBS 64 /* jobs queued, running or waiting for their done() */

/** The thread starts with the first job. @return NULL when out of memory or descriptors */
struct cd_worker *cd_worker_new(struct cd_loop *loop);
/** Wait for the running job; done() of jobs not yet reported is not called. May be called by a done(). */
void cd_worker_free(struct cd_worker *w);
int cd_worker_push(struct cd_worker *w, void (*work)(void *arg), void (*done)(void *arg),
                   void *arg);

#endif

/* state.c -- one call's memory of the matrix module.
 *
 * State: hangs on live->mx. Owns: everything within; freed when the call leaves memory. */
#include "state.h"

#include <stdlib.h>

#include "base/clock.h"

struct cd_mx *cd_mx_of(struct cd_live *live)
{
    struct cd_mx *m = live->mx;

    if (m)
        return m;
    m = calloc(1, sizeof(*m));
    if (!m)
        return NULL;
    m->live = live;
    m->ord = cd_wall_ms() * 1000; /* later than anything of an earlier process */
    for (size_t i = 0; i < CD_MX_SIDES; i++) {
        m->side[i].mx = m;
        cd_buf_init(&m->side[i].queue, CD_MX_QUEUE_BYTES);
    }
    live->mx = m;
    return m;
}

void cd_mx_drop(struct cd_live *live)
{
    struct cd_mx *m = live->mx;

    if (!m)
        return;
    live->mx = NULL;
    cd_timer_cancel(live->core->loop, &m->retry);
    cd_timer_cancel(live->core->loop, &m->drain);
    cd_mx_wait_drop(&m->waiting, CD_STORE_OK); /* their call is gone: they move nothing */
    for (size_t i = 0; i < CD_MX_SIDES; i++) {
        cd_timer_cancel(live->core->loop, &m->side[i].flush);
        cd_buf_done(&m->side[i].queue);
        free(m->side[i].sdp);
        free(m->side[i].party);
    }
    for (size_t i = 0; i < m->n_early; i++) {
        free(m->early[i].party);
        cd_buf_done(&m->early[i].list);
    }
    free(m);
}

int cd_mx_side_of(const struct cd_call *c, const char *user)
{
    if (!user)
        return -1;
    if (strcmp(user, c->caller) == 0)
        return CD_MX_CALLER;
    return c->callee && strcmp(user, c->callee) == 0 ? CD_MX_CALLEE : -1;
}

const struct cd_participant *cd_mx_participant(const struct cd_call *c, int side)
{
    return cd_call_participant_const(c, side == CD_MX_CALLER ? c->caller : c->callee);
}

bool cd_mx_has_counterpart(const struct cd_call *c)
{
    const struct cd_participant *caller = cd_mx_participant(c, CD_MX_CALLER);
    const struct cd_participant *callee = cd_mx_participant(c, CD_MX_CALLEE);

    if (!caller || !callee || c->foreign || cd_status_final(c->status))
        return false;
    if (caller->side == CD_SIDE_MATRIX)
        return callee->side != CD_SIDE_MATRIX;
    return c->status == CD_RINGING || callee->side == CD_SIDE_MATRIX;
}

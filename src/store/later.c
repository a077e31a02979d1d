/* later.c -- a queue of answers that the loop delivers.
 * In: answers made inside a submitting call. Out: callbacks in order, outside it.
 * Why: callers may hold state that a callback from inside their own call would change under them.
 * State: one list and one ticket a store; the ticket outlives a store that is closed meanwhile.
 * Owns: the answers. Blocks: never. */
#include "store/later.h"

#include <stdlib.h>

#include "base/log.h"
#include "base/spare.h"
#include "loop/loop.h"

/* What the loop holds: it cannot be cancelled, so it is told when its queue has gone. */
struct ticket {
    struct cd_later *later;
};

#define ANSWERS_ASIDE 256
#define AGAIN_MS 10 /* when the loop takes no more work */

static struct cd_spare answers = CD_SPARE(struct cd_answer, ANSWERS_ASIDE);
static struct cd_spare tickets = CD_SPARE(struct ticket, 4);

struct cd_later {
    struct cd_loop *loop;
    struct cd_timer again;
    struct cd_answer *head, *last;
    struct ticket *ticket; /* NULL: the loop was not asked */
    bool *gone;            /* set while delivering: freed by a callback */
};

struct cd_later *cd_later_new(struct cd_loop *loop)
{
    struct cd_later *l = calloc(1, sizeof *l);

    if (!l)
        return NULL;
    l->loop = loop;
    cd_spare_fill(&answers);
    cd_spare_fill(&tickets);
    return l;
}

void cd_members_free(struct cd_member_row *rows, size_t n)
{
    for (size_t i = 0; rows && i < n; i++) {
        free(rows[i].room_id);
        free(rows[i].user_id);
        free(rows[i].display_name);
        free(rows[i].avatar_url);
    }
    free(rows);
}

struct cd_answer *cd_answer_new(void)
{
    return cd_spare_take(&answers);
}

static void drop_calls(struct cd_stored_call **calls, size_t n)
{
    for (size_t i = 0; calls && i < n; i++)
        cd_stored_call_free(calls[i]);
    free(calls);
}

void cd_answer_drop(struct cd_answer *a)
{
    cd_change_free(a->change);
    cd_stored_call_free(a->call);
    drop_calls(a->calls, a->n);
    cd_members_free(a->members, a->n);
    cd_idem_row_free(a->idem);
    free(a->bytes);
    cd_spare_give(&answers, a);
}

void cd_later_free(struct cd_later *l)
{
    if (!l)
        return;
    cd_timer_cancel(l->loop, &l->again);
    if (l->ticket)
        l->ticket->later = NULL;
    if (l->gone)
        *l->gone = true;
    while (l->head) {
        struct cd_answer *a = l->head;

        l->head = a->next;
        cd_answer_drop(a);
    }
    free(l);
}

static void call_receiver(struct cd_answer *a)
{
    switch (a->kind) {
    case CD_A_COMMIT:
        a->fn.commit(a->arg, a->rc, a->rc == CD_STORE_CALL_EXISTS ? a->live : NULL);
        break;
    case CD_A_LOAD: {
        struct cd_stored_call *call = a->call;

        a->call = NULL;
        a->fn.load(a->arg, a->rc, call);
        break;
    }
    case CD_A_LOAD_ALL: {
        struct cd_stored_call **calls = a->calls;

        a->calls = NULL;
        a->fn.load_all(a->arg, a->rc, calls, a->n);
        break;
    }
    case CD_A_MEMBERS:
        a->fn.members(a->arg, a->rc, a->members, a->n);
        break;
    case CD_A_IDEM:
        a->fn.idem(a->arg, a->rc, a->idem);
        break;
    case CD_A_TOKEN:
        a->fn.token(a->arg, a->rc, a->bytes, a->n);
        break;
    case CD_A_DONE:
        a->fn.done(a->arg, a->rc);
        break;
    }
}

void cd_answer_deliver(struct cd_answer *a)
{
    if (a->fn.done)
        call_receiver(a);
    cd_answer_drop(a);
}

static void run(void *arg)
{
    struct ticket *t = arg;
    struct cd_later *l = t->later;
    bool gone = false;
    struct cd_answer *last, *a;

    cd_spare_give(&tickets, t);
    if (!l)
        return;
    l->ticket = NULL;
    l->gone = &gone;
    /* only what stands here now: answers made by these callbacks wait for the next turn */
    last = l->last;
    for (bool end = false; !end && !gone && (a = l->head);) {
        end = a == last;
        l->head = a->next;
        if (!l->head)
            l->last = NULL;
        cd_answer_deliver(a);
    }
    if (!gone)
        l->gone = NULL;
}

static bool ask(struct cd_later *l)
{
    struct ticket *t = cd_spare_take(&tickets);

    if (!t)
        return false;
    t->later = l;
    if (cd_loop_defer(l->loop, run, t) < 0) {
        cd_spare_give(&tickets, t);
        return false;
    }
    l->ticket = t;
    return true;
}

static void ask_again(void *arg)
{
    struct cd_later *l = arg;

    if (!l->ticket && l->head && !ask(l))
        cd_timer_set(l->loop, &l->again, AGAIN_MS, ask_again, l);
}

void cd_later_push(struct cd_later *l, struct cd_answer *a)
{
    if (!a) {
        cd_log(CD_LOG_ERROR, "store", "answer.lost", NULL, "out of memory");
        return;
    }
    a->next = NULL;
    if (l->last)
        l->last->next = a;
    else
        l->head = a;
    l->last = a;
    ask_again(l);
}

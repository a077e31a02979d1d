/* later.h -- answers of a store, delivered on the loop and never inside the submitting call. */
#ifndef CD_STORE_LATER_H
#define CD_STORE_LATER_H

#include "store/store_int.h"

/** One answer. Owns what it carries; the receiver takes over what store.h says it frees. */
struct cd_answer {
    struct cd_answer *next;
    enum cd_answer_kind {
        CD_A_COMMIT,
        CD_A_LOAD,
        CD_A_LOAD_ALL,
        CD_A_MEMBERS,
        CD_A_IDEM,
        CD_A_TOKEN,
        CD_A_DONE
    } kind;
    enum cd_store_rc rc;
    union {
        cd_commit_fn commit;
        cd_load_fn load;
        cd_load_all_fn load_all;
        cd_members_fn members;
        cd_idem_fn idem;
        cd_token_fn token;
        cd_done_fn done;
    } fn; /* may be NULL: nobody waits */
    void *arg;
    char live[CD_CALL_ID_LEN + 1]; /* CD_A_COMMIT */
    struct cd_change *change;      /* CD_A_COMMIT: freed after the callback */
    struct cd_stored_call *call;   /* CD_A_LOAD */
    struct cd_stored_call **calls; /* CD_A_LOAD_ALL */
    struct cd_member_row *members; /* CD_A_MEMBERS */
    struct cd_idem_row *idem;      /* CD_A_IDEM */
    uint8_t *bytes;                /* CD_A_TOKEN */
    size_t n;                      /* of calls, members or bytes */
};

struct cd_later; /* a queue of answers, tied to one store */

struct cd_later *cd_later_new(struct cd_loop *loop);
/** Drops what is still queued. */
void cd_later_free(struct cd_later *l);
/** Queue @p a (taken over) for the next turn of the loop. NULL: there was no memory for it. */
void cd_later_push(struct cd_later *l, struct cd_answer *a);
/** A zeroed answer. A few are put aside for when memory has run out: who asked must hear of that. */
struct cd_answer *cd_answer_new(void);
/** Call the receiver and free @p a. */
void cd_answer_deliver(struct cd_answer *a);
/** Free without calling. */
void cd_answer_drop(struct cd_answer *a);
void cd_members_free(struct cd_member_row *rows, size_t n);

#endif

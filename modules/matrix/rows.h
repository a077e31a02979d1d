/* rows.h -- makes outbox rows of a call's Matrix events. Internal to modules/matrix. */
#ifndef CD_MATRIX_ROWS_H
#define CD_MATRIX_ROWS_H

#include "state.h"

#define CD_MX_ROWS 4

/** Rows being gathered for one write. */
struct cd_mx_rows {
    struct cd_outbox_row v[CD_MX_ROWS];
    size_t n;
    bool starved; /* out of memory for one of them */
};

/** May anything of this call ever stand in the room? */
bool cd_mx_enabled(const struct cd_live *live, const struct cd_call *c);
/** Does this call stand in the room, so that what follows belongs there, too? */
bool cd_mx_mirrors(const struct cd_live *live, const struct cd_call *c);
/** Is that side a client of ours? */
bool cd_mx_is_ours(const struct cd_call *c, int side);
/** The party id that side sends with, made up when it took no seat. @return NULL out of memory */
const char *cd_mx_party(struct cd_mx *m, const struct cd_call *c, int side);

/* Each adds a row; out of memory or room leaves it out and is logged. @p c is the state to
 * describe. */
void cd_mx_add_invite(struct cd_mx_rows *rows, struct cd_mx *m, const struct cd_call *c);
void cd_mx_add_answer(struct cd_mx_rows *rows, struct cd_mx *m, const struct cd_call *c);
void cd_mx_add_select(struct cd_mx_rows *rows, struct cd_mx *m, const struct cd_call *c,
                      const char *selected_party);
void cd_mx_add_reject(struct cd_mx_rows *rows, struct cd_mx *m, const struct cd_call *c);
void cd_mx_add_hangup(struct cd_mx_rows *rows, struct cd_mx *m, const struct cd_call *c, int side);
void cd_mx_add_negotiate(struct cd_mx_rows *rows, struct cd_mx *m, const struct cd_call *c,
                         int side, bool is_answer);
void cd_mx_add_metadata(struct cd_mx_rows *rows, struct cd_mx *m, const struct cd_call *c,
                        int side);
/** @param list  comma-joined candidates */
void cd_mx_add_candidates(struct cd_mx_rows *rows, struct cd_mx *m, const struct cd_call *c,
                          int side, struct cd_str list);

/** Give the rows to a transition; they are moved out. One that is starved makes the transition fail. */
void cd_mx_rows_into(struct cd_mx_rows *rows, struct cd_change *change);
/** Write the rows on their own: all, or when one is starved, none.
 * @return false out of memory: nothing is written, and it is worth another try */
bool cd_mx_rows_write(struct cd_mx_rows *rows, struct cd_live *live);

#endif

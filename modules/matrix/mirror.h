/* mirror.h -- our calls, written into their rooms. Internal to modules/matrix. */
#ifndef CD_MATRIX_MIRROR_H
#define CD_MATRIX_MIRROR_H

#include "state.h"

/* The module hooks of core.h. */
void cd_mx_before_commit(struct cd_core *core, struct cd_live *live, const struct cd_call *prev,
                         const struct cd_call *next, const struct cd_cmd *cmd,
                         struct cd_change *change);
void cd_mx_after_commit(struct cd_core *core, struct cd_live *live, const struct cd_call *prev,
                        const struct cd_cmd *cmd, const struct cd_change *change);
void cd_mx_on_signal(struct cd_core *core, struct cd_live *live, const struct cd_sig *sig,
                     uint64_t seq);
void cd_mx_on_gone(struct cd_core *core, struct cd_live *live);
void cd_mx_on_moved(struct cd_core *core, struct cd_live *live, const struct cd_call *prev,
                    const struct cd_outbox_row *rows, size_t n);
void cd_mx_on_restored(struct cd_core *core, struct cd_live *live, const struct cd_outbox_row *rows,
                       size_t n);
/** The outbox's callbacks; self is the core. */
extern const struct cd_outbox_ops cd_mx_outbox_ops;

#endif

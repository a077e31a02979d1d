/* matrix.h -- m.call.* both ways: mirrors our calls into rooms, and takes Matrix clients' calls in. */
#ifndef CD_MATRIX_MATRIX_H
#define CD_MATRIX_MATRIX_H

#include "core.h"

extern const struct cd_module cd_module_matrix;

/** A participant on our side muted or unmuted: tell a Matrix counterpart that knows about it.
 * @param user  whose participant already carries the new state */
void cd_matrix_toggled(struct cd_core *core, struct cd_live *live, const char *user);

#endif

/* batch.h -- gathers our candidates and writes them in batches. Internal to modules/matrix. */
#ifndef CD_MATRIX_BATCH_H
#define CD_MATRIX_BATCH_H

#include <jansson.h>

#include "state.h"

/** The side's invite or answer is written: its candidates may follow. */
void cd_mx_batch_base(struct cd_mx *m, int side);
/** Take the candidates of a signal: members "candidate" or "candidates". */
void cd_mx_batch_take(struct cd_mx *m, int side, const json_t *members);
/** Nothing more is to be sent, from either side. */
void cd_mx_batch_stop(struct cd_mx *m);

#endif

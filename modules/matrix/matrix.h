/* matrix.h -- m.call.* both ways: mirrors our calls into rooms, and takes Matrix clients' calls in. */
#ifndef CD_MATRIX_MATRIX_H
#define CD_MATRIX_MATRIX_H

#include "core.h"

extern const struct cd_module cd_module_matrix;

#endif

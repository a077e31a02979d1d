/* matrix.h -- m.call.* both ways: our calls into rooms, Matrix clients' calls out of them. */
#ifndef CD_MATRIX_MATRIX_H
#define CD_MATRIX_MATRIX_H

#include "core.h"

extern const struct cd_module cd_module_matrix;

#endif

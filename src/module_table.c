/* module_table.c -- the one list of features. */
#include "calls/calls.h"
#include "core.h"
#include "health/health.h"
#include "ice/ice.h"
#include "matrix/matrix.h"
#include "page/page.h"

/* Order: calls answers and announces before matrix mirrors; before a commit the other way round. */
const struct cd_module *const cd_modules[] = {
    &cd_module_calls, &cd_module_matrix, &cd_module_ice, &cd_module_page, &cd_module_health, NULL,
};

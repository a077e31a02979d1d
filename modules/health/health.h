/* health.h -- /health, /ready, /version and /metrics. */
#ifndef CD_HEALTH_HEALTH_H
#define CD_HEALTH_HEALTH_H

#include "core.h"

extern const struct cd_module cd_module_health;

#endif

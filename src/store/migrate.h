/* migrate.h -- the migrations that this binary carries (made from migrations/ at build time). */
#ifndef CD_STORE_MIGRATE_H
#define CD_STORE_MIGRATE_H

#include <stddef.h>

struct cd_migration {
    int number;
    const char *name;       /* "004_voice_video_calls" */
    const char *up, *down;  /* the files, each its own transaction */
};

/* In rising order of their numbers. */
extern const struct cd_migration cd_migrations[];
extern const size_t cd_migrations_count;

#endif

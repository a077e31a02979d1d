/* spool_dir.h -- the directory of an installation's spool: its lock and its name. */
#ifndef CD_STORE_SPOOL_DIR_H
#define CD_STORE_SPOOL_DIR_H

#include <stdbool.h>

#include "base/err.h"
#include "base/id.h"

struct cd_spool_dir {
    int fd;   /* of the directory, for openat() and fsync() */
    int lock; /* held while it is open */
    char node[CD_PARTY_ID_LEN + 1]; /* random name of this installation, the same after each restart */
};

/** Make the directory (0700) if it is missing, take its lock, read its node name or make one. Blocks:
 * call it before the loop runs.
 * @return CD_OK, or CD_E_INTERNAL with what is wrong: in use by another daemon, not ours, not writable */
enum cd_rc cd_spool_dir_open(const char *path, struct cd_spool_dir *out, struct cd_err *err) CD_MUST_CHECK;
/** Gives the lock back; harmless on a zeroed one. */
void cd_spool_dir_close(struct cd_spool_dir *d);
/** Is something there that no database has yet? Takes no lock, changes nothing. Blocks. */
bool cd_spool_dir_waits(const char *path);

#endif

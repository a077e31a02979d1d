/* daemon.h -- the running daemon: assembled from its parts, started, drained, stopped. */
#ifndef CD_DAEMON_H
#define CD_DAEMON_H

#include "conf.h"

/** Serve until SIGTERM or SIGINT.
 * @param conf       taken over
 * @param conf_path  read again on SIGHUP; may be NULL
 * @param dev        as --dev: no homeserver, tokens that name their user
 * @return the exit status: 0 after a clean drain */
int cd_daemon_run(struct cd_conf *conf, const char *conf_path, bool dev);

#endif

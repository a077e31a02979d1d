/* fds.h -- descriptors are a budget, too: clients must not use up those that calls cannot do without (the database,
 * the homeserver, the spool's files, the admin's control socket). */
#ifndef CD_BASE_FDS_H
#define CD_BASE_FDS_H

#include <stdbool.h>

/** Is a descriptor with this number one of the last that the process may have? The kernel gives out the lowest number
 * that is free, and RLIMIT_NOFILE is asked each time: an admin may change it while we run.
 * @return true: an eighth of the limit, at most 32, or less is left; close it, if it is a client's */
bool cd_fds_scarce(int fd);
/** May a client have two more, for what it has asked for? @param fd  any that is open */
bool cd_fds_two_left(int fd);

#endif

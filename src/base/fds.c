/* fds.c -- how near is the limit of descriptors? Blocks: never. */
#include "base/fds.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#define RESERVE 32

bool cd_fds_scarce(int fd)
{
    struct rlimit lim;
    rlim_t reserve;

    if (getrlimit(RLIMIT_NOFILE, &lim) != 0 || lim.rlim_cur == RLIM_INFINITY)
        return false;
    reserve = lim.rlim_cur / 8 < RESERVE ? lim.rlim_cur / 8 : RESERVE;
    return (rlim_t)fd + reserve >= lim.rlim_cur;
}

bool cd_fds_two_left(int fd)
{
    int next = fcntl(fd, F_DUPFD_CLOEXEC, 0); /* the only way to learn the number */

    if (next < 0)
        return false;
    close(next);
    return !cd_fds_scarce(next + 1);
}

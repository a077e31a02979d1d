/* fds.c -- how near is the limit of descriptors? Blocks: never. */
#include "base/fds.h"

#include <sys/resource.h>

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

/* memfile.h -- the input as a file that has a name and no disk. */
#ifndef CD_FUZZ_MEMFILE_H
#define CD_FUZZ_MEMFILE_H

#include <sys/mman.h>
#include <unistd.h>

#include "fuzz.h"

/* @param path  32 bytes for its name. @return the descriptor to close */
static inline int memfile(struct cd_str text, char *path)
{
    int fd = memfd_create("fuzz", MFD_CLOEXEC);

    MUST(fd >= 0 && write(fd, text.p, text.n) == (ssize_t)text.n);
    snprintf(path, 32, "/proc/self/fd/%d", fd);
    return fd;
}

#endif

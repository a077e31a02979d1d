/* spool_dir.c -- the directory of an installation's spool: its lock and its name.
 * In: a path. Out: descriptors, the node name. Why: two daemons on one spool would replay each other's
 * records; and the owner of leases must be the same one after a restart. Blocks: at start only. */
#include "store/spool_dir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/spool_file.h"

#define NODE "node"
#define NODE_NEW "node.new"

static enum cd_rc fail(struct cd_err *err, const char *path, const char *what)
{
    return cd_fail(err, CD_E_INTERNAL, "database.spool_dir %.120s: %s: %s", path, what, strerror(errno));
}

static bool is_node(const char *s, size_t n)
{
    if (n != CD_PARTY_ID_LEN + 1 || s[n - 1] != '\n')
        return false;
    for (size_t i = 0; i + 1 < n; i++)
        if (!((s[i] >= '0' && s[i] <= '9') || ((s[i] | 32) >= 'a' && (s[i] | 32) <= 'z')))
            return false;
    return true;
}

/* Whole or not at all: a name that a crash cut off would be another installation's. */
static enum cd_rc make_node(struct cd_spool_dir *d, const char *path, struct cd_err *err)
{
    char text[CD_PARTY_ID_LEN + 2];
    int fd = openat(d->fd, NODE_NEW, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    bool ok;

    if (fd < 0)
        return fail(err, path, "cannot write there");
    cd_id_alnum(CD_PARTY_ID_LEN, d->node);
    snprintf(text, sizeof text, "%s\n", d->node);
    ok = write(fd, text, CD_PARTY_ID_LEN + 1) == CD_PARTY_ID_LEN + 1 && fsync(fd) == 0;
    if (close(fd) != 0 || !ok || renameat(d->fd, NODE_NEW, d->fd, NODE) != 0 || fsync(d->fd) != 0)
        return fail(err, path, "cannot write there");
    return CD_OK;
}

static enum cd_rc read_node(struct cd_spool_dir *d, const char *path, struct cd_err *err)
{
    char text[CD_PARTY_ID_LEN + 2];
    int fd = openat(d->fd, NODE, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    ssize_t n;

    if (fd < 0)
        return errno == ENOENT ? make_node(d, path, err) : fail(err, path, "cannot read " NODE);
    n = read(fd, text, sizeof text);
    close(fd);
    if (n < 0)
        return fail(err, path, "cannot read " NODE);
    if (!is_node(text, (size_t)n))
        return cd_fail(err, CD_E_INTERNAL,
                       "%.160s/" NODE " holds no node name; remove it, and a new one is made", path);
    memcpy(d->node, text, CD_PARTY_ID_LEN);
    return CD_OK;
}

static enum cd_rc take(struct cd_spool_dir *d, const char *path, struct cd_err *err)
{
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return fail(err, path, "cannot make the directory");
    d->fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (d->fd < 0)
        return fail(err, path, "cannot open the directory");
    d->lock = openat(d->fd, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (d->lock < 0)
        return fail(err, path, "cannot write there");
    if (flock(d->lock, LOCK_EX | LOCK_NB) != 0)
        return errno == EWOULDBLOCK
                   ? cd_fail(err, CD_E_INTERNAL,
                             "database.spool_dir %.120s is in use by another matrix-calld; give each daemon"
                             " a directory of its own", path)
                   : fail(err, path, "cannot lock it");
    return read_node(d, path, err);
}

enum cd_rc cd_spool_dir_open(const char *path, struct cd_spool_dir *out, struct cd_err *err)
{
    enum cd_rc rc;

    *out = (struct cd_spool_dir){.fd = -1, .lock = -1};
    rc = take(out, path, err);
    if (rc != CD_OK)
        cd_spool_dir_close(out);
    return rc;
}

void cd_spool_dir_close(struct cd_spool_dir *d)
{
    if (d->fd > 0)
        close(d->fd);
    if (d->lock > 0)
        close(d->lock);
    *d = (struct cd_spool_dir){.fd = -1, .lock = -1};
}

bool cd_spool_dir_waits(const char *path)
{
    uint64_t *segments = NULL;
    size_t n = 0;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0)
        return false;
    spool_file_list(fd, &segments, &n);
    free(segments);
    close(fd);
    return n > 0;
}

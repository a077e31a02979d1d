/* spool_file.c -- the blocking half of the spool's files; see spool_log.h for their form.
 * In: a directory, bytes. Out: files, errno. Why apart: everything here may wait for a disk.
 * State: none. Blocks: yes: at start, or on the spool's own thread. */
#include "store/spool_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"

#define NAME_LEN 14 /* 10 digits and ".seg" */
#define SEGMENT_MAX (256u << 20) /* bytes of a file that we read back */
#define NEW_FLAGS (O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC)

void spool_file_name(uint64_t number, char out[SPOOL_NAME_MAX])
{
    snprintf(out, SPOOL_NAME_MAX, "%010" PRIu64 ".seg", number % 10000000000u);
}

static void make_head(uint64_t number, uint8_t head[SPOOL_HEAD])
{
    memcpy(head, "CDSPOOL\1", 8);
    for (size_t i = 0; i < 8; i++)
        head[8 + i] = (uint8_t)(number >> (8 * i));
}

static int write_all(int fd, uint64_t at, const void *bytes, size_t n)
{
    const char *p = bytes;

    while (n) {
        ssize_t w = pwrite(fd, p, n, (off_t)at);

        if (w < 0 && errno == EINTR)
            continue;
        if (w <= 0)
            return w < 0 ? errno : EIO;
        p += w;
        at += (uint64_t)w;
        n -= (size_t)w;
    }
    return 0;
}

int spool_file_write(int fd, uint64_t at, const void *p, size_t n)
{
    int err = write_all(fd, at, p, n);

    if (err == 0 && fdatasync(fd) != 0)
        err = errno;
    if (err && (ftruncate(fd, (off_t)at) != 0 || fdatasync(fd) != 0))
        cd_log(CD_LOG_WARN, "spool", "spool.untrimmed", NULL, "a half-written end stays: %s", strerror(errno));
    return err;
}

int spool_file_new(int dir, uint64_t number, bool from_reserve)
{
    char name[SPOOL_NAME_MAX];
    uint8_t head[SPOOL_HEAD];
    int fd, err;

    spool_file_name(number, name);
    if (from_reserve && renameat(dir, "reserve", dir, name) != 0)
        return -1;
    fd = openat(dir, name, from_reserve ? NEW_FLAGS : NEW_FLAGS | O_TRUNC, 0600);
    if (fd < 0)
        return -1;
    make_head(number, head);
    err = write_all(fd, 0, head, sizeof head);
    if (err == 0 && (fdatasync(fd) != 0 || fsync(dir) != 0))
        err = errno;
    if (err == 0)
        return fd;
    close(fd);
    if (!from_reserve)
        unlinkat(dir, name, 0);
    errno = err;
    return -1;
}

static int read_all(int fd, uint64_t at, void *bytes, size_t n)
{
    char *p = bytes;

    while (n) {
        ssize_t r = pread(fd, p, n, (off_t)at);

        if (r < 0 && errno == EINTR)
            continue;
        if (r <= 0)
            return r < 0 ? errno : EIO;
        p += r;
        at += (uint64_t)r;
        n -= (size_t)r;
    }
    return 0;
}

int spool_file_read(int dir, uint64_t number, uint64_t at, void *p, size_t n)
{
    char name[SPOOL_NAME_MAX];
    int fd, err;

    spool_file_name(number, name);
    fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return errno;
    err = read_all(fd, at, p, n);
    close(fd);
    return err;
}

/* Blocks of the disk for @p bytes from the beginning; file systems without it get zeros. */
static int allocate(int fd, uint64_t bytes)
{
    static const char zeros[65536];
    int err = fallocate(fd, 0, 0, (off_t)bytes) == 0 ? 0 : errno;

    if (err != EOPNOTSUPP && err != ENOSYS && err != EINVAL)
        return err;
    for (uint64_t at = 0; at < bytes; at += sizeof zeros) {
        err = write_all(fd, at, zeros, bytes - at < sizeof zeros ? (size_t)(bytes - at) : sizeof zeros);
        if (err)
            return err;
    }
    return 0;
}

int spool_file_reserve(int dir, uint64_t bytes, uint64_t extra)
{
    struct stat st;
    int fd, err;

    if (extra == 0 && fstatat(dir, "reserve", &st, AT_SYMLINK_NOFOLLOW) == 0 && (uint64_t)st.st_size == bytes)
        return 0;
    fd = openat(dir, "reserve.new", NEW_FLAGS | O_TRUNC, 0600);
    if (fd < 0)
        return errno;
    err = allocate(fd, bytes + extra);
    if (err == 0 && (ftruncate(fd, (off_t)bytes) != 0 || fsync(fd) != 0 ||
                     renameat(dir, "reserve.new", dir, "reserve") != 0 || fsync(dir) != 0))
        err = errno;
    if (err)
        unlinkat(dir, "reserve.new", 0);
    close(fd);
    return err;
}

int spool_file_reject(int dir, const void *p, size_t n, uint64_t max)
{
    int fd = openat(dir, "rejected", NEW_FLAGS, 0600), err = 0;
    uint8_t head[SPOOL_HEAD];
    struct stat st;

    if (fd < 0)
        return errno;
    if (fstat(fd, &st) != 0)
        err = errno;
    else if ((uint64_t)st.st_size + n > max)
        err = EFBIG;
    if (err == 0 && st.st_size == 0) {
        make_head(0, head);
        err = write_all(fd, 0, head, sizeof head);
        st.st_size = sizeof head;
    }
    if (err == 0)
        err = spool_file_write(fd, (uint64_t)st.st_size, p, n);
    close(fd);
    return err;
}

/* --- at start --------------------------------------------------------------------------------- */

static int by_number(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;

    return *x < *y ? -1 : *x > *y;
}

int spool_file_list(int dir, uint64_t **out, size_t *n)
{
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    const struct dirent *e;
    size_t cap = 0;

    *out = NULL;
    *n = 0;
    if (!d) {
        int err = errno;

        if (fd >= 0)
            close(fd);
        return err;
    }
    while ((e = readdir(d))) {
        uint64_t number, *slot;

        if (strlen(e->d_name) != NAME_LEN || strcmp(e->d_name + 10, ".seg") != 0 ||
            !cd_parse_u64((struct cd_str){e->d_name, 10}, 0, 9999999999u, &number))
            continue;
        slot = cd_grow((void **)out, n, &cap, sizeof **out);
        if (!slot) {
            closedir(d);
            return ENOMEM;
        }
        *slot = number;
    }
    closedir(d);
    if (*n)
        qsort(*out, *n, sizeof **out, by_number);
    return 0;
}

static bool only_zeros(const uint8_t *p, size_t n)
{
    return n == 0 || (p[0] == 0 && memcmp(p, p + 1, n - 1) == 0);
}

struct check {
    const char *name;
    const uint8_t *p;
    size_t n, at;
    struct cd_buf whole; /* the good records, when there are bad ones between them */
    bool mend, starved;
    int dir;
    uint64_t max_rejected;
    struct spool_found *out;
    void (*found)(void *self, const struct cd_spool_rec *rec);
    void *self;
};

size_t spool_file_next(const uint8_t *p, size_t n, bool goes_on)
{
    for (size_t at = 1; at < n; at++) {
        struct cd_spool_rec rec;
        enum cd_spool_read r;
        size_t used;

        if (p[at] != (uint8_t)CD_SPOOL_MAGIC[0])
            continue;
        r = cd_spool_rec_read(p + at, n - at, &rec, &used);
        cd_spool_rec_done(&rec);
        if (r == CD_SPOOL_REC || r == CD_SPOOL_STARVED || r == CD_SPOOL_UNREAD || (r == CD_SPOOL_SHORT && goes_on))
            return at;
    }
    return n;
}

static void set_aside(struct check *c, size_t until)
{
    int err = spool_file_reject(c->dir, c->p + c->at, until - c->at, c->max_rejected);

    cd_log(CD_LOG_ERROR, "spool", "spool.damaged", NULL,
           "%s: %zu bytes at %zu are damaged; %s", c->name, until - c->at, c->at,
           err ? strerror(err) : "they are kept in the file rejected");
    c->mend = true;
    c->at = until;
}

static void take(struct check *c, const struct cd_spool_rec *rec, size_t used)
{
    cd_buf_add(&c->whole, c->p + c->at, used);
    c->starved = c->whole.failed;
    c->at += used;
    if (c->out->records++ == 0)
        c->out->first_at = rec->at;
    if (c->found)
        c->found(c->self, rec);
}

/* @return bytes behind the last whole record that are to be cut off */
static size_t walk(struct check *c, bool last)
{
    while (c->at < c->n && !c->starved) {
        struct cd_spool_rec rec;
        size_t used, next;
        enum cd_spool_read r = cd_spool_rec_read(c->p + c->at, c->n - c->at, &rec, &used);

        if (r == CD_SPOOL_REC) {
            take(c, &rec, used);
            cd_spool_rec_done(&rec);
            continue;
        }
        if (r == CD_SPOOL_STARVED) {
            c->starved = true;
            return 0;
        }
        if (r == CD_SPOOL_UNREAD) {
            set_aside(c, c->at + used);
            continue;
        }
        if (only_zeros(c->p + c->at, c->n - c->at))
            return 0; /* allocated and not used */
        next = c->at + spool_file_next(c->p + c->at, c->n - c->at, false);
        if (next == c->n && last)
            return c->n - c->at;
        set_aside(c, next);
    }
    return 0;
}

/* In place of the damaged segment one of its good records. */
static int mend(const struct check *c, uint64_t number)
{
    int fd = openat(c->dir, "mended.new", NEW_FLAGS | O_TRUNC, 0600), err;
    uint8_t head[SPOOL_HEAD];

    if (fd < 0)
        return errno;
    make_head(number, head);
    err = write_all(fd, 0, head, sizeof head);
    if (err == 0)
        err = spool_file_write(fd, sizeof head, c->whole.p, c->whole.n);
    close(fd);
    if (err == 0 && (renameat(c->dir, "mended.new", c->dir, c->name) != 0 || fsync(c->dir) != 0))
        err = errno;
    return err;
}

static int check_bytes(struct check *c, int fd, uint64_t number, bool last)
{
    uint8_t head[SPOOL_HEAD];
    size_t torn;

    make_head(number, head);
    if (c->n >= SPOOL_HEAD && memcmp(c->p, head, SPOOL_HEAD) == 0)
        c->at = SPOOL_HEAD;
    cd_buf_init(&c->whole, SEGMENT_MAX);
    torn = walk(c, last);
    if (c->starved)
        return ENOMEM; /* what was not read must be neither cut off nor passed over */
    c->out->size = SPOOL_HEAD + c->whole.n;
    if (torn)
        cd_log(CD_LOG_WARN, "spool", "spool.torn", NULL,
               "%s: the last %zu bytes are a record that was never finished; cut off", c->name, torn);
    if (c->mend)
        return mend(c, number);
    return torn && (ftruncate(fd, (off_t)c->out->size) != 0 || fdatasync(fd) != 0) ? errno : 0;
}

int spool_file_check(int dir, uint64_t number, bool last, uint64_t max_rejected,
                     void (*found)(void *self, const struct cd_spool_rec *rec), void *self,
                     struct spool_found *out)
{
    char name[SPOOL_NAME_MAX];
    struct check c = {.name = name, .dir = dir, .max_rejected = max_rejected, .out = out, .found = found,
                      .self = self};
    struct stat st;
    uint8_t *bytes = NULL;
    int fd, err = 0;

    memset(out, 0, sizeof *out);
    spool_file_name(number, name);
    fd = openat(dir, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return errno;
    if (fstat(fd, &st) != 0)
        err = errno;
    else if (!S_ISREG(st.st_mode) || st.st_size > (off_t)SEGMENT_MAX)
        err = EFBIG;
    else if (!(bytes = malloc((size_t)st.st_size + 1)))
        err = ENOMEM;
    if (bytes)
        err = read_all(fd, 0, bytes, (size_t)st.st_size);
    if (bytes && err == 0) {
        c.p = bytes;
        c.n = (size_t)st.st_size;
        err = check_bytes(&c, fd, number, last);
        cd_buf_done(&c.whole);
    }
    free(bytes);
    close(fd);
    return err;
}

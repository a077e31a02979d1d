/* oom_shim.c -- makes allocations of a whole process fail when told to.
 *
 * In:  LD_PRELOAD, and a file that CALLD_OOM_CONTROL names, as large as struct control. Who writes to that file
 *      (lib/oom.mjs) says which allocation fails, of whom, and how many from there on.
 * Out: the faults, counted, and where the first was.
 * Why: a test of the daemon cannot wait until a machine has no memory; and libraries allocate, too. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <link.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define FRAMES 24

/* Eight bytes each: lib/oom.mjs knows the order. */
struct control {
    _Atomic int64_t armed;
    _Atomic int64_t left;   /* the fault comes when this has counted down from n to 1 */
    _Atomic int64_t times;  /* so many fail, from there on */
    _Atomic int64_t all;    /* 0: only what the program itself asks for; 1: its libraries, too */
    _Atomic int64_t seen;   /* allocations since it was armed */
    _Atomic int64_t faults; /* in the process's life */
    _Atomic int64_t frames; /* of the first fault since it was armed */
    int64_t base;           /* where the program was loaded */
    int64_t frame[FRAMES];
};

static struct control *control;
static uintptr_t text, text_end; /* of the program itself */
static _Thread_local bool inside;

static void *(*next_malloc)(size_t);
static void *(*next_calloc)(size_t, size_t);
static void *(*next_realloc)(void *, size_t);

static void find_next(void)
{
    *(void **)&next_malloc = dlsym(RTLD_NEXT, "malloc");
    *(void **)&next_calloc = dlsym(RTLD_NEXT, "calloc");
    *(void **)&next_realloc = dlsym(RTLD_NEXT, "realloc");
}

/* The first that is shown is the program. */
static int find_text(struct dl_phdr_info *info, size_t size, void *base)
{
    (void)size;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];

        if (p->p_type == PT_LOAD && (p->p_flags & PF_X)) {
            text = info->dlpi_addr + p->p_vaddr;
            text_end = text + p->p_memsz;
        }
    }
    *(int64_t *)base = (int64_t)info->dlpi_addr;
    return 1;
}

__attribute__((constructor)) static void attach(void)
{
    const char *path = getenv("CALLD_OOM_CONTROL");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *first[1];
    struct control *c;

    if (fd < 0)
        return;
    c = mmap(NULL, sizeof *c, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (c == MAP_FAILED)
        return;
    unsetenv("CALLD_OOM_CONTROL"); /* it is no setting of the daemon's */
    backtrace(first, 1);           /* loads what it needs */
    dl_iterate_phdr(find_text, &c->base);
    control = c;
}

static void note(struct control *c)
{
    void *frame[FRAMES];
    int n = backtrace(frame, FRAMES);

    for (int i = 0; i < n; i++)
        c->frame[i] = (int64_t)(uintptr_t)frame[i];
    atomic_store(&c->frames, n);
}

static bool fails(const void *caller)
{
    struct control *c = control;
    int64_t left, past;

    if (!c || inside || !atomic_load(&c->armed))
        return false;
    if (!atomic_load(&c->all) && ((uintptr_t)caller < text || (uintptr_t)caller >= text_end))
        return false;
    atomic_fetch_add(&c->seen, 1);
    left = atomic_fetch_sub(&c->left, 1);
    past = 1 - left;
    if (past < 0 || past >= atomic_load(&c->times))
        return false;
    atomic_fetch_add(&c->faults, 1);
    inside = true;
    if (past == 0)
        note(c);
    inside = false;
    errno = ENOMEM;
    return true;
}

void *malloc(size_t n)
{
    if (!next_malloc)
        find_next();
    return fails(__builtin_return_address(0)) ? NULL : next_malloc(n);
}

void *calloc(size_t n, size_t size)
{
    if (!next_calloc)
        find_next();
    return fails(__builtin_return_address(0)) ? NULL : next_calloc(n, size);
}

void *realloc(void *p, size_t n)
{
    if (!next_realloc)
        find_next();
    return fails(__builtin_return_address(0)) ? NULL : next_realloc(p, n);
}

static char *copy(const char *s, size_t n, const void *caller)
{
    char *to = fails(caller) ? NULL : next_malloc(n + 1);

    if (to) {
        memcpy(to, s, n);
        to[n] = '\0';
    }
    return to;
}

char *strdup(const char *s)
{
    if (!next_malloc)
        find_next();
    return copy(s, strlen(s), __builtin_return_address(0));
}

char *strndup(const char *s, size_t n)
{
    if (!next_malloc)
        find_next();
    return copy(s, strnlen(s, n), __builtin_return_address(0));
}

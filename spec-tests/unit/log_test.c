/* log_test.c -- a stderr that nobody reads, or that is gone, costs lines and never time; what was lost is counted
 * and said. Each test first fills what stands for stderr until it takes no more. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "lib/tap.h"

static int kept; /* the real stderr */
static int ends[2]; /* to read from, to write to */

static void use_as_stderr(int fd)
{
    dup2(fd, STDERR_FILENO);
    cd_log_never_block();
}

static void give_back(void)
{
    dup2(kept, STDERR_FILENO);
    for (int i = 0; i < 2; i++)
        if (ends[i] >= 0)
            close(ends[i]);
    ends[0] = ends[1] = -1;
}

/* Through a descriptor of our own that does not wait. @return true: it takes no more */
static bool fill(int fd)
{
    char page[4096];
    int flags = fcntl(fd, F_GETFL);
    bool full;

    memset(page, '.', sizeof page);
    fcntl(fd, F_SETFL, flags | O_NONBLOCK);
    while (write(fd, page, sizeof page) > 0)
        ;
    while (write(fd, page, 1) > 0)
        ;
    full = errno == EAGAIN;
    fcntl(fd, F_SETFL, flags);
    return full;
}

/* Reads until nothing is left. @return the last bytes as text, which hold what was logged at last */
static const char *drain(int fd)
{
    static char text[8192];
    size_t n = 0;
    ssize_t got;

    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    for (char chunk[4096]; (got = read(fd, chunk, sizeof chunk)) > 0;) {
        size_t keep = n + (size_t)got < sizeof text ? n : sizeof text - 1 - (size_t)got;

        memmove(text, text + n - keep, keep);
        memcpy(text + keep, chunk, (size_t)got);
        n = keep + (size_t)got;
    }
    text[n] = '\0';
    return text;
}

static void loses_and_says_so(void)
{
    unsigned long long before = cd_log_dropped();
    const char *said;

    CHECK(fill(ends[1]));
    for (int i = 0; i < 3; i++)
        cd_log(CD_LOG_ERROR, "test", "one.more", NULL, "%d", i); /* the alarm ends us if this waits */
    CHECK_INT(cd_log_dropped() - before, 3);
    drain(ends[0]);
    cd_log(CD_LOG_ERROR, "test", "reader.back", NULL, "hello");
    said = drain(ends[0]);
    CHECK(strstr(said, "\"ev\":\"lines.dropped\"") && strstr(said, "3 lines before this one are lost"));
    CHECK(strstr(said, "\"ev\":\"reader.back\""));
    CHECK(!strstr(said, "one.more"));
    CHECK_INT(cd_log_dropped() - before, 3);
    cd_log(CD_LOG_ERROR, "test", "again.well", NULL, "hello");
    CHECK(!strstr(drain(ends[0]), "lines.dropped"));
}

static void full_pipe(void)
{
    CHECK_INT(pipe(ends), 0);
    use_as_stderr(ends[1]);
    loses_and_says_so();
    CHECK((fcntl(ends[1], F_GETFL) & O_NONBLOCK) == 0); /* others who share it still wait as they were used to */
    give_back();
}

static void full_socket(void)
{
    CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    use_as_stderr(ends[1]);
    loses_and_says_so();
    give_back();
}

/* Where fd 2 cannot be opened anew (another user's pipe, no /proc): asked each time whether it would wait. */
static void full_pipe_of_others(void)
{
    struct rlimit lim, none = {0};

    CHECK_INT(pipe(ends), 0);
    CHECK_INT(getrlimit(RLIMIT_NOFILE, &lim), 0);
    dup2(ends[1], STDERR_FILENO);
    none.rlim_max = lim.rlim_max;
    CHECK_INT(setrlimit(RLIMIT_NOFILE, &none), 0);
    CHECK(open("/dev/null", O_RDONLY) < 0 && errno == EMFILE); /* opening anew must fail */
    cd_log_never_block();
    CHECK_INT(setrlimit(RLIMIT_NOFILE, &lim), 0);
    CHECK((fcntl(STDERR_FILENO, F_GETFL) & O_NONBLOCK) == 0);
    loses_and_says_so();
    give_back();
}

static void nobody_left(bool with_socket)
{
    unsigned long long before = cd_log_dropped();

    CHECK_INT(with_socket ? socketpair(AF_UNIX, SOCK_STREAM, 0, ends) : pipe(ends), 0);
    use_as_stderr(ends[1]);
    close(ends[0]);
    ends[0] = -1;
    cd_log(CD_LOG_ERROR, "test", "to.nobody", NULL, "hello");
    cd_log(CD_LOG_ERROR, "test", "to.nobody", NULL, "hello");
    CHECK_INT(cd_log_dropped() - before, 2);
    give_back();
}

static void reader_gone(void)
{
    nobody_left(false);
    nobody_left(true);
}

static void a_file_keeps_its_place(void)
{
    char name[] = "/tmp/calld-log-test-XXXXXX", text[512] = "";
    int fd = mkstemp(name);
    ssize_t n;

    CHECK(fd >= 0);
    CHECK_INT(write(fd, "before\n", 7), 7);
    use_as_stderr(fd);
    cd_log(CD_LOG_ERROR, "test", "to.file", NULL, "hello");
    give_back();
    n = pread(fd, text, sizeof text - 1, 0);
    CHECK(n > 7 && strncmp(text, "before\n{", 8) == 0 && strstr(text, "to.file"));
    close(fd);
    unlink(name);
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    ends[0] = ends[1] = -1;
    kept = dup(STDERR_FILENO);
    cd_log(CD_LOG_DEBUG, "test", "below.level", NULL, "not written");
    TAP_RUN(full_pipe);
    TAP_RUN(full_socket);
    TAP_RUN(full_pipe_of_others);
    TAP_RUN(reader_gone);
    TAP_RUN(a_file_keeps_its_place);
    return tap_done();
}

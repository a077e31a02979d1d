/* tap.h -- Test Anything Protocol for C test programs: one TAP line a test function, every failed
 * check named with file, line and both values, an alarm for each test.
 *
 *     static void adds(void) { CHECK_INT(1 + 1, 2); CHECK_STR(name(), "x"); CHECK(ok()); }
 *     int main(void) { TAP_RUN(adds); return tap_done(); }
 */
#ifndef CD_TEST_TAP_H
#define CD_TEST_TAP_H

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef TAP_SECONDS
#define TAP_SECONDS 30 /* one test may take this long */
#endif

static struct {
    int tests, failed_tests, failed_checks, checks;
    const char *skip; /* set by TAP_SKIP */
    const char *now;
} tap;

/* Async-signal-safe: a hanging test must end with its name. */
static inline void tap_alarm(int signo)
{
    ssize_t n = write(STDOUT_FILENO, "Bail out! too slow: ", 20);

    (void)signo;
    n += write(STDOUT_FILENO, tap.now, strlen(tap.now));
    n += write(STDOUT_FILENO, "\n", 1);
    _exit(n > 0 ? 1 : 2);
}

static inline void tap_fail(const char *file, int line, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static inline void tap_fail(const char *file, int line, const char *fmt, ...)
{
    va_list ap;

    tap.failed_checks++;
    printf("# %s:%d: ", file, line);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    putchar('\n');
}

static inline int tap_int(const char *file, int line, const char *what, long long got,
                          long long want)
{
    tap.checks++;
    if (got == want)
        return 1;
    tap_fail(file, line, "%s is %lld, wanted %lld", what, got, want);
    return 0;
}

static inline int tap_str(const char *file, int line, const char *what, const char *got,
                          const char *want)
{
    tap.checks++;
    if (got == want || (got && want && strcmp(got, want) == 0))
        return 1;
    tap_fail(file, line, "%s is \"%s\", wanted \"%s\"", what, got ? got : "(null)",
             want ? want : "(null)");
    return 0;
}

static inline int tap_true(const char *file, int line, const char *what, int got)
{
    tap.checks++;
    if (!got)
        tap_fail(file, line, "%s is false", what);
    return got;
}

/* Each is an expression: true when the check held, so that a test can stop early. */
#define CHECK(cond) tap_true(__FILE__, __LINE__, #cond, !!(cond))
#define CHECK_INT(got, want) \
    tap_int(__FILE__, __LINE__, #got, (long long)(got), (long long)(want))
#define CHECK_STR(got, want) tap_str(__FILE__, __LINE__, #got, (got), (want))
#define TAP_SKIP(reason) do { tap.skip = (reason); return; } while (0)
#define TAP_RUN(fn) tap_run(#fn, (fn))

/* TAP_SLOW: how many times slower than usual a test may be, below valgrind. */
static inline unsigned tap_seconds(void)
{
    const char *slow = getenv("TAP_SLOW");
    unsigned long times = slow ? strtoul(slow, NULL, 10) : 1;

    return TAP_SECONDS * (times >= 1 && times <= 100 ? (unsigned)times : 1);
}

static inline void tap_run(const char *name, void (*fn)(void))
{
    tap.now = name;
    tap.failed_checks = 0;
    tap.skip = NULL;
    signal(SIGALRM, tap_alarm);
    alarm(tap_seconds());
    fn();
    alarm(0);
    tap.tests++;
    if (tap.failed_checks)
        tap.failed_tests++;
    printf("%s %d - %s%s%s\n", tap.failed_checks ? "not ok" : "ok", tap.tests, name,
           tap.skip ? " # SKIP " : "", tap.skip ? tap.skip : "");
    fflush(stdout);
}

/** Print the plan. @return exit status; a program without a check has failed too */
static inline int tap_done(void)
{
    printf("1..%d\n# %d checks, %d of %d tests failed\n", tap.tests, tap.checks, tap.failed_tests,
           tap.tests);
    return tap.failed_tests || tap.tests == 0 ? 1 : 0;
}

#endif

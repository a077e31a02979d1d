/* pg_resolver_test.c -- a resolver that never answers must not stop the loop (trap P7): timers go on
 * while the store waits for its host's address, the store closes meanwhile, and a late answer is used. */
#include "tap.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <netdb.h>
#include <pthread.h>
#include <sys/socket.h>

#include "store_await.h"

#include "base/log.h"
#include "store/pg_resolve.h"
#include "store/store.h"

#define SLOW_NAME "slow.calld.test"
#define TICKS 50
#define TICK_MS 2

/* --- the resolver: holds questions for SLOW_NAME until it is released --------------------------- */

typedef int (*lookup_fn)(const char *restrict name, const char *restrict service,
                         const struct addrinfo *restrict hints, struct addrinfo **restrict found);

static struct {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    pthread_t loop_thread;
    bool open;                    /* answers at once */
    int waiting, asked, on_loop; /* questions held, in all, asked by the thread that must not */
} resolver = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

static int answer(lookup_fn real, const struct addrinfo *hints, struct addrinfo **found)
{
    int rc;

    pthread_mutex_lock(&resolver.lock);
    resolver.asked++;
    if (pthread_equal(pthread_self(), resolver.loop_thread)) {
        resolver.on_loop++; /* noted instead of held: the test shall fail, not hang */
        pthread_mutex_unlock(&resolver.lock);
        return EAI_AGAIN;
    }
    resolver.waiting++;
    while (!resolver.open)
        pthread_cond_wait(&resolver.wake, &resolver.lock);
    resolver.waiting--;
    pthread_mutex_unlock(&resolver.lock);
    rc = real("127.0.0.1", NULL, hints, found);
    return rc;
}

/* Stands before the C library's, for libpq and everybody else in this program. */
int getaddrinfo(const char *restrict name, const char *restrict service,
                const struct addrinfo *restrict hints, struct addrinfo **restrict found)
{
    lookup_fn real = (lookup_fn)dlsym(RTLD_NEXT, "getaddrinfo");

    if (name && strcmp(name, SLOW_NAME) == 0)
        return answer(real, hints, found);
    return real(name, service, hints, found);
}

static void hold(void)
{
    pthread_mutex_lock(&resolver.lock);
    resolver.open = false;
    resolver.asked = resolver.on_loop = 0;
    pthread_mutex_unlock(&resolver.lock);
}

static void release(void)
{
    pthread_mutex_lock(&resolver.lock);
    resolver.open = true;
    pthread_cond_broadcast(&resolver.wake);
    pthread_mutex_unlock(&resolver.lock);
}

static int seen(const int *count)
{
    int n;

    pthread_mutex_lock(&resolver.lock);
    n = *count;
    pthread_mutex_unlock(&resolver.lock);
    return n;
}

/* --- a clock that shows that the loop turns ------------------------------------------------------ */

static struct cd_timer ticker;
static int ticks;

static void tick(void *arg)
{
    (void)arg;
    if (++ticks < TICKS)
        cd_timer_set(await.loop, &ticker, TICK_MS, tick, NULL);
}

static void let_the_loop_turn(void)
{
    ticks = 0;
    cd_timer_set(await.loop, &ticker, TICK_MS, tick, NULL);
    UNTIL(ticks == TICKS);
}

/* --- a server that only listens ------------------------------------------------------------------- */

static int listen_somewhere(int *port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof at) == 0 && listen(fd, 4) == 0 &&
        getsockname(fd, (struct sockaddr *)&at, &size) == 0)
        *port = ntohs(at.sin_port);
    return fd;
}

static int accepted(int fd, int *conn)
{
    if (*conn < 0)
        *conn = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    return *conn >= 0;
}

/* --- the tests ------------------------------------------------------------------------------------ */

static struct {
    int calls;
    enum cd_store_rc rc;
} ready;

static void on_ready(void *arg, enum cd_store_rc rc)
{
    (void)arg;
    ready.calls++;
    ready.rc = rc;
}

static struct cd_store *open_slow(int port)
{
    static char url[128];
    const struct cd_pg_conf conf = {.url = url, .schema = "calld"};

    memset(&ready, 0, sizeof ready);
    snprintf(url, sizeof url, "postgresql://nobody@" SLOW_NAME ":%d/none", port);
    return cd_store_pg_open(await.loop, &conf, on_ready, NULL);
}

static void timers_go_on_while_a_name_is_looked_up(void)
{
    struct cd_store *s;

    hold();
    s = open_slow(1);
    if (!CHECK(s != NULL))
        return;
    UNTIL(seen(&resolver.asked) > 0);
    let_the_loop_turn();
    CHECK_INT(seen(&resolver.on_loop), 0);
    CHECK_INT(seen(&resolver.waiting), 1);
    CHECK(ready.calls == 0 || ready.rc != CD_STORE_OK);
    release();
    UNTIL(seen(&resolver.waiting) == 0);
    s->ops->close(s);
    let_the_loop_turn();
}

static void the_store_closes_while_a_name_is_looked_up(void)
{
    struct cd_store *s;
    int calls;

    hold();
    s = open_slow(1);
    if (!CHECK(s != NULL))
        return;
    UNTIL(seen(&resolver.asked) > 0);
    s->ops->close(s);
    calls = ready.calls;
    let_the_loop_turn();
    CHECK_INT(seen(&resolver.waiting), 1);
    release();
    UNTIL(seen(&resolver.waiting) == 0);
    let_the_loop_turn(); /* the answer comes back for a store that is gone */
    CHECK_INT(ready.calls, calls);
    CHECK_INT(seen(&resolver.on_loop), 0);
}

static void a_late_answer_is_used(void)
{
    int port = 0, conn = -1, fd = listen_somewhere(&port);
    struct cd_store *s;

    hold();
    s = open_slow(port);
    if (!CHECK(s != NULL) || !CHECK(port > 0))
        return;
    UNTIL(seen(&resolver.asked) > 0);
    let_the_loop_turn();
    CHECK(!accepted(fd, &conn));
    release();
    UNTIL(accepted(fd, &conn));
    CHECK_INT(seen(&resolver.on_loop), 0);
    s->ops->close(s);
    let_the_loop_turn(); /* the other connection's question may just have been answered */
    close(conn);
    close(fd);
}

/* @return what libpq is told of @p key, for the caller to free; NULL: nothing */
static char *told(const char *url, const char *key)
{
    struct cd_pg_target *t = cd_pg_target_parse(url);
    struct cd_pg_params p;
    char *value = NULL;

    if (!CHECK(t != NULL) || !CHECK(cd_pg_target_params(t, "a test", 0, &p)))
        return NULL;
    for (size_t i = 0; i < p.n && !value; i++)
        if (strcmp(p.keys[i], key) == 0)
            value = strdup(p.values[i]);
    cd_pg_params_done(&p);
    cd_pg_target_free(t);
    return value;
}

static void the_url_has_the_last_word(void)
{
    static const struct {
        const char *url, *key, *value;
    } rows[] = {{"postgresql://a@127.0.0.1/db", "gssencmode", "disable"},
                {"postgresql://a@127.0.0.1/db?gssencmode=prefer", "gssencmode", "prefer"},
                {"host=127.0.0.1 dbname=db", "keepalives_idle", "10"},
                {"host=127.0.0.1 dbname=db keepalives_idle=60", "keepalives_idle", "60"}};

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char *value = told(rows[i].url, rows[i].key);

        CHECK_STR(value, rows[i].value);
        free(value);
    }
}

static void body(void)
{
    resolver.loop_thread = pthread_self();
    TAP_RUN(timers_go_on_while_a_name_is_looked_up);
    TAP_RUN(the_store_closes_while_a_name_is_looked_up);
    TAP_RUN(a_late_answer_is_used);
    TAP_RUN(the_url_has_the_last_word);
}

int main(void)
{
    cd_log_setup(CD_LOG_ERROR, 0);
    if (!await_run(body)) {
        printf("Bail out! no loop\n");
        return 1;
    }
    return tap_done();
}

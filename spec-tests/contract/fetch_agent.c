/* fetch_agent.c -- the daemon's homeserver side without the rest of it, for tests: fetch, auth,
 * rooms and outbox on a real loop, driven by JSON lines.
 *
 * In: one JSON object a line on stdin, {"id", "do", ...}.  Out: {"id", ...} for its result and
 * {"event", ...} for what happens by itself, a line each on stdout.
 * Why: a test in a language with HTTP servers can play the homeserver, or use a real one. The
 * clock is the real one plus what "advance" adds, so that no test waits for a deadline. */
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/secret.h"
#include "in/auth.h"
#include "loop/loop.h"
#include "out/fetch.h"
#include "out/outbox.h"
#include "out/rooms.h"

#define PRINCIPALS 64

static struct {
    struct cd_loop *loop;
    struct cd_fetch_pool *pool;
    struct cd_auth_svc *auth;
    struct cd_rooms *rooms;
    struct cd_outbox *outbox;
    struct cd_io *in;
    char line[1 << 20];
    size_t n;
    struct cd_principal *principals[PRINCIPALS]; /* newest of each user: what the outbox sends with */
    struct cd_member_row *stored; /* what members_load gives */
    size_t n_stored;
    bool hold_stored; /* members_load waits for "members-loaded" */
    bool hold_tried; /* outbox_tried waits for "store-done" */
    cd_done_fn tried_fn;
    void *tried_arg;
    cd_members_fn load_fn;
    void *load_arg;
} my;

/* --- a clock that can be put forward ------------------------------------------------------ */

static int64_t ahead_ms;
static struct {
    int fd;
    struct itimerspec at;
} armed = {.fd = -1};

static int64_t read_us(clockid_t id)
{
    struct timespec ts;

    clock_gettime(id, &ts);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

int64_t cd_wall_ms(void)
{
    return read_us(CLOCK_REALTIME) / 1000 + ahead_ms;
}

int64_t cd_mono_ms(void)
{
    return read_us(CLOCK_MONOTONIC) / 1000 + ahead_ms;
}

int64_t cd_mono_us(void)
{
    return read_us(CLOCK_MONOTONIC) + ahead_ms * 1000;
}

/* The loop's timer is set in our time; the kernel needs its own. */
int timerfd_settime(int fd, int flags, const struct itimerspec *at, struct itimerspec *old)
{
    struct itimerspec real = *at;
    int64_t ns = (int64_t)at->it_value.tv_sec * 1000000000 + at->it_value.tv_nsec;

    if ((flags & TFD_TIMER_ABSTIME) && ns > 0) {
        armed.fd = fd;
        armed.at = *at;
        ns -= ahead_ms * 1000000;
        if (ns < 1)
            ns = 1;
        real.it_value.tv_sec = ns / 1000000000;
        real.it_value.tv_nsec = ns % 1000000000;
    }
    return (int)syscall(SYS_timerfd_settime, fd, flags, &real, old);
}

static void advance(int64_t ms)
{
    struct itimerspec at = armed.at;

    ahead_ms += ms;
    if (armed.fd >= 0)
        timerfd_settime(armed.fd, TFD_TIMER_ABSTIME, &at, NULL);
}

/* --- lines -------------------------------------------------------------------------------- */

static void say(json_t *o)
{
    char *text = json_dumps(o, JSON_COMPACT | JSON_ENCODE_ANY);

    puts(text ? text : "{\"event\":\"broken\"}");
    fflush(stdout);
    free(text);
    json_decref(o);
}

static const char *text_of(const json_t *cmd, const char *name)
{
    return json_string_value(json_object_get(cmd, name));
}

static long long number_of(const json_t *cmd, const char *name)
{
    return json_integer_value(json_object_get(cmd, name));
}

static bool flag_of(const json_t *cmd, const char *name)
{
    return json_is_true(json_object_get(cmd, name));
}

/* A command that is answered later carries its id as the callback's argument. */
static void *id_arg(const json_t *cmd)
{
    return (void *)(intptr_t)number_of(cmd, "id");
}

static json_t *reply_to(void *arg)
{
    return json_pack("{sI}", "id", (json_int_t)(intptr_t)arg);
}

static void done(const json_t *cmd)
{
    say(reply_to(id_arg(cmd)));
}

static void add_err(json_t *o, enum cd_rc rc, const struct cd_err *err)
{
    json_object_set_new(o, "rc", json_string(cd_rc_name(rc)));
    if (!err)
        return;
    json_object_set_new(o, "text", json_string(err->text));
    json_object_set_new(o, "extra", json_string(err->extra));
    json_object_set_new(o, "retryAfterMs", json_integer(err->retry_after_ms));
}

/* --- fetch -------------------------------------------------------------------------------- */

static void on_fetched(void *arg, const struct cd_fetch_res *res)
{
    json_t *o = reply_to(arg);

    json_object_set_new(o, "status", json_integer(res->status));
    json_object_set_new(o, "error", res->error ? json_string(res->error) : json_null());
    json_object_set_new(o, "tooLarge", json_boolean(res->too_large));
    json_object_set_new(o, "retryAfterMs", json_integer(res->retry_after_ms));
    json_object_set_new(o, "body", json_stringn(res->body.p ? res->body.p : "", res->body.n));
    say(o);
}

static void do_fetch(const json_t *cmd)
{
    struct cd_fetch_req req = {
        .method = text_of(cmd, "method") ? text_of(cmd, "method") : "GET",
        .url = text_of(cmd, "url"),
        .bearer = text_of(cmd, "bearer"),
        .body = cd_str_of(text_of(cmd, "body")),
        .timeout_ms = (long)number_of(cmd, "timeoutMs"),
        .max_body = (size_t)number_of(cmd, "maxBody"),
    };
    uint64_t id = cd_fetch(my.pool, &req, on_fetched, id_arg(cmd));

    if (id == 0 || flag_of(cmd, "cancel")) {
        json_t *o = reply_to(id_arg(cmd));

        cd_fetch_cancel(my.pool, id);
        json_object_set_new(o, "started", json_boolean(id != 0));
        say(o);
    }
}

/* --- auth --------------------------------------------------------------------------------- */

static struct cd_principal **slot_of(const char *user_id)
{
    size_t i = 0;

    while (i < PRINCIPALS - 1 && my.principals[i] &&
           strcmp(my.principals[i]->user_id, user_id) != 0)
        i++;
    return &my.principals[i];
}

static void keep(struct cd_principal *p)
{
    struct cd_principal **at = slot_of(p->user_id);

    cd_principal_unref(*at);
    *at = cd_principal_ref(p);
}

static void on_auth(void *arg, enum cd_rc rc, struct cd_principal *p, const struct cd_err *err)
{
    json_t *o = reply_to(arg);

    add_err(o, rc, err);
    if (p) {
        json_object_set_new(o, "user", json_string(p->user_id));
        json_object_set_new(o, "device", p->device_id ? json_string(p->device_id) : json_null());
        json_object_set_new(o, "admin", json_boolean(p->admin));
        keep(p);
    }
    say(o);
}

static void do_auth(const json_t *cmd)
{
    const char *ip = text_of(cmd, "ip");
    uint64_t ticket = cd_auth_token(my.auth, cd_str_of(text_of(cmd, "token")), ip
                                    ? ip : "192.0.2.1",
                                    on_auth, id_arg(cmd));

    if (flag_of(cmd, "cancel")) {
        json_t *o = reply_to(id_arg(cmd));

        json_object_set_new(o, "pending", json_boolean(ticket != 0));
        cd_auth_cancel(my.auth, ticket);
        say(o);
    }
}

static void do_auth_stats(const json_t *cmd)
{
    struct cd_auth_stats s;
    json_t *o = reply_to(id_arg(cmd));

    cd_auth_stats(my.auth, &s);
    json_object_set_new(o, "asked", json_integer((json_int_t)s.asked));
    json_object_set_new(o, "inFlight", json_integer((json_int_t)s.in_flight));
    json_object_set_new(o, "waiting", json_integer((json_int_t)s.waiting));
    json_object_set_new(o, "cached", json_integer((json_int_t)s.cached));
    say(o);
}

/* --- rooms -------------------------------------------------------------------------------- */

static void on_room(void *arg, enum cd_rc rc, const struct cd_room_view *room,
                    const struct cd_err *err)
{
    json_t *o = reply_to(arg), *members = json_object();

    add_err(o, rc, err);
    for (size_t i = 0; room && i < room->n_members; i++) {
        const struct cd_room_member *m = &room->members[i];

        json_object_set_new(members, m->user_id,
                            m->display_name ? json_string(m->display_name) : json_null());
    }
    if (room) {
        json_object_set_new(o, "room", json_string(room->room_id));
        json_object_set_new(o, "encrypted", json_boolean(room->encrypted));
        json_object_set_new(o, "joined", json_integer((json_int_t)room->n_joined));
    }
    json_object_set_new(o, "members", members);
    say(o);
}

static void do_room(const json_t *cmd, const char *what)
{
    const char *user = text_of(cmd, "user"), *room = text_of(cmd, "room");
    struct cd_principal *p = user ? *slot_of(user) : NULL;

    if (strcmp(what, "seen") == 0) {
        cd_rooms_user_seen(my.rooms, p);
        done(cmd);
    } else if (strcmp(what, "view") == 0) {
        cd_rooms_view(my.rooms, p, room, on_room, id_arg(cmd));
    } else if (strcmp(what, "joined") == 0) {
        cd_rooms_joined(my.rooms, p, room, on_room, id_arg(cmd));
    } else {
        cd_rooms_view_any(my.rooms, room, on_room, id_arg(cmd));
    }
}

static void on_ignored(void *arg, bool ignored)
{
    json_t *o = reply_to(arg);

    json_object_set_new(o, "ignored", json_boolean(ignored));
    say(o);
}

static void do_cached(const json_t *cmd)
{
    json_t *o = reply_to(id_arg(cmd));
    bool yes = cd_rooms_is_joined_cached(my.rooms, text_of(cmd, "room"), text_of(cmd, "user"));

    json_object_set_new(o, "joined", json_boolean(yes));
    say(o);
}

/* --- a store that tells what it is asked -------------------------------------------------- */

static void store_tried(struct cd_store *s, const char *txn_id, int attempts, cd_done_fn fn,
                        void *arg)
{
    (void)s;
    say(json_pack("{sssssi}", "event", "store.tried", "txn", txn_id, "attempts", attempts));
    if (my.hold_tried && arg) {
        my.tried_fn = fn;
        my.tried_arg = arg;
    } else {
        fn(arg, CD_STORE_OK);
    }
}

static void store_done(struct cd_store *s, const char *txn_id)
{
    (void)s;
    say(json_pack("{ssss}", "event", "store.done", "txn", txn_id));
}

static void store_members(struct cd_store *s, const struct cd_member_row *rows, size_t n)
{
    (void)s;
    for (size_t i = 0; i < n; i++)
        say(json_pack("{sssssssbss?}", "event", "store.member", "room", rows[i].room_id, "user",
                      rows[i].user_id, "joined", rows[i].joined, "name", rows[i].display_name));
}

static void on_load(void *arg)
{
    (void)arg;
    my.load_fn(my.load_arg, CD_STORE_OK, my.stored, my.n_stored);
}

static void store_load(struct cd_store *s, cd_members_fn fn, void *arg)
{
    (void)s;
    my.load_fn = fn;
    my.load_arg = arg;
    if (!my.hold_stored)
        cd_loop_defer(my.loop, on_load, NULL);
}

static const struct cd_store_ops store_ops = {
    .name = "telling",
    .outbox_tried = store_tried,
    .outbox_done = store_done,
    .members_put = store_members,
    .members_load = store_load,
};
static struct cd_store store = {&store_ops};

/* --- outbox ------------------------------------------------------------------------------- */

static struct cd_principal *token_for(void *self, const char *user_id)
{
    (void)self;
    return *slot_of(user_id);
}

static void on_token_refused(void *self, const char *user_id, struct cd_principal *p)
{
    (void)self;
    (void)p;
    say(json_pack("{ssss}", "event", "token-refused", "user", user_id));
}

static void on_tried(void *self, const struct cd_outbox_row *row)
{
    (void)self;
    say(json_pack("{ssss}", "event", "tried", "txn", row->txn_id));
}

static void on_finished(void *self, const struct cd_outbox_row *row, enum cd_sent_rc rc,
                        const char *event_id)
{
    static const char *const names[] = {"ok", "expired", "refused", "no-token"};

    (void)self;
    say(json_pack("{sssssssIss?}", "event", "finished", "txn", row->txn_id, "rc", names[rc], "left",
                  (json_int_t)cd_outbox_pending(my.outbox, row->call_id), "eventId", event_id));
}

static const struct cd_outbox_ops outbox_ops = {token_for, on_token_refused, on_tried, on_finished};

static char *owned(const json_t *cmd, const char *name)
{
    const char *s = text_of(cmd, name);

    return strdup(s ? s : "");
}

static void do_send(const json_t *cmd)
{
    const json_t *list = json_object_get(cmd, "rows");
    struct cd_outbox_row rows[256];
    size_t n = 0;

    for (; n < json_array_size(list) && n < 256; n++) {
        const json_t *r = json_array_get(list, n);
        int64_t now = cd_wall_ms();

        rows[n] = (struct cd_outbox_row){
            .txn_id = owned(r, "txn"), .room_id = owned(r, "room"), .user_id = owned(r, "user"),
            .event_type = owned(r, "type"),
            .content = json_dumps(json_object_get(r, "content"), JSON_COMPACT),
            .rank = (int)number_of(r, "rank"), .ord = number_of(r, "ord"), .created_at = now,
            .not_before = now + number_of(r, "inMs"), .deadline = now + number_of(r, "forMs"),
            .tried = flag_of(r, "tried"), .restored = flag_of(r, "restored"),
        };
        snprintf(rows[n].call_id, sizeof(rows[n].call_id), "%s", text_of(r, "call"));
    }
    cd_outbox_add(my.outbox, rows, n);
    while (n > 0)
        cd_outbox_row_done(&rows[--n]);
    done(cmd);
}

static void do_outbox_stats(const json_t *cmd)
{
    struct cd_outbox_stats s;
    json_t *o = reply_to(id_arg(cmd));

    cd_outbox_stats(my.outbox, &s);
    json_object_set_new(o, "sent", json_integer((json_int_t)s.sent));
    json_object_set_new(o, "waiting", json_integer((json_int_t)s.waiting));
    json_object_set_new(o, "rateLimited", json_integer((json_int_t)s.rate_limited));
    json_object_set_new(o, "up", json_boolean(s.homeserver_up));
    json_object_set_new(o, "away", json_boolean(s.away));
    json_object_set_new(o, "backOffMs", json_integer((json_int_t)s.back_off_ms));
    json_object_set_new(o, "oldestMs", json_integer((json_int_t)s.oldest_ms));
    json_object_set_new(o, "found", json_integer((json_int_t)s.echoes_found));
    json_object_set_new(o, "missing", json_integer((json_int_t)s.echoes_missing));
    say(o);
}

static void do_principal(const json_t *cmd)
{
    struct cd_principal *p = cd_principal_new(text_of(cmd, "user"), NULL, text_of(cmd, "token"));

    keep(p);
    cd_principal_unref(p);
    if (flag_of(cmd, "ready"))
        cd_outbox_token_ready(my.outbox, text_of(cmd, "user"));
    done(cmd);
}

static void do_no_principal(const json_t *cmd)
{
    struct cd_principal **at = slot_of(text_of(cmd, "user")), **last = at;

    while (last + 1 < &my.principals[PRINCIPALS] && last[1])
        last++;
    cd_principal_unref(*at);
    *at = *last;
    *last = NULL;
    done(cmd);
}

/* --- commands ----------------------------------------------------------------------------- */

static void start(const json_t *cmd)
{
    const char *hs = text_of(cmd, "homeserver"), *name = text_of(cmd, "serverName");
    struct cd_auth_conf conf = {
        .homeserver_url = hs, .server_name = name, .as_token = "the-as-token",
        .hs_token = "the-hs-token", .admin_users = text_of(cmd, "admins"), .whoami_in_flight = 16,
        .failed_tokens_per_minute = 10,
    };
    const json_t *list = json_object_get(cmd, "stored");

    my.stored = calloc(json_array_size(list) + 1, sizeof(*my.stored));
    for (my.n_stored = 0; my.n_stored < json_array_size(list); my.n_stored++) {
        const json_t *r = json_array_get(list, my.n_stored);

        my.stored[my.n_stored] = (struct cd_member_row){owned(r, "room"), owned(r, "user"), true,
                                                        NULL, NULL};
    }
    my.hold_stored = flag_of(cmd, "holdStored");
    my.auth = cd_auth_new(my.loop, my.pool, &conf);
    my.rooms = cd_rooms_new(my.loop, my.pool, &store, hs, name);
    my.outbox = cd_outbox_new(my.loop, my.pool, &store, hs, &outbox_ops, NULL);
    done(cmd);
}

static void release(void)
{
    cd_outbox_free(my.outbox);
    cd_rooms_free(my.rooms);
    cd_auth_free(my.auth);
    cd_fetch_free(my.pool);
    for (size_t i = 0; i < PRINCIPALS; i++)
        cd_principal_unref(my.principals[i]);
    for (size_t i = 0; i < my.n_stored; i++) {
        free(my.stored[i].room_id);
        free(my.stored[i].user_id);
    }
    free(my.stored);
    if (my.tried_fn)
        my.tried_fn(my.tried_arg, CD_STORE_OK);
    cd_io_del(my.in);
    cd_loop_free(my.loop);
}

static bool run_outbox(const json_t *cmd, const char *what)
{
    if (strcmp(what, "send") == 0) {
        do_send(cmd);
    } else if (strcmp(what, "drop") == 0) {
        cd_outbox_drop(my.outbox, text_of(cmd, "call"), flag_of(cmd, "all"));
        done(cmd);
    } else if (strcmp(what, "outbox-stats") == 0) {
        do_outbox_stats(cmd);
    } else if (strcmp(what, "principal") == 0) {
        do_principal(cmd);
    } else if (strcmp(what, "no-principal") == 0) {
        do_no_principal(cmd);
    } else if (strcmp(what, "hold-tried") == 0) {
        my.hold_tried = true;
        done(cmd);
    } else if (strcmp(what, "members-loaded") == 0) {
        on_load(NULL);
        done(cmd);
    } else if (strcmp(what, "store-done") == 0) {
        cd_done_fn fn = my.tried_fn;

        my.tried_fn = NULL;
        if (fn)
            fn(my.tried_arg, CD_STORE_OK);
        done(cmd);
    } else {
        return false;
    }
    return true;
}

static bool run_rooms(const json_t *cmd, const char *what)
{
    if (strcmp(what, "seen") == 0 || strcmp(what, "view") == 0 || strcmp(what, "joined") == 0 ||
        strcmp(what, "view-any") == 0) {
        do_room(cmd, what);
    } else if (strcmp(what, "ignored") == 0) {
        cd_rooms_ignored(my.rooms, text_of(cmd, "user"), text_of(cmd, "by"), on_ignored,
                         id_arg(cmd));
    } else if (strcmp(what, "cached") == 0) {
        do_cached(cmd);
    } else if (strcmp(what, "member") == 0) {
        cd_rooms_on_member(my.rooms, text_of(cmd, "room"), text_of(cmd, "user"),
                           text_of(cmd, "membership"), text_of(cmd, "name"), NULL);
        done(cmd);
    } else if (strcmp(what, "encryption") == 0) {
        cd_rooms_on_encryption(my.rooms, text_of(cmd, "room"));
        done(cmd);
    } else {
        return false;
    }
    return true;
}

static void run(const json_t *cmd)
{
    const char *what = text_of(cmd, "do");

    if (!what || run_rooms(cmd, what) || run_outbox(cmd, what))
        return;
    if (strcmp(what, "start") == 0) {
        start(cmd);
    } else if (strcmp(what, "fetch") == 0) {
        do_fetch(cmd);
    } else if (strcmp(what, "auth") == 0) {
        do_auth(cmd);
    } else if (strcmp(what, "auth-stats") == 0) {
        do_auth_stats(cmd);
    } else if (strcmp(what, "forget") == 0) {
        cd_auth_forget(my.auth, cd_str_of(text_of(cmd, "token")));
        done(cmd);
    } else if (strcmp(what, "advance") == 0) {
        advance(number_of(cmd, "ms"));
        done(cmd);
    } else {
        say(json_pack("{sIss}", "id", (json_int_t)number_of(cmd, "id"), "unknown", what));
    }
}

static void on_input(void *arg, uint32_t events)
{
    ssize_t got = read(STDIN_FILENO, my.line + my.n, sizeof(my.line) - my.n);
    char *start_of = my.line, *end;

    (void)arg;
    (void)events;
    if (got <= 0) {
        cd_loop_stop(my.loop);
        return;
    }
    my.n += (size_t)got;
    while ((end = memchr(start_of, '\n', my.n - (size_t)(start_of - my.line)))) {
        json_t *cmd = json_loadb(start_of, (size_t)(end - start_of), 0, NULL);

        run(cmd);
        json_decref(cmd);
        start_of = end + 1;
    }
    my.n -= (size_t)(start_of - my.line);
    memmove(my.line, start_of, my.n);
}

int main(void)
{
    struct cd_loop_conf conf = {.max_fds = 1024};

    cd_log_setup(CD_LOG_ERROR, 1);
    if (cd_secret_init() != 0)
        return 1;
    my.loop = cd_loop_new(&conf);
    my.pool = my.loop ? cd_fetch_new(my.loop) : NULL;
    if (!my.pool)
        return 1;
    fcntl(STDIN_FILENO, F_SETFL, fcntl(STDIN_FILENO, F_GETFL) | O_NONBLOCK);
    my.in = cd_io_add(my.loop, STDIN_FILENO, EPOLLIN, on_input, NULL);
    cd_loop_run(my.loop);
    release();
    return 0;
}

/* daemon.c -- the life of the process: assemble, restore, serve, drain, stop.
 *
 * Owns: everything in struct cd_core. Blocks: only before the loop runs (migrations) and never after. */
#include "daemon.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json_mem.h"
#include "base/log.h"
#include "base/secret.h"
#include "dev.h"
#include "in/listener.h"
#include "in/ws.h"
#include "live.h"
#include "nodes.h"
#include "relief.h"
#include "restore.h"

#define MAX_LISTENERS 16
#define DRAIN_MS 8000      /* of the 10 s that a service manager is promised */
#define DRAIN_STEP_MS 50

struct daemon {
    struct cd_core core;
    const char *conf_path;
    struct cd_listener *listeners[MAX_LISTENERS];
    size_t n_listeners;
    struct cd_spool_dir spool;
    bool offline; /* the database was not there at start */
    struct cd_timer drain;
    int64_t drain_until_ms; /* monotonic */
    bool flushed, leaving;
    int exit_status;
};

static void begin_drain(struct daemon *d);

/* Something at start that cannot work: say it and give up. */
static void give_up(struct daemon *d, const char *what, const struct cd_err *err)
{
    cd_log(CD_LOG_ERROR, "daemon", "start.failed", NULL, "%s: %s", what, err->text);
    d->exit_status = 1;
    cd_loop_stop(d->core.loop);
}

/* --- tables of the modules ------------------------------------------------------------------------ */

static enum cd_rc install_events(struct cd_core *core, const struct cd_sock_event *row, struct cd_err *err)
{
    for (; row && row->name; row++) {
        struct cd_sock_event *slot;
        union {
            const struct cd_sock_event *in;
            struct cd_sock_event *out;
        } unconst = {.in = row};

        slot = unconst.out;
        if (cd_map_put(&core->events, cd_str_of(row->name), slot) != 0)
            return cd_fail(err, CD_E_NO_MEMORY, NULL);
    }
    return CD_OK;
}

static enum cd_rc start_modules(struct cd_core *core, struct cd_err *err)
{
    for (size_t i = 0; cd_modules[i]; i++) {
        const struct cd_module *m = cd_modules[i];
        enum cd_rc rc = m->start ? m->start(core, err) : CD_OK;

        if (rc == CD_OK && m->routes)
            rc = cd_http_add_routes(core->http, m->routes, core);
        if (rc == CD_OK)
            rc = install_events(core, m->events, err);
        if (rc != CD_OK)
            return rc;
    }
    return CD_OK;
}

/* --- listeners ------------------------------------------------------------------------------------ */

static enum cd_rc open_one(struct daemon *d, const char *address, enum cd_role role, struct cd_err *err)
{
    const char *prefix = role == CD_ROLE_PUBLIC ? d->core.conf->server.path_prefix : "";

    if (d->n_listeners == MAX_LISTENERS)
        return cd_fail(err, CD_E_INTERNAL, "more than %d listeners", MAX_LISTENERS);
    struct cd_listener *l = cd_listener_open(d->core.loop, d->core.http, address, role, prefix, err);
    if (!l)
        return err->rc ? err->rc : CD_E_INTERNAL;
    d->listeners[d->n_listeners++] = l;
    cd_log(CD_LOG_INFO, "daemon", "listener.open", NULL, "%s on %s",
           role == CD_ROLE_PUBLIC ? "public" : role == CD_ROLE_APPSERVICE ? "appservice" : "control",
           cd_listener_address(l));
    return CD_OK;
}

/* Blank separated addresses. */
static enum cd_rc open_list(struct daemon *d, const char *list, enum cd_role role, struct cd_err *err)
{
    char address[512];

    for (;;) {
        list += strspn(list, " \t");
        size_t n = strcspn(list, " \t");
        if (n == 0)
            return CD_OK;
        if (n >= sizeof(address))
            return cd_fail(err, CD_E_INTERNAL, "listener address too long");
        memcpy(address, list, n);
        address[n] = '\0';
        enum cd_rc rc = open_one(d, address, role, err);
        if (rc != CD_OK)
            return rc;
        list += n;
    }
}

static enum cd_rc open_listeners(struct daemon *d, struct cd_err *err)
{
    const struct cd_conf *f = d->core.conf;
    enum cd_rc rc = open_list(d, f->server.listen, CD_ROLE_PUBLIC, err);

    if (rc == CD_OK && d->core.as)
        rc = open_list(d, f->server.appservice_listen, CD_ROLE_APPSERVICE, err);
    if (rc == CD_OK && f->server.control_socket[0])
        rc = open_one(d, f->server.control_socket, CD_ROLE_CONTROL, err);
    return rc;
}

static void close_listeners(struct daemon *d)
{
    for (size_t i = 0; i < d->n_listeners; i++)
        cd_listener_close(d->listeners[i]);
    d->n_listeners = 0;
}

/* --- coming up ------------------------------------------------------------------------------------ */

static void say_ready(struct daemon *d)
{
    d->core.ready = true;
    cd_log(CD_LOG_INFO, "daemon", "daemon.ready", NULL, "ready after %lld ms, loop on %s, store %s",
           (long long)(cd_mono_ms() - d->core.started_mono), cd_loop_backend(d->core.loop),
           d->core.store->ops->name);
    for (size_t i = 0; d->core.dev && i < d->n_listeners; i++)
        printf("listening on http://%s\n", cd_listener_address(d->listeners[i]));
    puts("ready");
    fflush(stdout);
}

static void on_live_loaded(void *arg, enum cd_store_rc rc, struct cd_stored_call **calls, size_t n)
{
    struct daemon *d = arg;
    struct cd_err err = {0};

    if (rc != CD_STORE_OK) {
        cd_fail(&err, CD_E_INTERNAL, "the running calls could not be read from the store");
        give_up(d, "restoring calls", &err);
        return;
    }
    n = cd_restore_calls(&d->core, calls, n);
    cd_nodes_start(&d->core);
    if (n)
        cd_log(CD_LOG_INFO, "daemon", "calls.restored", NULL, "%zu calls restored", n);
    if (open_listeners(d, &err) != CD_OK)
        give_up(d, "opening a listener", &err);
    else
        say_ready(d);
}

static struct cd_migrate_conf migration_conf(const struct cd_conf *f)
{
    return (struct cd_migrate_conf){.url = f->database.url, .schema = f->database.schema, .to = -1,
                                    .wait = true, .dry_run = !f->database.auto_migrate,
                                    .complete = !f->database.auto_migrate, .connect_s = 5};
}

static void on_store_ready(void *arg, enum cd_store_rc rc)
{
    struct daemon *d = arg;

    (void)rc; /* it is always ready: with the database, or with the spool */
    d->core.store->ops->load_live(d->core.store, on_live_loaded, d);
}

static void start_from_memory(void *arg)
{
    on_store_ready(arg, CD_STORE_OK);
}

/* The store calls back with the daemon, which begins with its core. */
_Static_assert(offsetof(struct daemon, core) == 0, "the daemon begins with its core");

static enum cd_rc open_store(struct daemon *d, struct cd_err *err)
{
    struct cd_core *core = &d->core;
    const struct cd_conf *f = core->conf;
    struct cd_spool_conf sc = {.pg = {.url = f->database.url, .schema = f->database.schema,
                                       .keep = {true, f->retention.calls_days, f->retention.stats_days,
                                                f->retention.seen_days, f->retention.inbox_days,
                                                f->retention.members_days}},
                               .migrate = migration_conf(f),
                               .dir = &d->spool,
                               .max_mb = f->database.spool_max_mb,
                               .offline = d->offline,
                               .ready = on_store_ready,
                               .live = cd_restore_each,
                               .came = cd_restore_rest,
                               .yield = cd_restore_yield,
                               .displaced = cd_restore_displaced,
                               .arg = d};

    core->persistent = f->database.url[0] != '\0';
    if (core->persistent) {
        core->store = cd_store_spool_open(core->loop, &sc, err);
        return core->store ? CD_OK : err->rc;
    }
    cd_log(CD_LOG_WARN, "daemon", "store.memory", NULL,
           "database.url is not set: calls live in memory and end with the process");
    if (!core->dev && cd_spool_dir_waits(f->database.spool_dir))
        cd_log(CD_LOG_ERROR, "daemon", "spool.left", NULL,
               "%s holds changes of calls that no database has yet; they wait there for a start with database.url",
               f->database.spool_dir);
    core->store = cd_store_mem_open(core->loop);
    if (!core->store)
        return cd_fail(err, CD_E_NO_MEMORY, "the store could not be opened");
    cd_loop_defer(core->loop, start_from_memory, d);
    return CD_OK;
}

/* The key that seals tokens in the database and signs session tokens; without a file (there is one when
 * there is a database), or as --dev without one in the environment, one of this process alone. */
static enum cd_rc open_seal(struct cd_core *core, struct cd_err *err)
{
    const struct cd_conf *f = core->conf;

    if (!f->matrix.seal_key_file[0] || (core->dev && !cd_dev_keeps_key())) {
        core->seal = cd_seal_ephemeral();
        return core->seal ? CD_OK : cd_fail(err, CD_E_NO_MEMORY, NULL);
    }
    return cd_seal_open(f->matrix.seal_key_file, f->matrix.seal_key_file_previous, &core->seal, err);
}

static enum cd_rc open_spool(struct daemon *d, struct cd_err *err)
{
    const struct cd_conf *f = d->core.conf;

    return f->database.url[0] ? cd_spool_dir_open(f->database.spool_dir, &d->spool, err) : CD_OK;
}

/* @return CD_OK also without a server: then we begin with the spool alone */
static enum cd_rc migrate_at_start(struct daemon *d, struct cd_err *err)
{
    const struct cd_conf *f = d->core.conf;
    struct cd_migrate_conf m = migration_conf(f);
    enum cd_rc rc = f->database.url[0] ? cd_migrate(&m, stderr, err) : CD_OK;

    if (rc != CD_E_OVERLOADED)
        return rc;
    d->offline = true;
    cd_log(CD_LOG_ERROR, "daemon", "start.without_database", NULL,
           "%s. Starting all the same: calls are kept in database.spool_dir until it is there", err->text);
    memset(err, 0, sizeof *err);
    return CD_OK;
}

static void setup_sockets(struct cd_core *core)
{
    const struct cd_conf *f = core->conf;
    struct cd_sock_conf sc = {
        .ping_interval_ms = 25000,
        .ping_timeout_ms = 20000,
        .max_payload = 262144,
        .connect_timeout_ms = 45000,
        .queue_messages = (size_t)f->limits.socket_queue_messages,
        .queue_bytes = (size_t)f->limits.socket_queue_bytes,
        .max_sessions = (unsigned)f->limits.max_connections,
    };

    cd_relief_setup(core);
    cd_sock_setup(&cd_client_ops, core, &sc);
    cd_ws_set_proxy(f->server.path_prefix, f->server.trust_proxy);
    cd_ws_set_origins(f->server.cors_origins);
}

static enum cd_rc open_http(struct cd_core *core, struct cd_err *err)
{
    const struct cd_conf *f = core->conf;
    struct cd_http_conf hc = {
        .path_prefix = f->server.path_prefix,
        .cors_origins = f->server.cors_origins,
        .trust_proxy = f->server.trust_proxy,
        .header_bytes = 16384,
        .max_connections = (unsigned)f->limits.max_connections,
        .head_ms = f->limits.head_seconds * 1000,
        .body_ms = f->limits.body_seconds * 1000,
        .per_second = (unsigned)f->limits.requests_per_second,
        .per_ip = (unsigned)f->limits.connections_per_ip,
        .body_bytes = (size_t)f->limits.memory_mb * 1024 * 1024,
    };

    core->http = cd_http_new(core->loop, &hc);
    return core->http ? CD_OK : cd_fail(err, CD_E_INTERNAL, "the HTTP server did not start");
}

static struct cd_principal *held_token(void *arg, const char *user)
{
    return cd_tokens_of(arg, user);
}

static enum cd_rc open_services(struct cd_core *core, struct cd_err *err)
{
    const struct cd_conf *f = core->conf;
    struct cd_auth_conf ac = {
        .homeserver_url = core->no_homeserver ? "" : f->matrix.homeserver_url,
        .server_name = f->matrix.server_name,
        .as_token = f->matrix.as_token,
        .hs_token = f->matrix.hs_token,
        .hs_token_previous = f->matrix.hs_token_previous,
        .admin_users = f->admin.users,
        .admin_token_file = f->admin.token_file,
        .whoami_wait_ms = (unsigned)f->limits.whoami_wait_ms,
        .whoami_in_flight = (unsigned)f->limits.whoami_in_flight,
        .failed_tokens_per_minute = (unsigned)f->limits.failed_tokens_per_minute,
        .query_token = f->server.query_token,
        .dev = core->dev,
        .seal = core->seal,
    };

    core->fetch = cd_fetch_new(core->loop);
    core->auth = core->fetch ? cd_auth_new(core->loop, core->fetch, &ac) : NULL;
    core->rooms = core->auth ? cd_rooms_new(core->loop, core->fetch, core->store, ac.homeserver_url,
                                            f->matrix.server_name)
                             : NULL;
    if (!core->rooms)
        return cd_fail(err, CD_E_NO_MEMORY, NULL);
    cd_auth_set_held(core->auth, held_token, core);
    cd_auth_set_rate(core->auth, (unsigned)f->limits.user_requests_per_second);
    if (core->dev)
        cd_rooms_dev(core->rooms);
    cd_http_set_auth(core->http, cd_auth_http, core->auth);
    return cd_sock_add_routes(core->loop, core->http);
}

/* --- signals -------------------------------------------------------------------------------------- */

/* Findings of the configuration, a line each. Through the log: stdio would wait for whoever reads stderr. */
static void log_findings(const char *text)
{
    for (size_t n; *text; text += n + (text[n] == '\n')) {
        n = strcspn(text, "\n");
        cd_log(CD_LOG_WARN, "daemon", "config.finding", NULL, "%.*s", (int)n, text);
    }
}

static void reload(struct daemon *d)
{
    struct cd_conf *fresh = NULL;
    struct cd_err err = {0};
    char *said = NULL;
    size_t n = 0;
    FILE *findings = open_memstream(&said, &n);
    enum cd_rc rc = findings ? cd_conf_load(d->conf_path, environ, &fresh, findings, &err)
                             : cd_fail(&err, CD_E_NO_MEMORY, NULL);

    if (rc == CD_OK && !cd_conf_reload(d->core.conf, fresh, findings))
        rc = cd_fail(&err, CD_E_NO_MEMORY, NULL);
    if (findings)
        fclose(findings);
    if (said)
        log_findings(said);
    free(said);
    cd_conf_free(fresh);
    if (rc != CD_OK) {
        cd_log(CD_LOG_ERROR, "daemon", "reload.failed", NULL, "nothing was changed: %s", err.text);
        return;
    }
    cd_http_set_rate(d->core.http, (unsigned)d->core.conf->limits.requests_per_second);
    cd_auth_set_rate(d->core.auth, (unsigned)d->core.conf->limits.user_requests_per_second);
    cd_auth_set_admins(d->core.auth, d->core.conf->admin.users, d->core.conf->admin.token_file);
    for (size_t i = 0; cd_modules[i]; i++)
        if (cd_modules[i]->reload)
            cd_modules[i]->reload(&d->core);
    cd_log(CD_LOG_INFO, "daemon", "reload.done", NULL, "configuration read again");
}

static void on_signal(void *arg, int signo)
{
    struct daemon *d = arg;

    if (signo == SIGHUP)
        reload(d);
    else if (signo == SIGTERM || signo == SIGINT)
        begin_drain(d);
}

/* --- going down ----------------------------------------------------------------------------------- */

static void on_flushed(void *arg, enum cd_store_rc rc)
{
    struct daemon *d = arg;

    if (rc != CD_STORE_OK)
        cd_log(CD_LOG_WARN, "daemon", "drain.unwritten", NULL, "some changes could not be written");
    d->flushed = true;
}

/* Without a database the calls die with us: end them, so that Matrix sides hear of it. */
static void end_volatile_calls(struct cd_core *core)
{
    size_t pos = 0;
    struct cd_live *l;

    if (core->persistent)
        return;
    while ((l = cd_live_next(core, &pos))) {
        struct cd_cmd cmd = {.ev = CD_EV_SHUTDOWN, .source = CD_S_TIMER, .mx_version = 1,
                             .now_ms = cd_wall_ms()};
        if (l->cur && !cd_status_final(l->cur->status))
            cd_submit(core, l, &cmd, NULL, NULL, NULL);
    }
}

static bool outbox_waits(const struct cd_core *core)
{
    struct cd_outbox_stats s = {0};

    if (!core->outbox || core->persistent)
        return false; /* stored rows are sent after the restart */
    cd_outbox_stats(core->outbox, &s);
    return s.waiting > 0 && s.homeserver_up;
}

static void on_left(void *arg, enum cd_store_rc rc)
{
    struct daemon *d = arg;

    (void)rc; /* then the lease runs out */
    cd_loop_stop(d->core.loop);
}

/* Other daemons need not wait for our lease to run out. */
static void leave(struct daemon *d)
{
    struct cd_store *store = d->core.store;

    if (!store->ops->leave)
        cd_loop_stop(d->core.loop);
    else if (!d->leaving)
        store->ops->leave(store, on_left, d);
    d->leaving = true;
}

static void drain_step(void *arg)
{
    struct daemon *d = arg;
    bool late = cd_mono_ms() >= d->drain_until_ms;

    if (late || (d->flushed && cd_http_idle(d->core.http) && !outbox_waits(&d->core))) {
        if (late)
            cd_log(CD_LOG_WARN, "daemon", "drain.late", NULL, "stopping with work left after %d ms", DRAIN_MS);
        if (late) {
            cd_loop_stop(d->core.loop);
            return;
        }
        leave(d);
    }
    cd_timer_set(d->core.loop, &d->drain, DRAIN_STEP_MS, drain_step, d);
}

static void begin_drain(struct daemon *d)
{
    if (d->core.draining) { /* asked twice: at once */
        cd_loop_stop(d->core.loop);
        return;
    }
    d->core.draining = true;
    cd_log(CD_LOG_INFO, "daemon", "daemon.draining", NULL, "stopping");
    if (!d->core.ready) {
        cd_loop_stop(d->core.loop);
        return;
    }
    close_listeners(d);
    cd_sock_broadcast("server-restarting", CD_STR("{\"retryAfterSeconds\":2}"));
    end_volatile_calls(&d->core);
    cd_http_drain(d->core.http);
    cd_signal_flush_line(&d->core);
    d->core.store->ops->flush(d->core.store, on_flushed, d);
    d->drain_until_ms = cd_mono_ms() + DRAIN_MS;
    cd_timer_set(d->core.loop, &d->drain, DRAIN_STEP_MS, drain_step, d);
}

/* --- assembling ----------------------------------------------------------------------------------- */

static void close_all(struct daemon *d)
{
    struct cd_core *core = &d->core;
    size_t n = 0;

    close_listeners(d);
    if (core->http) {
        cd_sock_close_all();
        cd_http_drain(core->http);
    }
    while (cd_modules[n])
        n++;
    while (n-- > 0)
        if (cd_modules[n]->stop && core->http)
            cd_modules[n]->stop(core);
    if (core->loop)
        cd_live_free_all(core);
    cd_timer_cancel(core->loop, &d->drain);
    cd_nodes_stop(core);
    cd_rooms_free(core->rooms);
    cd_auth_free(core->auth);
    cd_fetch_free(core->fetch);
    if (core->store)
        core->store->ops->close(core->store);
    cd_spool_dir_close(&d->spool);
    cd_http_free(core->http);
    cd_tokens_free(core);
    cd_loop_free(core->loop);
    cd_map_done(&core->calls);
    cd_map_done(&core->mx_calls);
    cd_map_done(&core->by_user);
    cd_map_done(&core->users);
    cd_map_done(&core->events);
    if (core->seal)
        cd_seal_close(core->seal);
    cd_conf_free(core->conf);
}

static enum cd_rc assemble(struct daemon *d, struct cd_err *err)
{
    struct cd_core *core = &d->core;
    struct cd_loop_conf lc = {.max_fds = (unsigned)core->conf->limits.max_connections + 256};
    enum cd_rc rc;

    core->no_homeserver = core->conf->matrix.homeserver_url[0] == '\0';
    if ((rc = open_seal(core, err)) != CD_OK || (rc = open_spool(d, err)) != CD_OK ||
        (rc = migrate_at_start(d, err)) != CD_OK)
        return rc;
    setup_sockets(core);
    core->loop = cd_loop_new(&lc);
    if (!core->loop)
        return cd_fail(err, CD_E_INTERNAL, "the event loop did not start; the log says why");
    cd_loop_on_signal(core->loop, on_signal, d);
    if ((rc = open_http(core, err)) != CD_OK || (rc = open_store(d, err)) != CD_OK ||
        (rc = open_services(core, err)) != CD_OK)
        return rc;
    return start_modules(core, err);
}

int cd_daemon_run(struct cd_conf *conf, const char *conf_path, bool dev)
{
    struct daemon *d = calloc(1, sizeof(*d));
    struct cd_err err = {0};

    if (!d)
        return 1;
    cd_json_mem_setup();
    d->core.conf = conf;
    d->core.dev = dev;
    d->conf_path = conf_path;
    d->core.started_at = cd_wall_ms();
    d->core.started_mono = cd_mono_ms();
    if (assemble(d, &err) == CD_OK) {
        cd_loop_run(d->core.loop);
        cd_log(CD_LOG_INFO, "daemon", "daemon.stopped", NULL, "stopped");
    } else {
        cd_log(CD_LOG_ERROR, "daemon", "start.failed", NULL, "%s", err.text);
        d->exit_status = 1;
    }
    int status = d->exit_status;
    close_all(d);
    free(d);
    return status;
}

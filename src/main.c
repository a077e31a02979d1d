/* main.c -- the command line: the daemon itself and the commands that need no running daemon. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/secret.h"
#include "daemon.h"
#include "dev.h"
#include "registration.h"
#include "store/person.h"
#include "store/store.h"

#define EXIT_USAGE 2

static const char usage_text[] =
    "usage: matrix-calld [-c FILE] [COMMAND]\n"
    "\n"
    "Without a command it is the daemon: configuration from FILE, then the environment.\n"
    "\n"
    "commands:\n"
    "  check-config                 say what is wrong with the configuration, line by line\n"
    "  dump-config                  print the values in force, secrets masked\n"
    "  sample-config                print a commented sample file\n"
    "  migrate [--dry-run|--to N]   bring the database schema up to date, or to number N\n"
    "  export-user USER_ID          print all that the database holds of a user, as JSON\n"
    "  erase-user USER_ID           put a pseudonym in the user's place, delete what is theirs alone\n"
    "  generate-registration ...    write the application service's registration (--help)\n"
    "\n"
    "options:\n"
    "  -c, --config FILE   configuration file\n"
    "  --dev               without a homeserver, for load tests and client developers: the token\n"
    "                      dev_NAME is @NAME:dev; loopback only; settings from the environment\n"
    "  --listen ADDRESS    with --dev: where to listen, by default 127.0.0.1:3000\n"
    "  -V, --version       print the version\n"
    "  -h, --help          print this text\n";

struct invocation {
    const char *conf_path;
    const char *listen;  /* of --dev; NULL: not given */
    const char *command; /* NULL: the daemon */
    bool dev;
    int argc;            /* the command's own arguments, argv[0] is its name */
    char **argv;
};

static int usage_error(const char *what, const char *arg)
{
    fprintf(stderr, "matrix-calld: %s%s%s; see matrix-calld --help\n", what, arg ? " " : "", arg ? arg : "");
    return EXIT_USAGE;
}

/* @return -1 to go on, else the exit status */
static int parse_args(int argc, char **argv, struct invocation *inv)
{
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i];

        if (strcmp(a, "-c") == 0 || strcmp(a, "--config") == 0) {
            if (++i == argc)
                return usage_error("a file must follow", a);
            inv->conf_path = argv[i];
        } else if (strcmp(a, "--dev") == 0) {
            inv->dev = true;
        } else if (strcmp(a, "--listen") == 0) {
            if (++i == argc)
                return usage_error("an address must follow", a);
            inv->listen = argv[i];
        } else if (strcmp(a, "-V") == 0 || strcmp(a, "--version") == 0) {
            puts("matrix-calld " PACKAGE_VERSION);
            return 0;
        } else if (strcmp(a, "-h") == 0 || strcmp(a, "--help") == 0) {
            fputs(usage_text, stdout);
            return 0;
        } else if (a[0] == '-') {
            return usage_error("unknown option", a);
        } else {
            inv->command = a;
            inv->argc = argc - i;
            inv->argv = argv + i;
            return -1;
        }
    }
    return -1;
}

static int load(const struct invocation *inv, struct cd_conf **out)
{
    struct cd_err err = {0};

    if (cd_conf_load(inv->conf_path, environ, out, stderr, &err) == CD_OK)
        return 0;
    fputs("matrix-calld: the configuration is not usable\n", stderr); /* the findings stand above */
    return 1;
}

static int check_config(const struct invocation *inv)
{
    struct cd_conf *conf = NULL;

    if (load(inv, &conf) != 0)
        return 1;
    cd_conf_free(conf);
    puts("the configuration is fine");
    return 0;
}

static int dump_config(const struct invocation *inv)
{
    struct cd_conf *conf = NULL;

    if (load(inv, &conf) != 0)
        return 1;
    cd_conf_dump(conf, stdout);
    cd_conf_free(conf);
    return 0;
}

static int sample_config(const struct invocation *inv)
{
    (void)inv;
    cd_conf_print_sample(stdout);
    return 0;
}

static int migrate(const struct invocation *inv)
{
    struct cd_migrate_conf m = {.to = -1, .wait = true};
    struct cd_conf *conf = NULL;
    struct cd_err err = {0};
    uint64_t to;

    for (int i = 1; i < inv->argc; i++) {
        if (strcmp(inv->argv[i], "--dry-run") == 0) {
            m.dry_run = true;
        } else if (strcmp(inv->argv[i], "--to") == 0 && i + 1 < inv->argc &&
                   cd_parse_u64(cd_str_of(inv->argv[i + 1]), 0, 9999, &to)) {
            m.to = (int)to;
            i++;
        } else {
            return usage_error("migrate takes --dry-run or --to NUMBER, not", inv->argv[i]);
        }
    }
    if (load(inv, &conf) != 0)
        return 1;
    m.url = conf->database.url;
    m.schema = conf->database.schema;
    char *said = NULL;
    size_t said_n = 0;
    FILE *out = open_memstream(&said, &said_n);
    enum cd_rc rc = m.url[0] ? cd_migrate(&m, out ? out : stdout, &err)
                             : cd_fail(&err, CD_E_INVALID_PARAM, "database.url is not set");
    if (out)
        fclose(out);
    if (rc == CD_OK || said_n)
        fputs(said_n ? said : "the schema is up to date\n", stdout);
    free(said);
    if (rc != CD_OK)
        fprintf(stderr, "matrix-calld: %s\n", err.text);
    cd_conf_free(conf);
    return rc == CD_OK ? 0 : 1;
}

static int person(const struct invocation *inv, enum cd_rc (*work)(const struct cd_person *, FILE *, struct cd_err *))
{
    struct cd_conf *conf = NULL;
    struct cd_person p = {0};
    struct cd_err err = {0};
    enum cd_rc rc;

    if (inv->argc != 2 || inv->argv[1][0] != '@' || !strchr(inv->argv[1], ':'))
        return usage_error("a user id like @name:server must follow", inv->command);
    if (load(inv, &conf) != 0)
        return 1;
    p = (struct cd_person){conf->database.url, conf->database.schema, inv->argv[1]};
    rc = p.url[0] ? work(&p, stdout, &err)
                  : cd_fail(&err, CD_E_INVALID_PARAM, "database.url is not set: nothing is kept");
    if (rc != CD_OK)
        fprintf(stderr, "matrix-calld: %s\n", err.text);
    cd_conf_free(conf);
    return rc == CD_OK ? 0 : 1;
}

static int export_user(const struct invocation *inv)
{
    return person(inv, cd_person_export);
}

static int erase_user(const struct invocation *inv)
{
    return person(inv, cd_person_erase);
}

static int generate_registration(const struct invocation *inv)
{
    return cd_registration_main(inv->argc, inv->argv);
}

static enum cd_log_level level_of(const char *name)
{
    static const char *const names[] = {"debug", "info", "warn", "error"};

    for (int i = 0; i < 4; i++)
        if (strcmp(names[i], name) == 0)
            return (enum cd_log_level)i;
    return CD_LOG_INFO;
}

/* A daemon outlives whoever started it. A closed stderr must not become the number of a database's socket,
 * which the log would then be written to; nor may a reader that went away end us. */
static void outlive_readers(void)
{
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF && open("/dev/null", O_RDWR) != fd)
            exit(1); /* and nobody could be told */
    signal(SIGPIPE, SIG_IGN);
    cd_log_never_block();
}

static int usable_dev(const struct invocation *inv)
{
    if (inv->listen && !inv->dev)
        return usage_error("--listen goes with --dev; otherwise server.listen says where", NULL);
    if (inv->dev && inv->command)
        return usage_error("--dev is the daemon and takes no command, not", inv->command);
    if (inv->dev && inv->conf_path)
        return usage_error("--dev takes its settings from the environment, not from", inv->conf_path);
    return -1;
}

static int run_dev(const struct invocation *inv)
{
    static char **env; /* as long as the process: what a library has read of it may be in use */
    char *said = NULL;
    struct cd_conf *conf = NULL;
    struct cd_err err = {0};
    size_t n = 0;
    FILE *problems;

    env = cd_dev_environ(environ, inv->listen);
    problems = env ? open_memstream(&said, &n) : NULL;
    if (!problems)
        return 1;
    environ = env;
    enum cd_rc rc = cd_conf_load(NULL, environ, &conf, problems, &err);
    fclose(problems); /* warnings of missing registrations are no news here */
    if (rc != CD_OK)
        fputs(said ? said : "", stderr);
    free(said);
    if (rc != CD_OK)
        return 1;
    if (cd_dev_check(conf, &err) != CD_OK) {
        fprintf(stderr, "matrix-calld: %s\n", err.text);
        cd_conf_free(conf);
        return 1;
    }
    cd_dev_banner(stderr, conf);
    cd_log_setup(level_of(conf->log.level), strcmp(conf->log.format, "text") != 0);
    return cd_daemon_run(conf, NULL, true);
}

static int run_daemon(const struct invocation *inv)
{
    struct cd_conf *conf = NULL;

    if (load(inv, &conf) != 0)
        return 1;
    cd_log_setup(level_of(conf->log.level), strcmp(conf->log.format, "text") != 0);
    return cd_daemon_run(conf, inv->conf_path, false);
}

static const struct {
    const char *name;
    int (*run)(const struct invocation *inv);
    bool arguments; /* it takes some */
} commands[] = {
    {"check-config", check_config, false},
    {"dump-config", dump_config, false},
    {"sample-config", sample_config, false},
    {"migrate", migrate, true},
    {"export-user", export_user, true},
    {"erase-user", erase_user, true},
    {"generate-registration", generate_registration, true},
};

int main(int argc, char **argv)
{
    struct invocation inv = {0};
    int status = parse_args(argc, argv, &inv);

    if (status < 0)
        status = usable_dev(&inv);
    if (status >= 0)
        return status;
    if (!inv.command)
        outlive_readers();
    if (cd_secret_init() != 0) {
        fputs("matrix-calld: libsodium did not start\n", stderr);
        return 1;
    }
    if (!inv.command)
        return inv.dev ? run_dev(&inv) : run_daemon(&inv);
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        if (strcmp(commands[i].name, inv.command) != 0)
            continue;
        if (!commands[i].arguments && inv.argc > 1)
            return usage_error("this command takes no arguments, not", inv.argv[1]);
        return commands[i].run(&inv);
    }
    return usage_error("unknown command", inv.command);
}

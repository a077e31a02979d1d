/* registration.c -- `matrix-calld generate-registration`: writes the file that the homeserver
 * loads.
 *
 * In:     server name, our address, profile.
 * Out:    a new file, mode 0640, with random tokens; on standard output the lines for the
 *         homeserver's configuration.
 * Blocks: a command, not the daemon. */
#include "registration.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/secret.h"
#include "conf_priv.h"

#define TOKEN_BYTES 32
#define TOKEN_CHARS (2 * TOKEN_BYTES)

/* The server name as a regular expression that Python, Go and Rust read alike. */
static void print_escaped(FILE *out, const char *server_name)
{
    for (const char *p = server_name; *p; p++) {
        if (strchr(".[]\\+*?()|^${}", *p))
            fputc('\\', out);
        fputc(*p, out);
    }
}

static void print_tokens(FILE *out, const struct cd_registration_conf *conf)
{
    fprintf(out, "as_token: %s\nhs_token: %s\n", conf->as_token, conf->hs_token);
}

static void print_observe(FILE *out, const struct cd_registration_conf *conf)
{
    fputs("# Registration of matrix-calld, profile observe: it sees the rooms' events and has no\n"
          "# power over users. The homeserver and the daemon both read this file; keep it from\n"
          "# everybody else.\n"
          "\n"
          "# Never change the id once the homeserver has loaded it.\n"
          "id: matrix-calld\n"
          "# The daemon's appservice listener, as seen from the homeserver.\n",
          out);
    fprintf(out, "url: %s\n", conf->url);
    fputs("# New tokens take effect when both sides have read the file again.\n", out);
    print_tokens(out, conf);
    fputs("sender_localpart: _calld_bot\n"
          "rate_limited: false\n"
          "# Calls need no typing, receipts or presence.\n"
          "receive_ephemeral: false\n"
          "# Synapse only: who may use as_token. Leave it out behind address translation.\n"
          "#ip_range_whitelist: ['127.0.0.1/32', '::1/128']\n"
          "namespaces:\n"
          "  users:\n"
          "    - exclusive: true\n"
          "      regex: '^@_calld_[^:]*:", out);
    print_escaped(out, conf->server_name);
    fputs("$'\n"
          "  aliases: []\n"
          "  # Every room: newer rooms have no server name in their id.\n"
          "  rooms:\n"
          "    - exclusive: false\n"
          "      regex: '^!.*$'\n", out);
}

static void print_puppet(FILE *out, const struct cd_registration_conf *conf)
{
    fputs("# Registration of matrix-calld, profile puppet: lets the daemon act as any local user.\n"
          "# Its as_token is as powerful as the most powerful of them: on a Synapse without an\n"
          "# authentication service that is a server administrator. Install it only if needed,\n"
          "# beside the other registration.\n"
          "\n"
          "id: matrix-calld-puppet\n"
          "# null: no events are pushed for it. A version that refuses null takes an empty text.\n"
          "url: null\n", out);
    print_tokens(out, conf);
    fputs("# Outside the namespace of the other registration, which is exclusive.\n"
          "sender_localpart: calld-puppet\n"
          "rate_limited: false\n"
          "namespaces:\n"
          "  users:\n"
          "    # Must stay false: true would take people's push notifications from them.\n"
          "    - exclusive: false\n"
          "      regex: '^@[^:]+:", out);
    print_escaped(out, conf->server_name);
    fputs("$'\n"
          "  aliases: []\n"
          "  rooms: []\n", out);
}

void cd_registration_print(FILE *out, const struct cd_registration_conf *conf)
{
    if (conf->profile == CD_PROFILE_PUPPET)
        print_puppet(out, conf);
    else
        print_observe(out, conf);
}

static void make_token(char out[TOKEN_CHARS + 1])
{
    static const char hex[] = "0123456789abcdef";
    uint8_t raw[TOKEN_BYTES];

    cd_random(raw, sizeof raw);
    for (size_t i = 0; i < sizeof raw; i++) {
        out[2 * i] = hex[raw[i] >> 4];
        out[2 * i + 1] = hex[raw[i] & 15];
    }
    out[TOKEN_CHARS] = '\0';
    explicit_bzero(raw, sizeof raw);
}

/* @return 0, or 1 after saying why; a file that could not be finished is removed */
static int write_file(const char *path, const struct cd_registration_conf *conf)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0640);
    bool good;
    FILE *f;

    if (fd < 0) {
        if (errno == EEXIST)
            fprintf(stderr,
                    "%s exists already and is not overwritten. The homeserver may use its tokens; "
                    "remove it first, or choose another --output.\n", path);
        else
            fprintf(stderr, "cannot write %s: %s\n", path, strerror(errno));
        return 1;
    }
    f = fdopen(fd, "w");
    good = f && fchmod(fd, 0640) == 0;
    if (good) {
        cd_registration_print(f, conf);
        good = fflush(f) == 0 && fsync(fd) == 0;
    }
    if (f)
        good = fclose(f) == 0 && good;
    else
        close(fd);
    if (good)
        return 0;
    fprintf(stderr, "cannot write %s: %s\n", path, strerror(errno));
    unlink(path);
    return 1;
}

static void print_next_steps(const char *path, const struct cd_registration_conf *conf)
{
    char absolute[PATH_MAX];

    if (!realpath(path, absolute))
        snprintf(absolute, sizeof absolute, "%s", path);
    printf("Wrote %s (mode 0640): let the homeserver's group read it.\n\n"
           "Synapse, homeserver.yaml; then restart all of its processes:\n"
           "  app_service_config_files:\n"
           "    - %s\n\n"
           "Dendrite, dendrite.yaml; then restart:\n"
           "  app_service_api:\n"
           "    config_files:\n"
           "      - %s\n\n"
           "tuwunel, continuwuity, conduit; in the admin room, the file's text in a code block "
           "below:\n"
           "  !admin appservices register\n\n",
           absolute, absolute, absolute);
    if (conf->profile == CD_PROFILE_OBSERVE)
        printf("matrix-calld.conf:\n"
               "  [matrix]\n"
               "  server_name = %s\n"
               "  registration = %s\n", conf->server_name, absolute);
}

static void usage(FILE *out, const char *name)
{
    fprintf(out, "Usage: %s --server-name NAME --url URL [--output FILE]\n"
                 "       [--profile observe|puppet]\n"
                 "  --server-name  the part of user ids behind the colon, e.g. example.org\n"
                 "  --url          the daemon for the homeserver, e.g. http://127.0.0.1:29340\n"
                 "                 (not for puppet)\n"
                 "  --output       default calld.yaml, calld-puppet.yaml; never overwritten\n"
                 "  --profile      observe: sees events, acts for nobody (default)\n"
                 "                 puppet: may act as every local user\n", name);
}

/* @return -1 to go on, else the exit status */
static int parse_options(int argc, char **argv, struct cd_registration_conf *conf,
                         const char **output)
{
    static const struct option options[] = {
        {"server-name", required_argument, NULL, 's'}, {"url", required_argument, NULL, 'u'},
        {"output", required_argument, NULL, 'o'},      {"profile", required_argument, NULL, 'p'},
        {"help", no_argument, NULL, 'h'},              {NULL, 0, NULL, 0},
    };
    int c;

    optind = 0; /* the caller may have parsed its own options before */
    while ((c = getopt_long(argc, argv, "s:u:o:p:h", options, NULL)) != -1) {
        if (c == 's') {
            conf->server_name = optarg;
        } else if (c == 'u') {
            conf->url = optarg;
        } else if (c == 'o') {
            *output = optarg;
        } else if (c == 'p' && !strcmp(optarg, "puppet")) {
            conf->profile = CD_PROFILE_PUPPET;
        } else if (c == 'p' && !strcmp(optarg, "observe")) {
            conf->profile = CD_PROFILE_OBSERVE;
        } else {
            usage(c == 'h' ? stdout : stderr, argv[0]);
            return c == 'h' ? 0 : 2;
        }
    }
    if (optind == argc)
        return -1;
    fprintf(stderr, "%s: unexpected \"%s\"\n", argv[0], argv[optind]);
    return 2;
}

static int check_options(const char *name, const struct cd_registration_conf *conf)
{
    if (!conf->server_name || !cd_conf_is_server_name(conf->server_name)) {
        fprintf(stderr, "%s: --server-name must be a server name such as example.org\n", name);
        return 2;
    }
    if (conf->profile == CD_PROFILE_PUPPET)
        return 0;
    if (!conf->url || (!cd_conf_is_http_url(conf->url) && strncmp(conf->url, "unix:///", 8) != 0)) {
        fprintf(stderr, "%s: --url must be http://HOST:PORT or https://HOST:PORT, as seen from the "
                        "homeserver\n", name);
        return 2;
    }
    if (strpbrk(conf->url, " \t\r\n#'\"")) {
        fprintf(stderr, "%s: --url has a character that is not allowed\n", name);
        return 2;
    }
    return 0;
}

int cd_registration_main(int argc, char **argv)
{
    char as_token[TOKEN_CHARS + 1], hs_token[TOKEN_CHARS + 1];
    struct cd_registration_conf conf = {
        .profile = CD_PROFILE_OBSERVE, .as_token = as_token, .hs_token = hs_token};
    const char *output = NULL;
    int status = parse_options(argc, argv, &conf, &output);

    if (status >= 0)
        return status;
    status = check_options(argv[0], &conf);
    if (status)
        return status;
    if (cd_secret_init() != 0) {
        fprintf(stderr, "%s: no source of random numbers\n", argv[0]);
        return 1;
    }
    if (!output)
        output = conf.profile == CD_PROFILE_PUPPET ? "calld-puppet.yaml" : "calld.yaml";
    make_token(as_token);
    make_token(hs_token);
    status = write_file(output, &conf);
    explicit_bzero(as_token, sizeof as_token);
    explicit_bzero(hs_token, sizeof hs_token);
    if (status == 0)
        print_next_steps(output, &conf);
    return status;
}

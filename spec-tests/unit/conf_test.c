/* conf_test.c -- configuration: file, environment, aliases, secrets, findings, reload, sample. */
#include "conf.h"

#include <stdlib.h>
#include <sys/stat.h>

#include "../lib/tap.h"

static char dir[] = "/tmp/conf_test.XXXXXX";
static char file_path[64], other_path[64];

/* What the last load() said. */
static char *said;
static struct cd_err err;

static void write_text(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");

    if (!CHECK(f != NULL))
        return;
    fputs(text, f);
    fclose(f);
}

static struct cd_conf *load(const char *text, char *const *environment)
{
    struct cd_conf *c = NULL;
    size_t n;
    FILE *problems;

    free(said);
    said = NULL;
    problems = open_memstream(&said, &n);
    if (text)
        write_text(file_path, text);
    memset(&err, 0, sizeof err);
    cd_conf_load(text ? file_path : NULL, environment, &c, problems, &err);
    fclose(problems);
    return c;
}

static char *no_environment[] = {NULL};

static bool says(const char *text)
{
    if (said && strstr(said, text))
        return true;
    printf("# said: %s\n", said ? said : "(nothing)");
    return false;
}

static void has_defaults(void)
{
    struct cd_conf *c = load(NULL, no_environment);

    if (!CHECK(c != NULL))
        return;
    CHECK_STR(c->server.listen, "127.0.0.1:3000");
    CHECK_STR(c->server.appservice_listen, "127.0.0.1:29340");
    CHECK_STR(c->server.cors_origins, "*");
    CHECK_STR(c->database.url, "");
    CHECK_STR(c->matrix.seal_key_file, "");
    CHECK_STR(c->ice.turn_mode, "off");
    CHECK_INT(c->calls.ring_seconds, 60);
    CHECK_INT(c->limits.socket_queue_bytes, 1048576);
    CHECK(c->calls.enabled && c->database.auto_migrate && !c->server.call_test);
    cd_conf_free(c);
    cd_conf_free(NULL);
}

static void reads_a_file(void)
{
    struct cd_conf *c = load("\xef\xbb\xbf# comment\r\n; another\r\n\r\n[server]\r\n"
                             "  listen=127.0.0.1:1,[::1]:2 unix:/run/x.sock\r\n"
                             "call_test = YES\n[ice]\nturn_urls = turn:a:1?transport=udp , "
                             "turns:b\n"
                             "turn_username = \"  u = # x \"\nturn_credential = p#w;=\"\n"
                             "[calls]\nring_seconds = 180\n[server]\npath_prefix = /calld",
                             no_environment);

    if (!CHECK(c != NULL)) {
        says("nothing");
        return;
    }
    CHECK_STR(c->server.listen, "127.0.0.1:1 [::1]:2 unix:/run/x.sock");
    CHECK(c->server.call_test);
    CHECK_STR(c->server.path_prefix, "/calld");
    CHECK_STR(c->ice.turn_urls, "turn:a:1?transport=udp,turns:b");
    CHECK_STR(c->ice.turn_username, "  u = # x ");
    CHECK_STR(c->ice.turn_credential, "p#w;=\"");
    CHECK_STR(c->ice.turn_mode, "custom");
    CHECK_INT(c->calls.ring_seconds, 180);
    cd_conf_free(c);
}

/* One bad file each, and what must be said about it. */
static void names_line_and_fault(void)
{
    static const struct {
        const char *text, *want;
    } cases[] = {
        {"[server]\nlistn = 1", ":2: unknown key \"listn\" in [server]; did you mean \"listen\"?"},
        {"[matrix]\n\nturn_secret = x", ":3: unknown key \"turn_secret\" in [matrix]; did you mean "
                                        "\"turn_secret\" of [ice]?"},
        {"[server]\nzzzzzzzzzzzz = 1", ":2: unknown key \"zzzzzzzzzzzz\" in [server]\n"},
        {"[servre]\nlisten = x", ":1: unknown section [servre]; did you mean [server]?"},
        {"listen = 127.0.0.1:1", ":1: \"listen\" stands before the first [section]"},
        {"[server]\nlisten", ":2: neither a comment"},
        {"[server", ":1: a section is written [name]"},
        {"[calls]\nring_seconds = 60\nring_seconds = 61", ":3: \"ring_seconds\" is set on line 2 "
                                                          "already"},
        {"[calls]\nring_seconds = 14", ":2: ring_seconds = 14 is not allowed; allowed: a whole "
                                       "number from "
                                       "15 to 180"},
        {"[calls]\nring_seconds = 1m", "from 15 to 180"},
        {"[calls]\nring_seconds = -20", "from 15 to 180"},
        {"[calls]\nenabled = maybe", ":2: enabled = maybe is not allowed; allowed: yes or no"},
        {"[log]\nlevel = inf", "allowed: debug|info|warn|error"},
        {"[server]\nlisten = localhost:3000", "allowed: IP:PORT"},
        {"[server]\nlisten = 127.0.0.1:3000 # public", "a comment stands on a line of its own"},
        {"[server]\nlisten =", "listen must not be empty"},
        {"[server]\nlisten = , ,", ":2: listen must not be empty; allowed: IP:PORT"},
        {"[server]\nappservice_listen = ,", ":2: appservice_listen must not be empty"},
        {"[server]\nlisten = 127.0.0.1:65536", "allowed: IP:PORT"},
        {"[server]\nlisten = [::1:3000", "allowed: IP:PORT"},
        {"[server]\nlisten = 127.0.0.1:29340", "must differ"},
        {"[server]\npath_prefix = calld", "allowed: a path such as /calld"},
        {"[server]\npath_prefix = /calld/", "allowed: a path such as /calld"},
        {"[server]\npublic_base_url = calls.example.org", "allowed: http://"},
        {"[server]\ntrust_proxy = 10.0.0.0/33", "allowed: true, false or addresses"},
        {"[server]\ntrust_proxy = true, 10.0.0.0/8", "stand alone"},
        {"[server]\ncors_origins = https://a.example/path", "allowed: * or origins"},
        {"[server]\ncors_origins = *, https://a.example", "* stands alone"},
        {"[server]\ncontrol_socket = x.sock", "an absolute path"},
        {"[database]\nschema = calls-1", "allowed: lower case letters"},
        {"[database]\nurl = mysql://x:secretpw@h/d", "url has a value that is not allowed"},
        {"[matrix]\nserver_name = https://example.org", "allowed: a server name"},
        {"[matrix]\nregistration = /nonexistent/r.yaml", "cannot read /nonexistent/r.yaml"},
        {"[matrix]\nhs_token = 0123456789abcdef0123456789abcdef", "server_name must be set"},
        {"[ice]\nstun_urls = stun:h:3478?transport=udp", "without ?transport="},
        {"[ice]\nturn_urls = turn://h:3478", "allowed: turn:HOST:PORT"},
        {"[ice]\nturn_urls = turn:h:3478?transport=sctp", "allowed: turn:HOST:PORT"},
        {"[ice]\nturn_urls = turn:user@h:3478", "allowed: turn:HOST:PORT"},
        {"[ice]\nturn_mode = secret\nturn_urls = turn:h", ":2: turn_mode = secret needs "
                                                          "turn_secret"},
        {"[ice]\nturn_mode = custom\nturn_urls = turn:h\nturn_username = u",
         "needs turn_credential"},
        {"[ice]\nturn_mode = secret\nturn_secret = s", "needs turn_urls"},
        {"[ice]\nturn_mode = stun", "needs stun_urls"},
        {"[ice]\npolicy = relay", "policy = relay needs TURN"},
        {"[ice]\nturn_secret = a\nturn_secret_file = b", "in its other form"},
        {"[ice]\nturn_secret_file = /nonexistent/s", "cannot read /nonexistent/s"},
        {"[ice]\nstun_urls_file = x", "unknown key \"stun_urls_file\""},
        {"[admin]\nusers = alice", "allowed: user ids"},
        {"[log]\nlevel = \xff", "not UTF-8"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct cd_conf *c = load(cases[i].text, no_environment);

        if (!CHECK(c == NULL) || !CHECK(says(cases[i].want)))
            printf("# file: %s\n", cases[i].text);
        CHECK(says(file_path) || says("ice."));
        CHECK_INT(err.rc, CD_E_INVALID_PARAM);
        CHECK(err.text[0] != '\0');
        CHECK(!strstr(said, "secretpw"));
        cd_conf_free(c);
    }
}

static void names_all_faults(void)
{
    CHECK(load("[server]\nlistn = 1\n[calls]\nring_seconds = x\n[nope]\na = 1\nb = 2\n",
               no_environment) ==
          NULL);
    CHECK(says(":2: "));
    CHECK(says(":4: "));
    CHECK(says(":5: "));
    CHECK(strstr(said, ":6: ") == NULL);
    CHECK(strstr(err.text, ":2: ") != NULL);
}

static void environment_beats_alias_beats_file(void)
{
    char *aliases[] = {(char[]){"TURN_URLS=turn:alias"}, (char[]){"TURN_SECRET=alias-secret"},
                       (char[]){"NODE_ENV=staging"}, (char[]){"TRUST_PROXY=1"},
                       (char[]){"DATABASE_URL="},
                       NULL};
    char *both[] = {(char[]){"TURN_URLS=turn:alias"}, (char[]){"CALLD_ICE_TURN_URLS=turn:env"},
                    (char[]){"CALLD_CALLS_RING_SECONDS=20"},
                    (char[]){"CALLD_SERVER_LISTEN=127.0.0.1:9"},
                    (char[]){"PORT=7"}, NULL};
    static const char text[] = "[ice]\nturn_urls = turn:file\nturn_secret = file-secret\n"
                               "[database]\nurl = postgresql://file/db\n[calls]\nring_seconds = "
                               "30\n";
    struct cd_conf *c = load(text, aliases);

    if (CHECK(c != NULL)) {
        CHECK_STR(c->ice.turn_urls, "turn:alias");
        CHECK_STR(c->ice.turn_secret, "alias-secret");
        CHECK_STR(c->ice.turn_mode, "secret");
        CHECK_STR(c->server.environment, "staging");
        CHECK_STR(c->server.trust_proxy, "true");
        CHECK_STR(c->database.url, "postgresql://file/db");
        CHECK_STR(c->matrix.seal_key_file, "/var/lib/matrix-calld/seal.key");
        CHECK_STR(c->database.spool_dir, "/var/lib/matrix-calld/spool");
    }
    cd_conf_free(c);
    c = load(text, both);
    if (CHECK(c != NULL)) {
        CHECK_STR(c->ice.turn_urls, "turn:env");
        CHECK_STR(c->ice.turn_secret, "file-secret");
        CHECK_INT(c->calls.ring_seconds, 20);
        CHECK_STR(c->server.listen, "127.0.0.1:9");
    }
    cd_conf_free(c);
}

static void takes_every_alias(void)
{
    char *custom[] = {(char[]){"DATABASE_URL=postgres://u:p@h/d"},
                      (char[]){"TURN_SERVER_URL=turn:h:3478"},
                      (char[]){"TURN_MODE=custom"}, (char[]){"TURN_USERNAME=u"},
                      (char[]){"TURN_CREDENTIAL=c"}, (char[]){"STUN_URLS=stun:a:1,stun:b:2"},
                      (char[]){"TRUST_PROXY=10.0.0.0/8, ::1"},
                      (char[]){"STATE_DIRECTORY=/state:/b"}, NULL};
    char *two[] = {(char[]){"TURN_SERVER_URL=turn:second"}, (char[]){"TURN_URLS=turn:first"},
                   (char[]){"TURN_SECRET=s"}, NULL};
    struct cd_conf *c = load(NULL, custom);

    if (CHECK(c != NULL)) {
        CHECK_STR(c->database.url, "postgres://u:p@h/d");
        CHECK_STR(c->ice.turn_urls, "turn:h:3478");
        CHECK_STR(c->ice.turn_mode, "custom");
        CHECK_STR(c->ice.turn_username, "u");
        CHECK_STR(c->ice.turn_credential, "c");
        CHECK_STR(c->ice.stun_urls, "stun:a:1,stun:b:2");
        CHECK_STR(c->server.trust_proxy, "10.0.0.0/8 ::1");
        CHECK_STR(c->matrix.seal_key_file, "/state/seal.key");
        CHECK_STR(c->database.spool_dir, "/state/spool");
    }
    cd_conf_free(c);
    c = load(NULL, two);
    if (CHECK(c != NULL))
        CHECK_STR(c->ice.turn_urls, "turn:first");
    CHECK(says("environment TURN_SERVER_URL: warning: differs from environment TURN_URLS"));
    cd_conf_free(c);
}

static void port_replaces_the_port_alone(void)
{
    char *port[] = {(char[]){"PORT=8080"}, NULL};
    char *bad[] = {(char[]){"PORT=http"}, NULL};
    struct cd_conf *c = load("[server]\nlisten = 0.0.0.0:3000 [::]:3000 unix:/run/a:b.sock\n",
                             port);

    if (CHECK(c != NULL))
        CHECK_STR(c->server.listen, "0.0.0.0:8080 [::]:8080 unix:/run/a:b.sock");
    cd_conf_free(c);
    CHECK(load(NULL, bad) == NULL);
    CHECK(says("environment PORT: \"http\" is not a port"));
}

static void judges_the_environment(void)
{
    char *unknown[] = {(char[]){"CALLD_ICE_TURN_SECRT=x"}, NULL};
    char *foreign[] = {(char[]){"CALLD_SERVICE_HOST=10.0.0.1"}, (char[]){"CALLD_PORT=tcp://1"},
                       NULL};
    char *bad[] = {(char[]){"CALLD_CALLS_RING_SECONDS=1"}, NULL};
    struct cd_conf *c;

    CHECK(load(NULL, unknown) == NULL);
    CHECK(says("environment CALLD_ICE_TURN_SECRT: unknown key \"turn_secrt\" in [ice]; did you "
               "mean "
               "\"turn_secret\"?"));
    c = load(NULL, foreign);
    CHECK(c != NULL);
    CHECK(says("warning: no such setting"));
    cd_conf_free(c);
    CHECK(load(NULL, bad) == NULL);
    CHECK(says("environment CALLD_CALLS_RING_SECONDS: ring_seconds = 1 is not allowed"));
}

static void reads_secrets_from_files(void)
{
    char text[256], variable[128];
    char *environment[] = {variable, NULL};
    struct cd_conf *c;

    write_text(other_path, "from-a-file\n");
    snprintf(text, sizeof text, "[ice]\nturn_urls = turn:h\nturn_secret_file = %s\n", other_path);
    c = load(text, no_environment);
    if (CHECK(c != NULL))
        CHECK_STR(c->ice.turn_secret, "from-a-file");
    cd_conf_free(c);
    snprintf(variable, sizeof variable, "CALLD_ICE_TURN_SECRET_FILE=%s", other_path);
    c = load("[ice]\nturn_urls = turn:h\nturn_secret = plain\n", environment);
    if (CHECK(c != NULL))
        CHECK_STR(c->ice.turn_secret, "from-a-file");
    cd_conf_free(c);
    write_text(other_path, "two\nlines\n");
    CHECK(load(text, no_environment) == NULL);
    CHECK(says("must hold one line"));
    write_text(other_path, "");
    CHECK(load(text, no_environment) == NULL);
}

static void takes_tokens_from_the_registration(void)
{
    char text[512];
    struct cd_conf *c;

    write_text(other_path, "id: calld\nurl: http://x\nas_token: "
                           "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n"
                           "hs_token: hhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhh\n");
    snprintf(text, sizeof text, "[matrix]\nserver_name = example.org\nregistration = %s\n",
             other_path);
    c = load(text, no_environment);
    if (CHECK(c != NULL)) {
        CHECK_STR(c->matrix.as_id, "calld");
        CHECK_STR(c->matrix.as_token, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
        CHECK_STR(c->matrix.hs_token, "hhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhh");
        CHECK_STR(said, "");
    }
    cd_conf_free(c);
    snprintf(text, sizeof text, "[matrix]\nserver_name = example.org\nregistration = %s\nhs_token "
                                "= other\n",
             other_path);
    c = load(text, no_environment);
    if (CHECK(c != NULL))
        CHECK_STR(c->matrix.hs_token, "other");
    CHECK(says("hs_token differs from the registration file's"));
    CHECK(says("hs_token has fewer than 32 characters"));
    cd_conf_free(c);
}

static void reloads_what_may_change(void)
{
    struct cd_conf *running = load("[ice]\nstun_urls = stun:a\n[log]\nlevel = info\n",
                                   no_environment);
    struct cd_conf *fresh = load("[ice]\nstun_urls = stun:b\n[log]\nlevel = "
                                 "debug\n[calls]\nring_seconds = 20\n"
                                 "enabled = no\n[server]\nlisten = 127.0.0.1:1\n", no_environment);
    const char *kept;
    char *text = NULL;
    size_t n;
    FILE *f = open_memstream(&text, &n);

    if (!CHECK(running && fresh))
        return;
    kept = running->ice.stun_urls;
    cd_conf_reload(running, fresh, f);
    fclose(f);
    CHECK_STR(running->ice.stun_urls, "stun:b");
    CHECK_STR(kept, "stun:a");
    CHECK_STR(running->log.level, "debug");
    CHECK_INT(running->calls.ring_seconds, 20);
    CHECK(!running->calls.enabled);
    CHECK_STR(running->server.listen, "127.0.0.1:3000");
    CHECK_STR(text, "server.listen: a change needs a restart; ignored\n");
    free(text);
    cd_conf_free(running);
    cd_conf_free(fresh);
}

static void dump_masks_secrets(void)
{
    struct cd_conf *c = load("[ice]\nturn_urls = turn:h\nturn_secret = hunter2\n",
                             no_environment), *again;
    char *text = NULL;
    size_t n;
    FILE *f = open_memstream(&text, &n);

    if (!CHECK(c != NULL))
        return;
    cd_conf_dump(c, f);
    fclose(f);
    CHECK(strstr(text, "hunter2") == NULL);
    CHECK(strstr(text, "turn_secret = (set)") != NULL);
    CHECK(strstr(text, "ring_seconds = 60") != NULL);
    again = load(text, no_environment);
    CHECK(again != NULL); /* the dump is itself a configuration */
    cd_conf_free(again);
    cd_conf_free(c);
    free(text);
}

/* The sample with every comment sign of a setting taken away must load and give the defaults. */
static void sample_is_a_configuration(void)
{
    char *text = NULL, *bare, *to;
    size_t n;
    FILE *f = open_memstream(&text, &n);
    struct cd_conf *c;

    cd_conf_print_sample(f);
    fclose(f);
    to = bare = malloc(n + 1);
    for (const char *from = text; *from;) {
        size_t len = strcspn(from, "\n") + 1;

        if (from[0] == '#' && from[1] >= 'a' && from[1] <= 'z') {
            from++;
            len--;
        }
        memcpy(to, from, len);
        to += len;
        from += len;
    }
    *to = '\0';
    c = load(bare, no_environment);
    if (CHECK(c != NULL)) {
        CHECK_STR(c->server.listen, "127.0.0.1:3000");
        CHECK_INT(c->limits.json_depth, 32);
        CHECK_STR(c->ice.turn_mode, "off");
    } else {
        says("");
    }
    cd_conf_free(c);
    free(bare);
    free(text);
}

static void sample_file_is_current(void)
{
    const char *srcdir = getenv("srcdir");
    char path[512], *want = NULL, *have;
    size_t n, got;
    FILE *f = open_memstream(&want, &n);

    cd_conf_print_sample(f);
    fclose(f);
    snprintf(path, sizeof path, "%s/contrib/matrix-calld.conf.sample", srcdir ? srcdir : ".");
    f = fopen(path, "r");
    if (CHECK(f != NULL)) {
        have = calloc(1, n + 2);
        got = fread(have, 1, n + 1, f);
        fclose(f);
        CHECK(got == n && memcmp(have, want, n) == 0); /* write it anew with: conf_test --sample */
        free(have);
    }
    free(want);
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "--sample")) {
        cd_conf_print_sample(stdout);
        return 0;
    }
    if (!mkdtemp(dir))
        return 1;
    snprintf(file_path, sizeof file_path, "%s/calld.conf", dir);
    snprintf(other_path, sizeof other_path, "%s/other", dir);
    TAP_RUN(has_defaults);
    TAP_RUN(reads_a_file);
    TAP_RUN(names_line_and_fault);
    TAP_RUN(names_all_faults);
    TAP_RUN(environment_beats_alias_beats_file);
    TAP_RUN(takes_every_alias);
    TAP_RUN(port_replaces_the_port_alone);
    TAP_RUN(judges_the_environment);
    TAP_RUN(reads_secrets_from_files);
    TAP_RUN(takes_tokens_from_the_registration);
    TAP_RUN(reloads_what_may_change);
    TAP_RUN(dump_masks_secrets);
    TAP_RUN(sample_is_a_configuration);
    TAP_RUN(sample_file_is_current);
    free(said);
    remove(file_path);
    remove(other_path);
    remove(dir);
    return tap_done();
}

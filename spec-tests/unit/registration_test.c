/* registration_test.c -- the registration file: written, read back, refused. */
#include "registration.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "../lib/tap.h"

static char dir[] = "/tmp/registration_test.XXXXXX";
static char path[64], path2[64];

static char *slurp(const char *name)
{
    static char text[8192];
    FILE *f = fopen(name, "r");
    size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;

    text[n] = '\0';
    if (f)
        fclose(f);
    return text;
}

/* Run the command with its output put aside. */
static int generate(const char *server_name, const char *url, const char *output,
                    const char *profile)
{
    char name[] = "generate-registration", for_name[] = "--server-name", for_url[] = "--url",
         for_output[] = "--output", for_profile[] = "--profile";
    char *argv[12];
    int argc = 0, status, null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    int out = dup(STDOUT_FILENO), saved = dup(STDERR_FILENO);

    argv[argc++] = name;
    argv[argc++] = for_name;
    argv[argc++] = strdup(server_name);
    if (url) {
        argv[argc++] = for_url;
        argv[argc++] = strdup(url);
    }
    argv[argc++] = for_output;
    argv[argc++] = strdup(output);
    if (profile) {
        argv[argc++] = for_profile;
        argv[argc++] = strdup(profile);
    }
    argv[argc] = NULL;
    fflush(stdout);
    dup2(null, STDOUT_FILENO);
    dup2(null, STDERR_FILENO);
    status = cd_registration_main(argc, argv);
    fflush(stdout);
    dup2(out, STDOUT_FILENO);
    dup2(saved, STDERR_FILENO);
    close(null);
    close(out);
    close(saved);
    for (int i = 2; i < argc; i += 2)
        free(argv[i]);
    return status;
}

static void writes_observe(void)
{
    struct cd_registration r, other;
    struct cd_err err;
    struct stat st;
    const char *text;

    umask(077); /* a strict umask must not take the group's right away */
    CHECK_INT(generate("sub.example.org:8448", "http://127.0.0.1:29340", path, NULL), 0);
    umask(022);
    CHECK_INT(stat(path, &st), 0);
    CHECK_INT(st.st_mode & 07777, 0640);
    text = slurp(path);
    CHECK(strstr(text, "regex: '^@_calld_[^:]*:sub\\.example\\.org:8448$'") != NULL);
    CHECK(strstr(text, "\n    - exclusive: true\n") != NULL);
    CHECK(strstr(text, "regex: '^!.*$'") != NULL);
    CHECK(strstr(text, "\nrate_limited: false\n") != NULL);
    CHECK(strstr(text, "\nreceive_ephemeral: false\n") != NULL);
    CHECK(strstr(text, "\n  aliases: []\n") != NULL);
    if (CHECK_INT(cd_registration_read(path, &r, &err), CD_OK)) {
        CHECK_STR(r.id, "matrix-calld");
        CHECK_STR(r.url, "http://127.0.0.1:29340");
        CHECK_STR(r.sender_localpart, "_calld_bot");
        CHECK_INT(strlen(r.as_token), 64);
        CHECK_INT(strspn(r.hs_token, "0123456789abcdef"), 64);
        CHECK(strcmp(r.as_token, r.hs_token) != 0);
        CHECK_INT(generate("example.org", "unix:///run/calld.sock", path2, "observe"), 0);
        CHECK_INT(cd_registration_read(path2, &other, &err), CD_OK);
        CHECK(strcmp(r.as_token, other.as_token) != 0);
        cd_registration_done(&other);
        cd_registration_done(&r);
    }
    remove(path2);
}

static void never_overwrites(void)
{
    char *before = strdup(slurp(path));

    CHECK_INT(generate("example.org", "http://127.0.0.1:29340", path, NULL), 1);
    CHECK_STR(slurp(path), before);
    free(before);
    CHECK_INT(symlink("elsewhere", path2), 0);
    CHECK_INT(generate("example.org", "http://127.0.0.1:29340", path2, NULL), 1);
    remove(path2);
    CHECK_INT(generate("example.org", "http://127.0.0.1:29340", "/nonexistent/dir/x.yaml", NULL),
              1);
}

static void writes_puppet(void)
{
    struct cd_registration r;
    struct cd_err err;
    const char *text;

    CHECK_INT(generate("[2001:db8::1]:8448", NULL, path2, "puppet"), 0);
    text = slurp(path2);
    CHECK(strstr(text, "regex: '^@[^:]+:\\[2001:db8::1\\]:8448$'") != NULL);
    CHECK(strstr(text, "exclusive: true") == NULL);
    if (CHECK_INT(cd_registration_read(path2, &r, &err), CD_OK)) {
        CHECK(r.url == NULL);
        CHECK_STR(r.sender_localpart, "calld-puppet");
        cd_registration_done(&r);
    }
    remove(path2);
}

static void refuses_bad_options(void)
{
    CHECK_INT(generate("https://example.org", "http://h:1", path2, NULL), 2);
    CHECK_INT(generate("example.org", "h:1", path2, NULL), 2);
    CHECK_INT(generate("example.org", "http://h:1/\nx: y", path2, NULL), 2);
    CHECK_INT(generate("example.org", NULL, path2, NULL), 2);
    CHECK_INT(generate("example.org", "http://h:1", path2, "spy"), 2);
    CHECK_INT(access(path2, F_OK), -1);
}

static enum cd_rc read_text(const char *text, struct cd_registration *r, struct cd_err *err)
{
    FILE *f = fopen(path2, "w");

    fputs(text, f);
    fclose(f);
    memset(err, 0, sizeof *err);
    return cd_registration_read(path2, r, err);
}

static void reads_what_people_write(void)
{
    static const char text[] = "---\r\n# mine\r\n'id': \"a\\\"b\"  # the id\r\nurl:\r\nas_token : "
                               "'it''s#1'\r\n"
                               "hs_token: plain#2 # comment\r\nnamespaces:\r\n  users:\r\n"
                               "  - exclusive: true\r\n    id: nested\r\n  rooms: []\r\n"
                               "ip_range_whitelist: [ '1.2.3.4' ]\r\nsender_localpart: null\r\n";
    struct cd_registration r;
    struct cd_err err;

    if (!CHECK_INT(read_text(text, &r, &err), CD_OK))
        return;
    CHECK_STR(r.id, "a\"b");
    CHECK(r.url == NULL);
    CHECK_STR(r.as_token, "it's#1");
    CHECK_STR(r.hs_token, "plain#2");
    CHECK(r.sender_localpart == NULL);
    cd_registration_done(&r);
}

static void names_what_is_wrong(void)
{
    static const struct {
        const char *text, *want;
    } cases[] = {
        {"id: a\nas_token: b\n", "no hs_token"},
        {"id: a\nas_token:\nhs_token: c\n", "no as_token"},
        {"id: a\nid: b\n", ":2: this key stands here a second time"},
        {"id: 'a\n", ":1: this quoted text does not end"},
        {"id: 'a' b\n", ":1: this quoted text"},
        {"\nas_token: |\n  x\n", ":2: write this value as plain or quoted text"},
        {"id: *anchor\n", ":1: write this value"},
        {"{id: a}\n", ":1: write one key a line"},
        {"id=a\n", ":1: expected `key: value`"},
        {"", "no id"},
    };
    struct cd_registration r;
    struct cd_err err;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        CHECK_INT(read_text(cases[i].text, &r, &err), CD_E_INVALID_PARAM);
        if (!CHECK(strstr(err.text, cases[i].want) != NULL))
            printf("# said: %s\n", err.text);
        CHECK(strstr(err.text, path2) != NULL);
    }
    remove(path2);
    CHECK_INT(cd_registration_read(path2, &r, &err), CD_E_INVALID_PARAM);
    CHECK(strstr(err.text, "cannot read") != NULL);
}

int main(void)
{
    if (!mkdtemp(dir))
        return 1;
    snprintf(path, sizeof path, "%s/calld.yaml", dir);
    snprintf(path2, sizeof path2, "%s/other.yaml", dir);
    TAP_RUN(writes_observe);
    TAP_RUN(never_overwrites);
    TAP_RUN(writes_puppet);
    TAP_RUN(refuses_bad_options);
    TAP_RUN(reads_what_people_write);
    TAP_RUN(names_what_is_wrong);
    remove(path);
    remove(path2);
    remove(dir);
    return tap_done();
}

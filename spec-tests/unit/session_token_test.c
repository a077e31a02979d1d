/* session_token_test.c -- what src/in/session_token.c writes, and everything it must not take. */
#include "in/session_token.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../lib/tap.h"

#define NOW 1700000000000LL
#define LIFE 900000

static struct cd_seal *seal;
static char folder[] = "/tmp/session_token_XXXXXX";

static struct cd_session session_of(const char *user, const char *device)
{
    struct cd_session s = {.issued_at = NOW, .expires_at = NOW + LIFE};

    snprintf(s.user_id, sizeof(s.user_id), "%s", user);
    snprintf(s.device_id, sizeof(s.device_id), "%s", device);
    memset(s.ref, 0xa5, sizeof(s.ref));
    return s;
}

/* @return to be freed */
static char *written(const struct cd_seal *by, const struct cd_session *s)
{
    struct cd_buf b;

    cd_buf_init(&b, 4096);
    CHECK(cd_session_write(by, s, &b));
    return cd_buf_steal(&b, NULL);
}

static enum cd_rc judge(const struct cd_seal *by, struct cd_str token, int64_t now, bool *forged)
{
    struct cd_session got;
    struct cd_err err = {0};
    enum cd_rc rc = cd_session_read(by, token, now, &got, forged, &err);

    if (rc != CD_OK)
        CHECK(err.text[0] != '\0');
    return rc;
}

static void carries_what_was_put_in(void)
{
    struct cd_session s = session_of("@alice:example.org", "PHONE"), got;
    char *token = written(seal, &s);
    struct cd_err err;
    bool forged = true;

    CHECK(strncmp(token, "calld_", 6) == 0);
    CHECK_INT(strspn(token, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"), strlen(token));
    CHECK_INT(cd_session_read(seal, cd_str_of(token), NOW + 1, &got, &forged, &err), CD_OK);
    CHECK(!forged);
    CHECK_STR(got.user_id, "@alice:example.org");
    CHECK_STR(got.device_id, "PHONE");
    CHECK_INT(got.issued_at, NOW);
    CHECK_INT(got.expires_at, NOW + LIFE);
    CHECK(memcmp(got.ref, s.ref, 16) == 0);
    free(token);
}

static void takes_the_longest_ids_and_no_device(void)
{
    char longest[256];
    struct cd_session s;
    bool forged;
    char *token;

    memset(longest, 'x', 255);
    longest[0] = '@';
    longest[255] = '\0';
    s = session_of(longest, longest);
    token = written(seal, &s);
    CHECK(strlen(token) <= 4096);
    CHECK_INT(judge(seal, cd_str_of(token), NOW, &forged), CD_OK);
    free(token);
    s = session_of("@a:b", "");
    token = written(seal, &s);
    CHECK_INT(judge(seal, cd_str_of(token), NOW, &forged), CD_OK);
    free(token);
}

static void ends_when_it_says(void)
{
    struct cd_session s = session_of("@a:b", "D");
    char *token = written(seal, &s);
    bool forged = true;

    CHECK_INT(judge(seal, cd_str_of(token), NOW + LIFE - 1, &forged), CD_OK);
    CHECK_INT(judge(seal, cd_str_of(token), NOW + LIFE, &forged), CD_E_UNKNOWN_TOKEN);
    CHECK(!forged); /* it is ours: no reason to count it as an attack */
    free(token);
}

static void bears_clocks_that_differ_a_little(void)
{
    struct cd_session s = session_of("@a:b", "D");
    char *token = written(seal, &s);
    bool forged;

    CHECK_INT(judge(seal, cd_str_of(token), NOW - CD_SESSION_SKEW_MS, &forged), CD_OK);
    CHECK_INT(judge(seal, cd_str_of(token), NOW - CD_SESSION_SKEW_MS - 1, &forged), CD_E_UNKNOWN_TOKEN);
    free(token);
}

/* Each bit of each character, also those that a lenient base64 reader would ignore. */
static void refuses_each_change(void)
{
    struct cd_session s = session_of("@alice:example.org", "PHONE");
    char *token = written(seal, &s);
    size_t n = strlen(token);
    bool forged;

    for (size_t i = 0; i < n; i++) {
        for (int bit = 0; bit < 8; bit++) {
            token[i] = (char)(token[i] ^ (1 << bit));
            if (judge(seal, (struct cd_str){token, n}, NOW, &forged) != CD_E_UNKNOWN_TOKEN || !forged)
                tap_fail(__FILE__, __LINE__, "character %zu of %zu changed by bit %d, to 0x%02x: taken", i, n, bit,
                         (unsigned)(unsigned char)token[i]);
            token[i] = (char)(token[i] ^ (1 << bit));
        }
    }
    CHECK_INT(judge(seal, (struct cd_str){token, n}, NOW, &forged), CD_OK);
    free(token);
}

static void refuses_what_is_cut_or_longer(void)
{
    struct cd_session s = session_of("@alice:example.org", "PHONE");
    char *token = written(seal, &s), longer[4200];
    size_t n = strlen(token);
    bool forged;

    for (size_t i = 0; i < n; i++)
        CHECK_INT(judge(seal, (struct cd_str){token, i}, NOW, &forged), CD_E_UNKNOWN_TOKEN);
    for (const char *tail = "A=\n.~"; *tail; tail++) {
        snprintf(longer, sizeof(longer), "%s%c", token, *tail);
        CHECK_INT(judge(seal, cd_str_of(longer), NOW, &forged), CD_E_UNKNOWN_TOKEN);
    }
    memset(longer, 'A', sizeof(longer));
    memcpy(longer, "calld_", 6);
    CHECK_INT(judge(seal, (struct cd_str){longer, 4096}, NOW, &forged), CD_E_UNKNOWN_TOKEN);
    CHECK_INT(judge(seal, CD_STR("calld_"), NOW, &forged), CD_E_UNKNOWN_TOKEN);
    CHECK_INT(judge(seal, CD_STR(""), NOW, &forged), CD_E_UNKNOWN_TOKEN);
    free(token);
}

static char *key_file(const char *name)
{
    static char path[2][64];
    static int which;
    uint8_t key[32];

    which = !which;
    snprintf(path[which], sizeof(path[which]), "%s/%s", folder, name);
    int fd = open(path[which], O_WRONLY | O_CREAT | O_EXCL, 0600);
    if (fd >= 0) {
        cd_random(key, sizeof(key));
        CHECK_INT(write(fd, key, sizeof(key)), sizeof(key));
        close(fd);
    }
    return path[which];
}

static struct cd_seal *opened(const char *key, const char *previous)
{
    struct cd_seal *s = NULL;
    struct cd_err err;

    CHECK_INT(cd_seal_open(key_file(key), previous ? key_file(previous) : NULL, &s, &err), CD_OK);
    return s;
}

static void belongs_to_its_key(void)
{
    struct cd_seal *first = opened("first", NULL), *rotated = opened("second", "first"),
                   *after = opened("second", NULL), *again = opened("first", NULL);
    struct cd_session s = session_of("@a:b", "D");
    char *old = written(first, &s), *new = written(rotated, &s);
    uint8_t name[16];
    bool forged;

    CHECK_INT(judge(again, cd_str_of(old), NOW, &forged), CD_OK); /* the same file, another process */
    CHECK_INT(judge(rotated, cd_str_of(old), NOW, &forged), CD_OK);
    CHECK_INT(judge(after, cd_str_of(old), NOW, &forged), CD_E_UNKNOWN_TOKEN);
    CHECK(forged);
    CHECK_INT(judge(after, cd_str_of(new), NOW, &forged), CD_OK); /* the new key signs */
    CHECK_INT(judge(first, cd_str_of(new), NOW, &forged), CD_E_UNKNOWN_TOKEN);
    CHECK_INT(judge(seal, cd_str_of(old), NOW, &forged), CD_E_UNKNOWN_TOKEN);

    cd_seal_name(first, CD_STR("syt_secret"), name);
    CHECK(cd_seal_named(rotated, CD_STR("syt_secret"), name));
    CHECK(!cd_seal_named(rotated, CD_STR("syt_other"), name));
    CHECK(!cd_seal_named(after, CD_STR("syt_secret"), name));
    free(old);
    free(new);
    cd_seal_close(first);
    cd_seal_close(rotated);
    cd_seal_close(after);
    cd_seal_close(again);
}

/* A record that our key did sign, but that makes no sense: another version's, or a cut one. */
static void refuses_signed_nonsense(void)
{
    uint8_t record[128] = {0};
    char text[256] = "calld_";
    bool forged;

    for (size_t n = 0; n < 96; n++) {
        for (int version = 0; version < 3; version++) {
            record[0] = (uint8_t)version;
            cd_seal_sign(seal, record, n, record + n);
            cd_base64url(record, n + CD_SIGN_BYTES, text + 6);
            CHECK_INT(judge(seal, cd_str_of(text), NOW, &forged), CD_E_UNKNOWN_TOKEN);
            memset(record, 0, sizeof(record));
        }
    }
}

int main(void)
{
    char command[64];

    if (cd_secret_init() != 0 || !(seal = cd_seal_ephemeral()) || !mkdtemp(folder))
        return 2;
    TAP_RUN(carries_what_was_put_in);
    TAP_RUN(takes_the_longest_ids_and_no_device);
    TAP_RUN(ends_when_it_says);
    TAP_RUN(bears_clocks_that_differ_a_little);
    TAP_RUN(refuses_each_change);
    TAP_RUN(refuses_what_is_cut_or_longer);
    TAP_RUN(belongs_to_its_key);
    TAP_RUN(refuses_signed_nonsense);
    cd_seal_close(seal);
    for (int i = 0; i < 2; i++) {
        snprintf(command, sizeof(command), "%s/%s", folder, i ? "second" : "first");
        unlink(command);
    }
    rmdir(folder);
    return tap_done();
}

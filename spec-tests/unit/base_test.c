/* base_test.c -- buffers, strings, ids, maps, errors, secrets. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/id.h"
#include "base/map.h"
#include "base/secret.h"
#include "base/str.h"
#include "tap.h"

static void buffers_grow_to_their_maximum(void)
{
    struct cd_buf b;

    cd_buf_init(&b, 10);
    cd_buf_adds(&b, "12345");
    cd_buf_adds(&b, "67890");
    CHECK(!b.failed);
    CHECK_STR(b.p, "1234567890");
    cd_buf_addc(&b, 'x');
    CHECK(b.failed);
    cd_buf_adds(&b, "");
    CHECK_INT(b.n, 10);
    CHECK(cd_buf_steal(&b, NULL) == NULL);

    cd_buf_init(&b, 4000);
    for (int i = 0; i < 400; i++)
        cd_buf_addf(&b, "%d,", i % 10);
    CHECK_INT(b.n, 800);
    cd_buf_consume(&b, 798);
    CHECK_STR(b.p, "9,");
    cd_buf_consume(&b, 99);
    CHECK_INT(b.n, 0);
    cd_buf_add_i64(&b, INT64_MIN);
    CHECK_STR(b.p, "-9223372036854775808");
    cd_buf_done(&b);
}

static void json_strings_are_escaped(void)
{
    struct cd_buf b;

    cd_buf_init(&b, 1000);
    cd_buf_add_json(&b, CD_STR("a\"b\\c\n\t\x01\x1f/é€😀"));
    CHECK_STR(b.p, "\"a\\\"b\\\\c\\n\\t\\u0001\\u001f/é€😀\"");
    cd_buf_reset(&b);
    cd_buf_add_json(&b, CD_STR("x\xff\xc0\xafy"));
    CHECK_STR(b.p, "\"x\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbdy\"");
    cd_buf_reset(&b);
    cd_buf_add_jsons(&b, NULL);
    CHECK_STR(b.p, "null");
    cd_buf_reset(&b);
    cd_buf_add_segment(&b, CD_STR("!a/b:c d~é"));
    CHECK_STR(b.p, "%21a%2Fb%3Ac%20d~%C3%A9");
    cd_buf_done(&b);
}

static void utf8_is_judged_strictly(void)
{
    static const char *const good[] = {"", "abc", "é", "€", "😀", "\xed\x9f\xbf", "\xef\xbf\xbf", "\xf4\x8f\xbf\xbf"};
    static const char *const bad[] = {"\x80", "\xc3", "\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80",
                                      "\xff", "a\xe2\x82", "\xf0\x80\x80\x80"};

    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        CHECK(cd_utf8_valid(good[i], strlen(good[i])));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        CHECK(!cd_utf8_valid(bad[i], strlen(bad[i])));
}

static void numbers_are_parsed_whole(void)
{
    uint64_t v = 7;

    CHECK(cd_parse_u64(CD_STR("0"), 0, 10, &v) && v == 0);
    CHECK(cd_parse_u64(CD_STR("18446744073709551615"), 0, UINT64_MAX, &v) && v == UINT64_MAX);
    CHECK(!cd_parse_u64(CD_STR("18446744073709551616"), 0, UINT64_MAX, &v));
    CHECK(!cd_parse_u64(CD_STR(""), 0, 10, &v));
    CHECK(!cd_parse_u64(CD_STR("-1"), 0, 10, &v));
    CHECK(!cd_parse_u64(CD_STR("1 "), 0, 10, &v));
    CHECK(!cd_parse_u64(CD_STR("11"), 0, 10, &v));
}

static void percent_escapes_are_decoded(void)
{
    char out[16];

    CHECK_INT(cd_percent_decode(CD_STR("%40a%2Fb+c"), false, out, sizeof(out)), 6);
    CHECK_STR(out, "@a/b+c");
    CHECK_INT(cd_percent_decode(CD_STR("a+b"), true, out, sizeof(out)), 3);
    CHECK_STR(out, "a b");
    CHECK_INT(cd_percent_decode(CD_STR("%00"), false, out, sizeof(out)), -1);
    CHECK_INT(cd_percent_decode(CD_STR("%4"), false, out, sizeof(out)), -1);
    CHECK_INT(cd_percent_decode(CD_STR("%zz"), false, out, sizeof(out)), -1);
    CHECK_INT(cd_percent_decode(CD_STR("0123456789abcdef"), false, out, sizeof(out)), -1);
}

static void ids_have_their_shapes(void)
{
    char a[CD_CALL_ID_LEN + 1], b[CD_CALL_ID_LEN + 1], party[CD_PARTY_ID_LEN + 1], url[32];

    cd_id_call(1000, a);
    cd_id_call(1001, b);
    CHECK_INT(strlen(a), CD_CALL_ID_LEN);
    CHECK(strcmp(a, b) < 0);
    CHECK(a[0] == 'z' && a[13] == '7' && strchr("89ab", a[17]) != NULL);
    CHECK_INT(strspn(a + 1, "0123456789abcdef"), 32);
    cd_id_alnum(CD_PARTY_ID_LEN, party);
    CHECK_INT(strlen(party), CD_PARTY_ID_LEN);
    cd_id_base64url(15, url, sizeof(url));
    CHECK_INT(strlen(url), 20);
}

static void maps_find_what_they_hold(void)
{
    static char keys[1000][8];
    struct cd_map m;
    size_t pos = 0, n = 0;

    cd_map_init(&m);
    CHECK(cd_map_get(&m, CD_STR("x")) == NULL);
    for (int i = 0; i < 1000; i++) {
        snprintf(keys[i], sizeof(keys[i]), "k%d", i);
        CHECK(cd_map_put(&m, cd_str_of(keys[i]), keys[i]) == 0);
    }
    CHECK_INT(m.count, 1000);
    for (int i = 0; i < 1000; i += 2)
        CHECK(cd_map_del(&m, cd_str_of(keys[i])) == keys[i]);
    CHECK_INT(m.count, 500);
    for (int i = 0; i < 1000; i++)
        CHECK(cd_map_get(&m, cd_str_of(keys[i])) == (i % 2 ? keys[i] : NULL));
    while (cd_map_next(&m, &pos))
        n++;
    CHECK_INT(n, 500);
    for (int round = 0; round < 10000; round++) { /* tombstones must not fill the table */
        CHECK(cd_map_put(&m, CD_STR("again"), keys) == 0);
        cd_map_del(&m, CD_STR("again"));
    }
    CHECK(m.cap <= 4096);
    cd_map_done(&m);
}

static void errors_come_from_one_table(void)
{
    struct cd_err err;
    struct cd_buf b;

    for (int rc = CD_PENDING + 1; rc < CD_RC_COUNT; rc++) {
        CHECK(cd_rc_status((enum cd_rc)rc) >= 400);
        CHECK(cd_rc_errcode((enum cd_rc)rc)[0] && cd_rc_text((enum cd_rc)rc)[0]);
    }
    CHECK_INT(cd_fail(&err, CD_E_LIMITED, "wait \"%d\"", 5), CD_E_LIMITED);
    err.retry_after_ms = 1500;
    cd_buf_init(&b, 1000);
    cd_err_json(&b, &err);
    CHECK_STR(b.p, "{\"errcode\":\"M_LIMIT_EXCEEDED\",\"error\":\"wait \\\"5\\\"\",\"retry_after_ms\":1500}");
    cd_buf_done(&b);
}

static void tokens_are_sealed(void)
{
    char path[] = "/tmp/calld-seal-XXXXXX", path2[sizeof(path) + 2];
    struct cd_seal *a = NULL, *b = NULL;
    uint8_t sealed[5 + CD_SEAL_OVERHEAD];
    struct cd_err err;
    struct stat st;
    char out[6] = "";

    CHECK(mkdtemp(path) != NULL);
    snprintf(path2, sizeof(path2), "%s/k", path);
    CHECK_INT(cd_seal_open(path2, NULL, &a, &err), CD_OK);
    CHECK(stat(path2, &st) == 0 && (st.st_mode & 0777) == 0600 && st.st_size == 32);
    cd_seal_wrap(a, "token", 5, sealed);
    CHECK_INT(cd_seal_open(path2, NULL, &b, &err), CD_OK);
    CHECK(cd_seal_unwrap(b, sealed, sizeof(sealed), out));
    CHECK_STR(out, "token");
    sealed[30] ^= 1;
    CHECK(!cd_seal_unwrap(b, sealed, sizeof(sealed), out));
    CHECK(!cd_seal_unwrap(b, sealed, 3, out));
    cd_seal_close(a);
    cd_seal_close(b);
    chmod(path2, 0644);
    CHECK_INT(cd_seal_open(path2, NULL, &a, &err), CD_E_INTERNAL);
    CHECK(strstr(err.text, "readable by others") != NULL);
    unlink(path2);
    rmdir(path);
}

static void keys_rotate(void)
{
    char dir[] = "/tmp/calld-seal-XXXXXX", old[sizeof(dir) + 4], fresh[sizeof(dir) + 4];
    struct cd_seal *a = NULL, *b = NULL;
    uint8_t sealed[5 + CD_SEAL_OVERHEAD];
    struct cd_err err;
    char out[6] = "";

    CHECK(mkdtemp(dir) != NULL);
    snprintf(old, sizeof(old), "%s/old", dir);
    snprintf(fresh, sizeof(fresh), "%s/new", dir);
    CHECK_INT(cd_seal_open(old, NULL, &a, &err), CD_OK);
    cd_seal_wrap(a, "token", 5, sealed);
    CHECK_INT(cd_seal_open(fresh, old, &b, &err), CD_OK);
    CHECK(cd_seal_unwrap(b, sealed, sizeof(sealed), out));
    CHECK_STR(out, "token");
    cd_seal_close(a);
    cd_seal_close(b);
    unlink(old);
    unlink(fresh);
    rmdir(dir);
}

static void secrets_compare(void)
{
    CHECK(cd_secret_equal(CD_STR("abc"), CD_STR("abc")));
    CHECK(!cd_secret_equal(CD_STR("abc"), CD_STR("abd")));
    CHECK(!cd_secret_equal(CD_STR("abc"), CD_STR("abcd")));
    CHECK(!cd_secret_equal(CD_STR(""), CD_STR("a")));
}

int main(void)
{
    if (cd_secret_init() != 0)
        return 1;
    TAP_RUN(buffers_grow_to_their_maximum);
    TAP_RUN(json_strings_are_escaped);
    TAP_RUN(utf8_is_judged_strictly);
    TAP_RUN(numbers_are_parsed_whole);
    TAP_RUN(percent_escapes_are_decoded);
    TAP_RUN(ids_have_their_shapes);
    TAP_RUN(maps_find_what_they_hold);
    TAP_RUN(errors_come_from_one_table);
    TAP_RUN(tokens_are_sealed);
    TAP_RUN(keys_rotate);
    TAP_RUN(secrets_compare);
    return tap_done();
}

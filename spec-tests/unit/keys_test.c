/* keys_test.c -- answers kept under an Idempotency-Key in memory: src/store/keys.c. */
#include "store/keys.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/budget.h"
#include "base/secret.h"

#include "tap.h"

#define HOUR 3600000

static struct cd_keys K;

static struct cd_idem_row *row_of(const char *user, const char *key, const char *response, int64_t at)
{
    struct cd_idem_row *r = calloc(1, sizeof *r);

    r->user_id = strdup(user);
    r->key = strdup(key);
    r->response = strdup(response);
    r->status = 200;
    r->at = at;
    return r;
}

static void begin(size_t rows, size_t rows_a_user, size_t bytes, int64_t age_ms)
{
    K = (struct cd_keys){.max = {rows, rows_a_user, bytes, age_ms}};
}

static void put(const char *user, int key, const char *response, int64_t at)
{
    char name[32];

    snprintf(name, sizeof name, "k%d", key);
    CHECK(cd_keys_put(&K, row_of(user, name, response, at), at));
}

static bool has(const char *user, int key, int64_t now)
{
    char name[32];

    snprintf(name, sizeof name, "k%d", key);
    return cd_keys_find(&K, user, name, now) != NULL;
}

/* Nothing is left, and the budget has all of it back. */
static void end(void)
{
    CHECK_INT(cd_budget_used_by(CD_BUDGET_KEYS), K.bytes);
    cd_keys_done(&K);
    CHECK_INT(K.rows, 0);
    CHECK_INT(K.bytes, 0);
    CHECK_INT(cd_budget_used_by(CD_BUDGET_KEYS), 0);
}

static void a_key_belongs_to_its_user_for_a_day(void)
{
    begin(10, 10, 1 << 20, 24 * HOUR);
    put("@a:x", 1, "first", 1000);
    CHECK(has("@a:x", 1, 1000));
    CHECK(!has("@b:x", 1, 1000));
    CHECK(!has("@a:x", 2, 1000));
    put("@a:x", 1, "second", 2000); /* the first answer is the answer */
    CHECK_STR(cd_keys_find(&K, "@a:x", "k1", 2000)->response, "first");
    CHECK_INT(K.rows, 1);
    CHECK(has("@a:x", 1, 1000 + 24 * HOUR - 1));
    CHECK(!has("@a:x", 1, 1000 + 24 * HOUR));
    put("@a:x", 1, "a day later", 1000 + 24 * HOUR);
    CHECK_STR(cd_keys_find(&K, "@a:x", "k1", 1000 + 24 * HOUR)->response, "a day later");
    CHECK_INT(K.rows, 1);
    end();
}

static void the_oldest_go_first(void)
{
    begin(100, 100, 1 << 20, HOUR);
    for (int i = 0; i < 250; i++)
        put(i % 2 ? "@a:x" : "@b:x", i, "{}", 1000 + i);
    CHECK_INT(K.rows, 100);
    CHECK(!has("@a:x", 149, 2000) && has("@b:x", 150, 2000) && has("@a:x", 249, 2000));
    cd_keys_age(&K, 1000 + 199 + HOUR);
    CHECK_INT(K.rows, 50);
    CHECK(!has("@a:x", 199, 2000) && has("@b:x", 200, 2000));
    put("@c:x", 1, "{}", 1000 + 249 + HOUR); /* putting looks, too */
    CHECK_INT(K.rows, 1);
    end();
}

static void nobody_pushes_out_the_keys_of_others(void)
{
    begin(10000, 50, 64 << 20, HOUR);
    put("@quiet:x", 1, "{}", 1000);
    for (int i = 0; i < 5000; i++)
        put("@loud:x", i, "{}", 1000);
    CHECK(has("@quiet:x", 1, 1000));
    CHECK(!has("@loud:x", 4949, 1000) && has("@loud:x", 4950, 1000) && has("@loud:x", 4999, 1000));
    CHECK_INT(K.rows, 51);
    end();
}

static void bytes_are_counted_and_bounded(void)
{
    static char large[10000];
    size_t max = 256 << 10;

    memset(large, 'x', sizeof large - 1);
    begin(10000, 10000, max, HOUR);
    for (int i = 0; i < 100; i++) {
        put("@a:x", i, large, 1000);
        CHECK(K.bytes <= max);
        CHECK_INT(cd_budget_used_by(CD_BUDGET_KEYS), K.bytes);
    }
    CHECK(K.rows > 20 && K.rows < 27); /* the texts are nearly all of it */
    CHECK(has("@a:x", 99, 1000) && !has("@a:x", 50, 1000));
    cd_budget_setup(max / 2 * CD_KEYS_BUDGET_PART, NULL, NULL); /* a small budget: less of it */
    put("@a:x", 100, large, 1000);
    CHECK(K.bytes <= max / 2 && has("@a:x", 100, 1000));
    cd_budget_setup(0, NULL, NULL);
    for (int i = 0; i < 2000; i++) { /* a user each: they count, too */
        char user[32];

        snprintf(user, sizeof user, "@u%d:x", i);
        put(user, 1, "{}", 1000);
        CHECK(K.bytes <= max);
    }
    CHECK(K.rows < 1000);
    end();
}

/* What was planned and is not wanted leaves nothing behind. */
static void a_plan_may_be_dropped(void)
{
    struct cd_idem_row *r = row_of("@a:x", "k1", "{}", 1000);

    begin(10, 10, 1 << 20, HOUR);
    cd_keys_plan_drop(cd_keys_plan(&K, r));
    CHECK_INT(K.bytes, 0);
    CHECK(!has("@a:x", 1, 1000));
    cd_keys_add(&K, cd_keys_plan(&K, r), r, 1000);
    CHECK(has("@a:x", 1, 1000));
    r = row_of("@a:x", "k2", "{}", 1000); /* its user is there now */
    cd_keys_plan_drop(cd_keys_plan(&K, r));
    cd_keys_add(&K, cd_keys_plan(&K, r), r, 1000);
    CHECK_INT(K.rows, 2);
    r = row_of("@b:x", "k1", "{}", 1000 + HOUR); /* the last key of one user goes as another's comes */
    cd_keys_add(&K, cd_keys_plan(&K, r), r, 1000 + HOUR);
    CHECK(!has("@a:x", 1, 1000) && has("@b:x", 1, 1000));
    end();
}

static void they_move_as_a_whole(void)
{
    struct cd_keys from = {.max = {1000, 1000, 1 << 20, HOUR}};

    begin(50, 1000, 1 << 20, HOUR);
    for (int i = 0; i < 80; i++) {
        char key[32];

        snprintf(key, sizeof key, "k%d", i);
        CHECK(cd_keys_put(&from, row_of("@a:x", key, "{}", 1000), 1000));
    }
    put("@b:x", 1, "{}", 1000);
    cd_keys_move(&K, &from);
    CHECK_INT(from.rows, 0);
    CHECK_INT(from.max.rows, 1000);
    CHECK_INT(K.rows, 50); /* of those that came the newest, as its limits say */
    CHECK(!has("@b:x", 1, 1000) && !has("@a:x", 29, 1000) && has("@a:x", 30, 1000) && has("@a:x", 79, 1000));
    CHECK_INT(K.max.rows, 50);
    cd_keys_move(&from, &K);
    CHECK_INT(from.rows, 50);
    cd_keys_done(&from);
    end();
}

int main(void)
{
    if (cd_secret_init() != 0)
        return 1;
    TAP_RUN(a_key_belongs_to_its_user_for_a_day);
    TAP_RUN(the_oldest_go_first);
    TAP_RUN(nobody_pushes_out_the_keys_of_others);
    TAP_RUN(bytes_are_counted_and_bounded);
    TAP_RUN(a_plan_may_be_dropped);
    TAP_RUN(they_move_as_a_whole);
    return tap_done();
}

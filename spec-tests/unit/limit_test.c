/* limit_test.c -- the sliding window of src/in/limit.c. */
#include "in/limit.h"

#include <stdint.h>
#include <stdio.h>

#include "../lib/tap.h"

static void lets_the_allowed_number_through(void)
{
    struct cd_limit *l = cd_limit_new(3, 1000, 10);

    CHECK_INT(cd_limit_take(l, "a", 100), 0);
    CHECK_INT(cd_limit_take(l, "a", 200), 0);
    CHECK_INT(cd_limit_peek(l, "a", 300), 0);
    CHECK_INT(cd_limit_take(l, "a", 300), 0);
    CHECK_INT(cd_limit_take(l, "a", 400), 700);
    CHECK_INT(cd_limit_peek(l, "a", 1099), 1);
    CHECK_INT(cd_limit_take(l, "a", 1100), 0);
    cd_limit_free(l);
}

/* A bucket that refills evenly would let nearly twice as many through. */
static void holds_in_every_window(void)
{
    struct cd_limit *l = cd_limit_new(10, 60000, 10);
    int64_t passed[4096];
    int n = 0;

    for (int64_t t = 1; t < 600000; t += 317) {
        if (cd_limit_take(l, "k", t) == 0)
            passed[n++] = t;
    }
    CHECK(n >= 90);
    for (int i = 10; i < n; i++)
        CHECK(passed[i] - passed[i - 10] >= 60000);
    cd_limit_free(l);
}

static void keeps_keys_apart(void)
{
    struct cd_limit *l = cd_limit_new(1, 1000, 10);

    CHECK_INT(cd_limit_take(l, "a", 1), 0);
    CHECK_INT(cd_limit_take(l, "b", 1), 0);
    CHECK(cd_limit_take(l, "a", 2) > 0);
    CHECK(cd_limit_take(l, "b", 2) > 0);
    cd_limit_free(l);
}

static void gives_one_back(void)
{
    struct cd_limit *l = cd_limit_new(2, 1000, 10);

    cd_limit_take(l, "a", 100);
    cd_limit_take(l, "a", 600);
    cd_limit_refund(l, "a", 100);
    CHECK_INT(cd_limit_take(l, "a", 700), 0);
    CHECK_INT(cd_limit_peek(l, "a", 700), 900); /* 600 and 700 count */
    cd_limit_refund(l, "a", 5); /* was never counted */
    CHECK_INT(cd_limit_peek(l, "a", 700), 900);
    cd_limit_refund(l, "nobody", 700);
    cd_limit_refund(l, "a", 700);
    cd_limit_refund(l, "a", 600);
    CHECK_INT(cd_limit_take(l, "a", 701), 0);
    CHECK_INT(cd_limit_take(l, "a", 702), 0);
    CHECK_INT(cd_limit_take(l, "a", 703), 998);
    cd_limit_free(l);
}

static void evicts_the_longest_idle(void)
{
    struct cd_limit *l = cd_limit_new(1, 1000000, 100);
    char key[16];

    for (int i = 0; i < 100; i++) {
        snprintf(key, sizeof(key), "k%d", i);
        cd_limit_take(l, key, i + 1);
    }
    CHECK(cd_limit_peek(l, "k0", 200) > 0);
    CHECK_INT(cd_limit_take(l, "one more", 200), 0);
    CHECK_INT(cd_limit_peek(l, "k0", 200), 0);
    CHECK(cd_limit_peek(l, "k1", 200) > 0);
    CHECK(cd_limit_peek(l, "one more", 200) > 0);
    cd_limit_free(l);
}

static void zero_is_no_limit(void)
{
    struct cd_limit *l = cd_limit_new(0, 1000, 10);

    for (int i = 0; i < 100; i++)
        CHECK_INT(cd_limit_take(l, "a", 1), 0);
    CHECK_INT(cd_limit_peek(l, "a", 1), 0);
    cd_limit_refund(l, "a", 1);
    cd_limit_free(l);
}

int main(void)
{
    TAP_RUN(lets_the_allowed_number_through);
    TAP_RUN(holds_in_every_window);
    TAP_RUN(keeps_keys_apart);
    TAP_RUN(gives_one_back);
    TAP_RUN(evicts_the_longest_idle);
    TAP_RUN(zero_is_no_limit);
    return tap_done();
}

/* rate_test.c -- so many a second with a burst: src/in/rate.c. */
#include "in/rate.h"

#include <stdio.h>

#include "../lib/tap.h"

#define SECOND 1000000LL

static void lets_a_burst_through_and_then_the_rate(void)
{
    struct cd_rate_mark m = {0};
    int64_t now = 77 * SECOND;
    int passed = 0;

    while (cd_rate_mark_take(&m, 5, now) == 0)
        passed++;
    CHECK_INT(passed, 5 * CD_RATE_BURST_S);
    CHECK_INT(cd_rate_mark_take(&m, 5, now), 200);
    CHECK_INT(cd_rate_mark_take(&m, 5, now + 199000), 1);
    CHECK_INT(cd_rate_mark_take(&m, 5, now + 200000), 0);
    CHECK(cd_rate_mark_take(&m, 5, now + 200000) > 0);
    passed = 0;
    for (int64_t t = now + SECOND; t < now + 61 * SECOND; t += 10000)
        passed += cd_rate_mark_take(&m, 5, t) == 0;
    CHECK(passed >= 299 && passed <= 305);
}

static void forgets_nothing_and_saves_no_more_than_a_burst(void)
{
    struct cd_rate_mark m = {0};
    int passed = 0;

    CHECK_INT(cd_rate_mark_take(&m, 1, SECOND), 0);
    while (cd_rate_mark_take(&m, 1, 100000 * SECOND) == 0)
        passed++;
    CHECK_INT(passed, CD_RATE_BURST_S);
}

static void zero_is_no_limit_and_much_is_much(void)
{
    struct cd_rate_mark m = {0};

    for (int i = 0; i < 100000; i++)
        CHECK_INT(cd_rate_mark_take(&m, 0, SECOND), 0);
    for (int i = 0; i < 100000; i++)
        CHECK_INT(cd_rate_mark_take(&m, 1000000, SECOND), 0);
}

static void keeps_keys_apart_and_their_number_bounded(void)
{
    struct cd_rate *r = cd_rate_new(3);
    char key[16];

    for (int i = 0; i < CD_RATE_BURST_S; i++)
        CHECK_INT(cd_rate_take(r, "a", 1, SECOND), 0);
    CHECK(cd_rate_take(r, "a", 1, SECOND) > 0);
    CHECK_INT(cd_rate_take(r, "b", 1, SECOND), 0);
    for (int i = 0; i < 100; i++) { /* "a" is used all the time, so others make room */
        snprintf(key, sizeof(key), "k%d", i);
        CHECK_INT(cd_rate_take(r, key, 1, SECOND), 0);
        CHECK(cd_rate_take(r, "a", 1, SECOND) > 0);
    }
    CHECK_INT(cd_rate_take(r, "", 1, SECOND), 0);
    CHECK_INT(cd_rate_take(NULL, "a", 1, SECOND), 0);
    cd_rate_free(r);
    cd_rate_free(NULL);
}

int main(void)
{
    TAP_RUN(lets_a_burst_through_and_then_the_rate);
    TAP_RUN(forgets_nothing_and_saves_no_more_than_a_burst);
    TAP_RUN(zero_is_no_limit_and_much_is_much);
    TAP_RUN(keeps_keys_apart_and_their_number_bounded);
    return tap_done();
}

/* outbox_missed_test.c -- rows that found no memory are read again: src/out/outbox_missed.c. */
#include "tap.h"

#include "store_await.h"

#include "out/outbox_int.h"

#define UNTIL_MS 5000

/* A store that is asked, and answers when the test says so. */
static struct {
    bool spooling;
    int asked;
    char id[CD_CALL_ID_LEN + 1];
    cd_load_fn fn;
    cd_load_all_fn all_fn;
    void *arg;
} fake;

static void fake_stats(const struct cd_store *s, struct cd_store_stats *out)
{
    (void)s;
    *out = (struct cd_store_stats){.spooling = fake.spooling};
}

static void fake_load_call(struct cd_store *s, const char *id, cd_load_fn fn, void *arg)
{
    (void)s;
    fake.asked++;
    snprintf(fake.id, sizeof fake.id, "%s", id);
    fake.fn = fn;
    fake.arg = arg;
}

static void fake_load_live(struct cd_store *s, cd_load_all_fn fn, void *arg)
{
    (void)s;
    fake.asked++;
    snprintf(fake.id, sizeof fake.id, "all");
    fake.all_fn = fn;
    fake.arg = arg;
}

static const struct cd_store_ops ops = {.stats = fake_stats, .load_call = fake_load_call,
                                        .load_live = fake_load_live};
static struct cd_store store = {.ops = &ops};
static struct cd_outbox O;

static void begin(void)
{
    memset(&fake, 0, sizeof fake);
    O = (struct cd_outbox){.loop = await.loop, .store = &store};
}

static void wait_ms(int64_t ms)
{
    int64_t end = cd_mono_ms() + ms;

    while (cd_mono_ms() < end)
        await_yield();
}

static void until_asked(int times)
{
    int64_t end = cd_mono_ms() + UNTIL_MS;

    while (fake.asked < times && cd_mono_ms() < end)
        await_yield();
    CHECK_INT(fake.asked, times);
}

static void answer(enum cd_store_rc rc)
{
    fake.fn(fake.arg, rc, NULL);
}

static void each_call_is_asked_about_once(void)
{
    begin();
    cd_ob_missed(&O, "one");
    cd_ob_missed(&O, "two");
    cd_ob_missed(&O, "one");
    until_asked(1);
    CHECK_STR(fake.id, "one");
    answer(CD_STORE_OK);
    until_asked(2);
    CHECK_STR(fake.id, "two");
    answer(CD_STORE_OK);
    CHECK_INT(O.n_missed, 0);
}

static void a_read_that_fails_is_repeated(void)
{
    begin();
    cd_ob_missed(&O, "one");
    until_asked(1);
    answer(CD_STORE_FULL);
    until_asked(2);
    answer(CD_STORE_OK);
    CHECK_INT(O.n_missed, 0);
}

/* It knows the call, but not its rows. */
static void degraded_mode_is_not_believed(void)
{
    begin();
    cd_ob_missed(&O, "one");
    until_asked(1);
    fake.spooling = true;
    answer(CD_STORE_OK);
    CHECK_INT(O.n_missed, 1);
    wait_ms(600);
    CHECK_INT(fake.asked, 1);
    fake.spooling = false;
    until_asked(2);
    answer(CD_STORE_OK);
    CHECK_INT(O.n_missed, 0);
}

static void more_than_are_remembered(void)
{
    char id[8];

    begin();
    for (int i = 0; i <= CD_OB_MISSED_MAX; i++) {
        snprintf(id, sizeof id, "n%d", i);
        cd_ob_missed(&O, id);
    }
    for (int i = 0; i < CD_OB_MISSED_MAX; i++) {
        until_asked(i + 1);
        answer(CD_STORE_OK);
    }
    until_asked(CD_OB_MISSED_MAX + 1);
    CHECK_STR(fake.id, "all");
    fake.all_fn(fake.arg, CD_STORE_DOWN, NULL, 0);
    until_asked(CD_OB_MISSED_MAX + 2);
    CHECK_STR(fake.id, "all");
    fake.all_fn(fake.arg, CD_STORE_OK, NULL, 0);
    wait_ms(600);
    CHECK_INT(fake.asked, CD_OB_MISSED_MAX + 2);
}

static void all(void)
{
    TAP_RUN(each_call_is_asked_about_once);
    TAP_RUN(a_read_that_fails_is_repeated);
    TAP_RUN(degraded_mode_is_not_believed);
    TAP_RUN(more_than_are_remembered);
}

int main(void)
{
    if (!await_run(all))
        return 1;
    return tap_done();
}

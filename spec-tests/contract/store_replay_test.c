/* store_replay_test.c -- PostgreSQL is back, and does not take what was spooled, or the disk has not kept it.
 * Needs CALLD_TEST_DATABASE_URL (TCP on loopback). */
#define TAP_SECONDS 120
#include "tap.h"

#include <stdlib.h>

#include "store/spool_rec.h"
#include "store_await.h"
#include "store_away.h"
#include "store_kit.h"

/* A bit of the second record falls over on the disk. */
static bool damage_second_record(void)
{
    static uint8_t bytes[65536];
    const uint8_t *p = bytes;
    ssize_t n = 0;
    char name[32];
    int fd = -1;

    for (int i = 999; fd < 0 && i > 0; i--) {
        snprintf(name, sizeof name, "%010d.seg", i);
        fd = openat(kit_spool_dir.fd, name, O_RDWR | O_CLOEXEC);
    }
    if (fd >= 0)
        n = pread(fd, bytes, sizeof bytes, 0);
    for (int i = 0; p && n > 0 && i < 2; i++)
        p = memmem(p + 1, (size_t)n - (size_t)(p + 1 - bytes), CD_SPOOL_MAGIC, 4);
    if (n > 0 && p) {
        uint8_t other = p[40] ^ 4;

        n = pwrite(fd, &other, 1, p + 40 - bytes);
    }
    close(fd);
    return n == 1;
}

/* A disk that forgets costs what it forgot, and nothing of what stands beside it. */
static void a_record_damaged_meanwhile_costs_only_itself(void)
{
    struct cd_store *s = open_through_proxy();

    if (!CHECK(s))
        return;
    strike(REFUSED);
    until_spooling(s, true);
    a_call_each(s, "!rot", 0, 5);
    CHECK(damage_second_record());
    cd_log_setup(CD_LOG_ERROR + 1, 0); /* it complains, and should */
    heal(REFUSED);
    until_spooling(s, false);
    cd_log_setup(CD_LOG_ERROR, 0);
    CHECK_INT(stats_of(s).spool_rejected, 1);
    CHECK_INT(stats_of(s).spool_records, 0);
    CHECK_INT(count("call_sessions WHERE room_id LIKE '!rot%'"), 4);
    CHECK_INT(count("call_sessions WHERE room_id = '!rot1:x'"), 0);
    s->ops->close(s);
    proxy_done(&P);
    forget();
}

static void raise_for(const char *room, const char *sqlstate)
{
    char sql[1024];

    snprintf(sql, sizeof sql, "SET search_path = %s; SET client_min_messages = error; CREATE SEQUENCE IF NOT EXISTS balked;"
             "CREATE OR REPLACE FUNCTION balk() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN"
             " IF NEW.room_id = '%s' THEN PERFORM nextval('balked');"
             " RAISE EXCEPTION 'balk' USING ERRCODE = '%s'; END IF;"
             " RETURN NEW; END$$;"
             "CREATE OR REPLACE TRIGGER balk BEFORE INSERT ON call_sessions FOR EACH ROW EXECUTE FUNCTION balk();",
             kit_schema, room, sqlstate);
    free(kit_sql(sql));
}

/* An error that passes keeps everything where it is; one that does not costs the one record. */
static void errors_that_pass_are_waited_for(void)
{
    struct cd_store *s = open_through_proxy();

    if (!CHECK(s))
        return;
    strike(REFUSED);
    until_spooling(s, true);
    a_call_each(s, "!balk", 0, 3);
    raise_for("!balk1:x", "53100"); /* disk full */
    cd_log_setup(CD_LOG_ERROR + 1, 0); /* it complains, and should */
    heal(REFUSED);
    UNTIL(count("balked WHERE is_called") == 1); /* the fault did happen */
    CHECK(stats_of(s).spooling);
    CHECK_INT(stats_of(s).spool_rejected, 0);
    raise_for("!balk1:x", "P0001");
    until_spooling(s, false);
    cd_log_setup(CD_LOG_ERROR, 0);
    CHECK_INT(stats_of(s).spool_rejected, 1);
    CHECK_INT(count("call_sessions WHERE room_id LIKE '!balk%'"), 2);
    CHECK_INT(count("call_sessions WHERE room_id = '!balk1:x'"), 0);
    raise_for("nowhere", "P0001");
    s->ops->close(s);
    proxy_done(&P);
    forget();
}

static void all(void)
{
    split_url();
    kit_spool_begin();
    TAP_RUN(a_record_damaged_meanwhile_costs_only_itself);
    TAP_RUN(errors_that_pass_are_waited_for);
    kit_spool_end();
}

int main(void)
{
    return kit_postgres_main(all);
}

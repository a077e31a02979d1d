/* oom_test.c -- memory runs out: each allocation of the parse, command and reply paths fails in turn.
 *
 * How: the linker sends the allocations of our code through wrappers. A run with n counts down to the nth, which
 * fails (or from which on all fail); n grows until a run needs fewer. After each run: nothing crashed, nothing leaked (the
 * sanitizer looks), whoever asked was answered exactly once, and the same again without a fault succeeds. */
#define TAP_SECONDS 120
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json_mem.h"
#include "base/log.h"
#include "call/fsm.h"
#include "calls/input.h"
#include "conf.h"
#include "contract/store_await.h"
#include "in/as_event.h"
#include "in/as_scan.h"
#include "live.h"
#include "loop/loop.h"
#include "store/mem.h"
#include "store/spool_file.h"
#include "store/spool_priv.h"

/* --- the fault ---------------------------------------------------------------------------------- */

static struct {
    long left;    /* allocations until the fault; 0: no fault */
    bool lasting; /* all that follow fail, too */
    unsigned long faults;
} fault;

static bool fails(void)
{
    if (fault.left == 0 || --fault.left > 0)
        return false;
    fault.left = fault.lasting ? 1 : 0;
    fault.faults++;
    return true;
}

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
char *__wrap_strdup(const char *s);
char *__wrap_strndup(const char *s, size_t n);

void *__wrap_malloc(size_t n)
{
    return fails() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return fails() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n)
{
    return fails() ? NULL : __real_realloc(p, n);
}

char *__wrap_strndup(const char *s, size_t n)
{
    size_t have = strnlen(s, n);
    char *copy = __wrap_malloc(have + 1);

    if (copy) {
        memcpy(copy, s, have);
        copy[have] = '\0';
    }
    return copy;
}

char *__wrap_strdup(const char *s)
{
    return __wrap_strndup(s, strlen(s));
}

/* Runs @p work with each of its allocations failing in turn, then once without a fault. */
static void each_allocation(void (*work)(bool faultless))
{
    unsigned long before = fault.faults;
    unsigned runs = 0;

    for (int lasting = 0; lasting < 2; lasting++)
        for (long n = 1; n < 2000; n++) {
            unsigned long had = fault.faults;

            fault.left = n;
            fault.lasting = lasting;
            work(false);
            fault.left = 0;
            if (fault.faults == had)
                break; /* it needs fewer than n */
            runs++;
            work(true);
        }
    CHECK(fault.faults > before); /* the fault did happen */
    CHECK(runs > 0);
    printf("# %u runs with a fault\n", runs);
}

/* --- parsing ------------------------------------------------------------------------------------ */

static void read_request(bool faultless)
{
    static const char text[] = "{\"roomId\":\"!r:x\",\"callType\":\"video\",\"ringSeconds\":30,\"a\":1,\"b\":2,\"c\":3,\"d\":4,"
                               "\"e\":5,\"f\":6,\"offer\":{\"type\":\"offer\",\"sdp\":\"v=0\\r\\n\"}}";
    static const char *const types[] = {"audio", "video", NULL};
    struct cd_err err = {0};
    struct cd_input in;
    struct cd_str offer;
    char room[256];
    char *copy = strdup(text); /* as a body is */

    if (!copy)
        return;
    cd_input_open(&in, cd_str_of(copy), 32, &err);
    cd_input_text(&in, "roomId", true, room, sizeof room);
    CHECK(!faultless || cd_input_word(&in, "callType", types) == 1);
    cd_input_sdp(&in, "offer", "offer", 65536, &offer);
    CHECK(!faultless || (in.rc == CD_OK && strcmp(room, "!r:x") == 0));
    free(copy);
}

#define EVENT(type, id, content) \
    "{\"type\":\"" type "\",\"event_id\":\"" id "\",\"room_id\":\"!r:x\",\"sender\":\"@b:x\",\"origin_server_ts\":1,\"content\":" content "}"

static void read_transaction(bool faultless)
{
    static const char text[] = "{\"events\":[" EVENT("m.call.invite", "$1", "{\"call_id\":\"c\",\"version\":\"1\"}") ","
        EVENT("m.room.message", "$2", "{}") "," EVENT("m.call.hangup", "$3", "{\"call_id\":\"c\"}") "]}";
    struct as_scan s = {.body = cd_str_of(text)};
    enum as_step step;
    unsigned good = 0;

    while ((step = cd_as_scan_step(&s, INT64_MAX)) == AS_MORE)
        ;
    CHECK(step == AS_DONE || (!faultless && step == AS_NO_MEMORY));
    for (size_t i = 0; step == AS_DONE && i < s.n_items; i++) {
        struct cd_str raw = {text + s.items[i].at, s.items[i].n};
        const char *why = NULL;
        struct as_event e;

        if (cd_as_event_head(&e, raw, 65536, 2, &why) == AS_GOOD && cd_as_event_content(&e, &why) == AS_GOOD)
            good++;
        cd_as_event_done(&e);
    }
    CHECK(!faultless || good == 2);
    cd_as_scan_done(&s);
}

/* --- commands and what is stored ------------------------------------------------------------------ */

static struct cd_core core;
static unsigned numbers;

static struct cd_call *a_call(void)
{
    struct cd_call *c = cd_call_new();
    bool ok = c && cd_set_str(&c->room_id, "!r:x") && cd_set_str(&c->caller, "@a:x") && cd_set_str(&c->callee, "@b:x");

    if (c) {
        snprintf(c->id, sizeof c->id, "z%032u", ++numbers);
        c->initiated_at = cd_wall_ms();
        c->ring_seconds = 60;
        c->ring_expires_at = c->initiated_at + 60000;
        c->version = 1;
    }
    if (ok && cd_call_add_participant(c, "@a:x") && cd_call_add_participant(c, "@b:x")) {
        c->participants[0].state = CD_P_JOINED;
        c->participants[0].side = CD_SIDE_OURS;
        return c;
    }
    cd_call_free(c);
    return NULL;
}

static unsigned answers;
static enum cd_store_rc last_rc;

static void stored(void *arg, enum cd_store_rc rc, const char *live)
{
    (void)arg;
    (void)live;
    answers++;
    last_rc = rc;
}

static void loaded(void *arg, enum cd_store_rc rc, struct cd_stored_call *sc)
{
    (void)arg;
    answers++;
    last_rc = rc;
    cd_stored_call_free(sc);
}

/* Until the answer is there, or has had the time to come. */
static void turns(unsigned wanted)
{
    long left = fault.left; /* the loop's own needs are not at issue here */

    fault.left = 0;
    for (int i = 0; i < 20 && answers < wanted; i++)
        await_yield();
    fault.left = left;
}

static void decide(bool faultless)
{
    struct cd_call *c = a_call();
    struct cd_cmd cmd = {.ev = CD_EV_ANSWER, .source = CD_S_REST, .user = "@b:x", .client = "D", .party_id = "P",
                         .mx_version = 1, .now_ms = cd_wall_ms()};
    struct cd_decision d;

    if (!c) {
        CHECK(!faultless);
        return;
    }
    d = cd_fsm_decide(c, &cmd);
    CHECK(d.verdict == CD_V_MOVED || (!faultless && d.verdict == CD_V_NO_MEMORY));
    CHECK_INT(c->status, CD_RINGING); /* decided on a copy */
    cd_call_free(d.next);
    cd_call_free(c);
}

static struct cd_change *change_of(const struct cd_call *c, uint64_t expected)
{
    struct cd_change *ch = cd_change_new(c->id);
    struct cd_outbox_row *row;

    if (!ch)
        return NULL;
    ch->call = c;
    ch->expect_version = expected;
    row = cd_change_outbox(ch);
    if (row) {
        char txn[32];

        snprintf(txn, sizeof txn, "t%u", ++numbers);
        row->txn_id = strdup(txn);
        row->room_id = strdup("!r:x");
        row->user_id = strdup("@a:x");
        row->event_type = strdup("m.call.invite");
        row->content = strdup("{}");
    }
    if (row && row->txn_id && row->room_id && row->user_id && row->event_type && row->content &&
        cd_change_event(ch, 1, "initiated", "@a:x", "{}", 1))
        return ch;
    cd_change_free(ch);
    return NULL;
}

/* What a spool holds is never taken for damaged because memory is short. */
static void read_record(bool faultless)
{
    static struct cd_buf record;
    struct cd_spool_rec rec;
    size_t used;

    if (!record.n) { /* the first run makes it, without a fault */
        long left = fault.left;
        struct cd_call *c;
        struct pg_op op = {.kind = PG_OP_CHANGE};

        fault.left = 0;
        c = a_call();
        op.change = change_of(c, 0);
        cd_buf_init(&record, CD_SPOOL_REC_MAX);
        cd_spool_rec_write(&record, &op, c, 1);
        cd_change_free(op.change);
        cd_call_free(c);
        fault.left = left;
    }
    enum cd_spool_read r = cd_spool_rec_read(record.p, record.n, &rec, &used);
    CHECK(r == CD_SPOOL_REC || (!faultless && r == CD_SPOOL_STARVED));
    CHECK_INT(used, record.n);
    cd_spool_rec_done(&rec);
}

#define SEGMENT_RECORDS 40 /* more than a buffer's first size */

static int folder; /* of the spool */

static uint64_t make_segment(void)
{
    int fd = spool_file_new(folder, 1, false);
    struct cd_buf b;
    uint64_t size;

    cd_buf_init(&b, 1 << 20);
    for (int i = 0; i < SEGMENT_RECORDS; i++) {
        struct pg_op op = {.kind = PG_OP_DONE, .key = op.short_key};

        snprintf(op.short_key, sizeof op.short_key, "t%d", i);
        cd_spool_rec_write(&b, &op, NULL, 1);
    }
    size = SPOOL_HEAD + b.n;
    CHECK_INT(spool_file_write(fd, SPOOL_HEAD, b.p, b.n), 0);
    CHECK_INT(pwrite(fd, CD_SPOOL_MAGIC "torn", 8, (off_t)size), 8);
    cd_buf_done(&b);
    close(fd);
    return size;
}

/* Nor is anything of it cut off, or left unread, when it is opened with little memory. */
static void open_segment(bool faultless)
{
    static uint64_t size;
    struct spool_found f;
    struct stat st;
    int err;

    if (!size) {
        long left = fault.left;

        fault.left = 0;
        size = make_segment();
        fault.left = left;
    }
    err = spool_file_check(folder, 1, true, 1 << 20, NULL, NULL, &f);
    CHECK(err == 0 || (!faultless && err == ENOMEM));
    if (err == 0) {
        CHECK_INT(f.records, SEGMENT_RECORDS);
        CHECK_INT(f.size, size);
    }
    CHECK(fstatat(folder, "0000000001.seg", &st, 0) == 0 && (uint64_t)st.st_size >= size);
    CHECK(fstatat(folder, "rejected", &st, 0) != 0);
}

/* The record of one call. */
static void make_call_segment(char id[CD_CALL_ID_LEN + 1])
{
    int fd = spool_file_new(folder, 1, false);
    struct cd_call *c = a_call();
    struct pg_op op = {.kind = PG_OP_CHANGE, .change = change_of(c, 0)};
    struct cd_buf b;

    memcpy(id, c->id, CD_CALL_ID_LEN + 1);
    cd_buf_init(&b, CD_SPOOL_REC_MAX);
    cd_spool_rec_write(&b, &op, c, 1);
    CHECK_INT(spool_file_write(fd, SPOOL_HEAD, b.p, b.n), 0);
    cd_buf_done(&b);
    cd_change_free(op.change);
    cd_call_free(c);
    close(fd);
}

/* A store that was opened without its database knows each call that the files name: it would refuse what it does
 * not know. */
static void open_store(bool faultless)
{
    static char id[CD_CALL_ID_LEN + 1];
    const struct cd_spool_dir dir = {.fd = folder, .lock = -1};
    const struct cd_spool_conf conf = {.dir = &dir, .max_mb = 16, .offline = true,
                                       .pg = {.url = "host=127.0.0.1 port=1", .schema = "calld"}};
    struct cd_err err = {0};
    struct cd_store *s;
    long left = fault.left;

    fault.left = 0;
    if (!id[0])
        make_call_segment(id);
    fault.left = left;
    s = cd_store_spool_open(await.loop, &conf, &err);
    fault.left = 0;
    if (s) {
        CHECK(mem_find(spool_of(s)->shadow, id) != NULL);
        s->ops->close(s);
    } else {
        CHECK(!faultless && err.rc == CD_E_NO_MEMORY);
    }
}

static void store_and_load(bool faultless)
{
    struct cd_store *s = core.store;
    struct cd_call *c = a_call();
    struct cd_change *ch = c ? change_of(c, 0) : NULL;
    unsigned asked = 0;

    answers = 0;
    if (ch) {
        s->ops->commit(s, ch, stored, NULL);
        asked++;
        CHECK_INT(answers, 0); /* never inside the call */
        turns(asked);
        CHECK_INT(answers, asked);
        CHECK(last_rc == CD_STORE_OK || (!faultless && last_rc == CD_STORE_FULL));
        s->ops->load_call(s, c->id, loaded, NULL);
        asked++;
        turns(asked);
        CHECK_INT(answers, asked);
        CHECK(!faultless || last_rc == CD_STORE_OK);
        c->status = CD_ENDED; /* or the pair would be busy for the next run */
        c->version = 2;
        fault.left = 0;
        ch = change_of(c, 1);
        s->ops->commit(s, ch, stored, NULL);
        turns(asked + 1);
    } else {
        CHECK(!faultless);
    }
    cd_call_free(c);
}

/* --- timers --------------------------------------------------------------------------------------- */

#define TIMERS 600 /* the heap grows a few times */
#define SPELL 50   /* timers that are set while there is no memory */

/* However many there are: a timer is not lost because memory was short while it was set. */
static void timers(void)
{
    static struct cd_timer t[TIMERS + SPELL];
    unsigned long faults = fault.faults;

    for (size_t have = 1; have < TIMERS; have += 7) {
        struct cd_heap h = {0};

        for (size_t i = 0; i < have; i++)
            CHECK_INT(cd_heap_set(&h, &t[i], (int64_t)i), 0);
        fault.left = 1;
        fault.lasting = true;
        for (size_t i = have; i < have + SPELL; i++)
            CHECK_INT(cd_heap_set(&h, &t[i], 0), 0);
        fault.left = 0;
        fault.lasting = false;
        cd_heap_done(&h);
    }
    CHECK(fault.faults > faults);
}

/* --- replies -------------------------------------------------------------------------------------- */

static void reply(bool faultless)
{
    struct cd_call *c;
    struct cd_live *l;
    struct cd_buf b;
    long left = fault.left;

    fault.left = 0;
    c = a_call();
    fault.left = left;
    l = c ? cd_live_new(&core, c, false) : NULL;
    CHECK(l || !faultless);
    cd_buf_init(&b, 65536);
    if (l) {
        cd_render_call(&b, &core, l, "@a:x", "P", false);
        CHECK(!faultless || !b.failed);
        CHECK(b.failed || (b.n > 2 && b.p[0] == '{' && b.p[b.n - 1] == '}'));
        cd_log_record(l, 1, "call-answered", CD_STR("{}"), "@a:x");
    }
    cd_buf_done(&b);
    if (l)
        cd_live_unlink(l);
    CHECK(!faultless || cd_live_get(&core, c ? "none" : "") == NULL);
}

static void requests(void)
{
    each_allocation(read_request);
}

static void transactions(void)
{
    each_allocation(read_transaction);
}

static void decisions(void)
{
    each_allocation(decide);
}

static void stores(void)
{
    each_allocation(store_and_load);
}

static void spooled(void)
{
    each_allocation(read_record);
}

static void in_a_folder(void (*work)(bool faultless))
{
    char name[] = "/tmp/oom_test.XXXXXX";

    if (!CHECK(mkdtemp(name) != NULL))
        return;
    folder = open(name, O_RDONLY | O_DIRECTORY);
    each_allocation(work);
    unlinkat(folder, "0000000001.seg", 0);
    unlinkat(folder, "rejected", 0);
    unlinkat(folder, "reserve", 0);
    close(folder);
    CHECK_INT(rmdir(name), 0);
}

static void segments(void)
{
    in_a_folder(open_segment);
}

static void spooled_stores(void)
{
    in_a_folder(open_store);
}

static void replies(void)
{
    each_allocation(reply);
}

static void all(void)
{
    core.loop = await.loop;
    core.store = cd_store_mem_open(core.loop);
    if (!core.store)
        return;
    TAP_RUN(requests);
    TAP_RUN(transactions);
    TAP_RUN(decisions);
    TAP_RUN(stores);
    TAP_RUN(spooled);
    TAP_RUN(segments);
    TAP_RUN(spooled_stores);
    TAP_RUN(timers);
    TAP_RUN(replies);
    core.store->ops->close(core.store);
}

int main(void)
{
    static char no_homeserver[] = "CALLD_MATRIX_HOMESERVER_URL=";
    static char *const env[] = {no_homeserver, NULL};
    struct cd_err err = {0};

    cd_json_mem_setup(); /* its malloc is one of ours */
    cd_log_setup(CD_LOG_ERROR + 1, 0); /* it complains, and should */
    if (cd_conf_load(NULL, env, &core.conf, stderr, &err) != CD_OK || !await_run(all))
        return 1;
    cd_conf_free(core.conf);
    cd_map_done(&core.calls);
    cd_map_done(&core.mx_calls);
    cd_map_done(&core.by_user);
    return tap_done();
}

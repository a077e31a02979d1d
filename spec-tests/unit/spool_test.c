/* spool_test.c -- the spool's format and its files: what is written comes back, what a crash or a disk did to it
 * is found out. */
#include "tap.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/secret.h"
#include "store/spool_file.h"

static char folder[64];
static int dir;

/* --- records ---------------------------------------------------------------------------------- */

static struct cd_call *full_call(void)
{
    struct cd_call *c = cd_call_new();
    struct cd_participant *p;

    cd_id_call(1763683200123, c->id);
    cd_set_str(&c->room_id, "!room:x");
    cd_set_str(&c->matrix_call_id, "m \xf0\x9f\x93\x9e");
    cd_set_str(&c->caller, "@a:x");
    cd_set_str(&c->callee, "@b:x");
    cd_set_str(&c->ended_by, "@b:x");
    c->media = CD_MESH;
    c->origin = CD_O_MATRIX;
    c->type = CD_VIDEO;
    c->status = CD_FAILED;
    c->end_reason = CD_R_UNKNOWN_ERROR;
    c->mx_state = CD_MX_FAILED;
    c->mx_version = 1;
    c->foreign = c->invite_tried = true;
    c->initiated_at = 1763683200123;
    c->accepted_at = 1763683200124;
    c->connected_at = 1763683200125;
    c->ended_at = 1763683200126;
    c->ring_expires_at = 1763683200127;
    c->ring_seconds = 180;
    c->version = 77;
    c->seq = UINT64_C(1) << 40;
    p = cd_call_add_participant(c, "@a:x");
    cd_set_str(&p->display_name, "A");
    cd_set_str(&p->avatar_url, "mxc://x/a");
    cd_set_str(&p->party_id, "P");
    cd_set_str(&p->device_id, "D");
    cd_set_str(&p->leave_reason, "left");
    p->state = CD_P_BUSY;
    p->side = CD_SIDE_MATRIX;
    p->video_enabled = true;
    p->joined_at = 5;
    p->left_at = 6;
    cd_call_add_participant(c, "@b:x");
    return c;
}

static struct cd_change *full_change(const struct cd_call *c)
{
    struct cd_change *ch = cd_change_new(c->id);
    struct cd_outbox_row *o;
    struct cd_signal_row *g;

    ch->call = c;
    ch->expect_version = 76;
    cd_change_event(ch, 9, "ended", "@a:x", "{\"status\":\"failed\"}", 1763683200126);
    ch->events[0].has_mx_hash = true;
    memset(ch->events[0].mx_hash, 0xab, 16);
    cd_change_event(ch, 10, "left", NULL, NULL, 1);
    o = cd_change_outbox(ch);
    o->txn_id = strdup("txn");
    o->room_id = strdup("!room:x");
    o->user_id = strdup("@a:x");
    o->event_type = strdup("m.call.hangup");
    o->content = strdup("{\"x\":1}");
    o->rank = 3;
    o->ord = -4;
    o->created_at = 1;
    o->not_before = 2;
    o->deadline = 3;
    o->tried = true;
    o->attempts = 7;
    g = cd_change_signal(ch);
    g->seq = 11;
    g->kind = strdup("ice-candidate");
    g->from_user = strdup("@a:x");
    g->payload = strdup("{}");
    ch->drop_untried_all = ch->drop_signals = true;
    ch->idem = calloc(1, sizeof *ch->idem);
    ch->idem->user_id = strdup("@a:x");
    ch->idem->key = strdup("k");
    ch->idem->response = strdup("{}");
    ch->idem->status = 201;
    ch->idem->at = 99;
    memcpy(ch->idem->call_id, c->id, sizeof ch->idem->call_id);
    return ch;
}

static struct pg_op *op_of(enum pg_op_kind kind)
{
    struct pg_op *op = calloc(1, sizeof *op);

    op->kind = kind;
    return op;
}

static struct pg_op *blob(enum pg_op_kind kind, const char *key, const char *device, const char *data, size_t n)
{
    struct pg_op *op = op_of(kind);

    op->key = key ? strdup(key) : NULL;
    op->device = device ? strdup(device) : NULL;
    op->number = 12345;
    op->n_data = n;
    op->data = malloc(n + 1);
    memcpy(op->data, data, n);
    return op;
}

/* Read it back, write that, and compare: every byte of the first must be in the second. */
static void comes_back(struct pg_op *op, const struct cd_call *row)
{
    struct cd_spool_rec rec;
    struct cd_buf a, b;
    size_t used;

    cd_buf_init(&a, CD_SPOOL_REC_MAX);
    cd_buf_init(&b, CD_SPOOL_REC_MAX);
    cd_spool_rec_write(&a, op, row, 4711);
    CHECK(!a.failed);
    if (CHECK_INT(cd_spool_rec_read(a.p, a.n, &rec, &used), CD_SPOOL_REC)) {
        CHECK_INT(used, a.n);
        CHECK_INT(rec.at, 4711);
        cd_spool_rec_write(&b, rec.op, rec.row, 4711);
        CHECK(a.n == b.n && memcmp(a.p, b.p, a.n) == 0);
        cd_spool_rec_done(&rec);
    }
    for (size_t n = 1; n < a.n; n++) { /* torn anywhere */
        enum cd_spool_read r = cd_spool_rec_read(a.p, n, &rec, &used);

        if (r != CD_SPOOL_SHORT && !CHECK(n < 4 && r == CD_SPOOL_SHORT))
            break;
        if (n >= CD_SPOOL_REC_HEAD)
            CHECK_INT(used, a.n);
    }
    for (size_t i = 0; i < a.n; i++) { /* a bit flipped anywhere */
        a.p[i] = (char)(a.p[i] ^ (1 << i % 8));
        if (!CHECK(cd_spool_rec_read(a.p, a.n, &rec, &used) != CD_SPOOL_REC))
            break;
        a.p[i] = (char)(a.p[i] ^ (1 << i % 8));
    }
    cd_buf_done(&a);
    cd_buf_done(&b);
    pg_op_free(op);
}

static void records_come_back(void)
{
    struct cd_call *c = full_call();
    struct pg_op *op = op_of(PG_OP_CHANGE);

    op->change = full_change(c);
    comes_back(op, NULL);
    op = op_of(PG_OP_CHANGE);
    op->change = full_change(c);
    op->change->call = NULL;
    comes_back(op, c);
    op = op_of(PG_OP_CHANGE);
    op->change = cd_change_new(c->id);
    comes_back(op, NULL);
    comes_back(blob(PG_OP_TRIED, "txn", NULL, "", 0), NULL);
    comes_back(blob(PG_OP_DONE, "txn", NULL, "", 0), NULL);
    comes_back(blob(PG_OP_TOKEN_PUT, "@a:x", "DEV", "\0sealed\0", 8), NULL);
    comes_back(blob(PG_OP_TOKEN_DEL, "@a:x", NULL, "", 0), NULL);
    comes_back(blob(PG_OP_SEEN, NULL, NULL, "0123456789abcdef", 16), NULL);
    comes_back(blob(PG_OP_QUARANTINE, "why", NULL, "raw\0bytes", 9), NULL);
    op = op_of(PG_OP_MEMBERS);
    op->n_members = 2;
    op->members = calloc(2, sizeof *op->members);
    for (size_t i = 0; i < 2; i++) {
        op->members[i].room_id = strdup("!r:x");
        op->members[i].user_id = strdup(i ? "@a:x" : "@b:x");
        op->members[i].joined = i;
        op->members[i].display_name = i ? strdup("A") : NULL;
    }
    comes_back(op, NULL);
    cd_call_free(c);
}

/* The round trip above finds no member that is neither written nor read. */
static void no_member_is_forgotten(void)
{
    if (sizeof(void *) != 8)
        TAP_SKIP("the sizes are those of 64 bits");
    /* a new member belongs in spool_rec.c, and its size here */
    CHECK_INT(sizeof(struct cd_participant), 80);
    CHECK_INT(sizeof(struct cd_call), 832);
    CHECK_INT(sizeof(struct cd_event_row), 64);
    CHECK_INT(sizeof(struct cd_outbox_row), 128);
    CHECK_INT(sizeof(struct cd_signal_row), 48);
    CHECK_INT(sizeof(struct cd_idem_row), 96);
}

static void only_what_lasts_is_kept(void)
{
    struct pg_op *op = op_of(PG_OP_PURGE);

    CHECK(!cd_spool_rec_keeps(op));
    op->kind = PG_OP_FLUSH;
    CHECK(!cd_spool_rec_keeps(op));
    op->kind = PG_OP_DONE;
    CHECK(cd_spool_rec_keeps(op));
    pg_op_free(op);
}

/* --- files ------------------------------------------------------------------------------------ */

static struct {
    size_t n;
    char keys[16][8];
} seen;

static void found(void *self, const struct cd_spool_rec *rec)
{
    (void)self;
    if (seen.n < 16)
        snprintf(seen.keys[seen.n++], sizeof seen.keys[0], "%s", rec->op->key);
}

/* A segment of records "k0" ... with the given bytes behind them. */
static uint64_t make_segment(uint64_t number, int records, const char *behind, size_t n_behind)
{
    struct cd_buf b;
    int fd = spool_file_new(dir, number, false);

    cd_buf_init(&b, 1 << 20);
    for (int i = 0; i < records; i++) {
        struct pg_op *op;
        char key[8];

        snprintf(key, sizeof key, "k%d", i);
        op = blob(PG_OP_DONE, key, NULL, "", 0);
        cd_spool_rec_write(&b, op, NULL, 1000 + i);
        pg_op_free(op);
    }
    CHECK_INT(spool_file_write(fd, SPOOL_HEAD, b.p, b.n), 0);
    if (n_behind)
        CHECK_INT(pwrite(fd, behind, n_behind, (off_t)(SPOOL_HEAD + b.n)), n_behind);
    n_behind = b.n;
    cd_buf_done(&b);
    close(fd);
    return SPOOL_HEAD + n_behind;
}

static uint64_t size_of(const char *name)
{
    struct stat st;

    return fstatat(dir, name, &st, 0) == 0 ? (uint64_t)st.st_size : 0;
}

static struct spool_found check(uint64_t number, bool last)
{
    struct spool_found out;

    memset(&seen, 0, sizeof seen);
    CHECK_INT(spool_file_check(dir, number, last, 1 << 20, found, NULL, &out), 0);
    return out;
}

static void damage(uint64_t number, uint64_t at)
{
    char name[SPOOL_NAME_MAX], c = 0;
    int fd;

    spool_file_name(number, name);
    fd = openat(dir, name, O_RDWR);
    CHECK_INT(pread(fd, &c, 1, (off_t)at), 1);
    c = (char)(c ^ 0x55);
    CHECK_INT(pwrite(fd, &c, 1, (off_t)at), 1);
    close(fd);
}

static void a_torn_end_is_cut_off(void)
{
    uint64_t whole = make_segment(1, 3, CD_SPOOL_MAGIC "12345678\x40\0\0\0half", 20);
    struct spool_found f;

    CHECK_INT(size_of("0000000001.seg"), whole + 20);
    f = check(1, true);
    CHECK_INT(f.records, 3);
    CHECK_INT(f.size, whole);
    CHECK_INT(f.first_at, 1000);
    CHECK_STR(seen.keys[2], "k2");
    CHECK_INT(size_of("0000000001.seg"), whole);
    CHECK_INT(size_of("rejected"), 0);
}

static void room_that_was_allocated_is_no_damage(void)
{
    static const char zeros[5000];
    uint64_t whole = make_segment(2, 2, zeros, sizeof zeros);
    struct spool_found f = check(2, false);

    CHECK_INT(f.records, 2);
    CHECK_INT(f.size, whole);
    CHECK_INT(size_of("0000000002.seg"), whole + sizeof zeros);
    CHECK_INT(size_of("rejected"), 0);
}

static void a_damaged_record_is_set_aside(void)
{
    uint64_t whole = make_segment(3, 3, NULL, 0);
    uint64_t one = (whole - SPOOL_HEAD) / 3;
    struct spool_found f;

    damage(3, SPOOL_HEAD + one + one / 2);
    f = check(3, true);
    CHECK_INT(f.records, 2);
    CHECK_INT(f.size, whole - one);
    CHECK_STR(seen.keys[0], "k0");
    CHECK_STR(seen.keys[1], "k2");
    CHECK_INT(size_of("rejected"), SPOOL_HEAD + one);
    CHECK_INT(size_of("0000000003.seg"), whole - one);
    f = check(3, true); /* once: the file was mended */
    CHECK_INT(f.records, 2);
    CHECK_INT(size_of("rejected"), SPOOL_HEAD + one);
    unlinkat(dir, "rejected", 0);
}

static void a_damaged_length_costs_one_record(void)
{
    uint64_t whole = make_segment(4, 4, NULL, 0);
    uint64_t one = (whole - SPOOL_HEAD) / 4;
    struct spool_found f;

    damage(4, SPOOL_HEAD + one + 14); /* it now seems to go far beyond the file */
    f = check(4, true);
    CHECK_INT(f.records, 3);
    CHECK_STR(seen.keys[1], "k2");
    unlinkat(dir, "rejected", 0);
}

static void a_torn_end_in_the_middle_is_damage(void)
{
    uint64_t whole = make_segment(5, 1, CD_SPOOL_MAGIC "12345678\x40\0\0\0half", 20);
    struct spool_found f = check(5, false); /* there are later segments: it was finished once */

    CHECK_INT(f.records, 1);
    CHECK_INT(f.size, whole);
    CHECK_INT(size_of("rejected"), SPOOL_HEAD + 20);
    unlinkat(dir, "rejected", 0);
}

static void foreign_bytes_are_no_segment(void)
{
    int fd = openat(dir, "0000000006.seg", O_CREAT | O_WRONLY, 0600);
    struct spool_found f;

    CHECK_INT(write(fd, "something else", 14), 14);
    close(fd);
    f = check(6, true);
    CHECK_INT(f.records, 0);
}

static void segments_are_listed_in_order(void)
{
    uint64_t *numbers;
    size_t n;

    close(openat(dir, "notes.txt", O_CREAT | O_WRONLY, 0600));
    close(openat(dir, "00000000x1.seg", O_CREAT | O_WRONLY, 0600));
    CHECK_INT(spool_file_list(dir, &numbers, &n), 0);
    CHECK_INT(n, 6);
    for (size_t i = 0; i < n; i++)
        CHECK_INT(numbers[i], i + 1);
    free(numbers);
}

static void the_reserve_is_allocated_and_becomes_a_segment(void)
{
    struct stat st;
    int fd;

    CHECK_INT(spool_file_reserve(dir, 65536, 0), 0);
    CHECK(fstatat(dir, "reserve", &st, 0) == 0 && st.st_size == 65536 && st.st_blocks * 512 >= 65536);
    fd = spool_file_new(dir, 7, true);
    CHECK(fd >= 0);
    CHECK_INT(size_of("reserve"), 0);
    CHECK_INT(size_of("0000000007.seg"), 65536);
    close(fd);
    CHECK_INT(check(7, false).records, 0);
    CHECK(spool_file_new(dir, 8, true) < 0);
    CHECK_INT(errno, ENOENT);
    CHECK_INT(spool_file_reserve(dir, 65536, 65536), 0);
    CHECK_INT(size_of("reserve"), 65536);
}

static void rejected_has_an_end(void)
{
    char big[4000] = {0};

    CHECK_INT(spool_file_reject(dir, big, sizeof big, 5000), 0);
    CHECK_INT(spool_file_reject(dir, big, sizeof big, 5000), EFBIG);
    CHECK_INT(size_of("rejected"), SPOOL_HEAD + sizeof big);
}

static void clean_up(void)
{
    DIR *d = fdopendir(dir);
    const struct dirent *e;

    while (d && (e = readdir(d)))
        unlinkat(dir, e->d_name, 0);
    if (d)
        closedir(d);
    rmdir(folder);
}

int main(void)
{
    if (cd_secret_init() != 0)
        return 1;
    cd_log_setup(CD_LOG_ERROR + 1, 0); /* it complains, and should */
    snprintf(folder, sizeof folder, "/tmp/calld-spool-unit-XXXXXX");
    if (!mkdtemp(folder) || (dir = open(folder, O_RDONLY | O_DIRECTORY)) < 0)
        return 1;
    TAP_RUN(records_come_back);
    TAP_RUN(no_member_is_forgotten);
    TAP_RUN(only_what_lasts_is_kept);
    TAP_RUN(a_torn_end_is_cut_off);
    TAP_RUN(room_that_was_allocated_is_no_damage);
    TAP_RUN(a_damaged_record_is_set_aside);
    TAP_RUN(a_damaged_length_costs_one_record);
    TAP_RUN(a_torn_end_in_the_middle_is_damage);
    TAP_RUN(foreign_bytes_are_no_segment);
    TAP_RUN(segments_are_listed_in_order);
    TAP_RUN(the_reserve_is_allocated_and_becomes_a_segment);
    TAP_RUN(rejected_has_an_end);
    clean_up();
    return tap_done();
}

/* spool.c -- fuzzes the spool: bytes of a broken disk do no harm, a record that is read is written the same way again,
 * and a segment that was put right needs no second time.
 * Input: a byte of choices, then bytes as they are, the body of a record, or a segment (see a_segment). */
#include "store/spool_file.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "base/secret.h"
#include "fuzz.h"

#define ROOM (1u << 20)

/* As in pg.c, which needs a database. */
void pg_op_free(struct pg_op *op)
{
    cd_change_free(op->change);
    free(op->key);
    free(op->device);
    free(op->data);
    cd_members_free(op->members, op->n_members);
    free(op);
}

/* Of the memory store, which is only linked: nothing here waits. */
int cd_loop_defer(struct cd_loop *loop, void (*fn)(void *arg), void *arg)
{
    (void)loop;
    (void)fn;
    (void)arg;
    abort();
}

/* Answers ask for a timer only when they cannot be deferred, which does not happen here. */
int cd_timer_set(struct cd_loop *loop, struct cd_timer *t, int64_t delay_ms, void (*fn)(void *arg),
                 void *arg)
{
    (void)loop;
    (void)t;
    (void)delay_ms;
    (void)fn;
    (void)arg;
    abort();
}

void cd_timer_cancel(struct cd_loop *loop, struct cd_timer *t)
{
    (void)loop;
    (void)t;
}

/* What degraded mode relies on when it takes a record's call into memory. */
static void usable(const struct cd_spool_rec *rec)
{
    MUST(rec->op && cd_spool_rec_keeps(rec->op));
    if (rec->op->kind == PG_OP_CHANGE)
        MUST(rec->op->change && cd_change_check(rec->op->change));
    if (rec->row) {
        MUST(strcmp(rec->row->id, rec->op->change->call_id) == 0);
        MUST(rec->row->room_id && rec->row->caller);
        for (size_t i = 0; i < rec->row->n_participants; i++)
            MUST(rec->row->participants[i].user_id);
    }
}

static enum cd_spool_read read_once(struct cd_str s, struct cd_spool_rec *rec, size_t *used)
{
    char *exact = fuzz_text(s); /* so that reading behind it is noticed */
    enum cd_spool_read r = cd_spool_rec_read(exact, s.n, rec, used);

    free(exact);
    MUST((r == CD_SPOOL_REC) == (rec->op != NULL));
    MUST(r != CD_SPOOL_REC || *used <= s.n);
    MUST(r != CD_SPOOL_SHORT || *used > s.n);
    return r;
}

static void write_again(const struct cd_spool_rec *rec, struct cd_buf *out)
{
    cd_buf_init(out, ROOM);
    cd_spool_rec_write(out, rec->op, rec->row, rec->at);
    MUST(!out->failed);
}

/* Reading forgets what it does not know (unknown types, bits): so the second writing counts. */
static void stays_the_same(const struct cd_spool_rec *rec)
{
    struct cd_buf one, two;
    struct cd_spool_rec again;
    size_t used;

    write_again(rec, &one);
    MUST(read_once((struct cd_str){one.p, one.n}, &again, &used) == CD_SPOOL_REC && used == one.n);
    write_again(&again, &two);
    MUST(one.n == two.n && memcmp(one.p, two.p, one.n) == 0);
    cd_spool_rec_done(&again);
    cd_buf_done(&one);
    cd_buf_done(&two);
}

static void any_bytes(struct cd_str in)
{
    struct cd_spool_rec rec;
    size_t used;

    if (read_once(in, &rec, &used) == CD_SPOOL_REC) {
        usable(&rec);
        stays_the_same(&rec);
    }
    cd_spool_rec_done(&rec);
}

/* Magic, length and checksum as they should be around @p body. */
static void frame(struct cd_buf *b, struct cd_str body)
{
    uint8_t hashed[4 + 4096], sum[16];
    size_t n = body.n < 4096 ? body.n : 4096;

    for (size_t i = 0; i < 4; i++)
        hashed[i] = (uint8_t)(n >> (8 * i));
    if (n)
        memcpy(hashed + 4, body.p, n);
    cd_hash16((struct cd_str){(const char *)hashed, n + 4}, sum);
    cd_buf_add(b, CD_SPOOL_MAGIC, 4);
    cd_buf_add(b, sum, 8);
    cd_buf_add(b, hashed, n + 4);
}

static void a_body(struct cd_str in)
{
    struct cd_buf b;

    cd_buf_init(&b, ROOM);
    frame(&b, in);
    any_bytes((struct cd_str){b.p, b.n});
    cd_buf_done(&b);
}

static struct {
    size_t n;
    int64_t last_at;
} seen;

static void found(void *self, const struct cd_spool_rec *rec)
{
    (void)self;
    usable(rec);
    seen.n++;
    seen.last_at = rec->at;
}

/* A record of our own that is always good, so that a segment has something to lose. */
static void good_record(struct cd_buf *b, int64_t at)
{
    struct pg_op op = {.kind = PG_OP_TOKEN_DEL, .key = (char[]){"@a:x"}};

    cd_spool_rec_write(b, &op, NULL, at);
}

struct made {
    size_t good, at[4096]; /* where the good records begin */
};

/* Pieces of a length byte each: even, a good record (the length is its time); odd, so many bytes as they are. */
static void make_segment(struct cd_buf *b, struct cd_str in, struct made *made)
{
    made->good = 0;

    while (in.n) {
        unsigned what = fuzz_byte(&in);
        size_t n = what >> 1 < in.n ? what >> 1 : in.n;

        if (what & 1) {
            cd_buf_add(b, in.p, n);
            in.p += n;
            in.n -= n;
        } else {
            MUST(made->good < sizeof made->at / sizeof made->at[0]);
            made->at[made->good++] = b->n;
            good_record(b, (int64_t)what);
        }
    }
}

/* libFuzzer sees the checksum that a comparison wants, and writes it: then bytes of its own are a record, which may
 * reach into a good one. No disk does that by accident. */
static bool has_forged(const struct cd_buf *b, const struct made *made)
{
    size_t next = 0, used;

    for (size_t at = 0; at < b->n; at++) {
        struct cd_spool_rec rec;
        enum cd_spool_read r;

        if (next < made->good && made->at[next] == at) {
            next++;
            continue;
        }
        r = cd_spool_rec_read(b->p + at, b->n - at, &rec, &used);
        cd_spool_rec_done(&rec);
        if (r == CD_SPOOL_REC || r == CD_SPOOL_UNREAD)
            return true;
    }
    return false;
}

static void check(int dir, bool last, struct spool_found *out)
{
    memset(&seen, 0, sizeof seen);
    MUST(spool_file_check(dir, 7, last, ROOM, found, NULL, out) == 0);
    MUST(seen.n == out->records);
}

static void a_segment(struct cd_str in, bool last)
{
    char path[] = "/dev/shm/calld-fuzz-XXXXXX";
    struct spool_found one, two;
    static struct made made;
    struct cd_buf b;
    int dir, fd;

    MUST(mkdtemp(path) && (dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) >= 0);
    MUST((fd = spool_file_new(dir, 7, false)) >= 0);
    cd_buf_init(&b, ROOM);
    make_segment(&b, in, &made);
    MUST(b.n == 0 || pwrite(fd, b.p, b.n, SPOOL_HEAD) == (ssize_t)b.n);
    check(dir, last, &one);
    MUST(one.records >= made.good || has_forged(&b, &made)); /* whatever stands between them */
    check(dir, true, &two);
    MUST(two.records == one.records && two.size == one.size && two.first_at == one.first_at);
    cd_buf_done(&b);
    close(fd);
    (void)unlinkat(dir, "0000000007.seg", 0);
    (void)unlinkat(dir, "rejected", 0);
    close(dir);
    MUST(rmdir(path) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct cd_str in = {(const char *)data, n};
    unsigned how = fuzz_byte(&in);
    static bool ready;

    if (!ready) {
        MUST(cd_secret_init() == 0);
        cd_log_setup(CD_LOG_ERROR + 1, 0); /* damage is what this is about */
        ready = true;
    }
    if (how % 8 == 0)
        a_segment(in, how & 8);
    else if (how & 1)
        a_body(in);
    else
        any_bytes(in);
    return 0;
}

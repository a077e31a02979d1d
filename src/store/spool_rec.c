/* spool_rec.c -- one operation as bytes that outlive the process; the format stands in spool_rec.h.
 * In: ops, bytes. Out: bytes, ops. Why: our own format has no parser to be surprised by, and a checksum
 * tells what a crash or a disk did to it. State: none. Blocks: never. */
#include "store/spool_rec.h"

#include <stdlib.h>
#include <string.h>

#include "base/secret.h"

#define FORMAT 1

enum flags {
    F_TRANSITION = 1,
    F_ROW = 2,
    F_DROP_DROPPABLE = 4,
    F_DROP_ALL = 8,
    F_DROP_SIGNALS = 16,
    F_IDEM = 32
};

/* --- writing ---------------------------------------------------------------------------------- */

static void put_int(struct cd_buf *b, uint64_t v, size_t bytes)
{
    uint8_t le[8];

    for (size_t i = 0; i < 8; i++)
        le[i] = (uint8_t)(v >> (8 * i));
    cd_buf_add(b, le, bytes);
}

static void put_u8(struct cd_buf *b, uint64_t v)
{
    put_int(b, v, 1);
}

static void put_i64(struct cd_buf *b, int64_t v)
{
    put_int(b, (uint64_t)v, 8);
}

static void put_bytes(struct cd_buf *b, const void *p, size_t n)
{
    put_int(b, p ? n + 1 : 0, 4);
    if (p)
        cd_buf_add(b, p, n);
}

static void put_text(struct cd_buf *b, const char *s)
{
    put_bytes(b, s, s ? strlen(s) : 0);
}

static void put_participant(struct cd_buf *b, const struct cd_participant *p)
{
    put_text(b, p->user_id);
    put_text(b, p->display_name);
    put_text(b, p->avatar_url);
    put_text(b, p->party_id);
    put_text(b, p->device_id);
    put_text(b, p->leave_reason);
    put_u8(b, p->state);
    put_u8(b, p->side);
    put_u8(b, p->audio_enabled | p->video_enabled << 1 | p->screen_sharing << 2);
    put_i64(b, p->joined_at);
    put_i64(b, p->left_at);
}

static void put_call(struct cd_buf *b, const struct cd_call *c)
{
    put_text(b, c->id);
    put_text(b, c->room_id);
    put_text(b, c->matrix_call_id);
    put_text(b, c->caller);
    put_text(b, c->callee);
    put_text(b, c->ended_by);
    put_u8(b, c->kind);
    put_u8(b, c->media);
    put_u8(b, c->origin);
    put_u8(b, c->type);
    put_u8(b, c->status);
    put_u8(b, c->end_reason);
    put_u8(b, c->mx_state);
    put_u8(b, (uint64_t)c->mx_version);
    put_u8(b, (uint64_t)(c->foreign | c->answer_provisional << 1 | c->invite_tried << 2 |
                         c->connected_inferred << 3));
    put_i64(b, c->initiated_at);
    put_i64(b, c->accepted_at);
    put_i64(b, c->connected_at);
    put_i64(b, c->ended_at);
    put_i64(b, c->ring_expires_at);
    put_int(b, c->ring_seconds, 4);
    put_int(b, c->version, 8);
    put_int(b, c->seq, 8);
    put_u8(b, c->n_participants);
    for (size_t i = 0; i < c->n_participants; i++)
        put_participant(b, &c->participants[i]);
}

static void put_event(struct cd_buf *b, const struct cd_event_row *r)
{
    put_int(b, r->seq, 8);
    put_text(b, r->type);
    put_text(b, r->user_id);
    put_text(b, r->data);
    put_i64(b, r->at);
    put_bytes(b, r->has_mx_hash ? r->mx_hash : NULL, sizeof r->mx_hash);
}

static void put_outbox(struct cd_buf *b, const struct cd_outbox_row *r)
{
    put_text(b, r->txn_id);
    put_text(b, r->call_id);
    put_text(b, r->room_id);
    put_text(b, r->user_id);
    put_text(b, r->event_type);
    put_text(b, r->content);
    put_int(b, (uint64_t)(int64_t)r->rank, 4);
    put_i64(b, r->ord);
    put_i64(b, r->created_at);
    put_i64(b, r->not_before);
    put_i64(b, r->deadline);
    put_u8(b, r->tried);
    put_int(b, (uint64_t)(int64_t)r->attempts, 4);
}

static void put_signal(struct cd_buf *b, const struct cd_signal_row *r)
{
    put_int(b, r->seq, 8);
    put_text(b, r->kind);
    put_text(b, r->from_user);
    put_text(b, r->from_party);
    put_text(b, r->to);
    put_text(b, r->payload);
}

static void put_idem(struct cd_buf *b, const struct cd_idem_row *r)
{
    put_text(b, r->user_id);
    put_text(b, r->key);
    cd_buf_add(b, r->request_hash, sizeof r->request_hash);
    put_int(b, (uint64_t)(int64_t)r->status, 4);
    put_text(b, r->response);
    put_text(b, r->call_id);
    put_i64(b, r->at);
}

static void put_change(struct cd_buf *b, const struct cd_change *ch, const struct cd_call *row)
{
    const struct cd_call *c = ch->call ? ch->call : row;

    put_u8(b, (uint64_t)((ch->call ? F_TRANSITION : 0) | (c ? F_ROW : 0) |
                         (ch->drop_untried_droppable ? F_DROP_DROPPABLE : 0) |
                         (ch->drop_untried_all ? F_DROP_ALL : 0) |
                         (ch->drop_signals ? F_DROP_SIGNALS : 0) | (ch->idem ? F_IDEM : 0)));
    put_int(b, ch->expect_version, 8);
    put_text(b, ch->call_id);
    if (c)
        put_call(b, c);
    put_u8(b, ch->n_events);
    for (size_t i = 0; i < ch->n_events; i++)
        put_event(b, &ch->events[i]);
    put_u8(b, ch->n_outbox);
    for (size_t i = 0; i < ch->n_outbox; i++)
        put_outbox(b, &ch->outbox[i]);
    put_u8(b, ch->n_signals);
    for (size_t i = 0; i < ch->n_signals; i++)
        put_signal(b, &ch->signals[i]);
    if (ch->idem)
        put_idem(b, ch->idem);
}

static void put_members(struct cd_buf *b, const struct pg_op *op)
{
    put_int(b, op->n_members, 2);
    for (size_t i = 0; i < op->n_members; i++) {
        const struct cd_member_row *m = &op->members[i];

        put_text(b, m->room_id);
        put_text(b, m->user_id);
        put_u8(b, m->joined);
        put_text(b, m->display_name);
        put_text(b, m->avatar_url);
    }
}

bool cd_spool_rec_keeps(const struct pg_op *op)
{
    switch (op->kind) {
    case PG_OP_CHANGE:
    case PG_OP_TRIED:
    case PG_OP_DONE:
    case PG_OP_TOKEN_PUT:
    case PG_OP_TOKEN_DEL:
    case PG_OP_SEEN:
    case PG_OP_QUARANTINE:
        return true;
    case PG_OP_MEMBERS:
        return op->n_members <= UINT16_MAX;
    case PG_OP_PURGE:
    case PG_OP_FLUSH:
    case PG_OP_CLAIM:
    case PG_OP_PEERS:
    case PG_OP_LEAVE:
        break;
    }
    return false;
}

static void checksum(const uint8_t *length_and_body, size_t n, uint8_t out[8])
{
    uint8_t sum[16];

    cd_hash16((struct cd_str){(const char *)length_and_body, n}, sum);
    memcpy(out, sum, 8);
}

void cd_spool_rec_write(struct cd_buf *b, const struct pg_op *op, const struct cd_call *row, int64_t at)
{
    uint8_t sum[8] = {0}, length[4];
    size_t from = b->n, n;

    cd_buf_add(b, CD_SPOOL_MAGIC, 4);
    cd_buf_add(b, sum, 8);
    cd_buf_add(b, sum, 4);
    put_u8(b, FORMAT);
    put_u8(b, op->kind);
    put_i64(b, at);
    if (op->kind == PG_OP_CHANGE) {
        put_change(b, op->change, row);
    } else if (op->kind == PG_OP_MEMBERS) {
        put_members(b, op);
    } else {
        put_text(b, op->key);
        put_text(b, op->device);
        put_int(b, (uint64_t)(int64_t)op->number, 4);
        put_bytes(b, op->data, op->n_data);
    }
    if (b->failed)
        return;
    /* the checksum covers the length, so it stands right before the body while it is made */
    n = b->n - from - CD_SPOOL_REC_HEAD;
    for (size_t i = 0; i < 4; i++)
        length[i] = (uint8_t)(n >> (8 * i));
    memcpy(b->p + from + 12, length, 4);
    checksum((const uint8_t *)b->p + from + 12, n + 4, sum);
    memcpy(b->p + from + 4, sum, 8);
}

/* --- reading ---------------------------------------------------------------------------------- */

/* Sticky: once something is wrong everything reads as nothing. */
struct in {
    const uint8_t *p;
    size_t n;
    bool bad;
    bool starved; /* bad for want of memory alone */
};

static void starve(struct in *in)
{
    in->starved = in->starved || !in->bad;
    in->bad = true;
}

static uint64_t get_int(struct in *in, size_t bytes)
{
    uint64_t v = 0;

    if (in->bad || in->n < bytes) {
        in->bad = true;
        return 0;
    }
    for (size_t i = 0; i < bytes; i++)
        v |= (uint64_t)in->p[i] << (8 * i);
    in->p += bytes;
    in->n -= bytes;
    return v;
}

static int64_t get_i64(struct in *in)
{
    return (int64_t)get_int(in, 8);
}

static int get_i32(struct in *in)
{
    return (int)(int32_t)(uint32_t)get_int(in, 4);
}

/* An enum of @p count values. */
static int get_enum(struct in *in, int count)
{
    int v = (int)get_int(in, 1);

    in->bad |= v >= count;
    return in->bad ? 0 : v;
}

static void get_bytes(struct in *in, uint8_t **out, size_t *n)
{
    size_t len = get_int(in, 4);

    *out = NULL;
    *n = 0;
    if (in->bad || len == 0)
        return;
    len--;
    if (len > in->n) {
        in->bad = true;
        return;
    }
    *out = malloc(len + 1);
    if (!*out) {
        starve(in);
        return;
    }
    memcpy(*out, in->p, len);
    (*out)[len] = '\0';
    *n = len;
    in->p += len;
    in->n -= len;
}

static void get_text(struct in *in, char **out)
{
    uint8_t *p;
    size_t n;

    get_bytes(in, &p, &n);
    in->bad |= p && memchr(p, '\0', n);
    *out = (char *)p;
}

static void get_call_id(struct in *in, char out[CD_CALL_ID_LEN + 1])
{
    char *s;

    get_text(in, &s);
    if (!s || strlen(s) > CD_CALL_ID_LEN)
        in->bad = true;
    else
        memcpy(out, s, strlen(s) + 1);
    free(s);
}

static void get_hash(struct in *in, uint8_t out[16])
{
    for (size_t i = 0; i < 16; i++)
        out[i] = (uint8_t)get_int(in, 1);
}

static void get_participant(struct in *in, struct cd_participant *p)
{
    unsigned flags;

    get_text(in, &p->user_id);
    get_text(in, &p->display_name);
    get_text(in, &p->avatar_url);
    get_text(in, &p->party_id);
    get_text(in, &p->device_id);
    get_text(in, &p->leave_reason);
    p->state = (enum cd_pstate)get_enum(in, CD_P_BUSY + 1);
    p->side = (enum cd_side)get_enum(in, CD_SIDE_MATRIX + 1);
    flags = (unsigned)get_int(in, 1);
    p->audio_enabled = flags & 1;
    p->video_enabled = flags >> 1 & 1;
    p->screen_sharing = flags >> 2 & 1;
    p->joined_at = get_i64(in);
    p->left_at = get_i64(in);
}

static struct cd_call *get_call(struct in *in)
{
    struct cd_call *c = cd_call_new();
    unsigned flags;

    if (!c) {
        starve(in);
        return NULL;
    }
    get_call_id(in, c->id);
    get_text(in, &c->room_id);
    get_text(in, &c->matrix_call_id);
    get_text(in, &c->caller);
    get_text(in, &c->callee);
    get_text(in, &c->ended_by);
    c->kind = (enum cd_kind)get_enum(in, CD_GROUP + 1);
    c->media = (enum cd_media)get_enum(in, CD_SFU + 1);
    c->origin = (enum cd_origin)get_enum(in, CD_O_RTC + 1);
    c->type = (enum cd_type)get_enum(in, CD_VIDEO + 1);
    c->status = (enum cd_status)get_enum(in, CD_STATUS_COUNT);
    c->end_reason = (enum cd_reason)get_enum(in, CD_REASON_COUNT);
    c->mx_state = (enum cd_mx_state)get_enum(in, CD_MX_FAILED + 1);
    c->mx_version = get_enum(in, 2);
    flags = (unsigned)get_int(in, 1);
    c->foreign = flags & 1;
    c->answer_provisional = flags >> 1 & 1;
    c->invite_tried = flags >> 2 & 1;
    c->connected_inferred = flags >> 3 & 1;
    c->initiated_at = get_i64(in);
    c->accepted_at = get_i64(in);
    c->connected_at = get_i64(in);
    c->ended_at = get_i64(in);
    c->ring_expires_at = get_i64(in);
    c->ring_seconds = (unsigned)get_int(in, 4);
    c->version = get_int(in, 8);
    c->seq = get_int(in, 8);
    size_t n = (size_t)get_enum(in, CD_MAX_PARTICIPANTS + 1);
    while (!in->bad && c->n_participants < n)
        get_participant(in, &c->participants[c->n_participants++]);
    return c;
}

static void get_event(struct in *in, struct cd_event_row *r)
{
    uint8_t *hash;
    char *type;
    size_t n;

    r->seq = get_int(in, 8);
    get_text(in, &type);
    r->type = type ? cd_event_type_intern(type) : "other";
    free(type);
    get_text(in, &r->user_id);
    get_text(in, &r->data);
    r->at = get_i64(in);
    get_bytes(in, &hash, &n);
    in->bad |= hash && n != sizeof r->mx_hash;
    if (hash && !in->bad) {
        r->has_mx_hash = true;
        memcpy(r->mx_hash, hash, sizeof r->mx_hash);
    }
    free(hash);
}

static void get_outbox(struct in *in, struct cd_outbox_row *r)
{
    get_text(in, &r->txn_id);
    get_call_id(in, r->call_id);
    get_text(in, &r->room_id);
    get_text(in, &r->user_id);
    get_text(in, &r->event_type);
    get_text(in, &r->content);
    r->rank = get_i32(in);
    r->ord = get_i64(in);
    r->created_at = get_i64(in);
    r->not_before = get_i64(in);
    r->deadline = get_i64(in);
    r->tried = get_enum(in, 2) != 0;
    r->attempts = get_i32(in);
}

static void get_signal(struct in *in, struct cd_signal_row *r)
{
    r->seq = get_int(in, 8);
    get_text(in, &r->kind);
    get_text(in, &r->from_user);
    get_text(in, &r->from_party);
    get_text(in, &r->to);
    get_text(in, &r->payload);
}

static void get_idem(struct in *in, struct cd_change *ch)
{
    struct cd_idem_row *r = calloc(1, sizeof *r);

    if (!r) {
        starve(in);
        return;
    }
    ch->idem = r;
    get_text(in, &r->user_id);
    get_text(in, &r->key);
    get_hash(in, r->request_hash);
    r->status = get_i32(in);
    get_text(in, &r->response);
    get_call_id(in, r->call_id);
    r->at = get_i64(in);
}

static void get_change(struct in *in, struct cd_spool_rec *out)
{
    struct cd_change *ch = out->op->change = cd_change_new(NULL);
    unsigned flags = (unsigned)get_int(in, 1);
    size_t n;

    if (!ch) {
        starve(in);
        return;
    }
    ch->expect_version = get_int(in, 8);
    get_call_id(in, ch->call_id);
    if (flags & F_ROW)
        out->row = get_call(in);
    ch->call = out->row; /* for cd_change_check, transition or not: degraded mode takes it into memory */
    n = (size_t)get_enum(in, CD_CHANGE_EVENTS + 1);
    while (!in->bad && ch->n_events < n)
        get_event(in, &ch->events[ch->n_events++]);
    n = (size_t)get_enum(in, CD_CHANGE_OUTBOX + 1);
    while (!in->bad && ch->n_outbox < n)
        get_outbox(in, &ch->outbox[ch->n_outbox++]);
    n = (size_t)get_enum(in, CD_CHANGE_SIGNALS + 1);
    while (!in->bad && ch->n_signals < n)
        get_signal(in, &ch->signals[ch->n_signals++]);
    if (flags & F_IDEM)
        get_idem(in, ch);
    ch->drop_untried_droppable = flags & F_DROP_DROPPABLE;
    ch->drop_untried_all = flags & F_DROP_ALL;
    ch->drop_signals = flags & F_DROP_SIGNALS;
    in->bad |= (flags & F_TRANSITION && !out->row) || !cd_change_check(ch);
    if (!(flags & F_TRANSITION))
        ch->call = NULL;
}

static void get_members(struct in *in, struct pg_op *op)
{
    size_t n = get_int(in, 2);

    if (in->bad)
        return;
    op->members = calloc(n + 1, sizeof *op->members);
    if (!op->members)
        starve(in);
    while (!in->bad && op->n_members < n) {
        struct cd_member_row *m = &op->members[op->n_members++];

        get_text(in, &m->room_id);
        get_text(in, &m->user_id);
        m->joined = get_enum(in, 2) != 0;
        get_text(in, &m->display_name);
        get_text(in, &m->avatar_url);
        in->bad |= !m->room_id || !m->user_id;
    }
}

static void get_small(struct in *in, struct pg_op *op)
{
    get_text(in, &op->key);
    get_text(in, &op->device);
    op->number = get_i32(in);
    get_bytes(in, &op->data, &op->n_data);
    if (op->kind == PG_OP_SEEN)
        in->bad |= !op->data || op->n_data != 16;
    else
        in->bad |= !op->key || ((op->kind == PG_OP_TOKEN_PUT || op->kind == PG_OP_QUARANTINE) && !op->data);
    in->bad |= op->kind == PG_OP_TOKEN_PUT && !op->device;
}

/* @return false: it makes no sense, though its checksum is right, or there was no memory */
static bool get_body(struct in *in, struct cd_spool_rec *out)
{
    in->bad = get_int(in, 1) != FORMAT;
    out->op->kind = (enum pg_op_kind)get_enum(in, PG_OP_FLUSH + 1);
    out->at = get_i64(in);
    if (in->bad)
        return false;
    switch (out->op->kind) {
    case PG_OP_CHANGE:
        get_change(in, out);
        break;
    case PG_OP_MEMBERS:
        get_members(in, out->op);
        break;
    case PG_OP_TRIED:
    case PG_OP_DONE:
    case PG_OP_TOKEN_PUT:
    case PG_OP_TOKEN_DEL:
    case PG_OP_SEEN:
    case PG_OP_QUARANTINE:
        get_small(in, out->op);
        break;
    case PG_OP_PURGE:
    case PG_OP_FLUSH:
    case PG_OP_CLAIM:
    case PG_OP_PEERS:
    case PG_OP_LEAVE:
        return false;
    }
    return !in->bad && in->n == 0;
}

static bool all_zero(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i])
            return false;
    return true;
}

enum cd_spool_read cd_spool_rec_read(const void *bytes, size_t n, struct cd_spool_rec *out, size_t *used)
{
    const uint8_t *p = bytes;
    struct in in;
    uint8_t sum[8];
    size_t len;

    memset(out, 0, sizeof *out);
    *used = CD_SPOOL_REC_HEAD;
    if (all_zero(p, n < CD_SPOOL_REC_HEAD ? n : CD_SPOOL_REC_HEAD))
        return CD_SPOOL_END;
    if (n >= 4 && memcmp(p, CD_SPOOL_MAGIC, 4) != 0)
        return CD_SPOOL_BAD;
    if (n < CD_SPOOL_REC_HEAD)
        return CD_SPOOL_SHORT;
    in = (struct in){.p = p + 12, .n = 4};
    len = get_int(&in, 4);
    if (len > CD_SPOOL_REC_MAX)
        return CD_SPOOL_BAD;
    *used = CD_SPOOL_REC_HEAD + len;
    if (n < *used)
        return CD_SPOOL_SHORT;
    checksum(p + 12, len + 4, sum);
    if (memcmp(sum, p + 4, 8) != 0)
        return CD_SPOOL_BAD;
    in = (struct in){.p = p + CD_SPOOL_REC_HEAD, .n = len};
    out->op = calloc(1, sizeof *out->op);
    if (!out->op)
        starve(&in);
    else if (get_body(&in, out)) {
        out->op->bytes = len;
        return CD_SPOOL_REC;
    }
    cd_spool_rec_done(out);
    return in.starved ? CD_SPOOL_STARVED : CD_SPOOL_UNREAD;
}

void cd_spool_rec_done(struct cd_spool_rec *r)
{
    if (r->op)
        pg_op_free(r->op);
    cd_call_free(r->row);
    memset(r, 0, sizeof *r);
}

/* spool_rec.h -- one operation as bytes that outlive the process.
 *
 * A record is  magic (4 bytes) | length of the body (u32) | checksum (8 bytes) | body.  All numbers are
 * little endian. The checksum is the beginning of BLAKE2b over length and body. The body is
 *   version of the format (u8, now 1), kind (u8), wall time in ms (i64), then what the kind has:
 *   change: flags (u8), expected version (u64), call id, [call], events, outbox rows, signals, [idempotency row]
 *   tried, done: transaction id, attempts; token: user, device, sealed bytes; members: rows;
 *   seen: hash; quarantine: reason, size, bytes.
 * A text is its length + 1 (u32, 0: none) and its bytes; a list its count (u8 or u16) and its elements. A
 * change without a transition carries the call's row all the same, when it is known: after a restart
 * without a database this row is all that tells of the call. */
#ifndef CD_STORE_SPOOL_REC_H
#define CD_STORE_SPOOL_REC_H

#include "base/buf.h"
#include "store/pg.h"

#define CD_SPOOL_REC_HEAD 16
#define CD_SPOOL_REC_MAX (24u << 20) /* bytes of a body */
#define CD_SPOOL_MAGIC "\xC5\xD5R1"

/** A record that was read. Owns both. */
struct cd_spool_rec {
    struct pg_op *op;     /* without receivers; its change's call is `row` or NULL */
    struct cd_call *row;  /* of the call that a change belongs to; NULL: not known */
    int64_t at;           /* wall ms */
};

enum cd_spool_read {
    CD_SPOOL_REC,   /* one record */
    CD_SPOOL_END,   /* nothing but zeros, or nothing */
    CD_SPOOL_SHORT, /* the record goes beyond these bytes */
    CD_SPOOL_STARVED, /* whole, but there is no memory for it now */
    CD_SPOOL_UNREAD, /* whole, but of another version */
    CD_SPOOL_BAD     /* neither magic nor sense */
};

/** Can @p op be kept in a spool? Housekeeping of the database is not. */
bool cd_spool_rec_keeps(const struct pg_op *op);
/** Append @p op. @param row  the call's row for a change without a transition; may be NULL */
void cd_spool_rec_write(struct cd_buf *b, const struct pg_op *op, const struct cd_call *row, int64_t at);
/** Read the record at @p p. @param used  its bytes, for CD_SPOOL_REC; for CD_SPOOL_SHORT those it needs */
enum cd_spool_read cd_spool_rec_read(const void *p, size_t n, struct cd_spool_rec *out, size_t *used);
void cd_spool_rec_done(struct cd_spool_rec *r);

#endif

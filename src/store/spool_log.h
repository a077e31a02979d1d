/* spool_log.h -- the spool's files: append with group commit, read in order, remove.
 *
 * The directory holds segments NNNNNNNNNN.seg, numbered in the order of writing. A segment is a head of
 * 16 bytes ("CDSPOOL", version 1 as a byte, its number as u64, little endian) and records (spool_rec.h);
 * zeros behind them are room that was allocated and not used. `reserve` is an allocated file that becomes
 * a segment when the disk takes no more; `rejected` has the form of a segment and keeps what the database
 * refuses, or what a disk has damaged. All file work but the opening is done on a thread of its own. */
#ifndef CD_STORE_SPOOL_LOG_H
#define CD_STORE_SPOOL_LOG_H

#include "store/spool_rec.h"

struct spool_log;

/** Who may still write when room gets short. */
enum spool_class {
    SPOOL_NEW,     /* begins something */
    SPOOL_RUNNING, /* moves on what runs */
    SPOOL_FINAL    /* ends it: the reserve is for these */
};

/** All called on the loop, with the log's owner. */
struct spool_log_ops {
    /** @p op (taken over) is on disk, or (CD_STORE_FULL) found no room there. May close the log. */
    void (*written)(void *self, struct pg_op *op, enum cd_store_rc rc);
    /** All of a batch was told, the log has more to read, or room again. */
    void (*settled)(void *self);
    /** What spool_log_next asked for; borrowed for the call. @p p NULL: it could not be read */
    void (*chunk)(void *self, const uint8_t *p, size_t n);
    /** While opening: a record that was found, in order. Borrowed for the call. */
    void (*found)(void *self, const struct cd_spool_rec *rec);
};

struct spool_log_conf {
    int dir;          /* of the directory; borrowed */
    uint64_t max_bytes;
};

struct spool_log_stats {
    uint64_t bytes, records; /* not yet replayed */
    int64_t oldest_at;       /* wall ms of the oldest record, 0: none */
};

/** Blocks: reads all there is. Torn ends are cut off, damaged records go to `rejected`, each with a line
 * in the log. @return NULL with @p err */
struct spool_log *spool_log_open(struct cd_loop *loop, const struct spool_log_conf *conf,
                                 const struct spool_log_ops *ops, void *self, struct cd_err *err);
/** Wait for what is being written, drop the receivers of the rest. */
void spool_log_close(struct spool_log *l);

/** Is there room for @p bytes more of that class? */
bool spool_log_room(const struct spool_log *l, enum spool_class cls, size_t bytes);
/** Append a record, or nothing (@p rec NULL) to be told when all before it is written.
 * @return false out of memory; else @p op is taken over and told by `written`, never within this call */
bool spool_log_add(struct spool_log *l, enum spool_class cls, struct pg_op *op, const struct cd_buf *rec);
/** Something is being written. */
bool spool_log_busy(const struct spool_log *l);

/** Ask for the oldest records that are on disk: whole ones, at least one. `chunk` follows.
 * @return false: there is none, or no memory */
bool spool_log_next(struct spool_log *l);
/** So much of the last chunk is done with; files that are done with are removed. */
void spool_log_advance(struct spool_log *l, size_t bytes, size_t records);
/** Keep a record that nobody can use any more in `rejected`. */
void spool_log_reject(struct spool_log *l, const void *rec, size_t n);
/** The disk refused something: look from time to time whether it takes more. */
void spool_log_probe(struct spool_log *l);
void spool_log_stats(const struct spool_log *l, struct spool_log_stats *out);

#endif

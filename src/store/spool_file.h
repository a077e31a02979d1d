/* spool_file.h -- the blocking half of the spool's files; see spool_log.h. */
#ifndef CD_STORE_SPOOL_FILE_H
#define CD_STORE_SPOOL_FILE_H

#include "store/spool_rec.h"

#define SPOOL_HEAD 16
#define SPOOL_NAME_MAX 24

/** "0000000012.seg" */
void spool_file_name(uint64_t number, char out[SPOOL_NAME_MAX]);
/** @return an open, new segment with its head, or -1 with errno
 * @param from_reserve  make it of the reserve */
int spool_file_new(int dir, uint64_t number, bool from_reserve);
/** Write at @p at and sync; on failure cut back to @p at. @return 0 or errno */
int spool_file_write(int fd, uint64_t at, const void *p, size_t n);
/** @return 0 or errno */
int spool_file_read(int dir, uint64_t number, uint64_t at, void *p, size_t n);
/** (Re)make the reserve. @param extra  bytes that must be free besides. @return 0 or errno */
int spool_file_reserve(int dir, uint64_t bytes, uint64_t extra);
/** Append to `rejected`, which grows to @p max bytes. @return 0 or errno */
int spool_file_reject(int dir, const void *p, size_t n, uint64_t max);

/** What opening found of one segment. */
struct spool_found {
    uint64_t size, records; /* whole records, the head included */
    int64_t first_at;
};
/** Numbers of the segments there, ascending. @param out  to be freed. @return 0 or errno */
int spool_file_list(int dir, uint64_t **out, size_t *n);
/** Where behind the damage at @p p does the next whole record begin?
 * @param goes_on  more follows these bytes: a record that they hold only the beginning of counts, too
 * @return at most @p n: nowhere */
size_t spool_file_next(const uint8_t *p, size_t n, bool goes_on);
/** Read and check a segment, make it whole: see spool_log_open().
 * @param last  a torn end is expected here. @return 0 or errno */
int spool_file_check(int dir, uint64_t number, bool last, uint64_t max_rejected,
                     void (*found)(void *self, const struct cd_spool_rec *rec), void *self,
                     struct spool_found *out);

#endif

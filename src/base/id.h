/* id.h -- identifiers. */
#ifndef CD_BASE_ID_H
#define CD_BASE_ID_H

#include <stddef.h>
#include <stdint.h>

#define CD_CALL_ID_LEN 33  /* 'z' + 32 hex digits */
#define CD_PARTY_ID_LEN 16 /* letters and digits */

/** Call id: `z` and the 32 hex digits of a UUIDv7 (RFC 9562), so ids sort by time and ours sort
 * after every client's in a glare.
 * @param wall_ms  time to stamp; @param out  CD_CALL_ID_LEN + 1 bytes */
void cd_id_call(int64_t wall_ms, char *out);
/** Random letters and digits. @param n  characters; @param out  n + 1 bytes */
void cd_id_alnum(size_t n, char *out);
/** Random bytes as base64url without padding: @p nbytes must be a multiple of 3. */
void cd_id_base64url(size_t nbytes, char *out, size_t out_size);

#endif

/* scan.h -- a validating, zero-copy JSON scanner for the relay path and transactions.
 * It checks grammar and UTF-8 and finds members; it builds nothing. */
#ifndef CD_BASE_SCAN_H
#define CD_BASE_SCAN_H

#include <stdbool.h>
#include <stddef.h>

#include "base/str.h"

enum cd_json_kind {
    CD_JSON_BAD = 0,
    CD_JSON_OBJECT,
    CD_JSON_ARRAY,
    CD_JSON_STRING,
    CD_JSON_NUMBER,
    CD_JSON_TRUE,
    CD_JSON_FALSE,
    CD_JSON_NULL
};

/** One whole JSON text: valid grammar (RFC 8259), valid UTF-8, depth <= @p max_depth, nothing after
 * it. */
bool cd_json_valid(struct cd_str text, unsigned max_depth);

/** Length of the one value at the start of @p text (after white space), 0 when it is not valid.
 * @param out_start  where the value starts within text */
size_t cd_json_value(struct cd_str text, unsigned max_depth, size_t *out_start);

/** A member of the outermost object that cd_json_pick reports. */
struct cd_json_pick {
    struct cd_str name;
};
#define CD_PICK(literal) {{(literal), sizeof(literal) - 1}}
/** As cd_json_value, and remember the named members of the outermost object in the same pass (the
 * last one wins). A value that is no object has none; an array is refused.
 * @param found  one view a pick, {NULL, 0} when absent; meaningful only when the result is not 0 */
size_t cd_json_pick(struct cd_str text, unsigned max_depth, const struct cd_json_pick *picks,
                    size_t n_picks, struct cd_str *found, size_t *out_start);

/** The same for a VALIDATED object, stepping over values by brackets and quotes alone. */
void cd_json_pick_valid(struct cd_str object, const struct cd_json_pick *picks, size_t n_picks,
                        struct cd_str *found);

/** Index of the pick that a raw key names, its escapes resolved; n_picks when there is none. */
size_t cd_json_pick_index(struct cd_str key, const struct cd_json_pick *picks, size_t n_picks);

/** Length of the value at the start of @p text by brackets and quotes alone, for stepping over what
 * cd_json_value refuses (any depth, control characters, broken UTF-8). 0: they do not end. */
size_t cd_json_split(struct cd_str text, size_t *out_start);

enum cd_json_kind cd_json_kind(struct cd_str value);
/** Valid, and an object? */
bool cd_json_is_object(struct cd_str text, unsigned max_depth);

/** Walk the members of a VALIDATED object. *pos starts at 0.
 * @param key    raw text between the quotes (escapes not resolved)
 * @param value  raw value text
 * @return false at the end */
bool cd_json_member(struct cd_str object, size_t *pos, struct cd_str *key, struct cd_str *value);
/** Walk the elements of a VALIDATED array. */
bool cd_json_element(struct cd_str array, size_t *pos, struct cd_str *value);
/** Is this raw key, its escapes resolved, that name? */
bool cd_json_key_is(struct cd_str key, const char *name);
/** Find a member by its plain name in a VALIDATED object (the last one wins, as in JavaScript). */
bool cd_json_find(struct cd_str object, const char *name, struct cd_str *value);

/** Decode a JSON string value (with quotes) to UTF-8, NUL-terminated.
 * @return length, or -1: not a string, does not fit, lone surrogate, or holds U+0000 */
long cd_json_text(struct cd_str value, char *out, size_t out_size);
/** Integer value (also written as 1.0 or 1e3). @return false when it is none or does not fit */
bool cd_json_int(struct cd_str value, long long *out);

#endif

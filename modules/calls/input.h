/* input.h -- reads the members of a request, REST and socket alike, with one kind of error text. */
#ifndef CD_CALLS_INPUT_H
#define CD_CALLS_INPUT_H

#include "base/err.h"
#include "base/scan.h"
#include "base/str.h"

/** A validated JSON object and the first thing found wrong with it. */
struct cd_input {
    struct cd_str text;
    enum cd_rc rc;
    struct cd_err *err;
};

/** Take @p text as an object; an empty body is {}. On failure in->rc and @p err are set. */
void cd_input_open(struct cd_input *in, struct cd_str text, unsigned max_depth, struct cd_err *err);

/** A string of 1 to @p size - 1 bytes. Absent: out = "" (an error when @p required). */
void cd_input_text(struct cd_input *in, const char *name, bool required, char *out, size_t size);
/** @return false when absent (or wrong: in->rc says) */
bool cd_input_bool(struct cd_input *in, const char *name, bool *out);
bool cd_input_int(struct cd_input *in, const char *name, long long min, long long max, long long *out);
/** Raw value of the wanted kind. */
bool cd_input_raw(struct cd_input *in, const char *name, enum cd_json_kind kind, struct cd_str *out);
/** One of @p names (NULL-terminated): its index; -1 when absent or wrong. */
int cd_input_word(struct cd_input *in, const char *name, const char *const *names);
/** A session description: {"type": @p type, "sdp": "..."}; the raw object in @p out. */
bool cd_input_sdp(struct cd_input *in, const char *name, const char *type, size_t max, struct cd_str *out);

#endif

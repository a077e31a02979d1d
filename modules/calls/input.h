/* input.h -- reads the members of a request, REST and socket alike, with one kind of error text. */
#ifndef CD_CALLS_INPUT_H
#define CD_CALLS_INPUT_H

#include "base/err.h"
#include "base/scan.h"
#include "base/str.h"

#define CD_INPUT_KNOWN 8

/** A validated JSON object and the first thing found wrong with it. */
struct cd_input {
    struct cd_str text;
    enum cd_rc rc;
    struct cd_err *err;
    /* the members, read once; more of them, or escaped names, and each is searched for instead */
    struct {
        struct cd_str name, value;
    } known[CD_INPUT_KNOWN];
    size_t n_known;
    bool indexed, searched;
};

/** Take @p text as an object; an empty body is {}. On failure in->rc and @p err are set. */
void cd_input_open(struct cd_input *in, struct cd_str text, unsigned max_depth, struct cd_err *err);

/** The same of text that is known to be valid, and nested no deeper than it may be. */
void cd_input_open_valid(struct cd_input *in, struct cd_str text, struct cd_err *err);
/** Raw value of a member, the last one of that name. @return false when absent */
bool cd_input_member(struct cd_input *in, const char *name, struct cd_str *value);

/** A string of 1 to @p size - 1 bytes. Absent: out = "" (an error when @p required). */
void cd_input_text(struct cd_input *in, const char *name, bool required, char *out, size_t size);
/** @return false when absent (or wrong: in->rc says) */
bool cd_input_bool(struct cd_input *in, const char *name, bool *out);
bool cd_input_int(struct cd_input *in, const char *name, long long min, long long max, long long *out);
/** Raw value of the wanted kind. */
bool cd_input_raw(struct cd_input *in, const char *name, enum cd_json_kind kind, struct cd_str *out);
/** One of @p names (NULL-terminated): its index; -1 when absent or wrong. */
int cd_input_word(struct cd_input *in, const char *name, const char *const *names);
/** Does a validated JSON string stand for text that others can read, without U+0000 and halves of
 * surrogate pairs? Matrix cannot carry those. */
bool cd_input_is_text(struct cd_str value);
/** A session description: {"type": @p type, "sdp": "..."}; the raw object in @p out. */
bool cd_input_sdp(struct cd_input *in, const char *name, const char *type, size_t max, struct cd_str *out);

#endif

/* change.c -- fuzzes what the stores agree to keep: refused is exactly what one of them could not.
 * Input: an event's data, ended by NUL, then a user id. */
#include <jansson.h>

#include "base/scan.h"
#include "fuzz.h"
#include "store/store_int.h"

#define DEPTH 64

/* Text for jsonb: valid, and no escape without a character. @return -1: jansson cannot tell */
static int keepable(struct cd_str text)
{
    json_error_t error;
    json_t *j;

    if (!cd_json_valid(text, DEPTH))
        return 0;
    j = json_loadb(text.p, text.n, JSON_DECODE_ANY, &error);
    json_decref(j);
    if (j)
        return 1;
    return json_error_code(&error) == json_error_numeric_overflow ? -1 : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct cd_str in = {(const char *)data, n}, part = fuzz_part(&in, '\0');
    char *text = fuzz_text(part), *user = fuzz_text(fuzz_part(&in, '\0'));
    bool text_is_ok = cd_utf8_valid(user, strlen(user)), ok;
    struct cd_change *ch = cd_change_new("z1");
    int keep = keepable(part);

    MUST(ch && cd_change_event(ch, 1, "ended", user, text, 5));
    ok = cd_change_check(ch);
    if (!text_is_ok)
        MUST(!ok);
    else if (keep >= 0)
        MUST(ok == (keep == 1));
    cd_change_free(ch);
    free(text);
    free(user);
    return 0;
}

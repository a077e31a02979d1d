/* outbox_batch.c -- several m.call.candidates rows as one event.
 * In: contents of rows of one call, user and party.  Out: one content with all their candidates.
 * Why: the homeserver lets a user send one event every five seconds once ten are spent.
 * Owns: nothing.  Blocks: never. */
#include <stdlib.h>

#include "base/buf.h"
#include "base/scan.h"
#include "out/outbox_int.h"

#define CONTENT_MAX 49152 /* an event has 65536 bytes, envelope and signatures included */

static bool same_member(struct cd_str a, struct cd_str b, const char *name)
{
    struct cd_str x, y;
    bool in_a = cd_json_find(a, name, &x), in_b = cd_json_find(b, name, &y);

    return in_a == in_b && (!in_a || cd_str_eq(x, y));
}

static bool is_candidates(struct cd_str content)
{
    struct cd_str list;

    return cd_json_is_object(content, 32) &&
           cd_json_find(content, "candidates", &list) && cd_json_kind(list) == CD_JSON_ARRAY;
}

bool cd_batch_fits(struct cd_str a, struct cd_str b)
{
    return is_candidates(a) && is_candidates(b) && same_member(a, b, "call_id") &&
           same_member(a, b, "party_id") && same_member(a, b, "version");
}

static void add_candidates(struct cd_buf *out, const struct cd_ob_item *leader)
{
    bool first = true;

    cd_buf_addc(out, '[');
    for (const struct cd_ob_item *it = leader; it; it = it->batch) {
        struct cd_str list, value;
        size_t pos = 0;

        if (!cd_json_find(cd_str_of(it->row.content), "candidates", &list))
            continue;
        while (cd_json_element(list, &pos, &value)) {
            if (!first)
                cd_buf_addc(out, ',');
            first = false;
            cd_buf_add(out, value.p, value.n);
        }
    }
    cd_buf_addc(out, ']');
}

char *cd_batch_merge(const struct cd_ob_item *leader)
{
    struct cd_str content = cd_str_of(leader->row.content), key, value;
    struct cd_buf out;
    bool first = true;
    size_t pos = 0;

    cd_buf_init(&out, CONTENT_MAX);
    cd_buf_addc(&out, '{');
    while (cd_json_member(content, &pos, &key, &value)) {
        if (!first)
            cd_buf_addc(&out, ',');
        first = false;
        cd_buf_addc(&out, '"');
        cd_buf_add(&out, key.p, key.n);
        cd_buf_adds(&out, "\":");
        if (cd_str_is(key, "candidates"))
            add_candidates(&out, leader);
        else
            cd_buf_add(&out, value.p, value.n);
    }
    cd_buf_addc(&out, '}');
    return cd_buf_steal(&out, NULL);
}

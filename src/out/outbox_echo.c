/* outbox_echo.c -- did an event arrive whose answer we never got? The room says so.
 * In: a row; a page of the room's newest events of its type and sender.  Out: yes or no.
 * Why: homeservers forget transaction ids, with their memory or with another token of the user; then
 * sending again would make a second event.
 * Owns: nothing.  Blocks: never. */
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/scan.h"
#include "out/outbox_int.h"

#define DEPTH_MAX 32
#define NEWEST "30"

char *cd_ob_echo_url(const struct cd_outbox *o, const struct cd_outbox_row *row)
{
    struct cd_buf filter, b;

    cd_buf_init(&filter, 2048);
    cd_buf_adds(&filter, "{\"types\":[");
    cd_buf_add_jsons(&filter, row->event_type);
    cd_buf_adds(&filter, "],\"senders\":[");
    cd_buf_add_jsons(&filter, row->user_id);
    cd_buf_adds(&filter, "]}");
    cd_buf_init(&b, 8192);
    cd_buf_adds(&b, o->base);
    cd_buf_adds(&b, "/_matrix/client/v3/rooms/");
    cd_buf_add_segment(&b, cd_str_of(row->room_id));
    cd_buf_adds(&b, "/messages?dir=b&limit=" NEWEST "&filter=");
    if (filter.failed)
        b.failed = true;
    else
        cd_buf_add_segment(&b, (struct cd_str){filter.p, filter.n});
    cd_buf_done(&filter);
    return cd_buf_steal(&b, NULL);
}

/* --- equal values, however they are written ------------------------------------------------ */

static bool same_text(struct cd_str a, struct cd_str b)
{
    char *x, *y;
    bool same;

    if (cd_str_eq(a, b))
        return true;
    x = malloc(a.n + 1); /* decoded it is never longer */
    y = malloc(b.n + 1);
    same = x && y && cd_json_text(a, x, a.n + 1) >= 0 && cd_json_text(b, y, b.n + 1) >= 0 &&
           strcmp(x, y) == 0;
    free(x);
    free(y);
    return same;
}

static bool same_value(struct cd_str a, struct cd_str b, int depth);

static bool same_array(struct cd_str a, struct cd_str b, int depth)
{
    size_t at = 0, bt = 0;
    struct cd_str x, y;

    while (cd_json_element(a, &at, &x))
        if (!cd_json_element(b, &bt, &y) || !same_value(x, y, depth))
            return false;
    return !cd_json_element(b, &bt, &y);
}

static size_t members_of(struct cd_str object)
{
    struct cd_str key, value;
    size_t n = 0, pos = 0;

    while (cd_json_member(object, &pos, &key, &value))
        n++;
    return n;
}

/* @p a is ours: its keys are plain. */
static bool same_object(struct cd_str a, struct cd_str b, int depth)
{
    struct cd_str key, x, y;
    size_t pos = 0;

    if (members_of(a) != members_of(b))
        return false;
    while (cd_json_member(a, &pos, &key, &x)) {
        char *name = strndup(key.p, key.n);
        bool same = name && cd_json_find(b, name, &y) && same_value(x, y, depth);

        free(name);
        if (!same)
            return false;
    }
    return true;
}

static bool same_value(struct cd_str a, struct cd_str b, int depth)
{
    enum cd_json_kind kind = cd_json_kind(a);

    if (depth > DEPTH_MAX || kind != cd_json_kind(b))
        return false;
    if (kind == CD_JSON_OBJECT)
        return same_object(a, b, depth + 1);
    if (kind == CD_JSON_ARRAY)
        return same_array(a, b, depth + 1);
    return kind == CD_JSON_STRING ? same_text(a, b) : cd_str_eq(a, b);
}

static bool same_member(struct cd_str a, struct cd_str b, const char *name)
{
    struct cd_str x, y;

    return cd_json_find(a, name, &x) && cd_json_find(b, name, &y) && same_value(x, y, 0);
}

/* --- our event ------------------------------------------------------------------------------ */

static bool text_is(struct cd_str object, const char *name, const char *wanted)
{
    char text[512];
    struct cd_str value;

    return cd_json_find(object, name, &value) && cd_json_text(value, text, sizeof(text)) >= 0 &&
           strcmp(text, wanted) == 0;
}

/* Of this type and sender, and of the party that we speak as in this call? */
static bool is_of_ours(const struct cd_outbox_row *row, struct cd_str event, struct cd_str *content)
{
    struct cd_str own = cd_str_of(row->content);

    return cd_json_kind(event) == CD_JSON_OBJECT && text_is(event, "type", row->event_type) &&
           text_is(event, "sender", row->user_id) && cd_json_find(event, "content", content) &&
           cd_json_kind(*content) == CD_JSON_OBJECT && same_member(own, *content, "call_id") &&
           same_member(own, *content, "party_id");
}

static bool has_txn(struct cd_str event, const char *txn_id)
{
    struct cd_str more;

    return cd_json_find(event, "unsigned", &more) && cd_json_kind(more) == CD_JSON_OBJECT &&
           text_is(more, "transaction_id", txn_id);
}

/* Is this candidate in one of the events, whichever rows were sent as one? */
static bool has_candidate(const struct cd_outbox_row *row, struct cd_str chunk, struct cd_str wanted)
{
    struct cd_str event, content, list, one;
    size_t pos = 0;

    while (cd_json_element(chunk, &pos, &event)) {
        size_t at = 0;

        if (!is_of_ours(row, event, &content) || !cd_json_find(content, "candidates", &list) ||
            cd_json_kind(list) != CD_JSON_ARRAY)
            continue;
        while (cd_json_element(list, &at, &one))
            if (same_value(wanted, one, 0))
                return true;
    }
    return false;
}

static bool has_candidates(const struct cd_outbox_row *row, struct cd_str chunk)
{
    struct cd_str list, one;
    size_t pos = 0;

    if (!cd_json_find(cd_str_of(row->content), "candidates", &list))
        return false;
    while (cd_json_element(list, &pos, &one))
        if (!has_candidate(row, chunk, one))
            return false;
    return true;
}

static bool has_event(const struct cd_outbox_row *row, struct cd_str chunk)
{
    struct cd_str event, content;
    bool newest = true;
    size_t pos = 0;

    while (cd_json_element(chunk, &pos, &event)) {
        if (!is_of_ours(row, event, &content))
            continue;
        if (row->rank < CD_RANK_DROPPABLE || has_txn(event, row->txn_id))
            return true; /* a party says each of these once */
        /* the same may be said twice: on, off, on. Only as the last word it is this one */
        if (newest && same_value(cd_str_of(row->content), content, 0))
            return true;
        newest = false;
    }
    return false;
}

bool cd_ob_echo_in(const struct cd_ob_item *it, struct cd_str body)
{
    struct cd_str chunk;

    if (!cd_json_is_object(body, DEPTH_MAX) ||
        !cd_json_find(body, "chunk", &chunk) || cd_json_kind(chunk) != CD_JSON_ARRAY)
        return false;
    for (; it; it = it->batch) {
        bool candidates = strcmp(it->row.event_type, "m.call.candidates") == 0;

        if (!cd_json_valid(cd_str_of(it->row.content), DEPTH_MAX) ||
            !(candidates ? has_candidates(&it->row, chunk) : has_event(&it->row, chunk)))
            return false;
    }
    return true;
}

/* sio_packet.c -- Engine.IO 4 payloads and Socket.IO 5 packets, parsed and written.
 *
 * In:   text of one packet. Out: views into it; text appended to buffers.
 * Why:  socket.io-protocol revision 5, engine.io-protocol revision 4.
 * State: none. Blocks: never.
 */
#include "in/sio_packet.h"

#include "base/scan.h"

#define SEPARATOR 0x1e
#define CHECKED_DEPTH 4096 /* as deep as cd_json_valid follows */
#define MAX_ID 9007199254740991 /* the largest integer that JavaScript counts exactly */

bool cd_eio_payload_next(struct cd_str *rest, struct cd_str *packet)
{
    const char *end;

    if (!rest->p)
        return false;
    end = rest->n ? memchr(rest->p, SEPARATOR, rest->n) : NULL;
    if (!end) {
        *packet = *rest;
        *rest = (struct cd_str){NULL, 0};
        return true;
    }
    *packet = (struct cd_str){rest->p, (size_t)(end - rest->p)};
    rest->n -= packet->n + 1;
    rest->p = end + 1;
    return true;
}

bool cd_eio_base64_valid(struct cd_str text)
{
    size_t n = text.n;

    while (n > 0 && text.n - n < 2 && text.p[n - 1] == '=')
        n--;
    for (size_t i = 0; i < n; i++) {
        char c = text.p[i];

        if (!((c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
              c == '+' || c == '/' || c == '-' || c == '_'))
            return false;
    }
    return n % 4 != 1;
}

bool cd_eio_query(struct cd_str query, const char *name, char *out, size_t out_size)
{
    while (query.n > 0) {
        const char *amp = memchr(query.p, '&', query.n);
        struct cd_str pair = {query.p, amp ? (size_t)(amp - query.p) : query.n};
        const char *eq = pair.n ? memchr(pair.p, '=', pair.n) : NULL;
        struct cd_str key = {pair.p, eq ? (size_t)(eq - pair.p) : pair.n};

        if (cd_str_is(key, name)) {
            struct cd_str value = {"", 0};

            if (eq)
                value = (struct cd_str){eq + 1, pair.n - key.n - 1};
            if (cd_percent_decode(value, true, out, out_size) < 0)
                memcpy(out, "?", 2);
            return true;
        }
        query.p += pair.n;
        query.n -= pair.n;
        if (amp) {
            query.p++;
            query.n--;
        }
    }
    return false;
}

/* --- parsing ---------------------------------------------------------------------------------- */

static bool digit(char c)
{
    return c >= '0' && c <= '9';
}

static void skip(struct cd_str *s, size_t n)
{
    s->p += n;
    s->n -= n;
}

/** Decimal digits at the start. @return false when there are none, or too many for @p max */
static bool take_number(struct cd_str *s, int64_t max, int64_t *out)
{
    int64_t value = 0;
    size_t n = 0;

    while (n < s->n && digit(s->p[n])) {
        int d = s->p[n] - '0';

        if (value > (max - d) / 10)
            return false;
        value = value * 10 + d;
        n++;
    }
    if (n == 0)
        return false;
    skip(s, n);
    *out = value;
    return true;
}

static bool take_attachments(struct cd_str *s, struct cd_sio_packet *out)
{
    int64_t n;

    if (!take_number(s, CD_SIO_ATTACHMENTS, &n) || s->n == 0 || s->p[0] != '-')
        return false;
    skip(s, 1);
    out->attachments = (unsigned)n;
    return true;
}

static bool take_namespace(struct cd_str *s, struct cd_sio_packet *out)
{
    const char *comma;

    out->ns = CD_STR("/");
    if (s->n == 0 || s->p[0] != '/')
        return true;
    comma = memchr(s->p, ',', s->n);
    out->ns = (struct cd_str){s->p, comma ? (size_t)(comma - s->p) : s->n};
    skip(s, out->ns.n + (comma ? 1 : 0));
    return out->ns.n <= CD_SIO_NAMESPACE_MAX && cd_utf8_valid(out->ns.p, out->ns.n);
}

#define NAME(literal) {(literal), sizeof(literal) - 1}

static bool reserved(struct cd_str name)
{
    static const struct cd_str names[] = {NAME("connect"),       NAME("connect_error"),
                                          NAME("disconnect"),    NAME("disconnecting"),
                                          NAME("newListener"),   NAME("removeListener")};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (cd_str_eq(name, names[i]))
            return true;
    }
    return false;
}

static bool event_parts(struct cd_sio_packet *out)
{
    char space[CD_SIO_EVENT_MAX];
    size_t pos = 0;
    enum cd_json_kind kind;

    if (!cd_json_element(out->data, &pos, &out->event))
        return false;
    kind = cd_json_kind(out->event);
    if (kind != CD_JSON_STRING && kind != CD_JSON_NUMBER)
        return false;
    if (reserved(cd_sio_event_name(out->event, space, sizeof(space))))
        return false;
    if (!cd_json_element(out->data, &pos, &out->payload))
        out->payload = CD_STR("{}");
    return true;
}

/** What nearly every event looks like, ["name",value], checked and split in one pass.
 * @return false: it is something else, or wrong; the general way tells */
static bool plain_event(struct cd_sio_packet *out)
{
    struct cd_str data = out->data, rest;
    const char *quote;
    size_t at, n;

    if (out->type != CD_SIO_EVENT || data.n < 4 || data.p[0] != '[' || data.p[1] != '"')
        return false;
    quote = memchr(data.p + 2, '"', data.n - 2);
    if (!quote || quote + 1 == data.p + data.n || quote[1] != ',')
        return false;
    out->event = (struct cd_str){data.p + 1, (size_t)(quote - data.p)};
    if (memchr(out->event.p, '\\', out->event.n) || !cd_json_valid(out->event, 1))
        return false;
    rest = (struct cd_str){quote + 2, (size_t)(data.p + data.n - quote) - 2};
    n = cd_json_value(rest, CD_SIO_JSON_DEPTH, &at);
    if (n == 0 || at + n + 1 != rest.n || rest.p[at + n] != ']')
        return false;
    out->payload = (struct cd_str){rest.p + at, n};
    return !reserved((struct cd_str){out->event.p + 1, out->event.n - 2});
}

/* Brackets outside strings, at their deepest. */
static size_t nesting(struct cd_str text)
{
    size_t depth = 0, deepest = 0;
    bool quoted = false;

    for (size_t i = 0; i < text.n; i++) {
        char c = text.p[i];

        if (c == '"')
            quoted = !quoted;
        else if (quoted)
            i += c == '\\';
        else if (c == '[' || c == '{')
            deepest = ++depth > deepest ? depth : deepest;
        else if ((c == ']' || c == '}') && depth > 0)
            depth--;
    }
    return deepest;
}

bool cd_json_too_deep(struct cd_str text, unsigned max_depth)
{
    size_t depth = nesting(text), at, n;

    if (depth <= max_depth)
        return false;
    if (depth <= CHECKED_DEPTH)
        return cd_json_valid(text, (unsigned)depth);
    n = cd_json_split(text, &at);
    return n > 0 && cd_str_trim((struct cd_str){text.p + at + n, text.n - at - n}).n == 0;
}

void cd_sio_fail_depth(struct cd_err *err)
{
    cd_fail(err, CD_E_NOT_JSON, "The message is nested more than %d levels deep.", CD_SIO_JSON_DEPTH);
}

/* An event that is in order but for its depth still has its name, so that it can be answered. */
static bool deep_event(struct cd_sio_packet *out)
{
    char space[CD_SIO_EVENT_MAX];
    struct cd_str rest;
    size_t at, n;

    if ((out->type != CD_SIO_EVENT && out->type != CD_SIO_BINARY_EVENT) ||
        out->data.p[0] != '[' || !cd_json_too_deep(out->data, CD_SIO_JSON_DEPTH + 1))
        return false;
    rest = (struct cd_str){out->data.p + 1, out->data.n - 1};
    n = cd_json_value(rest, 1, &at);
    out->event = (struct cd_str){rest.p + at, n};
    if (n == 0 || (out->event.p[0] != '"' && cd_json_kind(out->event) != CD_JSON_NUMBER))
        return false;
    out->too_deep = true;
    return !reserved(cd_sio_event_name(out->event, space, sizeof(space)));
}

static bool data_fits(struct cd_sio_packet *out)
{
    enum cd_json_kind kind = CD_JSON_BAD;

    if (plain_event(out))
        return true;
    if (out->data.n > 0) {
        if (!cd_json_valid(out->data, CD_SIO_JSON_DEPTH + 1))
            return deep_event(out);
        kind = cd_json_kind(out->data);
    }
    switch (out->type) {
    case CD_SIO_CONNECT:
        return out->data.n == 0 || kind == CD_JSON_OBJECT;
    case CD_SIO_DISCONNECT:
        return out->data.n == 0;
    case CD_SIO_EVENT:
    case CD_SIO_BINARY_EVENT:
        return kind == CD_JSON_ARRAY && event_parts(out);
    case CD_SIO_ACK:
    case CD_SIO_BINARY_ACK:
        return kind == CD_JSON_ARRAY;
    case CD_SIO_CONNECT_ERROR:
        return kind == CD_JSON_STRING || kind == CD_JSON_OBJECT;
    default:
        return false;
    }
}

bool cd_sio_parse(struct cd_str text, struct cd_sio_packet *out)
{
    *out = (struct cd_sio_packet){.id = -1, .payload = {"{}", 2}};
    if (text.n == 0 || text.p[0] < '0' || text.p[0] > '6')
        return false;
    out->type = (enum cd_sio_type)(text.p[0] - '0');
    skip(&text, 1);
    if ((out->type == CD_SIO_BINARY_EVENT || out->type == CD_SIO_BINARY_ACK) &&
        !take_attachments(&text, out))
        return false;
    if (!take_namespace(&text, out))
        return false;
    if (text.n > 0 && digit(text.p[0]) && !take_number(&text, MAX_ID, &out->id))
        return false;
    out->data = cd_str_trim(text);
    return data_fits(out);
}

struct cd_str cd_sio_event_name(struct cd_str raw, char *space, size_t space_size)
{
    bool plain = raw.n < 2 || !memchr(raw.p, '\\', raw.n);
    long n = raw.p && !plain && raw.p[0] == '"' ? cd_json_text(raw, space, space_size) : -1;

    if (n >= 0)
        return (struct cd_str){space, (size_t)n};
    if (raw.n >= 2 && raw.p[0] == '"')
        return (struct cd_str){raw.p + 1, raw.n - 2};
    return raw;
}

/* --- writing ---------------------------------------------------------------------------------- */

void cd_sio_add_event(struct cd_buf *b, const char *event, struct cd_str payload)
{
    cd_buf_adds(b, "42[");
    cd_buf_add_jsons(b, event);
    cd_buf_addc(b, ',');
    cd_buf_add(b, payload.p, payload.n);
    cd_buf_addc(b, ']');
}

void cd_sio_add_ack_ok(struct cd_buf *b, int64_t id, struct cd_str members)
{
    cd_buf_adds(b, "43");
    cd_buf_add_i64(b, id);
    cd_buf_adds(b, "[{\"ok\":true");
    cd_json_add_members(b, members);
    cd_buf_adds(b, "}]");
}

void cd_sio_add_ack_fail(struct cd_buf *b, int64_t id, const struct cd_err *err)
{
    cd_buf_adds(b, "43");
    cd_buf_add_i64(b, id);
    cd_buf_adds(b, "[{\"ok\":false");
    cd_json_add_err(b, err);
    cd_buf_adds(b, "}]");
}

void cd_sio_add_connected(struct cd_buf *b, const char *sid)
{
    cd_buf_adds(b, "40{\"sid\":\"");
    cd_buf_adds(b, sid);
    cd_buf_adds(b, "\"}");
}

void cd_sio_add_refused(struct cd_buf *b, const struct cd_err *err)
{
    cd_buf_adds(b, "44{\"message\":");
    cd_buf_add_jsons(b, err->text);
    cd_buf_adds(b, ",\"data\":");
    cd_err_json(b, err);
    cd_buf_addc(b, '}');
}

void cd_sio_add_no_namespace(struct cd_buf *b, struct cd_str ns)
{
    cd_buf_adds(b, "44");
    cd_buf_add(b, ns.p, ns.n);
    cd_buf_adds(b, ",{\"message\":\"Invalid namespace\"}");
}

void cd_json_add_members(struct cd_buf *b, struct cd_str object)
{
    struct cd_str inside = cd_str_trim(object);

    if (inside.n < 2)
        return;
    inside = cd_str_trim((struct cd_str){inside.p + 1, inside.n - 2});
    if (inside.n == 0)
        return;
    cd_buf_addc(b, ',');
    cd_buf_add(b, inside.p, inside.n);
}

void cd_json_add_err(struct cd_buf *b, const struct cd_err *err)
{
    cd_buf_addc(b, ',');
    cd_err_members(b, err);
}

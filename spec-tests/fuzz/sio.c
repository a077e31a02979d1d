/* sio.c -- fuzzes Engine.IO payloads and Socket.IO packets: views stay inside, what we write is
 * read back as it was meant. */
#include "base/scan.h"
#include "fuzz.h"
#include "in/sio_packet.h"

/* Read what was written; it begins with Engine.IO's "4". */
static struct cd_sio_packet reread(const struct cd_buf *b, enum cd_sio_type type)
{
    struct cd_sio_packet p;

    MUST(!b->failed && b->n > 1 && b->p[0] == '4');
    MUST(cd_sio_parse((struct cd_str){b->p + 1, b->n - 1}, &p));
    MUST(p.type == type);
    return p;
}

static void write_event(const struct cd_sio_packet *in)
{
    char space[CD_SIO_EVENT_MAX], again[CD_SIO_EVENT_MAX];
    struct cd_str name = cd_sio_event_name(in->event, space, sizeof space), got;
    struct cd_sio_packet out;
    struct cd_buf b;
    char *text;

    if (in->event.p[0] != '"' || name.n > CD_SIO_EVENT_MAX / 2)
        return;
    cd_buf_init(&b, 1 << 20);
    text = fuzz_text(name);
    cd_sio_add_event(&b, text, in->payload);
    out = reread(&b, CD_SIO_EVENT);
    got = cd_sio_event_name(out.event, again, sizeof again);
    MUST(cd_str_eq(got, name));
    MUST(cd_str_eq(out.payload, cd_str_trim(in->payload)) && out.id == -1);
    free(text);
    cd_buf_done(&b);
}

static void write_answers(const struct cd_sio_packet *in, struct cd_str text)
{
    char *sentence = fuzz_text(text);
    struct cd_sio_packet out;
    struct cd_err err;
    struct cd_buf b;

    cd_buf_init(&b, 1 << 20);
    if (in->id >= 0) {
        bool object = cd_json_kind(in->payload) == CD_JSON_OBJECT;

        cd_sio_add_ack_ok(&b, in->id, object ? in->payload : CD_STR(""));
        out = reread(&b, CD_SIO_ACK);
        MUST(out.id == in->id);
        cd_buf_reset(&b);
    }
    memset(&err, 0, sizeof err);
    cd_fail(&err, CD_E_INVALID_PARAM, "%s", sentence);
    cd_sio_add_ack_fail(&b, 7, &err);
    MUST(reread(&b, CD_SIO_ACK).id == 7);
    cd_buf_reset(&b);
    cd_sio_add_refused(&b, &err);
    reread(&b, CD_SIO_CONNECT_ERROR);
    cd_buf_reset(&b);
    cd_sio_add_no_namespace(&b, in->ns);
    out = reread(&b, CD_SIO_CONNECT_ERROR);
    if (in->ns.p[0] == '/' && in->ns.n > 1)
        MUST(cd_str_eq(out.ns, in->ns));
    cd_buf_done(&b);
    free(sentence);
}

static void socketio(struct cd_str text)
{
    struct cd_sio_packet p;

    if (!cd_sio_parse(text, &p))
        return;
    MUST(p.type <= CD_SIO_BINARY_ACK && p.attachments <= CD_SIO_ATTACHMENTS && p.id >= -1);
    MUST(p.ns.n > 0 && p.ns.n <= CD_SIO_NAMESPACE_MAX && cd_utf8_valid(p.ns.p, p.ns.n));
    MUST(p.data.n == 0 || fuzz_inside(p.data, text));
    MUST(p.data.n == 0 || p.too_deep || cd_json_valid(p.data, CD_SIO_JSON_DEPTH + 1));
    MUST(cd_json_valid(p.payload, CD_SIO_JSON_DEPTH));
    if (p.type == CD_SIO_EVENT || p.type == CD_SIO_BINARY_EVENT) {
        MUST(fuzz_inside(p.event, p.data) && cd_json_valid(p.event, 1));
        write_event(&p);
    }
    write_answers(&p, text);
}

static void query(struct cd_str text)
{
    static const char *const names[] = {"EIO", "transport", "sid", ""};
    char out[24];

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        memset(out, 'x', sizeof out);
        if (cd_eio_query(text, names[i], out, sizeof out))
            MUST(memchr(out, '\0', sizeof out));
        else
            MUST(!cd_str_starts(text, "EIO=") || i != 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct cd_str rest = {(const char *)data, n}, whole = rest, packet;
    size_t bytes = 0, packets = 0;

    if (!n)
        return 0;
    while (cd_eio_payload_next(&rest, &packet)) {
        MUST(fuzz_inside(packet, whole) && (packet.n == 0 || !memchr(packet.p, 0x1e, packet.n)));
        bytes += packet.n;
        packets++;
        if (packet.n && packet.p[0] == '4')
            socketio((struct cd_str){packet.p + 1, packet.n - 1});
        else if (packet.n && packet.p[0] == 'b')
            cd_eio_base64_valid((struct cd_str){packet.p + 1, packet.n - 1});
    }
    MUST(bytes + packets - 1 == n); /* nothing lost, nothing twice */
    query(whole);
    return 0;
}

/* sdp.c -- reads media kinds and stream ids out of a session description.
 *
 * In: text from a client, hostile or not. Out: a fixed-size summary. State: none. Why not a full
 * parser: sdp_stream_metadata needs the msid stream ids and nothing else of it. Blocks: never. */
#include "sdp.h"

/* The m= section being read. */
struct section {
    bool audio, video, sends, rejected;
    struct cd_sdp_stream streams[CD_SDP_STREAMS]; /* of this section alone */
    size_t n_streams;
    bool from_ssrc; /* they come from a=ssrc lines, which an a=msid line overrules */
};

static struct cd_str next_line(struct cd_str *rest)
{
    const char *end = memchr(rest->p, '\n', rest->n);
    size_t n = end ? (size_t)(end - rest->p) : rest->n;
    struct cd_str line = {rest->p, n};

    rest->p += end ? n + 1 : n;
    rest->n -= end ? n + 1 : n;
    if (line.n && line.p[line.n - 1] == '\r')
        line.n--;
    return line;
}

static struct cd_str after(struct cd_str line, const char *prefix)
{
    size_t n = strlen(prefix);

    return (struct cd_str){line.p + n, line.n - n};
}

static struct cd_str word(struct cd_str s)
{
    size_t n = 0;

    while (n < s.n && s.p[n] != ' ' && s.p[n] != '\t')
        n++;
    return (struct cd_str){s.p, n};
}

/* @return the stream of that id in the list, added when there is room; NULL when there is none */
static struct cd_sdp_stream *stream_of(struct cd_sdp_stream *list, size_t *n, struct cd_str id)
{
    for (size_t i = 0; i < *n; i++)
        if (cd_str_is(id, list[i].id))
            return &list[i];
    if (*n == CD_SDP_STREAMS || id.n == 0 || id.n > CD_SDP_STREAM_ID || memchr(id.p, '\0', id.n))
        return NULL;
    struct cd_sdp_stream *s = &list[(*n)++];
    *s = (struct cd_sdp_stream){0};
    memcpy(s->id, id.p, id.n);
    return s;
}

/* "-" says: this track belongs to no stream. */
static void add_msid(struct section *sec, struct cd_str value, bool from_ssrc)
{
    struct cd_str id = word(value);

    if (cd_str_is(id, "-") || !cd_utf8_valid(id.p, id.n))
        return;
    if (from_ssrc && sec->n_streams && !sec->from_ssrc)
        return;
    if (!from_ssrc && sec->from_ssrc)
        sec->n_streams = 0;
    sec->from_ssrc = from_ssrc;
    stream_of(sec->streams, &sec->n_streams, id);
}

static void read_attribute(struct section *sec, struct cd_str line)
{
    if (cd_str_starts(line, "a=msid:")) {
        add_msid(sec, after(line, "a=msid:"), false);
    } else if (cd_str_starts(line, "a=ssrc:")) {
        struct cd_str number = word(after(line, "a=ssrc:"));
        struct cd_str rest = cd_str_trim((struct cd_str){
            number.p + number.n, (size_t)(line.p + line.n - (number.p + number.n))});
        if (cd_str_starts(rest, "msid:"))
            add_msid(sec, after(rest, "msid:"), true);
    } else if (cd_str_is(line, "a=recvonly") || cd_str_is(line, "a=inactive")) {
        sec->sends = false;
    }
}

/* "m=video 9 UDP/TLS/RTP/SAVPF 96": a port of 0 rejects the section. */
static void open_section(struct section *sec, struct cd_str line)
{
    struct cd_str kind = word(after(line, "m="));
    struct cd_str rest = cd_str_trim(
        (struct cd_str){kind.p + kind.n, (size_t)(line.p + line.n - (kind.p + kind.n))});

    *sec = (struct section){.audio = cd_str_is(kind, "audio"), .video = cd_str_is(kind, "video"),
                            .sends = true, .rejected = cd_str_is(word(rest), "0")};
}

static void close_section(const struct section *sec, struct cd_sdp *out)
{
    if (sec->rejected || (!sec->audio && !sec->video))
        return;
    out->audio = out->audio || sec->audio;
    out->video = out->video || sec->video;
    for (size_t i = 0; sec->sends && i < sec->n_streams; i++) {
        struct cd_sdp_stream *s =
            stream_of(out->streams, &out->n_streams, cd_str_of(sec->streams[i].id));
        if (s) {
            s->audio = s->audio || sec->audio;
            s->video = s->video || sec->video;
        }
    }
}

void cd_sdp_scan(struct cd_str sdp, struct cd_sdp *out)
{
    struct section sec = {0}; /* the session part: of no kind, it counts for nothing */

    *out = (struct cd_sdp){0};
    while (sdp.n) {
        struct cd_str line = next_line(&sdp);

        if (cd_str_starts(line, "m=")) {
            close_section(&sec, out);
            open_section(&sec, line);
        } else {
            read_attribute(&sec, line);
        }
    }
    close_section(&sec, out);
}

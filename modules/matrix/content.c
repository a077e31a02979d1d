/* content.c -- writes the bodies of m.call.* events so that every known client takes them.
 *
 * In: ids, descriptions, states. Out: JSON text. State: none. Why by hand: the order of members is
 * ours and nothing needs a tree. The official schemas gate what this file writes. Blocks: never. */
#include "content.h"

#include <errno.h>

#include "sdp.h"

#define MAX_CONTENT 65536 /* a whole Matrix event may have no more */

static void begin(struct cd_buf *b, const struct cd_mxc_head *h)
{
    cd_buf_init(b, MAX_CONTENT);
    cd_buf_adds(b, "{\"call_id\":");
    cd_buf_add_jsons(b, h->call_id);
    cd_buf_adds(b, ",\"party_id\":");
    cd_buf_add_jsons(b, h->party_id);
    cd_buf_adds(b, ",\"version\":\"1\"");
}

static char *finish(struct cd_buf *b)
{
    cd_buf_addc(b, '}');
    if (b->failed) {
        int why = b->no_memory ? ENOMEM : EMSGSIZE;

        cd_buf_done(b);
        errno = why;
        return NULL;
    }
    return cd_buf_steal(b, NULL);
}

static void add_description(struct cd_buf *b, const char *member, const char *type,
                            struct cd_str sdp)
{
    cd_buf_addf(b, ",\"%s\":{\"type\":\"%s\",\"sdp\":", member, type);
    cd_buf_add_json(b, sdp);
    cd_buf_addc(b, '}');
}

static void add_streams(struct cd_buf *b, const struct cd_sdp *sdp,
                        const struct cd_mxc_media *media)
{
    cd_buf_addc(b, '{');
    for (size_t i = 0; i < sdp->n_streams; i++) {
        const struct cd_sdp_stream *s = &sdp->streams[i];
        /* camera and microphone share the first stream, a screen comes later */
        bool screen = i > 0;

        if (i)
            cd_buf_addc(b, ',');
        cd_buf_add_jsons(b, s->id);
        cd_buf_addf(b, ":{\"purpose\":\"%s\",\"audio_muted\":%s,\"video_muted\":%s}",
                    screen ? "m.screenshare" : "m.usermedia",
                    s->audio && (screen || media->audio) ? "false" : "true",
                    s->video && (screen || media->video) ? "false" : "true");
    }
    cd_buf_addc(b, '}');
}

/* Under the name of the specification and the one that went before it. @return streams named */
static size_t add_metadata(struct cd_buf *b, struct cd_str text, const struct cd_mxc_media *media)
{
    struct cd_sdp sdp;

    cd_sdp_scan(text, &sdp);
    /* saying nothing lets clients fall back; saying {} would hide all streams */
    if (sdp.n_streams == 0)
        return 0;
    cd_buf_adds(b, ",\"sdp_stream_metadata\":");
    add_streams(b, &sdp, media);
    cd_buf_adds(b, ",\"org.matrix.msc3077.sdp_stream_metadata\":");
    add_streams(b, &sdp, media);
    return sdp.n_streams;
}

static void add_capabilities(struct cd_buf *b)
{
    cd_buf_adds(b, ",\"capabilities\":{\"m.call.transferee\":false,\"m.call.dtmf\":false}");
}

char *cd_mxc_invite(const struct cd_mxc_head *h, struct cd_str sdp, const char *invitee,
                    int64_t lifetime_ms, const struct cd_mxc_media *media)
{
    struct cd_buf b;

    begin(&b, h);
    cd_buf_adds(&b, ",\"invitee\":");
    cd_buf_add_jsons(&b, invitee);
    cd_buf_adds(&b, ",\"lifetime\":");
    cd_buf_add_i64(&b, lifetime_ms);
    add_description(&b, "offer", "offer", sdp);
    add_capabilities(&b);
    add_metadata(&b, sdp, media);
    return finish(&b);
}

char *cd_mxc_answer(const struct cd_mxc_head *h, struct cd_str sdp,
                    const struct cd_mxc_media *media)
{
    struct cd_buf b;

    begin(&b, h);
    add_description(&b, "answer", "answer", sdp);
    add_capabilities(&b);
    add_metadata(&b, sdp, media);
    return finish(&b);
}

char *cd_mxc_candidates(const struct cd_mxc_head *h, struct cd_str list)
{
    struct cd_buf b;

    begin(&b, h);
    cd_buf_adds(&b, ",\"candidates\":[");
    cd_buf_add(&b, list.p, list.n);
    cd_buf_addc(&b, ']');
    return finish(&b);
}

char *cd_mxc_select_answer(const struct cd_mxc_head *h, const char *selected_party)
{
    struct cd_buf b;

    begin(&b, h);
    cd_buf_adds(&b, ",\"selected_party_id\":");
    cd_buf_add_jsons(&b, selected_party);
    return finish(&b);
}

char *cd_mxc_reject(const struct cd_mxc_head *h, bool busy)
{
    struct cd_buf b;

    begin(&b, h);
    if (busy)
        cd_buf_adds(&b, ",\"reason\":\"user_busy\"");
    return finish(&b);
}

char *cd_mxc_hangup(const struct cd_mxc_head *h, enum cd_reason reason)
{
    struct cd_buf b;

    begin(&b, h);
    cd_buf_addf(&b, ",\"reason\":\"%s\"", cd_mxc_reason_out(reason));
    return finish(&b);
}

char *cd_mxc_negotiate(const struct cd_mxc_head *h, bool is_answer, struct cd_str sdp,
                       int64_t lifetime_ms, const struct cd_mxc_media *media)
{
    struct cd_buf b;

    begin(&b, h);
    add_description(&b, "description", is_answer ? "answer" : "offer", sdp);
    cd_buf_adds(&b, ",\"lifetime\":");
    cd_buf_add_i64(&b, lifetime_ms);
    add_metadata(&b, sdp, media);
    return finish(&b);
}

char *cd_mxc_metadata(const struct cd_mxc_head *h, struct cd_str sdp,
                      const struct cd_mxc_media *media)
{
    struct cd_buf b;

    begin(&b, h);
    if (add_metadata(&b, sdp, media) == 0) {
        cd_buf_done(&b);
        return NULL;
    }
    return finish(&b);
}

bool cd_mxc_candidate(struct cd_buf *b, const json_t *candidate)
{
    const json_t *text = json_object_get(candidate, "candidate");
    const json_t *mid = json_object_get(candidate, "sdpMid");
    const json_t *index = json_object_get(candidate, "sdpMLineIndex");
    const json_t *fragment = json_object_get(candidate, "usernameFragment");

    if (!json_is_string(text))
        return false;
    cd_buf_adds(b, "{\"candidate\":");
    cd_buf_add_json(b, (struct cd_str){json_string_value(text), json_string_length(text)});
    if (json_is_string(mid) && json_string_length(mid)) {
        cd_buf_adds(b, ",\"sdpMid\":");
        cd_buf_add_json(b, (struct cd_str){json_string_value(mid), json_string_length(mid)});
    }
    if (json_is_integer(index) && json_integer_value(index) >= 0) {
        cd_buf_adds(b, ",\"sdpMLineIndex\":");
        cd_buf_add_i64(b, json_integer_value(index));
    }
    if (json_is_string(fragment)) {
        cd_buf_adds(b, ",\"usernameFragment\":");
        cd_buf_add_json(b, (struct cd_str){json_string_value(fragment),
                                           json_string_length(fragment)});
    }
    cd_buf_addc(b, '}');
    return true;
}

const char *cd_mxc_reason_out(enum cd_reason r)
{
    switch (r) {
    case CD_R_INVITE_TIMEOUT:
    case CD_R_ICE_FAILED:
    case CD_R_ICE_TIMEOUT:
    case CD_R_USER_MEDIA_FAILED:
    case CD_R_USER_BUSY:
    case CD_R_UNKNOWN_ERROR:
        return cd_reason_name(r);
    case CD_R_PEER_LOST:
        return "ice_timeout";
    case CD_R_NONE:
    case CD_R_USER_HANGUP:
    case CD_R_DECLINED:
    case CD_R_CANCELED:
    case CD_R_LEFT_ROOM:
    case CD_R_REPLACED:
    case CD_R_MAX_DURATION:
    case CD_R_KICKED:
    case CD_R_SHUTDOWN:
    case CD_REASON_COUNT:
        break;
    }
    return "user_hangup";
}

enum cd_reason cd_mxc_reason_in(const char *word)
{
    static const char *const plain[] = {"user_hangup", "userHangup", "user hangup"};
    static const enum cd_reason known[] = {CD_R_INVITE_TIMEOUT, CD_R_ICE_FAILED, CD_R_ICE_TIMEOUT,
                                           CD_R_USER_MEDIA_FAILED, CD_R_USER_BUSY};

    if (!word)
        return CD_R_USER_HANGUP;
    for (size_t i = 0; i < sizeof(plain) / sizeof(plain[0]); i++)
        if (strcmp(word, plain[i]) == 0)
            return CD_R_USER_HANGUP;
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (strcmp(word, cd_reason_name(known[i])) == 0)
            return known[i];
    return CD_R_UNKNOWN_ERROR;
}

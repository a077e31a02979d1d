/* mx_content_test.c -- the bodies of m.call.* events. With --bodies it prints one whole event a
 * line, for matrix_bodies.test.mjs, which holds them against the official schemas. */
#include "matrix/content.h"

#include <stdlib.h>

#include "base/str.h"
#include "tap.h"

#define SDP \
    "v=0\r\ns=-\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=msid:cam a\r\n" \
    "m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=msid:cam v\r\n"
#define NO_STREAMS "v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=recvonly\r\n"

static const struct cd_mxc_head head = {"z0123", "Party\"1"}; /* a quote: escaping is seen */
static const struct cd_mxc_media on = {true, true};

static json_t *parse(char *text)
{
    json_t *j = text ? json_loads(text, 0, NULL) : NULL;

    free(text);
    CHECK(j);
    return j;
}

static const char *text_of(const json_t *j, const char *name)
{
    return json_string_value(json_object_get(j, name));
}

static void check_head(const json_t *j)
{
    CHECK_STR(text_of(j, "call_id"), "z0123");
    CHECK_STR(text_of(j, "party_id"), "Party\"1");
    CHECK_STR(text_of(j, "version"), "1");
    CHECK(!json_object_get(j, "conf_id"));
}

static void invite(void)
{
    json_t *j = parse(cd_mxc_invite(&head, cd_str_of(SDP), "@b:hs", 59000, &on));
    const json_t *stable = json_object_get(j, "sdp_stream_metadata");
    const json_t *stream = json_object_get(stable, "cam");

    check_head(j);
    CHECK_STR(text_of(j, "invitee"), "@b:hs");
    CHECK(json_is_integer(json_object_get(j, "lifetime")));
    CHECK_INT(json_integer_value(json_object_get(j, "lifetime")), 59000);
    CHECK_STR(text_of(json_object_get(j, "offer"), "type"), "offer");
    CHECK_STR(text_of(json_object_get(j, "offer"), "sdp"), SDP);
    CHECK_STR(text_of(stream, "purpose"), "m.usermedia");
    CHECK(json_is_false(json_object_get(stream, "audio_muted")));
    CHECK(json_is_false(json_object_get(stream, "video_muted")));
    CHECK(json_equal(stable, json_object_get(j, "org.matrix.msc3077.sdp_stream_metadata")));
    json_decref(j);
}

static void metadata_follows_the_switches(void)
{
    struct cd_mxc_media muted = {false, true};
    json_t *j = parse(cd_mxc_metadata(&head, cd_str_of(SDP), &muted));
    const json_t *stream = json_object_get(json_object_get(j, "sdp_stream_metadata"), "cam");

    CHECK(json_is_true(json_object_get(stream, "audio_muted")));
    CHECK(json_is_false(json_object_get(stream, "video_muted")));
    json_decref(j);
}

static void no_streams_no_metadata(void)
{
    json_t *j = parse(cd_mxc_answer(&head, cd_str_of(NO_STREAMS), &on));

    CHECK(!json_object_get(j, "sdp_stream_metadata"));
    CHECK(!json_object_get(j, "org.matrix.msc3077.sdp_stream_metadata"));
    json_decref(j);
    CHECK(!cd_mxc_metadata(&head, cd_str_of(NO_STREAMS), &on));
    CHECK(!cd_mxc_metadata(&head, cd_str_of(NULL), &on));
}

static void reject_and_hangup(void)
{
    json_t *j = parse(cd_mxc_reject(&head, false));

    check_head(j);
    CHECK(!json_object_get(j, "reason"));
    json_decref(j);
    j = parse(cd_mxc_reject(&head, true));
    CHECK_STR(text_of(j, "reason"), "user_busy");
    json_decref(j);
    j = parse(cd_mxc_hangup(&head, CD_R_PEER_LOST));
    check_head(j);
    CHECK_STR(text_of(j, "reason"), "ice_timeout");
    json_decref(j);
}

static void reasons(void)
{
    CHECK_STR(cd_mxc_reason_out(CD_R_INVITE_TIMEOUT), "invite_timeout");
    CHECK_STR(cd_mxc_reason_out(CD_R_REPLACED), "user_hangup");
    CHECK_STR(cd_mxc_reason_out(CD_R_KICKED), "user_hangup");
    CHECK_STR(cd_mxc_reason_out(CD_R_USER_BUSY), "user_busy");
    CHECK_INT(cd_mxc_reason_in(NULL), CD_R_USER_HANGUP);
    CHECK_INT(cd_mxc_reason_in("userHangup"), CD_R_USER_HANGUP);
    CHECK_INT(cd_mxc_reason_in("user hangup"), CD_R_USER_HANGUP);
    CHECK_INT(cd_mxc_reason_in("ice_failed"), CD_R_ICE_FAILED);
    CHECK_INT(cd_mxc_reason_in("answered_elsewhere"), CD_R_UNKNOWN_ERROR);
    CHECK_INT(cd_mxc_reason_in(""), CD_R_UNKNOWN_ERROR);
    CHECK_INT(cd_mxc_reason_in("left_room"), CD_R_UNKNOWN_ERROR); /* ours, not Matrix's */
}

/* @return the candidate as it is sent, "" when refused */
static const char *candidate(const char *json)
{
    static char out[512];
    json_t *j = json_loads(json, JSON_DECODE_ANY, NULL);
    struct cd_buf b;

    CHECK(j);
    cd_buf_init(&b, sizeof(out));
    snprintf(out, sizeof(out), "%s", cd_mxc_candidate(&b, j) ? b.p : "");
    cd_buf_done(&b);
    json_decref(j);
    return out;
}

static void candidates(void)
{
    CHECK_STR(candidate("{\"candidate\":\"c\",\"sdpMid\":\"0\",\"sdpMLineIndex\":0,"
                        "\"usernameFragment\":null}"),
              "{\"candidate\":\"c\",\"sdpMid\":\"0\",\"sdpMLineIndex\":0}");
    CHECK_STR(candidate("{\"candidate\":\"c\",\"sdpMid\":null,\"sdpMLineIndex\":null}"),
              "{\"candidate\":\"c\"}");
    CHECK_STR(candidate("{\"candidate\":\"c\",\"sdpMid\":\"\",\"sdpMLineIndex\":1}"),
              "{\"candidate\":\"c\",\"sdpMLineIndex\":1}");
    CHECK_STR(candidate("{\"candidate\":\"\"}"), "{\"candidate\":\"\"}");
    CHECK_STR(candidate("{\"candidate\":\"c\",\"sdpMLineIndex\":-1,\"usernameFragment\":\"f\"}"),
              "{\"candidate\":\"c\",\"usernameFragment\":\"f\"}");
    CHECK_STR(candidate("{\"sdpMid\":\"0\"}"), "");
    CHECK_STR(candidate("{\"candidate\":5}"), "");
    CHECK_STR(candidate("\"c\""), "");
    CHECK_STR(candidate("null"), "");
}

static void too_large(void)
{
    char *sdp = malloc(70001);

    if (!CHECK(sdp))
        return;
    memset(sdp, 'x', 70000);
    sdp[70000] = '\0';
    CHECK(!cd_mxc_invite(&head, cd_str_of(sdp), "@b:hs", 60000, &on));
    free(sdp);
}

/* --- --bodies --------------------------------------------------------------------------------- */

static void print_event(const char *type, char *content)
{
    printf("{\"type\":\"%s\",\"event_id\":\"$1\",\"room_id\":\"!r:hs\",\"sender\":\"@a:hs\","
           "\"origin_server_ts\":1,\"content\":%s}\n",
           type, content ? content : "null");
    free(content);
}

static int print_bodies(void)
{
    struct cd_str sdp = cd_str_of(SDP);

    print_event("m.call.invite", cd_mxc_invite(&head, sdp, "@b:hs", 60000, &on));
    print_event("m.call.invite", cd_mxc_invite(&head, cd_str_of(NO_STREAMS), "@b:hs", 60000, &on));
    print_event("m.call.answer", cd_mxc_answer(&head, sdp, &on));
    print_event("m.call.candidates",
                cd_mxc_candidates(&head,
                                  cd_str_of("{\"candidate\":\"c\",\"sdpMid\":\"0\","
                                            "\"sdpMLineIndex\":0},"
                                                   "{\"candidate\":\"\"}")));
    print_event("m.call.select_answer", cd_mxc_select_answer(&head, "Other"));
    print_event("m.call.reject", cd_mxc_reject(&head, false));
    print_event("m.call.reject", cd_mxc_reject(&head, true));
    print_event("m.call.negotiate", cd_mxc_negotiate(&head, false, sdp, 60000, &on));
    print_event("m.call.negotiate", cd_mxc_negotiate(&head, true, sdp, 60000, &on));
    print_event("m.call.sdp_stream_metadata_changed", cd_mxc_metadata(&head, sdp, &on));
    for (int r = CD_R_NONE; r < CD_REASON_COUNT; r++)
        print_event("m.call.hangup", cd_mxc_hangup(&head, (enum cd_reason)r));
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--bodies") == 0)
        return print_bodies();
    TAP_RUN(invite);
    TAP_RUN(metadata_follows_the_switches);
    TAP_RUN(no_streams_no_metadata);
    TAP_RUN(reject_and_hangup);
    TAP_RUN(reasons);
    TAP_RUN(candidates);
    TAP_RUN(too_large);
    return tap_done();
}

/* sdp_test.c -- stream ids and media kinds out of descriptions, friendly and hostile. */
#include "matrix/sdp.h"

#include <stdlib.h>

#include "tap.h"

#define AUDIO "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n"
#define VIDEO "m=video 9 UDP/TLS/RTP/SAVPF 96\r\n"
#define HEAD "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n"

static struct cd_sdp scan(const char *text)
{
    struct cd_sdp out;

    cd_sdp_scan(cd_str_of(text), &out);
    return out;
}

static void one_camera(void)
{
    struct cd_sdp s = scan(HEAD AUDIO "a=msid:stream1 track1\r\na=sendrecv\r\n" VIDEO
                                      "a=msid:stream1 track2\r\na=sendrecv\r\n");

    CHECK(s.audio);
    CHECK(s.video);
    CHECK_INT(s.n_streams, 1);
    CHECK_STR(s.streams[0].id, "stream1");
    CHECK(s.streams[0].audio);
    CHECK(s.streams[0].video);
}

static void audio_alone(void)
{
    struct cd_sdp s = scan(HEAD AUDIO "a=msid:s t\n");

    CHECK(s.audio);
    CHECK(!s.video);
    CHECK_INT(s.n_streams, 1);
    CHECK(!s.streams[0].video);
}

static void camera_and_screen(void)
{
    struct cd_sdp s = scan(HEAD AUDIO "a=msid:cam a\r\n" VIDEO "a=msid:cam v\r\n" VIDEO
                                      "a=msid:screen v\r\n");

    CHECK_INT(s.n_streams, 2);
    CHECK_STR(s.streams[0].id, "cam");
    CHECK_STR(s.streams[1].id, "screen");
    CHECK(!s.streams[1].audio);
}

static void what_is_not_sent(void)
{
    CHECK_INT(scan(HEAD AUDIO "a=msid:s t\r\na=recvonly\r\n").n_streams, 0);
    CHECK_INT(scan(HEAD AUDIO "a=inactive\r\na=msid:s t\r\n").n_streams, 0);
    CHECK_INT(scan(HEAD "m=audio 0 RTP/AVP 0\r\na=msid:s t\r\n").n_streams, 0);
    CHECK(!scan(HEAD "m=video 0 RTP/AVP 0\r\n").video);
    CHECK_INT(scan(HEAD AUDIO "a=msid:- t\r\n").n_streams, 0);
    CHECK_INT(scan(HEAD "a=msid:session level\r\n" AUDIO).n_streams, 0);
    CHECK_INT(scan(HEAD "m=application 9 UDP/DTLS/SCTP x\r\na=msid:s t\r\n").n_streams, 0);
}

static void older_spelling(void)
{
    struct cd_sdp s = scan(HEAD AUDIO "a=ssrc:42 cname:x\r\na=ssrc:42 msid:old t\r\n");

    CHECK_INT(s.n_streams, 1);
    CHECK_STR(s.streams[0].id, "old");
    /* where both stand, the one that is not tied to an SSRC is right */
    s = scan(HEAD AUDIO "a=ssrc:42 msid:old t\r\na=msid:new t\r\na=ssrc:42 msid:old t\r\n");
    CHECK_INT(s.n_streams, 1);
    CHECK_STR(s.streams[0].id, "new");
}

static void hostile(void)
{
    static const char *const texts[] = {
        "", "\n", "\r\n\r\n", "m=", "m=\n", "m=audio", "m=audio\r\na=msid:", "m=audio 9\na=msid:\n",
        "a=ssrc:", "m=audio 9 x\na=ssrc:\n", "m=audio 9 x\na=ssrc:1\n",
        "m=audio 9 x\na=ssrc:1 msid:\n", "m=video 9 x\na=msid: t\n", "m=m=m=m=\na=msid:x",
        "\na=msid:x y\nm=", "m=audio 9\r\na=msid:\xff\xfe t\r\n"};

    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
        CHECK_INT(scan(texts[i]).n_streams, 0);
}

static void too_many_and_too_long(void)
{
    char text[20000] = HEAD AUDIO, line[400];
    size_t n = strlen(text);

    for (int i = 0; i < 50; i++)
        n += (size_t)snprintf(text + n, sizeof(text) - n, "a=msid:stream%d t\r\n", i);
    CHECK_INT(scan(text).n_streams, CD_SDP_STREAMS);
    memset(line, 'x', sizeof(line) - 1);
    line[sizeof(line) - 1] = '\0';
    snprintf(text, sizeof(text), HEAD AUDIO "a=msid:%s t\r\n", line);
    CHECK_INT(scan(text).n_streams, 0);
    line[CD_SDP_STREAM_ID] = '\0';
    snprintf(text, sizeof(text), HEAD AUDIO "a=msid:%s t\r\n", line);
    CHECK_INT(scan(text).n_streams, 1);
}

/* Every cut of a good text, held in memory of exactly its size so that a read past it is seen. */
static void cuts(void)
{
    static const char text[] =
        HEAD AUDIO "a=msid:stream1 track1\r\na=ssrc:1 msid:a b\r\n" VIDEO "a=recvonly";

    for (size_t n = 0; n < sizeof(text); n++) {
        char *exact = malloc(n ? n : 1);
        struct cd_sdp s;

        if (!CHECK(exact))
            return;
        memcpy(exact, text, n);
        cd_sdp_scan((struct cd_str){exact, n}, &s);
        CHECK(s.n_streams <= 1);
        free(exact);
    }
}

int main(void)
{
    TAP_RUN(one_camera);
    TAP_RUN(audio_alone);
    TAP_RUN(camera_and_screen);
    TAP_RUN(what_is_not_sent);
    TAP_RUN(older_spelling);
    TAP_RUN(hostile);
    TAP_RUN(too_many_and_too_long);
    TAP_RUN(cuts);
    return tap_done();
}

/* matrix.c -- fuzzes m.call.* bodies: session descriptions read, bodies written, content of others
 * read. Whatever goes in, what comes out is JSON with our members.
 * Input: a byte of choices, then call id, party, word, each ended by NUL, then a description or
 * the content of an event. */
#include "base/scan.h"
#include "fuzz.h"
#include "matrix/content.h"
#include "matrix/event.h"
#include "matrix/sdp.h"

static int held;

void cd_txn_hold(struct cd_txn *txn)
{
    (void)txn;
    held++;
}

void cd_txn_release(struct cd_txn *txn, enum cd_store_rc rc)
{
    (void)txn;
    (void)rc;
    held--;
}

static void same_scan(const struct cd_sdp *a, const struct cd_sdp *b)
{
    MUST(a->audio == b->audio && a->video == b->video && a->n_streams == b->n_streams);
    for (size_t i = 0; i < a->n_streams; i++)
        MUST(!strcmp(a->streams[i].id, b->streams[i].id));
}

static void scan(struct cd_str text, struct cd_sdp *out)
{
    struct cd_sdp again;
    char *crlf;
    size_t n = 0;

    cd_sdp_scan(text, out);
    MUST(out->n_streams <= CD_SDP_STREAMS);
    for (size_t i = 0; i < out->n_streams; i++) {
        const struct cd_sdp_stream *s = &out->streams[i];

        MUST(memchr(s->id, '\0', sizeof s->id) && s->id[0] && strcmp(s->id, "-") != 0);
        MUST(cd_utf8_valid(s->id, strlen(s->id)) && (s->audio || s->video));
        MUST((out->audio || !s->audio) && (out->video || !s->video));
        for (size_t k = 0; k < i; k++)
            MUST(strcmp(s->id, out->streams[k].id) != 0);
    }
    if (memchr(text.p, '\r', text.n))
        return;
    crlf = malloc(2 * text.n + 1); /* both line ends mean the same */
    for (size_t i = 0; i < text.n; i++) {
        if (text.p[i] == '\n')
            crlf[n++] = '\r';
        crlf[n++] = text.p[i];
    }
    cd_sdp_scan((struct cd_str){crlf, n}, &again);
    same_scan(out, &again);
    free(crlf);
}

/* Takes @p text over. @return its tree */
static json_t *body(char *text, const struct cd_mxc_head *h)
{
    json_t *j;

    MUST(text && cd_json_valid(cd_str_of(text), 8) && strlen(text) <= 65536);
    j = json_loads(text, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
    free(text);
    MUST(j && !strcmp(cd_mx_text(j, "version"), "1"));
    MUST(cd_mx_text(j, "call_id") && cd_mx_text(j, "party_id"));
    if (cd_utf8_valid(h->call_id, strlen(h->call_id)))
        MUST(!strcmp(cd_mx_text(j, "call_id"), h->call_id));
    return j;
}

/* A body with a description: metadata stands under both names, or not at all. */
static void described(char *text, const struct cd_mxc_head *h, const char *member,
                      const struct cd_sdp *sdp, const struct cd_mxc_media *media)
{
    json_t *j = body(text, h);
    const json_t *old = json_object_get(j, "org.matrix.msc3077.sdp_stream_metadata");
    const json_t *new = json_object_get(j, "sdp_stream_metadata");
    bool audio = false, video = false;

    MUST(cd_mx_text(json_object_get(j, member), "sdp"));
    MUST((new != NULL) == (sdp->n_streams > 0) && json_object_size(new) == sdp->n_streams);
    MUST(!new || json_equal(new, old));
    if (sdp->n_streams) {
        MUST(cd_mx_is_modern(j) && cd_mx_muted(j, &audio, &video));
        MUST(audio == (media->audio && sdp->streams[0].audio));
        MUST(video == (media->video && sdp->streams[0].video));
    }
    json_decref(j);
}

static void write_bodies(unsigned choice, const struct cd_mxc_head *h, const char *word,
                         struct cd_str text)
{
    struct cd_mxc_media media = {choice & 1, choice & 2};
    enum cd_reason reason = (enum cd_reason)(choice % CD_REASON_COUNT);
    struct cd_sdp sdp;
    char *metadata;

    scan(text, &sdp);
    described(cd_mxc_invite(h, text, word, choice, &media), h, "offer", &sdp, &media);
    described(cd_mxc_answer(h, text, &media), h, "answer", &sdp, &media);
    described(cd_mxc_negotiate(h, choice & 4, text, -1, &media), h, "description", &sdp, &media);
    json_decref(body(cd_mxc_select_answer(h, word), h));
    json_decref(body(cd_mxc_reject(h, choice & 8), h));
    json_decref(body(cd_mxc_hangup(h, reason), h));
    metadata = cd_mxc_metadata(h, text, &media);
    MUST((metadata != NULL) == (sdp.n_streams > 0));
    if (metadata)
        json_decref(body(metadata, h));
    MUST(cd_mxc_reason_in(word) != CD_R_NONE && cd_mxc_reason_in(word) < CD_REASON_COUNT);
    MUST(cd_mxc_reason_in(cd_mxc_reason_out(reason)) != CD_R_NONE);
}

static void write_candidates(const struct cd_mxc_head *h, const json_t *list)
{
    struct cd_buf b;
    size_t index, count = 0;
    json_t *j, *one, *copy = json_deep_copy(list);

    cd_buf_init(&b, 60000);
    json_array_foreach(copy, index, one) {
        size_t before = b.n;

        if (count)
            cd_buf_addc(&b, ',');
        if (cd_mxc_candidate(&b, one)) {
            count++;
        } else {
            MUST(b.n == before + (count ? 1 : 0));
            if (count)
                b.n--;
        }
    }
    if (count) {
        j = body(cd_mxc_candidates(h, (struct cd_str){b.p, b.n}), h);
        MUST(json_array_size(json_object_get(j, "candidates")) == count);
        json_array_foreach(json_object_get(j, "candidates"), index, one) {
            const json_t *mid = json_object_get(one, "sdpMid");

            MUST(cd_mx_text(one, "candidate") && (!mid || json_is_string(mid)));
            MUST(cd_mx_number(one, "sdpMLineIndex", 0) >= 0);
        }
        json_decref(j);
    }
    cd_buf_done(&b);
    json_decref(copy);
}

static void wait_for_turn(const struct cd_mx_in *in, unsigned times)
{
    struct cd_mx_waiting w = {0};
    struct cd_mx_saved *s;
    size_t taken = 0;

    for (unsigned i = 0; i < times; i++)
        cd_mx_wait(&w, in);
    MUST(held == (int)w.n && w.n == (times < CD_MX_WAITING ? times : CD_MX_WAITING));
    s = cd_mx_wait_next(&w);
    if (s) {
        MUST(!strcmp(s->in.call_id, in->call_id) && !strcmp(s->in.sender, in->sender));
        MUST(json_equal(s->in.content, in->content));
        cd_mx_saved_free(s, CD_STORE_OK);
        taken = 1;
    }
    MUST(held == (int)w.n && (taken || times == 0));
    cd_mx_wait_drop(&w, CD_STORE_DOWN);
    MUST(held == 0);
}

static void read_content(unsigned choice, const struct cd_mxc_head *h, struct cd_str text)
{
    json_t *content = json_loadb(text.p, text.n, 0, NULL);
    struct cd_mx_event ev = {0};
    struct cd_mx_in in;
    static const uint8_t hash[16] = {1};
    bool audio = choice & 1, video = choice & 2, was_audio = audio, was_video = video;

    if (!json_is_object(content)) {
        json_decref(content);
        return;
    }
    ev.type = "m.call.invite";
    ev.room_id = "!room:example.org";
    ev.sender = "@alice:example.org";
    ev.content = content;
    memcpy(ev.hash, hash, sizeof ev.hash);
    if (cd_mx_in_read(&in, NULL, (struct cd_txn *)(void *)&in, &ev)) {
        MUST(in.call_id[0] && strlen(in.call_id) <= CD_MAX_ID && strlen(in.party) <= CD_MAX_ID);
        MUST(in.version == 0 || in.version == 1);
        MUST(in.version == 1 || in.party[0] == '\0');
        wait_for_turn(&in, choice % 70);
    }
    if (!cd_mx_muted(content, &audio, &video))
        MUST(audio == was_audio && video == was_video);
    MUST(!cd_mx_metadata(content) || cd_mx_is_modern(content));
    cd_mx_number(content, "lifetime", 60000);
    write_candidates(h, json_object_get(content, "candidates"));
    json_decref(content);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct cd_str in = {(const char *)data, n};
    unsigned choice = fuzz_byte(&in);
    char *id, *party, *word;

    if (n == 0 || n > 5000)
        return 0; /* longer ones do not fit into an event */
    id = fuzz_text(fuzz_part(&in, '\0'));
    party = fuzz_text(fuzz_part(&in, '\0'));
    word = fuzz_text(fuzz_part(&in, '\0'));
    struct cd_mxc_head h = {id, party};
    write_bodies(choice, &h, word, in);
    read_content(choice, &h, in);
    free(id);
    free(party);
    free(word);
    return 0;
}

/* calls.h -- calls and commands made of bytes, and what must hold for every step of a call. */
#ifndef CD_FUZZ_CALLS_H
#define CD_FUZZ_CALLS_H

#include "base/buf.h"
#include "call/fsm.h"
#include "fuzz.h"

static const char *const fuzz_users[] = {"@a:x", "@b:x", "@c:x", "@d:x", "@stranger:x", NULL};
static const char *const fuzz_clients[] = {"PHONE", "socket:1", "socket:2", "party", "", NULL};

/* A call as it is first stored: @p n tells it from others. */
static inline struct cd_call *fuzz_call(struct cd_str *in, unsigned n)
{
    unsigned shape = fuzz_byte(in);
    struct cd_call *c = cd_call_new();
    bool group = shape & 1;

    MUST(c);
    snprintf(c->id, sizeof c->id, "z%032u", n);
    c->kind = group ? CD_GROUP : CD_DIRECT;
    c->media = group ? CD_MESH : CD_P2P;
    c->type = shape & 2 ? CD_VIDEO : CD_AUDIO;
    c->origin = (enum cd_origin)(shape >> 2 & 3);
    c->mx_version = shape & 16 ? 0 : 1;
    c->initiated_at = 1000;
    c->ring_seconds = 60;
    c->ring_expires_at = 61000;
    c->version = 1;
    MUST(cd_set_str(&c->room_id, shape & 32 ? "!one:x" : "!two:x"));
    MUST(cd_set_str(&c->caller, "@a:x") && (group || cd_set_str(&c->callee, "@b:x")));
    if (c->origin == CD_O_MATRIX)
        MUST(cd_set_str(&c->matrix_call_id, shape & 64 ? "m1" : "m2"));
    for (unsigned i = 0; i < (group ? 4 : 2); i++) {
        struct cd_participant *p = cd_call_add_participant(c, fuzz_users[i]);

        MUST(p);
        p->state = i ? CD_P_RINGING : CD_P_JOINED;
        p->joined_at = i ? 0 : 1000;
    }
    return c;
}

static inline struct cd_cmd fuzz_command(struct cd_str *in, int64_t now_ms)
{
    unsigned who = fuzz_byte(in), how = fuzz_byte(in);

    return (struct cd_cmd){
        .ev = (enum cd_ev)(fuzz_byte(in) % CD_EV_COUNT),
        .source = (enum cd_source)(how % 5),
        .user = fuzz_users[who % 6],
        .client = fuzz_clients[who / 6 % 6],
        .party_id = fuzz_clients[who / 36 % 6],
        .reason = (enum cd_reason)(how / 5 % CD_REASON_COUNT),
        .enabled = (int)(who % 3) - 1,
        .mx_version = (int)(how & 1),
        .now_ms = now_ms,
    };
}

static inline void fuzz_word(struct cd_buf *b, const char *s)
{
    cd_buf_add_jsons(b, s);
    cd_buf_addc(b, ' ');
}

/* All of a call as text: equal texts, equal calls. */
static inline char *fuzz_describe(const struct cd_call *c)
{
    struct cd_buf b;

    cd_buf_init(&b, 1 << 20);
    fuzz_word(&b, c->id);
    fuzz_word(&b, c->room_id);
    fuzz_word(&b, c->matrix_call_id);
    fuzz_word(&b, c->caller);
    fuzz_word(&b, c->callee);
    fuzz_word(&b, c->ended_by);
    cd_buf_addf(&b, "%d %d %d %d %d %d %d %d %d%d%d%d %u ", (int)c->kind, (int)c->media,
                (int)c->origin, (int)c->type, (int)c->status, (int)c->end_reason, (int)c->mx_state,
                c->mx_version, c->foreign, c->answer_provisional, c->invite_tried,
                c->connected_inferred, c->ring_seconds);
    cd_buf_addf(&b, "%ld %ld %ld %ld %ld %lu %lu\n", (long)c->initiated_at, (long)c->accepted_at,
                (long)c->connected_at, (long)c->ended_at, (long)c->ring_expires_at,
                (unsigned long)c->version, (unsigned long)c->seq);
    for (size_t i = 0; i < c->n_participants; i++) {
        const struct cd_participant *p = &c->participants[i];

        fuzz_word(&b, p->user_id);
        fuzz_word(&b, p->display_name);
        fuzz_word(&b, p->avatar_url);
        fuzz_word(&b, p->party_id);
        fuzz_word(&b, p->device_id);
        fuzz_word(&b, p->leave_reason);
        cd_buf_addf(&b, "%d %d %d%d%d %ld %ld\n", (int)p->state, (int)p->side, p->audio_enabled,
                    p->video_enabled, p->screen_sharing, (long)p->joined_at, (long)p->left_at);
    }
    MUST(!b.failed);
    return cd_buf_steal(&b, NULL);
}

#endif

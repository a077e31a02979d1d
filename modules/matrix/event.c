/* event.c -- reads what all m.call.* events have in common, and keeps them until their turn comes.
 *
 * In: pushed events of any client. Accepted is what clients really send: version as number or text,
 * numbers as floats, no party. Only sizes are capped, never an alphabet. Owns: the copies. */
#include "event.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/json_mem.h"

const char *cd_mx_text(const json_t *object, const char *name)
{
    return json_string_value(json_object_get(object, name));
}

int64_t cd_mx_number(const json_t *object, const char *name, int64_t missing)
{
    const json_t *v = json_object_get(object, name);

    if (json_is_integer(v))
        return json_integer_value(v);
    if (json_is_real(v) && json_real_value(v) > -9e15 && json_real_value(v) < 9e15)
        return (int64_t)json_real_value(v);
    return missing;
}

static bool fits(const char *s)
{
    return s && s[0] && strlen(s) <= CD_MAX_ID;
}

static bool is_version_0(const json_t *v)
{
    if (json_is_string(v))
        return strcmp(json_string_value(v), "0") == 0;
    return json_is_number(v) && json_number_value(v) == 0.0;
}

bool cd_mx_in_read(struct cd_mx_in *in, struct cd_core *core, struct cd_txn *txn,
                   const struct cd_mx_event *ev)
{
    const char *party = cd_mx_text(ev->content, "party_id");

    *in = (struct cd_mx_in){
        .core = core,
        .txn = txn,
        .room_id = ev->room_id,
        .sender = ev->sender,
        .type = ev->type,
        .call_id = cd_mx_text(ev->content, "call_id"),
        .party = "",
        .version = 1,
        .content = ev->content,
        .age_ms = ev->age_ms,
        .hash = ev->hash,
    };
    if (is_version_0(json_object_get(ev->content, "version")))
        in->version = 0;
    else if (fits(party))
        in->party = party;
    return fits(in->call_id) && fits(in->room_id) && fits(in->sender);
}

const json_t *cd_mx_metadata(const json_t *content)
{
    const json_t *m = json_object_get(content, "sdp_stream_metadata");

    if (!json_is_object(m))
        m = json_object_get(content, "org.matrix.msc3077.sdp_stream_metadata");
    return json_is_object(m) ? m : NULL;
}

bool cd_mx_is_modern(const json_t *content)
{
    return cd_mx_metadata(content) || json_is_object(json_object_get(content, "capabilities"));
}

bool cd_mx_muted(const json_t *content, bool *audio_enabled, bool *video_enabled)
{
    json_t *streams = json_deep_copy(cd_mx_metadata(content)); /* iteration wants it writable */
    const char *id;
    json_t *stream;
    bool found = false;

    json_object_foreach(streams, id, stream) {
        const char *purpose = cd_mx_text(stream, "purpose");
        const json_t *audio = json_object_get(stream, "audio_muted");
        const json_t *video = json_object_get(stream, "video_muted");

        if (found || !purpose || strcmp(purpose, "m.usermedia") != 0)
            continue;
        found = true;
        if (json_is_boolean(audio))
            *audio_enabled = !json_is_true(audio);
        if (json_is_boolean(video))
            *video_enabled = !json_is_true(video);
    }
    json_decref(streams);
    return found;
}

/* --- events that wait ------------------------------------------------------------------------- */

/* All strings in one block. */
static bool copy_strings(struct cd_mx_saved *s, const struct cd_mx_in *in)
{
    const char *from[] = {in->room_id, in->sender, in->type, in->call_id, in->party};
    const char **to[] = {&s->in.room_id, &s->in.sender, &s->in.type, &s->in.call_id, &s->in.party};
    size_t n = 0;
    char *p;

    for (size_t i = 0; i < sizeof(from) / sizeof(from[0]); i++)
        n += strlen(from[i]) + 1;
    p = s->strings = malloc(n);
    for (size_t i = 0; p && i < sizeof(from) / sizeof(from[0]); i++) {
        size_t len = strlen(from[i]) + 1;
        memcpy(p, from[i], len);
        *to[i] = p;
        p += len;
    }
    return p != NULL;
}

static struct cd_mx_saved *saved_new(const struct cd_mx_in *in)
{
    struct cd_mx_saved *s = calloc(1, sizeof(*s));
    unsigned long failures;

    if (!s)
        return NULL;
    s->in = *in;
    failures = cd_json_mem_failures();
    s->content = json_deep_copy(in->content);
    s->in.content = s->content;
    memcpy(s->hash, in->hash, sizeof(s->hash));
    s->in.hash = s->hash;
    s->saved_ms = cd_mono_ms();
    if (s->content && cd_json_mem_failures() == failures && copy_strings(s, in))
        return s;
    json_decref(s->content);
    free(s->strings);
    free(s);
    return NULL;
}

void cd_mx_wait(struct cd_mx_waiting *w, const struct cd_mx_in *in)
{
    struct cd_mx_saved *s = w->n < CD_MX_WAITING ? saved_new(in) : NULL;

    if (in->txn)
        cd_txn_hold(in->txn);
    if (!s) {
        if (in->txn)
            cd_txn_release(in->txn, CD_STORE_FULL);
        return;
    }
    if (!w->first)
        w->tail = &w->first;
    *w->tail = s;
    w->tail = &s->next;
    w->n++;
}

struct cd_mx_saved *cd_mx_wait_next(struct cd_mx_waiting *w)
{
    struct cd_mx_saved *s = w->first;

    if (!s)
        return NULL;
    w->first = s->next;
    s->next = NULL;
    w->n--;
    s->in.age_ms += cd_mono_ms() - s->saved_ms;
    return s;
}

void cd_mx_saved_free(struct cd_mx_saved *s, enum cd_store_rc rc)
{
    if (s->in.txn)
        cd_txn_release(s->in.txn, rc);
    json_decref(s->content);
    free(s->strings);
    free(s);
}

void cd_mx_wait_drop(struct cd_mx_waiting *w, enum cd_store_rc rc)
{
    struct cd_mx_saved *s;

    while ((s = cd_mx_wait_next(w)))
        cd_mx_saved_free(s, rc);
}

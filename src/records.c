/* records.c -- events of record, when they happen and when a call comes back from the store.
 * In: a call and a row of call_events. Out: the payload that sockets get. Why one place: who comes back
 * after a restart must read what the others heard before it. Blocks: never. */
#include "live.h"

#include "base/scan.h"

#define PAYLOAD_MAX (1024 * 1024)

void cd_record_open(struct cd_buf *b, const struct cd_live *l, uint64_t seq)
{
    cd_buf_init(b, PAYLOAD_MAX);
    cd_buf_adds(b, "{\"callId\":");
    cd_buf_add_jsons(b, cd_live_id(l));
    if (seq)
        cd_buf_addf(b, ",\"seq\":%llu", (unsigned long long)seq);
}

void cd_record_answered(struct cd_buf *b, const struct cd_live *l, uint64_t seq, const char *user)
{
    cd_record_open(b, l, seq);
    cd_buf_adds(b, ",\"userId\":");
    cd_buf_add_jsons(b, user);
    if (l->first_answer) {
        const struct cd_log_entry *e = &l->log[l->first_answer - 1];

        cd_buf_addc(b, ',');
        cd_buf_add(b, e->payload + e->body_at, e->body_n);
    }
    cd_buf_addc(b, '}');
}

void cd_record_connected(struct cd_buf *b, const struct cd_live *l, uint64_t seq)
{
    cd_record_open(b, l, seq);
    cd_buf_addf(b, ",\"connectedAt\":%lld}", (long long)l->cur->connected_at);
}

void cd_record_final(struct cd_buf *b, const struct cd_live *l, uint64_t seq)
{
    const struct cd_call *c = l->cur;
    int64_t seconds = cd_call_duration_s(c);

    cd_record_open(b, l, seq);
    cd_buf_adds(b, ",\"status\":");
    cd_buf_add_jsons(b, cd_status_name(c->status));
    cd_buf_adds(b, ",\"endReason\":");
    cd_buf_add_jsons(b, cd_reason_name(c->end_reason));
    cd_buf_adds(b, ",\"endedBy\":");
    cd_buf_add_jsons(b, c->ended_by);
    cd_buf_adds(b, ",\"durationSeconds\":");
    if (seconds < 0)
        cd_buf_adds(b, "null");
    else
        cd_buf_add_i64(b, seconds);
    cd_buf_addc(b, '}');
}

void cd_record_toggled(struct cd_buf *b, const struct cd_live *l, uint64_t seq, const char *user, bool on)
{
    cd_record_open(b, l, seq);
    cd_buf_adds(b, ",\"userId\":");
    cd_buf_add_jsons(b, user);
    cd_buf_addf(b, ",\"enabled\":%s}", on ? "true" : "false");
}

const char *cd_record_final_name(enum cd_status status)
{
    return status == CD_DECLINED ? "call-rejected" : status == CD_MISSED ? "call-missed" : "call-ended";
}

/* --- from the store ------------------------------------------------------------------------------- */

static const struct toggle {
    const char *type, *event;
} toggles[] = {
    {"audio_toggled", "audio-toggled"},
    {"video_toggled", "video-toggled"},
    {"screen_toggled", "screen-toggled"},
};

static const struct toggle *toggle_of(const char *type)
{
    for (size_t i = 0; i < sizeof(toggles) / sizeof(toggles[0]); i++)
        if (strcmp(toggles[i].type, type) == 0)
            return &toggles[i];
    return NULL;
}

static bool was_enabled(const struct cd_event_row *row)
{
    struct cd_str data = cd_str_of(row->data), value;

    return data.n && cd_json_is_object(data, 8) &&
           cd_json_find(data, "enabled", &value) && cd_json_kind(value) == CD_JSON_TRUE;
}

static bool is_final(const char *type)
{
    return strcmp(type, "ended") == 0 || strcmp(type, "rejected") == 0 || strcmp(type, "missed") == 0 ||
           strcmp(type, "canceled") == 0 || strcmp(type, "replaced") == 0;
}

static void restore_one(struct cd_live *l, const struct cd_event_row *row)
{
    const struct toggle *toggle = toggle_of(row->type);
    const char *event = NULL, *from = row->user_id;
    struct cd_buf b = {0};

    if (strcmp(row->type, "answered") == 0) {
        event = "call-answered";
        cd_record_answered(&b, l, row->seq, row->user_id);
    } else if (strcmp(row->type, "connected") == 0) {
        event = "call-connected";
        from = NULL;
        cd_record_connected(&b, l, row->seq);
    } else if (is_final(row->type)) {
        event = cd_record_final_name(l->cur->status);
        from = NULL;
        cd_record_final(&b, l, row->seq);
    } else if (toggle) {
        event = toggle->event;
        cd_record_toggled(&b, l, row->seq, row->user_id, was_enabled(row));
    }
    if (event && !b.failed)
        cd_log_record(l, row->seq, event, (struct cd_str){b.p, b.n}, from);
    cd_buf_done(&b);
}

void cd_records_restore(struct cd_live *l, const struct cd_event_row *events, size_t n)
{
    for (size_t i = 0; i < n; i++)
        restore_one(l, &events[i]);
}

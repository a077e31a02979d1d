/* calls.c -- the calls module: its routes, its socket events, its hooks. One row a route, one row an
 * event; both run the same operations. */
#include "calls.h"

#define HOUR_MS ((int64_t)3600 * 1000)
#define KEYS_MAX 100000 /* users, or rooms, whose starts are remembered */

#define ROUTE(name, fn)                                         \
    static enum cd_rc route_##name(void *self, struct cd_req *req) \
    {                                                           \
        return cd_op_rest(self, req, fn);                       \
    }
#define EVENT(name, fn)                                                                          \
    static void event_##name(struct cd_core *core, struct cd_client *client, struct cd_str payload, \
                             const struct cd_ack *ack)                                           \
    {                                                                                            \
        cd_op_socket(core, client, payload, ack, fn);                                            \
    }
#define BOTH(name, fn) ROUTE(name, fn) EVENT(name, fn)

BOTH(initiate, calls_initiate)
BOTH(answer, calls_answer)
BOTH(reject, calls_reject)
BOTH(end, calls_end)
BOTH(connected, calls_connected)
BOTH(offer, calls_offer)
BOTH(answer_sdp, calls_answer_sdp)
BOTH(candidate, calls_candidate)
BOTH(toggle_audio, calls_toggle_audio)
BOTH(toggle_video, calls_toggle_video)
EVENT(toggle_screen, calls_toggle_screen)
EVENT(join, calls_join)
EVENT(leave, calls_leave)
ROUTE(status, calls_status)
ROUTE(events, calls_events)
ROUTE(active, calls_active)
ROUTE(ice_servers, calls_ice_servers)

#define POST(path, fn, help) {CD_ROLE_PUBLIC, "POST", "/api/calls/" path, CD_AUTH_USER, 0, fn, help}
#define GET(path, fn, help) {CD_ROLE_PUBLIC, "GET", "/api/calls/" path, CD_AUTH_USER, 0, fn, help}

static const struct cd_route routes[] = {
    POST("initiate", route_initiate, "start a call"),
    POST("start", route_initiate, "alias of initiate"),
    POST(":id/answer", route_answer, "answer it"),
    POST(":id/accept", route_answer, "alias of answer"),
    POST(":id/reject", route_reject, "decline it"),
    POST(":id/decline", route_reject, "alias of reject"),
    POST(":id/end", route_end, "cancel or hang up"),
    POST(":id/offer", route_offer, "send an SDP offer"),
    POST(":id/answer-sdp", route_answer_sdp, "send an SDP answer"),
    POST(":id/ice-candidate", route_candidate, "send ICE candidates"),
    POST(":id/connected", route_connected, "report that ICE is connected"),
    POST(":id/toggle-audio", route_toggle_audio, "switch the microphone"),
    POST(":id/toggle-video", route_toggle_video, "switch the camera"),
    {CD_ROLE_PUBLIC, "POST", "/api/calls/session-token", CD_AUTH_USER, 0, calls_session_token,
     "a short-lived token of our own"},
    GET("active", route_active, "the user's live calls"),
    GET("ice-servers", route_ice_servers, "ICE servers with fresh credentials"),
    {CD_ROLE_PUBLIC, "GET", "/api/calls/config", CD_AUTH_NONE, 0, calls_config, "what clients need to know"},
    GET(":id/status", route_status, "one call"),
    GET(":id/events", route_events, "what happened after a number"),
    GET(":id", route_status, "alias of status"),
    {0},
};

static const struct cd_sock_event events[] = {
    {"call-initiate", event_initiate, "start a call"},
    {"call-answer", event_answer, "answer it"},
    {"call-reject", event_reject, "decline it"},
    {"call-end", event_end, "cancel or hang up"},
    {"call-connected", event_connected, "report that ICE is connected"},
    {"join-call", event_join, "take the seat and read what was missed"},
    {"leave-call", event_leave, "leave; a direct call ends"},
    {"webrtc-offer", event_offer, "send an SDP offer"},
    {"webrtc-answer", event_answer_sdp, "send an SDP answer"},
    {"ice-candidate", event_candidate, "send ICE candidates"},
    {"toggle-audio", event_toggle_audio, "switch the microphone"},
    {"toggle-video", event_toggle_video, "switch the camera"},
    {"toggle-screen", event_toggle_screen, "start or stop screen sharing"},
    {"auth-refresh", calls_auth_refresh, "bring a new token"},
    {0},
};

static void before_commit(struct cd_core *core, struct cd_live *live, const struct cd_call *prev,
                          const struct cd_call *next, const struct cd_cmd *cmd, struct cd_change *change)
{
    if (change->idem)
        cd_op_fill_idem(core, live, prev, next, cmd, change->idem);
}

static void after_commit(struct cd_core *core, struct cd_live *live, const struct cd_call *prev,
                         const struct cd_cmd *cmd, const struct cd_change *change)
{
    (void)change;
    calls_announce(core, live, prev, cmd);
    calls_timers(core, live, prev);
}

static void on_restored(struct cd_core *core, struct cd_live *live, const struct cd_outbox_row *rows, size_t n)
{
    (void)rows;
    (void)n;
    /* sockets have the usual grace to come back to their seats */
    calls_seats_restored(core, live);
    calls_timers(core, live, NULL);
}

static void on_moved(struct cd_core *core, struct cd_live *live, const struct cd_call *prev,
                     const struct cd_outbox_row *rows, size_t n)
{
    (void)rows;
    (void)n;
    if (!prev)
        return;
    calls_announce_moved(core, live, prev);
    calls_timers(core, live, prev);
}

static enum cd_rc start(struct cd_core *core, struct cd_err *err)
{
    core->starts = cd_limit_new((unsigned)core->conf->limits.starts_per_hour, HOUR_MS, KEYS_MAX);
    core->room_starts = cd_limit_new((unsigned)core->conf->limits.room_starts_per_hour, HOUR_MS, KEYS_MAX);
    return core->starts && core->room_starts ? CD_OK : cd_fail(err, CD_E_NO_MEMORY, NULL);
}

/* Another number begins to count anew; the same one goes on. */
static void renew_limit(struct cd_limit **at, long per_hour)
{
    struct cd_limit *fresh;

    if (cd_limit_per_window(*at) == (unsigned)per_hour)
        return;
    fresh = cd_limit_new((unsigned)per_hour, HOUR_MS, KEYS_MAX);
    if (!fresh)
        return;
    cd_limit_free(*at);
    *at = fresh;
}

static void reload(struct cd_core *core)
{
    renew_limit(&core->starts, core->conf->limits.starts_per_hour);
    renew_limit(&core->room_starts, core->conf->limits.room_starts_per_hour);
}

static void stop(struct cd_core *core)
{
    cd_limit_free(core->starts);
    cd_limit_free(core->room_starts);
    core->starts = core->room_starts = NULL;
    cd_map_done(&core->idem);
}

const struct cd_module cd_module_calls = {
    .name = "calls",
    .help = "calls over REST and sockets",
    .routes = routes,
    .events = events,
    .start = start,
    .stop = stop,
    .reload = reload,
    .before_commit = before_commit,
    .after_commit = after_commit,
    .on_moved = on_moved,
    .on_client = calls_seats_client,
    .on_restored = on_restored,
};

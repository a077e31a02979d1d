/* sock_setup.c -- sets the sockets up, and shares the one WebSocket endpoint out by path.
 *
 * In:   handshakes on /socket.io/ and /ws. Out: engineio_ws.c or wsjson.c serves them.
 * State: none. Blocks: never.
 */
#include <stdio.h>

#include "in/engineio.h"
#include "in/sock_priv.h"
#include "in/socketio.h"

/** Path of a request target, and its query without the '?'. */
static struct cd_str split_target(const char *target, struct cd_str *query)
{
    const char *mark = strchr(target, '?');

    *query = mark ? cd_str_of(mark + 1) : (struct cd_str){"", 0};
    return mark ? (struct cd_str){target, (size_t)(mark - target)} : cd_str_of(target);
}

static void *open_by_path(void *self, struct cd_ws *ws, const struct cd_ws_hello *hello,
                          int *status, char *why, size_t why_size)
{
    struct cd_str query;
    struct cd_str path = split_target(hello->target, &query);

    (void)self;
    if (cd_str_is(path, "/ws"))
        return cd_wsjson_open(ws, hello, status, why, why_size);
    if (cd_str_is(path, "/socket.io") || cd_str_starts(path, "/socket.io/"))
        return cd_eio_ws_open(ws, hello, query, status, why, why_size);
    *status = 404;
    snprintf(why, why_size, "There is no WebSocket here; use /socket.io/ or /ws.");
    return NULL;
}

static const struct cd_ws_ops *peer_ops(void *user)
{
    return ((const struct cd_ws_peer *)user)->ops;
}

static void on_ready(void *user)
{
    peer_ops(user)->on_ready(user);
}

static void on_text(void *user, char *text, size_t n)
{
    peer_ops(user)->on_text(user, text, n);
}

static void on_binary(void *user, const void *p, size_t n)
{
    peer_ops(user)->on_binary(user, p, n);
}

static void on_close(void *user)
{
    peer_ops(user)->on_close(user);
}

static void on_pong(void *user)
{
    if (peer_ops(user)->on_pong)
        peer_ops(user)->on_pong(user);
}

static const struct cd_ws_ops endpoint = {
    .on_open = open_by_path,
    .on_ready = on_ready,
    .on_text = on_text,
    .on_binary = on_binary,
    .on_close = on_close,
    .on_pong = on_pong,
};

/** @param ops   copied; all callbacks are needed
 * @param self  handed to on_connect and on_disconnect
 * @param conf  copied */
void cd_sock_setup(const struct cd_sock_ops *ops, void *self, const struct cd_sock_conf *conf)
{
    struct cd_ws_conf ws = {.max_message = conf->max_payload,
                            .queue_messages = conf->queue_messages,
                            .queue_bytes = conf->queue_bytes};

    cd_sock_registry_setup(ops, self, conf);
    cd_eio_setup(&cd_sio_session_ops, conf);
    cd_ws_setup(&endpoint, NULL, &ws);
}

/** @return CD_OK, or what cd_http_add_routes returned */
enum cd_rc cd_sock_add_routes(struct cd_loop *loop, struct cd_http *http)
{
    cd_sock_registry_set_loop(loop);
    return cd_eio_add_routes(loop, http);
}

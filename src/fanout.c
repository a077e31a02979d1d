/* fanout.c -- which sockets hear what: by user, and by seat in a call. */
#include <stdlib.h>

#include "core.h"

#define BATCH 64 /* sockets written to at once */

size_t cd_emit_user(struct cd_core *core, const char *user, const char *event, struct cd_str payload,
                    uint64_t except)
{
    struct cd_sock *socks[BATCH];
    size_t n = 0, reached = 0;

    for (struct cd_client *c = cd_map_get(&core->users, cd_str_of(user)); c; c = c->next_of_user) {
        struct cd_sock *s = c->sock_id == except ? NULL : cd_sock_by_id(c->sock_id);
        if (s)
            socks[n++] = s;
        if (n == BATCH) {
            cd_sock_emit_many(socks, n, event, payload);
            reached += n;
            n = 0;
        }
    }
    cd_sock_emit_many(socks, n, event, payload);
    return reached + n;
}

size_t cd_emit_call(struct cd_core *core, const struct cd_live *live, const char *event, struct cd_str payload,
                    uint64_t except)
{
    struct cd_sock *socks[CD_MAX_PARTICIPANTS];
    size_t n = 0;

    (void)core;
    for (size_t i = 0; i < CD_MAX_PARTICIPANTS; i++) {
        uint64_t id = live->seats[i].sock_id;
        struct cd_sock *s = id && id != except ? cd_sock_by_id(id) : NULL;
        if (s)
            socks[n++] = s;
    }
    cd_sock_emit_many(socks, n, event, payload);
    return n;
}

bool cd_user_online(const struct cd_core *core, const char *user)
{
    return cd_map_get(&core->users, cd_str_of(user)) != NULL;
}

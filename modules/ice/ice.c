/* ice.c -- the ICE servers that clients get, in WebRTC's shape and in Matrix's.
 *
 * In: the ice.* settings. Out: "iceServers" in call answers, GET .../voip/turnServer. State: none. */
#include "ice.h"

#include "base/clock.h"

enum turn_mode { TURN_NONE, TURN_STATIC, TURN_SECRET };

static enum turn_mode mode_of(const struct cd_conf *f)
{
    if (!f->ice.turn_urls[0])
        return TURN_NONE;
    if (strcmp(f->ice.turn_mode, "secret") == 0)
        return TURN_SECRET;
    return strcmp(f->ice.turn_mode, "custom") == 0 ? TURN_STATIC : TURN_NONE;
}

/* Comma or blank separated URIs as a JSON array. @return how many */
static unsigned add_urls(struct cd_buf *b, const char *list)
{
    unsigned n = 0;

    cd_buf_addc(b, '[');
    while (*list) {
        size_t skip = strspn(list, ", \t");
        size_t len = strcspn(list + skip, ", \t");
        if (len) {
            if (n++)
                cd_buf_addc(b, ',');
            cd_buf_add_json(b, (struct cd_str){list + skip, len});
        }
        list += skip + len;
    }
    cd_buf_addc(b, ']');
    return n;
}

/* Fills username and password for this user. @return false when there is no relay to give */
static bool credential(const struct cd_conf *f, const char *user, struct cd_turn_cred *minted,
                       const char **username, const char **password)
{
    switch (mode_of(f)) {
    case TURN_STATIC:
        *username = f->ice.turn_username;
        *password = f->ice.turn_credential;
        return true;
    case TURN_SECRET:
        if (cd_turn_mint(f->ice.turn_secret, user, cd_wall_ms() / 1000 + f->ice.ttl_seconds, minted) != CD_OK)
            return false;
        *username = minted->username;
        *password = minted->password;
        return true;
    case TURN_NONE:
        break;
    }
    return false;
}

void cd_render_ice(struct cd_buf *b, const struct cd_core *core, const char *user)
{
    const struct cd_conf *f = core->conf;
    const char *username, *password;
    struct cd_turn_cred minted;
    bool stun = f->ice.stun_urls[0] && strcmp(f->ice.turn_mode, "off") != 0;

    cd_buf_adds(b, "\"iceServers\":[");
    if (stun) {
        cd_buf_adds(b, "{\"urls\":");
        add_urls(b, f->ice.stun_urls);
        cd_buf_addc(b, '}');
    }
    if (credential(f, user, &minted, &username, &password)) {
        cd_buf_adds(b, stun ? ",{\"urls\":" : "{\"urls\":");
        add_urls(b, f->ice.turn_urls);
        cd_buf_adds(b, ",\"username\":");
        cd_buf_add_jsons(b, username);
        cd_buf_adds(b, ",\"credential\":");
        cd_buf_add_jsons(b, password);
        cd_buf_addc(b, '}');
    }
    cd_buf_addf(b, "],\"iceServersTtlSeconds\":%ld,\"iceTransportPolicy\":", f->ice.ttl_seconds);
    cd_buf_add_jsons(b, strcmp(f->ice.policy, "relay") == 0 ? "relay" : "all");
}

/* Matrix's shape: one credential for all URIs; {} when there is no TURN server, as Synapse answers. */
static enum cd_rc turn_server(void *self, struct cd_req *req)
{
    const struct cd_core *core = self;
    const struct cd_conf *f = core->conf;
    const char *username, *password;
    struct cd_turn_cred minted;
    struct cd_buf b;

    cd_buf_init(&b, 64 * 1024);
    if (credential(f, cd_req_principal(req)->user_id, &minted, &username, &password)) {
        cd_buf_adds(&b, "{\"username\":");
        cd_buf_add_jsons(&b, username);
        cd_buf_adds(&b, ",\"password\":");
        cd_buf_add_jsons(&b, password);
        cd_buf_adds(&b, ",\"uris\":");
        add_urls(&b, f->ice.turn_urls);
        cd_buf_addf(&b, ",\"ttl\":%ld}", f->ice.ttl_seconds);
    } else {
        cd_buf_adds(&b, "{}");
    }
    cd_req_reply_json(req, 200, &b);
    return CD_OK;
}

static const struct cd_route routes[] = {
    {CD_ROLE_PUBLIC, "GET", "/_matrix/client/v3/voip/turnServer", CD_AUTH_USER, 0, turn_server,
     "TURN servers as Matrix clients ask for them"},
    {CD_ROLE_PUBLIC, "GET", "/_matrix/client/r0/voip/turnServer", CD_AUTH_USER, 0, turn_server,
     "the same under its old name"},
    {0},
};

const struct cd_module cd_module_ice = {
    .name = "ice",
    .help = "ICE server list and TURN credentials",
    .routes = routes,
};

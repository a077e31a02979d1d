/* conf_cross.c -- what no single setting can tell: PORT, derived values, the registration file,
 * settings that need each other.
 *
 * In:    values that each have the right shape.
 * Out:   the finished configuration, findings with the place of the value at fault.
 * Blocks: reads the registration file; at start and reload only. */
#include "conf_priv.h"

#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/str.h"
#include "registration.h"

#define STATE_DIRECTORY_DEFAULT "/var/lib/matrix-calld"
#define TOKEN_GOOD_CHARS 32

static bool filled(const char *s)
{
    return s[0] != '\0';
}

/* The place of the first of two settings that was written anywhere. */
static const char *either(const struct conf_load *l, const char *section, const char *a,
                          const char *b)
{
    return cd_conf_where(l, section, cd_conf_is_set(l, section, a) ? a : b);
}

/* PORT replaces the port of each TCP address, unless CALLD_SERVER_LISTEN spoke. */
static void apply_port(struct conf_load *l, struct cd_conf *c)
{
    const char *port = cd_conf_getenv(l, "PORT");
    long key = cd_conf_key_index("server", "listen");
    const char *at = c->server.listen;
    struct cd_buf b;
    uint64_t v;

    if (!port || !*port || key < 0 || l->raw[key].rank == CONF_FROM_ENV)
        return;
    if (!cd_parse_u64(cd_str_of(port), 0, 65535, &v)) {
        cd_conf_error(l, "environment PORT", "\"%.20s\" is not a port; allowed: 0 to 65535", port);
        return;
    }
    cd_buf_init(&b, 4096);
    while (*at) {
        size_t n = strcspn(at, " ");
        size_t host = n;

        if (b.n)
            cd_buf_addc(&b, ' ');
        while (host > 0 && at[host - 1] != ':')
            host--;
        if (at[0] == '/' || !strncmp(at, "unix:", 5)) {
            cd_buf_add(&b, at, n);
        } else {
            cd_buf_add(&b, at, host);
            cd_buf_add_i64(&b, (int64_t)v);
        }
        at += n + strspn(at + n, " ");
    }
    cd_conf_set_text(l, &c->server.listen, b.failed ? NULL : b.p);
    cd_buf_done(&b);
}

static void cut_slash(char *url)
{
    size_t n = strlen(url);

    while (n > 0 && url[n - 1] == '/')
        url[--n] = '\0';
}

/* The spellings of "yes" and "no" that TRUST_PROXY has elsewhere were turned into true and false
 * before; false is the same as nobody. */
static void settle_proxy(struct conf_load *l, struct cd_conf *c)
{
    char **v = &c->server.trust_proxy;

    if (!strcmp(*v, "false"))
        cd_conf_set_text(l, v, "");
    else if (strcmp(*v, "true") != 0 && (strstr(*v, "true") || strstr(*v, "false")))
        cd_conf_error(l, cd_conf_where(l, "server", "trust_proxy"),
                      "true and false stand alone; otherwise list addresses");
    if (strchr(c->server.cors_origins, '*') && strlen(c->server.cors_origins) > 1)
        cd_conf_error(l, cd_conf_where(l, "server", "cors_origins"),
                      "* stands alone; otherwise list origins");
}

/* Without turn_mode the other settings say what was meant. */
static void infer_turn_mode(struct conf_load *l, struct cd_conf *c)
{
    const char *mode = "off";

    if (filled(c->ice.turn_mode))
        return;
    if (filled(c->ice.turn_urls) && filled(c->ice.turn_secret))
        mode = "secret";
    else if (filled(c->ice.turn_urls) || filled(c->ice.turn_credential))
        mode = "custom";
    else if (filled(c->ice.turn_secret))
        mode = "secret";
    else if (filled(c->ice.stun_urls))
        mode = "stun";
    cd_conf_set_text(l, &c->ice.turn_mode, mode);
}

/* One setting that turn_mode asks for. */
static void needs(struct conf_load *l, const struct cd_conf *c, const char *name, const char *value)
{
    char place[512];

    if (filled(value))
        return;
    snprintf(place, sizeof place, "ice.%s", name);
    if (cd_conf_is_set(l, "ice", "turn_mode"))
        snprintf(place, sizeof place, "%s", cd_conf_where(l, "ice", "turn_mode"));
    cd_conf_error(l, place, "turn_mode = %s needs %s", c->ice.turn_mode, name);
}

static void check_ice(struct conf_load *l, struct cd_conf *c)
{
    bool custom, secret;

    infer_turn_mode(l, c);
    custom = !strcmp(c->ice.turn_mode, "custom");
    secret = !strcmp(c->ice.turn_mode, "secret");
    if (custom || secret)
        needs(l, c, "turn_urls", c->ice.turn_urls);
    if (custom) {
        needs(l, c, "turn_username", c->ice.turn_username);
        needs(l, c, "turn_credential", c->ice.turn_credential);
    }
    if (secret)
        needs(l, c, "turn_secret", c->ice.turn_secret);
    if (!strcmp(c->ice.turn_mode, "stun"))
        needs(l, c, "stun_urls", c->ice.stun_urls);
    if (!custom && !secret && !strcmp(c->ice.policy, "relay"))
        cd_conf_error(l, cd_conf_where(l, "ice", "policy"),
                      "policy = relay needs TURN: turn_mode custom or secret");
}

/* A value of the registration stands unless the configuration says otherwise. */
static void take(struct conf_load *l, const char *name, char **field, const char *from_registration)
{
    if (!from_registration)
        return;
    if (!filled(*field))
        cd_conf_set_text(l, field, from_registration);
    else if (strcmp(*field, from_registration) != 0)
        cd_conf_warn(l, cd_conf_where(l, "matrix", name),
                     "%s differs from the registration file's; this one is used", name);
}

static void read_registration(struct conf_load *l, struct cd_conf *c)
{
    struct cd_registration r;
    struct cd_err err;

    if (!filled(c->matrix.registration))
        return;
    if (cd_registration_read(c->matrix.registration, &r, &err) != CD_OK) {
        cd_conf_error(l, cd_conf_where(l, "matrix", "registration"), "%s", err.text);
        return;
    }
    take(l, "as_id", &c->matrix.as_id, r.id);
    take(l, "as_token", &c->matrix.as_token, r.as_token);
    take(l, "hs_token", &c->matrix.hs_token, r.hs_token);
    cd_registration_done(&r);
}

static void check_token(struct conf_load *l, const char *name, const char *token)
{
    if (filled(token) && strlen(token) < TOKEN_GOOD_CHARS)
        cd_conf_warn(l, cd_conf_where(l, "matrix", name), "%s has fewer than %d characters", name,
                     TOKEN_GOOD_CHARS);
}

static void check_matrix(struct conf_load *l, struct cd_conf *c)
{
    cut_slash(c->matrix.homeserver_url);
    read_registration(l, c);
    check_token(l, "as_token", c->matrix.as_token);
    check_token(l, "hs_token", c->matrix.hs_token);
    if (filled(c->matrix.as_token) && !strcmp(c->matrix.as_token, c->matrix.hs_token))
        cd_conf_error(l, cd_conf_where(l, "matrix", "registration"),
                      "as_token and hs_token must differ");
    if (!filled(c->matrix.hs_token))
        cd_conf_warn(l, "matrix.registration",
                     "neither registration nor hs_token is set: the homeserver's events are "
                     "refused");
    if (filled(c->matrix.server_name))
        return;
    if (filled(c->matrix.as_token) || filled(c->matrix.hs_token))
        cd_conf_error(l, either(l, "matrix", "registration", "hs_token"),
                      "matrix.server_name must be set beside it");
    else
        cd_conf_warn(l, "matrix.server_name", "not set: local users cannot be told from others");
}

/* A path that stands nowhere is one in the state directory. */
static void default_in_state(struct conf_load *l, char **path, const char *name)
{
    const char *state = cd_conf_getenv(l, "STATE_DIRECTORY");
    size_t n = state ? strcspn(state, ":") : 0;
    struct cd_buf b;

    if (filled(*path))
        return;
    cd_buf_init(&b, 4096);
    if (n)
        cd_buf_add(&b, state, n);
    else
        cd_buf_adds(&b, STATE_DIRECTORY_DEFAULT);
    cd_buf_adds(&b, name);
    cd_conf_set_text(l, path, b.failed ? NULL : b.p);
    cd_buf_done(&b);
}

/* A database without a key for its tokens, without a place for what it cannot take now. Where that is must be
 * known without one, too: something may be left there. */
static void settle_database(struct conf_load *l, struct cd_conf *c)
{
    default_in_state(l, &c->database.spool_dir, "/spool");
    if (filled(c->database.url))
        default_in_state(l, &c->matrix.seal_key_file, "/seal.key");
}

/* Does one address stand in both lists? Port 0 never collides. */
static bool share_address(const char *a, const char *b)
{
    while (*a) {
        size_t n = strcspn(a, " ");
        const char *at = b;

        while (*at && !(n > 2 && !strncmp(a + n - 2, ":0", 2))) {
            size_t m = strcspn(at, " ");

            if (m == n && !strncmp(a, at, n))
                return true;
            at += m + strspn(at + m, " ");
        }
        a += n + strspn(a + n, " ");
    }
    return false;
}

static void check_server(struct conf_load *l, struct cd_conf *c)
{
    apply_port(l, c);
    settle_proxy(l, c);
    cut_slash(c->server.public_base_url);
    if (share_address(c->server.listen, c->server.appservice_listen))
        cd_conf_error(l, either(l, "server", "appservice_listen", "listen"),
                      "listen and appservice_listen must differ");
    if (filled(c->server.control_socket) &&
        (c->server.control_socket[0] != '/' || strlen(c->server.control_socket) >= 108))
        cd_conf_error(l, cd_conf_where(l, "server", "control_socket"),
                      "allowed: an absolute path of at most 107 bytes");
}

void cd_conf_cross(struct conf_load *l, struct cd_conf *c)
{
    check_server(l, c);
    check_ice(l, c);
    check_matrix(l, c);
    settle_database(l, c);
}

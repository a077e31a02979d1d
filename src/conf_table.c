/* conf_table.c -- every setting there is, one row each: name, type, bounds, default, help.
 *
 * In:    nothing.
 * Out:   the table, look-up by name, the nearest name to a misspelt one.
 * Why:   file, environment, check-config, sample and dump all read this one list. */
#include "conf_priv.h"

#include <string.h>

#define AT(section, field) offsetof(struct cd_conf, section.field)
#define TEXT(s, n, flags, def, allowed, shape, help) \
    {#s, #n, #s "." #n, CONF_TEXT, flags, AT(s, n), 0, 0, def, allowed, shape, help}
#define LIST(kind, s, n, flags, def, allowed, shape, help) \
    {#s, #n, #s "." #n, CONF_##kind, flags, AT(s, n), 0, 0, def, allowed, shape, help}
#define BOOL(s, n, flags, def, help) \
    {#s, #n, #s "." #n, CONF_BOOL, flags, AT(s, n), 0, 0, def, "yes or no", NULL, help}
#define INT(s, n, flags, min, max, def, help) \
    {#s, #n, #s "." #n, CONF_INT, flags, AT(s, n), min, max, #def, NULL, NULL, help}
#define CHOICE(s, n, flags, def, choices, help) \
    {#s, #n, #s "." #n, CONF_CHOICE, flags, AT(s, n), 0, 0, def, choices, NULL, help}

const struct conf_section cd_conf_sections[] = {
    {"server", "Where the daemon listens and how clients reach it."},
    {"database", "PostgreSQL. Without it calls live in memory and end with the process."},
    {"retention", "How long rows are kept in the database; 0: for ever. Kept answers: 24 hours."},
    {"matrix", "The homeserver and the application service registration."},
    {"ice", "STUN and TURN servers that clients are told."},
    {"calls", "How calls behave."},
    {"limits", "What one client, one user or the whole process may take."},
    {"log", "The log goes to standard error, one line an event."},
    {"admin", "Who may use the admin routes besides the peers of the control socket."},
};
const size_t cd_conf_section_count = sizeof cd_conf_sections / sizeof *cd_conf_sections;

const struct conf_key cd_conf_keys[] = {
    LIST(WORDS, server, listen, CONF_FILLED, "127.0.0.1:3000",
         "IP:PORT, [IPv6]:PORT or unix:/PATH", cd_conf_is_address,
         "Public listener: REST, sockets, call-test page. Several addresses are separated by "
         "blanks. The variable PORT replaces the port of each."),
    LIST(WORDS, server, appservice_listen, CONF_FILLED, "127.0.0.1:29340",
         "IP:PORT, [IPv6]:PORT or unix:/PATH", cd_conf_is_address,
         "Listener for the homeserver alone. Never expose it to the internet."),
    TEXT(server, control_socket, 0, "/run/matrix-calld/control.sock", "an absolute path", NULL,
         "Unix socket (mode 0660) for metrics, admin routes and the command line."),
    TEXT(server, public_base_url, 0, "", "http://... or https://...", cd_conf_is_http_url,
         "How clients reach the daemon from outside, when it differs from what they asked for."),
    TEXT(server, path_prefix, 0, "", "a path such as /calld, without a slash at its end",
         cd_conf_is_prefix,
         "First part of all public paths when a proxy passes them on unchanged. Paths without it are served too, "
         "for proxies that cut it off."),
    LIST(WORDS, server, trust_proxy, 0, "", "true, false or addresses such as 10.0.0.0/8",
         cd_conf_is_proxy,
         "Whose X-Forwarded-For counts: empty for nobody, true for one directly connected proxy "
         "with a loopback or private address, else a list of addresses or networks."),
    LIST(WORDS, server, cors_origins, 0, "*", "* or origins such as https://app.example.org",
         cd_conf_is_origin, "Web origins that may call the API and connect sockets; * for all."),
    BOOL(server, call_test, CONF_RELOAD, "no", "Serve the call-test page."),
    BOOL(server, query_token, 0, "no",
         "Also take tokens from ?access_token= (they may show up in the logs of proxies)."),
    TEXT(server, environment, 0, "production", "a word", cd_conf_is_word,
         "Name of this installation's stage, shown in the configuration answer."),

    TEXT(database, url, CONF_SECRET, "", "postgresql://... or key=value pairs as libpq takes them",
         cd_conf_is_database, "Where calls are kept. Empty: in memory."),
    TEXT(database, schema, CONF_FILLED, "calld", "lower case letters, digits and _, at most 63",
         cd_conf_is_identifier, "Schema of the daemon's tables."),
    BOOL(database, auto_migrate, 0, "yes", "Apply missing migrations at start."),
    TEXT(database, spool_dir, 0, "", "a path", NULL,
         "What PostgreSQL cannot take while it is away is kept here, on a local disk; each daemon "
         "needs a directory of its own. Empty: spool in the service's state directory, or in "
         "/var/lib/matrix-calld."),
    INT(database, spool_max_mb, 0, 1, 65536, 256,
        "Room for that [MiB]. When it is used up new calls are refused; running ones can end."),

    INT(retention, calls_days, 0, 0, 36500, 90, "Calls that are over, with participants and events [days]."),
    INT(retention, stats_days, 0, 0, 36500, 30, "Figures of calls' quality [days]."),
    INT(retention, seen_days, 0, 0, 36500, 30, "Which events were seen; more than the homeserver's patience [days]."),
    INT(retention, inbox_days, 0, 0, 36500, 30, "Events that could not be read, put aside [days]."),
    INT(retention, members_days, 0, 0, 36500, 90,
        "Who is in which room, since that was last confirmed; who leaves a room in use goes at once [days]."),

    TEXT(matrix, homeserver_url, 0, "http://127.0.0.1:8008", "http://... or https://...",
         cd_conf_is_http_url, "Client API of the homeserver, as seen from here."),
    TEXT(matrix, public_homeserver_url, 0, "", "http://... or https://...", cd_conf_is_http_url,
         "The same as browsers reach it, told to clients. Empty: homeserver_url."),
    TEXT(matrix, server_name, 0, "", "a server name such as example.org", cd_conf_is_server_name,
         "The part of user ids behind the colon. Users of other servers are refused."),
    TEXT(matrix, registration, 0, "", "a path", NULL,
         "The registration file that the homeserver loads (matrix-calld generate-registration "
         "writes it); id, as_token and hs_token are read from it."),
    TEXT(matrix, hs_token, CONF_SECRET, "", "printable characters without blanks", cd_conf_is_token,
         "The homeserver's token, when there is no registration file here."),
    TEXT(matrix, hs_token_previous, CONF_SECRET, "", "printable characters without blanks",
         cd_conf_is_token, "Also accepted while the token is being changed."),
    TEXT(matrix, as_token, CONF_SECRET, "", "printable characters without blanks", cd_conf_is_token,
         "Our token at the homeserver, when there is no registration file here."),
    TEXT(matrix, as_id, 0, "", "a word", cd_conf_is_word,
         "The registration's id, when there is no registration file here."),
    TEXT(matrix, seal_key_file, 0, "", "a path", NULL,
         "32-byte key that seals users' tokens in the database and signs session tokens; made on the first "
         "start. Empty: seal.key in the service's state directory, or in /var/lib/matrix-calld; without "
         "a database a key that lasts as long as the process."),
    TEXT(matrix, seal_key_file_previous, 0, "", "a path", NULL,
         "The key before it, while it is being changed."),
    BOOL(matrix, record_foreign, CONF_RELOAD, "yes",
         "Also record calls between two Matrix clients."),
    BOOL(matrix, legacy_paths, 0, "yes",
         "Also answer on the old paths without /_matrix/app/v1, which some homeservers still use."),

    LIST(COMMAS, ice, stun_urls, CONF_RELOAD, "",
         "stun:HOST:PORT or stuns:HOST:PORT, without ?transport=",
         cd_conf_is_stun, "STUN servers, separated by commas."),
    CHOICE(ice, turn_mode, CONF_RELOAD, "", "off|stun|custom|secret",
           "off: no servers; stun: STUN alone; custom: fixed turn_username and turn_credential; "
           "secret: credentials made for each user from turn_secret. Empty: what the other "
           "settings suggest."),
    LIST(COMMAS, ice, turn_urls, CONF_RELOAD, "",
         "turn:HOST:PORT or turns:HOST:PORT, with ?transport=udp or tcp if wanted", cd_conf_is_turn,
         "TURN servers, separated by commas."),
    TEXT(ice, turn_username, CONF_RELOAD, "", NULL, NULL, "For turn_mode = custom."),
    TEXT(ice, turn_credential, CONF_SECRET | CONF_RELOAD, "", NULL, NULL,
         "For turn_mode = custom."),
    TEXT(ice, turn_secret, CONF_SECRET | CONF_RELOAD, "", NULL, NULL,
         "For turn_mode = secret: coturn's static-auth-secret."),
    INT(ice, ttl_seconds, CONF_RELOAD, 60, 604800, 86400,
        "Life of minted TURN credentials [seconds]."),
    CHOICE(ice, policy, CONF_RELOAD, "all", "all|relay",
           "relay: clients use TURN only, which hides their addresses from each other."),

    BOOL(calls, enabled, CONF_RELOAD, "yes",
         "Off: new calls are refused with 503, running ones finish; what Matrix clients start does not ring, it is "
         "only recorded (matrix.record_foreign)."),
    INT(calls, ring_seconds, CONF_RELOAD, 15, 180, 60, "How long a call rings [seconds]."),
    INT(calls, max_minutes, CONF_RELOAD, 1, 1440, 120, "Longest call [minutes]."),
    INT(calls, unattended_seconds, CONF_RELOAD, 5, 86400, 600,
        "An answered call that never connected ends when nobody was there for so long [seconds]."),
    INT(calls, seat_seconds, CONF_RELOAD, 5, 300, 30,
        "How long a dropped socket keeps its seat [seconds]."),
    INT(calls, session_token_seconds, CONF_RELOAD, 5, 86400, 900,
        "Life of a session token, which works while homeserver and database are away [seconds]. Nothing but "
        "the homeserver's own refusal of its Matrix token ends it earlier."),
    INT(calls, max_mesh, CONF_RELOAD, 2, 8, 6, "Participants of a mesh call."),

    INT(limits, memory_mb, 0, 64, 1048576, 512, "Budget for bodies, queues and caches [MiB]."),
    INT(limits, max_connections, 0, 64, 1000000, 10000, "Connections of all listeners together."),
    INT(limits, connections_per_ip, 0, 0, 1000000, 50,
        "Public connections an address; 0: no limit."),
    INT(limits, head_seconds, 0, 1, 300, 20,
        "A request's head must be complete after so long, or the connection ends [seconds]. The first line of a later "
        "request on the same connection may take as long as an idle one besides."),
    INT(limits, body_seconds, 0, 1, 3600, 30,
        "The same for its body, and one second more for each 4 KiB of it [seconds]."),
    INT(limits, sockets_per_user, 0, 1, 10000, 10, "Sockets a user."),
    INT(limits, whoami_in_flight, 0, 1, 1024, 16, "Token checks at the homeserver at one time."),
    INT(limits, whoami_wait_ms, 0, 100, 30000, 2000,
        "How long a token waits for its check to begin, before the answer is 503 [milliseconds]."),
    INT(limits, failed_tokens_per_minute, 0, 0, 4096, 10,
        "Wrong tokens a minute and address; 0: no limit."),
    INT(limits, requests_per_second, CONF_RELOAD, 0, 1000000, 200,
        "HTTP requests a second and address on the public listener, ten seconds' worth at once; 0: no limit. "
        "Behind a proxy set server.trust_proxy, or all clients share one address."),
    INT(limits, user_requests_per_second, CONF_RELOAD, 0, 1000000, 50,
        "HTTP requests a second and user, ten seconds' worth at once; 0: no limit."),
    INT(limits, events_per_second, CONF_RELOAD, 0, 1000000, 100,
        "Events a second from one socket, ten seconds' worth at once; 0: no limit."),
    INT(limits, starts_per_hour, CONF_RELOAD, 0, 4096, 10,
        "Call starts an hour and user; 0: no limit."),
    INT(limits, room_starts_per_hour, CONF_RELOAD, 0, 4096, 60,
        "Call starts an hour and room; 0: no limit."),
    INT(limits, sdp_bytes, 0, 1024, 262144, 65536, "Largest session description [bytes]."),
    INT(limits, signal_bytes, 0, 1024, 262144, 16384, "Largest other signal [bytes]."),
    INT(limits, candidates, 0, 1, 4096, 128, "Candidates kept for a party."),
    INT(limits, socket_queue_messages, 0, 16, 1000000, 256, "Messages waiting for a slow socket."),
    INT(limits, socket_queue_bytes, 0, 65536, 268435456, 1048576, "The same [bytes]."),
    INT(limits, buffered_signals, 0, 16, 65536, 256,
        "Signals and events of a call that are kept in memory for who joins late or comes back, for each seat."),
    INT(limits, buffered_bytes, 0, 16384, 67108864, 262144, "The same [bytes]."),
    INT(limits, json_depth, 0, 4, 256, 32, "Nesting of JSON from clients."),

    CHOICE(log, level, CONF_RELOAD, "info", "debug|info|warn|error", "Lines below it are dropped."),
    CHOICE(log, format, 0, "json", "json|text", "json for machines, text for people."),

    LIST(WORDS, admin, users, CONF_RELOAD, "", "user ids such as @name:example.org",
         cd_conf_is_user_id, "Matrix users who are admins here, separated by blanks."),
    TEXT(admin, token_file, 0, "", "a path", NULL, "A file with a bearer token for admin routes."),
};
const size_t cd_conf_key_count = sizeof cd_conf_keys / sizeof *cd_conf_keys;

const struct conf_alias cd_conf_aliases[] = {
    {"DATABASE_URL", "database", "url"},
    {"TURN_URLS", "ice", "turn_urls"},
    {"TURN_SERVER_URL", "ice", "turn_urls"},
    {"TURN_MODE", "ice", "turn_mode"},
    {"TURN_USERNAME", "ice", "turn_username"},
    {"TURN_CREDENTIAL", "ice", "turn_credential"},
    {"TURN_SECRET", "ice", "turn_secret"},
    {"STUN_URLS", "ice", "stun_urls"},
    {"TRUST_PROXY", "server", "trust_proxy"},
    {"NODE_ENV", "server", "environment"},
    {NULL, NULL, NULL},
};

long cd_conf_key_index(const char *section, const char *name)
{
    for (size_t i = 0; i < cd_conf_key_count; i++) {
        if (!strcmp(cd_conf_keys[i].section, section) && !strcmp(cd_conf_keys[i].name, name))
            return (long)i;
    }
    return -1;
}

bool cd_conf_section_known(const char *name)
{
    for (size_t i = 0; i < cd_conf_section_count; i++) {
        if (!strcmp(cd_conf_sections[i].name, name))
            return true;
    }
    return false;
}

#define DISTANCE_MAX 40 /* longer names are compared by their beginning */

/* Levenshtein distance, one row of the matrix at a time. */
static unsigned edit_distance(const char *a, const char *b)
{
    unsigned row[DISTANCE_MAX + 1];
    size_t la = strnlen(a, DISTANCE_MAX), lb = strnlen(b, DISTANCE_MAX);

    for (size_t j = 0; j <= lb; j++)
        row[j] = (unsigned)j;
    for (size_t i = 1; i <= la; i++) {
        unsigned diagonal = row[0];

        row[0] = (unsigned)i;
        for (size_t j = 1; j <= lb; j++) {
            unsigned best = diagonal + (a[i - 1] != b[j - 1]);

            diagonal = row[j];
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[lb];
}

static unsigned tolerance(const char *name)
{
    size_t third = strlen(name) / 3;

    return third < 2 ? 2 : (unsigned)third;
}

const struct conf_key *cd_conf_nearest(const char *section, const char *name)
{
    const struct conf_key *best = NULL;
    unsigned best_cost = tolerance(name) + 1;

    for (size_t i = 0; i < cd_conf_key_count; i++) {
        const struct conf_key *k = &cd_conf_keys[i];
        unsigned cost = edit_distance(name, k->name);

        /* the right name in the wrong section beats a near one in this, and this beats others */
        if (cost > 0 && strcmp(k->section, section) != 0)
            cost++;
        if (cost < best_cost) {
            best = k;
            best_cost = cost;
        }
    }
    return best;
}

const char *cd_conf_nearest_section(const char *name)
{
    const char *best = NULL;
    unsigned best_cost = tolerance(name) + 1;

    for (size_t i = 0; i < cd_conf_section_count; i++) {
        unsigned cost = edit_distance(name, cd_conf_sections[i].name);

        if (cost < best_cost) {
            best = cd_conf_sections[i].name;
            best_cost = cost;
        }
    }
    return best;
}

/* conf.h -- the configuration: one table of keys serves the file, the environment, the aliases,
 * check-config, the sample file and the manual. */
#ifndef CD_CONF_H
#define CD_CONF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "base/err.h"

/** Parsed and checked values. Strings are owned, never NULL ("" when unset). */
struct cd_conf {
    struct {
        char *listen; /* one or more addresses, space separated */
        char *appservice_listen;
        char *control_socket;
        char *public_base_url, *path_prefix, *trust_proxy, *cors_origins, *environment;
        bool call_test, query_token;
    } server;
    struct {
        char *url, *schema, *spool_dir;
        bool auto_migrate;
        long spool_max_mb;
    } database;
    struct {
        long calls_days, stats_days, seen_days, inbox_days, members_days;
    } retention;
    struct {
        char *homeserver_url, *public_homeserver_url, *server_name, *registration, *hs_token,
            *hs_token_previous, *as_token, *as_id, *seal_key_file, *seal_key_file_previous;
        bool record_foreign, legacy_paths;
    } matrix;
    struct {
        char *stun_urls, *turn_mode, *turn_urls, *turn_username, *turn_credential, *turn_secret,
            *policy;
        long ttl_seconds;
    } ice;
    struct {
        bool enabled;
        long ring_seconds, unattended_seconds, max_minutes, seat_seconds, max_mesh, session_token_seconds;
    } calls;
    struct {
        long memory_mb, connections_per_ip, sockets_per_user, whoami_in_flight,
            whoami_wait_ms, failed_tokens_per_minute, starts_per_hour, room_starts_per_hour,
            requests_per_second, user_requests_per_second, events_per_second, buffered_signals,
            buffered_bytes, sdp_bytes, signal_bytes, candidates, socket_queue_messages, socket_queue_bytes,
            json_depth, max_connections, head_seconds, body_seconds;
    } limits;
    struct {
        char *level, *format;
    } log;
    struct {
        char *users, *token_file;
    } admin;
};

/** Defaults, then the file (NULL: none), then environment and aliases, then secrets from files and
 * the registration, then checks across keys.
 * @param problems  every finding as "file:line: text" or "environment NAME: text", one a line, with
 *        the nearest key name for an unknown one; may be NULL
 * @return CD_OK or CD_E_INVALID_PARAM with the first finding in @p err */
enum cd_rc cd_conf_load(const char *path, char *const *environ_, struct cd_conf **out,
                        FILE *problems, struct cd_err *err);
void cd_conf_free(struct cd_conf *c);
/** The commented sample file, from the table. */
void cd_conf_print_sample(FILE *out);
/** The values in force, secrets masked. */
void cd_conf_dump(const struct cd_conf *c, FILE *out);
/** Keys that SIGHUP may change; others need a restart. Copies them from @p fresh into @p running
 * and names what was ignored to @p problems. @return false out of memory: nothing was changed */
bool cd_conf_reload(struct cd_conf *running, const struct cd_conf *fresh, FILE *problems);

#endif

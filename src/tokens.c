/* tokens.c -- Matrix tokens that a live call or its outbox still needs.
 *
 * State: core->tokens, one principal a user, in memory; sealed in the store while needed, so that a
 * restart can still hang up. Why: a user's own actions are sent with that user's token (design,
 * section 5), and the client may be gone by then. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/secret.h"
#include "core.h"

struct held {
    char *user;
    struct cd_principal *who;
};

static struct held *held_get(struct cd_core *core, const char *user)
{
    return cd_map_get(&core->tokens, cd_str_of(user));
}

static void held_free(struct held *h)
{
    cd_principal_unref(h->who);
    free(h->user);
    free(h);
}

static struct held *held_new(struct cd_core *core, const char *user)
{
    struct held *h = calloc(1, sizeof(*h));

    if (h && (h->user = strdup(user)) && cd_map_put(&core->tokens, cd_str_of(h->user), h) == 0)
        return h;
    if (h)
        free(h->user);
    free(h);
    return NULL;
}

static void seal_into_store(struct cd_core *core, const struct cd_principal *who)
{
    size_t n = strlen(who->matrix_token);
    uint8_t *sealed = core->seal ? malloc(n + CD_SEAL_OVERHEAD) : NULL;

    if (!sealed)
        return;
    cd_seal_wrap(core->seal, who->matrix_token, n, sealed);
    core->store->ops->token_put(core->store, who->user_id, who->device_id ? who->device_id : "", sealed,
                                n + CD_SEAL_OVERHEAD);
    free(sealed);
}

void cd_tokens_hold(struct cd_core *core, struct cd_principal *who)
{
    struct held *h = held_get(core, who->user_id);

    if (!who->matrix_token || (h && h->who == who))
        return;
    if (!h && !(h = held_new(core, who->user_id)))
        return;
    cd_principal_unref(h->who);
    h->who = cd_principal_ref(who);
    if (core->persistent)
        seal_into_store(core, who);
    if (core->outbox)
        cd_outbox_token_ready(core->outbox, who->user_id);
}

void cd_tokens_renewed(struct cd_core *core, struct cd_principal *who)
{
    if (held_get(core, who->user_id))
        cd_tokens_hold(core, who);
    else if (core->outbox)
        cd_outbox_token_ready(core->outbox, who->user_id);
}

struct cd_principal *cd_tokens_of(struct cd_core *core, const char *user)
{
    const struct held *h = held_get(core, user);

    if (h && h->who)
        return h->who;
    for (const struct cd_client *c = cd_map_get(&core->users, cd_str_of(user)); c; c = c->next_of_user)
        if (c->who->matrix_token && !c->auth_grace.due_ms)
            return c->who;
    return core->rooms ? cd_rooms_token_of(core->rooms, user) : NULL;
}

static bool still_needed(struct cd_core *core, const char *user)
{
    size_t n;
    struct cd_live *const *calls = cd_live_of_user(core, user, &n);

    if (core->outbox && cd_outbox_pending_user(core->outbox, user))
        return true;
    for (size_t i = 0; i < n; i++)
        if (!cd_status_final(cd_live_call(calls[i])->status))
            return true;
    return false;
}

void cd_tokens_release(struct cd_core *core, const char *user)
{
    struct held *h = held_get(core, user);

    if (!h || still_needed(core, user))
        return;
    cd_map_del(&core->tokens, cd_str_of(user));
    if (core->persistent)
        core->store->ops->token_del(core->store, user);
    held_free(h);
}

void cd_tokens_refused(struct cd_core *core, const char *user, struct cd_principal *p)
{
    struct held *h = held_get(core, user);

    if (p->matrix_token)
        cd_auth_refused(core->auth, cd_str_of(p->matrix_token));
    cd_rooms_token_bad(core->rooms, p);
    cd_clients_refused(core, user, p);
    if (h && h->who == p) { /* the map's entry stays: a new token takes its place */
        cd_principal_unref(h->who);
        h->who = NULL;
    }
}

/* --- after a restart ------------------------------------------------------------------------------ */

struct unsealing {
    struct cd_core *core;
    char *user;
};

static void on_sealed(void *arg, enum cd_store_rc rc, const uint8_t *sealed, size_t n)
{
    struct unsealing *u = arg;
    char *token = rc == CD_STORE_OK && n > CD_SEAL_OVERHEAD ? calloc(1, n) : NULL;

    const struct held *h = held_get(u->core, u->user);

    if (h && h->who) {
        /* the user has come back with a newer one meanwhile */
    } else if (token && cd_seal_unwrap(u->core->seal, sealed, n, token)) {
        struct cd_principal *p = cd_principal_new(u->user, NULL, token);
        if (p) {
            cd_tokens_hold(u->core, p);
            cd_principal_unref(p);
        }
    } else if (token) {
        cd_log(CD_LOG_WARN, "tokens", "token.unreadable", &(struct cd_log_ctx){.user = u->user},
               "a sealed token does not open with seal_key_file; its user must sign in again");
    }
    if (token)
        cd_wipe(token, n);
    free(token);
    free(u->user);
    free(u);
}

void cd_tokens_restore(struct cd_core *core, const char *user)
{
    struct unsealing *u = calloc(1, sizeof(*u));

    if (!u || held_get(core, user) || !core->seal || core->dev || !(u->user = strdup(user))) {
        free(u);
        return;
    }
    u->core = core;
    core->store->ops->token_get(core->store, user, on_sealed, u);
}

void cd_tokens_free(struct cd_core *core)
{
    size_t pos = 0;
    struct held *h;

    while ((h = cd_map_next(&core->tokens, &pos)))
        held_free(h);
    cd_map_done(&core->tokens);
}

/* invite.c -- an invite of a Matrix client becomes a call: who is called, may it ring, glare.
 *
 * In: m.call.invite. Out: a new call that rings its callee's sockets, or a record of one between
 * Matrix clients, or nothing. Why slowly: the observe profile may not ask for members, so users'
 * own tokens do (design, section 5). State: invites being looked into; later events of theirs wait
 * with them.
 * Blocks: never. */
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "content.h"
#include "inbound.h"
#include "rows.h"
#include "sdp.h"

#define MAX_LOOKING 1000          /* invites being looked into */
#define LIFETIME_MS 60000         /* of an invite that names none */
#define LONGEST_RING_MS 180000
#define RECORDS_AN_HOUR 30        /* of calls between Matrix clients, a sender */
#define HOUR_MS 3600000
#define FRESH_CLIENT_MS 3000      /* so soon after connecting a user's rooms may still be unknown */
#define AGAIN_MS 250
#define AGAIN_MAX 3

/** An invite being looked into. */
struct looking {
    struct looking *next;
    struct cd_mx_saved *invite; /* holds the transaction */
    struct cd_mx_waiting waiting;
    char *callee, *callee_name, *callee_avatar, *caller_name, *caller_avatar;
    bool encrypted, ignored, stale;
    unsigned again;
    struct cd_timer timer;
};

static struct looking *all;
static size_t n_all;
static struct cd_limit *records;
static int64_t last_client_ms; /* monotonic, when somebody connected last */

enum cd_rc cd_mx_invites_start(void)
{
    records = cd_limit_new(RECORDS_AN_HOUR, HOUR_MS, 10000);
    return records ? CD_OK : CD_E_NO_MEMORY;
}

static void looking_free(struct looking *k, enum cd_store_rc rc)
{
    struct looking **at = &all;

    while (*at && *at != k)
        at = &(*at)->next;
    if (*at) {
        *at = k->next;
        n_all--;
    }
    cd_timer_cancel(k->invite->in.core->loop, &k->timer);
    cd_mx_wait_drop(&k->waiting, rc);
    cd_mx_saved_free(k->invite, rc);
    free(k->callee);
    free(k->callee_name);
    free(k->callee_avatar);
    free(k->caller_name);
    free(k->caller_avatar);
    free(k);
}

void cd_mx_invites_stop(void)
{
    cd_limit_free(records);
    records = NULL;
}

static struct looking *find(const struct cd_mx_in *in)
{
    struct looking *k = all;

    while (k && (strcmp(k->invite->in.call_id, in->call_id) != 0 ||
                 strcmp(k->invite->in.room_id, in->room_id) != 0))
        k = k->next;
    return k;
}

bool cd_mx_invite_looks(const struct cd_mx_in *in)
{
    return find(in) != NULL;
}

bool cd_mx_invite_wait(const struct cd_mx_in *in)
{
    struct looking *k = find(in);

    if (k)
        cd_mx_wait(&k->waiting, in);
    return k != NULL;
}

static void log_dropped(const struct cd_mx_in *in, const char *why)
{
    struct cd_log_ctx ctx = {.room = in->room_id, .user = in->sender};

    cd_log(CD_LOG_INFO, "matrix", "invite.dropped", &ctx,
           "a Matrix client's invite does not ring: %s", why);
}

static void drop(struct looking *k, const char *why)
{
    log_dropped(&k->invite->in, why);
    looking_free(k, CD_STORE_OK);
}

/* --- glare ------------------------------------------------------------------------------------ */

/* Our own call the other way round that still rings, or NULL. */
static struct cd_live *opposite_call(struct looking *k)
{
    const struct cd_mx_in *in = &k->invite->in;
    size_t n;
    struct cd_live *const *calls = cd_live_of_user(in->core, k->callee, &n);

    for (size_t i = 0; i < n; i++) {
        const struct cd_call *c = cd_live_call(calls[i]);

        if (c->status == CD_RINGING && c->kind == CD_DIRECT && cd_mx_is_ours(c, CD_MX_CALLER) &&
            strcmp(c->room_id, in->room_id) == 0 && strcmp(c->caller, k->callee) == 0 &&
            c->callee && strcmp(c->callee, in->sender) == 0)
            return calls[i];
    }
    return NULL;
}

/* Both call each other: the lesser call id stays (specification), and an invite that is not out yet
 * gives way. @return true: theirs goes on */
static bool settle_glare(struct looking *k)
{
    const struct cd_mx_in *in = &k->invite->in;
    struct cd_live *ours = opposite_call(k);
    struct cd_cmd cmd = {.ev = CD_EV_GLARE_LOST, .source = CD_S_MATRIX, .mx_version = 1,
                         .now_ms = cd_wall_ms()};

    if (!ours)
        return true;
    if (ours->invite_tried && strcmp(cd_call_mx_id(cd_live_call(ours)), in->call_id) < 0)
        return false;
    if (in->txn)
        cd_txn_hold(in->txn);
    cd_submit(in->core, ours, &cmd, NULL, cd_mx_applied, in->txn);
    return true;
}

/* --- the call --------------------------------------------------------------------------------- */

/* Is this somebody our clients act for? */
static bool is_known(struct cd_core *core, const char *user)
{
    return cd_user_online(core, user) || cd_tokens_of(core, user);
}

static int64_t remaining_ms(const struct cd_mx_in *in)
{
    int64_t lifetime = cd_mx_number(in->content, "lifetime", LIFETIME_MS);
    int64_t left = lifetime > in->age_ms ? lifetime - in->age_ms : 0;

    return left < LONGEST_RING_MS ? left : LONGEST_RING_MS;
}

static bool fill_caller(struct cd_call *c, const struct looking *k)
{
    const struct cd_mx_in *in = &k->invite->in;
    struct cd_participant *p = cd_call_add_participant(c, in->sender);

    if (!p)
        return false;
    p->state = CD_P_JOINED;
    p->side = CD_SIDE_MATRIX;
    p->joined_at = c->initiated_at;
    cd_mx_muted(in->content, &p->audio_enabled, &p->video_enabled);
    return cd_set_str(&p->party_id, in->party) && cd_set_str(&p->device_id, in->party) &&
           cd_set_str(&p->display_name, k->caller_name) &&
           cd_set_str(&p->avatar_url, k->caller_avatar);
}

static bool fill_callee(struct cd_call *c, const struct looking *k)
{
    struct cd_participant *p = cd_call_add_participant(c, k->callee);
    char party[CD_PARTY_ID_LEN + 1];

    if (!p)
        return false;
    cd_id_alnum(CD_PARTY_ID_LEN, party);
    bool hears = !c->foreign && cd_user_online(k->invite->in.core, k->callee);
    p->state = hears ? CD_P_RINGING : CD_P_INVITED;
    return cd_set_str(&p->party_id, party) && cd_set_str(&p->display_name, k->callee_name) &&
           cd_set_str(&p->avatar_url, k->callee_avatar);
}

static struct cd_call *build_call(const struct looking *k, const char *sdp, bool foreign)
{
    const struct cd_mx_in *in = &k->invite->in;
    struct cd_call *c = cd_call_new();
    int64_t left = remaining_ms(in), now = cd_wall_ms();
    struct cd_sdp seen;

    if (!c)
        return NULL;
    cd_sdp_scan(cd_str_of(sdp), &seen);
    c->kind = CD_DIRECT;
    c->media = CD_P2P;
    c->origin = CD_O_MATRIX;
    c->type = seen.video ? CD_VIDEO : CD_AUDIO;
    c->status = CD_RINGING;
    c->mx_version = in->version;
    c->mx_state = k->encrypted ? CD_MX_UNAVAILABLE_ENCRYPTED : CD_MX_SENT;
    c->foreign = foreign;
    c->initiated_at = now - in->age_ms;
    c->ring_expires_at = now + left;
    c->ring_seconds = (unsigned)((left + 999) / 1000);
    cd_id_call(now, c->id);
    if (cd_set_str(&c->room_id, in->room_id) && cd_set_str(&c->matrix_call_id, in->call_id) &&
        cd_set_str(&c->caller, in->sender) && cd_set_str(&c->callee, k->callee) &&
        fill_caller(c, k) && fill_callee(c, k))
        return c;
    cd_call_free(c);
    return NULL;
}

/* The offer is in the log before the call is committed, so that it rides in call-ringing. */
static void create(struct looking *k, bool foreign)
{
    const struct cd_mx_in *in = &k->invite->in;
    const char *sdp = cd_mx_text(json_object_get(in->content, "offer"), "sdp");
    struct cd_call *born = build_call(k, sdp, foreign);
    struct cd_extra extra = {.mx_hash = in->hash};
    struct cd_live *live;
    struct cd_mx *m;

    if (!born) {
        looking_free(k, CD_STORE_FULL);
        return;
    }
    if (in->txn)
        cd_txn_hold(in->txn);
    live = cd_create(in->core, born, &extra, cd_mx_applied, in->txn);
    m = live ? cd_mx_of(live) : NULL;
    if (live && (!m || !cd_mx_relay_sdp(live, in, sdp, false, true)))
        live->starved = true;
    if (m) {
        m->negotiates = in->version != 0 && cd_mx_is_modern(in->content);
        m->waiting = k->waiting;
        k->waiting = (struct cd_mx_waiting){0};
    }
    looking_free(k, CD_STORE_OK);
}

/* Everything is known: ring, record, or nothing. */
static void decide(struct looking *k)
{
    const struct cd_mx_in *in = &k->invite->in;
    struct cd_core *core = in->core;
    bool rings = cd_is_local_user(k->callee, core->conf->matrix.server_name) && !k->ignored &&
                 !k->encrypted && !k->stale && core->conf->calls.enabled;
    bool ours = rings && is_known(core, k->callee);

    if (remaining_ms(in) == 0) {
        drop(k, "its lifetime is over");
        return;
    }
    if (!ours) {
        if (!core->conf->matrix.record_foreign) {
            drop(k, "nobody of ours is called, and such calls are not recorded");
            return;
        }
        if (cd_limit_take(records, in->sender, cd_mono_ms()) > 0) {
            drop(k, "this sender's calls are recorded 30 times an hour at most");
            return;
        }
    }
    if (rings && !settle_glare(k)) {
        drop(k, "the callee's own call has the lesser id");
        return;
    }
    create(k, !rings);
}

/* --- who is called ---------------------------------------------------------------------------- */

static void on_ignored(void *arg, bool ignored)
{
    struct looking *k = arg;

    k->ignored = ignored;
    if (records)
        decide(k);
    else
        looking_free(k, CD_STORE_DOWN); /* the daemon is stopping */
}

/* @return false out of memory */
static bool take_names(struct looking *k, const struct cd_room_view *room)
{
    bool ok = true;

    for (size_t i = 0; i < room->n_members; i++) {
        const struct cd_room_member *m = &room->members[i];

        if (strcmp(m->user_id, k->invite->in.sender) == 0)
            ok = cd_set_str(&k->caller_name, m->display_name) &&
                 cd_set_str(&k->caller_avatar, m->avatar_url) && ok;
        else if (k->callee && strcmp(m->user_id, k->callee) == 0)
            ok = cd_set_str(&k->callee_name, m->display_name) &&
                 cd_set_str(&k->callee_avatar, m->avatar_url) && ok;
    }
    return ok;
}

static bool is_listed(const struct cd_room_view *room, const char *user)
{
    for (size_t i = 0; i < room->n_members; i++)
        if (strcmp(room->members[i].user_id, user) == 0)
            return true;
    return room->n_joined > room->n_members; /* too many to list: the room's word is enough */
}

/* The other one of two. */
static const char *other_of(const struct cd_room_view *room, const char *sender)
{
    const char *other = NULL;

    for (size_t i = 0; room->n_joined == 2 && i < room->n_members; i++)
        if (strcmp(room->members[i].user_id, sender) != 0)
            other = room->members[i].user_id;
    return other;
}

/* The invitee of the event; "" and null are none. */
static const char *invitee_of(const struct cd_mx_in *in)
{
    const char *invitee = cd_mx_text(in->content, "invitee");

    return invitee && invitee[0] && strlen(invitee) <= CD_MAX_ID ? invitee : NULL;
}

static const char starved[] = "out of memory";

/* @return NULL when the callee is known, else why nobody is called */
static const char *choose_callee(struct looking *k, enum cd_rc rc, const struct cd_room_view *room)
{
    const struct cd_mx_in *in = &k->invite->in;
    const char *callee = invitee_of(in);

    if (callee && strcmp(callee, in->sender) == 0)
        return "it invites its own sender";
    if (rc == CD_E_NO_MEMORY)
        return starved;
    if (rc != CD_OK) { /* nobody whose token we hold is in that room */
        if (!callee)
            callee = cd_rooms_hinted_other(in->core->rooms, in->room_id, in->sender);
        if (!callee || !cd_is_local_user(callee, in->core->conf->matrix.server_name))
            return "the room's members are not known";
    } else {
        if (!is_listed(room, in->sender))
            return "its sender is not in the room";
        if (callee && !is_listed(room, callee))
            return "its invitee is not in the room";
        if (!callee && !(callee = other_of(room, in->sender)))
            return "it names nobody, and the room has not two members";
    }
    return cd_set_str(&k->callee, callee) ? NULL : starved;
}

static void look_at_room(void *arg);

/* Nobody is known to be there, but somebody has just connected, whose rooms are being read. */
static bool look_again(struct looking *k)
{
    if (cd_mono_ms() - last_client_ms > FRESH_CLIENT_MS || k->again == AGAIN_MAX)
        return false;
    k->again++;
    return cd_timer_set(k->invite->in.core->loop, &k->timer, AGAIN_MS, look_at_room, k) == 0;
}

void cd_mx_on_client(struct cd_core *core, struct cd_client *client, bool connected)
{
    (void)core;
    (void)client;
    if (connected)
        last_client_ms = cd_mono_ms();
}

static void on_room(void *arg, enum cd_rc rc, const struct cd_room_view *room,
                    const struct cd_err *err)
{
    struct looking *k = arg;
    const struct cd_mx_in *in = &k->invite->in;
    const char *why;

    (void)err;
    if (!records) { /* the daemon is stopping: the homeserver will send it again */
        looking_free(k, CD_STORE_DOWN);
        return;
    }
    if (rc == CD_E_NOT_FOUND && look_again(k))
        return;
    why = choose_callee(k, rc, room);
    if (!why && room) {
        k->encrypted = room->encrypted;
        if (!take_names(k, room))
            why = starved;
    }
    if (why == starved) {
        log_dropped(in, why);
        looking_free(k, CD_STORE_FULL); /* the homeserver will send it again */
        return;
    }
    if (why) {
        drop(k, why);
        return;
    }
    if (cd_is_local_user(k->callee, in->core->conf->matrix.server_name))
        cd_rooms_ignored(in->core->rooms, in->sender, k->callee, on_ignored, k);
    else
        decide(k);
}

static void look_at_room(void *arg)
{
    struct looking *k = arg;
    const struct cd_mx_in *in = &k->invite->in;

    cd_rooms_view_any(in->core->rooms, in->room_id, on_room, k);
}

/* --- is it new? ------------------------------------------------------------------------------- */

static void on_looked_up(void *arg, enum cd_rc rc, struct cd_live *live)
{
    struct looking *k = arg;
    const struct cd_mx_in *in = &k->invite->in;

    (void)live;
    if (rc == CD_OK)
        looking_free(k, CD_STORE_OK); /* known: call ids are used once */
    else if (rc != CD_E_NOT_FOUND)
        looking_free(k, CD_STORE_DOWN);
    else if (in->core->rooms)
        look_at_room(k);
    else
        drop(k, "there is no homeserver to ask");
}

static void on_ours_looked_up(void *arg, enum cd_rc rc, struct cd_live *live)
{
    struct looking *k = arg;
    const struct cd_mx_in *in = &k->invite->in;

    if (rc == CD_OK && strcmp(cd_live_call(live)->room_id, in->room_id) == 0)
        looking_free(k, CD_STORE_OK); /* our own invite, pushed back late */
    else
        cd_live_find_mx(in->core, in->room_id, in->call_id, on_looked_up, k);
}

static struct looking *looking_new(const struct cd_mx_in *in)
{
    struct looking *k = n_all < MAX_LOOKING ? calloc(1, sizeof(*k)) : NULL;
    struct cd_mx_waiting one = {0};

    if (!k) {
        if (in->txn) {
            cd_txn_hold(in->txn);
            cd_txn_release(in->txn, CD_STORE_FULL);
        }
        return NULL;
    }
    cd_mx_wait(&one, in);
    k->invite = cd_mx_wait_next(&one);
    if (!k->invite) {
        free(k);
        return NULL;
    }
    k->next = all;
    all = k;
    n_all++;
    return k;
}

void cd_mx_on_invite(struct cd_mx_in *in)
{
    const char *sdp = cd_mx_text(json_object_get(in->content, "offer"), "sdp");
    struct looking *k;

    if (cd_live_get_mx(in->core, in->room_id, in->call_id) || find(in))
        return; /* our own, or a repetition */
    if (!sdp || strlen(sdp) > (size_t)in->core->conf->limits.sdp_bytes) {
        log_dropped(in, "it has no usable offer");
        return;
    }
    if (remaining_ms(in) == 0) {
        log_dropped(in, "it came when its lifetime was over");
        return;
    }
    k = looking_new(in);
    if (!k)
        return;
    k->stale = in->txn && cd_txn_ends_call(in->txn, in->room_id, in->call_id);
    if (in->call_id[0] == 'z' && strlen(in->call_id) == CD_CALL_ID_LEN)
        cd_live_find(in->core, in->call_id, on_ours_looked_up, k);
    else
        cd_live_find_mx(in->core, in->room_id, in->call_id, on_looked_up, k);
}

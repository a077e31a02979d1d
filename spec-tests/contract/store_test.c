/* store_test.c -- one contract, both stores: memory always, PostgreSQL with CALLD_TEST_DATABASE_URL.
 * store_pg_test.c adds what only a database can suffer. */
#define TAP_SECONDS 60
#include "tap.h"

#include <stdlib.h>

#include "base/budget.h"
#include "store/mem.h"

#include "store_await.h"
#include "store_kit.h"

static struct cd_store *S;

/* --- sessions --------------------------------------------------------------------------------- */

static void a_call_comes_back_whole(void)
{
    struct cd_call *c = kit_call("!whole:x", "@a:x", "@b:x");
    struct cd_stored_call *sc;

    c->type = CD_VIDEO;
    c->media = CD_P2P;
    c->origin = CD_O_MATRIX;
    c->mx_version = 0;
    c->mx_state = CD_MX_WAITING_FOR_OFFER;
    cd_set_str(&c->matrix_call_id, "call id with \"quotes\", {braces}, \\ and \xf0\x9f\x93\x9e");
    c->foreign = c->answer_provisional = c->invite_tried = c->connected_inferred = true;
    c->initiated_at = 1763683200123;
    c->accepted_at = 1763683201001;
    c->connected_at = 1763683202999;
    c->ring_expires_at = 1763683260123;
    c->ring_seconds = 45;
    c->seq = 17;
    c->status = CD_CONNECTED;
    cd_set_str(&c->participants[0].display_name, "Zo\xc3\xab \xe2\x98\x8e O'Hara\n\"x\"");
    cd_set_str(&c->participants[0].avatar_url, "mxc://x/y");
    cd_set_str(&c->participants[0].party_id, "PARTY");
    cd_set_str(&c->participants[0].device_id, "DEVICE");
    c->participants[0].state = CD_P_JOINED;
    c->participants[0].side = CD_SIDE_OURS;
    c->participants[0].audio_enabled = true;
    c->participants[0].joined_at = 1763683200123;
    c->participants[1].state = CD_P_RECONNECTING;
    c->participants[1].side = CD_SIDE_MATRIX;
    c->participants[1].video_enabled = c->participants[1].screen_sharing = true;
    c->participants[1].left_at = 1763683209000;
    cd_set_str(&c->participants[1].leave_reason, "answered_elsewhere");
    CHECK_INT(kit_put(S, kit_change(c, 0)), CD_STORE_OK);
    sc = kit_load(S, c->id);
    if (CHECK(sc && sc->call))
        kit_same_call(sc->call, c);
    cd_stored_call_free(sc);
    cd_call_free(c);
}

static void an_unknown_call_is_none(void)
{
    CHECK(!kit_load(S, "z00000000000000000000000000000000"));
    /* without its database nobody can say that there is none */
    CHECK_INT(kit_last_load_rc(), kit_spool == KIT_AWAY ? CD_STORE_DOWN : CD_STORE_OK);
    CHECK(!kit_load_matrix(S, "!nowhere:x", "none"));
}

static void a_version_moves_once(void)
{
    struct cd_call *c = kit_call("!cas:x", "@a:x", "@b:x");
    struct cd_stored_call *sc;

    CHECK_INT(kit_put(S, kit_change(c, 0)), CD_STORE_OK);
    CHECK_INT(kit_put(S, kit_change(c, 0)), CD_STORE_LOST_RACE); /* the same id again */
    c->status = CD_ACCEPTED;
    c->accepted_at = 1763683300000;
    cd_set_str(&c->participants[1].party_id, "P2");
    c->participants[1].state = CD_P_JOINED;
    CHECK_INT(kit_put(S, kit_change(c, c->version)), CD_STORE_OK);
    CHECK_INT(c->version, 2);
    sc = kit_load(S, c->id);
    if (CHECK(sc))
        kit_same_call(sc->call, c);
    cd_stored_call_free(sc);
    c->version = 1; /* as somebody who has not seen version 2 */
    c->status = CD_DECLINED;
    CHECK_INT(kit_put(S, kit_change(c, 1)), CD_STORE_LOST_RACE);
    sc = kit_load(S, c->id);
    if (CHECK(sc))
        CHECK_INT(sc->call->status, CD_ACCEPTED);
    cd_stored_call_free(sc);
    cd_call_free(c);
    c = kit_call("!cas:x", "@c:x", "@d:x"); /* an update of a call that is not there */
    CHECK_INT(kit_put(S, kit_change(c, 1)), CD_STORE_LOST_RACE);
    cd_call_free(c);
}

static void one_active_call_a_pair(void)
{
    struct cd_call *c = kit_call("!pair:x", "@a:x", "@b:x");
    struct cd_call *back = kit_call("!pair:x", "@b:x", "@a:x");
    struct cd_call *third = kit_call("!pair:x", "@a:x", "@c:x");
    struct cd_call *elsewhere = kit_call("!pair2:x", "@a:x", "@b:x");
    struct cd_call *matrix = kit_call("!pair:x", "@a:x", "@b:x");

    back->origin = CD_O_SOCKET;
    matrix->origin = CD_O_MATRIX;
    cd_set_str(&matrix->matrix_call_id, "m1");
    CHECK_INT(kit_put(S, kit_change(c, 0)), CD_STORE_OK);
    CHECK_INT(kit_put(S, kit_change(back, 0)), CD_STORE_CALL_EXISTS);
    CHECK_STR(kit_live(), c->id);
    CHECK(!kit_load(S, back->id));
    CHECK_INT(kit_put(S, kit_change(third, 0)), CD_STORE_OK);
    CHECK_INT(kit_put(S, kit_change(elsewhere, 0)), CD_STORE_OK);
    CHECK_INT(kit_put(S, kit_change(matrix, 0)), CD_STORE_OK);
    c->status = CD_CONNECTED;
    CHECK_INT(kit_put(S, kit_change(c, 1)), CD_STORE_OK);
    back->version = 0;
    CHECK_INT(kit_put(S, kit_change(back, 0)), CD_STORE_CALL_EXISTS);
    c->status = CD_ENDED;
    CHECK_INT(kit_put(S, kit_change(c, 2)), CD_STORE_OK);
    back->version = 0;
    CHECK_INT(kit_put(S, kit_change(back, 0)), CD_STORE_OK);
    cd_call_free(c);
    cd_call_free(back);
    cd_call_free(third);
    cd_call_free(elsewhere);
    cd_call_free(matrix);
}

static void one_group_call_a_room(void)
{
    struct cd_call *c = kit_call("!group:x", "@a:x", NULL);
    struct cd_call *other = kit_call("!group:x", "@b:x", NULL);
    struct cd_call *direct = kit_call("!group:x", "@a:x", "@b:x");

    CHECK_INT(kit_put(S, kit_change(c, 0)), CD_STORE_OK);
    CHECK_INT(kit_put(S, kit_change(other, 0)), CD_STORE_CALL_EXISTS);
    CHECK_STR(kit_live(), c->id);
    CHECK_INT(kit_put(S, kit_change(direct, 0)), CD_STORE_OK);
    cd_call_free(c);
    cd_call_free(other);
    cd_call_free(direct);
}

static void a_matrix_id_is_unique_within_its_room(void)
{
    struct cd_call *c = kit_call("!m1:x", "@a:x", "@b:x");
    struct cd_call *again = kit_call("!m1:x", "@b:x", "@a:x");
    struct cd_call *other = kit_call("!m2:x", "@a:x", "@b:x");
    struct cd_stored_call *sc;

    c->origin = again->origin = other->origin = CD_O_MATRIX;
    cd_set_str(&c->matrix_call_id, "same");
    cd_set_str(&again->matrix_call_id, "same");
    cd_set_str(&other->matrix_call_id, "same");
    CHECK_INT(kit_put(S, kit_change(c, 0)), CD_STORE_OK);
    CHECK_INT(kit_put(S, kit_change(again, 0)), CD_STORE_LOST_RACE);
    CHECK_INT(kit_put(S, kit_change(other, 0)), CD_STORE_OK);
    sc = kit_load_matrix(S, "!m1:x", "same");
    if (CHECK(sc))
        CHECK_STR(sc->call->id, c->id);
    cd_stored_call_free(sc);
    sc = kit_load_matrix(S, "!m2:x", "same");
    if (CHECK(sc))
        CHECK_STR(sc->call->id, other->id);
    cd_stored_call_free(sc);
    CHECK(!kit_load_matrix(S, "!m3:x", "same"));
    cd_call_free(c);
    cd_call_free(again);
    cd_call_free(other);
}

static void participants_follow(void)
{
    struct cd_call *c = kit_call("!parts:x", "@a:x", "@b:x");
    struct cd_stored_call *sc;
    struct cd_participant *p;

    CHECK_INT(kit_put(S, kit_change(c, 0)), CD_STORE_OK);
    p = cd_call_add_participant(c, "@late:x");
    p->state = CD_P_JOINED;
    cd_set_str(&c->participants[0].display_name, NULL);
    c->participants[0].audio_enabled = false;
    cd_set_str(&c->participants[1].leave_reason, "left");
    c->participants[1].state = CD_P_LEFT;
    CHECK_INT(kit_put(S, kit_change(c, 1)), CD_STORE_OK);
    sc = kit_load(S, c->id);
    if (CHECK(sc))
        kit_same_call(sc->call, c);
    cd_stored_call_free(sc);
    cd_call_free(c);
}

/* --- what comes with a transition ------------------------------------------------------------- */

static void a_matrix_event_applies_once(void)
{
    struct cd_call *c = kit_call("!dup:x", "@a:x", "@b:x");
    struct cd_call *again = kit_call("!dup:x", "@a:x", "@b:x");
    struct cd_change *ch = kit_change(c, 0);
    struct cd_stored_call *sc;

    kit_hash(ch, 0, "$event1");
    CHECK_INT(kit_put(S, ch), CD_STORE_OK);
    c->status = CD_ENDED;
    ch = kit_change(c, 1);
    kit_hash(ch, 0, "$event1");
    CHECK_INT(kit_put(S, ch), CD_STORE_DUPLICATE);
    ch = kit_change(again, 0); /* other reasons hold too: this one is told */
    kit_hash(ch, 0, "$event1");
    CHECK_INT(kit_put(S, ch), CD_STORE_DUPLICATE);
    sc = kit_load(S, c->id);
    if (CHECK(sc)) {
        CHECK_INT(sc->call->status, CD_RINGING);
        if (CHECK_INT(sc->n_events, 1)) {
            CHECK(sc->events[0].has_mx_hash);
            CHECK(memcmp(sc->events[0].mx_hash, kit_hash_of("$event1"), 16) == 0);
        }
    }
    cd_stored_call_free(sc);
    c->version = 1;
    ch = kit_change(c, 1);
    kit_hash(ch, 0, "$event2");
    CHECK_INT(kit_put(S, ch), CD_STORE_OK);
    cd_call_free(c);
    cd_call_free(again);
}

static void an_idempotency_key_counts_once(void)
{
    struct cd_call *c = kit_call("!idem:x", "@a:x", "@b:x");
    struct cd_call *second = kit_call("!idem2:x", "@a:x", "@b:x");
    struct cd_change *ch = kit_change(c, 0);
    const struct cd_idem_row *row;
    int64_t now = cd_wall_ms();

    kit_idem(ch, "@a:x", "key-\xc3\xa9", 201, "{\"callId\":\"\xf0\x9f\x98\x80\"}", now);
    CHECK(!kit_idem_get(S, "@a:x", "key-\xc3\xa9"));
    CHECK_INT(kit_put(S, ch), CD_STORE_OK);
    row = kit_idem_get(S, "@a:x", "key-\xc3\xa9");
    if (CHECK(row)) {
        CHECK_INT(row->status, 201);
        CHECK_STR(row->response, "{\"callId\":\"\xf0\x9f\x98\x80\"}");
        CHECK_STR(row->call_id, c->id);
        CHECK_INT(row->at, now);
        CHECK(memcmp(row->request_hash, kit_hash_of("request"), 16) == 0);
    }
    CHECK(!kit_idem_get(S, "@b:x", "key-\xc3\xa9"));
    ch = kit_change(second, 0);
    kit_idem(ch, "@a:x", "key-\xc3\xa9", 201, "{}", now + 1000);
    CHECK_INT(kit_put(S, ch), CD_STORE_LOST_RACE);
    CHECK(!kit_load(S, second->id));
    second->version = 0;
    ch = kit_change(second, 0); /* a day later the key is free again */
    kit_idem(ch, "@a:x", "key-\xc3\xa9", 200, "{\"n\":2}", now + 24 * 3600 * 1000);
    CHECK_INT(kit_put(S, ch), CD_STORE_OK);
    row = kit_idem_get(S, "@a:x", "key-\xc3\xa9");
    if (CHECK(row))
        CHECK_STR(row->response, "{\"n\":2}");
    cd_call_free(c);
    cd_call_free(second);
}

static void an_old_idempotency_key_is_forgotten(void)
{
    struct cd_call *c = kit_call("!idem3:x", "@a:x", "@b:x");
    struct cd_change *ch = kit_change(c, 0);

    kit_idem(ch, "@a:x", "old", 201, "{}", cd_wall_ms() - 25 * 3600 * 1000);
    CHECK_INT(kit_put(S, ch), CD_STORE_OK);
    CHECK(!kit_idem_get(S, "@a:x", "old"));
    cd_call_free(c);
}

static void answer_under(const char *user, size_t key)
{
    struct cd_change *ch = cd_change_new("zkeys");
    char name[32];

    snprintf(name, sizeof name, "many%zu", key);
    kit_idem(ch, user, name, 200, "{}", cd_wall_ms());
    CHECK(ch->idem && kit_put(S, ch) == CD_STORE_OK);
}

/* In memory they have to stop somewhere, are counted, and one user's many push out nobody else's. */
static void keys_in_memory_are_bounded(void)
{
    size_t before = cd_budget_used_by(CD_BUDGET_KEYS);

    answer_under("@quiet:x", 0);
    for (size_t i = 0; i <= MEM_KEYS_A_USER; i++)
        answer_under("@loud:x", i);
    CHECK(!kit_idem_get(S, "@loud:x", "many0"));
    CHECK(kit_idem_get(S, "@loud:x", "many1"));
    CHECK(kit_idem_get(S, "@quiet:x", "many0"));
    CHECK(cd_budget_used_by(CD_BUDGET_KEYS) > before + MEM_KEYS_A_USER * sizeof(struct cd_idem_row));
}

static void events_signals_and_outbox_come_back(void)
{
    struct cd_call *c = kit_call("!rows:x", "@a:x", "@b:x");
    struct cd_change *ch = kit_change(c, 0);
    struct cd_stored_call *sc;

    cd_change_event(ch, 5, "answered", NULL, NULL, 1763683205005);
    cd_change_event(ch, 3, "joined", "@b:x", "{\"name\":\"\xe2\x82\xac \\u20ac\"}", 1763683203003);
    kit_signal(ch, 4, "webrtc-offer", "@a:x", "{\"offer\":{\"type\":\"offer\",\"sdp\":\"v=0\\r\\n\xc3\xbc\"}}");
    kit_signal(ch, 2, "ice-candidate", "@b:x", "{\"candidates\": [ ] }");
    kit_signal(ch, 2, "ice-candidate", "@b:x", "{\"same\":\"number\"}");
    kit_outbox(ch, "t-9", 9, 1, "{\"late\":1}");
    kit_outbox(ch, "t-0", 0, 7, "{\"sdp\":\"\xf0\x9f\x93\x9e\",  \"order\":\"kept\"}");
    kit_outbox(ch, "t-1b", 1, 2, "{}");
    kit_outbox(ch, "t-1a", 1, 1, "{}");
    ch->outbox[0].not_before = 1763683209009;
    ch->outbox[0].deadline = 1763683299009;
    ch->outbox[0].tried = true;
    ch->outbox[0].attempts = 3;
    CHECK_INT(kit_put(S, ch), CD_STORE_OK);
    sc = kit_load(S, c->id);
    if (!CHECK(sc))
        return;
    if (CHECK_INT(sc->n_events, 3)) {
        CHECK_STR(sc->events[0].type, "initiated");
        CHECK_STR(sc->events[1].type, "joined");
        CHECK_INT(sc->events[1].seq, 3);
        CHECK_STR(sc->events[1].user_id, "@b:x");
        CHECK_INT(sc->events[1].at, 1763683203003);
        CHECK(sc->events[1].data && strstr(sc->events[1].data, "\xe2\x82\xac"));
        CHECK_INT(sc->events[2].seq, 5);
        CHECK_STR(sc->events[2].user_id, NULL);
        CHECK(!sc->events[2].has_mx_hash);
    }
    if (CHECK_INT(sc->n_signals, 2)) {
        CHECK_INT(sc->signals[0].seq, 2);
        CHECK_STR(sc->signals[0].payload, "{\"candidates\": [ ] }");
        CHECK_STR(sc->signals[0].from_party, "P");
        CHECK_STR(sc->signals[0].to, NULL);
        CHECK_STR(sc->signals[1].kind, "webrtc-offer");
        CHECK_STR(sc->signals[1].from_user, "@a:x");
        CHECK_STR(sc->signals[1].payload,
                  "{\"offer\":{\"type\":\"offer\",\"sdp\":\"v=0\\r\\n\xc3\xbc\"}}");
    }
    if (CHECK_INT(sc->n_outbox, 4)) {
        CHECK_STR(sc->outbox[0].txn_id, "t-0");
        CHECK_STR(sc->outbox[0].content, "{\"sdp\":\"\xf0\x9f\x93\x9e\",  \"order\":\"kept\"}");
        CHECK_STR(sc->outbox[0].call_id, c->id);
        CHECK_STR(sc->outbox[0].event_type, "m.call.invite");
        CHECK_STR(sc->outbox[0].room_id, "!rows:x");
        CHECK_STR(sc->outbox[0].user_id, "@a:x");
        CHECK_STR(sc->outbox[1].txn_id, "t-1a");
        CHECK_STR(sc->outbox[2].txn_id, "t-1b");
        CHECK_INT(sc->outbox[3].rank, 9);
        CHECK_INT(sc->outbox[3].ord, 1);
        CHECK_INT(sc->outbox[3].not_before, 1763683209009);
        CHECK_INT(sc->outbox[3].deadline, 1763683299009);
        CHECK(sc->outbox[3].tried);
        CHECK_INT(sc->outbox[3].attempts, 3);
    }
    cd_stored_call_free(sc);
    cd_call_free(c);
}

static void what_has_no_text_is_refused(void)
{
    static const char *const bad[] = {"{\"a\":\"\\u0000\"}", "{\"a\":\"\\ud800\"}", "{\"a\":\"\\udc00x\"}",
                                      "{\"a\":\"\xff\"}", "{\"a\":", "{\"a\":1} x", ""};
    struct cd_call *c = kit_call("!bad:x", "@a:x", "@b:x");

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct cd_change *ch = kit_change(c, 0);

        cd_change_event(ch, 2, "joined", "@b:x", bad[i], 1);
        if (!CHECK_INT(kit_put(S, ch), CD_STORE_REFUSED))
            tap_fail(__FILE__, __LINE__, "with %s", bad[i]);
        c->version = 0;
    }
    CHECK(!kit_load(S, c->id));
    cd_set_str(&c->participants[1].display_name, "\xed\xa0\x80"); /* a surrogate in UTF-8 */
    CHECK_INT(kit_put(S, kit_change(c, 0)), CD_STORE_REFUSED);
    cd_set_str(&c->participants[1].display_name, "fine \\u0000 as text: a backslash and five letters");
    c->version = 0;
    CHECK_INT(kit_put(S, kit_change(c, 0)), CD_STORE_OK);
    cd_call_free(c);
}

static void signals_live_as_long_as_their_call(void)
{
    struct cd_call *c = kit_call("!sig:x", "@a:x", "@b:x");
    struct cd_change *ch = kit_change(c, 0);
    struct cd_stored_call *sc;

    kit_signal(ch, 2, "webrtc-offer", "@a:x", "{}");
    CHECK_INT(kit_put(S, ch), CD_STORE_OK);
    ch = cd_change_new(c->id); /* no transition: written behind */
    kit_signal(ch, 3, "ice-candidate", "@a:x", "{}");
    CHECK_INT(kit_put(S, ch), CD_STORE_OK);
    sc = kit_load(S, c->id);
    if (CHECK(sc)) {
        CHECK_INT(sc->n_signals, 2);
        CHECK_INT(sc->call->version, 1);
    }
    cd_stored_call_free(sc);
    c->status = CD_ENDED;
    ch = kit_change(c, 1);
    ch->drop_signals = true;
    CHECK_INT(kit_put(S, ch), CD_STORE_OK);
    ch = cd_change_new(c->id);
    kit_signal(ch, 9, "ice-candidate", "@a:x", "{}");
    CHECK_INT(kit_put(S, ch), CD_STORE_OK);
    sc = kit_load(S, c->id);
    if (CHECK(sc))
        CHECK_INT(sc->n_signals, 0);
    cd_stored_call_free(sc);
    ch = cd_change_new("z11111111111111111111111111111111");
    kit_signal(ch, 9, "ice-candidate", "@a:x", "{}");
    CHECK_INT(kit_put(S, ch), CD_STORE_OK);
    ch = cd_change_new("z11111111111111111111111111111111");
    cd_change_event(ch, 1, "joined", "@a:x", NULL, 1);
    CHECK_INT(kit_put(S, ch), CD_STORE_LOST_RACE);
    ch = cd_change_new("z11111111111111111111111111111111");
    kit_outbox(ch, "t-nowhere", 0, 1, "{}");
    CHECK_INT(kit_put(S, ch), CD_STORE_LOST_RACE);
    cd_call_free(c);
}

/* --- outbox ----------------------------------------------------------------------------------- */

static struct cd_call *call_with_outbox(const char *room, const char *prefix)
{
    struct cd_call *c = kit_call(room, "@a:x", "@b:x");
    struct cd_change *ch = kit_change(c, 0);
    char txn[40];

    for (int i = 0; i < 4; i++) {
        snprintf(txn, sizeof txn, "%s%d", prefix, i);
        kit_outbox(ch, txn, i < 2 ? i : 9, i, "{}");
    }
    CHECK_INT(kit_put(S, ch), CD_STORE_OK);
    return c;
}

static size_t outbox_left(const struct cd_call *c)
{
    struct cd_stored_call *sc = kit_load(S, c->id);
    size_t n = sc ? sc->n_outbox : 99;

    cd_stored_call_free(sc);
    return n;
}

static void outbox_rows_are_marked_and_done(void)
{
    struct cd_call *c = call_with_outbox("!out:x", "o");
    struct cd_stored_call *sc;
    struct cd_change *ch;

    ch = cd_change_new(c->id); /* a transaction id is used once */
    kit_outbox(ch, "o-new", 3, 1, "{}");
    kit_outbox(ch, "o1", 1, 1, "{}");
    CHECK_INT(kit_put(S, ch), CD_STORE_LOST_RACE);
    CHECK_INT(outbox_left(c), 4);
    CHECK_INT(kit_tried(S, "o0", 2), CD_STORE_OK);
    /* one that is away cannot know */
    CHECK_INT(kit_tried(S, "no such row", 1), kit_spool == KIT_AWAY ? CD_STORE_OK : CD_STORE_LOST_RACE);
    S->ops->outbox_done(S, "o1");
    CHECK_INT(kit_flush(S), CD_STORE_OK);
    sc = kit_load(S, c->id);
    if (CHECK(sc) && CHECK_INT(sc->n_outbox, 3)) {
        CHECK_STR(sc->outbox[0].txn_id, "o0");
        CHECK(sc->outbox[0].tried);
        CHECK_INT(sc->outbox[0].attempts, 2);
        CHECK(!sc->outbox[1].tried);
    }
    cd_stored_call_free(sc);
    cd_call_free(c);
}

static void what_nobody_needs_is_dropped(void)
{
    struct cd_call *c = call_with_outbox("!drop:x", "d");
    struct cd_call *other = call_with_outbox("!drop2:x", "e");
    struct cd_change *ch;

    CHECK_INT(kit_tried(S, "d3", 1), CD_STORE_OK);
    c->status = CD_ENDED;
    ch = kit_change(c, 1);
    ch->drop_untried_droppable = true;
    kit_outbox(ch, "d-hangup", 3, 1, "{}");
    CHECK_INT(kit_put(S, ch), CD_STORE_OK);
    CHECK_INT(outbox_left(c), 4); /* d0, d1, d-hangup and d3, which was tried */
    ch = cd_change_new(c->id);
    ch->drop_untried_all = true;
    CHECK_INT(kit_put(S, ch), CD_STORE_OK);
    CHECK_INT(outbox_left(c), 0);
    CHECK_INT(outbox_left(other), 4);
    cd_call_free(c);
    cd_call_free(other);
}

/* What its daemon wants to say may come behind the end that another one wrote. */
static void a_call_that_is_over_says_nothing_more(void)
{
    struct cd_call *c = call_with_outbox("!over:x", "s");
    struct cd_change *ch = cd_change_new(c->id);

    kit_outbox(ch, "s-answer", 1, 9, "{}");
    CHECK_INT(kit_put(S, ch), CD_STORE_OK);
    CHECK_INT(outbox_left(c), 5);
    c->status = CD_ENDED;
    CHECK_INT(kit_put(S, kit_change(c, 1)), CD_STORE_OK);
    ch = cd_change_new(c->id);
    kit_outbox(ch, "s-late", 1, 10, "{}");
    CHECK_INT(kit_put(S, ch), CD_STORE_LOST_RACE);
    CHECK_INT(outbox_left(c), 5);
    cd_call_free(c);
}

static struct cd_change *ending(struct cd_call *c, const char *txn)
{
    struct cd_change *ch;

    c->status = CD_ENDED;
    ch = kit_change(c, 1);
    ch->drop_untried_all = true;
    kit_outbox(ch, txn, 3, 1, "{}");
    return ch;
}

/* The one who ends a call may not know yet that its invite is out; the store does. */
static void an_invite_that_was_tried_gets_its_end(void)
{
    struct cd_call *silent = call_with_outbox("!told:x", "f");
    struct cd_call *noted = call_with_outbox("!told2:x", "g");
    struct cd_call *sent = call_with_outbox("!told3:x", "h");
    struct cd_stored_call *sc;

    CHECK_INT(kit_put(S, ending(silent, "f-hangup")), CD_STORE_OK);
    CHECK_INT(outbox_left(silent), 0);
    CHECK_INT(kit_tried(S, "g0", 1), CD_STORE_OK);
    CHECK_INT(kit_put(S, ending(noted, "g-hangup")), CD_STORE_OK);
    CHECK(outbox_left(noted) > 1);
    CHECK_INT(kit_tried(S, "h0", 1), CD_STORE_OK);
    S->ops->outbox_done(S, "h0");
    CHECK_INT(kit_put(S, ending(sent, "h-hangup")), CD_STORE_OK);
    CHECK(outbox_left(sent) > 0);
    sc = kit_load(S, sent->id);
    if (CHECK(sc))
        CHECK(sc->call->invite_tried);
    cd_stored_call_free(sc);
    cd_call_free(silent);
    cd_call_free(noted);
    cd_call_free(sent);
}

/* --- start ------------------------------------------------------------------------------------ */

static void a_start_finds_what_is_not_over(void)
{
    struct cd_call *live = kit_call("!live:x", "@a:x", "@b:x");
    struct cd_call *over = kit_call("!live2:x", "@a:x", "@b:x");
    struct cd_call *owing = kit_call("!live3:x", "@a:x", "@b:x");
    struct cd_change *ch = kit_change(live, 0);
    const struct cd_stored_call *found;
    struct kit_all all;

    kit_signal(ch, 2, "webrtc-offer", "@a:x", "{}");
    CHECK_INT(kit_put(S, ch), CD_STORE_OK);
    over->status = owing->status = CD_MISSED;
    CHECK_INT(kit_put(S, kit_change(over, 0)), CD_STORE_OK);
    ch = kit_change(owing, 0);
    kit_outbox(ch, "owing", 3, 1, "{}");
    CHECK_INT(kit_put(S, ch), CD_STORE_OK);
    kit_load_live(S, &all);
    CHECK_INT(all.rc, CD_STORE_OK);
    found = kit_find(&all, live->id);
    if (CHECK(found)) {
        kit_same_call(found->call, live);
        CHECK_INT(found->n_signals, 1);
        CHECK_INT(found->n_events, 1);
    }
    found = kit_find(&all, owing->id);
    if (CHECK(found))
        CHECK_INT(found->n_outbox, 1);
    CHECK(!kit_find(&all, over->id));
    kit_all_free(&all);
    cd_call_free(live);
    cd_call_free(over);
    cd_call_free(owing);
}

/* --- several at once -------------------------------------------------------------------------- */

#define CROWD 60

static void a_bad_one_hurts_no_innocents(void)
{
    struct cd_call *c[CROWD];
    struct kit_commit r[CROWD];
    char room[40];
    int ok = 0;

    for (int i = 0; i < CROWD; i++) {
        snprintf(room, sizeof room, "!crowd%d:x", i);
        c[i] = kit_call(i == 30 ? "!crowd7:x" : room, "@a:x", "@b:x");
    }
    for (int i = 0; i < CROWD; i++)
        kit_submit(S, kit_change(c[i], i == 40 ? 5 : 0), &r[i]); /* 40: an update of nothing */
    for (int i = 0; i < CROWD; i++)
        CHECK(!r[i].done); /* never inside the submitting call */
    for (int i = 0; i < CROWD; i++) {
        UNTIL(r[i].done);
        ok += r[i].rc == CD_STORE_OK;
    }
    CHECK_INT(ok, CROWD - 2);
    CHECK_INT(r[30].rc, CD_STORE_CALL_EXISTS);
    CHECK_STR(r[30].live, c[7]->id);
    CHECK_INT(r[40].rc, CD_STORE_LOST_RACE);
    for (int i = 0; i < CROWD; i++)
        cd_call_free(c[i]);
}

static void changes_of_one_call_keep_their_order(void)
{
    struct cd_call *c = kit_call("!order:x", "@a:x", "@b:x");
    struct cd_call *step[5];
    struct kit_commit r[6];
    struct cd_change *ch;
    struct cd_stored_call *sc;

    kit_submit(S, kit_change(c, 0), &r[0]);
    for (int i = 0; i < 5; i++) { /* each on top of the last, none waited for */
        step[i] = cd_call_clone(i ? step[i - 1] : c);
        step[i]->status = i < 4 ? CD_CONNECTED : CD_ENDED;
        ch = kit_change(step[i], step[i]->version);
        cd_change_event(ch, (uint64_t)(10 + i), "toggled", "@a:x", NULL, 1 + i);
        kit_submit(S, ch, &r[i + 1]);
    }
    for (int i = 0; i < 6; i++) {
        UNTIL(r[i].done);
        CHECK_INT(r[i].rc, CD_STORE_OK);
    }
    sc = kit_load(S, c->id);
    if (CHECK(sc)) {
        CHECK_INT(sc->call->version, 6);
        CHECK_INT(sc->call->status, CD_ENDED);
        CHECK_INT(sc->n_events, 11);
    }
    cd_stored_call_free(sc);
    for (int i = 0; i < 5; i++)
        cd_call_free(step[i]);
    cd_call_free(c);
}

static void one_may_end_where_the_next_begins(void)
{
    struct cd_call *c = kit_call("!next:x", "@a:x", "@b:x");
    struct cd_call *next = kit_call("!next:x", "@a:x", "@b:x");
    struct kit_commit r[2];

    CHECK_INT(kit_put(S, kit_change(c, 0)), CD_STORE_OK);
    c->status = CD_ENDED;
    kit_submit(S, kit_change(c, 1), &r[0]);
    kit_submit(S, kit_change(next, 0), &r[1]);
    UNTIL(r[0].done && r[1].done);
    CHECK_INT(r[0].rc, CD_STORE_OK);
    CHECK_INT(r[1].rc, CD_STORE_OK);
    cd_call_free(c);
    cd_call_free(next);
}

/* --- the small tables ------------------------------------------------------------------------- */

static void tokens_come_back_sealed(void)
{
    static const uint8_t one[] = {0, 1, 2, 255, 0, '"', '\\', 7}, two[] = {9, 0, 9};

    CHECK_INT(kit_token_get(S, "@t:x", NULL, 0), -1);
    S->ops->token_put(S, "@t:x", "D1", one, sizeof one);
    CHECK_INT(kit_flush(S), CD_STORE_OK);
    CHECK_INT(kit_token_get(S, "@t:x", one, sizeof one), 1);
    S->ops->token_put(S, "@t:x", "D2", two, sizeof two);
    CHECK_INT(kit_flush(S), CD_STORE_OK);
    CHECK_INT(kit_token_get(S, "@t:x", two, sizeof two), 1);
    S->ops->token_put(S, "@t:x", "D1", one, sizeof one); /* both within one turn */
    S->ops->token_put(S, "@t:x", "D1", two, sizeof two);
    CHECK_INT(kit_flush(S), CD_STORE_OK);
    CHECK_INT(kit_token_get(S, "@t:x", two, sizeof two), 1);
    S->ops->token_del(S, "@t:x");
    S->ops->token_put(S, "@t:x", NULL, one, sizeof one);
    CHECK_INT(kit_flush(S), CD_STORE_OK);
    CHECK_INT(kit_token_get(S, "@t:x", one, sizeof one), 1);
    S->ops->token_del(S, "@t:x");
    CHECK_INT(kit_flush(S), CD_STORE_OK);
    CHECK_INT(kit_token_get(S, "@t:x", NULL, 0), -1);
}

static void members_come_back(void)
{
    char room[] = "!mem:x", a[] = "@a:x", b[] = "@b:x";
    char name[] = "B\xc3\xa9", newer[] = "Newer", mxc[] = "mxc://x/1";
    const struct cd_member_row first[] = {{room, a, true, NULL, NULL}, {room, b, true, name, mxc}};
    const struct cd_member_row then[] = {{room, a, true, name, NULL}, {room, b, false, NULL, NULL},
                                         {room, a, true, newer, mxc}};

    S->ops->members_put(S, first, 2);
    CHECK_INT(kit_flush(S), CD_STORE_OK);
    CHECK_STR(kit_member(S, room, a), "");
    CHECK_STR(kit_member(S, room, b), "B\xc3\xa9 mxc://x/1");
    S->ops->members_put(S, then, 3);
    S->ops->members_put(S, NULL, 0);
    CHECK_INT(kit_flush(S), CD_STORE_OK);
    CHECK_STR(kit_member(S, room, a), "Newer mxc://x/1");
    CHECK_STR(kit_member(S, room, b), NULL);
}

static void seen_events_are_seen_once(void)
{
    struct kit_commit r[4];

    kit_seen(S, "$s1", &r[0]);
    kit_seen(S, "$s1", &r[1]);
    kit_seen(S, "$s2", &r[2]);
    UNTIL(r[0].done && r[1].done && r[2].done);
    CHECK_INT(r[0].rc, CD_STORE_OK);
    CHECK_INT(r[1].rc, CD_STORE_DUPLICATE);
    CHECK_INT(r[2].rc, CD_STORE_OK);
    kit_seen(S, "$s2", &r[3]);
    UNTIL(r[3].done);
    CHECK_INT(r[3].rc, CD_STORE_DUPLICATE);
}

static void poison_is_set_aside(void)
{
    char raw[70000];

    memset(raw, 0xff, sizeof raw);
    raw[3] = '\0';
    CHECK_INT(kit_quarantine(S, "not text", (struct cd_str){raw, sizeof raw}), CD_STORE_OK);
    CHECK_INT(kit_quarantine(S, "nothing", (struct cd_str){raw, 0}), CD_STORE_OK);
}

static void it_counts(void)
{
    struct cd_store_stats before, after;
    struct cd_call *c = kit_call("!count:x", "@a:x", "@b:x");

    S->ops->stats(S, &before);
    CHECK_INT(before.connected, kit_spool != KIT_AWAY);
    CHECK_INT(kit_put(S, kit_change(c, 0)), CD_STORE_OK);
    c->version = 0;
    CHECK_INT(kit_put(S, kit_change(c, 0)), CD_STORE_LOST_RACE);
    cd_stored_call_free(kit_load(S, c->id));
    S->ops->stats(S, &after);
    CHECK_INT(after.commits - before.commits, 1);
    CHECK_INT(after.lost_races - before.lost_races, 1);
    CHECK_INT(after.reads - before.reads, 1);
    CHECK_INT(after.queue_now, 0);
    cd_call_free(c);
}

static struct cd_store *closing;
static bool closed;

static void close_it(void *arg, enum cd_store_rc rc, const char *live)
{
    (void)arg;
    (void)rc;
    (void)live;
    closing->ops->close(closing);
    closed = true;
}

static void must_not_be_called(void *arg, enum cd_store_rc rc, const char *live)
{
    (void)rc;
    (void)live;
    *(bool *)arg = true;
}

/* A receiver may close the store; who comes after it is not called. */
static void a_receiver_may_close_it(void)
{
    struct cd_call *c = kit_call("!close:x", "@a:x", "@b:x");
    struct cd_call *d = kit_call("!close2:x", "@a:x", "@b:x");
    bool called = false;
    int64_t until;

    closing = kit_open();
    closed = false;
    if (!CHECK(closing))
        return;
    closing->ops->commit(closing, kit_change(c, 0), close_it, NULL);
    closing->ops->commit(closing, kit_change(d, 0), must_not_be_called, &called);
    UNTIL(closed);
    until = cd_mono_ms() + 50;
    UNTIL(cd_mono_ms() > until);
    CHECK(!called);
    cd_call_free(c);
    cd_call_free(d);
}

static void closing_with_work_left_leaks_nothing(void)
{
    struct cd_call *c = kit_call("!left:x", "@a:x", "@b:x");
    struct cd_store *s = kit_open();
    bool called = false;

    if (!CHECK(s))
        return;
    s->ops->commit(s, kit_change(c, 0), must_not_be_called, &called);
    s->ops->token_del(s, "@a:x");
    s->ops->close(s);
    CHECK(!called);
    cd_call_free(c);
}

static void contract(void)
{
    S = kit_open();
    if (!S) {
        printf("Bail out! no %s store\n", kit_name);
        exit(1);
    }
    printf("# %s%s\n", kit_name, kit_spool == KIT_SPOOL ? " with a spool" : kit_spool ? " is away" : "");
    TAP_RUN(a_call_comes_back_whole);
    TAP_RUN(an_unknown_call_is_none);
    TAP_RUN(a_version_moves_once);
    TAP_RUN(one_active_call_a_pair);
    TAP_RUN(one_group_call_a_room);
    TAP_RUN(a_matrix_id_is_unique_within_its_room);
    TAP_RUN(participants_follow);
    TAP_RUN(a_matrix_event_applies_once);
    TAP_RUN(an_idempotency_key_counts_once);
    TAP_RUN(an_old_idempotency_key_is_forgotten);
    if (strcmp(kit_name, "memory") == 0)
        TAP_RUN(keys_in_memory_are_bounded);
    TAP_RUN(events_signals_and_outbox_come_back);
    TAP_RUN(what_has_no_text_is_refused);
    TAP_RUN(signals_live_as_long_as_their_call);
    TAP_RUN(outbox_rows_are_marked_and_done);
    TAP_RUN(what_nobody_needs_is_dropped);
    TAP_RUN(a_call_that_is_over_says_nothing_more);
    TAP_RUN(an_invite_that_was_tried_gets_its_end);
    TAP_RUN(a_start_finds_what_is_not_over);
    TAP_RUN(a_bad_one_hurts_no_innocents);
    TAP_RUN(changes_of_one_call_keep_their_order);
    TAP_RUN(one_may_end_where_the_next_begins);
    TAP_RUN(tokens_come_back_sealed);
    TAP_RUN(members_come_back);
    TAP_RUN(seen_events_are_seen_once);
    TAP_RUN(poison_is_set_aside);
    TAP_RUN(it_counts);
    TAP_RUN(a_receiver_may_close_it);
    TAP_RUN(closing_with_work_left_leaks_nothing);
    S->ops->close(S);
}

static void all(void)
{
    kit_use_memory();
    contract();
    if (kit_use_postgres()) {
        contract();
        kit_end();
        kit_use_postgres();
        kit_spool = KIT_SPOOL;
        kit_spool_begin();
        contract();
        kit_spool_end();
    } else {
        printf("# CALLD_TEST_DATABASE_URL is not set: without a database alone\n");
    }
    kit_name = "postgresql";
    kit_spool = KIT_AWAY;
    kit_spool_begin();
    contract();
    kit_spool_end();
}

int main(void)
{
    if (!kit_start() || !await_run(all))
        return 1;
    kit_end();
    return tap_done();
}

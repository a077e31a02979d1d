/* mx_wants_test.c -- which pushed candidates are read, and which are not worth it. */
#include <stdlib.h>

#include "live.h"
#include "matrix/inbound.h"
#include "tap.h"

#define ROOM "!r:x"
#define CALL "z0123456789abcdef0123456789abcdef"

static struct cd_core core;

/* Alice's page calls Bob's Matrix client. */
static struct cd_live *a_call(enum cd_status status)
{
    struct cd_call *c = cd_call_new();
    struct cd_participant *a, *b;

    snprintf(c->id, sizeof c->id, CALL);
    c->version = 1;
    c->status = status;
    cd_set_str(&c->room_id, ROOM);
    cd_set_str(&c->caller, "@alice:x");
    cd_set_str(&c->callee, "@bob:x");
    a = cd_call_add_participant(c, "@alice:x");
    b = cd_call_add_participant(c, "@bob:x");
    a->side = CD_SIDE_OURS;
    cd_set_str(&a->party_id, "PAGE");
    b->side = CD_SIDE_MATRIX;
    cd_set_str(&b->party_id, "PHONE");
    return cd_live_new(&core, c, false);
}

static bool wants(const char *type, const char *sender, const char *content)
{
    struct cd_mx_event ev = {.type = type, .sender = sender, .room_id = ROOM};

    return cd_mx_wants(&core, &ev, cd_str_of(content));
}

static bool wants_candidates(const char *sender, const char *content)
{
    return wants("m.call.candidates", sender, content);
}

static void the_other_sides(void)
{
    a_call(CD_ACCEPTED);
    CHECK(wants_candidates("@bob:x", "{\"call_id\":\"" CALL "\",\"party_id\":\"PHONE\",\"candidates\":[]}"));
    CHECK(wants_candidates("@bob:x", "{\"call_id\":\"" CALL "\",\"version\":0,\"candidates\":[]}"));
    CHECK(wants_candidates("@bob:x", "{\"c\\u0061ll_id\":\"" CALL "\",\"party_id\":\"PHONE\"}"));
    cd_live_free_all(&core);
}

static void our_own_come_back(void)
{
    a_call(CD_ACCEPTED);
    CHECK(!wants_candidates("@alice:x", "{\"call_id\":\"" CALL "\",\"party_id\":\"PAGE\",\"version\":\"1\"}"));
    CHECK(wants_candidates("@alice:x", "{\"call_id\":\"" CALL "\",\"party_id\":\"PAGE\",\"version\":0}"));
    cd_live_free_all(&core);
}

static void of_calls_that_are_not_ours(void)
{
    CHECK(!wants_candidates("@bob:x", "{\"call_id\":\"" CALL "\",\"party_id\":\"PHONE\"}"));
    a_call(CD_ENDED);
    CHECK(!wants_candidates("@bob:x", "{\"call_id\":\"" CALL "\",\"party_id\":\"PHONE\"}"));
    CHECK(!wants_candidates("@bob:x", "{\"call_id\":\"other\",\"party_id\":\"PHONE\"}"));
    cd_live_free_all(&core);
}

static void all_else_is_read(void)
{
    CHECK(wants("m.call.hangup", "@bob:x", "{\"call_id\":\"other\"}"));
    CHECK(wants("m.call.negotiate", "@bob:x", "{\"call_id\":\"other\"}"));
    CHECK(wants_candidates("@bob:x", "{\"call_id\":7}"));
    CHECK(wants_candidates("@bob:x", "{}"));
}

int main(void)
{
    struct cd_loop_conf conf = {.max_fds = 64};

    core.loop = cd_loop_new(&conf);
    if (!core.loop)
        return 1;
    TAP_RUN(the_other_sides);
    TAP_RUN(our_own_come_back);
    TAP_RUN(of_calls_that_are_not_ours);
    TAP_RUN(all_else_is_read);
    cd_loop_free(core.loop);
    cd_map_done(&core.calls);
    cd_map_done(&core.mx_calls);
    cd_map_done(&core.by_user);
    return tap_done();
}

/* wants.c -- which pushed candidates are worth a tree: most are echoes of what we sent, or of calls
 * that are none of ours, and they are the bulk of what a homeserver pushes.
 *
 * In: an event's head and the text of its content. Out: yes or no. Rule: no only where inbound.c would
 * drop the event, too. State: none. Blocks: never. */
#include "base/scan.h"
#include "inbound.h"

enum { OF_CALL, OF_PARTY, OF_VERSION, N_FIELDS };

static const struct cd_json_pick fields[N_FIELDS] = {
    [OF_CALL] = CD_PICK("call_id"),
    [OF_PARTY] = CD_PICK("party_id"),
    [OF_VERSION] = CD_PICK("version"),
};

bool cd_mx_wants(void *self, const struct cd_mx_event *ev, struct cd_str raw_content)
{
    struct cd_core *core = self;
    struct cd_str found[N_FIELDS];
    char call_id[256], party[256];
    struct cd_mx_in in = {.core = core, .room_id = ev->room_id, .sender = ev->sender, .call_id = call_id,
                          .party = party};

    if (strcmp(ev->type, "m.call.candidates") != 0)
        return true;
    cd_json_pick_valid(raw_content, fields, N_FIELDS, found);
    if (cd_json_text(found[OF_CALL], call_id, sizeof call_id) < 0)
        return true; /* odd: inbound.c judges it */
    if (cd_json_text(found[OF_PARTY], party, sizeof party) < 0 ||
        cd_json_kind(found[OF_VERSION]) == CD_JSON_NUMBER) /* version 0 has no parties */
        party[0] = '\0';
    const struct cd_live *live = cd_live_get_mx(core, ev->room_id, call_id);
    if (!live)
        return cd_mx_invite_looks(&in);
    return !cd_status_final(cd_live_call(live)->status) && !cd_mx_is_echo(live, &in);
}

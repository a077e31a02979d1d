/* op.c -- requests of clients: from the wire to an operation and back, with idempotency.
 *
 * In: a REST request or a socket event. Out: its answer. Why one shape: no transport holds call logic.
 * Idempotency: the answer stands in the transaction that made it true; a second request with the same
 * key waits for the first, then gets that answer. */
#include "calls.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/secret.h"

#define PARK_MS 12000 /* longer than any store or homeserver call takes to fail */
#define MAX_KEY 255

static void begin(struct cd_op *op);

/* Signals are operations, too, thousands a second: the memory of the last few serves the next ones. */
#define SPARE_MAX 8
#define SPARE_BODY 4096
static struct cd_op *spare[SPARE_MAX];
static size_t n_spare;

static void op_free(struct cd_op *op)
{
    cd_principal_unref(op->who);
    free(op->key);
    free(op->charged_room);
    if (n_spare < SPARE_MAX && op->body_cap <= SPARE_BODY) {
        spare[n_spare++] = op;
        return;
    }
    free(op->body);
    free(op);
}

/* A blank operation with room for @p n bytes of text. */
static struct cd_op *op_alloc(size_t n)
{
    struct cd_op *op = n_spare ? spare[--n_spare] : calloc(1, sizeof(*op));

    if (!op)
        return NULL;
    char *body = op->body;
    size_t cap = op->body_cap;
    if (!body || cap < n) {
        free(body);
        cap = n < 1024 ? 1024 : n;
        body = malloc(cap);
        if (!body) {
            free(op);
            return NULL;
        }
    }
    memset(op, 0, sizeof(*op));
    op->body = body;
    op->body_cap = cap;
    return op;
}

/* --- answering ------------------------------------------------------------------------------------ */

static void finish(struct cd_op *op);

/* The key is free again: the next request with it looks the answer up. */
static void release_key(struct cd_op *op)
{
    struct cd_op *waiting = op->next_waiting;

    if (!op->key_held)
        return;
    cd_map_del(&op->core->idem, cd_str_of(op->key));
    op->key_held = false;
    op->next_waiting = NULL;
    while (waiting) {
        struct cd_op *next = waiting->next_waiting;

        waiting->next_waiting = NULL;
        if (waiting->req)
            begin(waiting);
        else
            finish(waiting); /* a repetition whose client has left: nobody wants its answer */
        waiting = next;
    }
}

static void answer(struct cd_op *op, int status, struct cd_buf *body)
{
    if (op->sock_id) {
        struct cd_str members = {body->p, body->n};
        if (body->failed) {
            cd_fail(&op->err, CD_E_NO_MEMORY, NULL);
            cd_ack_fail(&op->ack, &op->err, op->call_id);
        } else {
            cd_ack_ok(&op->ack, members);
        }
        cd_buf_done(body);
    } else if (op->req) {
        cd_req_reply_json(op->req, status, body);
    } else {
        cd_buf_done(body); /* the client has left */
    }
}

struct saving {
    struct cd_op *op;
    int status;
    struct cd_buf body;
};

/* A REST operation answered within its handler is freed there, any other one here. */
static void finish(struct cd_op *op)
{
    bool in_handler = !op->parked && !op->sock_id;

    op->answered = true;
    release_key(op);
    if (!in_handler)
        op_free(op);
}

static void saved(void *arg, enum cd_store_rc rc, const char *live_call_id)
{
    struct saving *s = arg;

    (void)live_call_id;
    if (rc == CD_STORE_LOST_RACE) { /* the key has an answer by now */
        cd_buf_done(&s->body);
        cd_op_key_taken(s->op);
        free(s);
        return;
    }
    /* else an answer that could not be kept is still the answer */
    answer(s->op, s->status, &s->body);
    finish(s->op);
    free(s);
}

static char *kept_form(struct cd_op *op, const struct cd_buf *body);

/* Keep the answer of an operation that made no transition under its key. */
static bool save_answer(struct cd_op *op, int status, struct cd_buf *body)
{
    struct cd_change *ch = cd_change_new(op->live ? cd_live_id(op->live) : "");
    struct saving *s = malloc(sizeof(*s));
    struct cd_idem_row *row;

    if (!cd_op_idem(op, status, &row) || !ch || !s || body->failed || !(row->response = kept_form(op, body))) {
        cd_change_free(ch);
        cd_idem_row_free(row);
        free(s);
        return false;
    }
    ch->idem = row;
    *s = (struct saving){op, status, *body};
    op->core->store->ops->commit(op->core->store, ch, saved, s);
    return true;
}

void cd_op_ok(struct cd_op *op, int status, struct cd_buf *body)
{
    if (op->key && !op->idem_given && save_answer(op, status, body))
        return;
    answer(op, status, body);
    finish(op);
}

void cd_op_fail(struct cd_op *op, enum cd_rc rc)
{
    if (op->err.rc != rc)
        cd_fail(&op->err, rc, NULL);
    if (op->sock_id)
        cd_ack_fail(&op->ack, &op->err, op->call_id[0] ? op->call_id : NULL);
    else if (op->req)
        cd_req_fail(op->req, &op->err);
    finish(op);
}

void cd_op_error(struct cd_op *op, enum cd_rc rc, const char *fmt, ...)
{
    char text[200];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    cd_fail(&op->err, rc, "%s", text);
    cd_op_fail(op, rc);
}

void cd_op_ok_call(struct cd_op *op, int status, const char *party_id)
{
    struct cd_buf b;

    cd_buf_init(&b, 1024 * 1024);
    cd_render_call(&b, op->core, op->live, op->who->user_id, party_id, true);
    op->with_party = party_id != NULL;
    cd_op_ok(op, status, &b);
}

/* --- idempotency ---------------------------------------------------------------------------------- */

bool cd_op_idem(struct cd_op *op, int status, struct cd_idem_row **out)
{
    struct cd_idem_row *row = op->key ? calloc(1, sizeof(*row)) : NULL;

    *out = NULL;
    if (!op->key)
        return true;
    if (!row || !(row->user_id = strdup(op->who->user_id)) ||
        !(row->key = strdup(op->key + strlen(op->who->user_id) + 1))) {
        cd_idem_row_free(row);
        return false;
    }
    memcpy(row->request_hash, op->request_hash, sizeof(row->request_hash));
    row->status = status;
    row->at = cd_wall_ms();
    if (op->live)
        snprintf(row->call_id, sizeof(row->call_id), "%s", cd_live_id(op->live));
    op->idem_given = true;
    *out = row;
    return true;
}

static const char *party_of(const struct cd_call *c, const char *user)
{
    const struct cd_participant *p = cd_call_participant_const(c, user);

    return p ? p->party_id : NULL;
}

void cd_op_fill_idem(struct cd_core *core, struct cd_live *live, const struct cd_call *prev,
                     const struct cd_call *next, const struct cd_cmd *cmd, struct cd_idem_row *row)
{
    bool seated = !prev || cmd->ev == CD_EV_ANSWER; /* these two answers name the party */
    struct cd_buf b;

    if (row->response)
        return;
    cd_buf_init(&b, 1024 * 1024); /* as an answer: what is not kept could not be committed */
    if (cmd->ev == CD_EV_TOGGLE_AUDIO || cmd->ev == CD_EV_TOGGLE_VIDEO || cmd->ev == CD_EV_TOGGLE_SCREEN)
        calls_render_switches(&b, next, row->user_id);
    else
        cd_render_state(&b, core, live, next, row->user_id, seated ? party_of(next, row->user_id) : NULL,
                        false);
    row->response = cd_buf_steal(&b, NULL);
    snprintf(row->call_id, sizeof(row->call_id), "%s", next->id);
}

static bool is_call_object(const char *response)
{
    return strncmp(response, "{\"callId\"", 9) == 0;
}

/* What is kept of an answer that made no transition. @return malloc'ed */
static char *kept_form(struct cd_op *op, const struct cd_buf *body)
{
    struct cd_buf b;

    if (!op->live || !is_call_object(body->p))
        return strndup(body->p, body->n);
    cd_buf_init(&b, 1024 * 1024);
    cd_render_call(&b, op->core, op->live, op->who->user_id,
                   op->with_party ? party_of(cd_live_call(op->live), op->who->user_id) : NULL, false);
    return cd_buf_steal(&b, NULL);
}

/* The kept answer, with fresh credentials and the SDPs where the call still lives. */
static void replay(struct cd_op *op, const struct cd_idem_row *row)
{
    struct cd_live *l = row->call_id[0] ? cd_live_get(op->core, row->call_id) : NULL;
    struct cd_buf b;

    cd_buf_init(&b, 1024 * 1024);
    cd_buf_adds(&b, row->response);
    if (b.n && l && is_call_object(row->response) && !cd_status_final(cd_live_call(l)->status) &&
        cd_live_seat_of(l, op->who->user_id) >= 0) {
        b.n--; /* the closing brace */
        cd_render_private(&b, op->core, l, op->who->user_id);
        cd_buf_addc(&b, '}');
    }
    op->idem_given = true;
    answer(op, row->status, &b);
    finish(op);
}

static void on_idem(void *arg, enum cd_store_rc rc, const struct cd_idem_row *row)
{
    struct cd_op *op = arg;

    if (rc != CD_STORE_OK)
        cd_op_error(op, CD_E_OVERLOADED, "The Idempotency-Key could not be looked up; try again.");
    else if (!row)
        op->run(op);
    else if (memcmp(row->request_hash, op->request_hash, sizeof(op->request_hash)) != 0)
        cd_op_fail(op, CD_E_IDEMPOTENCY);
    else
        replay(op, row);
}

static void on_taken(void *arg, enum cd_store_rc rc, const struct cd_idem_row *row)
{
    struct cd_op *op = arg;

    if (rc == CD_STORE_OK && row)
        on_idem(arg, rc, row);
    else
        cd_op_error(op, CD_E_OVERLOADED, "The call could not be stored; try again.");
}

void cd_op_key_taken(struct cd_op *op)
{
    struct cd_store *store = op->core->store;

    store->ops->idem_get(store, op->who->user_id, op->key + strlen(op->who->user_id) + 1, on_taken, op);
}

/* One request a key at a time: the others queue behind it. */
static void begin(struct cd_op *op)
{
    struct cd_core *core = op->core;

    if (!op->key) {
        op->run(op);
        return;
    }
    struct cd_op *first = cd_map_get(&core->idem, cd_str_of(op->key));
    if (first) {
        op->next_waiting = first->next_waiting;
        first->next_waiting = op;
        return;
    }
    if (cd_map_put(&core->idem, cd_str_of(op->key), op) != 0) {
        cd_op_fail(op, CD_E_NO_MEMORY);
        return;
    }
    op->key_held = true;
    core->store->ops->idem_get(core->store, op->who->user_id, op->key + strlen(op->who->user_id) + 1, on_idem,
                               op);
}

/* What makes two requests the same: method, path and body. */
static bool hash_request(struct cd_op *op)
{
    bool ok;

    struct cd_buf b;

    cd_buf_init(&b, 1024 * 1024);
    cd_buf_adds(&b, cd_req_method(op->req));
    cd_buf_addc(&b, ' ');
    cd_buf_adds(&b, cd_req_path(op->req));
    cd_buf_addc(&b, '\n');
    cd_buf_adds(&b, op->body);
    ok = !b.failed;
    if (ok)
        cd_hash16((struct cd_str){b.p, b.n}, op->request_hash);
    cd_buf_done(&b);
    return ok;
}

static bool take_key(struct cd_op *op)
{
    const char *key = cd_req_header(op->req, "Idempotency-Key");
    struct cd_buf b;

    if (!key || strcmp(cd_req_method(op->req), "POST") != 0)
        return true;
    size_t n = strlen(key);
    if (n == 0 || n > MAX_KEY || !cd_utf8_valid(key, n)) {
        cd_fail(&op->err, CD_E_INVALID_PARAM, "Idempotency-Key must have 1 to %d bytes of UTF-8.", MAX_KEY);
        return false;
    }
    cd_buf_init(&b, 1024);
    cd_buf_adds(&b, op->who->user_id);
    cd_buf_addc(&b, '\n');
    cd_buf_adds(&b, key);
    op->key = cd_buf_steal(&b, NULL);
    if (op->key && hash_request(op))
        return true;
    cd_fail(&op->err, CD_E_NO_MEMORY, NULL); /* not without the key that was asked for */
    return false;
}

/* --- entry ---------------------------------------------------------------------------------------- */

/* @param valid_depth  the text is known to be valid and nested no deeper; 0: nothing is known of it */
static struct cd_op *op_new(struct cd_core *core, struct cd_principal *who, struct cd_str text,
                            unsigned valid_depth, cd_op_fn run)
{
    struct cd_op *op = op_alloc(text.n + 1);
    unsigned max_depth = (unsigned)core->conf->limits.json_depth;

    if (!op)
        return NULL;
    op->core = core;
    op->who = cd_principal_ref(who);
    op->run = run;
    if (text.n)
        memcpy(op->body, text.p, text.n);
    op->body[text.n] = '\0';
    text.p = op->body;
    if (valid_depth && valid_depth <= max_depth)
        cd_input_open_valid(&op->in, text, &op->err);
    else
        cd_input_open(&op->in, text, max_depth, &op->err);
    return op;
}

static void give_up(void *arg)
{
    struct cd_op *op = arg;

    op->req = NULL; /* timed out or left: the operation goes on, its answer goes nowhere */
}

enum cd_rc cd_op_rest(struct cd_core *core, struct cd_req *req, cd_op_fn run)
{
    struct cd_principal *who = cd_req_principal(req);
    struct cd_op *op = op_new(core, who, cd_req_body(req), 0, run);
    const char *id = cd_req_param(req, 0);

    if (!op)
        return cd_fail(cd_req_err(req), CD_E_NO_MEMORY, NULL);
    op->req = req;
    snprintf(op->call_id, sizeof(op->call_id), "%s", id ? id : "");
    snprintf(op->client, sizeof(op->client), "%s", who->device_id ? who->device_id : "rest");
    if (op->in.rc != CD_OK || !take_key(op)) {
        enum cd_rc rc = op->err.rc;
        *cd_req_err(req) = op->err;
        op_free(op);
        return rc;
    }
    begin(op);
    if (op->answered) {
        op_free(op);
        return CD_OK;
    }
    op->parked = true;
    cd_req_park(req, PARK_MS, false, give_up, op);
    return CD_PENDING;
}

/* "socket:ID". Thousands a second: printf would be a good part of a signal's cost. */
static void name_socket(char *out, uint64_t id)
{
    char digits[24];
    size_t i = sizeof(digits);

    digits[--i] = '\0';
    do {
        digits[--i] = (char)('0' + id % 10);
        id /= 10;
    } while (id);
    memcpy(out, "socket:", 7);
    memcpy(out + 7, digits + i, sizeof(digits) - i);
}

void cd_op_socket(struct cd_core *core, struct cd_client *client, struct cd_str payload,
                  const struct cd_ack *ack, cd_op_fn run)
{
    struct cd_op *op = op_new(core, client->who, payload, CD_SOCK_JSON_DEPTH, run);
    struct cd_err err;

    if (!op) {
        cd_fail(&err, CD_E_NO_MEMORY, NULL);
        cd_ack_fail(ack, &err, NULL);
        return;
    }
    op->ack = *ack;
    op->sock_id = client->sock_id;
    name_socket(op->client, client->sock_id);
    cd_input_text(&op->in, "callId", false, op->call_id, sizeof(op->call_id));
    if (op->in.rc != CD_OK)
        cd_op_fail(op, op->in.rc);
    else
        run(op);
}

/* --- finding the call ----------------------------------------------------------------------------- */

/* While the homeserver cannot be asked a call goes on for those who are in it: they were members when it
 * began, and who leaves the room is pushed. */
static bool goes_on(const struct cd_op *op)
{
    const struct cd_live *l = cd_live_get(op->core, op->call_id);

    return l && l->cur && !cd_status_final(l->cur->status) && cd_live_seat_of(l, op->who->user_id) >= 0;
}

static void on_membership(void *arg, enum cd_rc rc, const struct cd_room_view *room, const struct cd_err *err)
{
    struct cd_op *op = arg;

    (void)room;
    if (rc == CD_E_HOMESERVER && goes_on(op))
        rc = CD_OK;
    if (rc == CD_E_NOT_FOUND) {
        cd_op_error(op, CD_E_NOT_FOUND, "There is no such call.");
    } else if (rc != CD_OK) {
        if (err)
            op->err = *err;
        cd_op_fail(op, rc);
    } else if (!(op->live = cd_live_get(op->core, op->call_id))) {
        cd_op_error(op, CD_E_NOT_FOUND, "There is no such call.");
    } else if (op->found_own && cd_live_seat_of(op->live, op->who->user_id) < 0) {
        cd_op_error(op, CD_E_FORBIDDEN, "You are a member of the room, but not of this call.");
    } else {
        op->live->touched_ms = cd_mono_ms();
        op->found(op);
    }
}

static void on_found(void *arg, enum cd_rc rc, struct cd_live *live)
{
    struct cd_op *op = arg;

    if (rc == CD_E_NOT_FOUND || (rc == CD_OK && !live->cur)) /* one still being created is nobody's yet */
        cd_op_error(op, CD_E_NOT_FOUND, "There is no such call.");
    else if (rc == CD_E_OVERLOADED)
        cd_op_error(op, rc, "The database does not answer, and this call is not in memory; try again.");
    else if (rc != CD_OK)
        cd_op_fail(op, rc);
    else
        cd_rooms_joined(op->core->rooms, op->who, live->cur->room_id, on_membership, op);
}

static void seek(struct cd_op *op, cd_op_fn next, bool own)
{
    if (!op->call_id[0]) {
        cd_op_error(op, CD_E_MISSING_PARAM, "callId is required.");
        return;
    }
    op->found = next;
    op->found_own = own;
    cd_live_find(op->core, op->call_id, on_found, op);
}

void cd_op_with_call(struct cd_op *op, cd_op_fn next)
{
    seek(op, next, false);
}

void cd_op_with_own_call(struct cd_op *op, cd_op_fn next)
{
    seek(op, next, true);
}

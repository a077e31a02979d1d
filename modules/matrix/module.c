/* module.c -- the Matrix module's table: start, stop, hooks, metrics. */
#include "base/log.h"
#include "inbound.h"
#include "matrix.h"
#include "mirror.h"

#define MAX_EVENT_BYTES 65536

static enum cd_rc start(struct cd_core *core, struct cd_err *err)
{
    const struct cd_conf *conf = core->conf;
    struct cd_as_conf as_conf = {.legacy_paths = conf->matrix.legacy_paths,
                                 .max_event_bytes = MAX_EVENT_BYTES};

    if (cd_mx_invites_start() != CD_OK)
        return cd_fail(err, CD_E_NO_MEMORY, NULL);
    if (conf->matrix.homeserver_url[0] && !core->no_homeserver) {
        core->outbox = cd_outbox_new(core->loop, core->fetch, core->store,
                                     conf->matrix.homeserver_url, &cd_mx_outbox_ops, core);
        if (!core->outbox)
            return cd_fail(err, CD_E_NO_MEMORY, NULL);
    }
    if (core->dev)
        return CD_OK;
    if (!conf->matrix.hs_token[0]) {
        cd_log(CD_LOG_WARN, "matrix", "registration.missing", NULL,
               "no registration is configured: calls of Matrix clients are not seen "
               "(matrix-calld generate-registration, then matrix.registration)");
        return CD_OK;
    }
    core->as = cd_as_new(core->loop, core->http, core->store, &as_conf, &cd_mx_as_ops, core);
    return core->as ? CD_OK : cd_fail(err, CD_E_NO_MEMORY, NULL);
}

static void stop(struct cd_core *core)
{
    cd_as_free(core->as);
    core->as = NULL;
    cd_outbox_free(core->outbox);
    core->outbox = NULL;
    cd_mx_invites_stop();
}

static void outbox_metrics(struct cd_buf *b, const struct cd_outbox *outbox)
{
    struct cd_outbox_stats o;

    cd_outbox_stats(outbox, &o);
    cd_metric(b, "matrix_up", "gauge", "1 while the homeserver answers.", o.homeserver_up);
    cd_metric(b, "matrix_sent_total", "counter", "Events sent into rooms.", (double)o.sent);
    cd_metric(b, "matrix_expired_total", "counter", "Events given up at their deadline.",
              (double)o.expired);
    cd_metric(b, "matrix_refused_total", "counter", "Events the homeserver refused.",
              (double)o.refused);
    cd_metric(b, "matrix_no_token_total", "counter", "Events dropped without a usable token.",
              (double)o.no_token);
    cd_metric(b, "matrix_retries_total", "counter", "Sending attempts repeated.",
              (double)o.retries);
    cd_metric(b, "matrix_rate_limited_total", "counter", "Times the homeserver said 429.",
              (double)o.rate_limited);
    cd_metric(b, "matrix_echoes_found_total", "counter",
              "Events without an answer that were in the room: not sent again.", (double)o.echoes_found);
    cd_metric(b, "matrix_echoes_missing_total", "counter",
              "Events without an answer that were not in the room: sent again.",
              (double)o.echoes_missing);
    cd_metric(b, "matrix_waiting", "gauge", "Events waiting to be sent.", (double)o.waiting);
    cd_metric(b, "matrix_oldest_seconds", "gauge", "How long the oldest of them has waited.",
              (double)o.oldest_ms / 1000);
    cd_metric(b, "matrix_away", "gauge", "1 while one request at a time asks whether it is back.",
              o.away);
    cd_metric(b, "matrix_backoff_seconds", "gauge", "Time until the next of these requests.",
              (double)o.back_off_ms / 1000);
}

static void transaction_metrics(struct cd_buf *b, const struct cd_appservice *as)
{
    struct cd_as_stats a;

    cd_as_stats(as, &a);
    cd_metric(b, "as_transactions_total", "counter", "Transactions received.",
              (double)a.transactions);
    cd_metric(b, "as_events_total", "counter", "Events in them.", (double)a.events);
    cd_metric(b, "as_relevant_total", "counter", "Events that concern calls or members.",
              (double)a.relevant);
    cd_metric(b, "as_duplicate_events_total", "counter", "Events seen before.",
              (double)a.duplicate_events);
    cd_metric(b, "as_quarantined_total", "counter", "Events that could not be read.",
              (double)a.quarantined);
    cd_metric(b, "as_lag_seconds", "gauge", "Age of the newest event when it came.",
              (double)a.last_lag_ms / 1000);
}

static void metrics(struct cd_core *core, struct cd_buf *out)
{
    if (core->outbox)
        outbox_metrics(out, core->outbox);
    if (core->as)
        transaction_metrics(out, core->as);
}

const struct cd_module cd_module_matrix = {
    .name = "matrix",
    .help = "m.call.* both ways: Matrix clients take part in calls",
    .start = start,
    .stop = stop,
    .before_commit = cd_mx_before_commit,
    .after_commit = cd_mx_after_commit,
    .on_signal = cd_mx_on_signal,
    .on_client = cd_mx_on_client,
    .on_gone = cd_mx_on_gone,
    .on_restored = cd_mx_on_restored,
    .on_moved = cd_mx_on_moved,
    .metrics = metrics,
};

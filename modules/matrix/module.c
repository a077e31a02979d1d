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

static void add_metric(struct cd_buf *out, const char *name, const char *help, const char *type,
                       uint64_t v)
{
    cd_buf_addf(out, "# HELP calld_matrix_%s %s\n", name, help);
    cd_buf_addf(out, "# TYPE calld_matrix_%s %s\n", name, type);
    cd_buf_addf(out, "calld_matrix_%s %llu\n", name, (unsigned long long)v);
}

static void metrics(struct cd_core *core, struct cd_buf *out)
{
    if (core->outbox) {
        struct cd_outbox_stats s;

        cd_outbox_stats(core->outbox, &s);
        add_metric(out, "events_sent_total", "Events sent into rooms.", "counter", s.sent);
        add_metric(out, "events_expired_total", "Events given up at their deadline.", "counter",
                   s.expired);
        add_metric(out, "events_refused_total", "Events the homeserver refused.", "counter",
                   s.refused);
        add_metric(out, "events_no_token_total", "Events without a usable token.", "counter",
                   s.no_token);
        add_metric(out, "send_retries_total", "Attempts repeated.", "counter", s.retries);
        add_metric(out, "send_limited_total", "Answers 429.", "counter", s.rate_limited);
        add_metric(out, "outbox_waiting", "Events waiting to be sent.", "gauge", s.waiting);
        add_metric(out, "homeserver_up", "1: the last attempt reached it.", "gauge",
                   s.homeserver_up);
    }
    if (core->as) {
        struct cd_as_stats s;

        cd_as_stats(core->as, &s);
        add_metric(out, "transactions_total", "Transactions received.", "counter", s.transactions);
        add_metric(out, "events_total", "Events received.", "counter", s.events);
        add_metric(out, "relevant_events_total", "Call and membership events.", "counter",
                   s.relevant);
        add_metric(out, "duplicate_events_total", "Events received again.", "counter",
                   s.duplicate_events);
        add_metric(out, "quarantined_events_total", "Events set aside.", "counter", s.quarantined);
    }
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
    .metrics = metrics,
};

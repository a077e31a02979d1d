/* pg_notice.c -- PostgreSQL's notices and warnings, as lines of our log. */
#include "store/pg_notice.h"

#include <stdbool.h>
#include <string.h>

#include "base/log.h"

void cd_pg_notice(void *arg, const PGresult *res)
{
    /* the untranslated one: LC_MESSAGES must not decide what is a warning */
    const char *severity = PQresultErrorField(res, PG_DIAG_SEVERITY_NONLOCALIZED);
    const char *text = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);
    bool warning = severity && strcmp(severity, "WARNING") == 0;

    (void)arg;
    cd_log(warning ? CD_LOG_WARN : CD_LOG_DEBUG, "store", "pg.notice", NULL, "%s: %s",
           severity ? severity : "notice", text ? text : "");
}

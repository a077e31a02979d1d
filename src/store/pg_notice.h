/* pg_notice.h -- what PostgreSQL remarks goes into our log, not to stderr. */
#ifndef CD_STORE_PG_NOTICE_H
#define CD_STORE_PG_NOTICE_H

#include <libpq-fe.h>

/** A notice receiver for PQsetNoticeReceiver. */
void cd_pg_notice(void *arg, const PGresult *res);

#endif

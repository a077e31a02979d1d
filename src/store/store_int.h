/* store_int.h -- what the two stores share and nobody else needs. */
#ifndef CD_STORE_STORE_INT_H
#define CD_STORE_STORE_INT_H

#include "store/store.h"

/** What daemons and commands tell each other through the database. */
#define CD_NODES_CHANNEL "calld_nodes" /* a daemon that comes says its name there */
#define CD_NODES_FORGET "forget "      /* and an erasure which call's rows it has changed */

#define CD_STORE_QUEUE_MAX 20000          /* changes that may wait */
#define CD_STORE_WAIT_MS 10000            /* a change or load that waited this long is answered DOWN */
#define CD_IDEM_TTL_MS (24 * 3600 * 1000) /* an Idempotency-Key is honoured this long */
#define CD_QUARANTINE_BYTES 65536         /* of a poison event are kept */

/** Can both stores keep it? Valid UTF-8 throughout, JSON where JSON belongs, no U+0000 in event data.
 * @return false: the change is answered CD_STORE_REFUSED */
bool cd_change_check(const struct cd_change *ch);
/** Is @p c under the one-active-call rule (design, section 4)? */
bool cd_call_holds_active(const struct cd_call *c);
void cd_event_row_done(struct cd_event_row *r);
/** One event type literal for stored text: event rows borrow their type. @return never NULL */
const char *cd_event_type_intern(const char *type);

/** strdup that keeps NULL. @return false out of memory */
bool cd_dup(char **out, const char *s);

/** Append a zeroed element to an array. @p n counts, @p cap holds room. @return NULL out of memory */
void *cd_grow(void **base, size_t *n, size_t *cap, size_t elem_bytes);

#endif

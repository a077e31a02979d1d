/* conf_priv.h -- what the configuration's own files share: the table's row, the values as found and
 * the list of findings. Only conf*.c and registration.c include it. */
#ifndef CD_CONF_PRIV_H
#define CD_CONF_PRIV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "base/err.h"
#include "conf.h"

enum conf_type {
    CONF_TEXT,
    CONF_WORDS,  /* a list; kept joined by single blanks */
    CONF_COMMAS, /* a list; kept joined by commas without blanks */
    CONF_BOOL,
    CONF_INT,
    CONF_CHOICE /* one of `allowed`, which joins them by '|' */
};

#define CONF_SECRET 1U /* masked in dumps; also read from the file that <key>_file names */
#define CONF_RELOAD 2U /* SIGHUP may change it */
#define CONF_FILLED 4U /* must not be empty */

struct conf_key {
    const char *section, *name, *full; /* full: "section.name" */
    enum conf_type type;
    unsigned flags;
    size_t offset; /* into struct cd_conf */
    long min, max; /* CONF_INT, inclusive */
    const char *def;
    const char *allowed; /* choices, or the shape in words; NULL: any text */
    bool (*shape)(const char *value); /* CONF_TEXT: the value; lists: each item. NULL: any */
    const char *help;
};

struct conf_section {
    const char *name, *help;
};

extern const struct conf_key cd_conf_keys[];
extern const size_t cd_conf_key_count;
extern const struct conf_section cd_conf_sections[];
extern const size_t cd_conf_section_count;

/* An old name in the environment. */
struct conf_alias {
    const char *variable, *section, *name;
};
extern const struct conf_alias cd_conf_aliases[]; /* ends in an all-NULL row; earlier rows win */

/* Who said so: the higher one wins. */
enum conf_rank { CONF_UNSET, CONF_FROM_FILE, CONF_FROM_ALIAS, CONF_FROM_ENV };

/* A value as it was found, before it is judged. */
struct conf_raw {
    char *text;
    char *where; /* "FILE:12" or "environment NAME" */
    unsigned line;
    enum conf_rank rank;
    bool names_file; /* text is the path of the file that holds the secret */
};

struct conf_load {
    const char *path; /* NULL: no file */
    char *const *environ_;
    FILE *problems;     /* may be NULL */
    struct cd_err *err; /* gets the first error; may be NULL */
    unsigned errors;
    struct conf_raw *raw; /* one a row of cd_conf_keys */
};

/* conf_table.c */
long cd_conf_key_index(const char *section, const char *name); /* -1: unknown */
bool cd_conf_section_known(const char *name);
/** The nearest "section.key" to an unknown one. @return NULL when nothing is near */
const struct conf_key *cd_conf_nearest(const char *section, const char *name);
const char *cd_conf_nearest_section(const char *name);

/* conf_file.c */
/** Note an error ("where: text") and count it. */
void cd_conf_error(struct conf_load *l, const char *where, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/** Say it, without refusing the configuration. */
void cd_conf_warn(struct conf_load *l, const char *where, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void cd_conf_read_file(struct conf_load *l);
void cd_conf_read_environment(struct conf_load *l);
const char *cd_conf_getenv(const struct conf_load *l, const char *name);
/** Replace "the secret is in this file" by the secret. */
void cd_conf_read_secrets(struct conf_load *l);

/* conf_check.c */
bool cd_conf_is_address(const char *v);
bool cd_conf_is_http_url(const char *v);
bool cd_conf_is_origin(const char *v);
bool cd_conf_is_prefix(const char *v);
bool cd_conf_is_proxy(const char *v);
bool cd_conf_is_word(const char *v);
bool cd_conf_is_database(const char *v);
bool cd_conf_is_identifier(const char *v);
bool cd_conf_is_server_name(const char *v);
bool cd_conf_is_token(const char *v);
bool cd_conf_is_stun(const char *v);
bool cd_conf_is_turn(const char *v);
bool cd_conf_is_user_id(const char *v);

/* conf_cross.c */
/** What no single key can tell: PORT, derived values, registration, keys that need each other. */
void cd_conf_cross(struct conf_load *l, struct cd_conf *c);

/** Where a value came from, for messages: its place, or "section.key" for a default. */
const char *cd_conf_where(const struct conf_load *l, const char *section, const char *name);
bool cd_conf_is_set(const struct conf_load *l, const char *section, const char *name);

/** Note that there was no memory: the configuration is refused. */
void cd_conf_starved(struct conf_load *l);
/** Replace an owned text of the configuration, wiping the old one.
 * @param value  NULL: could not be made. @return false out of memory: noted, and the old text stays */
bool cd_conf_set_text(struct conf_load *l, char **field, const char *value);

#endif

/* conf.c -- the configuration from its parts, its sample, its dump, its reload.
 *
 * In:     a file, an environment.
 * Out:    struct cd_conf, checked; findings by place.
 * Owns:   every text in struct cd_conf; texts that a reload replaced live until cd_conf_free, so
 *         that a pointer somebody kept stays good.
 * Blocks: reads files; at start and reload only. */
#include "conf_priv.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/buf.h"
#include "base/str.h"

#define VALUE_MAX_BYTES 65536

/* A text that was replaced while the daemon ran. */
struct old_text {
    struct old_text *next;
    char *text;
};

struct conf_box {
    struct cd_conf conf; /* first: the pointer handed out */
    struct old_text *old;
};

static void *field_of(struct cd_conf *c, const struct conf_key *k)
{
    return (char *)c + k->offset;
}

static const void *field_of_const(const struct cd_conf *c, const struct conf_key *k)
{
    return (const char *)c + k->offset;
}

static bool is_text(const struct conf_key *k)
{
    return k->type != CONF_BOOL && k->type != CONF_INT;
}

static void free_text(char *s)
{
    if (s)
        explicit_bzero(s, strlen(s));
    free(s);
}

void cd_conf_starved(struct conf_load *l)
{
    cd_conf_error(l, l->path ? l->path : "configuration", "out of memory");
}

bool cd_conf_set_text(struct conf_load *l, char **field, const char *value)
{
    char *copy = value ? strdup(value) : NULL;

    if (!copy) {
        cd_conf_starved(l);
        return false;
    }
    free_text(*field);
    *field = copy;
    return true;
}

const char *cd_conf_where(const struct conf_load *l, const char *section, const char *name)
{
    long i = cd_conf_key_index(section, name);

    if (i < 0)
        return name;
    return l->raw[i].where ? l->raw[i].where : cd_conf_keys[i].full;
}

bool cd_conf_is_set(const struct conf_load *l, const char *section, const char *name)
{
    long i = cd_conf_key_index(section, name);

    return i >= 0 && l->raw[i].rank != CONF_UNSET;
}

/* Say what is wrong with a value and what is allowed; secrets are not repeated.
 * @param whole  the line's value, of which `value` may be one item */
static void refuse(struct conf_load *l, const struct conf_key *k, const char *where,
                   const char *value, const char *whole, const char *allowed)
{
    const char *hint = strstr(whole, " #") || strstr(whole, " ;")
                           ? " (a comment stands on a line of its own)" : "";

    if (k->flags & CONF_SECRET)
        cd_conf_error(l, where, "%s has a value that is not allowed; allowed: %s%s", k->name,
                      allowed, hint);
    else
        cd_conf_error(l, where, "%s = %.80s is not allowed; allowed: %s%s", k->name, value, allowed,
                      hint);
}

static bool parse_bool(const char *v, bool *out)
{
    static const char *const yes[] = {"yes", "true", "on", "1"};
    static const char *const no[] = {"no", "false", "off", "0"};

    for (size_t i = 0; i < 4; i++) {
        if (!strcasecmp(v, yes[i]) || !strcasecmp(v, no[i])) {
            *out = strcasecmp(v, yes[i]) == 0;
            return true;
        }
    }
    return false;
}

static void set_int(struct conf_load *l, const struct conf_key *k, const char *where, const char *v,
                    long *out)
{
    char allowed[80];
    uint64_t n;

    if (cd_parse_u64(cd_str_of(v), (uint64_t)k->min, (uint64_t)k->max, &n)) {
        *out = (long)n;
        return;
    }
    snprintf(allowed, sizeof allowed, "a whole number from %ld to %ld", k->min, k->max);
    refuse(l, k, where, v, v, allowed);
}

static bool is_choice(const char *choices, const char *v)
{
    size_t len = strlen(v);

    for (const char *at = choices; len > 0; at++) {
        size_t n = strcspn(at, "|");

        if (n == len && !strncmp(at, v, n))
            return true;
        at += n;
        if (!*at)
            return false;
    }
    return false;
}

/* Lists are separated by blanks, commas or both; they are kept in one form. */
static void set_list(struct conf_load *l, const struct conf_key *k, const char *where,
                     const char *v, char **out)
{
    static const char separators[] = " ,\t";
    char *copy = strdup(v), *rest = copy, *item;
    struct cd_buf b;

    cd_buf_init(&b, VALUE_MAX_BYTES);
    while (copy && (item = strsep(&rest, separators)) != NULL) {
        if (!*item)
            continue;
        if (k->shape && !k->shape(item)) {
            refuse(l, k, where, item, v, k->allowed);
            break;
        }
        if (b.n)
            cd_buf_addc(&b, k->type == CONF_WORDS ? ' ' : ',');
        cd_buf_adds(&b, item);
    }
    if (!copy || b.no_memory)
        cd_conf_starved(l);
    else if (b.failed)
        cd_conf_error(l, where, "%s is too long", k->name);
    else
        cd_conf_set_text(l, out, b.n ? b.p : "");
    cd_buf_done(&b);
    free(copy);
}

/* TRUST_PROXY and its like are written in many ways elsewhere. */
static const char *common_spelling(const struct conf_key *k, const char *v)
{
    bool yes;

    if (k->shape != cd_conf_is_proxy || !parse_bool(v, &yes))
        return v;
    return yes ? "true" : "false";
}

/* @param v  the value as written; empty means the default of a number, a choice and yes or no */
static void set_value(struct conf_load *l, struct cd_conf *c, const struct conf_key *k,
                      const char *where, const char *v)
{
    void *field = field_of(c, k);
    unsigned before = l->errors;

    if (!*v && (!is_text(k) || k->type == CONF_CHOICE))
        v = k->def;
    switch (k->type) {
    case CONF_BOOL:
        if (!parse_bool(v, field))
            refuse(l, k, where, v, v, k->allowed);
        return;
    case CONF_INT:
        set_int(l, k, where, v, field);
        return;
    case CONF_CHOICE:
        if (*v && !is_choice(k->allowed, v))
            refuse(l, k, where, v, v, k->allowed);
        else
            cd_conf_set_text(l, field, v);
        return;
    case CONF_WORDS:
    case CONF_COMMAS:
        set_list(l, k, where, common_spelling(k, v), field);
        break;
    case CONF_TEXT:
        if (*v && k->shape && !k->shape(v))
            refuse(l, k, where, v, v, k->allowed);
        else
            cd_conf_set_text(l, field, v);
        break;
    }
    /* What was kept counts: a list of nothing but separators is empty, too. */
    if ((k->flags & CONF_FILLED) && !**(char **)field && l->errors == before)
        cd_conf_error(l, where, "%s must not be empty; allowed: %s", k->name, k->allowed);
}

static void set_all(struct conf_load *l, struct cd_conf *c)
{
    for (size_t i = 0; i < cd_conf_key_count; i++) {
        const struct conf_key *k = &cd_conf_keys[i];
        const struct conf_raw *r = &l->raw[i];

        if (is_text(k) && !cd_conf_set_text(l, field_of(c, k), "")) /* never NULL, whatever follows */
            return;
        set_value(l, c, k, r->text ? r->where : k->full, r->text ? r->text : k->def);
    }
}

static void free_raw(struct conf_raw *raw)
{
    for (size_t i = 0; i < cd_conf_key_count; i++) {
        free_text(raw[i].text);
        free(raw[i].where);
    }
    free(raw);
}

enum cd_rc cd_conf_load(const char *path, char *const *environ_, struct cd_conf **out,
                        FILE *problems, struct cd_err *err)
{
    struct conf_load l = {.path = path, .environ_ = environ_, .problems = problems, .err = err};
    struct conf_box *box = calloc(1, sizeof *box);

    l.raw = calloc(cd_conf_key_count, sizeof *l.raw);
    *out = NULL;
    if (!box || !l.raw) {
        free(box);
        free(l.raw);
        return cd_fail(err, CD_E_NO_MEMORY, NULL);
    }
    cd_conf_read_file(&l);
    cd_conf_read_environment(&l);
    cd_conf_read_secrets(&l);
    set_all(&l, &box->conf);
    if (l.errors == 0)
        cd_conf_cross(&l, &box->conf); /* its findings would only repeat what is broken already */
    free_raw(l.raw);
    if (l.errors) {
        cd_conf_free(&box->conf);
        return CD_E_INVALID_PARAM;
    }
    *out = &box->conf;
    return CD_OK;
}

static void drop_texts(struct old_text *list)
{
    while (list) {
        struct old_text *next = list->next;

        free_text(list->text);
        free(list);
        list = next;
    }
}

void cd_conf_free(struct cd_conf *c)
{
    struct conf_box *box = (struct conf_box *)c;

    if (!c)
        return;
    for (size_t i = 0; i < cd_conf_key_count; i++) {
        if (is_text(&cd_conf_keys[i]))
            free_text(*(char **)field_of(c, &cd_conf_keys[i]));
    }
    drop_texts(box->old);
    free(box);
}

static bool same(const struct cd_conf *a, const struct cd_conf *b, const struct conf_key *k)
{
    const void *x = field_of_const(a, k), *y = field_of_const(b, k);

    if (k->type == CONF_BOOL)
        return *(const bool *)x == *(const bool *)y;
    if (k->type == CONF_INT)
        return *(const long *)x == *(const long *)y;
    return strcmp(*(char *const *)x, *(char *const *)y) == 0;
}

/* Copies of the texts that will change, in the table's order. @return false out of memory */
static bool copy_texts(const struct cd_conf *running, const struct cd_conf *fresh, struct old_text **out)
{
    struct old_text *list = NULL, **end = &list;

    for (size_t i = 0; i < cd_conf_key_count; i++) {
        const struct conf_key *k = &cd_conf_keys[i];
        struct old_text *t;

        if (!is_text(k) || !(k->flags & CONF_RELOAD) || same(running, fresh, k))
            continue;
        t = calloc(1, sizeof *t);
        *end = t;
        if (!t || !(t->text = strdup(*(char *const *)field_of_const(fresh, k)))) {
            drop_texts(list);
            return false;
        }
        end = &t->next;
    }
    *out = list;
    return true;
}

/* The copy comes, and the old text stays for whoever kept a pointer to it. */
static void adopt_text(struct conf_box *box, char **field, struct old_text *t)
{
    char *old = *field;

    *field = t->text;
    t->text = old;
    t->next = box->old;
    box->old = t;
}

bool cd_conf_reload(struct cd_conf *running, const struct cd_conf *fresh, FILE *problems)
{
    struct old_text *texts;

    if (!copy_texts(running, fresh, &texts))
        return false;
    for (size_t i = 0; i < cd_conf_key_count; i++) {
        const struct conf_key *k = &cd_conf_keys[i];
        void *to = field_of(running, k);
        const void *from = field_of_const(fresh, k);

        if (same(running, fresh, k))
            continue;
        if (!(k->flags & CONF_RELOAD)) {
            if (problems)
                fprintf(problems, "%s: a change needs a restart; ignored\n", k->full);
        } else if (k->type == CONF_BOOL) {
            *(bool *)to = *(const bool *)from;
        } else if (k->type == CONF_INT) {
            *(long *)to = *(const long *)from;
        } else if (texts) { /* as many as change */
            struct old_text *t = texts;

            texts = t->next;
            adopt_text((struct conf_box *)running, to, t);
        }
    }
    drop_texts(texts);
    return true;
}

static void print_value(const struct cd_conf *c, const struct conf_key *k, FILE *out)
{
    const void *field = field_of_const(c, k);

    if (k->type == CONF_BOOL)
        fprintf(out, "%s", *(const bool *)field ? "yes" : "no");
    else if (k->type == CONF_INT)
        fprintf(out, "%ld", *(const long *)field);
    else if (k->flags & CONF_SECRET)
        fprintf(out, "%s", **(char *const *)field ? "(set)" : "");
    else
        fprintf(out, "%s", *(char *const *)field);
}

void cd_conf_dump(const struct cd_conf *c, FILE *out)
{
    for (size_t s = 0; s < cd_conf_section_count; s++) {
        fprintf(out, "%s[%s]\n", s ? "\n" : "", cd_conf_sections[s].name);
        for (size_t i = 0; i < cd_conf_key_count; i++) {
            if (strcmp(cd_conf_keys[i].section, cd_conf_sections[s].name) != 0)
                continue;
            fprintf(out, "%s = ", cd_conf_keys[i].name);
            print_value(c, &cd_conf_keys[i], out);
            fputc('\n', out);
        }
    }
}

/* One comment, broken between words. */
static void print_comment(FILE *out, const char *text)
{
    const size_t width = 96;

    while (*text) {
        size_t n = strlen(text);

        if (n > width) {
            n = width;
            while (n > 0 && text[n] != ' ')
                n--;
            if (n == 0)
                n = strcspn(text, " ");
        }
        fprintf(out, "# %.*s\n", (int)n, text);
        text += n;
        text += strspn(text, " ");
    }
}

static void print_key(FILE *out, const struct conf_key *k)
{
    struct cd_buf b;

    cd_buf_init(&b, 2048);
    cd_buf_adds(&b, k->help);
    if (k->type == CONF_INT)
        cd_buf_addf(&b, " %ld to %ld.", k->min, k->max);
    else if (k->allowed)
        cd_buf_addf(&b, " Allowed: %s.", k->allowed);
    if (k->flags & CONF_SECRET)
        cd_buf_addf(&b, " A secret: %s_file may name a file that holds it.", k->name);
    if (k->flags & CONF_RELOAD)
        cd_buf_adds(&b, " Reloads.");
    fputc('\n', out);
    print_comment(out, b.p ? b.p : k->help);
    cd_buf_done(&b);
    fprintf(out, "#%s =%s%s\n", k->name, *k->def ? " " : "", k->def);
}

void cd_conf_print_sample(FILE *out)
{
    print_comment(out, "matrix-calld.conf -- every setting with its default. Remove the # in "
                       "front of a setting to change it. Comments stand on lines of their own; "
                       "lists are separated by blanks or commas; text that begins or ends with "
                       "blanks is put in double quotes.");
    fputs("#\n", out);
    print_comment(out, "Each setting is also taken from the environment as CALLD_SECTION_KEY, for "
                       "example CALLD_SERVER_LISTEN, which wins over this file; secrets also as "
                       "CALLD_SECTION_KEY_FILE. Between the two stand the names DATABASE_URL, "
                       "PORT, TURN_URLS, TURN_SERVER_URL, TURN_MODE, TURN_USERNAME, "
                       "TURN_CREDENTIAL, TURN_SECRET, STUN_URLS, TRUST_PROXY and NODE_ENV. "
                       "\"Reloads\" marks what SIGHUP may change; the rest needs a restart.");
    for (size_t s = 0; s < cd_conf_section_count; s++) {
        fprintf(out, "\n[%s]\n", cd_conf_sections[s].name);
        print_comment(out, cd_conf_sections[s].help);
        for (size_t i = 0; i < cd_conf_key_count; i++) {
            if (!strcmp(cd_conf_keys[i].section, cd_conf_sections[s].name))
                print_key(out, &cd_conf_keys[i]);
        }
    }
}

/* conf_file.c -- collects the settings as written: the INI file, the environment, files of secrets.
 *
 * In:    a path, an environment.
 * Out:   struct conf_raw of each key with the place it came from; findings.
 * Why:   a value is judged later and once, so that a message can name its place.
 * Blocks: reads files; at start and reload only. */
#include "conf_priv.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"

#define FILE_MAX_BYTES (1024 * 1024)
#define SECRET_MAX_BYTES (64 * 1024)
#define NAME_MAX_BYTES 80

static void say(struct conf_load *l, const char *where, const char *kind, const char *text)
{
    if (l->problems)
        fprintf(l->problems, "%s: %s%s\n", where, kind, text);
}

void cd_conf_error(struct conf_load *l, const char *where, const char *fmt, ...)
{
    char text[400];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    say(l, where, "", text);
    if (l->errors++ == 0)
        cd_fail(l->err, CD_E_INVALID_PARAM, "%s: %s", where, text);
}

void cd_conf_warn(struct conf_load *l, const char *where, const char *fmt, ...)
{
    char text[400];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    say(l, where, "warning: ", text);
}

/* Read a whole small file. @return NUL-terminated, caller frees; NULL with errno set */
static char *slurp(const char *path, size_t max, size_t *out_n)
{
    FILE *f = fopen(path, "re");
    char *p;
    size_t n;

    if (!f)
        return NULL;
    p = malloc(max + 2);
    if (!p) {
        fclose(f);
        errno = ENOMEM;
        return NULL;
    }
    n = fread(p, 1, max + 1, f);
    if (ferror(f) || n > max) {
        errno = n > max ? EFBIG : EIO;
        fclose(f);
        explicit_bzero(p, n);
        free(p);
        return NULL;
    }
    fclose(f);
    p[n] = '\0';
    *out_n = n;
    return p;
}

/* The key's row for NAME or, for a secret, NAME_file. @return index or -1 */
static long find_key(const char *section, const char *name, bool *names_file)
{
    static const char suffix[] = "_file";
    size_t n = strlen(name), cut = sizeof suffix - 1;
    char base[NAME_MAX_BYTES];
    long i = cd_conf_key_index(section, name);

    *names_file = false;
    if (i >= 0 || n <= cut || n >= sizeof base || strcmp(name + n - cut, suffix) != 0)
        return i;
    memcpy(base, name, n - cut);
    base[n - cut] = '\0';
    i = cd_conf_key_index(section, base);
    if (i < 0 || !(cd_conf_keys[i].flags & CONF_SECRET))
        return -1;
    *names_file = true;
    return i;
}

static void unknown_key(struct conf_load *l, const char *where, const char *section,
                        const char *name)
{
    const struct conf_key *near = cd_conf_nearest(section, name);

    if (!near)
        cd_conf_error(l, where, "unknown key \"%s\" in [%s]", name, section);
    else if (!strcmp(near->section, section))
        cd_conf_error(l, where, "unknown key \"%s\" in [%s]; did you mean \"%s\"?", name, section,
                      near->name);
    else
        cd_conf_error(l, where, "unknown key \"%s\" in [%s]; did you mean \"%s\" of [%s]?", name,
                      section, near->name, near->section);
}

/* Keep a value unless a higher rank spoke. Takes no ownership. */
static void keep(struct conf_load *l, long key, enum conf_rank rank, bool names_file, unsigned line,
                 const char *where, struct cd_str value)
{
    struct conf_raw *r = &l->raw[key];

    if (r->rank > rank)
        return;
    if (r->text)
        explicit_bzero(r->text, strlen(r->text));
    free(r->text);
    free(r->where);
    r->text = strndup(value.p, value.n);
    r->where = strdup(where);
    if (!r->text || !r->where)
        cd_conf_starved(l);
    r->rank = rank;
    r->line = line;
    r->names_file = names_file;
    if (!r->text || !r->where)
        cd_conf_error(l, where, "out of memory");
}

/* What the line parser remembers between lines. */
struct ini {
    char section[NAME_MAX_BYTES];
    bool known; /* false: inside an unknown section, whose keys were reported with it */
    unsigned line;
    char *where;
};

static void read_section(struct conf_load *l, struct ini *ini, struct cd_str line)
{
    struct cd_str name;
    const char *near;

    ini->known = false;
    if (line.p[line.n - 1] != ']') {
        cd_conf_error(l, ini->where, "a section is written [name]; nothing may follow it");
        return;
    }
    name = cd_str_trim((struct cd_str){line.p + 1, line.n - 2});
    if (name.n >= sizeof ini->section) {
        cd_conf_error(l, ini->where, "unknown section");
        return;
    }
    memcpy(ini->section, name.p, name.n);
    ini->section[name.n] = '\0';
    ini->known = cd_conf_section_known(ini->section);
    if (ini->known)
        return;
    near = cd_conf_nearest_section(ini->section);
    cd_conf_error(l, ini->where, "unknown section [%s]%s%s%s", ini->section,
                  near ? "; did you mean [" : "", near ? near : "", near ? "]?" : "");
}

static void read_setting(struct conf_load *l, struct ini *ini, struct cd_str line)
{
    const char *equals = memchr(line.p, '=', line.n);
    char name[NAME_MAX_BYTES];
    struct cd_str key, value;
    bool names_file;
    long i;

    if (!equals) {
        cd_conf_error(l, ini->where, "neither a comment, nor [section], nor key = value");
        return;
    }
    key = cd_str_trim((struct cd_str){line.p, (size_t)(equals - line.p)});
    value = cd_str_trim((struct cd_str){equals + 1, line.n - (size_t)(equals - line.p) - 1});
    if (key.n == 0 || key.n >= sizeof name) {
        cd_conf_error(l, ini->where, "a key of 1 to %zu characters stands before the =",
                      sizeof name - 1);
        return;
    }
    memcpy(name, key.p, key.n);
    name[key.n] = '\0';
    if (value.n >= 2 && value.p[0] == '"' && value.p[value.n - 1] == '"')
        value = (struct cd_str){value.p + 1, value.n - 2};
    if (ini->section[0] == '\0') {
        cd_conf_error(l, ini->where, "\"%s\" stands before the first [section]", name);
        return;
    }
    if (!ini->known)
        return;
    i = find_key(ini->section, name, &names_file);
    if (i < 0) {
        unknown_key(l, ini->where, ini->section, name);
        return;
    }
    if (l->raw[i].rank == CONF_FROM_FILE) {
        cd_conf_error(l, ini->where, "\"%s\" is set on line %u already%s", name, l->raw[i].line,
                      l->raw[i].names_file != names_file ? ", in its other form" : "");
        return;
    }
    keep(l, i, CONF_FROM_FILE, names_file, ini->line, ini->where, value);
}

static void read_line(struct conf_load *l, struct ini *ini, struct cd_str line)
{
    size_t size = strlen(l->path) + 16;

    line = cd_str_trim(line);
    if (line.n == 0 || line.p[0] == '#' || line.p[0] == ';')
        return;
    ini->where = malloc(size);
    if (!ini->where) {
        cd_conf_error(l, l->path, "out of memory");
        return;
    }
    snprintf(ini->where, size, "%s:%u", l->path, ini->line);
    if (memchr(line.p, '\0', line.n) || !cd_utf8_valid(line.p, line.n))
        cd_conf_error(l, ini->where, "not UTF-8 text");
    else if (line.p[0] == '[')
        read_section(l, ini, line);
    else
        read_setting(l, ini, line);
    free(ini->where);
    ini->where = NULL;
}

void cd_conf_read_file(struct conf_load *l)
{
    struct ini ini = {.line = 0};
    size_t n = 0, at = 0;
    char *text;

    if (!l->path)
        return;
    text = slurp(l->path, FILE_MAX_BYTES, &n);
    if (!text) {
        cd_conf_error(l, l->path, "cannot read it: %s", strerror(errno));
        return;
    }
    if (n >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0)
        at = 3;
    while (at < n) {
        const char *end = memchr(text + at, '\n', n - at);
        size_t len = end ? (size_t)(end - (text + at)) : n - at;

        ini.line++;
        read_line(l, &ini, (struct cd_str){text + at, len});
        at += len + 1;
    }
    explicit_bzero(text, n);
    free(text);
}

const char *cd_conf_getenv(const struct conf_load *l, const char *name)
{
    size_t n = strlen(name);

    for (char *const *e = l->environ_; e && *e; e++) {
        if (!strncmp(*e, name, n) && (*e)[n] == '=')
            return *e + n + 1;
    }
    return NULL;
}

/* Split SECTION_KEY. @return false when no section of ours begins it */
static bool split_variable(const char *rest, size_t n, char *section, char *key)
{
    char lower[NAME_MAX_BYTES];

    if (n >= sizeof lower)
        return false;
    for (size_t i = 0; i < n; i++)
        lower[i] = (char)tolower((unsigned char)rest[i]);
    lower[n] = '\0';
    for (size_t i = 0; i < cd_conf_section_count; i++) {
        size_t len = strlen(cd_conf_sections[i].name);

        if (len + 1 < n && !strncmp(lower, cd_conf_sections[i].name, len) && lower[len] == '_') {
            memcpy(section, lower, len);
            section[len] = '\0';
            memcpy(key, lower + len + 1, n - len);
            return true;
        }
    }
    return false;
}

static void read_variable(struct conf_load *l, const char *entry)
{
    const char *equals = strchr(entry, '=');
    char section[NAME_MAX_BYTES], key[NAME_MAX_BYTES], where[NAME_MAX_BYTES + 32];
    bool names_file;
    size_t n;
    long i;

    if (strncmp(entry, "CALLD_", 6) != 0 || !equals)
        return;
    n = (size_t)(equals - entry);
    snprintf(where, sizeof where, "environment %.*s",
             (int)(n < NAME_MAX_BYTES ? n : NAME_MAX_BYTES),
             entry);
    if (!split_variable(entry + 6, n - 6, section, key)) {
        /* not an error: container platforms name variables after a service called calld */
        cd_conf_warn(l, where, "no such setting; ignored");
        return;
    }
    i = find_key(section, key, &names_file);
    if (i < 0) {
        unknown_key(l, where, section, key);
        return;
    }
    if (l->raw[i].rank == CONF_FROM_ENV) {
        cd_conf_error(l, where, "also set as %s", l->raw[i].where);
        return;
    }
    keep(l, i, CONF_FROM_ENV, names_file, 0, where, cd_str_of(equals + 1));
}

static void read_alias(struct conf_load *l, const struct conf_alias *a)
{
    const char *value = cd_conf_getenv(l, a->variable);
    long i = cd_conf_key_index(a->section, a->name);
    char where[NAME_MAX_BYTES];

    /* set but empty is how compose files say "not set" */
    if (!value || !*value || i < 0 || l->raw[i].rank == CONF_FROM_ENV)
        return;
    snprintf(where, sizeof where, "environment %s", a->variable);
    if (l->raw[i].rank == CONF_FROM_ALIAS) {
        if (strcmp(l->raw[i].text, value) != 0)
            cd_conf_warn(l, where, "differs from %s, which wins", l->raw[i].where);
        return;
    }
    keep(l, i, CONF_FROM_ALIAS, false, 0, where, cd_str_of(value));
}

void cd_conf_read_environment(struct conf_load *l)
{
    for (char *const *e = l->environ_; e && *e; e++)
        read_variable(l, *e);
    for (const struct conf_alias *a = cd_conf_aliases; a->variable; a++)
        read_alias(l, a);
}

void cd_conf_read_secrets(struct conf_load *l)
{
    for (size_t i = 0; i < cd_conf_key_count; i++) {
        struct conf_raw *r = &l->raw[i];
        size_t n = 0;
        char *text;

        if (!r->names_file || !r->text)
            continue;
        text = slurp(r->text, SECRET_MAX_BYTES, &n);
        if (!text) {
            cd_conf_error(l, r->where, "cannot read %s: %s", r->text, strerror(errno));
            r->text[0] = '\0'; /* the path is no secret, and no finding of its own */
            continue;
        }
        while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == '\r'))
            text[--n] = '\0';
        if (n == 0 || strlen(text) != n || strchr(text, '\n'))
            cd_conf_error(l, r->where, "%s must hold one line with the secret", r->text);
        free(r->text);
        r->text = text;
    }
}

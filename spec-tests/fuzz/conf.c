/* conf.c -- fuzzes the configuration: file and environment, refused with a place and a sentence or
 * within all bounds. Input: the file, then variables, separated by NUL. */
#include "conf_priv.h"
#include "memfile.h"

#define VARIABLES 12

static const void *field(const struct cd_conf *c, const struct conf_key *k)
{
    return (const char *)c + k->offset;
}

static void within_bounds(const struct cd_conf *c)
{
    for (size_t i = 0; i < cd_conf_key_count; i++) {
        const struct conf_key *k = &cd_conf_keys[i];

        if (k->type == CONF_INT) {
            long v = *(const long *)field(c, k);

            MUST(v >= k->min && v <= k->max);
        } else if (k->type != CONF_BOOL) {
            const char *v = *(char *const *)field(c, k);

            MUST(v);
            if (k->flags & CONF_FILLED)
                MUST(v[0]);
            if (k->type == CONF_CHOICE && v[0])
                MUST(strstr(k->allowed, v));
            if (k->type == CONF_COMMAS)
                MUST(!strpbrk(v, " \t") && !strstr(v, ",,"));
            if (k->type == CONF_WORDS)
                MUST(!strpbrk(v, ",\t") && !strstr(v, "  "));
        }
    }
}

/* A secret is never printed. */
static void dump_masks(const struct cd_conf *c)
{
    size_t n = 0;
    char *text = NULL;
    FILE *out = open_memstream(&text, &n);

    MUST(out);
    cd_conf_dump(c, out);
    fclose(out);
    for (size_t i = 0; i < cd_conf_key_count; i++) {
        const struct conf_key *k = &cd_conf_keys[i];
        char line[128];

        if (!(k->flags & CONF_SECRET))
            continue;
        snprintf(line, sizeof line, "\n%s = %s\n", k->name,
                 **(char *const *)field(c, k) ? "(set)" : "");
        MUST(strstr(text, line));
    }
    free(text);
}

static void reload(struct cd_conf *running)
{
    struct cd_conf *fresh = NULL;
    struct cd_err err;

    MUST(cd_conf_load(NULL, NULL, &fresh, NULL, &err) == CD_OK);
    cd_conf_reload(running, fresh, NULL);
    within_bounds(running);
    for (size_t i = 0; i < cd_conf_key_count; i++) {
        const struct conf_key *k = &cd_conf_keys[i];

        if (k->type == CONF_INT && (k->flags & CONF_RELOAD))
            MUST(*(const long *)field(running, k) == *(const long *)field(fresh, k));
    }
    cd_conf_free(fresh);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct cd_str in = {(const char *)data, n}, file = fuzz_part(&in, '\0');
    char path[32], *environment[VARIABLES + 1] = {NULL}, *problems = NULL;
    struct cd_conf *c = NULL;
    struct cd_err err = {.rc = CD_OK};
    size_t problem_bytes = 0;
    int fd;
    FILE *out;

    /* other files than the input would make runs differ */
    if (n == 0 || memmem(data, n, "_file", 5) || memmem(data, n, "_FILE", 5) ||
        memmem(data, n, "registration", 12) || memmem(data, n, "REGISTRATION", 12))
        return 0;
    fd = memfile(file, path);
    out = open_memstream(&problems, &problem_bytes);
    MUST(out);
    for (size_t i = 0; i < VARIABLES && in.n; i++)
        environment[i] = fuzz_text(fuzz_part(&in, '\0'));
    enum cd_rc rc = cd_conf_load(path, environment, &c, out, &err);
    fclose(out);
    if (rc == CD_OK) {
        MUST(c);
        within_bounds(c);
        dump_masks(c);
        reload(c);
    } else {
        MUST(rc == CD_E_INVALID_PARAM && !c && err.text[0] && problem_bytes > 0);
    }
    cd_conf_free(c);
    for (size_t i = 0; environment[i]; i++)
        free(environment[i]);
    free(problems);
    close(fd);
    return 0;
}

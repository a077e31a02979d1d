/* store_url.h -- the test database by its parts, so that a proxy can stand in front of it. After store_kit.h. */
#ifndef STORE_URL_H
#define STORE_URL_H

static char part_host[128], part_port[16], part_user[64], part_db[64], part_password[64];

static inline void split_url(void)
{
    PQconninfoOption *all = PQconninfoParse(kit_url, NULL);
    const struct {
        const char *key;
        char *to;
        size_t size;
    } want[] = {{"host", part_host, sizeof part_host}, {"port", part_port, sizeof part_port},
                {"user", part_user, sizeof part_user}, {"dbname", part_db, sizeof part_db},
                {"password", part_password, sizeof part_password}};

    for (PQconninfoOption *o = all; o && o->keyword; o++)
        for (size_t i = 0; i < sizeof want / sizeof want[0]; i++)
            if (o->val && strcmp(o->keyword, want[i].key) == 0)
                snprintf(want[i].to, want[i].size, "%s", o->val);
    PQconninfoFree(all);
}

static inline const char *url_at(const char *host, int port)
{
    static char url[512];

    snprintf(url, sizeof url, "host=%s port=%d user=%s dbname=%s password='%s'", host, port, part_user, part_db,
             part_password);
    return url;
}

#endif

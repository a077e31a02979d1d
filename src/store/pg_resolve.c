/* pg_resolve.c -- host names of a database URL, resolved by us.
 * In: a libpq URI or conninfo. Out: parameters with host and hostaddr lists.
 * Why: PQconnectStart looks names up before it returns; a resolver that never answers would stop the
 *      loop (trap P7). host stays beside hostaddr, because certificates are checked against it.
 * State: none. Owns: struct cd_pg_target. Blocks: cd_pg_target_resolve only. */
#include "store/pg_resolve.h"

#include <arpa/inet.h>
#include <libpq-fe.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "store/store_int.h"

#define HOSTS_MAX 16
#define ADDRESSES_MAX 32
#define LIST_BYTES 8192

struct address {
    size_t host; /* index of the name it belongs to */
    char text[INET6_ADDRSTRLEN];
};

struct cd_pg_target {
    PQconninfoOption *options;
    size_t n_hosts;
    char *hosts[HOSTS_MAX]; /* names, addresses, directories; none: libpq's default */
    char *ports[HOSTS_MAX]; /* NULL: default */
    bool given;             /* hostaddr stands in the URL: nothing to look up */
    size_t n_addresses;
    struct address addresses[ADDRESSES_MAX];
};

static const char *option(const struct cd_pg_target *t, const char *key)
{
    for (const PQconninfoOption *o = t->options; o->keyword; o++)
        if (strcmp(o->keyword, key) == 0)
            return o->val && *o->val ? o->val : NULL;
    return NULL;
}

/* "a,b,c" into at most HOSTS_MAX strings. @return count, 0 for too many or no memory */
static size_t split(const char *list, char *out[HOSTS_MAX])
{
    size_t n = 0;

    while (list && n < HOSTS_MAX) {
        const char *comma = strchr(list, ',');

        out[n] = strndup(list, comma ? (size_t)(comma - list) : strlen(list));
        if (!out[n++])
            return 0;
        list = comma ? comma + 1 : NULL;
    }
    return list ? 0 : n;
}

static bool is_address(const char *s)
{
    unsigned char bin[sizeof(struct in6_addr)];

    return inet_pton(AF_INET, s, bin) == 1 || inet_pton(AF_INET6, s, bin) == 1;
}

static bool is_name(const char *s)
{
    return *s && *s != '/' && *s != '@' && !is_address(s);
}

static bool split_hosts(struct cd_pg_target *t)
{
    const char *hosts = option(t, "host"), *ports = option(t, "port");
    char *list[HOSTS_MAX] = {NULL};
    size_t n_ports = 0;

    if (!hosts)
        hosts = getenv("PGHOST");
    if (!hosts || !*hosts)
        return true;
    t->n_hosts = split(hosts, t->hosts);
    if (ports && t->n_hosts)
        n_ports = split(ports, list);
    for (size_t i = 0; i < t->n_hosts && n_ports; i++)
        t->ports[i] = strdup(list[n_ports == 1 ? 0 : i < n_ports ? i : n_ports - 1]);
    for (size_t i = 0; i < HOSTS_MAX; i++)
        free(list[i]);
    return t->n_hosts && (!ports || (n_ports && (n_ports == 1 || n_ports == t->n_hosts)));
}

struct cd_pg_target *cd_pg_target_parse(const char *url)
{
    struct cd_pg_target *t = calloc(1, sizeof *t);

    if (!t)
        return NULL;
    t->options = PQconninfoParse(url, NULL); /* its message would quote the URL with its password */
    if (!t->options) {
        free(t);
        return NULL;
    }
    t->given = option(t, "hostaddr") != NULL;
    if (!t->given && !split_hosts(t)) {
        cd_pg_target_free(t);
        return NULL;
    }
    return t;
}

void cd_pg_target_free(struct cd_pg_target *t)
{
    if (!t)
        return;
    for (size_t i = 0; i < HOSTS_MAX; i++) {
        free(t->hosts[i]);
        free(t->ports[i]);
    }
    PQconninfoFree(t->options);
    free(t);
}

bool cd_pg_target_needs_dns(const struct cd_pg_target *t)
{
    for (size_t i = 0; i < t->n_hosts; i++)
        if (is_name(t->hosts[i]))
            return true;
    return false;
}

static void add_address(struct cd_pg_target *t, size_t host, const struct addrinfo *ai)
{
    struct address *a = &t->addresses[t->n_addresses];

    if (t->n_addresses == ADDRESSES_MAX)
        return;
    if (getnameinfo(ai->ai_addr, ai->ai_addrlen, a->text, sizeof a->text, NULL, 0, NI_NUMERICHOST) != 0)
        return;
    a->host = host;
    t->n_addresses++;
}

bool cd_pg_target_resolve(struct cd_pg_target *t)
{
    t->n_addresses = 0;
    for (size_t i = 0; i < t->n_hosts; i++) {
        const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
        struct addrinfo *found = NULL;

        if (!is_name(t->hosts[i]) || getaddrinfo(t->hosts[i], NULL, &hints, &found) != 0)
            continue;
        for (const struct addrinfo *ai = found; ai; ai = ai->ai_next)
            add_address(t, i, ai);
        freeaddrinfo(found);
    }
    for (size_t i = 0; i < t->n_hosts; i++)
        if (!is_name(t->hosts[i]))
            return true;
    return t->n_addresses > 0;
}

void cd_pg_params_done(struct cd_pg_params *p)
{
    for (size_t i = 0; i < p->n; i++) {
        free(p->keys[i]);
        free(p->values[i]);
    }
    memset(p, 0, sizeof *p);
}

static bool add(struct cd_pg_params *p, const char *key, const char *value)
{
    if (p->n + 1 >= CD_PG_PARAMS_MAX)
        return false;
    p->n++;
    return cd_dup(&p->keys[p->n - 1], key) && cd_dup(&p->values[p->n - 1], value);
}

/* One more of a comma list. */
static void item(struct cd_buf *b, bool first, const char *s)
{
    if (!first)
        cd_buf_addc(b, ',');
    cd_buf_adds(b, s ? s : "");
}

/* host, hostaddr and port, expanded to one entry an address: host a gives a,a for its two. */
static bool add_hosts(const struct cd_pg_target *t, unsigned turn, struct cd_pg_params *p)
{
    struct {
        size_t host;
        const char *addr;
    } v[HOSTS_MAX + ADDRESSES_MAX];
    struct cd_buf host, addr, port;
    size_t n = 0;
    bool ok;

    for (size_t i = 0; i < t->n_hosts; i++) {
        if (!is_name(t->hosts[i])) {
            v[n].host = i;
            v[n++].addr = is_address(t->hosts[i]) ? t->hosts[i] : "";
        }
        for (size_t k = 0; k < t->n_addresses; k++)
            if (t->addresses[k].host == i) {
                v[n].host = i;
                v[n++].addr = t->addresses[k].text;
            }
    }
    cd_buf_init(&host, LIST_BYTES);
    cd_buf_init(&addr, LIST_BYTES);
    cd_buf_init(&port, LIST_BYTES);
    for (size_t i = 0; i < n; i++) {
        size_t k = (i + turn) % n;

        item(&host, i == 0, t->hosts[v[k].host]);
        item(&addr, i == 0, v[k].addr);
        item(&port, i == 0, t->ports[v[k].host]);
    }
    ok = n == 0 || (!host.failed && !addr.failed && !port.failed && add(p, "host", host.p) &&
                    add(p, "hostaddr", addr.p) && (!t->ports[0] || add(p, "port", port.p)));
    cd_buf_done(&host);
    cd_buf_done(&addr);
    cd_buf_done(&port);
    return ok;
}

bool cd_pg_target_params(const struct cd_pg_target *t, const char *application, unsigned turn,
                         struct cd_pg_params *out)
{
    /* found dead within some 25 s when idle, 10 s with data under way; the URL may say otherwise */
    static const char *const defaults[][2] = {{"tcp_user_timeout", "10000"},
                                              {"keepalives_idle", "10"},
                                              {"keepalives_interval", "5"},
                                              {"keepalives_count", "3"},
                                              /* looking for tickets reads files, and crashes without memory */
                                              {"gssencmode", "disable"}};
    bool ok = true;

    memset(out, 0, sizeof *out);
    for (const PQconninfoOption *o = t->options; o->keyword && ok; o++) {
        bool place = strcmp(o->keyword, "host") == 0 || strcmp(o->keyword, "port") == 0;

        if (o->val && *o->val && strcmp(o->keyword, "application_name") != 0 &&
            strcmp(o->keyword, "client_encoding") != 0 && (t->n_hosts == 0 || !place))
            ok = add(out, o->keyword, o->val);
    }
    for (size_t i = 0; i < sizeof defaults / sizeof defaults[0] && ok; i++)
        if (!option(t, defaults[i][0]))
            ok = add(out, defaults[i][0], defaults[i][1]);
    ok = ok && add(out, "application_name", application) && add(out, "client_encoding", "UTF8") &&
         add_hosts(t, turn, out);
    if (!ok)
        cd_pg_params_done(out);
    return ok;
}

/* proxy_test.c -- trusted proxies: parsing of networks, and whose address counts. */
#include "in/proxy.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include "tap.h"

static const char *client(const char *trust, const char *peer, const char *forwarded)
{
    static char out[CD_IP_LEN];
    struct cd_proxy p;
    struct cd_err err = {0};

    if (cd_proxy_parse(&p, trust, &err) != CD_OK)
        return "(bad)";
    cd_proxy_client(&p, peer, forwarded, out);
    return out;
}

static void nobody_is_trusted_by_default(void)
{
    CHECK_STR(client("", "127.0.0.1", "1.2.3.4"), "127.0.0.1");
    CHECK_STR(client(NULL, "127.0.0.1", "1.2.3.4"), "127.0.0.1");
    CHECK_STR(client("false", "10.0.0.1", "1.2.3.4"), "10.0.0.1");
}

static void true_means_one_near_hop(void)
{
    CHECK_STR(client("true", "127.0.0.1", "1.2.3.4"), "1.2.3.4");
    CHECK_STR(client("true", "127.0.0.1", "6.6.6.6, 1.2.3.4"), "1.2.3.4");
    CHECK_STR(client("true", "127.0.0.1", "6.6.6.6, 10.0.0.9"), "10.0.0.9");
    CHECK_STR(client("true", "192.168.1.5", "1.2.3.4"), "1.2.3.4");
    CHECK_STR(client("true", "172.31.0.1", "1.2.3.4"), "1.2.3.4");
    CHECK_STR(client("true", "172.32.0.1", "1.2.3.4"), "172.32.0.1");
    CHECK_STR(client("true", "fd00::1", "1.2.3.4"), "1.2.3.4");
    CHECK_STR(client("true", "2001:db8::1", "1.2.3.4"), "2001:db8::1");
    CHECK_STR(client("true", "unix", "1.2.3.4"), "1.2.3.4");
    CHECK_STR(client("true", "127.0.0.1", NULL), "127.0.0.1");
    CHECK_STR(client("true", "127.0.0.1", ""), "127.0.0.1");
}

static void lists_are_walked_from_the_right(void)
{
    const char *nets = "203.0.113.0/24, 10.1.0.0/16 2001:db8::/33";

    CHECK_STR(client(nets, "127.0.0.1", "1.2.3.4"), "127.0.0.1");
    CHECK_STR(client(nets, "203.0.113.9", "1.2.3.4"), "1.2.3.4");
    CHECK_STR(client(nets, "203.0.113.9", "6.6.6.6, 1.2.3.4, 10.1.2.3"), "1.2.3.4");
    CHECK_STR(client(nets, "203.0.113.9", "10.1.2.3"), "10.1.2.3");
    CHECK_STR(client(nets, "2001:db8:7fff::1", "1.2.3.4"), "1.2.3.4");
    CHECK_STR(client(nets, "2001:db8:8000::1", "1.2.3.4"), "2001:db8:8000::1");
    CHECK_STR(client("203.0.113.9", "203.0.113.9", "1.2.3.4"), "1.2.3.4");
    CHECK_STR(client("203.0.113.9", "203.0.113.8", "1.2.3.4"), "203.0.113.8");
}

static void entries_may_carry_ports_or_nonsense(void)
{
    CHECK_STR(client("true", "127.0.0.1", "1.2.3.4:5678"), "1.2.3.4");
    CHECK_STR(client("true", "127.0.0.1", "[2001:db8::7]:99"), "2001:db8::7");
    CHECK_STR(client("true", "127.0.0.1", "2001:db8::7"), "2001:db8::7");
    CHECK_STR(client("true", "127.0.0.1", "::ffff:1.2.3.4"), "1.2.3.4");
    CHECK_STR(client("true", "127.0.0.1", "1.2.3.4, unknown"), "127.0.0.1");
    CHECK_STR(client("true", "127.0.0.1", "\r\nx"), "127.0.0.1");
}

static void bad_settings_are_named(void)
{
    struct cd_proxy p;
    struct cd_err err = {0};

    CHECK_INT(cd_proxy_parse(&p, "10.0.0.0/33", &err), CD_E_INVALID_PARAM);
    CHECK(strstr(err.text, "10.0.0.0/33") != NULL);
    CHECK_INT(cd_proxy_parse(&p, "localhost", &err), CD_E_INVALID_PARAM);
    CHECK_INT(cd_proxy_parse(&p, "1.2.3.4/", &err), CD_E_INVALID_PARAM);
    CHECK_INT(cd_proxy_parse(&p, "::/129", &err), CD_E_INVALID_PARAM);
    CHECK(!cd_proxy_trusts(&p, "127.0.0.1"));
    CHECK_INT(cd_proxy_parse(&p, "0.0.0.0/0", &err), CD_OK);
    CHECK(cd_proxy_trusts(&p, "8.8.8.8"));
    CHECK(!cd_proxy_trusts(&p, "2001:db8::1"));
}

static void addresses_have_one_form(void)
{
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};
    char out[CD_IP_LEN];

    inet_pton(AF_INET6, "::ffff:9.8.7.6", &in6.sin6_addr);
    cd_proxy_peer((const struct sockaddr *)&in6, sizeof(in6), out);
    CHECK_STR(out, "9.8.7.6");
    inet_pton(AF_INET6, "2001:0DB8::0001", &in6.sin6_addr);
    cd_proxy_peer((const struct sockaddr *)&in6, sizeof(in6), out);
    CHECK_STR(out, "2001:db8::1");
    cd_proxy_peer(NULL, 0, out);
    CHECK_STR(out, "unix");
}

static void counts_an_ipv6_network_as_one(void)
{
    char a[CD_IP_LEN], b[CD_IP_LEN];

    cd_proxy_share("2001:db8:0:1::5", a);
    cd_proxy_share("2001:db8:0:1:ffff:ffff:ffff:ffff", b);
    CHECK_STR(a, b);
    cd_proxy_share("2001:db8:0:2::5", b);
    CHECK(strcmp(a, b) != 0);
    cd_proxy_share("192.0.2.7", a);
    CHECK_STR(a, "192.0.2.7");
    cd_proxy_share("unix", a);
    CHECK_STR(a, "unix");
    cd_proxy_share("::1", a);
    CHECK(a[0] != '\0');
}

int main(void)
{
    TAP_RUN(nobody_is_trusted_by_default);
    TAP_RUN(true_means_one_near_hop);
    TAP_RUN(lists_are_walked_from_the_right);
    TAP_RUN(entries_may_carry_ports_or_nonsense);
    TAP_RUN(bad_settings_are_named);
    TAP_RUN(addresses_have_one_form);
    TAP_RUN(counts_an_ipv6_network_as_one);
    return tap_done();
}

/* page.c -- serves call-test.html under a policy that lets only its own script and style run.
 *
 * State: the policy, computed once from the embedded bytes. Why hashes: the page holds its script
 * inline, one file without a build, and nothing else may ever run in it. */
#include "page.h"

#include <openssl/evp.h>
#include <openssl/sha.h>
#include <stdio.h>

static char policy[1024];

/* 'sha256-...' of what stands between <tag> and </tag>. */
static bool add_hash(struct cd_buf *b, const char *open_tag, const char *close_tag)
{
    const char *html = (const char *)cd_page_html;
    const char *from = memmem(html, cd_page_html_size, open_tag, strlen(open_tag));
    unsigned char sha[SHA256_DIGEST_LENGTH];
    char text[4 * ((SHA256_DIGEST_LENGTH + 2) / 3) + 1];

    if (!from)
        return false;
    from += strlen(open_tag);
    size_t rest = cd_page_html_size - (size_t)(from - html);
    const char *to = memmem(from, rest, close_tag, strlen(close_tag));
    if (!to)
        return false;
    SHA256((const unsigned char *)from, (size_t)(to - from), sha);
    EVP_EncodeBlock((unsigned char *)text, sha, (int)sizeof(sha));
    cd_buf_addf(b, "'sha256-%s'", text);
    return true;
}

static enum cd_rc start(struct cd_core *core, struct cd_err *err)
{
    struct cd_buf b;
    bool ok;

    (void)core;
    cd_buf_init(&b, sizeof(policy) - 1);
    cd_buf_adds(&b, "default-src 'none'; script-src ");
    ok = add_hash(&b, "<script>", "</script>");
    cd_buf_adds(&b, "; style-src ");
    ok = add_hash(&b, "<style>", "</style>") && ok;
    cd_buf_adds(&b, "; connect-src 'self' http: https: ws: wss:; media-src blob:; img-src 'self' data: blob:; "
                    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'");
    if (ok && !b.failed)
        snprintf(policy, sizeof(policy), "%s", b.p);
    cd_buf_done(&b);
    return policy[0] ? CD_OK : cd_fail(err, CD_E_INTERNAL, "call-test.html has no script or style to hash");
}

static enum cd_rc page(void *self, struct cd_req *req)
{
    const struct cd_core *core = self;

    if (!core->conf->server.call_test)
        return cd_fail(cd_req_err(req), CD_E_UNRECOGNIZED,
                       "The call-test page is switched off (server.call_test).");
    cd_req_add_header(req, "Content-Security-Policy", policy);
    cd_req_add_header(req, "X-Content-Type-Options", "nosniff");
    cd_req_add_header(req, "Referrer-Policy", "no-referrer");
    cd_req_add_header(req, "Cache-Control", "no-cache");
    cd_req_add_header(req, "Permissions-Policy", "camera=(self), microphone=(self), display-capture=(self)");
    cd_req_reply(req, 200, "text/html; charset=utf-8",
                 (struct cd_str){(const char *)cd_page_html, cd_page_html_size});
    return CD_OK;
}

static const struct cd_route routes[] = {
    {CD_ROLE_PUBLIC, "GET", "/call-test.html", CD_AUTH_NONE, 0, page, "a page that places and takes calls"},
    {0},
};

const struct cd_module cd_module_page = {
    .name = "page",
    .help = "the call-test page",
    .routes = routes,
    .start = start,
};

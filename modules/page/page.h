/* page.h -- call-test.html, served by the daemon when server.call_test is on. */
#ifndef CD_PAGE_PAGE_H
#define CD_PAGE_PAGE_H

#include "core.h"

extern const struct cd_module cd_module_page;

/** The page, embedded at build time (contrib/embed-file.sh). */
extern const unsigned char cd_page_html[];
extern const size_t cd_page_html_size;

#endif

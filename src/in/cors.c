/* cors.c -- origins are compared exactly; authority is a bearer, never a cookie, so `*` is safe. */
#include "in/cors.h"

#include <stddef.h>
#include <string.h>

bool cd_cors_any(const char *origins)
{
    return !origins || !*origins || strcmp(origins, "*") == 0;
}

bool cd_cors_allows(const char *origins, const char *origin)
{
    size_t n;

    if (!origin || cd_cors_any(origins))
        return true;
    n = strlen(origin);
    while (*origins) {
        size_t word;

        origins += strspn(origins, " ,\t");
        word = strcspn(origins, " ,\t");
        if (word && word == n && memcmp(origins, origin, n) == 0)
            return true;
        origins += word;
    }
    return false;
}

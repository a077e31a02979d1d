/* json_mem.c -- jansson's allocations, and how many of them failed.
 * Why: a text that could not be kept is cut short by jansson, and a copied object lacks members; neither says so.
 * State: the count. Blocks: never. */
#include "base/json_mem.h"

#include <jansson.h>
#include <stdlib.h>

static unsigned long failures;

static void *take(size_t n)
{
    void *p = malloc(n);

    failures += p == NULL;
    return p;
}

void cd_json_mem_setup(void)
{
    json_set_alloc_funcs(take, free);
}

unsigned long cd_json_mem_failures(void)
{
    return failures;
}

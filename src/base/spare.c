/* spare.c -- objects put aside for the time when memory has run out.
 * Why: who asked must hear that there is no memory, and the telling itself takes some.
 * State: the caller's struct cd_spare. Blocks: never. */
#include "base/spare.h"

#include <stdlib.h>
#include <string.h>

struct link {
    struct link *next;
};

static void put_aside(struct cd_spare *s, void *object)
{
    struct link *l = object;

    l->next = s->first;
    s->first = l;
    s->n++;
}

void cd_spare_fill(struct cd_spare *s)
{
    void *object;

    while (s->n < s->keep && (object = malloc(s->size)))
        put_aside(s, object);
}

void *cd_spare_take(struct cd_spare *s)
{
    struct link *l;
    void *object = calloc(1, s->size);

    if (object || !s->first)
        return object;
    l = s->first;
    s->first = l->next;
    s->n--;
    return memset(l, 0, s->size);
}

void cd_spare_give(struct cd_spare *s, void *object)
{
    if (object && s->n < s->keep)
        put_aside(s, object);
    else
        free(object);
}

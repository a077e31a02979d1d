/* spare.h -- a few objects of one size put aside, for what must not fail when memory has run out: answers, mostly. */
#ifndef CD_BASE_SPARE_H
#define CD_BASE_SPARE_H

#include <stddef.h>

struct cd_spare {
    size_t size, keep; /* bytes of an object; how many are put aside */
    void *first;       /* linked by their first word */
    size_t n;
};
#define CD_SPARE(type, keep) {sizeof(type), (keep), NULL, 0}

/** Put aside what is missing. Call it while there is memory. */
void cd_spare_fill(struct cd_spare *s);
/** A zeroed object: a new one, or one that was put aside. @return NULL: those are used up as well */
void *cd_spare_take(struct cd_spare *s);
/** Free an object of cd_spare_take(), or put it aside again. */
void cd_spare_give(struct cd_spare *s, void *object);

#endif

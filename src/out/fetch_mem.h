/* fetch_mem.h -- curl's memory, with some put aside for the time when there is none. */
#ifndef CD_OUT_FETCH_MEM_H
#define CD_OUT_FETCH_MEM_H

#include <stdbool.h>
#include <stddef.h>

/** Take the memory from the system now. Once, before the others. */
void cd_fm_setup(void);

/* What curl_global_init_mem takes. They come from malloc, and when that fails, from what was put aside. */
void *cd_fm_malloc(size_t n);
void *cd_fm_calloc(size_t n, size_t size);
void *cd_fm_realloc(void *p, size_t n);
char *cd_fm_strdup(const char *s);
void cd_fm_free(void *p);

/** Is enough left aside for another request? While it is not, none should begin. */
bool cd_fm_ready(void);

#endif

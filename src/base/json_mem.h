/* json_mem.h -- notices when jansson runs out of memory: its lexer and its copies drop what they cannot keep. */
#ifndef CD_BASE_JSON_MEM_H
#define CD_BASE_JSON_MEM_H

/** From now on jansson's allocations are watched. Once, before the first of them. */
void cd_json_mem_setup(void);
/** How many of them have failed in this process. When the number has changed, what was built meanwhile is not
 * to be trusted: parts of it may be missing. */
unsigned long cd_json_mem_failures(void);

#endif

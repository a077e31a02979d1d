/* linger.h -- the lingering close: a client that is still sending must get to read its refusal. */
#ifndef CD_IN_LINGER_H
#define CD_IN_LINGER_H

struct cd_loop;

/** Read and throw away what still comes (4 MiB, 2 s at most), then close. The answer has been sent,
 * or is being sent through another descriptor of the same socket. @param fd  owned from here on */
void cd_linger(struct cd_loop *loop, int fd);
/** Close all of them now. */
void cd_linger_end(void);

#endif

#ifndef BASE_CLOSER_H
#define BASE_CLOSER_H

#include <stdbool.h>

struct fdlist;

/**
 * close(2) of what somebody else has sent may wait: a FUSE file's asks its server, which may be who has
 * sent it, a lingering socket's waits for its peer. A process that must not wait leaves it to a thread.
 */

// Takes fd. Its number is free at once, whatever its close waits for.
void closer_close(int fd);

// So many threads wait that nothing should be taken which would need one more: the kernel can drop an fd that
// has no number yet (scm_recv_none), and waits for nobody then.
bool closer_is_full(void);

// Takes fd. What is unread in a UNIX socket, or in connections that it has not accepted, may be lingering sockets:
// for those no thread waits, however many there are.
void closer_close_socket(int fd);
// Drops all that another process has been sent: it may have closed its own by now.
void closer_close_sent(struct fdlist *fds);

#endif

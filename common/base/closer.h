#ifndef BASE_CLOSER_H
#define BASE_CLOSER_H

/**
 * close(2) of what somebody else has sent may wait: a FUSE file's asks its server, which may be who has
 * sent it, a lingering socket's waits for its peer. A process that must not wait leaves it to a thread.
 */

// Takes fd. Its number is free at once, whatever its close waits for.
void closer_close(int fd);

#endif

#ifndef EXAMPLES_MOJO_VICTIM_H
#define EXAMPLES_MOJO_VICTIM_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/**
 * Child processes that die or sleep with a socket in their hands, which is all that they have.
 */

#define VICTIM_PIECE (64 * 1024)

// Writes the pattern of seed and exits without closing. Takes fd, also on failure. -errno on
// failure.
pid_t victim_start_exiting(int fd, uint64_t seed, size_t size);
// Stopped at once. When it is continued, it reads to the end of the stream and answers with 8
// bytes: the hash of its pieces of VICTIM_PIECE bytes, one after the other. Likewise.
pid_t victim_start_stopped(int fd);

void victim_continue(pid_t pid);
void victim_end(pid_t pid); // kills it if need be, and waits for it

#endif

#ifndef GUEST_PROXY_MUTATION_H
#define GUEST_PROXY_MUTATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct recording;

/**
 * Changes the requests of a recorded Wayland session, by what their arguments are. protocol/record.md,
 * "Mutation".
 */

// Each MESSAGES frame to the host becomes one per message. The same recording and seed give the same
// result; *n_mutations is how many there were. False on ENOMEM: the recording is of no use then.
bool mutation_apply(struct recording *recording, uint64_t seed, size_t *n_mutations);
// Only makes one frame per message, so that single ones can be left out. False as above.
bool mutation_split(struct recording *recording);

#endif

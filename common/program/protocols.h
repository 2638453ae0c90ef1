#ifndef PROGRAM_PROTOCOLS_H
#define PROGRAM_PROTOCOLS_H

#include <stdbool.h>

struct program_options;

// Loads every --protocol. False: why not has been logged in one line.
bool protocols_load(const struct program_options *options);

#endif

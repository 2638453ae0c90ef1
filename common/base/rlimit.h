#ifndef BASE_RLIMIT_H
#define BASE_RLIMIT_H

/**
 * The soft limit of open files, which is low for the sake of programs that use select(2). We do
 * not, and raise ours as far as the hard limit allows; programs that we start get what we were
 * given.
 */

void rlimit_raise_files(void);
void rlimit_restore_files(void);

#endif

#ifndef PROGRAM_ASKER_H
#define PROGRAM_ASKER_H

#include <stdbool.h>
#include <stdint.h>

struct asker;
struct event_base;
struct event_note;
struct session;

/**
 * A session's way to its parent process about eventfds (program/eventfds.h). Questions do not wait:
 * the session goes on, and is told the answer. A parent that is gone, or does not answer in time, is
 * not asked again.
 */

// fd, the parent's, and link are borrowed; nothing happens before the first note. NULL on ENOMEM.
struct asker *asker_create(struct event_base *base, int fd, const uint8_t link[16]);
void asker_destroy(struct asker *asker); // NULL is fine

// Who gets the answers: borrowed.
void asker_set_session(struct asker *asker, struct session *session);
// As struct session_options.ask.
bool asker_send(struct asker *asker, const struct event_note *note, int fd);

#endif

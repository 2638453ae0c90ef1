#include "program/asker.h"

#include <errno.h>
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>

#include "base/child.h"
#include "base/fdlist.h"
#include "base/log.h"
#include "base/workers.h"
#include "program/records.h"
#include "relay/session.h"

#define ANSWER_SECONDS   5
#define RECORDS_PER_WAKE 16

struct asker {
	int fd;
	uint8_t link[16];
	struct session *session;
	struct event *readable;
	struct event *late; // while a question is open
	unsigned int open;  // questions
};

static void give_up(struct asker *asker, const char *why)
{
	log_warn("%s: eventfds that other sessions pass, too, are not the same any more", why);
	event_del(asker->late);
	asker->open = 0;
	session_forsake(asker->session);
}

// It may still tell us to move the counts of one that it has answered before.
static void handle_late(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	give_up(data, "the parent process does not answer");
}

static void wait_for_answer(const struct asker *asker)
{
	const struct timeval longest = {.tv_sec = ANSWER_SECONDS};
	if (asker->open == 0) {
		event_del(asker->late);
	} else {
		event_add(asker->late, &longest);
	}
}

static void take_answer(struct asker *asker, const struct event_note *note, int fd)
{
	if (note->number != 0 && asker->open > 0) {
		asker->open--;
		wait_for_answer(asker);
	}
	session_answer(asker->session, note, fd);
}

static bool handle_record(void *data, const void *bytes, size_t len, struct fdlist *fds)
{
	const struct record_event *record = bytes;
	if (len != sizeof(*record) || record->type != RECORD_EVENT) {
		log_limited(LOG_WARN, "the parent process sent a record that makes no sense");
		return true;
	}
	take_answer(data, &record->note, fdlist_take(fds));
	return true;
}

static void handle_readable(evutil_socket_t fd, short what, void *data)
{
	(void)fd;
	(void)what;
	struct asker *asker = data;
	if (child_read_records(asker->fd, RECORDS_PER_WAKE, handle_record, asker) !=
		CHILD_GOES_ON) {
		event_del(asker->readable);
		give_up(asker, "the parent process is gone");
	}
}

struct asker *asker_create(struct event_base *base, int fd, const uint8_t link[16])
{
	struct asker *asker = calloc(1, sizeof(*asker));
	if (asker == NULL) {
		return NULL;
	}
	asker->fd = fd;
	memcpy(asker->link, link, sizeof(asker->link));
	asker->readable = event_new(base, fd, EV_READ | EV_PERSIST, handle_readable, asker);
	asker->late = evtimer_new(base, handle_late, asker);
	if (asker->readable == NULL || asker->late == NULL) {
		asker_destroy(asker);
		return NULL;
	}
	return asker;
}

void asker_destroy(struct asker *asker)
{
	if (asker == NULL) {
		return;
	}
	if (asker->readable != NULL) {
		event_free(asker->readable);
	}
	if (asker->late != NULL) {
		event_free(asker->late);
	}
	free(asker);
}

void asker_set_session(struct asker *asker, struct session *session)
{
	asker->session = session;
}

bool asker_send(struct asker *asker, const struct event_note *note, int fd)
{
	struct record_event record = {.type = RECORD_EVENT, .note = *note};
	memcpy(record.link, asker->link, sizeof(record.link));
	int error = workers_report(asker->fd, &record, sizeof(record), fd);
	if (error == 0) {
		error = event_add(asker->readable, NULL) < 0 ? -ENOMEM : 0;
	}
	if (error < 0) {
		log_limited(LOG_WARN, "the parent process cannot be asked about an eventfd: %s",
			strerror(-error));
		return false;
	}
	if (note->number != 0 && asker->open++ == 0) {
		wait_for_answer(asker);
	}
	return true;
}

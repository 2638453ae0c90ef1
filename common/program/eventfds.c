#include "program/eventfds.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/closer.h"
#include "base/log.h"
#include "fdpass/kind.h"

struct link_id {
	uint8_t id[16];
	uint32_t cid;
};

struct eventfd {
	struct wl_list link; // eventfds.list
	struct link_id of;
	uint64_t name;
	struct fd_identity identity;
	int fd;
	uint32_t role;            // of the session that moves the counts, as it was told last
	struct wl_array sessions; // unsigned int: that hand it out, the first moves the counts
};

/* Names are not used again after a restart: sessions may outlive their parent. */
static uint64_t random_name(void)
{
	uint64_t name = 0;
	if (getrandom(&name, sizeof(name), 0) != sizeof(name)) {
		log_errno("cannot get random bytes");
	}
	return name >> 2;
}

void eventfds_init(struct eventfds *eventfds)
{
	struct rlimit files;
	*eventfds = (struct eventfds){.max = EVENTFDS_MAX, .last = random_name()};
	if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur / 4 < EVENTFDS_MAX) {
		eventfds->max = files.rlim_cur / 4;
	}
	eventfds->max_per_vm = eventfds->max / 4;
	wl_list_init(&eventfds->list);
}

static void destroy(struct eventfds *eventfds, struct eventfd *eventfd)
{
	wl_list_remove(&eventfd->link);
	eventfds->count--;
	wl_array_release(&eventfd->sessions);
	close(eventfd->fd);
	free(eventfd);
}

void eventfds_finish(struct eventfds *eventfds)
{
	struct eventfd *eventfd, *next;
	wl_list_for_each_safe (eventfd, next, &eventfds->list, link) {
		destroy(eventfds, eventfd);
	}
}

static bool link_equal(const struct link_id *a, const struct link_id *b)
{
	return a->cid == b->cid && memcmp(a->id, b->id, sizeof(a->id)) == 0;
}

static struct eventfd *find_name(
	const struct eventfds *eventfds, const struct link_id *of, uint64_t name)
{
	struct eventfd *eventfd;
	wl_list_for_each (eventfd, &eventfds->list, link) {
		if (eventfd->name == name && link_equal(&eventfd->of, of)) {
			return eventfd;
		}
	}
	return NULL;
}

static struct eventfd *find_identity(const struct eventfds *eventfds, const struct link_id *of,
	const struct fd_identity *identity)
{
	struct eventfd *eventfd;
	wl_list_for_each (eventfd, &eventfds->list, link) {
		if (fd_identity_equal(&eventfd->identity, identity) &&
			link_equal(&eventfd->of, of)) {
			return eventfd;
		}
	}
	return NULL;
}

/* NULL: it does not hand it out. */
static unsigned int *find_session(const struct eventfd *eventfd, unsigned int session)
{
	unsigned int *at;
	wl_array_for_each (at, &eventfd->sessions) {
		if (*at == session) {
			return at;
		}
	}
	return NULL;
}

static unsigned int first_session(const struct eventfd *eventfd)
{
	return *(const unsigned int *)eventfd->sessions.data;
}

static bool is_named_here(const struct eventfds *eventfds, uint64_t name)
{
	return (name & CHANNEL_EVENT_HOST) == eventfds->side;
}

static bool has_room(
	const struct eventfds *eventfds, const struct link_id *of, unsigned int session)
{
	size_t of_vm = 0, of_link = 0, of_session = 0;
	const struct eventfd *eventfd;
	wl_list_for_each (eventfd, &eventfds->list, link) {
		of_vm += eventfd->of.cid == of->cid;
		of_link += link_equal(&eventfd->of, of);
		of_session += find_session(eventfd, session) != NULL;
	}
	bool room = eventfds->count < eventfds->max && of_vm < eventfds->max_per_vm &&
		of_link < EVENTFDS_PER_LINK && of_session < eventfds->max_per_session;
	if (!room) {
		log_limited(LOG_WARN, "session %u: too many eventfds: one will be known to it only",
			session);
	}
	return room;
}

/* Takes fd, also on failure (NULL). */
static struct eventfd *create(struct eventfds *eventfds, const struct link_id *of, uint64_t name,
	const struct fd_identity *identity, int fd)
{
	struct eventfd *eventfd = calloc(1, sizeof(*eventfd));
	if (eventfd == NULL) {
		close(fd);
		return NULL;
	}
	eventfd->of = *of;
	eventfd->name = name != 0 ? name : ++eventfds->last | eventfds->side;
	eventfd->identity = *identity;
	eventfd->fd = fd;
	eventfd->role = CHANNEL_EVENT_MOVES;
	wl_array_init(&eventfd->sessions);
	wl_list_insert(&eventfds->list, &eventfd->link);
	eventfds->count++;
	return eventfd;
}

static bool add_session(struct eventfd *eventfd, unsigned int session)
{
	if (find_session(eventfd, session) != NULL) {
		return true;
	}
	unsigned int *added = wl_array_add(&eventfd->sessions, sizeof(*added));
	if (added != NULL) {
		*added = session;
	}
	return added != NULL;
}

/* NULL: it is the asker's alone. Takes fd; *known says whether there was one already. */
static struct eventfd *look_up(struct eventfds *eventfds, const struct link_id *of,
	unsigned int session, uint64_t name, int fd, bool *known)
{
	struct fd_identity identity;
	fd_identity_of(fd, &identity);
	struct eventfd *eventfd =
		name != 0 ? find_name(eventfds, of, name) : find_identity(eventfds, of, &identity);
	*known = eventfd != NULL;
	bool strange = name != 0 && is_named_here(eventfds, name); // and not known any more
	if (eventfd == NULL && !strange && has_room(eventfds, of, session)) {
		eventfd = create(eventfds, of, name, &identity, fd);
	} else {
		close(fd);
	}
	if (eventfd == NULL || add_session(eventfd, session)) {
		return eventfd;
	}
	if (!*known) {
		destroy(eventfds, eventfd);
	}
	return NULL;
}

/* Takes fd. */
static void answer(struct eventfds *eventfds, const struct link_id *of, unsigned int session,
	const struct event_note *question, int fd)
{
	bool known;
	struct event_note note = *question;
	bool by_name = question->name != 0;
	const struct eventfd *eventfd = look_up(eventfds, of, session, question->name, fd, &known);
	note.role = CHANNEL_EVENT_OTHER;
	if (eventfd == NULL || (!known && !by_name)) {
		note.role = CHANNEL_EVENT_MOVES;
	}
	if (eventfd != NULL) {
		note.name = eventfd->name;
	}
	bool another = eventfd != NULL && known && by_name;
	eventfds->tell(eventfds->data, session, &note, another ? eventfd->fd : -1);
}

static bool note_role(const struct eventfds *eventfds, const struct link_id *of,
	unsigned int session, const struct event_note *note)
{
	struct eventfd *eventfd = find_name(eventfds, of, note->name);
	if (note->role < CHANNEL_EVENT_SOURCE || note->role > CHANNEL_EVENT_SINK) {
		return false;
	}
	if (eventfd != NULL && first_session(eventfd) == session) {
		eventfd->role = note->role;
	}
	return true;
}

/* A file of somebody else's is not looked at any further: its server could let us wait. */
static bool is_eventfd(int fd)
{
	struct fd_identity identity;
	fd_identity_of(fd, &identity);
	return identity.device == FD_DEVICE_EVENTFD && fd_kind_of(fd) == FD_KIND_EVENTFD;
}

bool eventfds_handle(struct eventfds *eventfds, const struct eventfds_asker *asker,
	const struct record_event *record, int fd)
{
	static const uint8_t none[16];
	const struct event_note *note = &record->note;
	struct link_id of = {.cid = asker->cid};
	memcpy(of.id, record->link, sizeof(of.id));
	bool linked = memcmp(of.id, none, sizeof(none)) != 0;
	if (note->number == 0 && fd < 0) {
		return linked && note_role(eventfds, &of, asker->session, note);
	}
	if (linked && note->number != 0 && fd >= 0 && is_eventfd(fd)) {
		answer(eventfds, &of, asker->session, note, fd);
		return true;
	}
	if (fd >= 0) {
		closer_close(fd);
	}
	return false;
}

static void remove_session(struct eventfd *eventfd, unsigned int *session)
{
	char *after = (char *)(session + 1);
	char *end = (char *)eventfd->sessions.data + eventfd->sessions.size;
	memmove(session, after, (size_t)(end - after));
	eventfd->sessions.size -= sizeof(*session);
}

void eventfds_forget(struct eventfds *eventfds, unsigned int session)
{
	struct eventfd *eventfd, *next;
	wl_list_for_each_safe (eventfd, next, &eventfds->list, link) {
		unsigned int *at = find_session(eventfd, session);
		if (at == NULL) {
			continue;
		}
		bool first = first_session(eventfd) == session;
		remove_session(eventfd, at);
		if (eventfd->sessions.size == 0) {
			destroy(eventfds, eventfd);
		} else if (first && is_named_here(eventfds, eventfd->name)) {
			const struct event_note note = {
				.name = eventfd->name,
				.role = eventfd->role,
			};
			eventfds->tell(eventfds->data, first_session(eventfd), &note, -1);
		}
	}
}

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
	unsigned int mover, next; // sessions: moves the counts here; waits for it to end. 0: none
	uint32_t role;            // of the session that moves the counts, as it was told last
	uint64_t placed;          // as in event_note, when it had ended
	uint64_t added;           // to that, by sessions whose turn never came
	struct wl_array sessions; // unsigned int: that hand it out
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
	eventfd->placed = COUNT_MAX;
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
	struct eventfd *eventfd = look_up(eventfds, of, session, question->name, fd, &known);
	note.role = CHANNEL_EVENT_OTHER;
	if (eventfd == NULL || (!known && !by_name)) {
		note.role = CHANNEL_EVENT_MOVES;
	}
	if (eventfd != NULL) {
		note.name = eventfd->name;
	}
	bool moves = by_name ? question->role == CHANNEL_EVENT_MOVES : !known;
	if (eventfd != NULL && eventfd->mover == 0 && moves) {
		eventfd->mover = session;
	}
	bool another = eventfd != NULL && known && by_name;
	eventfds->tell(eventfds->data, session, &note, another ? eventfd->fd : -1);
}

static uint64_t add(uint64_t a, uint64_t b)
{
	return b < COUNT_MAX - a ? a + b : COUNT_MAX;
}

/* Whose turn it is when nobody moves the counts: where the name was given, anybody's. 0: nobody's. */
static unsigned int successor(const struct eventfds *eventfds, const struct eventfd *eventfd)
{
	unsigned int first = is_named_here(eventfds, eventfd->name) ? first_session(eventfd) : 0;
	return eventfd->next != 0 ? eventfd->next : first;
}

static void hand_over(struct eventfds *eventfds, struct eventfd *eventfd)
{
	unsigned int session = successor(eventfds, eventfd);
	eventfd->mover = 0;
	if (session == 0) {
		return;
	}
	eventfd->placed = add(eventfd->placed, eventfd->added);
	eventfd->added = 0;
	const struct event_note note = {
		.name = eventfd->name,
		.role = eventfd->role,
		.placed = eventfd->placed,
	};
	if (eventfds->tell(eventfds->data, session, &note, -1)) {
		eventfd->mover = session;
		eventfd->next = 0;
	} else {
		eventfds->untold = true;
	}
}

/* Who was told of one says so: by then it has read what was in the way of others. */
static void hand_over_untold(struct eventfds *eventfds, const struct link_id *of)
{
	bool fits = true;
	struct eventfd *eventfd;
	if (!eventfds->untold) {
		return;
	}
	eventfds->untold = false;
	wl_list_for_each (eventfd, &eventfds->list, link) {
		bool due = eventfd->mover == 0 && successor(eventfds, eventfd) != 0;
		if (due && fits && link_equal(&eventfd->of, of)) {
			hand_over(eventfds, eventfd);
			due = eventfd->mover == 0;
			fits = !due;
		}
		eventfds->untold |= due;
	}
}

static void wait_for_turn(struct eventfds *eventfds, struct eventfd *eventfd, unsigned int session)
{
	if (is_named_here(eventfds, eventfd->name)) {
		return; // it is told when it is
	}
	eventfd->next = session;
	if (eventfd->mover == 0) {
		hand_over(eventfds, eventfd);
	}
}

static void remove_session(struct eventfd *eventfd, unsigned int session)
{
	unsigned int *at = find_session(eventfd, session);
	char *after = (char *)(at + 1);
	char *end = (char *)eventfd->sessions.data + eventfd->sessions.size;
	memmove(at, after, (size_t)(end - after));
	eventfd->sessions.size -= sizeof(*at);
}

/* It neither hands it out nor moves its counts any more. */
static void leave(struct eventfds *eventfds, struct eventfd *eventfd, unsigned int session)
{
	remove_session(eventfd, session);
	eventfd->next = eventfd->next != session ? eventfd->next : 0;
	if (eventfd->sessions.size == 0) {
		destroy(eventfds, eventfd);
	} else if (eventfd->mover == session || eventfd->mover == 0) {
		hand_over(eventfds, eventfd);
	}
}

/* By a session that ends before its turn came. All else that is there was written here. */
static void note_added(struct eventfd *eventfd, uint64_t count)
{
	eventfd->placed = eventfd->role == CHANNEL_EVENT_SINK ? eventfd->placed : 0;
	eventfd->role = CHANNEL_EVENT_SINK;
	eventfd->added = add(eventfd->added, count);
}

static bool note_role(struct eventfds *eventfds, const struct link_id *of, unsigned int session,
	const struct event_note *note)
{
	struct eventfd *eventfd = find_name(eventfds, of, note->name);
	if (note->role > CHANNEL_EVENT_SINK || note->placed > COUNT_MAX) {
		return false;
	}
	if (eventfd == NULL || find_session(eventfd, session) == NULL) {
		return true;
	}
	if (note->role == CHANNEL_EVENT_OTHER) {
		note_added(eventfd, note->placed);
	} else if (eventfd->mover != session) {
		wait_for_turn(eventfds, eventfd, session);
	} else {
		eventfd->role = note->role;
		eventfd->placed = note->placed;
	}
	if (note->placed != COUNT_MAX) {
		leave(eventfds, eventfd, session);
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
		bool ok = linked && note_role(eventfds, &of, asker->session, note);
		hand_over_untold(eventfds, &of);
		return ok;
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

void eventfds_forget(struct eventfds *eventfds, unsigned int session)
{
	struct eventfd *eventfd, *next;
	wl_list_for_each_safe (eventfd, next, &eventfds->list, link) {
		if (find_session(eventfd, session) != NULL) {
			leave(eventfds, eventfd, session);
		}
	}
}

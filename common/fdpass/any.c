#include "fdpass/any.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "fdpass/device.h"
#include "fdpass/event.h"
#include "fdpass/file.h"
#include "fdpass/kind.h"
#include "fdpass/ondemand.h"
#include "fdpass/shared.h"
#include "fdpass/socket.h"
#include "fdpass/stream.h"
#include "fdpass/sync.h"

typedef uint32_t (*export_func)(struct fdrefs *refs, int fd, const char **wrong);

static uint32_t export_pipe(struct fdrefs *refs, int fd, const char **wrong)
{
	return stream_export(refs, fd, false, wrong);
}

static bool is_carried_socket(const struct fd_facts *facts)
{
	return facts->kind == FD_KIND_UNIX_SOCKET && facts->connected &&
		(facts->socket_type == SOCK_STREAM || facts->socket_type == SOCK_SEQPACKET);
}

static export_func choose_for_socket(const struct fd_facts *facts, const char **wrong)
{
	*wrong = facts->name;
	return is_carried_socket(facts) ? socket_export : NULL;
}

static export_func choose_for_file(
	const struct fdrefs *refs, int fd, const struct fd_facts *facts, const char **wrong)
{
	if (facts->memory && shared_knows(refs, fd)) {
		return shared_export;
	}
	bool writable = facts->access != O_RDONLY && !facts->immutable;
	if (!facts->readable_file || facts->access == O_WRONLY) {
		*wrong = facts->readable_file ? "a file that is only to be written" : facts->name;
		return NULL;
	}
	if (!writable) {
		bool large = facts->size > file_copy_max(refs);
		return large && facts->access == O_RDONLY ? ondemand_export : file_export_exact;
	}
	if (!facts->memory) {
		*wrong = "a file that may be written to";
		return NULL;
	}
	if (refs->rules.shared == FDREF_SHARED_SNAPSHOT) {
		return file_export_exact;
	}
	if (refs->rules.shared == FDREF_SHARED_DIFF) {
		return shared_export;
	}
	*wrong = "memory that both sides may write to (--shm-mode)";
	return NULL;
}

/* NULL: it cannot cross, and *wrong is what it is. */
static export_func choose(
	const struct fdrefs *refs, int fd, const struct fd_facts *facts, const char **wrong)
{
	*wrong = facts->name;
	if (facts->path_only) {
		return NULL;
	}
	if (facts->access == O_ACCMODE) {
		*wrong = "an fd that is neither for reading nor for writing";
		return NULL;
	}
	switch (facts->kind) {
	case FD_KIND_UNIX_SOCKET:
		return choose_for_socket(facts, wrong);
	case FD_KIND_PIPE:
		*wrong = "a FIFO that is open both ways";
		return facts->access == O_RDWR ? NULL : export_pipe;
	case FD_KIND_EVENTFD:
		return event_export;
	case FD_KIND_SYNC_FILE:
		return sync_export;
	case FD_KIND_CHARACTER_DEVICE:
		return facts->device >= 0 ? device_export : NULL;
	case FD_KIND_FILE:
		return choose_for_file(refs, fd, facts, wrong);
	default:
		return NULL;
	}
}

/*
 * A service on the host passes on what another session, mostly of another VM, has given it. The end
 * of this one would tell nothing to who has sent it, and let him choose whose session ends. Whether a
 * socket is a session's cannot be told.
 */
static bool is_passed_on(const struct fdrefs *refs, const struct fd_facts *facts)
{
	return refs->own_bit == CHANNEL_ID_HOST && (facts->of_session || is_carried_socket(facts));
}

/* The rules for what cannot cross, which wrong says. */
static enum any_result give_up(
	struct fdrefs *refs, const struct fd_facts *facts, uint32_t *id, char wrong[ANY_WRONG_MAX])
{
	if (refs->rules.unsupported == FDREF_UNSUPPORTED_CLOSE && !is_passed_on(refs, facts)) {
		return ANY_REFUSED;
	}
	refs->counts.unsupported++;
	if (refs->rules.unsupported == FDREF_UNSUPPORTED_DROP) {
		log_limited(LOG_WARN, "%s: left out", wrong);
		return ANY_DROPPED;
	}
	log_limited(LOG_WARN, "%s: /dev/null instead", wrong);
	const char *failure;
	int access = facts->access == O_ACCMODE ? O_RDWR : facts->access;
	int null = device_open(CHANNEL_DEVICE_NULL, access);
	*id = null < 0 ? 0 : device_export(refs, null, &failure);
	return *id == 0 ? ANY_REFUSED : ANY_OPENED;
}

/* A peer that may look into this process could pass it; nobody would end such a session. */
static bool is_channel(const struct fdrefs *refs, const struct fd_facts *facts)
{
	return facts->identity.number != 0 &&
		fd_identity_equal(&facts->identity, &refs->channel_identity);
}

static enum any_result export_anew(struct fdrefs *refs, int fd, const struct fd_facts *facts,
	uint32_t *id, char wrong[ANY_WRONG_MAX])
{
	const char *what = NULL;
	export_func export = choose(refs, fd, facts, &what);
	if (is_channel(refs, facts)) {
		what = "the connection between guest and host";
		export = NULL;
	}
	if (export == NULL) {
		close(fd);
		snprintf(wrong, ANY_WRONG_MAX, "%s cannot cross", what);
		return give_up(refs, facts, id, wrong);
	}
	const char *failure = NULL;
	*id = export(refs, fd, &failure);
	if (*id != 0) {
		return ANY_OPENED;
	}
	snprintf(wrong, ANY_WRONG_MAX, "%s cannot cross: %s", facts->name, failure);
	return give_up(refs, facts, id, wrong);
}

/* The fdref of what is behind fd; NULL: there is none. */
static struct fdref *find(const struct fdrefs *refs, int fd)
{
	static const struct fd_identity unknown;
	struct fd_identity identity;
	fd_identity_of(fd, &identity);
	return fd_identity_equal(&identity, &unknown) ? NULL : fdrefs_find(refs, &identity);
}

/* What can have to wait: the others are not looked for twice. */
static struct fdref *find_waiting(const struct fdrefs *refs, int fd, enum fd_kind kind)
{
	bool comes_home = kind == FD_KIND_UNIX_SOCKET || kind == FD_KIND_PIPE;
	return comes_home && refs->theirs.used > 0 ? find(refs, fd) : NULL;
}

bool any_must_wait(struct fdrefs *refs, int fd)
{
	enum fd_kind kind = fd_kind_of(fd);
	if (kind == FD_KIND_SYNC_FILE) {
		return sync_must_wait(refs, fd);
	}
	if (kind == FD_KIND_EVENTFD) {
		return event_must_wait(refs, fd);
	}
	struct fdref *ref = find_waiting(refs, fd, kind);
	return ref != NULL && ref->interface->must_wait != NULL &&
		ref->interface->must_wait(ref, fd);
}

void any_forget(struct fdrefs *refs, int fd)
{
	struct fdref *ref = find_waiting(refs, fd, fd_kind_of(fd));
	sync_forget(refs, fd);
	if (ref != NULL && ref->interface->forsaken != NULL) {
		ref->interface->forsaken(ref);
	}
}

enum any_result any_export(struct fdrefs *refs, int fd, uint32_t *id, char wrong[ANY_WRONG_MAX])
{
	struct fd_facts facts;
	struct fdref *ref = find(refs, fd);
	if (ref != NULL && ref->interface->again != NULL &&
		ref->interface->again(ref, fd) == FDREF_AGAIN_NAME) {
		*id = ref->id;
		close(fd);
		return ANY_OPENED;
	}
	fd_facts_of(fd, &facts);
	return export_anew(refs, fd, &facts, id, wrong);
}

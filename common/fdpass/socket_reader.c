#include <errno.h>
#include <fcntl.h>

#include "fdpass/kind.h"
#include "fdpass/socket_impl.h"

/*
 * What comes for a socket can be read by one fdref only. Which one of this session that is, its table
 * tells; whether another session of the machine has it, a record lock on the socket, which belongs to
 * the process and goes with it. Closing any fd of the socket gives it up, too.
 */

bool socket_claim(int fd)
{
	const struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	return fcntl(fd, F_SETLK, &lock) == 0 || (errno != EAGAIN && errno != EACCES);
}

static bool is_reader(const struct socket *sock)
{
	return sock->ours && !sock->read_over && !sock->home;
}

void socket_give_up_claim(const struct socket *sock)
{
	const struct flock lock = {.l_type = F_UNLCK, .l_whence = SEEK_SET};
	if (is_reader(sock)) {
		fcntl(sock->fd, F_SETLK, &lock);
	}
}

struct socket *socket_find_reader(const struct fdrefs *refs, const struct fd_identity *identity)
{
	for (size_t i = 0; identity->number != 0 && i < refs->ours.size; i++) {
		struct fdref *ref = refs->ours.refs[i];
		if (ref != NULL && ref->kind == CHANNEL_KIND_SOCKET &&
			fd_identity_equal(&ref->identity, identity) &&
			is_reader((struct socket *)ref)) {
			return (struct socket *)ref;
		}
	}
	return NULL;
}

void socket_claim_again(const struct fdrefs *refs, const struct fd_identity *identity)
{
	const struct socket *sock = socket_find_reader(refs, identity);
	if (sock != NULL) {
		socket_claim(sock->fd);
	}
}

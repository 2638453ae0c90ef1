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

static bool suits(const struct fdref *ref, const void *data)
{
	(void)data;
	return ref->kind == CHANNEL_KIND_SOCKET && is_reader((const struct socket *)ref);
}

struct socket *socket_find_reader(const struct fdrefs *refs, const struct fd_identity *identity)
{
	return (struct socket *)fdrefs_find_suitable(refs, identity, suits, NULL);
}

void socket_claim_again(const struct fdrefs *refs, const struct fd_identity *identity)
{
	const struct socket *sock = socket_find_reader(refs, identity);
	if (sock != NULL) {
		socket_claim(sock->fd);
	}
}

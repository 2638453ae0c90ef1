#include "channel/transport.h"

#include <assert.h>
#include <errno.h>
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define VSOCK_BUFFER_SIZE     (UINT64_C(1) << 20)
#define CONNECT_SECONDS       5
#define FIRST_PRIVILEGED_PORT 512u
#define PRIVILEGED_PORTS      512u // up to 1023

struct address {
	union {
		struct sockaddr any;
		struct sockaddr_un un;
		struct sockaddr_vm vm;
	};
	socklen_t len;
};

static_assert(sizeof(((struct transport *)0)->path) == sizeof(((struct sockaddr_un *)0)->sun_path),
	"any path that fits a transport fits an address");

// Decimal digits up to end; UINT32_MAX, which stands for "any", is no number of anything.
static bool parse_number(const char *text, const char *end, uint32_t *number)
{
	uint64_t value = 0;
	if (text == end) {
		return false;
	}
	for (const char *c = text; c < end; c++) {
		if (*c < '0' || *c > '9') {
			return false;
		}
		value = value * 10 + (uint64_t)(*c - '0');
		if (value >= UINT32_MAX) {
			return false;
		}
	}
	*number = (uint32_t)value;
	return true;
}

static const char *parse_path(
	const char *path, enum transport_kind kind, struct transport *transport)
{
	size_t len = strlen(path);
	if (len == 0 || strcmp(path, "@") == 0) {
		return "the path is missing";
	}
	if (len >= sizeof(transport->path)) {
		return "the path is too long for a UNIX socket (107 bytes at most)";
	}
	transport->kind = kind;
	memcpy(transport->path, path, len + 1);
	return NULL;
}

static const char *parse_vsock(const char *text, struct transport *transport)
{
	transport->kind = TRANSPORT_VSOCK;
	transport->cid = VMADDR_CID_ANY;
	const char *port = text;
	const char *colon = strchr(text, ':');
	if (colon != NULL) {
		if (!parse_number(text, colon, &transport->cid)) {
			return "the CID is not a number up to 4294967294";
		}
		port = colon + 1;
	}
	if (!parse_number(port, port + strlen(port), &transport->port)) {
		return "the port is not a number up to 4294967294";
	}
	return NULL;
}

const char *transport_parse(const char *text, struct transport *transport)
{
	*transport = (struct transport){0};
	if (strncmp(text, "unix:", 5) == 0) {
		return parse_path(text + 5, TRANSPORT_UNIX, transport);
	}
	if (strncmp(text, "vsock:", 6) == 0) {
		return parse_vsock(text + 6, transport);
	}
	if (strncmp(text, "vhost-user:", 11) == 0) {
		return parse_path(text + 11, TRANSPORT_VHOST_USER, transport);
	}
	return "must be unix:PATH, vsock:[CID:]PORT or vhost-user:PATH";
}

const char *transport_parse_service(const char *text, struct transport *transport)
{
	*transport = (struct transport){0};
	if (strncmp(text, "unix:", 5) == 0) {
		return parse_path(text + 5, TRANSPORT_UNIX, transport);
	}
	if (strncmp(text, "seqpacket:", 10) == 0) {
		return parse_path(text + 10, TRANSPORT_SEQPACKET, transport);
	}
	return "must be unix:PATH or seqpacket:PATH";
}

const char *transport_parse_resolver(const char *text, struct transport *transport)
{
	*transport = (struct transport){0};
	if (strncmp(text, "unix:", 5) == 0) {
		return parse_path(text + 5, TRANSPORT_SEQPACKET, transport);
	}
	return "must be unix:PATH or vhost-user:PATH";
}

static void unix_address(const struct transport *transport, struct address *address)
{
	size_t len = strlen(transport->path);
	address->un = (struct sockaddr_un){.sun_family = AF_UNIX};
	memcpy(address->un.sun_path, transport->path, len);
	address->len = sizeof(address->un);
	if (transport->path[0] == '@') {
		address->un.sun_path[0] = '\0';
		address->len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
	}
}

static void vsock_address(
	const struct transport *transport, uint32_t default_cid, struct address *address)
{
	address->vm = (struct sockaddr_vm){
		.svm_family = AF_VSOCK,
		.svm_cid = transport->cid == VMADDR_CID_ANY ? default_cid : transport->cid,
		.svm_port = transport->port,
	};
	address->len = sizeof(address->vm);
}

// Larger buffers are a matter of speed: a kernel that refuses them does no harm.
static void raise_vsock_buffers(int fd)
{
	const uint64_t size = VSOCK_BUFFER_SIZE;
	setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_BUFFER_MAX_SIZE, &size, sizeof(size));
	setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_BUFFER_SIZE, &size, sizeof(size));
}

static int open_socket(const struct transport *transport, int flags)
{
	bool vsock = transport->kind == TRANSPORT_VSOCK;
	int type = transport->kind == TRANSPORT_SEQPACKET ? SOCK_SEQPACKET : SOCK_STREAM;
	int fd = socket(vsock ? AF_VSOCK : AF_UNIX, type | SOCK_CLOEXEC | flags, 0);
	if (fd >= 0 && vsock) {
		raise_vsock_buffers(fd);
	}
	return fd < 0 ? -errno : fd;
}

static int connect_to(int fd, const struct address *address)
{
	int result;
	do {
		result = connect(fd, &address->any, address->len);
	} while (result < 0 && errno == EINTR);
	return result < 0 ? -errno : 0;
}

// Whether a file is the socket of a listener that is gone. It is asked by a socket of another type: who
// is there refuses that before there is a connection.
static bool is_dead(const struct transport *transport, const struct address *address)
{
	struct stat st;
	if (transport->path[0] == '@' || lstat(transport->path, &st) < 0 || !S_ISSOCK(st.st_mode)) {
		return false;
	}
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0) {
		return false;
	}
	int error = connect_to(fd, address);
	close(fd);
	return error == -ECONNREFUSED;
}

static int bind_to(int fd, const struct address *address)
{
	mode_t mask = umask(0177);
	int error = bind(fd, &address->any, address->len) < 0 ? -errno : 0;
	umask(mask);
	return error;
}

static int bind_unix(int fd, const struct transport *transport)
{
	struct address address;
	unix_address(transport, &address);
	int error = bind_to(fd, &address);
	if (error == -EADDRINUSE && is_dead(transport, &address)) {
		if (unlink(transport->path) < 0) {
			return -errno;
		}
		error = bind_to(fd, &address);
	}
	return error;
}

static int bind_vsock(int fd, const struct transport *transport)
{
	struct address address;
	vsock_address(transport, VMADDR_CID_ANY, &address);
	return bind_to(fd, &address);
}

int transport_listen(const struct transport *transport)
{
	int fd = open_socket(transport, SOCK_NONBLOCK);
	if (fd < 0) {
		return fd;
	}
	int error = transport->kind == TRANSPORT_VSOCK ? bind_vsock(fd, transport)
						       : bind_unix(fd, transport);
	if (error == 0 && listen(fd, SOMAXCONN) < 0) {
		error = -errno;
	}
	if (error < 0) {
		close(fd);
		return error;
	}
	return fd;
}

void transport_unlink(const struct transport *transport)
{
	if (transport->kind != TRANSPORT_VSOCK && transport->path[0] != '@') {
		unlink(transport->path);
	}
}

/*
 * A port that only root may use tells the host that it is root who connects (CAP_NET_BIND_SERVICE;
 * rresvport(3) does the same). Each process begins at another one: the host may still remember the
 * connection that had it last.
 */
static void bind_privileged_port(int fd)
{
	for (unsigned int i = 0; i < PRIVILEGED_PORTS; i++) {
		const struct sockaddr_vm address = {
			.svm_family = AF_VSOCK,
			.svm_cid = VMADDR_CID_ANY,
			.svm_port = FIRST_PRIVILEGED_PORT +
				((unsigned int)getpid() + i) % PRIVILEGED_PORTS,
		};
		if (bind(fd, (const struct sockaddr *)&address, sizeof(address)) == 0 ||
			errno != EADDRINUSE) {
			return; // if not by us, the kernel chooses one
		}
	}
}

/* Waiting for room in a listener's queue is sending, to the kernel. */
static int connect_in_time(int fd, const struct address *address)
{
	const struct timeval most = {.tv_sec = CONNECT_SECONDS}, any = {0};
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &most, sizeof(most));
	int error = connect_to(fd, address);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &any, sizeof(any));
	return error == -EAGAIN ? -ETIMEDOUT : error;
}

static int connect_with(const struct transport *transport, int flags)
{
	struct address address;
	if (transport->kind == TRANSPORT_VSOCK) {
		vsock_address(transport, VMADDR_CID_HOST, &address);
	} else {
		unix_address(transport, &address);
	}
	int fd = open_socket(transport, flags);
	if (fd < 0) {
		return fd;
	}
	if (transport->kind == TRANSPORT_VSOCK) {
		bind_privileged_port(fd);
	}
	int error = flags == 0 ? connect_in_time(fd, &address) : connect_to(fd, &address);
	if (error < 0) {
		close(fd);
		return error;
	}
	return fd;
}

int transport_connect(const struct transport *transport)
{
	return connect_with(transport, 0);
}

int transport_connect_now(const struct transport *transport)
{
	return connect_with(transport, SOCK_NONBLOCK);
}

int transport_peer_of(int fd, struct transport_peer *peer)
{
	struct address address = {.len = sizeof(struct sockaddr_un)};
	struct ucred user;
	socklen_t len = sizeof(user);
	*peer = (struct transport_peer){0};
	if (getpeername(fd, &address.any, &address.len) < 0) {
		return -errno;
	}
	if (address.any.sa_family == AF_VSOCK) {
		peer->vsock = true;
		peer->cid = address.vm.svm_cid;
		peer->port = address.vm.svm_port;
		return 0;
	}
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &user, &len) < 0) {
		return -errno;
	}
	peer->uid = user.uid;
	return 0;
}

void transport_peer_name(int fd, char *text, size_t len)
{
	struct address address = {.len = sizeof(struct sockaddr_un)};
	if (getpeername(fd, &address.any, &address.len) < 0) {
		snprintf(text, len, "a peer that is gone");
	} else if (address.any.sa_family == AF_VSOCK) {
		snprintf(
			text, len, "vsock cid %u port %u", address.vm.svm_cid, address.vm.svm_port);
	} else {
		snprintf(text, len, "unix");
	}
}

#include "host-proxy/page_client.h"

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fdlist.h"
#include "base/log.h"
#include "base/scm.h"
#include "channel/channel.h"
#include "fdpass/kind.h"
#include "fdpass/pages.h"
#include "host-proxy/page_lender.h"
#include "host-proxy/ram_buffer.h"

#define PATIENCE_MS 10000

struct page_client {
	struct page_buffers base;
	int fd;
	struct page_answer answer; // the last one
};

static bool ask(const struct page_client *client, const struct ram_range *ranges, size_t n)
{
	const struct iovec iov = {.iov_base = (void *)ranges, .iov_len = n * sizeof(ranges[0])};
	const struct fdlist none = {0};
	return scm_send(client->fd, &iov, 1, &none, 0) == (ssize_t)iov.iov_len;
}

static bool wait_for_answer(const struct page_client *client)
{
	struct pollfd answer = {.fd = client->fd, .events = POLLIN};
	int n;
	do {
		n = poll(&answer, 1, PATIENCE_MS);
	} while (n < 0 && errno == EINTR);
	return n == 1;
}

/* Only a dma-buf that is as long as what it was made of. */
static int take_buffer(struct fdlist *fds, uint64_t size)
{
	int fd = fdlist_take(fds);
	if (fd >= 0 &&
		(fd_kind_of(fd) != FD_KIND_DMABUF || lseek(fd, 0, SEEK_END) != (off_t)size)) {
		close(fd);
		fd = -1;
	}
	return fd;
}

static int receive(struct page_client *client, uint64_t size, const char **wrong)
{
	struct fdlist fds;
	fdlist_init(&fds);
	ssize_t n = scm_recv(client->fd, &client->answer, sizeof(client->answer), &fds);
	int fd = -1;
	client->answer.wrong[PAGE_ANSWER_MAX - 1] = '\0';
	if (n != sizeof(client->answer)) {
		*wrong = "a pool's pages, which the vsock device does not lend any more";
	} else if (client->answer.wrong[0] != '\0') {
		*wrong = client->answer.wrong;
	} else {
		fd = take_buffer(&fds, size);
		*wrong =
			fd < 0 ? "a pool's pages, for which the vsock device has no dma-buf" : NULL;
	}
	fdlist_finish(&fds);
	return fd;
}

static int make(struct page_buffers *buffers, const struct channel_page_range *ranges, size_t n,
	const char **wrong)
{
	struct page_client *client = (struct page_client *)buffers;
	struct ram_range list[CHANNEL_MAX_RANGES];
	uint64_t size = 0;
	for (size_t i = 0; i < n; i++) {
		list[i] = (struct ram_range){
			.address = channel_get64(ranges[i].address),
			.size = ranges[i].length,
		};
		size += ranges[i].length;
	}
	if (!ask(client, list, n) || !wait_for_answer(client)) {
		*wrong = "a pool's pages, for which the vsock device does not answer";
		return -1;
	}
	int fd = receive(client, size, wrong);
	if (fd < 0) {
		log_limited(LOG_WARN, "cannot make a pool of the guest's pages: %s", *wrong);
	}
	return fd;
}

/* Where there is no room for it, the lender notices later. */
static void let_go(struct page_buffers *buffers, const struct fd_identity *identity)
{
	const struct page_client *client = (const struct page_client *)buffers;
	const struct iovec iov = {
		.iov_base = (void *)&identity->number, .iov_len = sizeof(identity->number)};
	const struct fdlist none = {0};
	scm_send(client->fd, &iov, 1, &none, 0);
}

static void destroy(struct page_buffers *buffers)
{
	struct page_client *client = (struct page_client *)buffers;
	close(client->fd);
	free(client);
}

static const struct page_buffers_interface interface = {
	.make = make,
	.let_go = let_go,
	.destroy = destroy,
};

struct page_buffers *page_client_create(int fd)
{
	struct page_client *client = calloc(1, sizeof(*client));
	if (client == NULL) {
		close(fd);
		return NULL;
	}
	client->base.interface = &interface;
	client->base.kept = 1; // the lender's
	client->fd = fd;
	return &client->base;
}

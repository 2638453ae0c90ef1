#include "fdpass/fileserver.h"

#include <errno.h>

/* What a build without libfuse3 has instead of fileserver.c. */

struct fileserver *fileserver_create(struct event_base *base)
{
	(void)base;
	return NULL;
}

const char *fileserver_start(struct fileserver *server)
{
	(void)server;
	return "a file to be read on demand, for which this build has no FUSE";
}

void fileserver_destroy(struct fileserver *server)
{
	(void)server;
}

void fileserver_add(struct fileserver *server, struct served_file *file,
	const struct served_file_interface *interface, uint64_t size)
{
	(void)server;
	(void)file;
	(void)interface;
	(void)size;
}

void fileserver_remove(struct served_file *file)
{
	(void)file;
}

int fileserver_open(struct served_file *file, uint64_t offset)
{
	(void)file;
	(void)offset;
	return -ENOSYS;
}

void fileserver_answer(struct fuse_req *req, const void *data, size_t len)
{
	(void)req;
	(void)data;
	(void)len;
}

void fileserver_fail(struct fuse_req *req, int error)
{
	(void)req;
	(void)error;
}

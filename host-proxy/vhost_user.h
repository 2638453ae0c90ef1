#ifndef HOST_PROXY_VHOST_USER_H
#define HOST_PROXY_VHOST_USER_H

#include <stdbool.h>
#include <stdint.h>

#include "host-proxy/virtqueue.h"

struct event_base;
struct guest_memory;
struct vhost_user;

/**
 * The back end of one vhost-user connection (QEMU, docs/interop/vhost-user.rst): a VMM hands over its
 * guest's memory, the queues of one device and the eventfds that they are notified by. Which device
 * it is, the handler knows.
 */

#define VHOST_USER_QUEUES_MAX 3

struct vhost_user_handler {
	// The queue may be used from now on. It asks for a kick if the handler calls
	// virtqueue_want_kick.
	void (*started)(void *data, unsigned int queue);
	void (*kicked)(void *data, unsigned int queue);
	// The queue is about to stop, and nothing may be popped from it any more. False: some of its
	// chains are in use; vhost_user_drained will be called when they are given back. May be NULL.
	bool (*drain)(void *data, unsigned int queue);
	// vhost_user_memory has changed. May be NULL.
	void (*memory_changed)(void *data);
	// The guest's driver has started anew: it knows nothing of what was before.
	void (*reset)(void *data);
	// The VMM's socket for what a GPU shows (VHOST_USER_GPU_SET_SOCKET), to take. NULL: the device is none.
	void (*display)(void *data, int fd);
	// Nothing else follows. wrong is NULL if the VMM hung up. Must not destroy the vhost_user.
	void (*ended)(void *data, const char *wrong);
};

struct vhost_user_config {
	struct event_base *base;                  // borrowed
	int fd;                                   // the VMM's connection; taken, also on failure
	const void *device;                       // the device's configuration space; borrowed
	uint32_t device_size;                     // bytes
	bool may_set;                             // the guest may write to it, and nobody cares
	unsigned int n_queues;                    // at most VHOST_USER_QUEUES_MAX
	const struct vhost_user_handler *handler; // borrowed
	void *data;
};

// NULL with errno on failure.
struct vhost_user *vhost_user_create(const struct vhost_user_config *config);
void vhost_user_destroy(struct vhost_user *vhost); // NULL is fine

// NULL while the queue must not be used.
struct virtqueue *vhost_user_queue(struct vhost_user *vhost, unsigned int queue);
const struct guest_memory *vhost_user_memory(const struct vhost_user *vhost);
// Gives back a chain that was kept, while the queue is not stopped; after that the guest has forgotten
// it, and so does this.
void vhost_user_give_back(struct vhost_user *vhost, unsigned int queue, uint16_t head);
// The queue that was to be drained is. The handler may be told of the end from here.
void vhost_user_drained(struct vhost_user *vhost);
// Calls the guest if it wants to know of what was pushed; whether it does.
bool vhost_user_call(struct vhost_user *vhost, unsigned int queue);
// Ends the connection because of what the guest did; the handler is told, at once.
void vhost_user_fail(struct vhost_user *vhost, const char *wrong);

#endif

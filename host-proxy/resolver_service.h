#ifndef HOST_PROXY_RESOLVER_SERVICE_H
#define HOST_PROXY_RESOLVER_SERVICE_H

#include <stdint.h>

struct admission;
struct event_base;
struct gpu_buffer;
struct resolver_service;

/**
 * Gives a GPU's buffers to those who name a resource (protocol/resolver.md): sessions, which are told
 * the number by their guest.
 */

#define RESOLVER_CLIENTS_MAX 1024

struct resolver_service_config {
	struct event_base *base;           // borrowed
	int listen_fd;                     // SOCK_SEQPACKET, non-blocking; taken, also on failure
	const struct admission *admission; // of users who may ask; borrowed
	// NULL, or in one static phrase why the resource is no buffer.
	const char *(*get_buffer)(void *data, uint32_t id, struct gpu_buffer *buffer);
	void *data;
};

// NULL with errno on failure.
struct resolver_service *resolver_service_create(const struct resolver_service_config *config);
void resolver_service_destroy(struct resolver_service *service); // NULL is fine

#endif

#ifndef TESTS_SUPPORT_UDMABUF_H
#define TESTS_SUPPORT_UDMABUF_H

#include <stddef.h>
#include <stdint.h>

struct resolver;

/**
 * dma-bufs for clients and hosts in tests: of /dev/udmabuf where there is one, and else memfds,
 * which a program that is linked with -Wl,--wrap=fd_kind_of takes for dma-bufs, as it does what stands for
 * fences (fence.h). What there is no
 * kernel for then is its fences and caches.
 */

// One of whole pages, at least size bytes, all zeros. The caller's, CLOEXEC.
int udmabuf_make(size_t size);

// Its bytes; by munmap(2) they are given back.
uint8_t *udmabuf_map(int fd, size_t size);

// Makes them on the host. To be destroyed by resolver_destroy.
struct resolver *udmabuf_resolver_create(void);
// Makes none.
struct resolver *udmabuf_no_resolver_create(void);

#endif

#ifndef HOST_PROXY_DMABUF_PROBE_H
#define HOST_PROXY_DMABUF_PROBE_H

// Whether a compositor takes dma-bufs that clients of a guest could make: linear ones, of a format that
// is known. 0; -EOPNOTSUPP if it does not; -ETIMEDOUT or other -errno if it does not tell. compositor_fd
// is taken.
int dmabuf_probe(int compositor_fd);

#endif

"""What a client in a machine needs to show buffers of its virtio-gpu, made on a render node as an unprivileged one
could."""

import fcntl
import glob
import mmap
import os
import struct
import time

from wayland import Client

TARGET_2D = 2
FORMAT_BGRX = 2  # virtio_gpu.h
BIND_RENDER_TARGET = 2
XRGB8888 = 0x34325258  # drm_fourcc.h; it is linear
SECONDS = 1500  # for an answer: clocks may run fast in a machine in a machine


def request(number, size, direction=3):
    """drm.h: DRM_IOWR, or DRM_IOW with direction 1."""
    return direction << 30 | size << 16 | ord("d") << 8 | number


# virtgpu_drm.h and drm.h
RESOURCE_CREATE = request(0x44, 56)
WAIT = request(0x48, 8)
PRIME_HANDLE_TO_FD = request(0x2d, 12)
GEM_CLOSE = request(0x09, 8, 1)


class Node:
    def __init__(self):
        path, = glob.glob("/dev/dri/renderD*")
        self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def create(self, width, height):
        """(GEM handle, resource id, bytes)"""
        size = width * height * 4
        words = [TARGET_2D, FORMAT_BGRX, BIND_RENDER_TARGET, width, height, 1, 1, 0, 0, 0, 0, 0,
                 size, width * 4]
        data = bytearray(struct.pack("14I", *words))
        fcntl.ioctl(self.fd, RESOURCE_CREATE, data)
        words = struct.unpack("14I", data)
        return words[10], words[11], size

    def export(self, handle):
        data = bytearray(struct.pack("IIi", handle, os.O_RDWR | os.O_CLOEXEC, -1))
        fcntl.ioctl(self.fd, PRIME_HANDLE_TO_FD, data)
        return struct.unpack("IIi", data)[2]

    def close(self, handle):
        fcntl.ioctl(self.fd, GEM_CLOSE, struct.pack("II", handle, 0))

    def wait_for_device(self):
        """The queue is in order: when this buffer is idle, the device knows those before it."""
        handle, _, _ = self.create(16, 16)
        fcntl.ioctl(self.fd, WAIT, struct.pack("II", handle, 0))
        self.close(handle)


class Buffer:
    """One of 4 bytes a pixel, and a dma-buf of it."""

    def __init__(self, node, width, height):
        self.handle, self.resource, self.size = node.create(width, height)
        fd = node.export(self.handle)
        self.pixels = mmap.mmap(fd, self.size)
        self.width, self.height, self.fd = width, height, fd
        self.stride, self.offset = width * 4, 0
        self.last = self.pixel()

    def pixel(self):
        return self.pixels[:4]

    def wait_for_change(self):
        """Since the last time, or the beginning."""
        while self.pixel() == self.last:
            time.sleep(0.1)
        self.last = self.pixel()

    def destroy(self, node):
        self.pixels.close()
        os.close(self.fd)
        node.close(self.handle)


class Window:
    """A surface without a role, whose buffers are shown all the same."""

    def __init__(self):
        self.client = Client(os.path.join(os.environ["XDG_RUNTIME_DIR"],
                                          os.environ["WAYLAND_DISPLAY"]))
        self.client.get_registry()
        self.client.sync(SECONDS)
        self.dmabuf = self.client.bind("zwp_linux_dmabuf_v1")
        compositor = self.client.bind("wl_compositor", 4)
        self.surface = self.client.new_id()
        self.client.request(compositor, 0, self.surface)

    def show(self, buffer, width=None, height=None):
        """A new wl_buffer, which the compositor has then. A buffer that has no size is told it."""
        width, height = width or buffer.width, height or buffer.height
        params, made = self.client.new_id(), self.client.new_id()
        self.client.request(self.dmabuf, 1, params)
        self.client.request(params, 1, 0, buffer.offset, buffer.stride, 0, 0, fds=[buffer.fd])
        self.client.request(params, 3, made, width, height, XRGB8888, 0)
        self.client.request(params, 0)
        self.client.request(self.surface, 1, made, 0, 0)
        self.client.request(self.surface, 9, 0, 0, width, height)
        self.client.request(self.surface, 6)
        self.client.sync(SECONDS)
        return made

    def wait_for_releases(self, made, number):
        """The compositor has released it so many times."""
        self.client.wait_for(lambda: len(self.client.got(made, 0)) == number, SECONDS)

    def destroy(self, made):
        """The window goes first."""
        self.client.request(self.surface, 1, 0, 0, 0)
        self.client.request(self.surface, 6)
        self.client.request(made, 0)
        self.client.sync(SECONDS)

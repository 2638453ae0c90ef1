"""Buffers of a machine's virtio-gpu, made on a render node as an unprivileged client could."""

import fcntl
import glob
import mmap
import os
import struct
import time

TARGET_2D = 2
FORMAT_BGRX = 2  # virtio_gpu.h
BIND_RENDER_TARGET = 2


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

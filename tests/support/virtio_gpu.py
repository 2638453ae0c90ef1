"""Buffers of a machine's virtio-gpu, and what knows them by their numbers (protocol/resolver.md)."""

import contextlib
import ctypes
import fcntl
import glob
import json
import mmap
import os
import socket
import struct
import tempfile
import threading

# virtgpu_drm.h, drm.h
DRM_VERSION = 0xC0406400
RESOURCE_CREATE = 0xC0386444
RESOURCE_INFO = 0xC0106445
PRIME_HANDLE_TO_FD = 0xC00C642D
PRIME_FD_TO_HANDLE = 0xC00C642E
GEM_CLOSE = 0x40086409
TARGET_2D, FORMAT_BGRA = 2, 1


def whole_pages(size):
    return (size + mmap.PAGESIZE - 1) // mmap.PAGESIZE * mmap.PAGESIZE


def driver_of(node):
    name = ctypes.create_string_buffer(64)
    fcntl.ioctl(node, DRM_VERSION, struct.pack("=3i4xQQQQQQ", 0, 0, 0, len(name) - 1,
                                               ctypes.addressof(name), 0, 0, 0, 0))
    return name.value


def open_render_node():
    """The caller's; None without a virtio-gpu."""
    for path in glob.glob("/dev/dri/renderD*"):
        node = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        if driver_of(node) == b"virtio_gpu":
            return node
        os.close(node)
    return None


def resource_of(node, fd):
    """What the device calls a dma-buf of which the node has no handle yet."""
    prime = bytearray(struct.pack("=IIi", 0, 0, fd))
    fcntl.ioctl(node, PRIME_FD_TO_HANDLE, prime)
    handle, = struct.unpack_from("=I", prime)
    info = bytearray(struct.pack("=4I", handle, 0, 0, 0))
    fcntl.ioctl(node, RESOURCE_INFO, info)
    fcntl.ioctl(node, GEM_CLOSE, struct.pack("=II", handle, 0))
    return struct.unpack("=4I", info)[1]


class GpuBuffer:
    """A buffer of virtio-gpu, of which the device knows the resource."""

    def __init__(self, node, width, height, stride):
        size = whole_pages(stride * height)
        self.node = node
        self.stride, self.offset = stride, 0
        create = bytearray(struct.pack("=14I", TARGET_2D, FORMAT_BGRA, 0, width, height, 1, 1,
                                       0, 0, 0, 0, 0, size, stride))
        fcntl.ioctl(node, RESOURCE_CREATE, create)
        self.handle, self.resource = struct.unpack_from("=II", create, 40)
        prime = bytearray(struct.pack("=IIi", self.handle, os.O_RDWR | os.O_CLOEXEC, -1))
        fcntl.ioctl(node, PRIME_HANDLE_TO_FD, prime)
        self.fd, = struct.unpack_from("=i", prime, 8)
        self.data = mmap.mmap(self.fd, size)

    def close(self):
        self.data.close()
        os.close(self.fd)
        fcntl.ioctl(self.node, GEM_CLOSE, struct.pack("=II", self.handle, 0))


class Resolver:
    """Answers sessions of fdferry-host."""

    def __init__(self):
        self.known = {}  # borrowed buffers, by resource
        self.asked = []
        self.directory = tempfile.TemporaryDirectory()
        self.path = os.path.join(self.directory.name, "resolver")
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(self.path)
        self.listener.listen()
        threading.Thread(target=self.listen, daemon=True).start()

    def know(self, buffer):
        self.known[buffer.resource] = buffer

    def listen(self):
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self.listener.accept()
                threading.Thread(target=self.serve, args=(peer,), daemon=True).start()

    def serve(self, peer):
        with peer, contextlib.suppress(OSError):
            while request := peer.recv(4096):
                resource = json.loads(request)["GetBuffer"]["id"]
                self.asked.append(resource)
                buffer = self.known.get(resource)
                if buffer is None:
                    peer.send(b'"Invalid"')
                    continue
                planes = [{"offset": buffer.offset, "stride": buffer.stride}] * 4
                reply = {"handle": 0, "planes": planes, "modifier": 0, "guest_cpu_mappable": True}
                socket.send_fds(peer, [json.dumps({"Resource": {"Buffer": reply}}).encode()],
                                [buffer.fd])

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.directory.cleanup()

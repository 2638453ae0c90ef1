"""Windows of clients whose buffers are made elsewhere."""

import collections
import functools
import mmap
import os

from drm import Picture
from harness import Failure
from virtio_gpu import whole_pages
from wayland import Client, memfd, words

XRGB8888 = 0x34325258  # drm_fourcc.h; it is linear
SHM_XRGB8888 = 1       # wl_shm's
SECONDS = 1500         # for an answer: clocks may run fast in a machine in a machine


class Memory(Picture):
    """The same in shared memory, in whole pages."""

    def __init__(self, width, height):
        self.size = whole_pages(4 * width * height)
        super().__init__(memfd(self.size), 4 * width)
        self.pixels = mmap.mmap(self.fd, self.size)

    def sync(self, flags):
        """Nobody caches it."""

    def close(self):
        self.pixels.close()
        super().close()


class Window:
    """A surface without a role, whose buffers are shown all the same."""

    def __init__(self, display=None):
        """On the display that the environment names, if no other is given."""
        self.client = Client(display or os.path.join(os.environ["XDG_RUNTIME_DIR"],
                                                     os.environ["WAYLAND_DISPLAY"]))
        self.released = collections.Counter()  # how often was waited for it, by id
        self.client.get_registry()
        self.sync()
        self.surface = self.make(self.bind("wl_compositor", 4), 0)

    def bind(self, interface, version):
        if interface not in self.client.globals:
            raise Failure(f"no {interface} but {sorted(self.client.globals)}")
        return self.client.bind(interface, version)

    dmabuf = functools.cached_property(lambda self: self.bind("zwp_linux_dmabuf_v1", 3))
    shm = functools.cached_property(lambda self: self.bind("wl_shm", 1))

    def make(self, target, opcode, *args, fds=()):
        """A new object, whose id is the request's first argument."""
        new = self.client.new_id()
        self.client.request(target, opcode, new, *args, fds=fds)
        return new

    def buffer_of(self, picture, width, height):
        """A new wl_buffer of a dma-buf: anything with fd, stride and offset."""
        params = self.make(self.dmabuf, 1)
        self.client.request(params, 1, 0, picture.offset, picture.stride, 0, 0, fds=[picture.fd])
        made = self.make(params, 3, width, height, XRGB8888, 0)
        self.client.request(params, 0)
        return made

    def pool_of(self, memory, width, height):
        """A new wl_shm_pool, and the wl_buffer that is in it."""
        pool = self.make(self.shm, 0, memory.size, fds=[memory.fd])
        return pool, self.make(pool, 0, 0, width, height, memory.stride, SHM_XRGB8888)

    def destroy_pool(self, pool, buffer):
        self.client.request(buffer, 0)
        self.client.request(pool, 1)

    def show(self, made, width, height):
        """The compositor has the wl_buffer then."""
        self.client.request(self.surface, 1, made, 0, 0)
        self.client.request(self.surface, 9, 0, 0, width, height)
        self.client.request(self.surface, 6)
        self.sync()

    def hide(self):
        self.client.request(self.surface, 1, 0, 0, 0)
        self.client.request(self.surface, 6)

    def wait_for_release(self, made):
        """The compositor has released it once more."""
        self.released[made] += 1
        self.client.wait_for(lambda: len(self.client.got(made, 0)) >= self.released[made], SECONDS)

    def destroy(self, made):
        self.client.request(made, 0)
        self.sync()

    def sync(self):
        self.client.sync(SECONDS)


class Toplevel(Window):
    """One that a shell shows."""

    def __init__(self, display=None):
        super().__init__(display)
        base = self.bind("xdg_wm_base", 1)
        xdg_surface = self.make(base, 2, self.surface)
        self.make(xdg_surface, 1)
        self.client.request(self.surface, 6)
        self.client.wait_for(lambda: self.client.got(xdg_surface, 0), SECONDS)
        self.client.request(xdg_surface, 4, words(self.client.got(xdg_surface, 0)[-1])[0])

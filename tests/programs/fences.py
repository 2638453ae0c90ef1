"""Fences and timelines, by both programs in their sandboxes: sync objects are those of a DRM device."""

import contextlib
import ctypes
import fcntl
import glob
import os
import struct

from compositor import GLOBALS
from dmabufs import Buffer, Painter, need_device
from harness import SLOW, Skip, case_list, check, wait_until

CASES, case = case_list("fences")
EXPLICIT, TIMELINES = "zwp_linux_explicit_synchronization_v1", "wp_linux_drm_syncobj_manager_v1"
SYNC, POINTS = "zwp_linux_surface_synchronization_v1", "wp_linux_drm_syncobj_surface_v1"
OPTIONS = {"globals_": GLOBALS | {"zwp_linux_dmabuf_v1": 3, EXPLICIT: 2, TIMELINES: 1}}
CREATE, HANDLE_TO_FD, FD_TO_HANDLE, WAIT, SIGNAL = 0xbf, 0xc1, 0xc2, 0xca, 0xcd
SIGNALED, SYNC_FILE = 1, 1  # flags of CREATE, of HANDLE_TO_FD
INVALID_FENCE, INVALID_TIMELINE = 0, 1


class Device:
    """A render node with timelines."""

    def __init__(self):
        for path in sorted(glob.glob("/dev/dri/renderD*")):
            self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                self.signal(self.create(), 1)
                return
            except OSError:
                os.close(self.fd)
        raise Skip("no DRM device with timelines")

    def ioctl(self, number, form, *values):
        data = bytearray(struct.pack(form, *values))
        fcntl.ioctl(self.fd, 0xc0006400 | len(data) << 16 | number, data)
        return struct.unpack(form, data)

    def create(self, flags=0):
        return self.ioctl(CREATE, "=II", 0, flags)[0]

    def export(self, handle, flags=0):
        return self.ioctl(HANDLE_TO_FD, "=IIiI", handle, flags, -1, 0)[2]

    def adopt(self, fd):
        return self.ioctl(FD_TO_HANDLE, "=IIiI", 0, 0, fd, 0)[0]

    def signal(self, handle, point):
        handles, points = ctypes.c_uint32(handle), ctypes.c_uint64(point)
        self.ioctl(SIGNAL, "=QQII", ctypes.addressof(handles), ctypes.addressof(points), 1, 0)

    def has_signalled(self, handle, point):
        handles, points = ctypes.c_uint32(handle), ctypes.c_uint64(point)
        try:
            self.ioctl(WAIT, "=QQqIIII", ctypes.addressof(handles), ctypes.addressof(points),
                       0, 1, 0, 0, 0)
        except OSError:
            return False
        return True

    def signalled_fence(self):
        return self.export(self.create(SIGNALED), SYNC_FILE)

    def close(self):
        os.close(self.fd)


@contextlib.contextmanager
def staged(suite):
    need_device()
    with contextlib.closing(Device()) as device, contextlib.closing(Buffer()) as buffer:
        stage = suite.stage("fences", **OPTIONS)
        yield stage, device, Painter(stage), buffer
        stage.check(SLOW)


def make(painter, manager, opcode, *args, fds=()):
    made = painter.client.new_id()
    painter.client.request(manager, opcode, made, *args, fds=fds)
    return made


def commit(painter, made):
    painter.client.request(painter.surface, 1, made, 0, 0)
    painter.client.request(painter.surface, 6)


def commits(painter):
    return len(painter.connection.got("wl_surface", 6))


@case("an acquire fence is waited for and left out, a release fence becomes an immediate release")
def _(suite):
    with staged(suite) as (_, device, painter, buffer):
        client, connection = painter.client, painter.connection
        made = painter.make(buffer)
        sync = make(painter, client.bind(EXPLICIT, 2), 1, painter.surface)
        release = make(painter, sync, 2)
        fence = device.signalled_fence()
        client.request(sync, 1, fds=[fence])
        commit(painter, made)
        client.sync(SLOW)
        check(commits(painter) == 1, "the commit is there")
        check(connection.got(SYNC, 2) and not connection.got(SYNC, 1), "and no fence")
        connection.event(connection.object_of("zwp_linux_buffer_release_v1"), 0, fds=[fence])
        client.wait_for(lambda: client.got(release, 1), SLOW)
        check(not client.got(release, 0) and not client.fds, "no fence came back")
        os.close(fence)
        client.close()


@case("what is no fence or timeline is told by its protocol's own error")
def _(suite):
    for name, version, opcode, code in ((EXPLICIT, 2, 1, INVALID_FENCE),
                                        (TIMELINES, 1, 2, INVALID_TIMELINE)):
        with staged(suite) as (_, _, painter, buffer):
            target = painter.client.bind(name, version)
            if name == EXPLICIT:
                target = make(painter, target, 1, painter.surface)
                painter.client.request(target, opcode, fds=[buffer.fd])
            else:
                make(painter, target, opcode, fds=[buffer.fd])
            painter.client.wait_end(SLOW)
            errors = painter.client.got(1, 0)
            check(len(errors) == 1, f"{name}: one error")
            check(struct.unpack_from("=II", errors[0]) == (target, code), f"{name}: its own error")
            painter.client.close()


@case("points of a timeline are signalled on the other side")
def _(suite):
    with staged(suite) as (stage, device, painter, buffer):
        client, connection = painter.client, painter.connection
        made = painter.make(buffer)
        manager = client.bind(TIMELINES, 1)
        original = device.create()
        fd = device.export(original)
        timeline = make(painter, manager, 2, fds=[fd])
        points = make(painter, manager, 1, painter.surface)
        client.sync(SLOW)
        mirror = device.adopt(connection.fds[0])
        for acquire in range(1, 200, 2):
            client.request(points, 1, timeline, 0, acquire)
            client.request(points, 2, timeline, 0, acquire + 1)
            commit(painter, made)
            if acquire == 1:
                with stage.client() as other:
                    other.sync(SLOW)
                check(commits(painter) == 0, "the commit waits for its point")
            device.signal(original, acquire)
            client.sync(SLOW)
            check(commits(painter) == (acquire + 1) // 2, "the commit is there")
            check(device.has_signalled(mirror, acquire), "and its point has signalled")
            check(not device.has_signalled(original, acquire + 1), "it is not released")
            device.signal(mirror, acquire + 1)
            wait_until("the release comes", lambda: device.has_signalled(original, acquire + 1),
                       SLOW)
        check(connection.has(POINTS), "nobody has destroyed it")
        os.close(fd)
        client.close()

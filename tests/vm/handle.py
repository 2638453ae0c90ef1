"""fdferry-host is both the vsock device and the GPU of a machine within a machine: what a client paints there is
shown by a compositor here, which has the guest's own pages. QEMU 7.2 has that GPU with KVM only, and udmabuf is the
outer machine's."""

import contextlib
import mmap
import os
import random
import re
import shutil
import signal
import tempfile

import dmabufs
import drm
from compositor import Compositor
from device import behind_guest
from gpu import COUNTS, SECONDS, SEED, SIZE, Gpu, gpu_options, prepare
from guest import Guest
from processes import Failure, Process, wait_until
from vsock_device import VhostUser
from wayland import words

HERE = os.path.dirname(os.path.abspath(__file__))
GLOBALS = {"wl_compositor": 4, "wl_shm": 1, "zwp_linux_dmabuf_v1": 3}
PIXELS = SIZE[0] * SIZE[1] * 4  # bytes
DMABUFS = re.compile(r"(\d+) dma-bufs, (\d+) of them not copied")
MEMORY = re.compile(r"memory +(\d+) bytes sent, (\d+) received, \d+ twinned(?:, (\d+) not copied)?")
SHOWN_LINES = 40  # of what fdferry-host has said, after a failure
# stderr comes at the end, as one line
LOGGED = '"$@" 2>/run/log; status=$?; echo "stats: $(tr "\\n" " " </run/log)"; exit $status'


def compare(pixels, seed):
    if pixels[:] != random.Random(seed).randbytes(len(pixels)):
        raise Failure("the bytes are other ones")


class Devices:
    """Both of the machine's, as Guest wants them."""

    accelerator = Gpu.accelerator
    modules = Gpu.modules

    def __init__(self, directory):
        self.vsock = VhostUser(directory)
        self.gpu = os.path.join(directory, "gpu")
        self.options = [*self.vsock.options, *gpu_options(self.gpu)]


class Trial:
    """What has to hold, in the order of `tests`, which raise Failure."""

    def __init__(self, build, directory):
        self.guest = None  # the machine, once it runs
        self.connection = self.buffer = None  # of the client, and the id of its wl_buffer
        self.pixels = None  # a mapping of what the compositor has
        self.many = self.pictures = 0
        self.devices = Devices(directory)
        self.compositor = Compositor(os.path.join(directory, "wayland-0"), GLOBALS)
        self.host = Process("fdferry-host", [
            os.path.join(build, "host-proxy", "fdferry-host"), "--print-ready", "--stats",
            "--listen", self.devices.vsock.listen, "--resolver", f"vhost-user:{self.devices.gpu}",
            "--compositor", self.compositor.path, "--log-level", "info"],
            {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": directory}, directory)
        wait_until("fdferry-host is ready", lambda: "READY" in self.host.output())

    def counts(self):
        """(resources, bytes of the guest, buffers) as the host says them."""
        said = len(COUNTS.findall(self.host.output()))
        self.host.popen.send_signal(signal.SIGUSR1)
        wait_until("the host says its counts",
                   lambda: len(COUNTS.findall(self.host.output())) > said)
        resources, _, backed, buffers = map(int, COUNTS.findall(self.host.output())[-1])
        return resources, backed, buffers

    def wait_for_counts(self, *expected):
        def seen():
            nonlocal last
            last = self.counts()
            return last == expected
        last = None
        try:
            wait_until("the host's counts", seen, pause=0.5)
        except Failure as failure:
            raise Failure(f"{failure}: {last}, and not {expected}") from None

    def release(self):
        """The client does the next thing."""
        self.connection.event(self.buffer, 0)

    @staticmethod
    def first_byte(fd):
        with mmap.mmap(fd, mmap.PAGESIZE) as mapping:
            return mapping[0]

    def the_compositor_gets_a_dma_buf(self):
        self.guest.wait_for("shown")
        self.connection, = (one for one in self.compositor.connections if one.planes)
        fd, = self.connection.planes
        made, = self.connection.got("zwp_linux_buffer_params_v1", 3)
        self.buffer, *shape = words(made)[:3]
        link, size = os.readlink(f"/proc/self/fd/{fd}"), os.lseek(fd, 0, os.SEEK_END)
        if not link.startswith("/dmabuf:") or size != PIXELS or tuple(shape) != SIZE \
                or not self.connection.got("wl_surface", 6):
            raise Failure(f"{link} of {size} bytes, {shape}")
        self.pixels = mmap.mmap(fd, size)
        self.wait_for_counts(1, PIXELS, 1)

    def it_has_what_the_client_has_painted(self):
        compare(self.pixels, SEED)

    def what_is_painted_later_is_in_it_though_nobody_is_told(self):
        commits = len(self.connection.got("wl_surface", 6))
        self.release()
        compare(self.pixels, int(self.guest.wait_for("painted")))
        if len(self.connection.got("wl_surface", 6)) != commits:
            raise Failure("the client has been shown again")

    def what_the_client_has_destroyed_stays_while_the_compositor_has_it(self):
        self.release()
        self.many = int(self.guest.wait_for("many"))
        first = [self.first_byte(fd) for fd in self.connection.planes[1:]]
        if first != list(range(self.many)):
            raise Failure(f"of {self.many}, the first bytes are {first}")
        resources, _, buffers = self.counts()
        if resources < self.many or buffers < self.many:
            raise Failure(f"{resources} resources and {buffers} buffers are left of {self.many}")

    def it_is_forgotten_when_the_compositor_closes_it(self):
        while len(self.connection.planes) > 1:
            os.close(self.connection.planes.pop())
        self.wait_for_counts(1, PIXELS, 1)

    def buffers_of_dumb_gbm_and_egl_clients_are_shared_as_well(self):
        self.release()
        while (said := self.guest.wait_for("drawn")) != "all":
            stride, offset, digest = said.split()
            with contextlib.closing(drm.Picture(self.connection.planes.pop(), int(stride),
                                                int(offset))) as picture:
                seen = dmabufs.digest(dmabufs.colours(picture))
            if seen != digest:
                raise Failure(f"picture {self.pictures} is another one")
            made = words(self.connection.got("zwp_linux_buffer_params_v1", 3)[-1])[0]
            self.connection.event(made, 0)
            self.pictures += 1
        if self.pictures == 0:
            raise Failure("there is none")

    def a_buffer_that_is_gone_is_forgotten_too(self):
        self.release()
        self.guest.wait_for("gone")
        self.pixels.close()
        os.close(self.connection.planes.pop())
        self.wait_for_counts(0, 0, 0)

    def check_stats(self, where, text):
        made = DMABUFS.findall(text)
        memory = MEMORY.findall(text)
        expected = str(self.many + self.pictures + 1)
        if not made or made[-1] != (expected, expected) or not memory or \
                memory[-1][:2] != ("0", "0"):
            raise Failure(f"{where} says {made} and {memory}: {text[-300:]}")

    def both_say_that_no_byte_was_copied(self):
        self.connection.close()
        self.check_stats("the guest", self.guest.wait_for("stats"))
        status = self.guest.status()
        if status != 0:
            raise Failure(f"the machine ends with status {status}")
        wait_until("the host has no machine",
                   lambda: "gpu: the VMM has hung up" in self.host.output())
        self.check_stats("the host", self.host.output())

    tests = (the_compositor_gets_a_dma_buf, it_has_what_the_client_has_painted,
             what_is_painted_later_is_in_it_though_nobody_is_told,
             what_the_client_has_destroyed_stays_while_the_compositor_has_it,
             it_is_forgotten_when_the_compositor_closes_it,
             buffers_of_dumb_gbm_and_egl_clients_are_shared_as_well,
             a_buffer_that_is_gone_is_forgotten_too, both_say_that_no_byte_was_copied)

    def close(self):
        self.host.stop()
        self.compositor.close()


def run(build, add):
    """add(test, trial) calls the test, notes how it ended and returns whether that was well."""
    prepare()
    with contextlib.ExitStack() as stack:
        directory = tempfile.mkdtemp(prefix="fdferry-handle.")
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        trial = Trial(build, directory)
        stack.callback(trial.close)
        presenter = [os.path.join(HERE, "presenter"), *map(str, SIZE), str(SEED)]
        command = behind_guest(build, presenter, ["--display", "/run/user/wayland-9", "--stats"])
        with Guest(trial.devices, ["sh", "-c", LOGGED, "sh", *command],
                   lasts=SECONDS) as trial.guest:
            if not all(add(test, trial) for test in Trial.tests):
                for line in trial.host.output().splitlines()[-SHOWN_LINES:]:
                    print(f"# {line}", flush=True)

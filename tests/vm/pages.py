"""A compositor here has the pages of a client's shared memory in a machine within this one, whose vsock device is
fdferry-host: what is written there is here at once, and nothing is copied."""

import contextlib
import mmap
import os
import re
import shutil
import tempfile

import handle
from compositor import Compositor
from device import behind_guest
from guest import Guest
from processes import Failure, Process, wait_until
from vsock_device import NestedVhostUser

HERE = os.path.dirname(os.path.abspath(__file__))
GLOBALS = {"wl_compositor": 4, "wl_shm": 1}
SIZE = 640, 480
PIXELS = SIZE[0] * SIZE[1] * 4  # bytes
SEED = 1
POOLS = re.compile(r"(\d+) pools?\b")


class Trial:
    """What has to hold, in the order of `tests`, which raise Failure."""

    def __init__(self, build, directory):
        self.guest = None  # the machine, once it runs
        self.connection = self.pixels = None  # of the client, and a mapping of what the compositor has
        self.device = NestedVhostUser(directory)
        self.compositor = Compositor(os.path.join(directory, "wayland-0"), GLOBALS)
        self.host = Process("fdferry-host", [
            os.path.join(build, "host-proxy", "fdferry-host"), "--print-ready", "--stats",
            "--listen", self.device.listen, "--compositor", self.compositor.path,
            "--log-level", "info"],
            {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": directory}, directory)
        wait_until("fdferry-host is ready", lambda: "READY" in self.host.output())

    def release(self):
        """The client does the next thing."""
        self.connection.event(self.connection.object_of("wl_buffer"), 0)

    def the_compositor_gets_a_dma_buf_for_the_pool(self):
        self.guest.wait_for("shown")
        self.connection, = (one for one in self.compositor.connections if one.pools)
        fd, = self.connection.pools
        link, size = os.readlink(f"/proc/self/fd/{fd}"), os.lseek(fd, 0, os.SEEK_END)
        if not link.startswith("/dmabuf:") or size != PIXELS:
            raise Failure(f"{link} of {size} bytes")
        self.pixels = mmap.mmap(fd, size)

    def it_has_what_the_client_has_painted(self):
        handle.compare(self.pixels, SEED)

    def what_is_painted_later_is_in_it_though_nobody_is_told(self):
        commits = len(self.connection.got("wl_surface", 6))
        self.release()
        handle.compare(self.pixels, int(self.guest.wait_for("painted")))
        if commits != 1 or len(self.connection.got("wl_surface", 6)) != commits:
            raise Failure("the client has been shown again")

    def a_pool_that_is_gone_is_let_go(self):
        self.release()
        self.guest.wait_for("gone")
        self.pixels.close()
        os.close(self.connection.pools.pop())

    @staticmethod
    def check_stats(where, text):
        pools, memory = POOLS.findall(text), handle.MEMORY.findall(text)
        if not pools or pools[-1] != "1" or not memory or memory[-1][:2] != ("0", "0"):
            raise Failure(f"{where} says {pools} and {memory}: {text[-300:]}")

    def both_say_that_no_byte_was_copied(self):
        self.connection.close()
        self.check_stats("the guest", self.guest.wait_for("stats"))
        status = self.guest.status()
        if status != 0:
            raise Failure(f"the machine ends with status {status}")
        wait_until("the host has no machine",
                   lambda: "the VMM has hung up" in self.host.output())
        self.check_stats("the host", self.host.output())

    tests = (the_compositor_gets_a_dma_buf_for_the_pool, it_has_what_the_client_has_painted,
             what_is_painted_later_is_in_it_though_nobody_is_told, a_pool_that_is_gone_is_let_go,
             both_say_that_no_byte_was_copied)

    def close(self):
        self.host.stop()
        self.compositor.close()


def run(build, add):
    """add(test, trial) calls the test, notes how it ended and returns whether that was well."""
    NestedVhostUser.check(build)
    with contextlib.ExitStack() as stack:
        directory = tempfile.mkdtemp(prefix="fdferry-pages.")
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        trial = Trial(build, directory)
        stack.callback(trial.close)
        drawer = [os.path.join(HERE, "drawer"), *map(str, SIZE), str(SEED)]
        command = behind_guest(build, drawer, ["--display", "/run/user/wayland-9", "--stats"])
        with Guest(trial.device, ["sh", "-c", handle.LOGGED, "sh", *command]) as trial.guest:
            if not all(add(test, trial) for test in Trial.tests):
                for line in trial.host.output().splitlines()[-handle.SHOWN_LINES:]:
                    print(f"# {line}", flush=True)

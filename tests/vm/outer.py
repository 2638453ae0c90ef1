"""fdferry-host and a compositor in a machine, and one client in a machine within it, whose pixels are here without
a copy: what such parts share."""

import contextlib
import mmap
import os
import random
import re
import shutil
import tempfile

import census
from compositor import Compositor
from device import behind_guest
from guest import Guest
from processes import Failure, Process, wait_until

HERE = os.path.dirname(os.path.abspath(__file__))
SEED = 1
SECONDS = 300  # that the machine within lasts, at most
SHOWN_LINES = 40  # of what fdferry-host has said, after a failure
MEMORY = re.compile(r"memory +(\d+) bytes sent, (\d+) received")
# stderr comes at the end, as one line
LOGGED = '"$@" 2>/run/log; status=$?; echo "stats: $(tr "\\n" " " </run/log)"; exit $status'


class Trial:
    """What has to hold, in the order of `tests`, which raise Failure."""

    hung_up = "the VMM has hung up"  # as the host says it last

    def __init__(self, build, directory, device, display, options=()):
        """`options` are the host's."""
        self.directory, self.device = directory, device
        self.guest = None  # the machine, once it runs
        self.host = Process("fdferry-host", [
            os.path.join(build, "host-proxy", "fdferry-host"), "--print-ready", "--stats",
            "--listen", device.listen, "--compositor", display, "--log-level", "info", *options],
            {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": directory}, directory)
        wait_until("fdferry-host is ready", lambda: "READY" in self.host.output())

    def start_guest(self, command):
        return Guest(self.device, command, lasts=SECONDS)

    def end_client(self):
        raise NotImplementedError

    def is_counted(self, text):
        """Whether statistics have all buffers in them."""
        raise NotImplementedError

    def check_stats(self, where, text):
        memory = MEMORY.findall(text)
        if not self.is_counted(text) or not memory or memory[-1] != ("0", "0"):
            raise Failure(f"{where}: {text[-500:]}")

    def both_say_that_no_byte_was_copied(self):
        self.end_client()
        self.check_stats("the guest", self.guest.wait_for("stats"))
        status = self.guest.status()
        if status != 0:
            raise Failure(f"the machine ends with status {status}")
        wait_until("the host has no machine", lambda: self.hung_up in self.host.output())
        self.check_stats("the host", self.host.output())

    def close(self):
        self.host.stop()


class PixelTrial(Trial):
    """The compositor is a test's own. Its client goes on whenever its first buffer is released (drawer, presenter)."""

    size = 0, 0  # of that buffer, in pixels

    def __init__(self, build, directory, device, globals_, options=()):
        self.compositor = Compositor(os.path.join(directory, "wayland-0"), globals_)
        self.connection = self.buffer = None  # of the client, and the id of the buffer
        self.pixels = None  # a mapping of what the compositor has of it
        super().__init__(build, directory, device, self.compositor.path, options)

    @staticmethod
    def fds_of(connection):
        """All fds of pixels that the compositor has, the first buffer's first."""
        raise NotImplementedError

    def bytes(self):
        return self.size[0] * self.size[1] * 4

    def release(self):
        """The client does the next thing."""
        self.connection.event(self.buffer, 0)

    def close_all_but_the_first(self):
        fds = self.fds_of(self.connection)
        while len(fds) > 1:
            os.close(fds.pop())

    def compare(self, seed):
        if self.pixels[:] != random.Random(seed).randbytes(len(self.pixels)):
            raise Failure("the bytes are other ones")

    def the_compositor_gets_a_dma_buf(self):
        self.guest.wait_for("shown")
        self.connection, = (one for one in self.compositor.connections if self.fds_of(one))
        self.buffer = self.connection.object_of("wl_buffer")
        fd, = self.fds_of(self.connection)
        link, size = os.readlink(f"/proc/self/fd/{fd}"), os.lseek(fd, 0, os.SEEK_END)
        if not link.startswith("/dmabuf:") or size != self.bytes() \
                or len(self.connection.got("wl_surface", 6)) != 1:
            raise Failure(f"{link} of {size} bytes")
        self.pixels = mmap.mmap(fd, size)

    def it_has_what_the_client_has_painted(self):
        self.compare(SEED)

    def what_is_painted_later_is_in_it_though_nobody_is_told(self):
        self.release()
        self.compare(int(self.guest.wait_for("painted")))
        if len(self.connection.got("wl_surface", 6)) != 1:
            raise Failure("the client has been shown again")

    def a_thousand_others_leave_nothing_on_either_side(self):
        before = wait_until("the host is at rest", lambda: census.of(self.host.pid))
        self.release()
        while (said := self.guest.wait_for("others")) != "none":
            if int(said) != len(self.fds_of(self.connection)) - 1:
                raise Failure(f"of {said}, {len(self.fds_of(self.connection)) - 1} have come")
            self.close_all_but_the_first()
            self.release()
        wait_until(lambda: f"{census.of(self.host.pid)} becomes {before}, as before",
                   lambda: census.of(self.host.pid) == before, pause=0.5)

    def what_is_gone_is_let_go(self):
        self.release()
        self.guest.wait_for("gone")
        self.pixels.close()
        os.close(self.fds_of(self.connection).pop())

    def end_client(self):
        self.connection.close()

    def close(self):
        super().close()
        self.compositor.close()


def run(build, add, make, client):
    """add(test, trial) calls each test of make(build, directory), notes how it ended and returns whether that was
    well. `client` is the command of one of fdferry-guest."""
    with contextlib.ExitStack() as stack:
        directory = tempfile.mkdtemp(prefix="fdferry-outer.")
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        trial = stack.enter_context(contextlib.closing(make(build, directory)))
        command = behind_guest(build, client, ["--display", "/run/user/wayland-9", "--stats"])
        with trial.start_guest(["sh", "-c", LOGGED, "sh", *command]) as trial.guest:
            if not all(add(test, trial) for test in trial.tests):
                for line in trial.host.output().splitlines()[-SHOWN_LINES:]:
                    print(f"# {line}", flush=True)

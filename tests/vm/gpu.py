"""fdferry-host is the GPU of a machine within a machine, whose client's buffers it gives to the compositor
without copying them. QEMU 7.2 has that device with KVM only, and udmabuf is the outer machine's."""

import contextlib
import json
import mmap
import os
import random
import re
import shutil
import signal
import socket
import tempfile

from backports import Missing
from compositor import GLOBALS, Compositor
from guest import CONNECT, Guest
from processes import Failure, Process, wait_until
from vsock_device import MODULES, Kernel

HERE = os.path.dirname(os.path.abspath(__file__))
SIZE = 3840, 2160  # of a screen that has more pages than udmabuf takes at first
PIECES = 16384  # udmabuf's list_limit, then
LIMIT = "/sys/module/udmabuf/parameters/list_limit"
SEED = 1
SIGNAL_SIZE, SIGNAL_STRIDE = 64 * 64 * 4, 64 * 4
CHANGED = bytes.fromhex("feedface")
COUNTS = re.compile(r"gpu: (\d+) resources, (\d+) ranges, (\d+) bytes of the guest; (\d+) buffers")
SECONDS = 300
STEP = 6


def gpu_options(socket_path):
    """QEMU's, for a GPU that fdferry-host is."""
    return ["-chardev", f"socket,id=gpu,path={socket_path}",
            "-device", "vhost-user-gpu-pci,chardev=gpu"]


class Gpu:
    """The machine's devices, as Guest wants them."""

    accelerator = "kvm"
    modules = ("virtio_gpu", *MODULES)

    def __init__(self, socket_path):
        self.options = [*Kernel.options, *gpu_options(socket_path)]


class Trial:
    """What has to hold, in the order of `tests`, which raise Failure."""

    def __init__(self, build, directory):
        self.socket = os.path.join(directory, "gpu")
        self.guest = None
        self.pixels = self.signal = None  # mappings of its buffers
        self.resource = None
        self.backed = 0  # bytes behind its buffers
        self.compositor = Compositor(os.path.join(directory, "wayland"),
                                     GLOBALS | {"zwp_linux_dmabuf_v1": 3})
        self.host = Process("fdferry-host", [
            os.path.join(build, "host-proxy", "fdferry-host"), "--print-ready", "--stats",
            "--listen", Kernel.listen, "--allow-cid", Kernel.cid,
            "--resolver", f"vhost-user:{self.socket}",
            "--compositor", self.compositor.path, "--log-level", "info"],
            {"PATH": os.environ["PATH"]}, directory)
        wait_until("fdferry-host is ready", lambda: "READY" in self.host.output())
        self.resolver = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.resolver.connect(f"{self.socket}.resolver")

    def ask(self, resource, stride=SIZE[0] * 4):
        """The fd of its dma-buf; None if it is invalid."""
        self.resolver.sendall(json.dumps({"GetBuffer": {"id": resource}}).encode())
        reply, fds, _, _ = socket.recv_fds(self.resolver, 4096, 4)
        if json.loads(reply) == "Invalid":
            return None
        buffer = json.loads(reply)["Resource"]["Buffer"]
        if len(fds) != 1 or buffer["handle"] != 0 or buffer["modifier"] != 0 \
                or buffer["planes"][0] != {"offset": 0, "stride": stride}:
            raise Failure(f"{len(fds)} fds with {buffer}")
        return fds[0]

    def map(self, resource, size, stride):
        fd = self.ask(resource, stride)
        if fd is None:
            raise Failure(f"resource {resource} is invalid: {self.host.output()[-300:]}")
        if os.lseek(fd, 0, os.SEEK_END) != size:
            raise Failure(f"its buffer has not {size} bytes")
        mapping = mmap.mmap(fd, size)
        os.close(fd)
        return mapping

    def go_on(self):
        """The machine does the next thing."""
        self.signal[0] = (self.signal[0] + 1) % 256

    def counts(self):
        """(resources, ranges, bytes of the guest, buffers) as the host says them."""
        said = len(COUNTS.findall(self.host.output()))
        self.host.popen.send_signal(signal.SIGUSR1)
        wait_until("the host says its counts",
                   lambda: len(COUNTS.findall(self.host.output())) > said)
        return tuple(map(int, COUNTS.findall(self.host.output())[-1]))

    def wait_for_counts(self, resources, backed, buffers):
        """The last buffers that the guest has destroyed may be on their way. The ranges."""
        last = None

        def found():
            nonlocal last
            last = self.counts()
            return last[0] == resources and last[2:] == (backed, buffers)
        try:
            wait_until("the counts", found, deadline=STEP, pause=1)
        except Failure as failure:
            raise Failure(f"{failure}: {last}") from None
        return last[1]

    def a_buffer_is_remembered_by_its_pages(self):
        self.resource, size, signal_resource = map(int, self.guest.wait_for("resource").split())
        self.backed = size + SIGNAL_SIZE
        ranges = self.wait_for_counts(2, self.backed, 1)  # the compositor has one of them already
        if not 2 <= ranges <= self.backed / 4096:
            raise Failure(f"{ranges} ranges of {self.backed} bytes")
        self.signal = self.map(signal_resource, SIGNAL_SIZE, SIGNAL_STRIDE)

    def its_bytes_are_those_that_the_guest_has_painted(self):
        size = SIZE[0] * SIZE[1] * 4
        self.pixels = self.map(self.resource, size, SIZE[0] * 4)
        if self.pixels[:] != random.Random(SEED).randbytes(size):
            raise Failure("the bytes are other ones")

    def planes(self):
        """The dma-bufs that the compositor has."""
        return [fd for connection in self.compositor.connections for fd in connection.planes]

    def the_compositor_has_the_same_dma_buf(self):
        shown, = self.planes()
        asked = self.ask(self.resource)
        inodes = os.fstat(shown).st_ino, os.fstat(asked).st_ino
        os.close(asked)
        if inodes[0] != inodes[1]:
            raise Failure(f"inodes {inodes}")

    def another_number_is_invalid(self):
        if self.ask(self.resource + 1000) is not None:
            raise Failure("a resource that is not there has a buffer")

    def what_is_written_here_is_seen_there(self):
        self.pixels[:len(CHANGED)] = CHANGED
        self.go_on()
        changed = self.guest.wait_for("changed")
        if changed != CHANGED.hex():
            raise Failure(f"the guest sees {changed}")

    def nothing_is_left_of_many_buffers(self):
        self.go_on()
        self.guest.wait_for("many")
        self.wait_for_counts(2, self.backed, 2)

    def is_gone(self):
        fd = self.ask(self.resource)
        if fd is not None:
            os.close(fd)
        return fd is None

    def a_buffer_stays_as_long_as_the_compositor_has_it(self):
        self.go_on()
        self.guest.wait_for("gone")
        if self.is_gone():
            raise Failure("it is gone")
        self.pixels.close()
        self.pixels = None
        for connection in self.compositor.connections:
            while connection.planes:
                os.close(connection.planes.pop())
        wait_until("the guest has forgotten it", self.is_gone, deadline=STEP)
        self.wait_for_counts(1, SIGNAL_SIZE, 1)

    def the_machine_ends_and_the_host_goes_on(self):
        self.go_on()
        status = self.guest.status()
        if status != 0:
            raise Failure(f"the machine ends with status {status}")
        for text in ("gpu: the VMM has hung up", "1 of them not copied",
                     "memory    0 bytes sent, 0 received"):
            wait_until(f"the host says: {text}", lambda: text in self.host.output())
        self.host.check_runs()

    tests = (a_buffer_is_remembered_by_its_pages, its_bytes_are_those_that_the_guest_has_painted,
             the_compositor_has_the_same_dma_buf, another_number_is_invalid,
             what_is_written_here_is_seen_there, nothing_is_left_of_many_buffers,
             a_buffer_stays_as_long_as_the_compositor_has_it,
             the_machine_ends_and_the_host_goes_on)

    def close(self):
        self.resolver.close()
        for mapping in filter(None, (self.pixels, self.signal)):
            mapping.close()
        self.host.stop()
        self.compositor.close()


def prepare(*devices):
    """udmabuf takes as large buffers as are wanted; Missing is raised if it or a device is not there."""
    for path in ("/dev/kvm", "/dev/udmabuf", *devices):
        if not os.path.exists(path):
            raise Missing(f"there is no {path}")
    with open(LIMIT, "w") as file:
        file.write(str(PIECES))


def run(build, add):
    """add(test, trial) calls the test, notes how it ended and returns whether that was well."""
    prepare("/dev/vhost-vsock")
    with contextlib.ExitStack() as stack:
        directory = tempfile.mkdtemp(prefix="fdferry-gpu.")
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        trial = Trial(build, directory)
        stack.callback(trial.close)
        command = [os.path.join(build, "guest-proxy", "fdferry-guest"), "--connect", CONNECT, "--",
                   os.path.join(HERE, "painter"), *map(str, SIZE), str(SEED)]
        with Guest(Gpu(trial.socket), command, lasts=SECONDS) as trial.guest:
            all(add(test, trial) for test in Trial.tests)

"""fdferry-host is both the vsock device and the GPU of a machine within a machine: what a client paints there is
shown by a compositor here, which has the guest's own pages. QEMU 7.2 has that GPU with KVM only, and udmabuf is the
outer machine's."""

import contextlib
import mmap
import os
import re
import signal

import dmabufs
import drm
import outer
from gpu import COUNTS, SIZE, Gpu, gpu_options, prepare
from others import NUMBER
from processes import Failure, wait_until
from vsock_device import VhostUser
from wayland import words

HERE = os.path.dirname(os.path.abspath(__file__))
GLOBALS = {"wl_compositor": 4, "wl_shm": 1, "zwp_linux_dmabuf_v1": 3}
DMABUFS = re.compile(r"(\d+) dma-bufs, (\d+) of them not copied")


class Devices:
    """Both of the machine's, as Guest wants them."""

    accelerator = Gpu.accelerator
    modules = Gpu.modules

    def __init__(self, directory):
        self.vsock = VhostUser(directory)
        self.gpu = os.path.join(directory, "gpu")
        self.listen = self.vsock.listen
        self.options = [*self.vsock.options, *gpu_options(self.gpu)]
        self.resolver = ["--resolver", f"vhost-user:{self.gpu}"]  # the host's options


class Trial(outer.PixelTrial):
    hung_up = "gpu: the VMM has hung up"
    size = SIZE

    def __init__(self, build, directory):
        self.many = self.pictures = 0
        devices = Devices(directory)
        super().__init__(build, directory, devices, GLOBALS, devices.resolver)

    @staticmethod
    def fds_of(connection):
        return connection.planes

    def is_counted(self, text):
        expected = str(1 + self.many + NUMBER + self.pictures)
        return DMABUFS.findall(text)[-1:] == [(expected, expected)]

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

    @staticmethod
    def first_byte(fd):
        with mmap.mmap(fd, mmap.PAGESIZE) as mapping:
            return mapping[0]

    def it_is_all_that_the_host_remembers(self):
        self.wait_for_counts(1, self.bytes(), 1)

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
        self.close_all_but_the_first()
        self.it_is_all_that_the_host_remembers()

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

    def it_is_forgotten_too(self):
        self.wait_for_counts(0, 0, 0)

    tests = (outer.PixelTrial.the_compositor_gets_a_dma_buf, it_is_all_that_the_host_remembers,
             outer.PixelTrial.it_has_what_the_client_has_painted,
             outer.PixelTrial.what_is_painted_later_is_in_it_though_nobody_is_told,
             what_the_client_has_destroyed_stays_while_the_compositor_has_it,
             it_is_forgotten_when_the_compositor_closes_it,
             outer.PixelTrial.a_thousand_others_leave_nothing_on_either_side,
             it_is_all_that_the_host_remembers,
             buffers_of_dumb_gbm_and_egl_clients_are_shared_as_well,
             outer.PixelTrial.what_is_gone_is_let_go, it_is_forgotten_too,
             outer.PixelTrial.both_say_that_no_byte_was_copied)


def run(build, add):
    """add(test, trial) calls the test, notes how it ended and returns whether that was well."""
    prepare()
    outer.run(build, add, Trial, [os.path.join(HERE, "presenter"), *map(str, SIZE), str(outer.SEED)])

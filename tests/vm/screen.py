"""Weston shows what clients have in a machine within this one, whose vsock device and GPU fdferry-host is: buffers of
that GPU, and shared memory."""

import os

import dmabufs
import outer
from gpu import prepare
from guest import OrderedGuest
from handle import DMABUFS, Devices
from pages import POOLS
from processes import Failure, wait_until
from weston import Weston

HERE = os.path.dirname(os.path.abspath(__file__))


class Trial(outer.Trial):
    hung_up = "gpu: the VMM has hung up"

    def __init__(self, build, directory):
        self.count = 0  # of dma-bufs
        devices = Devices(directory)
        self.weston = Weston(directory)
        super().__init__(build, directory, devices, self.weston.display, devices.resolver)

    def start_guest(self, command):
        return OrderedGuest(self.device, command, self.directory, lasts=outer.SECONDS)

    def is_counted(self, text):
        expected = str(self.count)
        return DMABUFS.findall(text)[-1:] == [(expected, expected)] and POOLS.findall(text)[-1:] == ["1"]

    def sees(self, digest):
        wait_until("the screen shows it", lambda: dmabufs.digest(self.weston.seen()) == digest)

    def go_on(self):
        self.guest.order("next")

    def sees_pictures(self):
        before = self.count
        while (said := self.guest.wait_for("shown")) != "all":
            self.sees(said)
            self.count += 1
            self.go_on()
        if self.count == before:
            raise Failure("there is none")

    def dumb_buffers_are_shown_right(self):
        self.sees_pictures()

    def buffers_of_gbm_are_shown_right(self):
        self.sees_pictures()

    def what_opengl_es_has_drawn_is_shown_right(self):
        self.sees_pictures()

    def sees_twice(self):
        for _ in range(2):
            self.sees(self.guest.wait_for("shown"))
            self.go_on()

    def what_is_painted_later_is_shown_right(self):
        self.sees_twice()
        self.count += 1

    def shared_memory_is_shown_right(self):
        self.sees_twice()

    def end_client(self):
        """It has nothing more to show."""

    tests = (dumb_buffers_are_shown_right, buffers_of_gbm_are_shown_right,
             what_opengl_es_has_drawn_is_shown_right, what_is_painted_later_is_shown_right,
             shared_memory_is_shown_right, outer.Trial.both_say_that_no_byte_was_copied)

    def close(self):
        super().close()
        self.weston.stop()


def run(build, add):
    """add(test, trial) calls the test, notes how it ended and returns whether that was well."""
    prepare()
    outer.run(build, add, Trial, [os.path.join(HERE, "exhibitor")])

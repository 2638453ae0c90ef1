"""A compositor here has the pages of a client's shared memory in a machine within this one, whose vsock device is
fdferry-host: what is written there is here at once, and nothing is copied."""

import os
import re

import outer
from others import NUMBER
from vsock_device import NestedVhostUser

HERE = os.path.dirname(os.path.abspath(__file__))
GLOBALS = {"wl_compositor": 4, "wl_shm": 1}
POOLS = re.compile(r"(\d+) pools?\b")


class Trial(outer.PixelTrial):
    size = 640, 480

    def __init__(self, build, directory):
        super().__init__(build, directory, NestedVhostUser(directory), GLOBALS)

    @staticmethod
    def fds_of(connection):
        return connection.pools

    def is_counted(self, text):
        return POOLS.findall(text)[-1:] == [str(1 + NUMBER)]

    tests = (outer.PixelTrial.the_compositor_gets_a_dma_buf,
             outer.PixelTrial.it_has_what_the_client_has_painted,
             outer.PixelTrial.what_is_painted_later_is_in_it_though_nobody_is_told,
             outer.PixelTrial.a_thousand_others_leave_nothing_on_either_side,
             outer.PixelTrial.what_is_gone_is_let_go,
             outer.PixelTrial.both_say_that_no_byte_was_copied)


def run(build, add):
    """add(test, trial) calls the test, notes how it ended and returns whether that was well."""
    NestedVhostUser.check(build)
    outer.run(build, add, Trial,
              [os.path.join(HERE, "drawer"), *map(str, Trial.size), str(outer.SEED)])

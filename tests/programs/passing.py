"""Sessions of which one end passes fds that are odd.

Each case runs twice: with the client as the sender, so that fdferry-guest has to do with it, and
with the service, so that fdferry-host has.
"""

import ctypes
import fcntl
import os

from harness import SLOW, Skip, check
from opaque import ServiceStage, Session, close_all, read_to_end, receive, send_fds

LIBC = ctypes.CDLL(None, use_errno=True)


class Passing(Session):
    """A session of which one end, the sender, may do wrong."""

    def __init__(self, stage, origin, name="stream"):
        self.stage = stage
        self.logged = stage.log_size()
        super().__init__(stage, name)
        ends = (self.client, self.service)
        self.sender, self.receiver = ends if origin == "client" else ends[::-1]
        self.program = stage.guest if origin == "client" else stage.host
        self.kept = []

    def keep(self, *fds):
        """Are closed in the end."""
        self.kept += fds
        return fds[0] if fds else -1

    def pass_fds(self, *fds, data=b"x"):
        send_fds(self.sender, data, fds)

    def pass_one(self, fd):
        """What the receiver gets of it."""
        self.pass_fds(fd)
        data, fds = receive(self.receiver)
        check(data == b"x" and len(fds) == 1, f"{data!r} comes with {len(fds)} fds")
        return self.keep(fds[0])

    def expect_end(self, says):
        read_to_end(self.receiver)
        read_to_end(self.sender)
        self.stage.check_line(self.program, self.logged, says)

    def close(self):
        super().close()
        close_all(self.kept)
        self.kept = []


def adder(case):
    """add(name, function) for a list of cases: function(passing) is run for both origins."""
    def add(name, function, stage="services", host=(), guest=(), records=False):
        for origin in ("client", "service"):
            @case(f"{origin}: {name}")
            def _(suite, origin=origin):
                the_stage = suite.stage(stage, kind=ServiceStage, host=host, guest=guest)
                passing = Passing(the_stage, origin, "records" if records else "stream")
                try:
                    note = function(passing)
                finally:
                    passing.close()
                the_stage.check(SLOW)
                return note
    return add


def system_call(number, *args):
    fd = LIBC.syscall(number, *args)
    if fd < 0:
        raise Skip(f"system call {number}: {os.strerror(ctypes.get_errno())}")
    return fd


def open_or_skip(path, flags=os.O_RDWR):
    try:
        return os.open(path, flags | os.O_CLOEXEC)
    except OSError as error:
        raise Skip(str(error))


def memory(size=4096, data=b"", flags=os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING, name="memory"):
    fd = os.memfd_create(name, flags)
    os.ftruncate(fd, size)
    os.pwrite(fd, data, 0)
    return fd


SEAL_SEAL, SEAL_SHRINK, SEAL_GROW, SEAL_WRITE = 1, 2, 4, 8


def sealed(size=4096, data=b"", seals=SEAL_SHRINK | SEAL_GROW | SEAL_WRITE):
    fd = memory(size, data)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd

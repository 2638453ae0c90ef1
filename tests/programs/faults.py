"""Sessions of which one call fails, at each place: they end or go on, and nothing else happens.

tests/support/faults.c is preloaded into one of the programs. The session itself says, by the first
bytes that it carries, which call of the process that has got it is to fail.
"""

import os
import socket

from harness import SLOW, Failure, Skip, case_list, check
from opaque import ServiceStage, close_all, receive, send_fds
from passing import SEAL_GROW, SEAL_SHRINK, SEAL_WRITE, sealed

CASES, case = case_list("faults")
LIBRARY = "tests/support/faults.so"
MOST = 400  # calls of a kind that a session makes
FAULTS = ("memory", "fds", "table", "flight", "buffers")


class FaultyStage(ServiceStage):
    """One of the programs has the library."""

    def __init__(self, suite, program):
        library = os.path.join(suite.build, LIBRARY)
        if not os.path.exists(library):
            raise Skip(f"there is no {LIBRARY}")
        self.faulty = program
        self.preload = {"LD_PRELOAD": library, "ASAN_OPTIONS":
                        "allocator_may_return_null=1:quarantine_size_mb=8:verify_asan_link_order=0"}
        super().__init__(suite)

    def start_host(self):
        self.environment = self.preload if self.faulty == "host" else {}
        super().start_host()

    def start_guest(self):
        self.environment = self.preload if self.faulty == "guest" else {}
        super().start_guest()


def converse(session):
    """A bit of everything, both ways. Ends early where the session does."""
    near, far = socket.socketpair()
    read, write = os.pipe()
    fds = [read, os.eventfd(1), sealed(5000, b"contents", SEAL_SHRINK | SEAL_GROW | SEAL_WRITE),
           os.open("/dev/null", os.O_RDWR), far.fileno()]
    got = []
    try:
        for sender, receiver in ((session.client, session.service),
                                 (session.service, session.client)):
            send_fds(sender, b"with fds", fds)
            data, got_now = receive(receiver)
            got += got_now
            if not data:
                return False
            check(len(got_now) == len(fds), f"{len(got_now)} of {len(fds)} fds come")
            sender.send(bytes(100000))
            left = 100000
            while left > 0:
                part = receiver.recv(left)
                if not part:
                    return False
                left -= len(part)
        near.send(b"nested")
        return True
    except (BrokenPipeError, ConnectionResetError):
        return False
    finally:
        close_all(got + fds[:-1])
        os.close(write)
        near.close()
        far.close()


def begin(session, trigger):
    """The trigger gets through to the process that it is for. False: that was too much already."""
    try:
        session.client.send(trigger)
        return session.service.recv(len(trigger)) == trigger
    except (BrokenPipeError, ConnectionResetError):
        return False


def run_faults(stage, fault):
    """Up to the first call that a session does not come to."""
    program = getattr(stage, stage.faulty)
    went_on = ended = 0
    for number in range(1, MOST):
        before = len(program.errors())
        with stage.client() as session:
            try:
                alive = begin(session, b"fault %s %d\n" % (fault.encode(), number))
                alive = alive and converse(session)
            except TimeoutError:
                raise Failure(f"{fault} {number}: hangs after {program.errors()[before:]!r}")
        def has_failed(before=before):
            return "fault: " in program.errors()[before:]
        if not has_failed():
            stage.at_rest(SLOW)  # a call may be one of the session's end
        if not has_failed():
            check(alive, f"call {number} did not fail, and still the session ends")
            break
        went_on, ended = went_on + alive, ended + (not alive)
        stage.witness.sync()
        program.check_quiet()
    stage.check(deadline=SLOW)
    check(went_on + ended > 0, f"no call of «{fault}» was made to fail")
    return f"{went_on} sessions go on, {ended} end"


for program in ("host", "guest"):
    @case(f"{program}: no call that fails does more than end its session")
    def _(suite, program=program):
        with FaultyStage(suite, program) as stage:
            return "; ".join(f"{fault}: {run_faults(stage, fault)}" for fault in FAULTS)

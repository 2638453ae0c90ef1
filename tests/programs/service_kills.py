"""Somebody dies, stops or starts again at every step of a service's session."""

import contextlib
import os
import signal
import socket
import threading
import time

from harness import (DEADLINE, SLOW, Failure, case_list, check, processes_of, wait_until)
from kills import kill_parent
from opaque import (ServiceStage, Session, close_all, read_exactly, read_to_end, receive, send_fds)
from passing import SEAL_GROW, SEAL_SHRINK, SEAL_WRITE, sealed

CASES, case = case_list("service kills")


class Recorded(Session):
    """A session of which each step sends one thing and sees it arrive."""

    def __init__(self, stage):
        super().__init__(stage)
        self.sockets, self.fds = [], []
        self.near = self.far = None

    def cross(self, sender, receiver, *fds):
        send_fds(sender, b"step", fds)
        data, got = receive(receiver)
        self.fds += got
        check(data == b"step" and len(got) == len(fds), f"{data!r} comes with {len(got)} fds")
        return got

    def new_pair(self):
        pair = socket.socketpair()
        self.sockets += pair
        for sock in pair:
            sock.settimeout(DEADLINE)
        return pair

    def take(self, fd):
        self.fds.remove(fd)
        sock = socket.socket(fileno=fd)
        sock.settimeout(DEADLINE)
        self.sockets.append(sock)
        return sock

    def pass_pipe(self):
        read, self.write = os.pipe()
        self.read = self.cross(self.client, self.service, read)[0]
        os.close(read)
        self.fds.append(self.write)

    def use_pipe(self):
        os.write(self.write, b"piped")
        check(os.read(self.read, 10) == b"piped", "the pipe has other bytes")

    def pass_socket(self):
        self.near, far = self.new_pair()
        self.far = self.take(self.cross(self.client, self.service, far.fileno())[0])
        far.close()

    def pass_through_it(self):
        self.inner, other = self.new_pair()
        self.outer = self.take(self.cross(self.far, self.near, other.fileno())[0])
        other.close()

    def pass_event(self):
        self.event = os.eventfd(0)
        self.fds.append(self.event)
        self.replica = self.cross(self.service, self.client, self.event)[0]

    def count(self):
        os.eventfd_write(self.event, 7)
        check(os.eventfd_read(self.replica) == 7, "another count comes")

    def pass_memory(self):
        fd = sealed(9000, b"contents", SEAL_SHRINK | SEAL_GROW | SEAL_WRITE)
        self.fds.append(fd)
        got = self.cross(self.client, self.service, fd)[0]
        check(os.pread(got, 8, 0) == b"contents", "other contents come")

    def half_close(self):
        self.inner.shutdown(socket.SHUT_WR)
        check(self.outer.recv(10) == b"", "no end comes")

    def steps(self):
        return [
            lambda: self.cross(self.client, self.service),
            lambda: self.cross(self.service, self.client),
            self.pass_pipe, self.use_pipe,
            self.pass_socket, self.pass_through_it,
            self.pass_event, self.count,
            self.pass_memory, self.half_close,
            lambda: self.cross(self.outer, self.inner),
            self.sync,
        ]

    def run(self, n):
        for step in self.steps()[:n]:
            step()

    def check_over(self):
        """Everybody who holds something of it sees the end."""
        for sock in (self.client, self.service, *self.sockets):
            if sock.fileno() >= 0:
                read_to_end(sock)

    def close(self):
        super().close()
        for sock in self.sockets:
            sock.close()
        close_all(self.fds)
        self.fds = []


N_STEPS = 12


@contextlib.contextmanager
def recorded(stage, n):
    """A session after n steps, and the processes that serve it."""
    before = {program: program.settled_files() for program in stage.programs()}
    session = Recorded(stage)
    try:
        servants = {program.name: program.servant(before[program])
                    for program in stage.programs()}
        session.run(n)
        yield session, servants
    except (Failure, TimeoutError) as failure:
        raise Failure(f"after step {n}: {failure or 'something does not come'}")
    finally:
        session.close()


@case("the recorded session itself works")
def _(suite):
    stage = suite.stage("services", kind=ServiceStage)
    with recorded(stage, N_STEPS) as (session, _):
        check(len(session.steps()) == N_STEPS, "N_STEPS is wrong")
    stage.check()


def kill_at_every_step(suite, name, number):
    with ServiceStage(suite) as stage:
        for program in stage.programs():  # SIGTERM, too, where a process has only just begun
            program.expected = f"crashed: {number.name}"
        for n in range(N_STEPS + 1):
            with recorded(stage, n) as (session, servants):
                os.kill(servants[name], number)
                session.check_over()
                stage.witness.sync()
                stage.at_rest()
            with stage.client() as another:
                another.sync()
        stage.check()


for name in ("fdferry-host", "fdferry-guest"):
    @case(f"a process of {name} that is killed ends its session on both sides, at every step")
    def _(suite, name=name):
        kill_at_every_step(suite, name, signal.SIGKILL)

    @case(f"a process of {name} that is told to stop does, at every step")
    def _(suite, name=name):
        kill_at_every_step(suite, name, signal.SIGTERM)


@case("a client or a service that dies ends the session, at every step")
def _(suite):
    stage = suite.stage("services", kind=ServiceStage)
    for n in range(N_STEPS + 1):
        for who, other in (("client", "service"), ("service", "client")):
            with recorded(stage, n) as (session, _):
                getattr(session, who).close()
                read_to_end(getattr(session, other))
            stage.at_rest()
    stage.check()


for name in ("fdferry-host", "fdferry-guest"):
    @case(f"{name} that is killed leaves its sessions alone, at every third step")
    def _(suite, name=name):
        for n in range(0, N_STEPS + 1, 3):
            with ServiceStage(suite) as stage, recorded(stage, n) as (session, _):
                program = stage.host if name == "fdferry-host" else stage.guest
                kill_parent(program)
                session.sync()
                (stage.start_host if program is stage.host else stage.start_guest)()
                with stage.client() as another:
                    another.sync()
                session.sync()
                session.close()
                stage.witness.close()
                wait_until("the old program's processes end with their sessions",
                           lambda: not processes_of(program.pid))
                program.check_quiet()


@case("a host that is started again knows nothing of old sessions, and the guest finds it")
def _(suite):
    with ServiceStage(suite) as stage:
        with recorded(stage, N_STEPS) as (session, _):
            check(stage.host.stop() == 0, "SIGTERM")
            session.check_over()
            read_to_end(stage.connect("stream"))  # nobody is there
            stage.start_host()
            with stage.client() as another:
                another.sync()
            for sock in (session.near, session.inner, session.client):
                try:
                    sock.send(b"old")
                    check(sock.recv(10) == b"", "an old socket still works")
                except OSError:
                    pass
        stage.witness.close()
        stage.witness = stage.client()
        stage.witness.sync()
        check(stage.guest.alive(), "the guest ended")


@case("100 transfers wait while one side is stopped, and then all arrive")
def _(suite):
    stage = suite.stage("services", kind=ServiceStage)
    for name in ("fdferry-host", "fdferry-guest"):
        with recorded(stage, 1) as (session, servants):
            pairs = [session.new_pair() for _ in range(100)]
            send_fds(session.client, b"x", [far.fileno() for _, far in pairs])
            copies = [session.take(fd) for fd in take_all(session, 100)]
            for _, far in pairs:
                far.close()
            os.kill(servants[name], signal.SIGSTOP)
            try:
                for near, _ in pairs:
                    near.send(bytes(50000))
                for _ in range(20):
                    stage.witness.sync()
                time.sleep(0.5)
            finally:
                os.kill(servants[name], signal.SIGCONT)
            for copy in copies:
                check(read_exactly(copy, 50000) == bytes(50000), "other bytes come")
        stage.check(deadline=SLOW)


def take_all(session, n):
    _, fds = receive(session.service)
    check(len(fds) == n, f"{len(fds)} fds come")
    session.fds += fds
    return fds


@case("100 transfers end on both sides when a process dies in the middle")
def _(suite):
    with ServiceStage(suite) as stage:
        for program in stage.programs():
            program.expected = "crashed: SIGKILL"
        for name in ("fdferry-host", "fdferry-guest"):
            with recorded(stage, 1) as (session, servants):
                pairs = [session.new_pair() for _ in range(100)]
                send_fds(session.client, b"x", [far.fileno() for _, far in pairs])
                copies = [session.take(fd) for fd in take_all(session, 100)]
                for near, far in pairs:
                    far.close()
                    near.send(bytes(50000))
                os.kill(servants[name], signal.SIGKILL)
                for sock in [near for near, _ in pairs] + copies:
                    read_to_end(sock)
            stage.check(deadline=SLOW)


@case("clients that come without end while a program is being stopped")
def _(suite):
    for name in ("guest", "host"):
        with ServiceStage(suite) as stage:
            program, stop = getattr(stage, name), threading.Event()

            def storm():
                while not stop.is_set():
                    with contextlib.suppress(OSError), stage.connect("stream") as sock:
                        sock.send(b"hello")
            threads = [threading.Thread(target=storm) for _ in range(4)]
            for thread in threads:
                thread.start()
            try:
                status = program.stop()
            finally:
                stop.set()
                for thread in threads:
                    thread.join()
            check(status == 0, f"the {name}'s status is {status}")
            check(name == "host" or not os.path.exists(stage.path("stream")), "a socket is left")
            program.check_quiet()

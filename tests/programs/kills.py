"""Somebody dies at every message of a small session: only what depended on him ends.

The client and the compositor are this suite's own; that they die is that all their sockets close at
once, which is all that others see of SIGKILL.
"""

import os
import select
import signal
import time

from compositor import PASTED, Compositor
from harness import Failure, Stage, case_list, check, processes_of, wait_until
from surroundings import DEADLINE, PATIENCE
from wayland import Ended, memfd

CASES, case = case_list("kills")


class Recorded:
    """A session of which each step sends one message, or waits for what the next one needs."""

    def __init__(self, client):
        self.client = client
        self.pool = memfd(64 * 64 * 4, b"pixels")
        self.pipe = os.pipe()
        self.objects = {}
        self.messages = 0

    def bind(self, interface):
        self.objects[interface] = self.client.bind(interface)

    def make(self, what, target, opcode, *args, fds=()):
        """A request whose first argument is a new id."""
        new = self.client.new_id()
        self.client.request(self.objects[target], opcode, new, *args, fds=fds)
        self.objects[what] = new

    def ask(self, target, opcode, *args, fds=()):
        self.client.request(self.objects[target], opcode, *args, fds=fds)

    def steps(self):
        surface, paste = "surface", "device"
        return [
            self.client.get_registry,
            self.client.sync,
            lambda: self.bind("wl_shm"),
            lambda: self.bind("wl_compositor"),
            lambda: self.make("pool", "wl_shm", 0, 64 * 64 * 4, fds=[self.pool]),
            lambda: self.make("buffer", "pool", 0, 0, 64, 64, 256, 1),
            lambda: self.make(surface, "wl_compositor", 0),
            lambda: self.ask(surface, 1, self.objects["buffer"], 0, 0),
            lambda: self.ask(surface, 2, 0, 0, 64, 64),
            lambda: self.ask(surface, 6),
            lambda: self.bind("wl_data_device_manager"),
            lambda: self.bind("wl_seat"),
            lambda: self.make(paste, "wl_data_device_manager", 1, self.objects["wl_seat"]),
            self.client.sync,
            self.receive,
            self.client.sync,
        ]

    def receive(self):
        offer = int.from_bytes(self.client.got(self.objects["device"], 0)[0], "little")
        self.client.request(offer, 1, "text/plain", fds=[self.pipe[1]])
        os.close(self.pipe[1])
        self.pipe = self.pipe[0], -1

    def pasted(self):
        """What comes out of the pipe, up to its end."""
        data = b""
        while select.select([self.pipe[0]], [], [], DEADLINE)[0]:
            part = os.read(self.pipe[0], 100)
            if not part:
                return data
            data += part
        raise Failure("the pipe stays open")

    def run(self, n):
        for step in self.steps()[:n]:
            step()

    def close(self):
        self.client.close()
        for fd in (self.pool, *self.pipe):
            if fd >= 0:
                os.close(fd)


N_STEPS = 16
# Each costs both programs' start; a slow machine does with some of them.
STEPS = range(0, N_STEPS + 1, 1 if PATIENCE == 1 else 4)


def recorded(stage, n):
    """A session after n steps, and the processes that serve it."""
    before = {program: program.settled_files() for program in stage.programs()}
    session = Recorded(stage.connected_client())
    servants = {program.name: program.servant(before[program]) for program in stage.programs()}
    session.run(n)
    return session, servants


def check_client_ends(session, says):
    """EOF, and before it an error that can be read unless says is None."""
    text = session.client.wait_end()
    session.client.close()  # as real ones do; the proxies wait for it, but not for long
    if says is not None:
        check(text and says in text, f"the client is told {text!r}")


@case("the recorded session itself works")
def _(suite):
    stage = suite.stage()
    session, _ = recorded(stage, N_STEPS)
    try:
        check(session.pasted() == PASTED, "the paste is wrong")
        check(session.client.error is None, f"error: {session.client.error}")
        check(len(session.steps()) == N_STEPS, "N_STEPS is wrong")
    finally:
        session.close()
    stage.check()


def kill_at_every_step(suite, kill, check_ends):
    """The longest time until everything was over."""
    worst = 0
    for n in STEPS:
        stage = suite.stage()
        session, servants = recorded(stage, n)
        try:
            kill(stage, session, servants)
            start = time.monotonic()
            check_ends(session)
            stage.witness.sync()
            stage.at_rest()
            worst = max(worst, time.monotonic() - start)
            with stage.client() as another:
                another.sync()
            if n == N_STEPS:
                check(session.pasted() in (PASTED, b""), "the paste is wrong")
        except (Failure, Ended, TimeoutError) as failure:
            raise Failure(f"after step {n}: {failure or 'an end without a word'}")
        finally:
            session.close()
        stage.check()
    return f"all gone within {worst:.2f} s"


@case("a client that dies ends its own session, at every message")
def _(suite):
    return kill_at_every_step(suite, lambda stage, session, servants: session.client.close(),
                              lambda session: None)


@case("a compositor that drops one client ends that session, at every message")
def _(suite):
    def drop(stage, session, servants):
        stage.compositor.connections[-1].close()
    return kill_at_every_step(suite, drop, lambda session: check_client_ends(
        session, "the compositor closed the connection"))


def kill_servant(name):
    def kill(stage, session, servants):
        os.kill(servants[name], signal.SIGKILL)
    return kill


@case("a host session process that is killed ends that session, at every message")
def _(suite):
    with KilledStage(suite) as stage:
        return kill_at_every_step(stage, kill_servant("fdferry-host"),
                                  lambda session: check_client_ends(session, "was lost"))


@case("a guest session process that is killed ends that session, at every message")
def _(suite):
    with KilledStage(suite) as stage:
        return kill_at_every_step(stage, kill_servant("fdferry-guest"),
                                  lambda session: check_client_ends(session, None))


class KilledStage:
    """A stage where the parents' lines about processes that were killed are no complaint."""

    def __init__(self, suite):
        self.the_stage = Stage(suite)
        for program in self.the_stage.programs():
            program.expected = "crashed: SIGKILL"

    def stage(self):
        return self.the_stage

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.the_stage.close()


def kill_parent(program):
    """Its session processes live on; spares, which nobody can give a client any more, do not."""
    os.kill(program.pid, signal.SIGKILL)
    program.popen.wait()
    wait_until("the spares of a parent that is gone end",
               lambda: len(processes_of(program.pid, helpers=False)) == 2)


def kill_parent_at_every_step(suite, name):
    for n in STEPS:
        with Stage(suite) as stage:
            session, _ = recorded(stage, n)
            program = next(program for program in stage.programs() if program.name == name)
            try:
                kill_parent(program)
                session.client.sync()
                stage.witness.sync()
                if n == N_STEPS:
                    check(session.pasted() == PASTED, "the paste is wrong")
                (stage.start_host if name == "fdferry-host" else stage.start_guest)()
                with stage.client() as another:
                    another.sync()
                session.client.sync()
            except (Failure, Ended, TimeoutError) as failure:
                raise Failure(f"after step {n}: {failure or 'an end without a word'}")
            finally:
                session.close()
            stage.witness.close()
            wait_until("the old program's processes end with their clients",
                       lambda: not processes_of(program.pid))
            program.check_quiet()


@case("a host that is killed leaves its sessions alone, and a new one takes over")
def _(suite):
    kill_parent_at_every_step(suite, "fdferry-host")


@case("a guest that is killed leaves its sessions alone, and a new one takes over")
def _(suite):
    kill_parent_at_every_step(suite, "fdferry-guest")


@case("a compositor that is killed ends all sessions with an error, and a new one is found")
def _(suite):
    with Stage(suite) as stage:
        stage.witness.close()
        for n in STEPS:
            session = Recorded(stage.connected_client())
            session.run(n)
            stage.compositor.close()
            check_client_ends(session, "the compositor closed the connection")
            session.close()
            stage.compositor = Compositor(stage.compositor.path)
            with stage.client() as client:
                client.sync()
        stage.add_witness()
        stage.check()


@case("a session process that is stopped for a while goes on, and others do not wait for it")
def _(suite):
    stage = suite.stage()
    for name in ("fdferry-host", "fdferry-guest"):
        session, servants = recorded(stage, 2)
        os.kill(servants[name], signal.SIGSTOP)
        try:
            session.client.request(1, 0, session.client.new_id())
            for _ in range(20):
                stage.witness.sync()
        finally:
            os.kill(servants[name], signal.SIGCONT)
        session.client.sync()
        session.close()
        stage.check()


@case("everybody dies at once and nothing is left")
def _(suite):
    with Stage(suite) as stage:
        clients = [stage.client() for _ in range(8)]
        for client in clients:
            client.sync()
        for program in stage.programs():
            os.kill(program.pid, signal.SIGKILL)
            program.popen.wait()
        stage.compositor.close()
        for client in clients:
            text = client.wait_end()
            check(text and "the compositor closed the connection" in text, f"told {text!r}")
            client.close()
        stage.witness.wait_end()
        for program in stage.programs():
            wait_until("all processes end", lambda: not processes_of(program.pid))
        stage.compositor = Compositor(stage.compositor.path)

"""Starting, watching and stopping the programs; what has to hold after every case."""

import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time

from compositor import Compositor
from spares import children_of, has_spares, links_of, sockets_among
from surroundings import DEADLINE, Channel, patient
from wayland import Client

SLOW = patient(30)  # seconds; starting under a sanitizer on a busy machine
COMPLAINT = re.compile(r"ERROR: \w+Sanitizer|runtime error:|Assertion .* failed|crashed: SIG")


class Failure(Exception):
    """What was expected did not happen; the text says what."""


class Skip(Exception):
    """The case cannot run here; the text says why."""


class Case:
    """`run(suite)` raises Failure; what it returns is printed beside the time."""

    def __init__(self, room, name, run):
        self.room, self.name, self.run = room, name, run


def case_list(room):
    """A list of cases, and the decorator that adds a function to it under a sentence."""
    cases = []

    def case(name):
        def add(function):
            cases.append(Case(room, name, function))
            return function
        return add
    return cases, case


def check(condition, text):
    if not condition:
        raise Failure(text)


def wait_until(what, condition, deadline=DEADLINE):
    """The first true value of condition()."""
    end = time.monotonic() + deadline
    pause = 0.001
    while True:
        is_late = time.monotonic() > end
        value = condition()
        if value:
            return value
        if is_late:
            raise Failure(f"not within {deadline} s: {what() if callable(what) else what}")
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def fds_of(pid):
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def resident_mib(pid):
    try:
        with open(f"/proc/{pid}/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE") / (1 << 20)
    except OSError:
        return 0


def processes_of(group, helpers=True):
    """All processes that a program and its children have left in their session.

    A helper is beside each session of a service: it opens files that are read on demand.
    """
    found = []
    for name in os.listdir("/proc"):
        try:
            with open(f"/proc/{name}/stat") as stat:
                name, _, rest = stat.read().rpartition(")")
                fields = rest.split()
        except (OSError, ValueError):
            continue
        is_wanted = helpers or not name.endswith("(fdferry-files")
        if int(fields[3]) == group and fields[0] != "Z" and is_wanted:
            found.append(int(name.split()[0]))
    return found


class Program:
    """One of the two programs, in a session of its own, its stderr in a file."""

    def __init__(self, suite, name, arguments, environment=(), ready=True, launcher=(), **options):
        self.name = name
        self.expected = "\0"  # what is no complaint in this case
        self.log = suite.path(f"{name}.stderr")
        path = os.path.join(suite.build, name.replace("fdferry-", "") + "-proxy", name)
        arguments = [*(["--print-ready"] if ready else []), *arguments]
        with open(self.log, "wb") as log:
            self.popen = subprocess.Popen(
                [*launcher, path, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=log, start_new_session=True, env=suite.environment(**dict(environment)),
                **options)
        self.pid = self.popen.pid
        suite.programs.append(self)
        if ready:
            self.wait_ready()

    def wait_ready(self):
        readable, _, _ = select.select([self.popen.stdout], [], [], SLOW)
        line = self.popen.stdout.readline() if readable else b""
        if line != b"READY\n":
            self.kill()
            raise Failure(f"{self.name} is not ready but says: {line!r} {self.errors()}")

    def errors(self):
        with open(self.log, errors="replace") as log:
            return log.read()

    def alive(self):
        return self.popen.poll() is None

    def census(self):
        return len(children_of(self.pid)), fds_of(self.pid)

    def open_files(self):
        """Of each session process and spare."""
        return {pid: links_of(pid) for pid in children_of(self.pid)}

    def settled_files(self):
        """open_files once no spare is getting ready any more: it is one of these that is used next."""
        def twice_the_same():
            first = self.open_files()
            time.sleep(patient(0.03))
            return first if has_spares(self.pid) and first == self.open_files() else None
        return wait_until(f"the spares of {self.name} come to rest", twice_the_same, SLOW)

    def servant(self, before):
        """The one that has got something to do since settled_files."""
        def the_one():
            now = self.open_files()
            busy = [pid for pid, links in before.items() if now.get(pid) != links and
                    sockets_among(now.get(pid, ())) > 2]
            return busy[0] if len(busy) == 1 else None  # a spare may be getting ready, too
        return wait_until(f"{self.name}: one process serves the session", the_one)

    def wait(self, deadline=SLOW):
        """stdout and the exit status of a program that ends by itself."""
        try:
            output, _ = self.popen.communicate(timeout=deadline)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failure(f"{self.name} does not end: {self.errors()[-500:]}")
        return output.decode(errors="replace"), self.popen.returncode

    def stop(self, number=signal.SIGTERM):
        """The exit status, once no process of it is left."""
        if self.alive() and number:
            self.popen.send_signal(number)
        _, status = self.wait()
        wait_until(f"all processes of {self.name} end", lambda: not processes_of(self.pid))
        return status

    def kill(self):
        for pid in processes_of(self.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.popen.wait()
        self.popen.stdout.close()

    def check_quiet(self):
        """No sanitizer's report, no failed assertion, no session process that crashed."""
        errors = self.errors().replace(self.expected, "")
        complaint = COMPLAINT.search(errors)
        if complaint:
            text = errors[complaint.start():].splitlines()
            raise Failure(f"{self.name} complains: " + "\n".join(text[:12]))


LAUNCH = """import fcntl, os, sys
passed = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in sys.argv[1].split(",")]
for place, fd in enumerate(passed, 3):
    os.dup2(fd, place)
    os.close(fd)
os.environ.update(LISTEN_FDS=sys.argv[2], LISTEN_PID=str(os.getpid()))
if sys.argv[3]:
    os.environ["LISTEN_FDNAMES"] = sys.argv[3]
os.execv(sys.argv[4], sys.argv[4:])"""


def activated(suite, program, arguments, socks, count=None, names="", **options):
    """Starts a program as a service manager does that listens for it."""
    fds = [str(sock.fileno()) for sock in socks]
    return Program(suite, program, arguments, pass_fds=[sock.fileno() for sock in socks], launcher=[
        sys.executable, "-c", LAUNCH, ",".join(fds), count or str(len(fds)), names], **options)


def listen(path, backlog=8, kind=socket.SOCK_STREAM):
    sock = socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC)
    sock.bind(path)
    sock.listen(backlog)
    return sock


class Stage:
    """A compositor, the pair, and a client that must never notice what the others do."""

    def __init__(self, suite, host=(), guest=(), channel=None, environment=(), globals_=None):
        self.suite = suite
        self.directory = suite.path("stage")
        os.mkdir(self.directory, 0o700)
        self.host_options, self.guest_options = list(host), list(guest)
        self.environment = dict(environment)
        self.chan = Channel(os.path.join(self.directory, "chan"))
        self.display = os.path.join(self.directory, "wayland-1")
        self.compositor = self.make_compositor(globals_)
        self.host = self.guest = self.witness = self.interposer = None
        try:
            self.start_host()
            self.interposer = channel(self) if channel else None
            self.start_guest()
            self.add_witness()
        except BaseException:
            self.close()
            raise

    def make_compositor(self, globals_):
        return Compositor(os.path.join(self.directory, "wayland-0"), globals_)

    def served(self):
        """What the host connects to, and where the guest listens."""
        return ["--compositor", self.compositor.path], ["--display", self.display]

    def start_host(self):
        self.host = Program(self.suite, "fdferry-host", [
            "--listen", self.chan.listen, *self.served()[0], *self.host_options],
            self.environment, **self.suite.host_popen)

    def start_guest(self):
        chan = self.interposer.chan if self.interposer else self.chan
        self.guest = Program(self.suite, "fdferry-guest", [
            "--connect", chan.connect, *self.served()[1], *self.guest_options],
            self.environment, **self.suite.guest_popen)

    def add_witness(self):
        self.witness = self.client()
        self.witness.sync()
        self.baseline = self.settled()

    def client(self):
        return Client(self.display)

    def programs(self):
        return [program for program in (self.host, self.guest) if program is not None]

    def census(self):
        return {program.name: program.census() for program in self.programs()}

    def settled(self):
        """Once spares are refilled and nothing changes any more."""
        def always_the_same():
            first = self.census()
            for _ in range(5):
                time.sleep(0.1)
                if first != self.census():
                    return None
            return first if all(has_spares(program.pid) for program in self.programs()) else None
        return wait_until("the idle pair comes to rest", always_the_same, SLOW)

    def at_rest(self, deadline=DEADLINE):
        """Every process and fd that a session had is gone."""
        wait_until(lambda: f"(children, fds) were {self.baseline}, are {self.census()}",
                   lambda: self.census() == self.baseline, deadline)

    def check(self, deadline=DEADLINE):
        """What has to hold after every case."""
        for program in self.programs():
            check(program.alive(), f"{program.name} died: {program.errors()[-800:]}")
        self.witness.sync()
        self.at_rest(deadline)
        for program in self.programs():
            program.check_quiet()

    def connected_client(self):
        """A client whose connection has got through to the compositor: `connection` is its end."""
        before = len(self.compositor.connections)
        client = self.client()
        wait_until("a client gets through to the compositor",
                   lambda: len(self.compositor.connections) > before)
        client.connection = self.compositor.connections[-1]
        return client

    def close(self):
        if self.witness:
            self.witness.close()
        for program in self.programs():
            program.kill()
        if self.interposer:
            self.interposer.close()
        self.compositor.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Suite:
    """Where everything is, and the stages that several cases share."""

    def __init__(self, build, directory):
        self.build, self.directory = build, directory
        self.count = 0
        self.stages = {}
        self.programs = []  # all that were started
        self.host_popen, self.guest_popen = {}, {}

    def path(self, name):
        self.count += 1
        return os.path.join(self.directory, f"{self.count}-{name}")

    def environment(self, **changes):
        """Ours without anything that concerns Wayland. None removes a variable."""
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C",
                       "XDG_RUNTIME_DIR": self.directory,
                       # what is too large fails as it does without the sanitizer, and what is
                       # freed does not count for long as memory that is used
                       "ASAN_OPTIONS": "allocator_may_return_null=1:quarantine_size_mb=8"}
        environment.update(changes)
        return {name: value for name, value in environment.items() if value is not None}

    def stage(self, name="plain", kind=Stage, **options):
        if name not in self.stages:
            self.stages[name] = kind(self, **options)
        return self.stages[name]

    def drop_stages(self):
        for stage in self.stages.values():
            stage.close()
        self.stages = {}
        for program in self.programs:
            program.kill()
        self.programs = []

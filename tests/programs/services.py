"""Services other than Wayland: who listens where, who is connected to what, who is turned away."""

import contextlib
import os
import re
import signal
import socket

import channel
from compositor import Compositor
from harness import (DEADLINE, Program, activated, case_list, check, listen, wait_until)
from passing import memory, sealed
from surroundings import VSOCK, Channel
from wayland import Client

CASES, case = case_list("services")
HOST, GUEST = "fdferry-host", "fdferry-guest"
STREAM, SEQPACKET = socket.SOCK_STREAM, socket.SOCK_SEQPACKET


class Pair(contextlib.ExitStack):
    """The two programs with services, and the sockets of these on both sides."""

    def __init__(self, suite, host=(), guest=(), environment=()):
        """host, guest: arguments, in which {dir} is a directory of this pair."""
        super().__init__()
        self.suite, self.environment = suite, dict(environment)
        self.directory = suite.path("services")
        os.mkdir(self.directory, 0o700)
        self.chan = Channel(self.path("chan"))
        self.host_arguments, self.guest_arguments = host, guest
        self.host = self.guest = None

    def __enter__(self):
        try:
            self.host = self.start(HOST, ["--listen", self.chan.listen], self.host_arguments)
            self.guest = self.start(GUEST, ["--connect", self.chan.connect], self.guest_arguments)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *why):
        for program in (self.host, self.guest):
            if program:
                program.kill()
        return super().__exit__(*why)

    def path(self, name):
        return os.path.join(self.directory, name)

    def fill(self, arguments):
        return [argument.replace("{dir}", self.directory) for argument in arguments]

    def start(self, program, channel_arguments, arguments):
        return Program(self.suite, program, [*channel_arguments, *self.fill(arguments)],
                       self.environment)

    def service(self, name, kind=STREAM):
        """What listens on the host. An address that begins with a NUL is abstract."""
        address = name if name.startswith("\0") else self.path(name)
        service = self.enter_context(listen(address, kind=kind))
        service.settimeout(DEADLINE)
        return service

    def client(self, name, kind=STREAM):
        """A client in the guest."""
        sock = self.enter_context(socket.socket(socket.AF_UNIX, kind))
        sock.settimeout(DEADLINE)
        sock.connect(name if name.startswith("\0") else self.path(name))
        return sock

    def check_carried(self, service, client):
        """The client's connection gets through to that service. The service comes first, as what is
        made of the arguments does: a client that is earlier is turned away.
        """
        accepted, _ = service.accept()
        accepted.close()
        check_end(client)
        client.close()

    def check_told(self, *texts):
        for program, text in zip((self.host, self.guest), texts):
            wait_until(lambda: f"{program.name} says «{text}»: {program.errors()}",
                       lambda: text in program.errors())
            check(program.alive(), f"{program.name} died: {program.errors()}")
            program.check_quiet()


def check_end(sock):
    """The connection ends, and nothing came before."""
    try:
        data = sock.recv(4096)
    except TimeoutError:
        check(False, "the client is not told of the end")
    check(data == b"", f"the client gets {data!r}")


def abstract(name):
    return f"fdferry-programs-{os.getpid()}-{name}"


@case("each client is connected to the service that it has come for")
def _(suite):
    host = ["--service", "one=unix:{dir}/h1", "--service", "two=unix:{dir}/h2"]
    guest = ["--service", "two=unix:{dir}/g2", "--service", "one=unix:{dir}/g1"]
    with Pair(suite, host, guest) as pair:
        one, two = pair.service("h1"), pair.service("h2")
        check(not [name for name in os.listdir(suite.directory) if name.startswith("wayland-")],
              "a display is served that nobody asked for")
        for name, service in (("g1", one), ("g2", two), ("g1", one)):
            pair.check_carried(service, pair.client(name))
        check(pair.guest.stop() == 0 and pair.host.stop() == 0, "SIGTERM")
        left = set(os.listdir(pair.directory)) - {"h1", "h2"}
        check(not left, f"files are left: {left}")


@case("a display is served beside other services where it is asked for")
def _(suite):
    host = ["--service", "one=unix:{dir}/h1", "--compositor", "{dir}/compositor"]
    guest = ["--service", "one=unix:{dir}/g1", "--display", "{dir}/display"]
    with Pair(suite, host, guest) as pair:
        compositor = Compositor(pair.path("compositor"))
        pair.callback(compositor.close)
        with Client(pair.path("display")) as client:
            client.sync()
            pair.check_carried(pair.service("h1"), pair.client("g1"))
            client.sync()


@case("a service that the host does not have is refused, which both sides tell")
def _(suite):
    host = ["--service", "one=unix:{dir}/h1"]
    guest = ["--service", "other=unix:{dir}/g1", "--service", "one=unix:{dir}/g2"]
    with Pair(suite, host, guest) as pair:
        service = pair.service("h1")
        check_end(pair.client("g1"))
        pair.check_told("no such service here: other", "no such service here: other")
        pair.check_carried(service, pair.client("g2"))


@case("a name that is none is refused without being repeated")
def _(suite):
    with Pair(suite, ["--service", "one=unix:{dir}/h1"],
              ["--service", "one=unix:{dir}/g1"]) as pair:
        for name in (b"one\nfdferry-host: all is well", b"\x1b[2J", b"%s%n", b" one", 64 * b"\xff"):
            with contextlib.closing(channel.connect(pair.chan)) as end:
                end.send(channel.hello(name))
                text = end.wait_end()
                check(text == "no such service here: (not a name)", f"{name}: told {text!r}")
        pair.check_told("no such service here: (not a name)")
        check("all is well" not in pair.host.errors(), pair.host.errors())
        pair.check_carried(pair.service("h1"), pair.client("g1"))


@case("a host with services needs no compositor, and refuses Wayland then")
def _(suite):
    host = ["--service", "one=unix:{dir}/h1"]
    guest = ["--service", "one=unix:{dir}/g1", "--display", "{dir}/display"]
    with Pair(suite, host, guest, {"XDG_RUNTIME_DIR": None}) as pair:
        check("XDG_RUNTIME_DIR" not in pair.host.errors(), pair.host.errors())
        with Client(pair.path("display")) as client:
            text = client.wait_end()
            check(text and "no such service here: wayland" in text, f"it is told {text!r}")
        pair.check_carried(pair.service("h1"), pair.client("g1"))


@case("a service that nobody listens for is told of, and may start later")
def _(suite):
    with Pair(suite, ["--service", "one=unix:{dir}/h1"],
              ["--service", "one=unix:{dir}/g1"]) as pair:
        check_end(pair.client("g1"))
        where = pair.path("h1")
        pair.check_told(f"was turned away: cannot connect to one at {where}: No such file",
                        "refused by the host: cannot connect to one")
        check(where not in pair.guest.errors(), f"the guest knows where: {pair.guest.errors()}")
        pair.check_carried(pair.service("h1"), pair.client("g1"))


@case("services listen at abstract addresses")
def _(suite):
    inside, outside = abstract("guest"), abstract("host")
    with Pair(suite, ["--service", f"one=unix:@{outside}"],
              ["--service", f"one=unix:@{inside}"]) as pair:
        pair.check_carried(pair.service("\0" + outside), pair.client("\0" + inside))
        left = os.listdir(pair.directory)
        check(left == ([] if VSOCK else ["chan"]), left)


@case("services of records have sockets of records on both sides")
def _(suite):
    host = ["--service", "one=seqpacket:{dir}/h1", "--service", "two=unix:{dir}/h1"]
    guest = ["--service", "one=seqpacket:{dir}/g1", "--service", "two=seqpacket:{dir}/g2"]
    with Pair(suite, host, guest) as pair:
        service = pair.service("h1", SEQPACKET)
        pair.check_carried(service, pair.client("g1", SEQPACKET))
        try:
            pair.client("g1")
            check(False, "a stream is let in")
        except OSError:
            pass
        check_end(pair.client("g2", SEQPACKET))
        pair.check_told(*(2 * ["cannot connect to two"]))


@case("--trace and --stats tell of bytes, and of fds by their kind")
def _(suite):
    options = ["--trace", "--stats"]
    with Pair(suite, ["--service", "one=unix:{dir}/h1", *options],
              ["--service", "one=unix:{dir}/g1", *options]) as pair:
        service, client = pair.service("h1"), pair.client("g1")
        accepted = pair.enter_context(service.accept()[0])
        near, far = socket.socketpair()
        read, write = os.pipe()
        event = os.eventfd(0, os.EFD_CLOEXEC)
        socket.send_fds(client, [b"hello"], [far.fileno(), read, event])
        data, fds, _, _ = socket.recv_fds(accepted, 100, 10)
        check((data, len(fds)) == (b"hello", 3), f"{data} with {fds} came")
        accepted.send(b"world!")
        check(client.recv(100) == b"world!", "no answer")
        for fd in (near.detach(), far.detach(), read, write, event, client.detach(), *fds):
            os.close(fd)
        accepted.close()
        for program in (pair.host, pair.guest):
            for line in ("-> one#1 5 bytes, fds: socket, pipe, eventfd", "<- one#1 6 bytes"):
                line = re.compile(rf"^\[\d+\.\d{{6}}\] {line}$", re.M)
                wait_until(lambda: f"{program.name}: {program.errors()}",
                           lambda: line.search(program.errors()))
            wait_until(lambda: f"{program.name}: {program.errors()}",
                       lambda: "  fds       1 pipes, 1 sockets, 1 eventfds\n" in program.errors())


def one_of_each_kind():
    """The fds of a message, and what is to be closed beside them."""
    near, far = socket.socketpair()
    read, write = os.pipe()
    passed = [read, far.detach(), os.eventfd(0, os.EFD_CLOEXEC), sealed(10, b"contents"), memory(4096),
              os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC), os.open("/", os.O_RDONLY | os.O_CLOEXEC)]
    return passed, [near.detach(), write]


@case("--stats counts every kind")
def _(suite):
    options = ["--stats", "--shm-mode", "diff", "--on-unsupported", "drop"]
    with Pair(suite, ["--service", "one=unix:{dir}/h1", *options],
              ["--service", "one=unix:{dir}/g1", *options]) as pair:
        service, client = pair.service("h1"), pair.client("g1")
        accepted = pair.enter_context(service.accept()[0])
        passed, others = one_of_each_kind()
        socket.send_fds(client, [b"go"], passed)
        data, fds, _, _ = socket.recv_fds(accepted, 100, 10)
        check((data, len(fds)) == (b"go", 6), f"{data} with {fds} came")  # not the directory
        socket.send_fds(accepted, [b"home"], fds[1:2])
        data, home, _, _ = socket.recv_fds(client, 100, 10)
        check((data, len(home)) == (b"home", 1), f"{data} with {home} came")
        for fd in (*passed, *others, *fds, *home, client.detach()):
            os.close(fd)
        accepted.close()
        kinds = "1 files, 1 pipes, 1 sockets, 1 eventfds, 1 devices, 1 of shared memory"
        for program, here in ((pair.host, ""), (pair.guest, ", 1 gone home, 1 unsupported")):
            line = f"  fds       {kinds}{here}\n"
            wait_until(lambda: f"{program.name}: {program.errors()}",
                       lambda: line in program.errors())


@case("the socket of a guest that was killed is replaced")
def _(suite):
    with Pair(suite, ["--service", "one=unix:{dir}/h1"],
              ["--service", "one=unix:{dir}/g1"]) as pair:
        service = pair.service("h1")
        os.kill(pair.guest.pid, signal.SIGKILL)
        pair.guest.kill()
        check(os.path.exists(pair.path("g1")), "it is not left")
        pair.guest = pair.start(GUEST, ["--connect", pair.chan.connect], pair.guest_arguments)
        pair.check_carried(service, pair.client("g1"))


@case("a client that cannot be served sees the end, and nothing else")
def _(suite):
    guest = ["--service", "one=unix:{dir}/g1"]
    with Pair(suite, ["--service", "one=unix:{dir}/h1"], [*guest, "--max-sessions", "1"]) as pair:
        service = pair.service("h1")
        with pair.client("g1"), service.accept()[0]:
            check_end(pair.client("g1"))
            pair.check_told("", "too many sessions (1)")
        pair.host.stop()
        wait_until("the session ends", lambda: check_end(pair.client("g1")) or
                   "cannot reach" in pair.guest.errors())


@case("a client of any service is the one of --oneshot")
def _(suite):
    one = ["--service", "one=unix:{dir}/g1", "--service", "two=unix:{dir}/g2", "--oneshot"]
    with Pair(suite, ["--service", "two=unix:{dir}/h2"], one) as pair:
        service = pair.service("h2")
        with pair.client("g2"), service.accept()[0]:
            for name in ("g1", "g2"):
                try:
                    pair.client(name)
                    check(False, "a second client is let in")
                except ConnectionRefusedError:
                    pass
        pair.guest.wait()
        check(not os.path.exists(pair.path("g1")), "a socket is left")


@case("a service manager's sockets go to the services of their names")
def _(suite):
    host = ["--service", "one=unix:{dir}/h1", "--service", "two=seqpacket:{dir}/h2",
            "--service", "three=unix:{dir}/h3"]
    guest = ["--service", "two=seqpacket:{dir}/none/g2", "--service", "three=unix:{dir}/g3",
             "--service", "one=unix:{dir}/none/g1"]
    with Pair(suite, host, guest[2:4]) as pair:
        pair.guest.stop()
        sockets = [pair.enter_context(listen(pair.path(name), kind=kind))
                   for name, kind in (("s1", STREAM), ("s2", SEQPACKET))]
        pair.guest = activated(suite, GUEST, ["--connect", pair.chan.connect, *pair.fill(guest)],
                               sockets, names="one:two")
        pair.check_carried(pair.service("h1"), pair.client("s1"))
        pair.check_carried(pair.service("h2", SEQPACKET), pair.client("s2", SEQPACKET))
        pair.check_carried(pair.service("h3"), pair.client("g3"))
        check(pair.guest.stop() == 0, pair.guest.errors())
        check({"s1", "s2"} <= set(os.listdir(pair.directory)), "a socket was removed")
        check("g3" not in os.listdir(pair.directory), "a socket was left")


@case("a service manager's socket that no service has the name of is the display")
def _(suite):
    directory = suite.path("sockets")
    os.mkdir(directory)
    guest = ["--connect", f"unix:{directory}/none", "--service", f"one=unix:{directory}/one"]
    with listen(f"{directory}/s1") as one, listen(f"{directory}/s2") as two:
        program = activated(suite, GUEST, guest, [one, two], names="one:fdferry-guest.socket")
        with Client(f"{directory}/s2") as client:
            text = client.wait_end()
            check(text and "cannot reach" in text, f"it is told {text!r}")
        program.stop()
        for names, says in (("one:one", "a second socket for a service: 'one'"),
                            ("two:three", "a second socket for the display: 'three'"),
                            ("", "a second socket for the display: ''")):
            program = activated(suite, GUEST, guest, [one, two], names=names, ready=False)
            _, status = program.wait()
            lines = program.errors().splitlines()
            check(status == 1 and len(lines) == 1 and says in lines[0], f"{names}: {lines}")

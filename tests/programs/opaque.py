"""The pair with services of unknown protocol, and whoever may do wrong at one of its four ends."""

import array
import os
import select
import socket
import time

import channel
from channel import HOST_ID, Type, hello, open_socket, stream_data, welcome
from harness import DEADLINE, Stage, check, listen, wait_until

ROOT = 1  # the id of the connection that a session is about
KINDS = {"stream": socket.SOCK_STREAM, "records": socket.SOCK_SEQPACKET}
ADDRESSES = {"stream": "unix", "records": "seqpacket"}


def send_fds(sock, data, fds):
    """Room for the fds of all messages that a case may have: one may be in several."""
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
    return sock.sendmsg([data], [rights] if fds else [])


def receive(sock, size=1 << 16):
    """One read: its bytes and fds."""
    data, fds, _, _ = socket.recv_fds(sock, size, 253)
    return data, fds


def close_all(fds):
    for fd in fds:
        os.close(fd)


def read_to_end(sock, seconds=DEADLINE):
    """All bytes up to the end; fds with them are closed by the kernel."""
    sock.settimeout(seconds)
    data = b""
    try:
        while part := sock.recv(1 << 16):
            data += part
    except (ConnectionResetError, BrokenPipeError):
        pass
    except TimeoutError:
        check(False, f"no end within {seconds} s, but {data[:100]!r}")
    return data


def read_exactly(sock, size):
    data = b""
    while len(data) < size:
        part = sock.recv(min(size - len(data), 1 << 18))
        check(part, f"the end after {len(data)} of {size} bytes")
        data += part
    return data


class Services:
    """What the host connects to."""

    def __init__(self, directory):
        self.paths = {name: os.path.join(directory, f"host-{name}") for name in KINDS}
        self.listeners = {name: listen(self.paths[name], 256, kind) for name, kind in KINDS.items()}

    def accept(self, name):
        listener = self.listeners[name]
        listener.settimeout(DEADLINE)
        sock, _ = listener.accept()
        sock.settimeout(DEADLINE)
        return sock

    def close(self):
        for listener in self.listeners.values():
            listener.close()


class Session:
    """A client, and its connection as the service has it."""

    def __init__(self, stage, name="stream"):
        self.client = stage.connect(name)
        self.service = stage.compositor.accept(name)

    def sync(self):
        """There and back, and the other way round."""
        for one, other in ((self.client, self.service), (self.service, self.client)):
            one.send(b"token")
            check(read_exactly(other, 5) == b"token", "something else comes")

    def close(self):
        self.client.close()
        self.service.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class ServiceStage(Stage):
    """The pair with a service of each type; `compositor` is what the host connects to."""

    def make_compositor(self, globals_):
        return Services(self.directory)

    def path(self, name):
        return os.path.join(self.directory, f"guest-{name}")

    def served(self):
        host, guest = [], []
        for name, address in ADDRESSES.items():
            host += ["--service", f"{name}={address}:{self.compositor.paths[name]}"]
            guest += ["--service", f"{name}={address}:{self.path(name)}"]
        return host, guest

    def connect(self, name):
        sock = socket.socket(socket.AF_UNIX, KINDS[name])
        sock.settimeout(DEADLINE)
        sock.connect(self.path(name))
        return sock

    def client(self):
        return Session(self)

    def log_size(self):
        return {program: len(program.errors()) for program in self.programs()}

    def check_line(self, program, before, says):
        """What a program has told since then is one line that a person can read."""
        lines = wait_until(
            lambda: f"{program.name} says «{says}»: {program.errors()[before[program]:]!r}",
            lambda: program.errors()[before[program]:].splitlines())
        check(len(lines) == 1, f"{program.name} says more than one line: {lines}")
        check(lines[0].isprintable() and says in lines[0],
              f"{program.name} says {lines[0]!r}, not {says!r}")


class Hostile:
    """Speaks the channel with one of the programs. `local` is that one's local peer."""

    def __init__(self, stage, name):
        self.stage, self.name = stage, name
        self.logged = stage.log_size()
        self.begin()
        self.tokens = 0
        self.sync()

    def program_itself(self):
        return getattr(self.stage, self.program)

    def sync(self):
        """Through to the local peer and back, past whatever is under way."""
        self.tokens += 1
        token = b"<%d>" % self.tokens
        self.end.send(stream_data(ROOT, token))
        self.read_token(token)
        self.local.send(token)
        self.end.wait_for(lambda: any(token in payload for kind, id, _, payload in self.end.frames
                                      if kind == Type.STREAM_DATA and id == ROOT))

    def read_token(self, token):
        data = b""
        deadline = time.monotonic() + DEADLINE
        while not data.endswith(token):
            readable, _, _ = select.select([self.local, self.end.socket], [], [], DEADLINE)
            if self.local in readable:
                part = self.local.recv(1 << 16)
                if not part:
                    self.end.wait_end()
                    raise EOFError(f"the session ends: {self.end.reason()}")
                data += part
            elif self.end.socket in readable and not self.end.read(deadline):
                raise EOFError(f"the session ends: {self.end.reason()}")
            elif not readable:
                raise TimeoutError("nothing comes through")

    def expect_end(self, says=None):
        """Both sides of the program are told, and whoever reads its log."""
        text = self.end.wait_end()
        check(text and text.isprintable(), f"the end has no readable reason: {text!r}")
        check(says is None or says in text, f"the reason is {text!r}, not {says!r}")
        read_to_end(self.local)
        self.stage.check_line(self.program_itself(), self.logged, says or text)

    def finish(self):
        self.end.half_close()
        self.end.wait_end()
        read_to_end(self.local)

    def close(self):
        self.end.close()
        self.local.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class HostileGuest(Hostile):
    """Talks to fdferry-host."""

    program = "host"
    bit, other = 0, HOST_ID

    def begin(self):
        self.end = channel.connect(self.stage.chan)
        self.end.send(hello(self.name.encode()) + open_socket(ROOT, KINDS[self.name], root=1))
        self.local = self.stage.compositor.accept(self.name)


class HostileHost(Hostile):
    """Talks to fdferry-guest."""

    program = "guest"
    bit, other = HOST_ID, 0

    def begin(self):
        self.stage.interposer.want()
        self.local = self.stage.connect(self.name)
        self.end = self.stage.interposer.take()
        self.end.wait_for(lambda: self.end.got(Type.OPEN))
        self.end.send(welcome())


SIDES = (HostileGuest, HostileHost)

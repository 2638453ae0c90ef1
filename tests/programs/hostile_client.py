"""Clients that break the protocol: each loses its own session, and nobody else notices.

A case ends the session (ENDS: an error that a client can read, then EOF), or is none of the
proxies' business (GOES_ON: a sync is answered), or may be either (EITHER).
"""

import contextlib
import os
import random
import select
import socket
import struct

from harness import Failure, case_list, check, Skip
from wayland import SERVER_ID, Ended, memfd, message

CASES, case = case_list("hostile client")

ENDS, GOES_ON, EITHER = range(3)
POOL_SIZE = 4096


class Prepared:
    """A client that has bound the usual globals."""

    def __init__(self, stage):
        self.client = client = stage.connected_client()
        self.shm = client.bind("wl_shm")
        self.compositor = client.bind("wl_compositor")
        self.seat = client.bind("wl_seat")
        client.sync()
        self.fds = []

    def fd(self, fd):
        """Is closed in the end."""
        self.fds.append(fd)
        return fd

    def pool(self, fd, size=POOL_SIZE):
        new = self.client.new_id()
        self.client.request(self.shm, 0, new, size, fds=[fd])
        return new

    def close(self):
        self.client.close()
        for fd in self.fds:
            os.close(fd)


def judge(client, expected):
    """Whether the session went the way that was expected."""
    error = None
    try:
        client.sync()
        ended = False
    except Ended as end:
        ended, error = True, str(end)
    except TimeoutError:
        raise Failure("the client is neither answered nor told that it is over")
    check(not (ended and expected == GOES_ON), f"the session ends: {error!r}")
    check(ended or expected != ENDS, "the session goes on")
    check(not ended or (error and error.isprintable()), f"the client is told {error!r}")


@contextlib.contextmanager
def playing(suite, kind):
    """A Prepared or one of its kind, after which nothing is left."""
    stage = suite.stage()
    with contextlib.closing(kind(stage)) as player:
        yield player
    stage.check()


def adder(case, kind):
    """add(name, expected, action) for a list of cases: action(player) has that outcome."""
    def add(name, expected, action):
        @case(name)
        def _(suite):
            with playing(suite, kind) as player:
                action(player)
                judge(player.client, expected)
    return add


add = adder(case, Prepared)


# ---- bytes: what is sent, by what is wrong with it ----

def raw(make):
    """make(prepared) gives the bytes to send."""
    return lambda prepared: prepared.client.send(make(prepared))


def title(length, data):
    """xdg_toplevel is not there, but wl_registry.bind has a string too; the length is our own."""
    return lambda p: message(p.client.registry_id, 0, 1, length, data, 1, p.client.next_id)


BYTES = [
    *[(f"a message of size {size}", ENDS,
       lambda p, size=size: message(1, 0, p.client.next_id, size=size))
      for size in (0, 1, 4, 7, 9, 11, 13, 0xffff)],
    ("a message of size 8 with an argument missing", ENDS, lambda p: message(1, 0)),
    ("a message that is too long for its arguments", ENDS,
     lambda p: message(1, 0, p.client.next_id, 0)),
    ("an unknown object", ENDS, lambda p: message(4711, 0)),
    ("an unknown object of the server's range", ENDS, lambda p: message(SERVER_ID + 9, 0)),
    ("object 0", ENDS, lambda p: message(0, 0)),
    ("object 2^32-1", ENDS, lambda p: message(0xffffffff, 0)),
    ("an unknown opcode", ENDS, lambda p: message(1, 2)),
    ("opcode 65535", ENDS, lambda p: message(1, 65535)),
    ("a new id that is in use", ENDS, lambda p: message(1, 0, p.seat)),
    ("a new id that is the display's", ENDS, lambda p: message(1, 0, 1)),
    ("a new id of 0", ENDS, lambda p: message(1, 0, 0)),
    ("a new id that skips one", ENDS, lambda p: message(1, 0, p.client.next_id + 1)),
    ("a new id far out", ENDS, lambda p: message(1, 0, 0xfeffffff)),
    ("a new id of the server's range", ENDS, lambda p: message(1, 0, SERVER_ID)),
    ("a string without its NUL", ENDS, title(4, b"abcd")),
    ("a string with a NUL in it", ENDS, title(8, b"wl\0seat\0")),
    ("a string of length 0 where one is needed", ENDS, title(0, b"")),
    ("a string of length 1", ENDS, title(1, b"\0\0\0\0")),
    *[(f"a string of length {length:#x}", ENDS, title(length, b"wl_shm\0\0"))
      for length in (9, 24, 0x7fffffff, 0x80000000, 0xfffffffc, 0xfffffffd, 0xffffffff)],
    ("a global that is hidden", ENDS,
     lambda p: message(p.client.registry_id, 0, 6, "zwlr_screencopy_manager_v1", 1,
                       p.client.next_id)),
    ("a global that nobody knows", ENDS,
     lambda p: message(p.client.registry_id, 0, 99, "wl_seat", 1, p.client.next_id)),
    ("a global as another interface", ENDS,
     lambda p: message(p.client.registry_id, 0, 1, "wl_seat", 1, p.client.next_id)),
    ("a global at a version that is too high", ENDS,
     lambda p: message(p.client.registry_id, 0, 3, "wl_seat", 6, p.client.next_id)),
    ("a global at version 0", ENDS,
     lambda p: message(p.client.registry_id, 0, 3, "wl_seat", 0, p.client.next_id)),
    ("a request to an object that is destroyed", ENDS,
     lambda p: destroyed_surface(p) + message(p.client.next_id - 1, 6)),
    ("an event's opcode as a request", ENDS, lambda p: message(p.seat, 9, 3)),
]


def destroyed_surface(prepared):
    surface = prepared.client.new_id()
    return message(prepared.compositor, 0, surface) + message(surface, 0)


for name, expected, make in BYTES:
    add(name, expected, raw(make))


@case("an array that is longer than its message")
def _(suite):
    """Few requests have one, so the protocol is our own."""
    path = suite.path("array.xml")
    with open(path, "w") as file:
        file.write('<protocol name="test"><interface name="test_thing_v1" version="1">'
                   '<request name="set"><arg name="data" type="array"/></request>'
                   '</interface></protocol>')
    stage = suite.stage("array", host=["--protocol", path], guest=["--protocol", path])
    for length, data, expected in ((4, b"abcd", GOES_ON), (0, b"", GOES_ON), (3, b"abc\0", GOES_ON),
                                   (5, b"abcd", ENDS), (9, b"abcdefgh", ENDS),
                                   (0x80000000, b"abcd", ENDS), (0xffffffff, b"abcd", ENDS),
                                   (0xfffffffd, b"", ENDS), (0, b"abcd", ENDS)):
        with stage.client() as client:
            thing = client.bind("test_thing_v1")
            client.request(thing, 0, struct.pack("=I", length) + data)
            try:
                judge(client, expected)
            except Failure as failure:
                raise Failure(f"length {length:#x} of {len(data)} bytes: {failure}")
    stage.check()


@case("an end in the middle of a message, at every byte")
def _(suite):
    stage = suite.stage()
    whole = message(1, 0, 3)
    for n in range(1, len(whole)):
        with stage.connected_client() as client:
            client.get_registry()
            client.send(whole[:n])
            client.socket.shutdown(socket.SHUT_WR)
            client.wait_end()
    stage.check()


@case("a header that promises more than ever comes")
def _(suite):
    stage = suite.stage()
    with stage.connected_client() as client, stage.client() as another:
        client.send(message(1, 0, 2, size=64) + bytes(12))
        for _ in range(20):  # while the other one waits
            another.sync()
        client.socket.shutdown(socket.SHUT_WR)
        client.wait_end()
    stage.check()


@case("random bytes")
def _(suite):
    stage = suite.stage()
    for seed in range(30):
        chance = random.Random(seed)
        with stage.connected_client() as client:
            if seed % 3:
                client.get_registry()
                client.sync()
            data = b"".join(
                message(chance.choice((1, 2, 3)), chance.randrange(3),
                        chance.randbytes(4 * chance.randrange(5)))
                for _ in range(50)) if seed % 2 else chance.randbytes(chance.randrange(1, 9000))
            client.send(data)
            try:
                client.socket.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            client.wait_end()
    stage.check()


# ---- fds ----

def fd_missing(p):
    p.client.request(p.shm, 0, p.client.new_id(), POOL_SIZE)


def surplus(n, opcode=0):
    def action(p):
        fd = p.fd(memfd(16))
        p.client.send(message(1, 0, p.client.new_id()), [fd] * n)
    return action


def fds_without_a_message(p):
    fd = p.fd(memfd(16))
    p.client.send(message(1, 0, p.client.next_id)[:4], [fd] * 250)
    p.client.send(message(1, 0, p.client.new_id())[4:])


add("an fd that is missing", ENDS, fd_missing)
add("one fd too many", EITHER, surplus(1))
add("300 fds too many", EITHER, surplus(300))
add("2000 fds too many", ENDS, surplus(2000))
add("250 fds in the middle of a message that takes none", EITHER, fds_without_a_message)


@case("fds without end do not pile up")
def _(suite):
    with playing(suite, Prepared) as prepared:
        fd = prepared.fd(memfd(16))
        for _ in range(40):
            prepared.client.send(message(1, 0, prepared.client.new_id()), [fd] * 250)
        judge(prepared.client, ENDS)


def open_tty(p):
    try:
        primary, secondary = os.openpty()
    except OSError as error:
        raise Skip(f"no pseudo-terminal: {error}")
    p.fd(primary)
    return p.fd(secondary)


def write_only(p):
    path = f"/proc/self/fd/{p.fd(memfd(POOL_SIZE))}"
    return p.fd(os.open(path, os.O_WRONLY))


def read_only(p):
    path = f"/proc/self/fd/{p.fd(memfd(POOL_SIZE))}"
    return p.fd(os.open(path, os.O_RDONLY))


def pipe_end(end):
    return lambda p: [p.fd(fd) for fd in os.pipe()][end]


def listening_socket(p):
    sock = socket.socket(socket.AF_UNIX)
    sock.bind("")
    sock.listen()
    return p.fd(sock.detach())


def directory_fd(p):
    return p.fd(os.open("/", os.O_RDONLY))


def epoll_fd(p):
    with select.epoll() as epoll:
        return p.fd(os.dup(epoll.fileno()))


def own_socket(p):
    return p.fd(os.dup(p.client.socket.fileno()))


ODD_POOLS = [
    ("the read end of a pipe", ENDS, pipe_end(0)),
    ("the write end of a pipe", ENDS, pipe_end(1)),
    ("a UNIX socket", ENDS, lambda p: [p.fd(s.detach()) for s in socket.socketpair()][0]),
    ("a listening socket", ENDS, listening_socket),
    ("the client's own connection", ENDS, own_socket),
    ("a TCP socket", ENDS, lambda p: p.fd(socket.socket(socket.AF_INET).detach())),
    ("an epoll fd", ENDS, epoll_fd),
    ("an eventfd", ENDS, lambda p: p.fd(os.eventfd(0))),
    ("a pidfd", ENDS, lambda p: p.fd(os.pidfd_open(os.getpid()))),
    ("a directory", ENDS, directory_fd),
    ("an O_PATH fd", ENDS, lambda p: p.fd(os.open("/proc/self/exe", os.O_PATH))),
    ("/dev/null", ENDS, lambda p: p.fd(os.open("/dev/null", os.O_RDWR))),
    ("/dev/zero", ENDS, lambda p: p.fd(os.open("/dev/zero", os.O_RDWR))),
    ("a terminal", ENDS, open_tty),
    ("a file that is write-only", ENDS, write_only),
    ("a file that is read-only", GOES_ON, read_only),
    ("a file of size 0", EITHER, lambda p: p.fd(memfd(0))),
    ("a file of /proc", EITHER, lambda p: p.fd(os.open("/proc/self/maps", os.O_RDONLY))),
]

for name, expected, make in ODD_POOLS:
    add(f"a pool that is {name}", expected, lambda p, make=make: p.pool(make(p)))


def sparse(p):
    fd = p.fd(memfd(1 << 40))
    size = 0x7fffffff - 64 * 256  # and what the surface shows
    pool = p.pool(fd, size)
    commit(p, pool, size - 64 * 256, 64, 64, 256)


def commit(p, pool, offset, width, height, stride):
    """A buffer on a new surface. The ids come in order."""
    client = p.client
    surface, buffer = client.new_id(), client.new_id()
    client.request(p.compositor, 0, surface)
    client.request(pool, 0, buffer, offset, width, height, stride, 1)
    client.request(surface, 1, buffer, 0, 0)
    client.request(surface, 2, 0, 0, 0x7fffffff, 0x7fffffff)
    client.request(surface, 6)
    return surface, buffer


def truncated(size):
    def action(p):
        fd = p.fd(memfd(64 * 1024))
        pool = p.pool(fd, 64 * 1024)
        p.client.sync()
        os.ftruncate(fd, size)
        surface, buffer = commit(p, pool, 0, 64, 64, 256)
        p.client.sync()
        os.ftruncate(fd, 64 * 1024)
        p.client.request(surface, 1, buffer, 0, 0)
        p.client.request(surface, 2, 0, 0, 64, 64)
        p.client.request(surface, 6)
    return action


def buffer_of(*layout):
    def action(p):
        commit(p, p.pool(p.fd(memfd(POOL_SIZE))), *layout)
    return action


def resize_to(size):
    def action(p):
        pool = p.pool(p.fd(memfd(POOL_SIZE)))
        p.client.request(pool, 2, size)
        commit(p, pool, 0, 8, 8, 32)
    return action


def many_pools(p):
    fd = p.fd(memfd(POOL_SIZE))
    for _ in range(4200):
        p.pool(fd)


add("a sparse pool of 1 TiB of which 2 GiB are told", GOES_ON, sparse)
add("a pool that is truncated to nothing before the commit", GOES_ON, truncated(0))
add("a pool that is truncated to half a page before the commit", GOES_ON, truncated(2048))
add("a pool of size 0", GOES_ON, lambda p: p.pool(p.fd(memfd(POOL_SIZE)), 0))
add("a pool of negative size", GOES_ON, lambda p: p.pool(p.fd(memfd(POOL_SIZE)), -1))
add("a pool that is told larger than its file", GOES_ON,
    lambda p: commit(p, p.pool(p.fd(memfd(POOL_SIZE)), 1 << 20), 0, 256, 256, 1024))
add("a pool that shrinks", GOES_ON, resize_to(1))
add("a pool that grows to a negative size", GOES_ON, resize_to(-1))
add("a pool that grows beyond its file", GOES_ON, resize_to(0x7fffffff))
add("a buffer past the end of its pool", GOES_ON, buffer_of(0, 1000, 1000, 4000))
add("a buffer whose end overflows", GOES_ON,
    buffer_of(0x7fffffff, 0x7fffffff, 0x7fffffff, 0x7fffffff))
add("a buffer with a stride of 0", GOES_ON, buffer_of(0, 8, 8, 0))
add("a buffer of negative size", GOES_ON, buffer_of(-1, -1, -1, -1))
add("a buffer whose rows overlap", GOES_ON, buffer_of(0, 100, 100, 1))
add("more pools than a session may have fds", ENDS, many_pools)


@case("a client that never reads, while it asks without end")
def _(suite):
    stage = suite.stage()
    with stage.connected_client() as client, stage.client() as another:
        client.socket.setblocking(False)
        sent = 0
        try:
            while sent < 64 << 20:  # more than everybody's buffers take
                sent += client.socket.send(b"".join(
                    message(1, 0, client.new_id()) for _ in range(1000)))
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            pass
        check(sent < 64 << 20, "64 MiB of requests were taken")
        for _ in range(10):
            another.sync()
    stage.check()

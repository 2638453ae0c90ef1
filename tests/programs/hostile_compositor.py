"""Compositors that break the protocol: the session ends with an error that its client can read.

The expectations are those of hostile_client.
"""

import os
import random
import socket
import struct

from harness import Failure, case_list, check
from hostile_client import (EITHER, ENDS, GOES_ON, Prepared, adder, directory_fd, epoll_fd, judge,
                            pipe_end, playing)
from wayland import SERVER_ID, Ended, memfd, message, words

CASES, case = case_list("hostile compositor")

KEYMAP = b"xkb_keymap { not one that anybody reads };\0"


class Scene(Prepared):
    """A client with a keyboard and a data device, and the compositor's end of its session."""

    def __init__(self, stage):
        super().__init__(stage)
        client = self.client
        manager = client.bind("wl_data_device_manager")
        self.keyboard, self.device = client.new_id(), client.new_id()
        client.request(self.seat, 1, self.keyboard)
        client.request(manager, 1, self.device, self.seat)
        client.sync()
        self.connection = client.connection

    def keymap(self, fds, size=len(KEYMAP)):
        self.connection.event(self.keyboard, 0, 1, size, fds=fds)


add = adder(case, Scene)


def enter(length, data):
    """wl_keyboard.enter has an array."""
    return lambda s: message(s.keyboard, 1, 1, 0xfe, struct.pack("=I", length) + data)


def name_event(length, data):
    """wl_seat.name is a string."""
    return lambda s: message(s.seat, 1, struct.pack("=I", length) + data)


BYTES = [
    *[(f"an event of size {size}", ENDS, lambda s, size=size: message(1, 1, 0x7777, size=size))
      for size in (0, 1, 4, 7, 9, 13)],
    ("an event with its argument missing", ENDS, lambda s: message(1, 1)),
    ("an event that is too long for its arguments", ENDS, lambda s: message(1, 1, 1, 2)),
    ("an event of an unknown object", ENDS, lambda s: message(4711, 0)),
    ("an event of object 0", ENDS, lambda s: message(0, 0)),
    ("an event of an unknown object of the server's range", ENDS,
     lambda s: message(SERVER_ID + 9, 0)),
    ("an unknown event", ENDS, lambda s: message(1, 2)),
    ("event 65535", ENDS, lambda s: message(1, 65535)),
    ("a new id that skips one", ENDS, lambda s: message(s.device, 0, SERVER_ID + 2)),
    ("a new id of the client's range", ENDS, lambda s: message(s.device, 0, s.client.next_id)),
    ("a new id that is the client's own", ENDS, lambda s: message(s.device, 0, s.keyboard)),
    ("a new id of 0", ENDS, lambda s: message(s.device, 0, 0)),
    ("a new id 2^32-1", ENDS, lambda s: message(s.device, 0, 0xffffffff)),
    ("a server's id that is used again", GOES_ON, lambda s: 2 * message(s.device, 0, SERVER_ID)),
    ("a string without its NUL", ENDS, name_event(4, b"abcd")),
    ("a string with a NUL in it", ENDS, name_event(8, b"ab\0cdef\0")),
    ("a null string", ENDS, name_event(0, b"")),
    *[(f"a string of length {length:#x}", ENDS, name_event(length, b"abc\0"))
      for length in (5, 0x7fffffff, 0x80000000, 0xfffffffd, 0xffffffff)],
    *[(f"an array of length {length:#x}", ENDS, enter(length, b"abcd"))
      for length in (0, 5, 0x80000000, 0xfffffffd, 0xffffffff)],
    ("an array whose length is no whole word", GOES_ON, enter(3, b"abc\0")),
    ("a global without a name", ENDS,
     lambda s: message(s.client.registry_id, 0, 50, struct.pack("=I", 0), 1)),
    ("a global of version 0", EITHER, lambda s: message(s.client.registry_id, 0, 50, "wl_seat", 0)),
    ("a global with a name of 4000 letters", GOES_ON,
     lambda s: message(s.client.registry_id, 0, 50, 4000 * "x", 1)),
    ("10,000 globals", GOES_ON, lambda s: b"".join(
        message(s.client.registry_id, 0, 100 + n, "wl_output", 4) for n in range(10000))),
    ("the end of a global that was never there", GOES_ON,
     lambda s: message(s.client.registry_id, 1, 4711)),
    ("delete_id of an id that is unknown", GOES_ON, lambda s: message(1, 1, 4711)),
    ("delete_id of the display", GOES_ON, lambda s: message(1, 1, 1)),
    ("delete_id of 0", GOES_ON, lambda s: message(1, 1, 0)),
    ("delete_id of an id of the server's range", GOES_ON, lambda s: message(1, 1, SERVER_ID)),
    ("a request's opcode as an event", ENDS, lambda s: message(s.shm, 1)),
]

for name, expected, make in BYTES:
    add(name, expected, lambda s, make=make: s.connection.send(make(s)))


@case("an error is passed on as it is")
def _(suite):
    with playing(suite, Scene) as scene:
        scene.connection.send(message(1, 0, scene.seat, 7, "it is the seat"))
        scene.connection.close()
        text = scene.client.wait_end()
        code = words(scene.client.got(1, 0)[0])[:2]
        check(text == "it is the seat" and code == (scene.seat, 7), f"{text!r} {code}")


@case("an end in the middle of an event, at every byte")
def _(suite):
    stage = suite.stage()
    whole = message(1, 1, 0x7777)
    for n in range(len(whole)):
        scene = Scene(stage)
        scene.connection.send(whole[:n])
        scene.connection.close()
        text = scene.client.wait_end()
        scene.close()
        check(text and "the compositor closed" in text, f"after {n} bytes: {text!r}")
    stage.check()


@case("random events")
def _(suite):
    stage = suite.stage()
    for seed in range(15):
        chance = random.Random(seed)
        scene = Scene(stage)
        scene.connection.send(chance.randbytes(3000) if seed % 2 else b"".join(
            message(chance.choice((1, scene.keyboard, scene.device, scene.seat)),
                    chance.randrange(4), chance.randbytes(4 * chance.randrange(5)))
            for _ in range(50)))
        scene.connection.close()
        scene.client.wait_end()
        scene.close()
    stage.check()


# ---- fds ----

def good_keymap(s):
    fd = s.fd(memfd(len(KEYMAP), KEYMAP))
    s.keymap([fd])


@case("a keymap arrives")
def _(suite):
    with playing(suite, Scene) as scene:
        good_keymap(scene)
        check_keymap(scene)


def check_keymap(scene, n=1):
    client = scene.client
    client.sync()
    check(len(client.got(scene.keyboard, 0)) == len(client.fds) == n, f"{len(client.fds)} fds")
    check(os.pread(client.fds[-1], 4096, 0) == KEYMAP, "the keymap is another")


def huge(s):
    s.keymap([s.fd(memfd(1 << 40))], 0xffffffff)


def surplus(n):
    return lambda s: s.connection.send(message(1, 1, 4711), [s.fd(memfd(16))] * n)


def fds_and_keymaps(s):
    """Four fds for one event: the next events take them, as libwayland does."""
    s.keymap([s.fd(memfd(len(KEYMAP), KEYMAP))] * 4)


ODD_KEYMAPS = [
    ("a pipe", pipe_end(0)),
    ("a directory", directory_fd),
    ("an epoll fd", epoll_fd),
    ("a UNIX socket", lambda s: [s.fd(x.detach()) for x in socket.socketpair()][0]),
    ("/dev/zero", lambda s: s.fd(os.open("/dev/zero", os.O_RDONLY))),
    ("an O_PATH fd", lambda s: s.fd(os.open("/proc/self/exe", os.O_PATH))),
    ("a file that is write-only",
     lambda s: s.fd(os.open(f"/proc/self/fd/{s.fd(memfd(16))}", os.O_WRONLY))),
]

for name, make in ODD_KEYMAPS:
    add(f"a keymap that is {name}", ENDS, lambda s, make=make: s.keymap([make(s)]))

add("a keymap of 1 TiB", ENDS, huge)
add("a keymap of size 0", EITHER, lambda s: s.keymap([s.fd(memfd(0))], 0))
add("a keymap whose fd is missing", ENDS, lambda s: s.keymap([]))
add("three fds too many with a keymap", EITHER, fds_and_keymaps)
add("one fd too many", EITHER, surplus(1))
add("300 fds too many", EITHER, surplus(300))
add("2000 fds too many", ENDS, surplus(2000))


# ---- objects that are gone ----

@case("an event of an object that is destroyed passes until delete_id")
def _(suite):
    with playing(suite, Scene) as scene:
        client = scene.client
        surface = client.new_id()
        client.request(scene.compositor, 0, surface)
        client.request(surface, 0)
        client.sync()
        scene.connection.event(surface, 0, 4711)  # enter
        client.sync()
        check(len(client.got(surface, 0)) == 1, "the event did not pass")
        scene.connection.event(1, 1, surface)
        client.sync()
        scene.connection.event(surface, 0, 4711)
        judge(client, ENDS)


@case("a keymap for a keyboard that is released arrives with its fd, and so does the next one")
def _(suite):
    with playing(suite, Scene) as scene:
        client = scene.client
        second = client.new_id()
        client.request(scene.seat, 1, second)
        client.request(second, 0)  # release
        client.sync()
        scene.connection.event(second, 0, 1, 3, fds=[scene.fd(memfd(3, b"old"))])
        good_keymap(scene)
        client.sync()
        check(len(client.fds) == 2, f"{len(client.fds)} fds arrive")
        check(os.pread(client.fds[0], 9, 0) == b"old", "the fds are mixed up")
        check(os.pread(client.fds[1], 999, 0) == KEYMAP, "the fds are mixed up")


@case("keymaps of many MiB all arrive, whole and in order")
def _(suite):
    with playing(suite, Scene) as scene:
        client = scene.client
        for n in range(40):
            content = bytes([n]) * (1 << 20)
            scene.keymap([scene.fd(memfd(len(content), content))], len(content))
            if n % 10 == 9:
                client.sync()
                check(len(client.fds) == 10, f"{len(client.fds)} of 10 arrive")
                for place, fd in enumerate(client.fds, n - 9):
                    check(os.pread(fd, 2 << 20, 0) == bytes([place]) * (1 << 20), "not the same")
                    os.close(fd)
                client.fds.clear()


@case("a file that grows or shrinks while it is sent ends nothing else")
def _(suite):
    with playing(suite, Scene) as scene:
        fd = scene.fd(memfd(4 << 20))
        for n in range(20):
            scene.keymap([fd], 4 << 20)
            os.ftruncate(fd, (n % 3) << 20)
        try:
            scene.client.sync()
        except Ended:
            pass


@case("a compositor that never reads, and one that never stops")
def _(suite):
    stage = suite.stage()
    scene = Scene(stage)
    try:
        scene.connection.paused = True
        scene.client.socket.setblocking(False)
        sent = 0
        try:
            while sent < 64 << 20:
                sent += scene.client.socket.send(b"".join(
                    message(1, 0, scene.client.new_id()) for _ in range(1000)))
        except OSError:
            pass
        check(sent < 64 << 20, "64 MiB of requests were taken")
        scene.connection.socket.settimeout(0.2)
        flood = 5000 * message(scene.keyboard, 4, 1, 0, 0, 0, 0)
        for _ in range(400):  # 40 MiB, which the client does not read
            try:
                scene.connection.socket.sendall(flood)
            except OSError:
                break
        else:
            raise Failure("40 MiB of events were taken")
        for _ in range(10):
            stage.witness.sync()
    finally:
        scene.close()
        scene.connection.close()
        scene.connection.release()
    stage.check()

"""Both programs at the hands of somebody who speaks the channel's frames, well or badly."""

import os
import random
import time

import channel
from channel import (MAX_PAYLOAD, POOL, READ, SKIPPABLE, Type, frame, hello, open_memory,
                     open_pipe, ping, welcome)
from frames import (BEGINNINGS, ENDS, GOES_ON, OPENED_BY_RECEIVER, TABLES, valid_frames)
from harness import DEADLINE, Failure, case_list, check, children_of, resident_mib
from kills import N_STEPS, PASTED, Recorded
from peers import COMPOSITOR, KEYBOARD, SEAT, SHM, SIDES, HostileGuest, HostileHost
from wayland import Ended, memfd, message

CASES, case = case_list("hostile channel")


def stage_of(suite):
    return suite.stage("interposed", channel=channel.Interposer)


def add(name, function, sides=SIDES):
    """function(peer) is run against each program, and the session is over after it."""
    for side in sides:
        @case(f"{side.program}: {name}")
        def _(suite, side=side):
            stage = stage_of(suite)
            peer = side(stage)
            try:
                function(peer)
            finally:
                peer.close()
            stage.check()


def judge(peer, expected, what):
    """Whether the session goes on, or both peers are told why it does not."""
    try:
        peer.sync()
        ended = False
    except (EOFError, Ended):
        ended = True
    except TimeoutError:
        raise Failure(f"{what}: neither an answer nor an end")
    check(not (ended and expected == GOES_ON), f"{what}: the session ends: {peer.end.reason()!r}")
    check(ended or expected != ENDS, f"{what}: the session goes on")
    if ended and not what.startswith(("END", "REFUSE")):
        peer.expect_end()
    elif ended:
        peer.finish()


for prefix, table in TABLES:
    for name, expected, make in table():
        name = f"{prefix} {name}".strip()

        def run(peer, make=make, expected=expected, name=name):
            peer.end.send(make(peer))
            judge(peer, expected, name)
        add(name, run)


# ---- what the receiver has opened itself ----

def opened_by_receiver(peer):
    """The guest opens a pool of its client's, the host a keymap of its compositor's."""
    fd = memfd(4096)
    if peer.bit == 0:
        peer.connection().event(KEYBOARD, 0, 1, 4096, fds=[fd])
    else:
        peer.client.request(SHM, 0, peer.client.new_id(), 4096, fds=[fd])
    peer.end.wait_for(lambda: peer.end.got(Type.OPEN))
    os.close(fd)
    return peer.end.got(Type.OPEN)[-1][1]


for name, expected, make in OPENED_BY_RECEIVER:
    def run(peer, name=name, expected=expected, make=make):
        peer.end.send(make(opened_by_receiver(peer)))
        judge(peer, expected, name)
    add(f"{name} for what the other side has opened", run)


# ---- beginnings ----

@case("host: a beginning that is wrong is refused with a reason")
def _(suite):
    stage = stage_of(suite)
    for name, data, says in BEGINNINGS:
        with channel.connect(stage.chan) as end:
            end.send(data)
            text = end.wait_end()
            kinds = [kind for kind, *_ in end.frames]
            check(kinds == [Type.REFUSE], f"{name}: {kinds} come instead of REFUSE")
            check(text and text.isprintable() and (says is None or says in text),
                  f"{name}: the reason is {text!r}")
    stage.check()


@case("host: REFUSE says by its code what is wrong")
def _(suite):
    stage = stage_of(suite)
    # VERSION may be told as PROTOCOL too (channel.md)
    for data, codes in ((hello(versions=(2, 9)), (1, 4)), (hello(b"teapot"), (2,)),
                        (hello(magic=1), (4,))):
        with channel.connect(stage.chan) as end:
            end.send(data)
            end.wait_end()
            check(end.got(Type.REFUSE)[0][2] in codes, f"{end.frames}: not one of {codes}")
    stage.check()


@case("host: WELCOME from a guest ends the session")
def _(suite):
    stage = stage_of(suite)
    peer = HostileGuest(stage)
    peer.end.send(welcome())
    peer.expect_end()
    peer.close()
    stage.check()


def host_answers(name, data, says):
    @case(f"guest: {name} is told to the client")
    def _(suite):
        stage = stage_of(suite)
        peer = HostileHost(stage, prepared=False)
        peer.end.send(data)
        peer.end.half_close()
        peer.expect_end(says)
        peer.close()
        stage.check()


host_answers("REFUSE", frame(Type.REFUSE, b"come back tomorrow", arg=3), "come back tomorrow")
host_answers("REFUSE without a text", frame(Type.REFUSE, arg=3), "refused")
host_answers("REFUSE with a NUL", frame(Type.REFUSE, b"a\0b", arg=3), None)
host_answers("REFUSE of 2000 bytes", frame(Type.REFUSE, 2000 * b"x", arg=3), None)
host_answers("END", frame(Type.END, b"enough", arg=1), "enough")
host_answers("WELCOME of another version", welcome(version=2), "version")
host_answers("WELCOME with another magic", welcome(magic=1), None)
host_answers("WELCOME that is too short", frame(Type.WELCOME, bytes(51)), None)
host_answers("WELCOME that is too long", frame(Type.WELCOME, bytes(53)), None)
host_answers("an end without a word", b"", "lost")
host_answers("HTTP", b"HTTP/1.1 400 Bad Request\r\n\r\n", None)
host_answers("random bytes", random.Random(3).randbytes(2000), None)


# ---- lengths and truncations ----

def truncate(suite, side, n):
    """Every truncation of the n-th frame. Past the header a few tell as much as all."""
    stage = stage_of(suite)
    length = None
    at = 0
    while length is None or at < length:
        peer = side(stage)
        before, whole = valid_frames(peer)[n]
        length = len(whole)
        peer.end.send(before + whole[:at])
        peer.finish()
        peer.close()
        at += 1 if at < 20 or at > length - 5 else 5
    return length


for side in SIDES:
    @case(f"{side.program}: an end within any frame, at every byte of its header, many behind it")
    def _(suite, side=side):
        for n in range(17):
            truncate(suite, side, n)
        stage_of(suite).check()


@case("host: an end within HELLO, at every byte")
def _(suite):
    stage = stage_of(suite)
    for n in range(len(hello())):
        with channel.connect(stage.chan) as end:
            end.send(hello()[:n])
            end.half_close()
            end.wait_end()
    stage.check()


LENGTHS = (0, 1, MAX_PAYLOAD, MAX_PAYLOAD + 1, 1 << 31, (1 << 32) - 1)

for side in SIDES:
    @case(f"{side.program}: every type with every kind of length")
    def _(suite, side=side):
        stage = stage_of(suite)
        for kind in [*Type, 99]:
            for length in LENGTHS:
                peer = side(stage)
                peer.end.send(frame(kind, bytes(min(length, MAX_PAYLOAD + 1)), id=peer.bit | 1
                                    if kind >= Type.OPEN else 0, length=length))
                if length > MAX_PAYLOAD and kind != Type.MEM_WRITE:
                    peer.expect_end()
                else:
                    peer.finish()
                peer.close()
        stage.check()


# ---- flow ----

def beyond_credit(peer):
    """More messages than the window, to somebody who does not take them."""
    connection = peer.connection() if peer.bit == 0 else None
    if connection:
        connection.paused = True
        surface = peer.next_id
        peer.end.send(channel.messages(message(COMPOSITOR, 0, surface)))
        data = channel.messages(5000 * message(surface, 4, 0))  # set_opaque_region
    else:
        data = channel.messages(5000 * message(SEAT, 0, 3))
    peer.end.socket.settimeout(DEADLINE)
    try:
        for _ in range(200):
            peer.end.send(data)
    except TimeoutError:
        raise Failure("the program stops reading instead of ending the session")
    peer.finish()
    check("credit" in peer.end.reason(), f"the reason is {peer.end.reason()!r}")
    if connection:
        connection.release()  # what it has not read stays charged, and so its socket open


add("messages beyond their credit end the session", beyond_credit)


def empty_frames(peer):
    peer.end.send(100000 * frame(99, flags=SKIPPABLE))
    peer.end.send(100000 * channel.messages(b""))
    peer.sync()


add("200,000 empty frames are taken", empty_frames)


def held_frame(peer):
    peer.end.send(peer.valid_messages()[:7])
    for _ in range(50):
        peer.stage.witness.sync()
    peer.finish()


add("half a frame does not hold another session up", held_frame)

MEMORY_MIB = 64  # a session may grow by so much


def servants(peer):
    """The process that serves the session is one of these."""
    return children_of(getattr(peer.stage, peer.program).pid)


def deaf(make, name, amount=64 << 20):
    """Somebody who asks for answers and never takes one."""
    def run(peer):
        pids = servants(peer)
        before = {pid: resident_mib(pid) for pid in pids}
        data = make(peer)
        data *= max(1, (1 << 18) // len(data))
        peer.end.socket.setblocking(False)
        sent, stuck, grown = 0, 0, 0
        while sent < amount and stuck < 20:
            try:
                sent += peer.end.socket.send(data[sent % len(data):])
                stuck = 0
            except BlockingIOError:
                stuck += 1
                time.sleep(0.01)
            except (BrokenPipeError, ConnectionResetError):
                break
            grown = max([grown, *(resident_mib(pid) - before[pid] for pid in pids)])
        peer.stage.witness.sync()
        check(grown < MEMORY_MIB, f"the session has grown by {grown:.0f} MiB for {sent >> 20} MiB")
    add(f"{name} do not pile up when their answers are not read", run)


deaf(lambda p: ping(), "PINGs")
deaf(lambda p: open_memory(p.bit | 1, POOL, 0) + frame(Type.CLOSE, id=p.bit | 1), "pools", 16 << 20)
deaf(lambda p: open_pipe(p.bit | 1, READ) + frame(Type.CLOSE, id=p.bit | 1), "pipes", 4 << 20)


for side in SIDES:
    @case(f"{side.program}: random frames")
    def _(suite, side=side):
        stage = stage_of(suite)
        for seed in range(40):
            chance = random.Random(seed)
            peer = side(stage)
            frames = [whole for pair in valid_frames(peer)[:-1] for whole in pair if whole]
            for _ in range(30):
                data = bytearray(chance.choice(frames))
                for _ in range(chance.randrange(3)):
                    data[chance.randrange(len(data))] = chance.randrange(256)
                peer.end.send(bytes(data))
            peer.finish()
            peer.close()
        stage.check()


@case("a valid session works one byte at a time")
def _(suite):
    stage = stage_of(suite)
    stage.interposer.piece = 1
    session = Recorded(stage.connected_client())
    try:
        session.run(N_STEPS)
        check(session.pasted() == PASTED, "the paste is wrong")
        pool = session.client.connection.pools[0]
        check(os.pread(pool, 6, 0) == b"pixels", "the pool is wrong")
    finally:
        stage.interposer.piece = 1 << 18
        session.close()
    stage.check()

"""Both programs at the hands of somebody who speaks the frames of services, well or badly."""

import random
import socket

import channel
from channel import (FILE, Type, frame, hello, mem_write, open_device, open_event, open_memory,
                     open_socket, stream_data)
from frames import ENDS, GOES_ON
from harness import DEADLINE, SLOW, Failure, case_list, check
from opaque import (ROOT, SIDES, ServiceStage, close_all, read_exactly, read_to_end, receive)
from service_frames import SHARED_TABLES, TABLES, one, valid_frames

CASES, case = case_list("hostile services")


def stage_of(suite):
    return suite.stage("interposed services", channel=channel.Interposer, kind=ServiceStage)


def sharing_stage_of(suite):
    return suite.stage("interposed sharing", channel=channel.Interposer, kind=ServiceStage,
                       host=["--shm-mode", "diff"], guest=["--shm-mode", "diff"])


def add(name, function, sides=SIDES, stage_of=stage_of):
    """function(stage, side) is run against each program, and all is over after it."""
    for side in sides:
        @case(f"{side.program}: {name}")
        def _(suite, side=side):
            stage = stage_of(suite)
            function(stage, side)
            stage.check(SLOW)


def judge(peer, expected, what):
    try:
        peer.sync()
        ended = False
    except (EOFError, OSError) as end:
        check(not isinstance(end, TimeoutError), f"{what}: neither an answer nor an end")
        ended = True
    check(not (ended and expected == GOES_ON), f"{what}: ends: {peer.end.reason()!r}")
    check(ended or expected != ENDS, f"{what}: goes on")
    if ended:
        try:
            peer.expect_end()
        except Failure as failure:
            raise Failure(f"{what}: {failure}")
    else:
        peer.finish()


def run_table(prefix, table):
    def run(stage, side):
        for name, expected, make in table():
            with side(stage, "stream") as peer:
                peer.end.send(make(peer))
                judge(peer, expected, f"{prefix} {name}".strip())
            stage.witness.sync()
    return run


for tables, place in ((TABLES, stage_of), (SHARED_TABLES, sharing_stage_of)):
    for prefix, table in tables:
        what = table.__name__.replace("_rows", "")
        add(f"each frame of «{what}» ends its session or is taken", run_table(prefix, table),
            stage_of=place)


# ---- what is cut off, mixed up or left out ----

def truncate(stage, side):
    """Every truncation of every frame. Past the header a few tell as much as all."""
    with side(stage, "stream") as peer:
        frames = valid_frames(peer)
    for before, whole in frames:
        for at in [*range(17), *range(17, len(whole), 5)]:
            with side(stage, "stream") as peer:
                peer.end.send(before + whole[:at])
                peer.finish()


add("an end within any frame of a service", truncate)


def mix_up(stage, side):
    """Frames with bits turned over, twice, left out, in another order."""
    for seed in range(40):
        chance = random.Random(seed)
        with side(stage, "stream") as peer:
            frames = [whole for pair in valid_frames(peer) for whole in pair if whole]
            chance.shuffle(frames)
            for whole in chance.choices(frames, k=30):
                data = bytearray(whole)
                for _ in range(chance.randrange(3)):
                    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
                peer.end.send(bytes(data))
            peer.finish()


add("frames of a service with wrong bits and in any order", mix_up)


def swap(stage, side):
    """Two neighbours of a session that is right, at each place."""
    for at in range(6):
        with side(stage, "stream") as peer:
            first, second, third = one(peer), one(peer) + 1, one(peer) + 2
            frames = [open_socket(first), open_event(second), open_device(third),
                      stream_data(ROOT, b"a", [first]), stream_data(first, b"b", [second, third]),
                      frame(Type.STREAM_EOF, id=first), frame(Type.CLOSE, id=first)]
            frames[at], frames[at + 1] = frames[at + 1], frames[at]
            peer.end.send(b"".join(frames))
            judge(peer, ENDS if at > 3 else GOES_ON,
                  f"with frames {at} and {at + 1} swapped")


add("two frames of a service that are swapped", swap)


def a_file_that_never_comes(stage, side):
    for size in (1 << 20, 1 << 30):
        with side(stage, "stream") as peer:
            peer.end.send(open_memory(one(peer), FILE, size, exact=1) +
                          mem_write(one(peer), 0, b"1"))
            peer.sync()
            peer.finish()


add("a file of 1 GiB of which one byte comes holds nothing up", a_file_that_never_comes)


def one_byte_frames(stage, side):
    with side(stage, "stream") as peer:
        data = (open_socket(one(peer)) + open_event(one(peer) + 1) +
                stream_data(ROOT, b"x", [one(peer), one(peer) + 1]))
        for at in range(len(data)):
            peer.end.send(data[at:at + 1])
        bytes_, fds = receive(peer.local)
        check(bytes_ == b"x" and len(fds) == 2, f"{bytes_!r} comes with {len(fds)} fds")
        close_all(fds)
        peer.sync()
        peer.finish()


add("frames of a service that come one byte at a time", one_byte_frames)


# ---- fdrefs of somebody else ----

def a_guess(stage, side):
    """What another session has opened is nothing in this one."""
    with side(stage, "stream") as owner, side(stage, "stream") as thief:
        owner.end.send(b"".join(open_event(owner.bit | n) for n in range(2, 40)))
        owner.sync()
        for id in (thief.bit | 2, thief.bit | 39):
            with side(stage, "stream") as guesser:
                guesser.end.send(stream_data(ROOT, b"x", [id]))
                guesser.expect_end("not open")
        thief.end.send(open_device(thief.bit | 2))  # one's own id 2 is another thing
        thief.sync()
        owner.end.send(stream_data(ROOT, b"x", [owner.bit | 2]))
        _, fds = receive(owner.local)
        check(len(fds) == 1, "the owner's fd does not come")
        close_all(fds)
        owner.sync()
        owner.finish()
        thief.finish()


add("an fdref of another session", a_guess)


# ---- numbers ----

DEEP = 1000


def nesting(peer, first, depth):
    """Sockets each of which carries the next one."""
    ids = [first + n for n in range(depth)]
    return b"".join(open_socket(id) for id in ids) + stream_data(ROOT, b"x", ids[:1]) + b"".join(
        stream_data(outer, b"x", [inner]) for outer, inner in zip(ids, ids[1:]))


def nest(stage, side):
    with side(stage, "stream") as peer:
        peer.end.send(nesting(peer, one(peer), DEEP))
        holder, depth = peer.local, 0
        holder.settimeout(SLOW)  # nobody takes any before all are there
        for depth in range(DEEP):
            data, fds = receive(holder)
            check(data == b"x" and len(fds) == 1, f"at depth {depth}: {data!r}, {len(fds)} fds")
            if holder is not peer.local:
                holder.close()
            holder = socket.socket(fileno=fds[0])
            holder.settimeout(SLOW)
        peer.end.send(stream_data(one(peer) + DEEP - 1, b"bottom"))
        check(read_exactly(holder, 6) == b"bottom", "something else comes")
        holder.close()
        peer.sync()
        peer.finish()
    with side(stage, "stream") as peer:
        peer.end.send(nesting(peer, one(peer), DEEP))
        peer.finish()  # while nobody has taken any


add(f"sockets in sockets, {DEEP} deep", nest)


def hoard(stage, side):
    """Sockets that are opened and not used, up to the limit and past it."""
    with side(stage, "stream") as peer:
        peer.end.send(b"".join(open_socket(peer.bit | n) for n in range(2, 4000)))
        peer.sync()
        peer.end.send(b"".join(open_socket(peer.bit | n) for n in range(4000, 4200)))
        peer.expect_end("--max-fds")


add("sockets that are opened and never used", hoard)


def drip(stage, side):
    """Single bytes on each of many sockets, and nobody reads them."""
    with side(stage, "stream") as peer:
        ids = [one(peer) + n for n in range(DEEP)]
        peer.end.send(b"".join(map(open_socket, ids)))
        for _ in range(10):
            peer.end.send(b"".join(stream_data(id, b".") for id in ids))
        peer.sync()
        stage.witness.sync()
        peer.finish()


add(f"single bytes on each of {DEEP} sockets that nobody reads", drip)


def never_credit(stage, side):
    """Whose bytes are not taken is not read from: the local peer waits, and others do not."""
    with side(stage, "stream") as peer:
        peer.local.setblocking(False)
        sent = 0
        try:
            while sent < 64 << 20:
                sent += peer.local.send(bytes(1 << 16))
        except BlockingIOError:
            pass
        check(sent < 8 << 20, f"{sent >> 20} MiB are taken that nobody reads")
        stage.witness.sync()
        peer.local.settimeout(DEADLINE)
        peer.finish()


add("somebody who never takes what is sent, and gives no credit", never_credit)


def pings_only(stage, side):
    with side(stage, "stream") as peer:
        for _ in range(20):
            peer.end.send(channel.ping())
            peer.end.wait_for(lambda: peer.end.got(Type.PONG))
            peer.end.frames.clear()
            stage.witness.sync()
        peer.sync()
        peer.finish()


add("somebody who only pings, for a while", pings_only)


@case("host: a service's session that begins without its connection")
def _(suite):
    stage = stage_of(suite)
    for data in (b"", open_socket(2), stream_data(ROOT, b"x"), open_socket(ROOT, root=0),
                 open_socket(ROOT, socket.SOCK_SEQPACKET, root=1)):
        with channel.connect(stage.chan) as end:
            end.send(hello(b"stream") + data)
            service = stage.compositor.accept("stream")
            end.half_close()
            end.wait_end()
            read_to_end(service)
            service.close()
    stage.check()


@case("a valid session of a service works one byte at a time")
def _(suite):
    stage = stage_of(suite)
    stage.interposer.piece = 1
    try:
        with stage.client() as session:
            session.sync()
            session.client.send(bytes(range(256)) * 8)
            check(read_exactly(session.service, 2048) == bytes(range(256)) * 8, "other bytes come")
    finally:
        stage.interposer.piece = 1 << 18
    stage.check()

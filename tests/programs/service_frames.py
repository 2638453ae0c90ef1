"""Frames of services of unknown protocol that are wrong, or only look so.

As in frames.py: make(peer) gives the bytes for a peer (opaque.py) whose own ids have peer.bit set.
ROOT is the session's own connection, of which the guest is the opener; one() and the like are ids
that are free.
"""

import socket

from channel import (DEVICE, EVENT, FILE, HOST_ID, MAX_STREAM, MESSAGE_WINDOW, MORE, MOVES, OTHER,
                     PIPE, POOL, READ, SHARED, SINK, SOCKET, SOCKET_WINDOW, SOURCE, SYNC, Type,
                     event_add, event_role, frame, hello, mem_copy, mem_resize, mem_words, mem_write, messages, open_device, open_event,
                     open_memory, open_pipe, open_shared, open_socket, stream_data)
from frames import EITHER, ENDS, GOES_ON
from opaque import ROOT

LARGEST = (1 << 64) - 2  # count that an eventfd holds
HOST_SIDE = 1 << 63      # of an eventfd's name


def one(p):
    return p.bit | 2


def two(p):
    return p.bit | 3


def three(p):
    return p.bit | 4


def eof(id, closes=0):
    return frame(Type.STREAM_EOF, id=id, arg=closes)


def stop(id):
    return frame(Type.STREAM_STOP, id=id, arg=1)


def pause(id, wanted=1):
    return frame(Type.STREAM_PAUSE, id=id, arg=wanted)


def credit(id, amount):
    return frame(Type.CREDIT, id=id, arg=amount)


def close(id):
    return frame(Type.CLOSE, id=id)


def opened(kind, id):
    """A right OPEN of each kind that needs no option."""
    return {POOL: lambda: open_memory(id, POOL, 4096),
            FILE: lambda: open_memory(id, FILE, 4096, exact=1),
            PIPE: lambda: open_pipe(id, READ),
            SOCKET: lambda: open_socket(id),
            EVENT: lambda: open_event(id),
            DEVICE: lambda: open_device(id)}[kind]()


NAMES = {FILE: "a file", PIPE: "a pipe", SOCKET: "a socket", EVENT: "an eventfd",
         DEVICE: "a device"}


def open_rows():
    for kind in (0, 2, 3, 4, 6, 0xffffffff):
        yield f"a socket of type {kind}", ENDS, lambda p, kind=kind: open_socket(one(p), kind)
    yield "a socket of records", GOES_ON, lambda p: open_socket(one(p), socket.SOCK_SEQPACKET)
    yield "a socket with a strange flag", ENDS, lambda p: open_socket(one(p), nonblocking=2)
    yield "a socket that is a strange root", ENDS, lambda p: open_socket(one(p), root=2)
    yield "a second root", ENDS, lambda p: open_socket(one(p), root=1)
    yield "an eventfd with a strange flag", ENDS, lambda p: open_event(one(p), semaphore=2)
    yield "an eventfd with another one", ENDS, lambda p: open_event(one(p), nonblocking=2)
    yield "an eventfd with the largest count", GOES_ON, lambda p: open_event(one(p), LARGEST)
    yield "an eventfd with an impossible count", ENDS, lambda p: open_event(one(p), LARGEST + 1)
    for device in (5, 0xffffffff):
        yield f"device {device:#x}", ENDS, lambda p, device=device: open_device(one(p), device)
    yield "a device with access 3", ENDS, lambda p: open_device(one(p), access=3)
    yield "a device with a strange flag", ENDS, lambda p: open_device(one(p), nonblocking=2)
    yield "shared memory where it is not allowed", ENDS, lambda p: open_shared(one(p), 4096)
    yield "an fd of shared memory where it is not allowed", ENDS, lambda p: (
        open_shared(one(p), memory=two(p)))
    yield "a sync_file with a payload", ENDS, lambda p: (
        frame(Type.OPEN, bytes(4), id=one(p), arg=SYNC))
    yield "a sync_file", EITHER, lambda p: frame(Type.OPEN, id=one(p), arg=SYNC)
    for kind, right in ((SOCKET, 16), (EVENT, 28), (DEVICE, 16), (SHARED, 32), (PIPE, 8)):
        for length in (0, right - 1, right + 1, 4096):
            yield f"kind {kind} with {length} bytes", ENDS, lambda p, kind=kind, length=length: (
                frame(Type.OPEN, bytes(length), id=one(p), arg=kind))
    for kind in (9, 0x10004, 0xffffffff):
        yield f"kind {kind:#x}", ENDS, lambda p, kind=kind: (
            frame(Type.OPEN, bytes(16), id=one(p), arg=kind))
    for kind, name in NAMES.items():
        yield f"{name} with an id in use", ENDS, lambda p, kind=kind: 2 * opened(kind, one(p))
        yield f"{name} with an id of the other side's", ENDS, lambda p, kind=kind: (
            opened(kind, p.other | 2))
        yield f"{name} with id 0", ENDS, lambda p, kind=kind: opened(kind, 0)
        yield f"{name} with an id that is too high", ENDS, lambda p, kind=kind: (
            opened(kind, p.bit | 0x10000))
    yield "what is the root's id", ENDS, lambda p: open_device(ROOT)
    yield "an exact file of 4 GiB", ENDS, lambda p: open_memory(one(p), FILE, 4 << 30, exact=1)
    yield "an exact file of 2^64-1 bytes", ENDS, lambda p: (
        open_memory(one(p), FILE, (1 << 64) - 1, exact=1))
    yield "a file that is strangely exact", ENDS, lambda p: open_memory(one(p), FILE, 16, exact=2)
    yield "a file that is exact and known", ENDS, lambda p: (
        open_memory(one(p), FILE, 16, exact=1, cached=1))


def naming_rows():
    """fdrefs in front of bytes."""
    for n in (254, 65535, 1 << 30, (1 << 31) - 1):
        yield f"{n} fdrefs", ENDS, lambda p, n=n: stream_data(ROOT, bytes(4000), n_refs=n)
    yield "more fdrefs than there are bytes", ENDS, lambda p: stream_data(ROOT, bytes(7), n_refs=2)
    yield "fdrefs where the bytes should be", ENDS, lambda p: (
        open_device(one(p)) + stream_data(ROOT, b"", [one(p)]))
    yield "an fdref that is unknown", ENDS, lambda p: stream_data(ROOT, b"x", [one(p)])
    yield "an unknown fdref of the other side's", ENDS, lambda p: (
        stream_data(ROOT, b"x", [p.other | 77]))
    for id in (0, HOST_ID, 0x7fffffff, 0xffffffff):
        yield f"fdref {id:#x}", ENDS, lambda p, id=id: stream_data(ROOT, b"x", [id])
    yield "the root", ENDS, lambda p: stream_data(ROOT, b"x", [ROOT])
    yield "an fdref that is opened after it", ENDS, lambda p: (
        stream_data(ROOT, b"x", [one(p)]) + open_device(one(p)))
    for kind, name in NAMES.items():
        if kind != FILE:
            yield name, GOES_ON, lambda p, kind=kind: (
                opened(kind, one(p)) + stream_data(ROOT, b"x", [one(p)]))
        if kind != EVENT:
            yield f"{name} after its end", ENDS, lambda p, kind=kind: (
                opened(kind, one(p)) + close(one(p)) + stream_data(ROOT, b"x", [one(p)]))
    for kind, outcome in ((SOCKET, ENDS), (PIPE, GOES_ON)):
        yield f"{NAMES[kind]} in two frames", outcome, lambda p, kind=kind: (
            opened(kind, one(p)) + 2 * stream_data(ROOT, b"x", [one(p)]))
    yield "a socket twice in one frame", GOES_ON, lambda p: (
        open_socket(one(p)) + stream_data(ROOT, b"x", [one(p), one(p)]))
    yield "a socket 253 times in one frame", GOES_ON, lambda p: (
        open_socket(one(p)) + stream_data(ROOT, b"x", 253 * [one(p)]))
    yield "a device 253 times in each of 4 frames", GOES_ON, lambda p: (  # all the credit
        open_device(one(p)) + 4 * stream_data(ROOT, b"x", 253 * [one(p)]))
    yield "a file whose contents have not come", ENDS, lambda p: (
        opened(FILE, one(p)) + mem_write(one(p), 0, bytes(50)) +
        stream_data(ROOT, b"x", [one(p)]))
    yield "a pool", ENDS, lambda p: opened(POOL, one(p)) + stream_data(ROOT, b"x", [one(p)])


def cycle_rows():
    yield "a socket that carries itself", GOES_ON, lambda p: (
        open_socket(one(p)) + stream_data(one(p), b"x", [one(p)]))
    yield "two sockets that carry each other", GOES_ON, lambda p: (
        open_socket(one(p)) + open_socket(two(p)) + stream_data(one(p), b"x", [two(p)]) +
        stream_data(two(p), b"x", [one(p)]))
    yield "a ring of three sockets", GOES_ON, lambda p: (
        open_socket(one(p)) + open_socket(two(p)) + open_socket(three(p)) +
        stream_data(one(p), b"x", [two(p)]) + stream_data(two(p), b"x", [three(p)]) +
        stream_data(three(p), b"x", [one(p)]))
    yield "a ring that is closed", GOES_ON, lambda p: (
        open_socket(one(p)) + open_socket(two(p)) + stream_data(one(p), b"x", [two(p)]) +
        stream_data(two(p), b"x", [one(p)]) + close(one(p)) + close(two(p)))


def flow_rows():
    """Of sockets that nobody reads."""
    fresh = lambda p, kind=socket.SOCK_STREAM: open_socket(one(p), kind)
    whole = lambda p: stream_data(one(p), bytes(MAX_STREAM))
    yield "bytes", GOES_ON, lambda p: fresh(p) + whole(p)
    yield "no bytes on a stream", ENDS, lambda p: fresh(p) + stream_data(one(p))
    yield "a record on a stream", ENDS, lambda p: fresh(p) + stream_data(one(p), b"x", more=MORE)
    yield "more bytes than a frame may have", ENDS, lambda p: (
        fresh(p) + stream_data(one(p), bytes(MAX_STREAM + 1)))
    yield "bytes beyond the credit", ENDS, lambda p: (
        fresh(p) + (SOCKET_WINDOW // MAX_STREAM + 1) * whole(p))
    yield "single bytes beyond the credit", ENDS, lambda p: (
        fresh(p) + 17000 * stream_data(one(p), b"x"))
    yield "no bytes in records beyond the credit", ENDS, lambda p: (
        fresh(p, socket.SOCK_SEQPACKET) + 17000 * stream_data(one(p)))
    yield "a record in parts", GOES_ON, lambda p: (
        fresh(p, socket.SOCK_SEQPACKET) + 3 * stream_data(one(p), bytes(MAX_STREAM), more=MORE) +
        stream_data(one(p), bytes(MAX_STREAM)))
    yield "a record that is too long", ENDS, lambda p: (
        fresh(p, socket.SOCK_SEQPACKET) + 5 * stream_data(one(p), bytes(MAX_STREAM), more=MORE))
    yield "fdrefs inside a record", ENDS, lambda p: (
        fresh(p, socket.SOCK_SEQPACKET) + open_device(two(p)) +
        stream_data(one(p), b"x", more=MORE) + stream_data(one(p), b"x", [two(p)]))
    yield "the end inside a record", ENDS, lambda p: (
        fresh(p, socket.SOCK_SEQPACKET) + stream_data(one(p), b"x", more=MORE) + eof(one(p)))
    yield "CLOSE inside a record", GOES_ON, lambda p: (
        fresh(p, socket.SOCK_SEQPACKET) + stream_data(one(p), b"x", more=MORE) + close(one(p)))
    yield "the end", GOES_ON, lambda p: fresh(p) + eof(one(p))
    yield "the end twice", ENDS, lambda p: fresh(p) + 2 * eof(one(p))
    yield "bytes after the end", ENDS, lambda p: fresh(p) + eof(one(p)) + whole(p)
    yield "the end of all", GOES_ON, lambda p: fresh(p) + eof(one(p), 1)
    yield "the end of a socket that is over", ENDS, lambda p: (
        fresh(p) + eof(one(p)) + close(one(p)) + eof(one(p)))
    yield "bytes to what is over", ENDS, lambda p: fresh(p) + close(one(p)) + whole(p)
    yield "STREAM_STOP", GOES_ON, lambda p: fresh(p) + stop(one(p)) + whole(p)
    yield "STREAM_STOP twice", EITHER, lambda p: fresh(p) + 2 * stop(one(p))
    yield "STREAM_STOP with bytes", ENDS, lambda p: (
        fresh(p) + frame(Type.STREAM_STOP, bytes(4), id=one(p)))
    yield "credit that nobody used", ENDS, lambda p: fresh(p) + credit(one(p), 1)
    yield "credit of 2^32-1", ENDS, lambda p: fresh(p) + credit(one(p), 0xffffffff)
    yield "credit of 0", GOES_ON, lambda p: fresh(p) + 100 * credit(one(p), 0)
    yield "credit with bytes", ENDS, lambda p: (
        fresh(p) + frame(Type.CREDIT, bytes(4), id=one(p)))
    yield "STREAM_PAUSE of the sender's own", ENDS, lambda p: fresh(p) + pause(one(p))
    yield "STREAM_PAUSED without being asked", ENDS, lambda p: (
        fresh(p) + frame(Type.STREAM_PAUSED, id=one(p)))
    yield "STREAM_PAUSED for the root", ENDS, lambda p: frame(Type.STREAM_PAUSED, id=ROOT)
    yield "CLOSE", GOES_ON, lambda p: fresh(p) + close(one(p))
    yield "CLOSE twice", ENDS, lambda p: fresh(p) + 2 * close(one(p))
    yield "CLOSE of an unknown one", ENDS, lambda p: close(one(p))
    yield "CLOSED by the opener", ENDS, lambda p: fresh(p) + frame(Type.CLOSED, id=one(p))
    yield "CLOSED of an unknown one", ENDS, lambda p: frame(Type.CLOSED, id=p.other | 9)
    yield "a pipe's bytes that look like fdrefs", GOES_ON, lambda p: (
        open_pipe(one(p), READ) + stream_data(one(p), bytes(8), n_refs=2))
    yield "a pipe's end and then bytes", ENDS, lambda p: (
        open_pipe(one(p), READ) + eof(one(p)) + stream_data(one(p), b"x"))
    yield "a pipe's bytes beyond the credit", ENDS, lambda p: (
        open_pipe(one(p), READ) + 10 * stream_data(one(p), bytes(MAX_STREAM)))
    yield "an id that is used 70,000 times", GOES_ON, lambda p: b"".join(
        open_device(p.bit | 2 + n % 0xfff0) + close(p.bit | 2 + n % 0xfff0) for n in range(70000))


def event_rows():
    fresh = lambda p, count=0: open_event(one(p), count)
    yield "a count", GOES_ON, lambda p: fresh(p) + event_add(one(p))
    yield "the largest count", GOES_ON, lambda p: fresh(p) + event_add(one(p), LARGEST)
    yield "a count of 0", ENDS, lambda p: fresh(p) + event_add(one(p), 0)
    yield "a count of 2^64-1", ENDS, lambda p: fresh(p) + event_add(one(p), LARGEST + 1)
    yield "a count that does not fit any more", GOES_ON, lambda p: (
        fresh(p, LARGEST) + event_add(one(p)))
    yield "more counts than can ever fit", ENDS, lambda p: (
        fresh(p, LARGEST) + event_add(one(p), LARGEST) + event_add(one(p)))
    yield "who has seen what was never sent", ENDS, lambda p: fresh(p) + event_add(one(p), 1, 1)
    yield "who has seen 2^32-1", ENDS, lambda p: fresh(p) + event_add(one(p), 1, 0xffffffff)
    for length in (0, 7, 9):
        yield f"{length} bytes", ENDS, lambda p, length=length: (
            fresh(p) + frame(Type.EVENT_ADD, bytes(length), id=one(p)))
    yield "a count for what is over", ENDS, lambda p: (
        fresh(p) + close(one(p)) + event_add(one(p)))
    named = lambda p, name=5, **how: open_event(one(p), name=name, **how)
    for name in (1, HOST_SIDE | 1, HOST_SIDE - 1, (1 << 64) - 1):
        yield f"one that is named {name:#x}", GOES_ON, lambda p, name=name: (
            open_event(one(p), name=name) + event_add(one(p)))
    yield "a name before it is known there", EITHER, lambda p: (
        named(p) + stream_data(ROOT, b"x", [one(p)]))
    yield "one without a name that another session moves", ENDS, lambda p: (
        open_event(one(p), role=OTHER))
    yield "a role that OPEN cannot have", ENDS, lambda p: open_event(one(p), role=SINK)
    yield "a role that there is not", ENDS, lambda p: named(p) + event_role(one(p), 4)
    yield "role 2^32-1", ENDS, lambda p: named(p) + event_role(one(p), 0xffffffff)
    yield "a role without a name", ENDS, lambda p: fresh(p) + event_role(one(p), MOVES)
    yield "a role that nobody has", ENDS, lambda p: named(p) + event_role(one(p), OTHER)
    yield "all roles that there are", GOES_ON, lambda p: (
        named(p, role=OTHER) + b"".join(
            event_role(one(p), role) for role in (SINK, SOURCE, MOVES)) + event_add(one(p)))
    yield "a role of 4 bytes", ENDS, lambda p: (
        named(p) + frame(Type.EVENT_ROLE, bytes(4), id=one(p), arg=MOVES))
    for n, outcome in ((64, GOES_ON), (1000, EITHER)):
        yield f"one name for {n}", outcome, lambda p, n=n: b"".join(
            open_event(p.bit | id, name=7) for id in range(2, 2 + n))
    yield "10,000 counts", GOES_ON, lambda p: fresh(p) + 10000 * event_add(one(p))
    yield "a semaphore's 10,000", GOES_ON, lambda p: (
        open_event(one(p), semaphore=1) + event_add(one(p), 10000))


def misplaced_rows():
    """Each frame for each kind that it is not for."""
    right = {FILE: (), PIPE: (Type.STREAM_DATA, Type.STREAM_EOF),
             SOCKET: (Type.STREAM_DATA, Type.STREAM_EOF, Type.STREAM_STOP, Type.CREDIT),
             EVENT: (Type.EVENT_ADD,), DEVICE: ()}
    frames = {
        Type.MEM_COPY: lambda id: mem_copy(id, id, [(0, 0, 4, 1)]),
        Type.MEM_RESIZE: lambda id: mem_resize(id, 8),
        Type.MEM_READ_REPLY: lambda id: frame(Type.MEM_READ_REPLY, bytes(16), id=id),
        Type.STREAM_DATA: lambda id: stream_data(id, b"x"),
        Type.STREAM_EOF: eof,
        Type.STREAM_STOP: stop,
        Type.STREAM_PAUSE: pause,
        Type.STREAM_PAUSED: lambda id: frame(Type.STREAM_PAUSED, id=id),
        Type.CREDIT: lambda id: credit(id, 0),
        Type.EVENT_ADD: event_add,
        Type.EVENT_ROLE: lambda id: event_role(id, MOVES),
        Type.MEM_WORDS: lambda id: mem_words(id, (0, bytes(8))),
        Type.MEM_UNUSED: lambda id: frame(Type.MEM_UNUSED, id=id),
        Type.HELLO: lambda id: frame(Type.HELLO, hello()[16:], id=id),
    }
    for kind, name in NAMES.items():
        for type_, make in frames.items():
            if type_ not in right[kind]:
                yield f"{type_.name} for {name}", ENDS, lambda p, kind=kind, make=make: (
                    opened(kind, one(p)) + make(one(p)))
    for kind in (SOCKET, PIPE, EVENT, DEVICE):
        yield f"MEM_WRITE for {NAMES[kind]}", ENDS, lambda p, kind=kind: (
            opened(kind, one(p)) + mem_write(one(p), 0, bytes(4)))
    yield "MESSAGES", ENDS, lambda p: messages(bytes(8))
    yield "credit for messages", ENDS, lambda p: frame(Type.CREDIT, arg=MESSAGE_WINDOW)


def shared_rows():
    """Where both programs are given --shm-mode diff."""
    memory = lambda p, size=4096: open_shared(one(p), size)
    fd = lambda p, **how: open_shared(two(p), memory=one(p), **how)
    yield "memory and an fd of it", GOES_ON, lambda p: (
        memory(p) + fd(p, access=2) + stream_data(ROOT, b"x", [two(p)]))
    for size in ((2 << 30) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1):
        yield f"memory of {size} bytes", ENDS, lambda p, size=size: memory(p, size)
    yield "memory of no bytes", GOES_ON, lambda p: memory(p, 0)
    yield "memory that nobody may write", ENDS, lambda p: open_shared(one(p), 4096, seals=8)
    yield "memory that is named itself", ENDS, lambda p: (
        memory(p) + stream_data(ROOT, b"x", [one(p)]))
    yield "an fd of an unknown memory", ENDS, fd
    yield "an fd of a socket", ENDS, lambda p: open_socket(one(p)) + fd(p)
    yield "an fd of an fd", ENDS, lambda p: (
        memory(p) + fd(p) + open_shared(three(p), memory=two(p)))
    yield "an fd of itself", ENDS, lambda p: open_shared(two(p), memory=two(p))
    yield "an fd of memory that is closed", ENDS, lambda p: memory(p) + close(one(p)) + fd(p)
    yield "an fd with access 3", ENDS, lambda p: memory(p) + fd(p, access=3)
    yield "an fd at 2^63", ENDS, lambda p: memory(p) + fd(p, offset=1 << 63)
    for name, expected, runs in (
            ("words", GOES_ON, [(0, bytes(8)), (4088, b"8 bytes!")]),
            ("words of no run", EITHER, []),
            ("a run of nothing", ENDS, [(0, b"")]),
            ("a run that begins within a word", ENDS, [(4, bytes(8))]),
            ("a run that ends within a word", ENDS, [(0, bytes(4))]),
            ("a run past the end", ENDS, [(4096, bytes(8))]),
            ("a run over the end", ENDS, [(4088, bytes(16))]),
            ("a run at 2^64-8", ENDS, [((1 << 64) - 8, bytes(16))]),
            ("a run at 2^63", ENDS, [(1 << 63, bytes(8))]),
            ("a run that is shorter than it says", ENDS, [(0, bytes(8), 16)]),
            ("a run of 2^32-8 bytes", ENDS, [(0, bytes(8), 0xfffffff8)])):
        yield name, expected, lambda p, runs=runs: memory(p) + mem_words(one(p), *runs)
    yield "a part of a run's head", ENDS, lambda p: (
        memory(p) + frame(Type.MEM_WORDS, bytes(11), id=one(p)))
    yield "words for an fd", ENDS, lambda p: (
        memory(p) + fd(p) + mem_words(two(p), (0, bytes(8))))
    yield "credit that nobody used", ENDS, lambda p: memory(p) + credit(one(p), 1)
    yield "MEM_UNUSED by the opener", ENDS, lambda p: (
        memory(p) + frame(Type.MEM_UNUSED, id=one(p)))
    yield "1000 memories and fds of them", GOES_ON, lambda p: b"".join(
        open_shared(p.bit | 2 * n, 64) + open_shared(p.bit | 2 * n + 1, memory=p.bit | 2 * n) +
        close(p.bit | 2 * n + 1) + close(p.bit | 2 * n) for n in range(1, 1001))


TABLES = (("OPEN of", open_rows), ("naming", naming_rows), ("", cycle_rows), ("", flow_rows),
          ("EVENT_ADD:", event_rows), ("", misplaced_rows))
SHARED_TABLES = (("shared memory:", shared_rows),)


def valid_frames(peer):
    """One of every type, and what has to come before it."""
    id = one(peer)
    return [
        (b"", open_socket(id)), (b"", open_event(id, 5)), (b"", open_device(id)),
        (b"", opened(FILE, id)),
        (open_socket(id), stream_data(id, b"some bytes")),
        (open_socket(id) + open_device(two(peer)), stream_data(ROOT, b"bytes", [id, two(peer)])),
        (open_socket(id), eof(id)), (open_socket(id), stop(id)), (open_socket(id), close(id)),
        (open_socket(id), credit(id, 0)),
        (open_event(id), event_add(id)),
        (open_event(id, name=9, role=OTHER), event_role(id, MOVES)),
        (b"", stream_data(ROOT, b"bytes of the session")),
    ]

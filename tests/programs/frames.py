"""Frames that are wrong, or only look so.

Most of what a hostile side may send is wrong for guest and host alike, so one table serves both:
make(peer) gives the bytes for a peer (peers.py), whose own ids have peer.bit set.
"""

import random

import channel
from channel import (BOTH, FILE, HOST_ID, MAX_PAYLOAD, MAX_ROWS, MESSAGE_WINDOW, PIPE, POOL, READ,
                     SKIPPABLE, SYNC, WRITE, Type, frame, hello, mem_copy, mem_resize, mem_write,
                     open_device, open_event, open_memory, open_pipe, open_shared, open_socket,
                     ping, region, welcome)
from peers import KEYBOARD, SHM
from wayland import SERVER_ID, message

ENDS, GOES_ON, EITHER = range(3)  # as in hostile_client
DEFAULT_MAX_MEMORY = 2 << 30


def rows_cases():
    pool = lambda p: open_memory(p.bit | 1, POOL, 4096)
    yield "to an id that is unknown", ENDS, lambda p: mem_write(p.bit | 1, 0, bytes(4))
    yield "to id 0", ENDS, lambda p: mem_write(0, 0, bytes(4))
    yield "to a pipe", ENDS, lambda p: (
        open_pipe(p.bit | 1, READ) + mem_write(p.bit | 1, 0, bytes(4)))
    for name, expected, arguments in (
            ("that is right", GOES_ON, dict(offset=4092, data=bytes(4))),
            ("of rows that are right", GOES_ON,
             dict(offset=0, data=bytes(64), rows=4, stride=1024)),
            ("of no rows", GOES_ON, dict(offset=0, data=b"", rows=0)),
            ("of 2^32-1 rows without bytes", ENDS,
             dict(offset=0, data=b"", rows=0xffffffff, row_bytes=0, stride=1 << 20)),
            ("of 2^32-1 rows without bytes at one place", GOES_ON,
             dict(offset=0, data=b"", rows=0xffffffff, row_bytes=0, stride=0)),
            ("one byte past the end", ENDS, dict(offset=4093, data=bytes(4))),
            ("at the end", GOES_ON, dict(offset=4096, data=b"")),
            ("of nothing past the end", ENDS, dict(offset=4097, data=b"")),
            ("whose last row is past the end", ENDS,
             dict(offset=0, data=bytes(64), rows=4, stride=1500)),
            ("at 2^63", ENDS, dict(offset=1 << 63, data=bytes(4))),
            ("at 2^64-1", ENDS, dict(offset=(1 << 64) - 1, data=bytes(4))),
            ("at 2^64-4", ENDS, dict(offset=(1 << 64) - 4, data=bytes(4))),
            ("whose rows overlap", ENDS, dict(offset=0, data=bytes(64), rows=4, stride=15)),
            ("with a stride of 0", ENDS, dict(offset=0, data=bytes(64), rows=4, stride=0)),
            ("with a stride of 2^32-1", ENDS,
             dict(offset=0, data=bytes(64), rows=4, stride=0xffffffff)),
            ("whose rows times bytes overflow to its length", ENDS,
             dict(offset=0, data=bytes(4), rows=0x40000001, row_bytes=4, stride=4)),
            ("whose rows times bytes overflow to 0", ENDS,
             dict(offset=0, data=b"", rows=0x10000, row_bytes=0x10000, stride=0x10000)),
            ("of fewer bytes than its length", ENDS,
             dict(offset=0, data=bytes(8), row_bytes=4)),
            ("of more bytes than its length", ENDS, dict(offset=0, data=bytes(4), row_bytes=8)),
            ("of more bytes than a frame may have", ENDS,
             dict(offset=0, data=b"", row_bytes=MAX_ROWS + 1, length=24 + MAX_ROWS + 1)),
            ("of 2^32-1 bytes", ENDS,
             dict(offset=0, data=b"", row_bytes=0xffffffff - 24, length=0xffffffff))):
        yield name, expected, lambda p, arguments=arguments: (
            pool(p) + mem_write(p.bit | 1, **arguments))
    yield "past the end of a pool that has shrunk", ENDS, lambda p: (
        pool(p) + mem_resize(p.bit | 1, 100) + mem_write(p.bit | 1, 97, bytes(4)))
    yield "to a pool of no bytes", ENDS, lambda p: (
        open_memory(p.bit | 1, POOL, 0) + mem_write(p.bit | 1, 0, bytes(1)))
    yield "of nothing to a pool of no bytes", GOES_ON, lambda p: (
        open_memory(p.bit | 1, POOL, 0) + mem_write(p.bit | 1, 0, b""))
    yield "of nothing to a file of no bytes", GOES_ON, lambda p: (
        open_memory(p.bit | 1, FILE, 0) + mem_write(p.bit | 1, 0, b""))
    yield "of a file out of order", ENDS, lambda p: (
        open_memory(p.bit | 1, FILE, 100) + mem_write(p.bit | 1, 4, bytes(4)))
    yield "of a file past its end", ENDS, lambda p: (
        open_memory(p.bit | 1, FILE, 6) + mem_write(p.bit | 1, 0, bytes(4)) +
        mem_write(p.bit | 1, 4, bytes(4)))
    yield "of a file in two rows", ENDS, lambda p: (
        open_memory(p.bit | 1, FILE, 100) + mem_write(p.bit | 1, 0, bytes(8), rows=2))


def copy_cases():
    def pools(p):
        return open_memory(p.bit | 1, POOL, 4096) + open_memory(p.bit | 2, POOL, 4096)
    stride, rect = channel.overflowing_rect(1 << 20)
    whole = (0, 0, 64, 64)
    for name, expected, arguments in (
            ("that is right", GOES_ON, dict(rects=[whole])),
            ("of no rectangle", EITHER, dict(rects=[])),
            ("of 65 rectangles", ENDS, dict(rects=65 * [whole])),
            ("of fewer rectangles than it says", ENDS, dict(rects=[whole], n_rects=2)),
            ("of more rectangles than it says", ENDS, dict(rects=[whole], n_rects=0)),
            ("of 2^32-1 rectangles", ENDS, dict(rects=[whole], n_rects=0xffffffff)),
            ("of 2^28 rectangles, whose bytes overflow", ENDS, dict(rects=[], n_rects=1 << 28)),
            ("whose rectangle is one row too high", ENDS, dict(rects=[(0, 1, 64, 64)])),
            ("whose rectangle is wider than the stride", ENDS, dict(rects=[(1, 0, 64, 1)])),
            ("whose rectangle is empty", EITHER, dict(rects=[(0, 0, 0, 0)])),
            ("whose x overflows", ENDS, dict(rects=[(0xffffffff, 0, 2, 1)])),
            ("whose y overflows", ENDS, dict(rects=[(0, 0xffffffff, 4, 2)])),
            ("with a stride of 0", ENDS, dict(rects=[(0, 0, 1, 1)], stride=0)),
            ("with a source past the end", ENDS, dict(rects=[(0, 0, 4, 1)], source_offset=4093)),
            ("with a destination past the end", ENDS, dict(rects=[(0, 0, 4, 1)], offset=4093)),
            ("with a source at 2^64-1", ENDS, dict(rects=[(0, 0, 4, 1)], source_offset=2**64 - 1)),
            ("with a destination at 2^64-4", ENDS, dict(rects=[(0, 0, 4, 1)], offset=2**64 - 4))):
        yield name, expected, lambda p, arguments=arguments: (
            pools(p) + mem_copy(p.bit | 1, p.bit | 2, **arguments))
    yield "whose rows times stride overflow", ENDS, lambda p: (
        open_memory(p.bit | 1, POOL, 1 << 20) + open_memory(p.bit | 2, POOL, 1 << 20) +
        mem_copy(p.bit | 1, p.bit | 2, [rect], stride))
    yield "from itself", EITHER, lambda p: pools(p) + mem_copy(p.bit | 1, p.bit | 1, [whole])
    yield "from itself to overlapping rows", EITHER, lambda p: (
        pools(p) + mem_copy(p.bit | 1, p.bit | 1, [(0, 0, 64, 32)], offset=32))
    yield "from an id that is unknown", ENDS, lambda p: pools(p) + mem_copy(p.bit | 1, 3, [whole])
    yield "from id 0", ENDS, lambda p: pools(p) + mem_copy(p.bit | 1, 0, [whole])
    yield "from a pipe", ENDS, lambda p: (
        pools(p) + open_pipe(p.bit | 3, READ) + mem_copy(p.bit | 1, p.bit | 3, [whole]))
    yield "from a file", ENDS, lambda p: (
        pools(p) + open_memory(p.bit | 3, FILE, 4096) + mem_copy(p.bit | 1, p.bit | 3, [whole]))
    yield "to a file", ENDS, lambda p: (
        pools(p) + open_memory(p.bit | 3, FILE, 4096) + mem_copy(p.bit | 3, p.bit | 1, [whole]))
    yield "from pools of no bytes", ENDS, lambda p: (
        open_memory(p.bit | 1, POOL, 0) + open_memory(p.bit | 2, POOL, 0) +
        mem_copy(p.bit | 1, p.bit | 2, [(0, 0, 1, 1)]))


def open_cases():
    one = lambda p: p.bit | 1
    yield "with id 0", ENDS, lambda p: open_memory(0, POOL, 16)
    yield "with the bit and no number", ENDS, lambda p: open_memory(HOST_ID, POOL, 16)
    yield "with an id of the other side's", ENDS, lambda p: open_memory(p.other | 1, POOL, 16)
    yield "with an id in use", ENDS, lambda p: 2 * open_memory(one(p), POOL, 16)
    yield "with the highest id", GOES_ON, lambda p: open_memory(p.bit | 0xffff, POOL, 16)
    yield "with an id that is too high", ENDS, lambda p: open_memory(p.bit | 0x10000, POOL, 16)
    yield "with id 2^31-1 of its range", ENDS, lambda p: open_memory(p.bit | 0x7fffffff, POOL, 16)
    for kind in (0, 9, 0x10000, 0xffffffff):
        yield f"of kind {kind:#x}", ENDS, lambda p, kind=kind: open_memory(one(p), kind, 16)
    for name, make in (("a socket", open_socket), ("an eventfd", open_event),
                       ("a device", open_device), ("shared memory", open_shared)):
        yield f"of {name}, which no message can name", ENDS, lambda p, make=make: make(one(p))
    yield "of a sync_file, which no message can name", ENDS, lambda p: (
        frame(Type.OPEN, id=one(p), arg=SYNC))
    for kind, name in ((POOL, "pool"), (FILE, "file")):
        for size, expected in ((1 << 63, ENDS), ((1 << 64) - 1, ENDS), ((1 << 63) - 1, ENDS),
                               (DEFAULT_MAX_MEMORY + 1, ENDS), (0, GOES_ON)):
            yield f"of a {name} of {size} bytes", expected, lambda p, kind=kind, size=size: (
                open_memory(one(p), kind, size))
        yield f"of a {name} with access 3", ENDS, lambda p, kind=kind: (
            open_memory(one(p), kind, 16, access=3))
        yield f"of a {name} with access 2^32-1", ENDS, lambda p, kind=kind: (
            open_memory(one(p), kind, 16, access=0xffffffff))
        yield f"of a {name} with all seals", EITHER, lambda p, kind=kind: (
            open_memory(one(p), kind, 16, seals=0xfffffffe))
        for length in (0, 47, 49, 4096):
            yield f"of a {name} with {length} bytes", ENDS, lambda p, kind=kind, length=length: (
                frame(Type.OPEN, bytes(length), id=one(p), arg=kind))
    yield "of a second pool that is too much together", ENDS, lambda p: (
        open_memory(one(p), POOL, DEFAULT_MAX_MEMORY - 4096) + open_memory(p.bit | 2, POOL, 4097))
    yield "of a file over 64 MiB", ENDS, lambda p: open_memory(one(p), FILE, (64 << 20) + 1)
    yield "of a file that nobody has, as one that is known", ENDS, lambda p: (
        open_memory(one(p), FILE, 16, cached=1))
    yield "of a file with a strange cached flag", ENDS, lambda p: (
        open_memory(one(p), FILE, 16, cached=0xffffffff))
    yield "of a pipe with access 2", ENDS, lambda p: open_pipe(one(p), BOTH)
    yield "of a pipe with a strange flag", ENDS, lambda p: open_pipe(one(p), READ, 2)
    yield "of a pipe with 0 bytes", ENDS, lambda p: frame(Type.OPEN, id=one(p), arg=PIPE)
    yield "of a pipe with 9 bytes", ENDS, lambda p: frame(Type.OPEN, bytes(9), id=one(p), arg=PIPE)
    yield "of more than a session may have", ENDS, lambda p: b"".join(
        open_memory(p.bit | 1 + n, POOL, 16) for n in range(4200))


def close_cases():
    for kind, name in ((POOL, "pool"), (FILE, "file"), (PIPE, "pipe")):
        def opened(p, kind=kind):
            return (open_pipe(p.bit | 1, READ) if kind == PIPE else
                    open_memory(p.bit | 1, kind, 16))
        yield f"CLOSE of a {name}", GOES_ON, lambda p, opened=opened: (
            opened(p) + frame(Type.CLOSE, id=p.bit | 1))
        yield f"CLOSE of a {name} twice", ENDS, lambda p, opened=opened: (
            opened(p) + 2 * frame(Type.CLOSE, id=p.bit | 1))
        yield (f"CLOSE of a {name} and the same id again, 1000 times", GOES_ON,
               lambda p, opened=opened: 1000 * (opened(p) + frame(Type.CLOSE, id=p.bit | 1)))
        yield f"CLOSED of a {name} by its opener", ENDS, lambda p, opened=opened: (
            opened(p) + frame(Type.CLOSED, id=p.bit | 1))
        yield f"a message that names a {name} that is closed", ENDS, lambda p, opened=opened: (
            opened(p) + frame(Type.CLOSE, id=p.bit | 1) + p.valid_messages([p.bit | 1]))
        for kind_of_frame in (Type.MEM_RESIZE, Type.STREAM_DATA, Type.STREAM_EOF, Type.CREDIT):
            yield (f"{kind_of_frame.name} to a {name} that is closed", ENDS,
                   lambda p, opened=opened, kind_of_frame=kind_of_frame: (
                       opened(p) + frame(Type.CLOSE, id=p.bit | 1) +
                       frame(kind_of_frame, bytes(8), id=p.bit | 1)))
    yield "CLOSE of an unknown id", ENDS, lambda p: frame(Type.CLOSE, id=p.bit | 1)
    yield "CLOSE of an unknown id of the other side's", ENDS, lambda p: (
        frame(Type.CLOSE, id=p.other | 1))
    yield "CLOSED of an unknown id", ENDS, lambda p: frame(Type.CLOSED, id=p.other | 1)
    yield "CLOSE of id 0", ENDS, lambda p: frame(Type.CLOSE)


def resize_cases():
    pool = lambda p: open_memory(p.bit | 1, POOL, 4096)
    for size, expected in ((1 << 63, ENDS), ((1 << 64) - 1, ENDS), ((1 << 63) - 1, ENDS),
                           (DEFAULT_MAX_MEMORY + 1, ENDS), (8192, GOES_ON), (0, GOES_ON)):
        yield f"to {size} bytes", expected, lambda p, size=size: (
            pool(p) + mem_resize(p.bit | 1, size))
    yield "to nothing and back", GOES_ON, lambda p: (
        pool(p) + 100 * (mem_resize(p.bit | 1, 0) + mem_resize(p.bit | 1, 4096)) +
        mem_write(p.bit | 1, 0, bytes(4096)))
    yield "of 4 bytes", ENDS, lambda p: pool(p) + frame(Type.MEM_RESIZE, bytes(4), id=p.bit | 1)
    yield "of 9 bytes", ENDS, lambda p: pool(p) + frame(Type.MEM_RESIZE, bytes(9), id=p.bit | 1)
    yield "of a file", ENDS, lambda p: open_memory(p.bit | 1, FILE, 16) + mem_resize(p.bit | 1, 8)
    yield "of a pipe", ENDS, lambda p: open_pipe(p.bit | 1, READ) + mem_resize(p.bit | 1, 8)
    yield "of a pool that is sealed against it", ENDS, lambda p: (
        open_memory(p.bit | 1, POOL, 4096, seals=6) + mem_resize(p.bit | 1, 8192))


def stream_cases():
    """The receiver's end is a sink where the opener's can be read, else a source."""
    sink = lambda p: open_pipe(p.bit | 1, READ)
    source = lambda p: open_pipe(p.bit | 1, WRITE)
    data = lambda p, n=4: frame(Type.STREAM_DATA, bytes(n), id=p.bit | 1)
    eof = lambda p: frame(Type.STREAM_EOF, id=p.bit | 1)
    stop = lambda p: frame(Type.STREAM_STOP, id=p.bit | 1, arg=1)
    credit = lambda p, n: frame(Type.CREDIT, id=p.bit | 1, arg=n)
    yield "data and its end", GOES_ON, lambda p: sink(p) + data(p) + eof(p)
    yield "data of no bytes", GOES_ON, lambda p: sink(p) + 100 * data(p, 0)
    yield "data beyond its credit", ENDS, lambda p: sink(p) + 10 * data(p, 65536)
    yield "data of more bytes than a frame may have", EITHER, lambda p: sink(p) + data(p, 66 * 1024)
    yield "data after its end", ENDS, lambda p: sink(p) + eof(p) + data(p)
    yield "an end twice", ENDS, lambda p: sink(p) + 2 * eof(p)
    yield "data from who has the writing end", ENDS, lambda p: source(p) + data(p)
    yield "an end from who has the writing end", ENDS, lambda p: source(p) + eof(p)
    yield "a stop", GOES_ON, lambda p: source(p) + stop(p)
    yield "a stop twice", EITHER, lambda p: source(p) + 2 * stop(p)
    yield "a stop from who has the reading end's data", ENDS, lambda p: sink(p) + stop(p)
    yield "credit beyond the window", ENDS, lambda p: source(p) + credit(p, 1)
    yield "credit of 2^32-1", ENDS, lambda p: source(p) + credit(p, 0xffffffff)
    yield "credit of 0", GOES_ON, lambda p: source(p) + 100 * credit(p, 0)
    yield "credit to a sink", ENDS, lambda p: sink(p) + credit(p, 1)
    yield "data to a pool", ENDS, lambda p: open_memory(p.bit | 1, POOL, 16) + data(p)
    yield "data to an id that is unknown", ENDS, data
    yield "data to id 0", ENDS, lambda p: frame(Type.STREAM_DATA, bytes(4))
    for kind in (Type.STREAM_PAUSE, Type.STREAM_PAUSED, Type.EVENT_ADD, Type.MEM_WORDS,
                 Type.MEM_UNUSED, Type.EVENT_ROLE, Type.REGION_UNMAP):
        yield f"{kind.name}, which is for other services", ENDS, lambda p, kind=kind: (
            sink(p) + frame(kind, id=p.bit | 1))
    for kind in (Type.TIMELINE_SIGNAL, Type.TIMELINE_WATCH):
        yield f"{kind.name} of a pipe", ENDS, lambda p, kind=kind: (
            sink(p) + frame(kind, bytes(8), id=p.bit | 1))


def session_cases():
    for kind in (0, max(Type) + 1, 99, 0xffff):
        yield f"a frame of unknown type {kind}", ENDS, lambda p, kind=kind: frame(kind)
        yield f"a frame of unknown type {kind} that may be skipped", GOES_ON, (
            lambda p, kind=kind: frame(kind, bytes(100), flags=SKIPPABLE))
    yield "a skippable frame with an id", ENDS, lambda p: frame(99, id=p.bit | 1, flags=SKIPPABLE)
    yield "HELLO twice", ENDS, lambda p: hello()
    yield "reserved flags", EITHER, lambda p: frame(Type.PING, bytes(8), flags=0xfffe)
    yield "MEM_READ, which is reserved", ENDS, lambda p: frame(Type.MEM_READ, bytes(8))
    # Whoever has not heard of FEATURE_REGION has no region.
    yield "REGION_MAP of no pool", ENDS, lambda p: region(Type.REGION_MAP)
    yield "REGION_MAP of a pool", ENDS, lambda p: (
        open_memory(p.bit | 1, POOL, 0) + region(Type.REGION_MAP, id=p.bit | 1))
    yield "REGION_MAP of a file", ENDS, lambda p: (
        open_memory(p.bit | 1, FILE, 4) + region(Type.REGION_MAP, id=p.bit | 1))
    # Nor a timeline.
    yield "a timeline", ENDS, lambda p: frame(Type.OPEN, id=p.bit | 1, arg=10)
    for kind in (Type.TIMELINE_SIGNAL, Type.TIMELINE_WATCH):
        yield f"{kind.name} of no timeline", ENDS, lambda p, kind=kind: frame(kind, bytes(8))
    yield "REGION_ROWS of a pool", ENDS, lambda p: (
        open_memory(p.bit | 1, POOL, 4096) + frame(Type.REGION_ROWS, bytes(32), id=p.bit | 1))
    yield "REGION_UNMAP", ENDS, lambda p: region(Type.REGION_UNMAP)
    yield "REGION_UNMAP of 15 bytes", ENDS, lambda p: frame(Type.REGION_UNMAP, bytes(15))
    yield "PING", GOES_ON, lambda p: ping()
    yield "PING of 7 bytes", ENDS, lambda p: frame(Type.PING, bytes(7))
    yield "PONG that was not asked for", GOES_ON, lambda p: frame(Type.PONG, bytes(24))
    yield "PONG of all bits", GOES_ON, lambda p: frame(Type.PONG, 24 * b"\xff")
    yield "PONG of 23 bytes", ENDS, lambda p: frame(Type.PONG, bytes(23))
    yield "credit beyond the window", ENDS, lambda p: frame(Type.CREDIT, arg=MESSAGE_WINDOW)
    yield "credit of 2^32-1", ENDS, lambda p: frame(Type.CREDIT, arg=0xffffffff)
    yield "REFUSE in the middle", ENDS, lambda p: frame(Type.REFUSE, b"no more")
    yield "CHALLENGE in the middle", ENDS, lambda p: frame(Type.CHALLENGE, bytes(32))
    yield "PROOF in the middle", ENDS, lambda p: frame(Type.PROOF, bytes(64))
    yield "END with a NUL in its text", ENDS, lambda p: frame(Type.END, b"a\0b", arg=1)
    yield "END with a text that is too long", ENDS, lambda p: frame(Type.END, 1025 * b"x", arg=1)
    yield "END with a text of the full length", ENDS, lambda p: frame(Type.END, 1024 * b"x", arg=1)
    yield "END with a text that is no text", EITHER, lambda p: (
        frame(Type.END, b"\xff\x01\n" * 9, arg=1))


def message_cases():
    yield "that is right", GOES_ON, lambda p: p.valid_messages()
    yield "of no bytes", GOES_ON, lambda p: channel.messages(b"")
    yield "with more fdrefs than bytes", ENDS, lambda p: p.valid_messages(n_refs=9)
    yield "with 2^30 fdrefs, whose bytes overflow", ENDS, lambda p: p.valid_messages(n_refs=1 << 30)
    yield "with 2^32-1 fdrefs", ENDS, lambda p: p.valid_messages(n_refs=0xffffffff)
    yield "with 254 fdrefs", ENDS, lambda p: channel.messages(b"", 254 * [1])
    yield "with fdrefs that nothing takes, without end", ENDS, lambda p: (
        8 * channel.messages(b"", 253 * [p.bit | 1]))
    yield "with an fdref that is unknown", ENDS, lambda p: p.valid_messages([p.bit | 77])
    yield "with fdref 0", ENDS, lambda p: p.valid_messages([0])
    yield "with fdref 2^32-1", ENDS, lambda p: p.valid_messages([0xffffffff])
    yield "with an fdref of the other side's", ENDS, lambda p: p.valid_messages([p.other | 1])
    yield "with an fdref of the wrong kind", ENDS, lambda p: (
        open_memory(p.bit | 1, FILE, 4096) + p.valid_messages([p.bit | 1]))
    yield "with a file that is not whole", ENDS, lambda p: (
        open_memory(p.bit | 1, FILE, 100) + mem_write(p.bit | 1, 0, bytes(50)) +
        p.valid_messages([p.bit | 1]))
    yield "whose fdref is missing", ENDS, lambda p: channel.messages(
        message(SHM, 0, p.next_id, 4096) if p.bit == 0 else message(KEYBOARD, 0, 1, 3))
    yield "that end in the middle of one", ENDS, lambda p: channel.messages(
        p.valid_messages()[16:] + message(1, 0, 1)[:6])
    yield "of one message in two frames", ENDS, lambda p: (
        channel.messages(message(1, 0, 9)[:8]) + channel.messages(message(1, 0, 9)[8:]))
    yield "of size 0", ENDS, lambda p: channel.messages(message(1, 0, 9, size=0))
    yield "of size 7", ENDS, lambda p: channel.messages(message(1, 0, 9, size=7) + bytes(8))
    yield "of size 65535", ENDS, lambda p: channel.messages(message(1, 0, 9, size=65535))
    yield "to an unknown object", ENDS, lambda p: channel.messages(message(4711, 0))
    yield "with an unknown opcode", ENDS, lambda p: channel.messages(message(1, 9))
    yield "with an id of the wrong range", ENDS, lambda p: channel.messages(
        message(1, 0, SERVER_ID) if p.bit == 0 else message(KEYBOARD, 9))
    yield "of random bytes", ENDS, lambda p: channel.messages(random.Random(1).randbytes(4000))


TABLES = (("MEM_WRITE", rows_cases), ("MEM_COPY", copy_cases), ("OPEN", open_cases),
          ("", close_cases), ("MEM_RESIZE", resize_cases), ("a stream's", stream_cases),
          ("", session_cases), ("MESSAGES", message_cases))

# For an fdref that the receiver has opened. A file it closes as soon as it has sent it.
OPENED_BY_RECEIVER = [
    ("CLOSE", ENDS, lambda id: frame(Type.CLOSE, id=id)),
    ("CLOSED", EITHER, lambda id: frame(Type.CLOSED, id=id)),
    ("OPEN", ENDS, lambda id: open_memory(id, POOL, 16)),
    ("MEM_RESIZE", ENDS, lambda id: mem_resize(id, 1 << 20)),
    ("MEM_COPY", ENDS, lambda id: mem_copy(id, id, [(0, 0, 4, 1)])),
    ("MEM_COPY out of it", ENDS, lambda id: open_memory(id ^ HOST_ID, POOL, 4096) +
     mem_copy(id ^ HOST_ID, id, [(0, 0, 4, 1)])),
    ("STREAM_DATA", ENDS, lambda id: frame(Type.STREAM_DATA, bytes(4), id=id)),
    ("CREDIT", ENDS, lambda id: frame(Type.CREDIT, id=id, arg=1)),
    ("MEM_WRITE past the end", EITHER, lambda id: mem_write(id, 1 << 40, bytes(8))),
    ("MEM_WRITE at 2^64-4", EITHER, lambda id: mem_write(id, (1 << 64) - 4, bytes(8))),
]

# The first bytes to a host, and what the reason of its REFUSE has in it.
BEGINNINGS = [
    ("data before HELLO", frame(Type.PING, bytes(8)), None),
    ("WELCOME instead of HELLO", welcome(), None),
    ("HELLO with another magic", hello(magic=0x12345678), None),
    ("HELLO of a later version", hello(versions=(2, 9)), "version"),
    ("HELLO of an earlier version", hello(versions=(0, 0)), "version"),
    ("HELLO whose versions are the wrong way round", hello(versions=(9, 0)), "version"),
    ("HELLO for a service that is unknown", hello(b"teapot"), "teapot"),
    ("HELLO for a service with the name of another in it", hello(b"waylandx"), "waylandx"),
    ("HELLO for no service", hello(b""), None),
    ("HELLO for a service with a NUL", hello(b"way\0land"), "NUL"),
    ("HELLO for a service that is too long", hello(65 * b"x"), None),
    ("HELLO for a service of the full length", hello(64 * b"x"), None),
    ("HELLO whose name is longer than it", hello(service_length=9999), None),
    ("HELLO whose name is shorter than it", hello(service_length=3), None),
    ("HELLO with nine hashes", hello(contents=bytes(9 * 16)), None),
    ("HELLO with fewer hashes than it says", hello(n_contents=1), None),
    ("HELLO with 65535 hashes", hello(n_contents=65535), None),
    ("HELLO of 39 bytes", frame(Type.HELLO, bytes(39)), None),
    ("HELLO of 68 KiB", frame(Type.HELLO, bytes(MAX_PAYLOAD)), None),
    ("HELLO of 2^32-1 bytes", frame(Type.HELLO, bytes(100), length=0xffffffff), None),
    ("HTTP", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", None),
]


def valid_frames(peer):
    """One of every type that the receiver takes, and what has to come before it."""
    one, two = peer.bit | 1, peer.bit | 2
    pool = open_memory(one, POOL, 4096)
    return [
        (b"", ping()),
        (b"", frame(Type.PONG, bytes(24))),
        (b"", peer.valid_messages()),
        (pool, peer.valid_messages([one])),
        (b"", frame(Type.CREDIT, arg=0)),
        (b"", pool),
        (b"", open_memory(one, FILE, 16)),
        (b"", open_pipe(one, READ)),
        (pool, frame(Type.CLOSE, id=one)),
        (pool, mem_write(one, 0, bytes(16))),
        (pool, mem_write(one, 0, bytes(16), rows=4, stride=100)),
        (pool + open_memory(two, POOL, 4096), mem_copy(one, two, [(0, 0, 4, 4)])),
        (pool, mem_resize(one, 8192)),
        (open_pipe(one, READ), frame(Type.STREAM_DATA, bytes(8), id=one)),
        (open_pipe(one, READ), frame(Type.STREAM_EOF, id=one)),
        (open_pipe(one, WRITE), frame(Type.STREAM_STOP, id=one, arg=1)),
        (b"", frame(Type.END, b"bye", arg=1)),
    ]

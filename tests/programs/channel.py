"""The channel's frames (protocol/channel.h), and both of its ends to be played."""

import os
import selectors
import socket
import struct
import threading
import time
from enum import IntEnum

from surroundings import DEADLINE, Channel

MAGIC, VERSION = 0x52444646, 1
MAX_PAYLOAD = 68 * 1024
MAX_ROWS = 256 * 1024
MESSAGE_WINDOW = 4 * 1024 * 1024
STREAM_WINDOW = 256 * 1024
SOCKET_WINDOW = 1024 * 1024
MAX_STREAM = 64 * 1024
MORE = 0x80000000  # a record goes on in the next frame
SKIPPABLE = 1
HOST_ID = 0x80000000
NO_SEALS = 0xffffffff

READ, WRITE, BOTH = range(3)  # access modes
POOL, FILE, PIPE = 1, 2, 3    # kinds
SOCKET, EVENT, DEVICE, SHARED, SYNC = range(4, 9)  # of services that are not Wayland
OTHER, MOVES, SOURCE, SINK = range(4)  # roles with an eventfd


class Type(IntEnum):
    HELLO = 1
    WELCOME = 2
    REFUSE = 3
    END = 4
    PING = 5
    PONG = 6
    MESSAGES = 7
    CREDIT = 8
    OPEN = 9
    CLOSE = 10
    CLOSED = 11
    MEM_WRITE = 12
    MEM_COPY = 13
    MEM_RESIZE = 14
    MEM_READ = 15
    MEM_READ_REPLY = 16
    STREAM_DATA = 17
    STREAM_EOF = 18
    STREAM_STOP = 19
    STREAM_PAUSE = 20
    STREAM_PAUSED = 21
    EVENT_ADD = 22
    MEM_WORDS = 23
    MEM_UNUSED = 24
    CHALLENGE = 25
    PROOF = 26
    EVENT_ROLE = 27
    REGION_MAP = 28
    REGION_UNMAP = 29
    TIMELINE_SIGNAL = 30
    TIMELINE_WATCH = 31
    REGION_ROWS = 32


def frame(kind, payload=b"", id=0, arg=0, flags=0, length=None):
    length = len(payload) if length is None else length
    return struct.pack("<IHHII", length, kind, flags, id, arg) + payload


def hello(service=b"wayland", magic=MAGIC, versions=(VERSION, VERSION), contents=b"",
          service_length=None, n_contents=None, link=bytes(16), features=0, boot_id=bytes(16)):
    return frame(Type.HELLO, struct.pack(
        "<IHHIHH16sQ16s", magic, *versions, features,
        len(service) if service_length is None else service_length,
        len(contents) // 16 if n_contents is None else n_contents, boot_id, 0, link)
        + service + contents)


def welcome(magic=MAGIC, version=VERSION):
    return frame(Type.WELCOME, struct.pack("<IHHI16sQQQ", magic, version, 0, 0, bytes(16), 0, 0, 0))


def messages(data, refs=(), n_refs=None):
    return frame(Type.MESSAGES, struct.pack(f"<{len(refs)}I", *refs) + data,
                 arg=len(refs) if n_refs is None else n_refs)


def open_memory(id, kind, size, access=BOTH, seals=NO_SEALS, cached=0, hash=bytes(16), exact=0):
    return frame(Type.OPEN, struct.pack("<IIQQ16sII", access, seals, size, 0, hash, cached, exact),
                 id=id, arg=kind)


def open_pipe(id, access, nonblocking=0):
    return frame(Type.OPEN, struct.pack("<II", access, nonblocking), id=id, arg=PIPE)


def open_socket(id, kind=socket.SOCK_STREAM, nonblocking=0, root=0):
    return frame(Type.OPEN, struct.pack("<IIII", kind, nonblocking, root, 0), id=id, arg=SOCKET)


def open_event(id, count=0, semaphore=0, nonblocking=0, name=0, role=MOVES):
    return frame(Type.OPEN, struct.pack("<IIQQI", semaphore, nonblocking, count, name, role),
                 id=id, arg=EVENT)


def open_device(id, device=0, access=BOTH, nonblocking=0):
    return frame(Type.OPEN, struct.pack("<IIII", device, access, nonblocking, 0), id=id, arg=DEVICE)


def open_shared(id, size=0, memory=0, seals=NO_SEALS, access=0, offset=0):
    return frame(Type.OPEN, struct.pack("<IIQIQI", memory, seals, size, access, offset, 0),
                 id=id, arg=SHARED)


def stream_data(id, data=b"", refs=(), n_refs=None, more=0):
    return frame(Type.STREAM_DATA, struct.pack(f"<{len(refs)}I", *refs) + data, id=id,
                 arg=(len(refs) if n_refs is None else n_refs) | more)


def event_role(id, role):
    return frame(Type.EVENT_ROLE, id=id, arg=role)


def event_add(id, count=1, seen=0):
    return frame(Type.EVENT_ADD, struct.pack("<Q", count), id=id, arg=seen)


def mem_words(id, *runs):
    """Each run: offset, bytes, and perhaps another length than theirs."""
    return frame(Type.MEM_WORDS, b"".join(
        struct.pack("<QI", run[0], run[2] if len(run) > 2 else len(run[1])) + run[1]
        for run in runs), id=id)


def mem_write(id, offset, data=b"", stride=None, row_bytes=None, rows=1, length=None):
    row_bytes = len(data) // max(rows, 1) if row_bytes is None else row_bytes
    stride = row_bytes if stride is None else stride
    return frame(Type.MEM_WRITE, struct.pack("<QIIII", offset, stride, row_bytes, rows, 0) + data,
                 id=id, length=length)


def mem_copy(id, source, rects, stride=64, source_offset=0, offset=0, n_rects=None):
    return frame(Type.MEM_COPY, struct.pack(
        "<IIQQII", source, stride, source_offset, offset,
        len(rects) if n_rects is None else n_rects, 0)
        + b"".join(struct.pack("<IIII", *rect) for rect in rects), id=id)


def mem_resize(id, size):
    return frame(Type.MEM_RESIZE, struct.pack("<Q", size), id=id)


def region(kind, offset=0, length=65536, id=0):
    return frame(kind, struct.pack("<QQ", offset, length), id=id)


def ping():
    return frame(Type.PING, bytes(8))


def overflowing_rect(size):
    """A stride and a rectangle whose end, counted in 64 bits, seems to lie within size bytes."""
    for stride in range(0xffffffff, 0x80000000, -1):
        last = (1 << 64) // stride + 1
        if 1 << 32 <= last and last * stride - (1 << 64) + 4 <= size:
            height = 0xffffffff
            return stride, (0, last + 1 - height, 4, height)
    raise AssertionError("no such stride")


def this_boot_id():
    with open("/proc/sys/kernel/random/boot_id") as file:
        return bytes.fromhex(file.read().strip().replace("-", ""))


class End:
    """A connected end of a channel, with all frames that came, and fds where they are kept."""

    def __init__(self, sock):
        self.socket = sock
        self.fds = None  # or a list, to which those are added that come
        self.rest = b""
        self.frames = []  # (type, id, arg, payload)
        self.ended = False

    def send(self, data):
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def half_close(self):
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def receive(self):
        if self.fds is None:
            return self.socket.recv(1 << 18)
        data, fds, _, _ = socket.recv_fds(self.socket, 1 << 18, 8)
        self.fds += fds
        return data

    def read(self, deadline):
        self.socket.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            data = self.receive()
        except ConnectionResetError:
            data = b""
        except TimeoutError:
            raise TimeoutError("the program does not answer in time") from None
        finally:
            self.socket.settimeout(None)
        if not data:
            self.ended = True
            return False
        self.rest += data
        while len(self.rest) >= 16:
            length, kind, _, id, arg = struct.unpack_from("<IHHII", self.rest)
            if len(self.rest) < 16 + length:
                break
            self.frames.append((kind, id, arg, self.rest[16:16 + length]))
            self.rest = self.rest[16 + length:]
        return True

    def got(self, kind):
        return [entry for entry in self.frames if entry[0] == kind]

    def message_bytes(self):
        return b"".join(payload[4 * arg:] for _, _, arg, payload in self.got(Type.MESSAGES))

    def wait_for(self, condition, seconds=DEADLINE):
        deadline = time.monotonic() + seconds
        while not condition():
            if self.ended or not self.read(deadline):
                raise EOFError(f"the program ended the session: {self.reason()}")

    def wait_end(self, seconds=DEADLINE):
        """Reads to the end; the text of REFUSE or END."""
        deadline = time.monotonic() + seconds
        while not self.ended and self.read(deadline):
            pass
        return self.reason()

    def reason(self):
        ends = self.got(Type.REFUSE) + self.got(Type.END)
        return ends[0][3].decode(errors="replace") if ends else ""

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def connect(chan):
    sock = chan.socket()
    sock.connect(chan.address())
    return End(sock)


class Interposer:
    """Sits between the two programs. What comes is forwarded, but for connections that a case has
    asked for beforehand: those are the case's own, as a host that may do anything."""

    def __init__(self, stage):
        self.host_chan = stage.chan
        self.chan = Channel(os.path.join(stage.directory, "interposed"))
        self.piece = 1 << 18  # bytes that are forwarded at once
        self.closing = False
        self.wanted = 0
        self.given = []
        self.arrived = threading.Condition()
        self.listener = self.chan.socket()
        self.listener.bind(self.chan.address())
        self.listener.listen(64)
        self.thread = threading.Thread(target=self.accept, daemon=True)
        self.thread.start()

    def want(self):
        """The next connection is the case's own."""
        with self.arrived:
            self.wanted += 1

    def take(self):
        with self.arrived:
            if not self.arrived.wait_for(lambda: self.given, DEADLINE):
                raise TimeoutError("the guest does not connect")
            return End(self.given.pop(0))

    def accept(self):
        while True:
            sock, _ = self.listener.accept()
            if self.closing:
                sock.close()
                return
            with self.arrived:
                if self.wanted:
                    self.wanted -= 1
                    self.given.append(sock)
                    self.arrived.notify_all()
                    continue
            threading.Thread(target=self.forward, args=(sock, self.piece), daemon=True).start()

    def forward(self, guest, piece):
        host = self.host_chan.socket()
        host.connect(self.host_chan.address())
        other = {guest: host, host: guest}
        with guest, host, selectors.DefaultSelector() as selector:
            for sock in other:
                selector.register(sock, selectors.EVENT_READ)
            while selector.get_map():
                for key, _ in selector.select():
                    if not self.pump(key.fileobj, other[key.fileobj], piece):
                        selector.unregister(key.fileobj)

    @staticmethod
    def pump(source, sink, piece):
        try:
            data = source.recv(1 << 18)
            for at in range(0, len(data), piece):
                sink.sendall(data[at:at + piece])
        except OSError:
            data = b""
        if not data:
            try:
                sink.shutdown(socket.SHUT_WR)
            except OSError:
                pass
        return bool(data)

    def close(self):
        self.closing = True
        with self.chan.socket() as last:  # ends accept
            last.connect(self.chan.address())
        self.thread.join()
        self.listener.close()

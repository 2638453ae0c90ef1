"""The Wayland wire format, and a client that sends exactly the bytes it is told to."""

import os
import socket
import struct
import time

from surroundings import DEADLINE

SERVER_ID = 0xff000000
FDS_MAX = 253  # of one sendmsg


def string(text):
    data = text.encode() + b"\0"
    return struct.pack("=I", len(data)) + data + bytes(-len(data) % 4)


def array(data):
    return struct.pack("=I", len(data)) + data + bytes(-len(data) % 4)


def message(target, opcode, *args, size=None):
    """Ints are words, texts are strings, bytes go as they are."""
    body = b"".join(string(arg) if isinstance(arg, str) else arg if isinstance(arg, bytes)
                    else struct.pack("=I", arg & 0xffffffff) for arg in args)
    size = 8 + len(body) if size is None else size
    return struct.pack("=II", target, (size & 0xffff) << 16 | opcode) + body


def split(data):
    """Whole messages as (target, opcode, body), and the rest."""
    messages = []
    while len(data) >= 8:
        target, word = struct.unpack_from("=II", data)
        size = word >> 16
        if size < 8 or size > len(data):
            break
        messages.append((target, word & 0xffff, data[8:size]))
        data = data[size:]
    return messages, data


def words(body):
    return struct.unpack(f"={len(body) // 4}I", body[:len(body) // 4 * 4])


def take_string(body, at=0):
    """The string at an offset, and the offset behind it."""
    length, = struct.unpack_from("=I", body, at)
    text = body[at + 4:at + 4 + length - 1].decode(errors="replace") if length else ""
    return text, at + 4 + (length + 3 & ~3)


def memfd(size, content=b""):
    fd = os.memfd_create("programs", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    os.pwrite(fd, content, 0)
    return fd


class Ended(Exception):
    """The connection is over; the text is that of wl_display.error, or empty."""


class Client:
    """Object ids are given out here; 1 is the display, 2 the registry."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.socket.connect(path)
        self.next_id = 2
        self.rest = b""
        self.events = []   # all that ever came
        self.fds = []
        self.globals = {}  # interface: (name, version)
        self.registry_id = None
        self.error = None
        self.ended = False

    def new_id(self):
        self.next_id += 1
        return self.next_id - 1

    def send(self, data, fds=()):
        """Fds stay the caller's. An end that has come is not told here but by what is read."""
        fds = list(fds)
        try:
            while len(fds) > FDS_MAX:
                n = socket.send_fds(self.socket, [data[:1]], fds[:FDS_MAX])
                data, fds = data[n:], fds[FDS_MAX:]
            if fds:
                n = socket.send_fds(self.socket, [data], fds)
                data = data[n:]
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def request(self, target, opcode, *args, fds=()):
        self.send(message(target, opcode, *args), fds)

    def read(self, deadline):
        """One read. False when the connection is over."""
        self.socket.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            data, fds, _, _ = socket.recv_fds(self.socket, 65536, FDS_MAX)
        except ConnectionResetError:
            data, fds = b"", []
        except TimeoutError:
            raise TimeoutError("no answer in time") from None
        finally:
            self.socket.settimeout(None)
        self.fds += fds
        if not data:
            self.ended = True
            return False
        messages, self.rest = split(self.rest + data)
        for event in messages:
            self.take(*event)
        return True

    def take(self, target, opcode, body):
        self.events.append((target, opcode, body))
        if target == 1 and opcode == 0:
            self.error = take_string(body, 8)[0]
        elif target == self.registry_id and opcode == 0:
            interface, at = take_string(body, 4)
            self.globals[interface] = (words(body)[0], words(body[at:])[0])

    def wait_for(self, condition, seconds=DEADLINE):
        """Reads until condition() is true."""
        deadline = time.monotonic() + seconds
        while not condition():
            if self.ended or not self.read(deadline):
                raise Ended(self.error or "")

    def wait_end(self, seconds=DEADLINE):
        """Reads to the end of the connection; the text of the error that came before."""
        deadline = time.monotonic() + seconds
        while not self.ended and self.read(deadline):
            pass
        return self.error

    def got(self, target, opcode):
        return [body for event, code, body in self.events if (event, code) == (target, opcode)]

    def sync(self, seconds=DEADLINE):
        callback = self.new_id()
        self.request(1, 0, callback)
        self.wait_for(lambda: self.got(callback, 0), seconds)
        self.events = [event for event in self.events if event[0] not in (1, callback)]

    def get_registry(self):
        self.registry_id = self.new_id()
        self.request(1, 1, self.registry_id)

    def bind(self, interface, version=None, name=None):
        """Asks for the registry first where that has not been done."""
        if self.registry_id is None:
            self.get_registry()
            self.sync()
        offered = self.globals.get(interface, (0, 1))
        new = self.new_id()
        self.request(self.registry_id, 0, offered[0] if name is None else name, interface,
                     version or offered[1], new)
        return new

    def close(self):
        for fd in self.fds:
            os.close(fd)
        self.fds = []
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

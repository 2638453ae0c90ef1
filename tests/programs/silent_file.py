"""A file whose file system answers everything but reads."""

import contextlib
import os
import select
import struct
import threading

from harness import DEADLINE, Skip, check
from passing import LIBC, open_or_skip

MNT_DETACH = 2
LOOKUP, FORGET, GETATTR, OPEN, READ, INIT, INTERRUPT = 1, 2, 3, 14, 15, 26, 36
SILENT = (FORGET, READ, INTERRUPT)
ROOT, FILE = 1, 2  # nodes
SIZE = 5000
LONG = 1000  # seconds for which the kernel need not ask again
ENOSYS = 38


def attributes(node):
    mode = 0o40755 if node == ROOT else 0o100644
    return struct.pack("<6Q10I", node, SIZE, 8, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def answer(opcode, node):
    if opcode == INIT:
        return struct.pack("<4I2H2I2H8I", 7, 31, 0, 0, 1, 1, 4096, 1, 1, 0, *[0] * 8)
    if opcode == LOOKUP:
        return struct.pack("<4Q2I", FILE, 0, LONG, LONG, 0, 0) + attributes(FILE)
    if opcode == GETATTR:
        return struct.pack("<Q2I", LONG, 0, 0) + attributes(node)
    return struct.pack("<Q2I", 0, 0, 0) if opcode == OPEN else None


class SilentFile(contextlib.ExitStack):
    """self.fd, which is the caller's, is the only way to the file. Once closed, its reads fail."""

    def __init__(self, directory):
        super().__init__()
        self.asked = threading.Event()  # for bytes
        path = f"{directory}/silent"
        os.mkdir(path)
        self.callback(os.rmdir, path)
        self.device = open_or_skip("/dev/fuse")
        self.callback(os.close, self.device)
        self.mount(path.encode())
        stop, self.stopped = os.pipe()
        server = threading.Thread(target=self.serve, args=(stop,))
        server.start()
        self.callback(os.close, stop)
        self.callback(server.join)
        self.callback(os.close, self.stopped)
        self.fd = os.open(f"{path}/file", os.O_RDONLY | os.O_CLOEXEC)
        LIBC.umount2(path.encode(), MNT_DETACH)

    def mount(self, path):
        options = f"fd={self.device},rootmode=40000,user_id=0,group_id=0".encode()
        if LIBC.mount(b"fdferry-test", path, b"fuse", 0, options) != 0:
            self.close()
            raise Skip("no FUSE file system can be mounted")

    def serve(self, stop):
        while stop not in select.select([self.device, stop], [], [])[0]:
            request = os.read(self.device, 1 << 17)
            _, opcode, unique, node = struct.unpack_from("<2I2Q", request)
            if opcode == READ:
                self.asked.set()
            if opcode not in SILENT:
                body = answer(opcode, node)
                error, body = (-ENOSYS, b"") if body is None else (0, body)
                os.write(self.device, struct.pack("<IiQ", 16 + len(body), error, unique) + body)

    def wait_asked(self):
        check(self.asked.wait(DEADLINE), "nobody reads the file")

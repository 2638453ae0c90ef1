"""fds to send, what becomes of them, and what can be said of one that was received.

Whatever is said is the same in every run: sizes, digests and seals, no numbers of fds or inodes.
"""

import fcntl
import hashlib
import os
import random
import socket
import stat
import struct
import threading

BYTES = 100_000  # through a pipe or a stream: more than fits into it at once
RECORDS = (1, 700, 30_000, 3)  # bytes
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
MAX_FDS = 16
ACCESS = {os.O_RDONLY: "read", os.O_WRONLY: "write", os.O_RDWR: "read and write"}


def contents(name, size=BYTES):
    return random.Random(name).randbytes(size)


def summary(data):
    return f"{len(data)} bytes {hashlib.sha256(data).hexdigest()[:16]}"


class Made:
    """An fd to send, and a thread that serves the end that we keep."""

    def __init__(self, fd, serve=None):
        self.fd = fd
        self.text = "nothing to report"
        self.thread = threading.Thread(target=self.run, args=(serve,), daemon=True)
        if serve:
            self.thread.start()

    def run(self, serve):
        try:
            self.text = serve()
        except OSError as error:
            self.text = f"{type(error).__name__}"

    def sent(self):
        """The receiver has its own by now."""
        os.close(self.fd)

    def report(self):
        if self.thread.ident:
            self.thread.join(20)
        return "still waiting" if self.thread.is_alive() else self.text


def make(kind):
    return KINDS[kind]()


def make_memfd():
    fd = os.memfd_create("sealed", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, contents("memfd"))
    os.lseek(fd, 1000, os.SEEK_SET)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    return Made(fd)


def make_source():
    reading, writing = os.pipe()

    def serve():
        write_all(writing, contents("source"))
        return f"source wrote {BYTES} bytes"
    return Made(reading, serve)


def make_sink():
    reading, writing = os.pipe()
    return Made(writing, lambda: f"sink read {summary(read_all(reading))}")


def make_stream():
    ours, theirs = socket.socketpair()

    def serve():
        inner = make_source()
        data = contents("stream")
        ours.sendall(data[:1000])
        socket.send_fds(ours, [data[1000:1001]], [inner.fd])
        inner.sent()
        ours.sendall(data[1001:])
        ours.shutdown(socket.SHUT_WR)
        answer, _ = drain(ours)
        ours.close()
        return f"stream got back {summary(b''.join(answer))}, {inner.report()}"
    return Made(theirs.detach(), serve)


def make_records():
    ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)

    def serve():
        for size in RECORDS[:-1]:
            ours.send(contents("records", size))
        inner = make_sink()
        socket.send_fds(ours, [contents("records", RECORDS[-1])], [inner.fd])
        inner.sent()
        ours.shutdown(socket.SHUT_WR)
        answer, _ = drain(ours)
        ours.close()
        return f"records got back {[len(record) for record in answer]}, {inner.report()}"
    return Made(theirs.detach(), serve)


def make_directory():
    return Made(os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))


KINDS = {
    "memfd": make_memfd,
    "source": make_source,
    "sink": make_sink,
    "stream": make_stream,
    "records": make_records,
    "directory": make_directory,
}


def describe(fd):
    """Says what fd is and what is in it, answers where it can be answered, and closes it."""
    mode = os.fstat(fd).st_mode
    if stat.S_ISFIFO(mode):
        return describe_pipe(fd)
    if stat.S_ISSOCK(mode):
        return describe_socket(fd)
    if stat.S_ISDIR(mode):
        text = "a directory"
    elif stat.S_ISCHR(mode):
        text = "the null device" if os.fstat(fd).st_rdev == os.makedev(1, 3) else "a device"
    else:
        text = describe_memory(fd)
    os.close(fd)
    return text


def access_of(fd):
    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE


def describe_memory(fd):
    seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    size = os.fstat(fd).st_size
    return (f"memory, {ACCESS[access_of(fd)]}, at {os.lseek(fd, 0, os.SEEK_CUR)}, "
            f"seals {seals:#x}, {summary(os.pread(fd, size, 0))}")


def describe_pipe(fd):
    if access_of(fd) == os.O_RDONLY:
        return f"pipe with {summary(read_all(fd))}"
    write_all(fd, contents("answer"))
    return f"pipe took {BYTES} bytes"


def describe_socket(fd):
    peer = socket.socket(fileno=fd)
    kind = "stream" if peer.type == socket.SOCK_STREAM else "records"
    pieces, fds = drain(peer)
    inner = [describe(each) for each in fds]
    if kind == "stream":
        peer.sendall(b"".join(pieces)[::-1])
        text = summary(b"".join(pieces))
    else:
        for record in pieces:
            peer.send(record[::-1])
        text = ", ".join(summary(record) for record in pieces)
    peer.close()
    return f"{kind}: {text}, and {inner}"


def drain(peer):
    """All pieces or records, and all fds, up to the end."""
    pieces, fds = [], []
    while True:
        data, control, _, _ = peer.recvmsg(65536, socket.CMSG_SPACE(4 * MAX_FDS),
                                           socket.MSG_CMSG_CLOEXEC)
        for level, kind, payload in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.extend(struct.unpack(f"{len(payload) // 4}i", payload))
        if not data:
            return pieces, fds
        pieces.append(data)


def read_all(fd):
    with open(fd, "rb") as file:
        return file.read()


def write_all(fd, data):
    with open(fd, "wb") as file:
        file.write(data)

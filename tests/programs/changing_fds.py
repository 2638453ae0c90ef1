"""Clients and services whose fds change while they cross and afterwards, and who send too much."""

import ctypes
import fcntl
import mmap
import os
import select
import signal
import socket
import struct
import threading
import time

from harness import DEADLINE, case_list, check, wait_until
from opaque import Session, close_all, read_exactly, read_to_end, receive
from passing import (LIBC, SEAL_GROW, SEAL_SHRINK, SEAL_WRITE, adder, memory, sealed)
from silent_file import SilentFile

CASES, case = case_list("changing fds")
add = adder(case)
SNAPSHOT = ["--shm-mode", "snapshot"]
DIFF = ["--shm-mode", "diff"]


# ---- descriptions that change afterwards ----

def changing_flags(passing):
    near, far = socket.socketpair()
    read, write = os.pipe()
    passing.pass_fds(far.fileno(), read)
    data, fds = receive(passing.receiver)
    passing.keep(*fds)
    for fd in (far.fileno(), read):
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        for change in (os.O_NONBLOCK, os.O_APPEND, os.O_ASYNC, 0, os.O_NONBLOCK | os.O_ASYNC):
            fcntl.fcntl(fd, fcntl.F_SETFL, flags | change)
            fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
            fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
            near.send(b"bytes")
            os.write(write, b"bytes")
            with socket.socket(fileno=os.dup(fds[0])) as copy:
                copy.settimeout(DEADLINE)
                check(read_exactly(copy, 5) == b"bytes", "the socket has other bytes")
            check(os.read(fds[1], 5) == b"bytes", "the pipe has other bytes")
            check(fcntl.fcntl(fd, fcntl.F_GETFL) == flags | change, "the flags change back")
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)
    close_all([read, write])
    near.close()
    far.close()


def with_sigurg_ignored(passing):
    before = signal.signal(signal.SIGURG, signal.SIG_IGN)
    try:
        changing_flags(passing)
    finally:
        signal.signal(signal.SIGURG, before)


add("O_NONBLOCK, O_APPEND, O_ASYNC and F_SETOWN that change afterwards", with_sigurg_ignored)


def shared_reader(passing):
    """Somebody else reads from the pipe that was passed: a wake-up may find nothing."""
    read, write = os.pipe()
    got = passing.pass_one(read)
    os.set_blocking(read, False)
    taken, stop = [0], threading.Event()

    def compete():
        while not stop.is_set():
            try:
                taken[0] += len(os.read(read, 100))
            except BlockingIOError:
                pass
    thread = threading.Thread(target=compete)
    thread.start()
    total = 2000 * 10
    for _ in range(2000):
        os.write(write, b"ten bytes.")
    wait_for_rest = time.monotonic() + DEADLINE
    os.close(write)
    arrived = 0
    while part := os.read(got, 1 << 16):
        arrived += len(part)
        check(time.monotonic() < wait_for_rest, "the pipe does not end")
    stop.set()
    thread.join()
    os.close(read)
    check(arrived + taken[0] == total, f"{arrived} + {taken[0]} of {total} bytes")
    passing.sender.send(b"alive")
    check(read_exactly(passing.receiver, 5) == b"alive", "something else comes")


add("a pipe from which somebody else reads, too", shared_reader)


def lonely_fifo(passing):
    """It waits for a writer, and holds nobody up."""
    path = f"{passing.stage.directory}/fifo"
    os.mkfifo(path)
    got = passing.pass_one(passing.keep(os.open(path, os.O_RDONLY | os.O_NONBLOCK)))
    passing.sync()
    check(not readable(got), "something comes from nobody")
    with open(path, "wb") as writer:
        writer.write(b"late")
    os.unlink(path)
    os.set_blocking(got, True)
    check(os.read(got, 10) + os.read(got, 10) == b"late", "other bytes come")


add("a FIFO that nobody has opened for writing", lonely_fifo)


def silent_file(passing):
    """Its reads wait for ever, and with them their session, but nobody else."""
    stage = passing.stage
    with SilentFile(stage.directory) as file:
        passing.pass_fds(file.fd)
        os.close(file.fd)
        file.wait_asked()
        stage.witness.sync()
        with Session(stage) as other:
            other.sync()
        file.close()  # what cannot be read is zeros
        data, fds = receive(passing.receiver)
        check(data == b"x" and len(fds) == 1, f"{data!r} comes with {len(fds)} fds")
        check(not any(os.pread(passing.keep(*fds), 10000, 0)), "bytes come that nobody has sent")


add("a file whose reads are never answered", silent_file)


# ---- counts ----

def overflowing(passing):
    """A replica that is full: what is added waits, and the writer is the one who waits for it."""
    fd = passing.keep(os.eventfd(0, os.EFD_NONBLOCK))
    got = passing.pass_one(fd)
    largest = (1 << 64) - 2
    os.eventfd_write(fd, largest)
    wait_until("the counts cross", lambda: readable(got))
    os.eventfd_write(fd, 1)
    check(os.eventfd_read(got) == largest, "the first count is another")
    wait_until("the rest comes", lambda: readable(got))
    check(os.eventfd_read(got) == 1, "the second count is another")
    try:
        os.eventfd_write(fd, (1 << 64) - 1)
        check(False, "the kernel takes 2^64-1")
    except OSError:
        pass


def readable(fd):
    return bool(select.select([fd], [], [], 0)[0])


add("an eventfd near its overflow", overflowing)


def tokens(passing):
    fd = passing.keep(os.eventfd(3, os.EFD_NONBLOCK | os.EFD_SEMAPHORE))
    got = passing.pass_one(fd)
    for n in range(3):
        wait_until(f"token {n} comes", lambda: readable(got))
        check(os.eventfd_read(got) == 1, "it is no semaphore")
    check(not readable(got), "there are more than three tokens")


add("a semaphore's tokens", tokens)


# ---- files that change ----

def passed_copy(passing, fd):
    got = passing.pass_one(fd)
    return os.pread(got, 1 << 20, 0), os.fstat(got).st_size


def odd_sizes(passing):
    for size in (0, 1, 4095, 4097, 65537):
        contents = bytes(range(1, 252)) * 300
        fd = passing.keep(sealed(size, contents[:size]))
        data, length = passed_copy(passing, fd)
        check(length == size and data == contents[:size], f"{length} of {size} bytes")


add("sealed memory of sizes that are no multiple of a page", odd_sizes)


def shrinking(passing):
    """Truncated by its owner at any time during the copy: the size stays, the rest is zeros."""
    path = f"{passing.stage.directory}/shrinks"
    size = 8 << 20
    for delay in (0, 0.0002, 0.001, 0.004):
        with open(path, "wb") as file:
            file.write(b"a" * size)
            file.flush()
            fd = os.open(path, os.O_RDONLY)
            passing.pass_fds(fd)
            time.sleep(delay)
            file.truncate(100)
        os.close(fd)
        data, fds = receive(passing.receiver)
        copy = os.pread(fds[0], size + 1, 0)
        length = len(copy)
        close_all(fds)
        check(length in (size, 100), f"{length} bytes come")
        check(copy.strip(b"a").strip(b"\0") == b"", "other bytes come")
    os.unlink(path)


add("a file that is truncated while it is copied", shrinking)


def growing(passing):
    path = f"{passing.stage.directory}/grows"
    stop = threading.Event()
    with open(path, "wb") as file:
        file.write(b"a" * 4096)
        file.flush()

        def grow():
            while not stop.is_set() and file.tell() < 32 << 20:
                file.write(b"a" * 65536)
                file.flush()
        thread = threading.Thread(target=grow)
        fd = os.open(path, os.O_RDONLY)
        thread.start()
        try:
            data, length = passed_copy(passing, fd)
        finally:
            stop.set()
            thread.join()
            os.close(fd)
            os.unlink(path)
    check(4096 <= length <= 33 << 20 and set(data) == {ord("a")}, f"{length} bytes come")


add("a file that grows while it is copied", growing)


def endless_devices(passing):
    for path in ("/dev/zero", "/dev/urandom", "/dev/null", "/dev/full"):
        fd = passing.keep(os.open(path, os.O_RDWR))
        got = passing.pass_one(fd)
        check(os.fstat(got).st_rdev == os.fstat(fd).st_rdev, f"{path} is another device")


add("/dev/zero and its like are opened there, not copied", endless_devices)


def unsealed_afterwards(passing):
    """Memory that is read-only here, and written by its owner while it crosses."""
    fd = memory(1 << 20, b"a" * (1 << 20))
    read_only = passing.keep(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY))
    with mmap.mmap(fd, 1 << 20) as mapping:
        stop = threading.Event()

        def write():
            while not stop.is_set():
                mapping[:] = b"b" * len(mapping)
                mapping[:] = b"a" * len(mapping)
        thread = threading.Thread(target=write)
        thread.start()
        try:
            data, length = passed_copy(passing, read_only)
        finally:
            stop.set()
            thread.join()
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEAL_SHRINK | SEAL_GROW | SEAL_WRITE)
    os.close(fd)
    check(length == 1 << 20 and set(data) <= set(b"ab"), "other bytes come")


add("memory that its owner writes while it is copied, and seals afterwards", unsealed_afterwards)


def punched(passing):
    fd = passing.keep(memory(4 << 20, b"a" * (4 << 20)))
    passing.pass_fds(fd)
    LIBC.fallocate(fd, 3, ctypes.c_long(4096), ctypes.c_long(2 << 20))  # KEEP_SIZE, PUNCH_HOLE
    data, fds = receive(passing.receiver)
    copy = os.pread(fds[0], 5 << 20, 0)
    close_all(fds)
    check(len(copy) == 4 << 20 and set(copy) <= {0, ord("a")}, "other bytes come")


add("memory with a hole that is punched while it is copied", punched, "snapshots",
    host=SNAPSHOT, guest=SNAPSHOT)


def sparse(passing):
    passing.pass_fds(passing.keep(memory(1 << 40)))
    passing.expect_end("--max-file-copy")


add("a sparse memfd of 1 TiB with --shm-mode snapshot", sparse, "snapshots",
    host=SNAPSHOT, guest=SNAPSHOT)


def truncated_sharing(passing):
    """The owner's mapping is gone under the proxy that compares it."""
    fd = passing.keep(memory(1 << 20, b"shared"))
    got = passing.pass_one(fd)
    check(os.pread(got, 6, 0) == b"shared", "other bytes come")
    for size in (0, 100, 4097, 1 << 20):
        os.ftruncate(fd, size)
        os.pwrite(fd, b"again.", 0)
        passing.sender.send(b"look")
        check(read_exactly(passing.receiver, 4) == b"look", "something else comes")


add("shared memory that its owner truncates", truncated_sharing, "sharing-fds",
    host=DIFF, guest=DIFF)


def racing_sharing(passing):
    """Both sides write all the time: no order is promised, but nothing breaks."""
    size = 1 << 16
    fd = passing.keep(memory(size))
    got = passing.pass_one(fd)
    stop = threading.Event()

    def write(where):
        with mmap.mmap(where, size) as mapping:
            n = 0
            while not stop.is_set():
                n += 1
                mapping[:8] = struct.pack("Q", n)
                mapping[n % (size - 8):n % (size - 8) + 8] = bytes(8)
    threads = [threading.Thread(target=write, args=[where]) for where in (fd, got)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(200):
            passing.sync()
    finally:
        stop.set()
        for thread in threads:
            thread.join()


add("shared memory that both sides write to all the time", racing_sharing, "sharing-fds",
    host=DIFF, guest=DIFF)


def huge_sharing(passing):
    """A TiB is not charged for in vain: it is refused, with the option's name."""
    passing.pass_fds(passing.keep(memory(1 << 40)))
    passing.expect_end("--max-memory")


add("a sparse memfd of 1 TiB with --shm-mode diff", huge_sharing, "sharing-fds",
    host=DIFF, guest=DIFF)


# ---- flow ----

def never_reading(passing):
    """Everybody sends, on several sockets, and nobody reads."""
    pairs = [socket.socketpair() for _ in range(8)]
    passing.pass_fds(*[far.fileno() for _, far in pairs])
    data, fds = receive(passing.receiver)
    copies = [socket.socket(fileno=fd) for fd in fds]
    sent = 0
    for sock in [near for near, _ in pairs] + copies + [passing.sender, passing.receiver]:
        sock.setblocking(False)
        try:
            while sent < 256 << 20:
                sent += sock.send(bytes(1 << 16))
        except BlockingIOError:
            pass
    check(sent < 128 << 20, f"{sent >> 20} MiB are taken that nobody reads")
    passing.stage.witness.sync()
    for sock in [sock for pair in pairs for sock in pair] + copies:
        sock.close()
    return f"{sent >> 20} MiB wait"


add("everybody sends and nobody reads", never_reading)


def drip(passing):
    """One byte at a time on many sockets in turns."""
    count = 1000
    pairs = [socket.socketpair() for _ in range(count)]
    copies = []
    for at in range(0, count, 250):
        passing.pass_fds(*[far.fileno() for _, far in pairs[at:at + 250]])
        copies += [socket.socket(fileno=fd) for fd in receive(passing.receiver)[1]]
    check(len(copies) == count, f"{len(copies)} sockets come")
    for _, far in pairs:
        far.close()
    for turn in range(3):
        for near, _ in pairs:
            near.send(b"%d" % turn)
        for copy in copies:
            copy.settimeout(DEADLINE)
            check(copy.recv(1) == b"%d" % turn, "another byte comes")
    passing.stage.witness.sync()
    for near, copy in zip(pairs, copies):
        near[0].close()
        copy.close()


add("single bytes on each of 1000 sockets in turns", drip)


def too_many(passing):
    """A pipe takes one fdref on either side, and counts where it waits to be read, too."""
    made = 0
    try:
        while made < 8192:
            fds = [fd for _ in range(100) for fd in os.pipe()]
            try:
                passing.pass_fds(*fds)
            finally:
                close_all(fds)
            made += len(fds)
            data, got = receive(passing.receiver)
            passing.keep(*got)
            if not data:
                break
    except (BrokenPipeError, ConnectionResetError):
        pass
    check(made < 8192, f"{made} fds are taken")
    read_to_end(passing.receiver)
    for program in passing.stage.programs():
        check(program.alive(), "a program died")

    def said():
        return passing.program.errors()[passing.logged[passing.program]:]
    wait_until(lambda: f"it says why: {said()!r}",
               lambda: "too many fds" in said() or "--max-fds" in said())


add("more pipes than a session may have", too_many)

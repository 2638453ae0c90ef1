"""Clients and services that pass what cannot cross, their own sockets, or sockets in odd states."""

import array
import ctypes
import fcntl
import os
import select
import socket
import stat
import struct
import time

from harness import DEADLINE, SLOW, Skip, case_list, check
from opaque import ServiceStage, close_all, read_exactly, read_to_end, receive, send_fds
from passing import (LIBC, SEAL_GROW, SEAL_SEAL, SEAL_SHRINK, SEAL_WRITE, Passing, adder, memory,
                     open_or_skip, sealed, system_call)

CASES, case = case_list("hostile fds")
add = adder(case)
# System calls of x86-64.
PIDFD_GETFD, MEMFD_SECRET, USERFAULTFD, BPF = 438, 447, 323, 321
PERF_EVENT_OPEN, FANOTIFY_INIT = 298, 300
SO_SNDBUFFORCE = 32


# ---- kinds that cannot cross ----

def of_socket(sock):
    return sock.detach()


def listening(kind=socket.SOCK_STREAM):
    sock = socket.socket(socket.AF_UNIX, kind)
    sock.bind("")
    sock.listen()
    return sock.detach()


def third_party_datagram():
    target = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    target.bind("")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.connect(target.getsockname())
    target.close()
    return sock.detach()


def datagram_pair():
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    other.close()
    return one.detach()


def terminal():
    try:
        primary, secondary = os.openpty()
    except OSError as error:
        raise Skip(f"no pseudo-terminal: {error}")
    os.close(primary)
    return secondary


def epoll():
    with select.epoll() as instance:
        return os.dup(instance.fileno())


def signals():
    mask = ctypes.create_string_buffer(128)
    return LIBC.signalfd(-1, mask, os.O_CLOEXEC)


def vsock():
    try:
        return socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).detach()
    except OSError as error:
        raise Skip(f"no vsock: {error}")


def raw():
    try:
        return socket.socket(socket.AF_INET, socket.SOCK_RAW, 255).detach()
    except OSError as error:
        raise Skip(f"no raw socket: {error}")


def block_device():
    for name in os.listdir("/dev"):
        if name.startswith(("loop", "vd", "sd", "nvme")):
            try:
                fd = os.open(f"/dev/{name}", os.O_RDONLY)
            except OSError:
                continue
            if os.fstat(fd).st_mode & 0o170000 == 0o060000:
                return fd
            os.close(fd)
    raise Skip("no block device can be opened")


def bpf_map():
    """BPF_MAP_CREATE of an array."""
    attributes = struct.pack("<IIII", 2, 4, 4, 1) + bytes(112)
    return system_call(BPF, 0, attributes, len(attributes))


def perf_event():
    """A software clock of this process."""
    attributes = struct.pack("<IIQ", 1, 112, 1) + bytes(96)
    return system_call(PERF_EVENT_OPEN, attributes, 0, -1, -1, 0)


def message_queue():
    fd = LIBC.mq_open(b"/fdferry-test", os.O_CREAT | os.O_RDWR, 0o600, None)
    if fd < 0:
        raise Skip(f"mq_open: {os.strerror(ctypes.get_errno())}")
    LIBC.mq_unlink(b"/fdferry-test")
    return fd


def bidirectional_fifo(directory="/tmp"):
    path = f"{directory}/fdferry-fifo-{os.getpid()}"
    os.mkfifo(path, 0o600)
    try:
        return os.open(path, os.O_RDWR)
    finally:
        os.unlink(path)


def temporary_file(flags, directory="/var/tmp"):
    path = f"{directory}/fdferry-file-{os.getpid()}"
    with open(path, "wb") as file:
        file.write(b"contents")
    try:
        return os.open(path, flags)
    finally:
        os.unlink(path)


def named_memfd():
    """A file that only has the name of a memfd."""
    path = f"/dev/shm/memfd:x{os.getpid()}"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise Skip(f"no tmpfs: {error}")
    os.unlink(path)
    os.ftruncate(fd, 4096)
    return fd


def huge_memory():
    """A hugetlb memfd, whether or not there are pages for it."""
    try:
        fd = os.memfd_create("huge", os.MFD_CLOEXEC | os.MFD_HUGETLB)
        os.ftruncate(fd, 2 << 20)
        return fd
    except OSError as error:
        raise Skip(f"no hugetlb memory: {error}")


def timer():
    return LIBC.timerfd_create(time.CLOCK_MONOTONIC, os.O_CLOEXEC)


REFUSED = [
    ("a directory", "a directory", lambda: os.open("/", os.O_RDONLY)),
    ("an O_PATH fd", "O_PATH", lambda: os.open("/etc/passwd", os.O_PATH)),
    ("an O_PATH fd of a socket", "O_PATH", lambda: os.open("/proc/self/exe", os.O_PATH)),
    ("an epoll instance", "epoll", epoll),
    ("a pidfd", "pidfd", lambda: os.pidfd_open(os.getpid())),
    ("a userfaultfd", "userfaultfd", lambda: system_call(USERFAULTFD, os.O_CLOEXEC)),
    ("/dev/kvm", "character device", lambda: open_or_skip("/dev/kvm")),
    ("/dev/mem", "character device", lambda: open_or_skip("/dev/mem", os.O_RDONLY)),
    ("/dev/fuse", "character device", lambda: open_or_skip("/dev/fuse")),
    ("a block device", "block device", block_device),
    ("a terminal", "terminal", terminal),
    ("a bpf map", "bpf", bpf_map),
    ("a perf event", "perf", perf_event),
    ("a fanotify group", "fanotify", lambda: system_call(FANOTIFY_INIT, 0, 0)),
    ("a network namespace", "namespace", lambda: os.open("/proc/self/ns/net", os.O_RDONLY)),
    ("an inotify instance", "inotify", lambda: LIBC.inotify_init1(os.O_CLOEXEC)),
    ("a signalfd", "signalfd", signals),
    ("a timerfd", "timerfd", timer),
    ("a message queue", "message queue", message_queue),
    ("a TCP socket", "network socket", lambda: of_socket(socket.socket())),
    ("a UDP socket", "network socket",
     lambda: of_socket(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))),
    ("a raw socket", "network socket", raw),
    ("a netlink socket", "netlink", lambda: of_socket(
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))),
    ("a vsock socket", "vsock", vsock),
    ("a listening socket", "listening", listening),
    ("a listening socket of records", "listening", lambda: listening(socket.SOCK_SEQPACKET)),
    ("an unconnected socket", "unconnected", lambda: of_socket(socket.socket(socket.AF_UNIX))),
    ("a datagram socket", "datagram", datagram_pair),
    ("a datagram socket of a third party's", "datagram", third_party_datagram),
    ("a FIFO that is open both ways", "FIFO", bidirectional_fifo),
    ("a file that is only to be written", "written", lambda: temporary_file(os.O_WRONLY)),
    ("a file that may be written", "written", lambda: temporary_file(os.O_RDWR)),
    ("a file of /proc", "kernel", lambda: os.open("/proc/self/maps", os.O_RDONLY)),
    ("a process's memory", "kernel", lambda: os.open("/proc/self/mem", os.O_RDWR)),
    ("/proc/kmsg", "kernel", lambda: open_or_skip("/proc/kmsg", os.O_RDONLY | os.O_NONBLOCK)),
    ("a file of /sys", "kernel",
     lambda: open_or_skip("/sys/kernel/uevent_seqnum", os.O_RDONLY)),
    ("memory that may be written", "--shm-mode", memory),
    ("memory that is sealed against all but writing", "--shm-mode",
     lambda: sealed(seals=SEAL_SEAL | SEAL_SHRINK | SEAL_GROW)),
    ("memory that may grow", "--shm-mode", lambda: sealed(seals=SEAL_WRITE | SEAL_SHRINK)),
    ("a file that has a memfd's name", "--shm-mode", named_memfd),
    ("hugetlb memory", "--shm-mode", huge_memory),
    ("secret memory", "secret", lambda: system_call(MEMFD_SECRET, 0)),
    ("a sparse memfd of 1 TiB", "--shm-mode", lambda: memory(1 << 40)),
    ("a sealed memfd of 1 TiB", "--max-file-copy", lambda: sealed(1 << 40)),
    ("a sealed memfd of 8 EiB", "--max-file-copy", lambda: sealed((1 << 63) - 4096)),
]


def refuse(passing, says, make):
    fd = passing.keep(make())
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    passing.pass_fds(fd)
    passing.expect_end(says)
    check(fcntl.fcntl(fd, fcntl.F_GETFL) == flags, "the sender's flags are changed")


for name, says, make in REFUSED:
    add(f"{name} is refused, by name", lambda passing, says=says, make=make: refuse(
        passing, says, make))


def in_the_middle(passing):
    """Refused as one of several: none comes, and none is lost."""
    passing.pass_fds(passing.keep(os.eventfd(0)), passing.keep(epoll()),
                     passing.keep(os.eventfd(0)), data=b"some bytes")
    passing.expect_end("fd 2 of those with byte 0")


add("an fd that cannot cross between two that can", in_the_middle)


# ---- the proxy's own ----

def steal(passing, pid, fd):
    """A copy of another process's fd, as root or a debugger can have one."""
    process = passing.keep(os.pidfd_open(pid))
    return system_call(PIDFD_GETFD, process, fd, 0)


def own_fds(origin):
    @case(f"{origin}: the proxy's own sockets, its channel and its loop")
    def _(suite):
        stage = suite.stage("services", kind=ServiceStage)
        number = 0
        while True:
            files = {program: program.settled_files() for program in stage.programs()}
            passing = Passing(stage, origin)
            try:
                pid = passing.program.servant(files[passing.program])
                passing.sync()
                fds = sorted(int(fd) for fd in os.listdir(f"/proc/{pid}/fd"))
                if number >= len(fds):
                    check("the connection between guest and host cannot cross" in
                          passing.program.errors(), "the channel crosses")
                    return f"{number} fds"
                passing.pass_fds(passing.keep(steal(passing, pid, fds[number])))
                close_all(receive(passing.receiver)[1])  # it is dealt with
                stage.witness.sync()
            finally:
                passing.close()
            stage.check(SLOW)
            number += 1


own_fds("client")
own_fds("service")


def own_end(passing):
    """The sender's own end of the connection, sent over itself."""
    fd = passing.pass_one(passing.keep(os.dup(passing.sender.fileno())))
    with socket.socket(fileno=os.dup(fd)) as copy:
        copy.settimeout(DEADLINE)
        passing.receiver.send(b"round")
        check(read_exactly(copy, 5) == b"round", "something else comes round")


add("the sender's own end of the connection", own_end)


# ---- a socket twice ----

def pass_in_vain(passing, fd, says):
    """On the host it is replaced: a service may pass on what is another guest's."""
    passing.pass_fds(fd)
    if passing.program is passing.stage.guest:
        passing.expect_end(says)
        return
    data, fds = receive(passing.receiver)
    check(data == b"x" and len(fds) == 1, f"{data!r} comes with {len(fds)} fds")
    check(stat.S_ISCHR(os.fstat(passing.keep(*fds)).st_mode), "no /dev/null comes")
    passing.stage.check_line(passing.program, passing.logged, says)


def again(passing):
    near, far = socket.socketpair()
    with near, far:
        passing.pass_one(far.fileno())
        pass_in_vain(passing, far.fileno(), "it was passed before")


add("a socket once more, while its first copy is in use", again)


def in_two_sessions(passing):
    stage = passing.stage
    other = Passing(stage, "client" if passing.program is stage.guest else "service")
    near, far = socket.socketpair()
    try:
        with near, far:
            copy = passing.pass_one(far.fileno())
            pass_in_vain(other, far.fileno(), "it was passed in another session")
            near.send(b"all of it")
            with socket.socket(fileno=os.dup(copy)) as reader:
                reader.settimeout(DEADLINE)
                check(read_exactly(reader, 9) == b"all of it", "something else comes")
    finally:
        other.close()


add("a socket in two sessions", in_two_sessions)


# ---- cycles and depth ----

def ring(passing):
    """Three sockets of which each carries the next one's other end, all let go of: twice each."""
    pairs = [socket.socketpair() for _ in range(3)]
    for n, (near, _) in enumerate(pairs):
        send_fds(near, b"ring", [pairs[(n + 1) % 3][1].fileno()])
    passing.pass_fds(*[far.fileno() for _, far in pairs])
    for near, far in pairs:
        near.close()
        far.close()
    if passing.program is passing.stage.guest:
        passing.expect_end("it was passed before")
        return
    close_all(receive(passing.receiver)[1])
    passing.sender.send(b"goes on")
    check(read_exactly(passing.receiver, 7) == b"goes on", "something else comes")


add("a ring of three sockets that carry each other", ring)

DEEP = 200


def nest(passing):
    """Each socket is sent through the one before; the kernel bounds how deep they may lie."""
    outer, far = passing.sender, passing.receiver
    opened = []
    for depth in range(DEEP):
        near, other = socket.socketpair()
        opened += [near, other]
        send_fds(outer, b"x", [other.fileno()])
        other.close()
        data, fds = receive(far)
        check(data == b"x" and len(fds) == 1, f"at depth {depth}: {data!r}")
        outer, far = near, socket.socket(fileno=fds[0])
        far.settimeout(DEADLINE)
        opened.append(far)
    outer.send(b"bottom")
    check(read_exactly(far, 6) == b"bottom", "something else comes")
    for sock in opened:
        sock.close()


add(f"sockets in sockets, {DEEP} deep", nest)


# ---- sockets in odd states ----

def preloaded(passing):
    """Bytes and fds that were queued before it was sent go with it."""
    near, far = socket.socketpair()
    read, write = os.pipe()
    near.send(b"before")
    send_fds(near, b"with", [read])
    near.shutdown(socket.SHUT_WR)
    got = passing.pass_one(far.fileno())
    far.close()
    os.write(write, b"piped")
    close_all([read, write])
    with socket.socket(fileno=os.dup(got)) as copy:
        copy.settimeout(DEADLINE)
        check(read_exactly(copy, 6) == b"before", "the bytes are others")
        data, fds = receive(copy)
        check(data == b"with" and len(fds) == 1, f"{data!r} comes with {len(fds)} fds")
        check(os.read(fds[0], 10) == b"piped", "the pipe is another one")
        close_all(fds)
        check(copy.recv(10) == b"", "no end comes")
        copy.send(b"answer")
        check(near.recv(10) == b"answer", "no answer comes")
    near.close()


add("a socket with unread bytes and fds, whose peer has shut down", preloaded)


def shut_down(passing):
    for how in (socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR):
        near, far = socket.socketpair()
        far.shutdown(how)
        got = passing.pass_one(far.fileno())
        far.close()
        with socket.socket(fileno=os.dup(got)) as copy:
            copy.settimeout(DEADLINE)
            if how != socket.SHUT_WR:
                check(copy.recv(10) == b"", "no end comes")
        if how != socket.SHUT_RD:
            near.settimeout(DEADLINE)
            check(near.recv(10) == b"", "the peer sees no end")
        near.close()


add("a socket that is shut down already", shut_down)


def dead_peer(passing):
    near, far = socket.socketpair()
    near.close()
    got = passing.pass_one(far.fileno())
    far.close()
    with socket.socket(fileno=os.dup(got)) as copy:
        read_to_end(copy)


add("a socket whose peer is gone", dead_peer)


def empty_records(passing):
    read, write = os.pipe()
    passing.keep(read, write)
    passing.sender.send(b"")
    send_fds(passing.sender, b"", [read])
    passing.sender.send(b"")
    passing.sender.sendmsg([b"last"], [], socket.MSG_EOR)
    for expected in (0, 1, 0):
        data, fds = receive(passing.receiver)
        close_all(fds)
        check(data == b"" and len(fds) == expected, f"{data!r} comes with {len(fds)} fds")
    check(receive(passing.receiver)[0] == b"last", "something else comes")


add("records of 0 bytes, with fds and without", empty_records, records=True)


def long_records(passing):
    largest = 256 << 10
    passing.sender.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 4 << 20)
    passing.sender.send(bytes(largest))
    data, _ = receive(passing.receiver, 1 << 20)
    check(len(data) == largest, f"{len(data)} bytes come")
    send_fds(passing.sender, bytes(largest + 1), [passing.keep(os.eventfd(0))])
    passing.expect_end("too long")


add("a record that is too long to cross, with an fd", long_records, records=True)


def out_of_band(passing):
    passing.sender.send(b"ab")
    try:
        passing.sender.send(b"!", socket.MSG_OOB)
    except OSError as error:
        raise Skip(f"no MSG_OOB for UNIX sockets: {error}")
    passing.sender.send(b"cd")
    check(read_exactly(passing.receiver, 4) == b"abcd", "something else comes")


add("bytes out of band are left out, and those around them are not", out_of_band)


def false_credentials(passing):
    """As root anybody can claim to be anybody; nothing of it crosses."""
    claim = struct.pack("3i", 1, 0, 0)
    passing.receiver.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    try:
        passing.sender.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, claim)])
    except PermissionError as error:
        raise Skip(str(error))
    data, control, _, _ = passing.receiver.recvmsg(10, 1000)
    pids = [struct.unpack_from("i", value)[0] for _, kind, value in control
            if kind == socket.SCM_CREDENTIALS]
    check(data == b"x" and pids and pids[0] != 1, f"{data!r} comes from {pids}")


add("credentials that are not true", false_credentials)


def passing_options(passing):
    """Sockets that ask for credentials and security labels of every message."""
    near, far = socket.socketpair()
    for option in (socket.SO_PASSCRED, socket.SO_PASSSEC):
        far.setsockopt(socket.SOL_SOCKET, option, 1)
    got = passing.pass_one(far.fileno())
    far.close()
    for n in range(20):
        send_fds(near, b"%d." % n, [passing.keep(os.eventfd(0))] if n % 3 == 0 else [])
    with socket.socket(fileno=os.dup(got)) as copy:
        copy.settimeout(DEADLINE)
        expected = b"".join(b"%d." % n for n in range(20))
        data = b""
        while len(data) < len(expected):
            part, fds = receive(copy)
            data += part
            close_all(fds)
        check(data == expected, f"{data!r} comes")
    near.close()


add("a socket with SO_PASSCRED and SO_PASSSEC", passing_options)


def control_data(passing):
    """What the kernel does not let through, and two lists of fds in one message."""
    sender = passing.sender
    fds = [passing.keep(os.eventfd(n)) for n in range(2)]
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd])) for fd in fds]
    sender.sendmsg([b"two"], rights)
    data, got = receive(passing.receiver)
    close_all(got)
    check(data == b"two" and len(got) == 2, f"{data!r} comes with {len(got)} fds")
    for length, kind in ((0, 1), (1, 1), (15, 1), (1 << 30, 1), (20, 99), (20, 4)):
        control = struct.pack("QII", length, socket.SOL_SOCKET, kind) + bytes(8)
        check(raw_sendmsg(sender.fileno(), b"bad", control) < 0, f"{length}, {kind} is sent")
    sender.send(b"goes on")
    check(read_exactly(passing.receiver, 7) == b"goes on", "something else comes")


def raw_sendmsg(fd, data, control):
    """sendmsg with a control buffer made by hand."""
    bytes_, room = ctypes.create_string_buffer(data), ctypes.create_string_buffer(control)
    vector = struct.pack("PN", ctypes.addressof(bytes_), len(data))
    vector_buffer = ctypes.create_string_buffer(vector)
    message = struct.pack("PIxxxxPNPNi", 0, 0, ctypes.addressof(vector_buffer), 1,
                          ctypes.addressof(room), len(control), 0)
    return LIBC.sendmsg(fd, ctypes.create_string_buffer(message, 56), 0)


add("control data that are malformed, unknown or double", control_data)


def many_in_one(passing):
    fd = passing.keep(os.eventfd(0))
    passing.pass_fds(*[fd] * 253)
    data, fds = receive(passing.receiver)
    close_all(fds)
    check(len(fds) == 253, f"{len(fds)} fds come")
    try:
        passing.pass_fds(*[fd] * 254)
        check(False, "the kernel takes 254")
    except OSError:
        pass
    passing.sender.send(b"goes on")
    check(read_exactly(passing.receiver, 7) == b"goes on", "something else comes")


add("253 fds in one message, and 254", many_in_one)

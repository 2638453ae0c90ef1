"""Many clients of services, and many fds in one session: what each leaves behind is nothing."""

import os
import socket

from harness import SLOW, case_list, check, fds_of, wait_until
from opaque import ServiceStage, Session, close_all, receive, send_fds
from passing import sealed

CASES, case = case_list("service endurance")

SUCCESSIVE = 300
ROUNDS, AT_ONCE = 8, 20
TRANSFERS, BATCH = 10000, 100


def cross(sender, receiver, fds):
    """What the receiver gets."""
    send_fds(sender, b"take", fds)
    data, got = receive(receiver)
    check(data == b"take" and len(got) == len(fds), f"{data!r} comes with {len(got)} fds")
    return got


def use_nested(session):
    """A socket goes one way, and another one through it the other way."""
    near, far = socket.socketpair()
    inner, outer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with near, far, inner, outer:
        got = cross(session.client, session.service, [far.fileno()])
        far.close()
        with socket.socket(fileno=got[0]) as there:
            close_all(cross(there, near, [outer.fileno()]))
        outer.close()
        check(inner.recv(1) == b"", "something else than the end comes")


@case(f"{SUCCESSIVE} clients one after another leave no process and no fd")
def _(suite):
    stage = suite.stage("services", kind=ServiceStage)
    for n in range(SUCCESSIVE):
        with Session(stage, "records" if n % 7 == 0 else "stream") as session:
            session.sync()
            if n % 10 == 0:
                use_nested(session)
    stage.check(deadline=SLOW)


@case(f"{AT_ONCE} clients at a time, {ROUNDS} times, leave no process and no fd")
def _(suite):
    stage = suite.stage("services", kind=ServiceStage)
    for _ in range(ROUNDS):
        clients = [stage.connect("stream") for _ in range(AT_ONCE)]
        accepted = [stage.compositor.accept("stream") for _ in clients]
        for number, client in enumerate(clients):
            client.send(bytes([number]))
        by_number = {sock.recv(1)[0]: sock for sock in accepted}
        check(len(by_number) == AT_ONCE, f"only {len(by_number)} clients get through")
        for number, client in enumerate(clients):
            by_number[number].send(b"hello %d" % number)
        for number, client in enumerate(clients):
            check(client.recv(100) == b"hello %d" % number, "an answer goes to somebody else")
        for sock in clients + accepted:
            sock.close()
    stage.check(deadline=SLOW)


def detach(pair):
    return [sock.detach() for sock in pair]


def read_only():
    fd = os.memfd_create("read-only", os.MFD_CLOEXEC)
    os.write(fd, b"contents")
    reopened = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    os.close(fd)
    return reopened


def batch():
    """Fds of all kinds but eventfds: those to send, and the other ends of these."""
    passed, kept = [], []
    while len(passed) < BATCH:
        read, write = os.pipe()
        other_read, other_write = os.pipe()
        stream = detach(socket.socketpair())
        records = detach(socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        passed += [read, other_write, stream[0], records[0], sealed(4096, b"contents"),
                   read_only(), os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)]
        kept += [write, other_read, stream[1], records[1]]
    return passed, kept


def transfer(session, event, replica):
    """TRANSFERS fds, half of them either way; the eventfd is the same each time."""
    ways = [(session.client, session.service, event), (session.service, session.client, replica)]
    sent = 0
    while sent < TRANSFERS:
        for sender, receiver, same in ways:
            passed, kept = batch()
            got = cross(sender, receiver, [*passed, same])
            sent += len(got)
            close_all(passed + kept + got)


@case(f"{TRANSFERS} fds of all kinds through one session leave none in its processes")
def _(suite):
    stage = suite.stage("services", kind=ServiceStage)
    before = {program: program.settled_files() for program in stage.programs()}
    event = os.eventfd(0, os.EFD_CLOEXEC)
    with Session(stage) as session:
        servants = [program.servant(before[program]) for program in stage.programs()]
        replica, = cross(session.client, session.service, [event])  # it stays until the end
        session.sync()
        counts = [fds_of(pid) for pid in servants]
        transfer(session, event, replica)
        session.sync()
        wait_until(lambda: f"fds were {counts}, are {[fds_of(pid) for pid in servants]}",
                   lambda: [fds_of(pid) for pid in servants] == counts, SLOW)
        close_all([event, replica])
    stage.check(deadline=SLOW)

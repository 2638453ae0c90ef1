"""One eventfd in several sessions of a guest program: what they hand out is one object."""

import contextlib
import os
import re
import select
import signal

import channel
from channel import OTHER, Type, event_add, hello, open_event, open_socket, stream_data
from harness import SLOW, case_list, check, wait_until
from opaque import ROOT, ServiceStage, Session, close_all, read_to_end, receive, send_fds

CASES, case = case_list("eventfds")
LARGE = 1 << 40  # more than all that came before


def id_of(fd):
    """The kernel's number for the object behind fd."""
    with open(f"/proc/self/fdinfo/{fd}") as info:
        return int(re.search(r"^eventfd-id:\s*(\d+)$", info.read(), re.M)[1])


def count_of(fd):
    with open(f"/proc/self/fdinfo/{fd}") as info:
        return int(re.search(r"^eventfd-count:\s*(\w+)$", info.read(), re.M)[1], 16)


def take(fd):
    """What is in it, once there is something: a process may have to end first."""
    readable, _, _ = select.select([fd], [], [], SLOW)
    check(readable, "no count comes")
    return os.eventfd_read(fd)


def wait_for_count(fd, count):
    wait_until(lambda: f"{count} are there: {count_of(fd)}", lambda: count_of(fd) == count, SLOW)


class Sessions(contextlib.ExitStack):
    """Of one guest program, and all fds that a case has."""

    def __init__(self, stage, n, name="stream"):
        super().__init__()
        self.stage, self.fds = stage, []
        self.callback(lambda: close_all(self.fds))
        self.servants, self.list = [], []
        for _ in range(n):
            self.add(name)

    def add(self, name="stream"):
        before = {program: program.settled_files() for program in self.stage.programs()}
        self.list.append(self.enter_context(Session(self.stage, name)))
        self.servants.append({program.name: program.servant(before[program])
                              for program in self.stage.programs()})
        return self.list[-1]

    def new_event(self):
        self.fds.append(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        return self.fds[-1]

    def cross(self, sender, receiver, fd):
        send_fds(sender, b"fd", [fd])
        data, fds = receive(receiver)
        self.fds += fds
        check(data == b"fd" and len(fds) == 1, f"{data!r} comes with {len(fds)} fds")
        return fds[0]

    def to_clients(self, event):
        """What the client of each session gets of the service's eventfd."""
        return [self.cross(session.service, session.client, event) for session in self.list]


@contextlib.contextmanager
def sessions(suite, n=2, stage=None):
    stage = stage or suite.stage("services", kind=ServiceStage)
    with Sessions(stage, n) as result:
        yield result
    stage.check(SLOW)


@case("one that a service gives to two clients is one for them")
def _(suite):
    with sessions(suite, 3) as all_:
        event = all_.new_event()
        fds = all_.to_clients(event)
        check(len({id_of(fd) for fd in fds}) == 1, "the clients have several")
        for n in range(1, 100):
            os.eventfd_write(event, n)
            taken = take(fds[n % 3])
            check(taken == n, f"{taken} comes instead of {n}")
        check(count_of(event) == 0 and count_of(fds[0]) == 0, "counts are left")


@case("each count of one that two clients read comes once")
def _(suite):
    with sessions(suite) as all_:
        event = all_.new_event()
        fds = all_.to_clients(event)
        total = 0
        for n in range(1, 1001):
            os.eventfd_write(event, n)
            if n % 7 == 0:
                with contextlib.suppress(BlockingIOError):
                    total += os.eventfd_read(fds[n % 2])
        while total < 500500:
            total += take(fds[total % 2])
        check(total == 500500, f"{total} comes")


for sender in (0, 1):
    @case(f"what client {sender + 1} writes, the service reads")
    def _(suite, sender=sender):
        with sessions(suite) as all_:
            event = all_.new_event()
            fds = all_.to_clients(event)
            for n in range(1, 100):
                os.eventfd_write(fds[sender], n)
                check(take(event) == n, "another count comes")


@case("one that is sent home through another session is the original")
def _(suite):
    with sessions(suite, 3) as all_:
        event = all_.new_event()
        first, second, third = all_.list
        replica = all_.cross(first.service, first.client, event)
        home = all_.cross(second.client, second.service, replica)
        check(id_of(home) == id_of(event), "the service gets another one")
        # and what was given in another session's other direction is known there, too
        again = all_.cross(third.service, third.client, home)
        check(id_of(again) == id_of(replica), "the client gets another one")
        os.eventfd_write(home, 5)
        check(take(again) == 5, "another count comes")


@case("a client's is one for the services of two sessions")
def _(suite):
    with sessions(suite) as all_:
        event = all_.new_event()
        got = [all_.cross(session.client, session.service, event) for session in all_.list]
        check(id_of(got[0]) == id_of(got[1]), "the services have two")
        home = all_.cross(all_.list[1].service, all_.list[1].client, got[0])
        check(id_of(home) == id_of(event), "the client gets another one")
        os.eventfd_write(event, 3)
        check(take(got[1]) == 3, "another count comes")


@case("the ones of 200 fds in one message, and again in the next session")
def _(suite):
    with sessions(suite) as all_:
        events = [all_.new_event() for _ in range(200)]
        got = []
        for session in all_.list:
            send_fds(session.service, b"many", events)
            data, fds = receive(session.client)
            all_.fds += fds
            check(data == b"many" and len(fds) == 200, f"{data!r} comes with {len(fds)} fds")
            got.append([id_of(fd) for fd in fds])
        check(got[0] == got[1] and len(set(got[0])) == 200, "they are not the same")


def moved_on(all_, event, fds):
    """Both ways; the direction turns round when nobody takes what is written."""
    os.eventfd_write(event, 11)
    check(take(fds[-1]) == 11, "another count comes")
    os.eventfd_write(fds[-1], 12)
    check(take(event) == 12, "another count comes")


@case("when the session that moves the counts ends, another one does, and none is lost")
def _(suite):
    with sessions(suite, 4) as all_:
        event = all_.new_event()
        fds = all_.to_clients(event)
        os.eventfd_write(event, 1)
        check(take(fds[0]) == 1, "another count comes")
        for n, session in enumerate(all_.list[:3]):
            total, taken = 0, 0
            for count in range(1, 200):
                os.eventfd_write(event, count)
                total += count
                if count == 100:
                    session.client.close()
            while taken < total:
                taken += take(fds[3 - n % 2])
            check(taken == total, f"{taken} of {total} come")
        moved_on(all_, event, fds)


@case("what its reader has not taken stays with the reader when another session moves the counts")
def _(suite):
    with sessions(suite) as all_:
        marker, event = all_.new_event(), all_.new_event()
        markers, fds = all_.to_clients(marker), all_.to_clients(event)
        os.eventfd_write(event, 5)
        wait_for_count(fds[1], 5)
        all_.list[0].client.close()
        read_to_end(all_.list[0].service)
        os.eventfd_write(marker, 1)
        take(markers[1])  # the other session is at work, and would carry it back
        for _ in range(20):
            all_.list[1].sync()
        check((count_of(event), count_of(fds[1])) == (0, 5), "it is carried back")
        os.eventfd_write(event, 2)
        wait_for_count(fds[1], 7)


def write_until_it_comes(event, reader):
    """What was in the hands of a session that was killed is lost; what comes later is not."""
    def comes():
        os.eventfd_write(event, 1)
        return count_of(reader) > 0
    wait_until("a count comes", comes, SLOW)
    os.eventfd_write(event, LARGE)
    total = 0
    while total < LARGE:
        total += take(reader)


for program in ("fdferry-host", "fdferry-guest"):
    for origin in ("service", "client"):
        @case(f"{program}: a session that is killed while it moves a {origin}'s counts is replaced")
        def _(suite, program=program, origin=origin):
            with ServiceStage(suite) as stage:
                for each in stage.programs():
                    each.expected = "crashed: SIGKILL"
                with sessions(suite, 3, stage) as all_:
                    event = all_.new_event()
                    ends = [(s.service, s.client)[::1 if origin == "service" else -1]
                            for s in all_.list]
                    fds = [all_.cross(near, far, event) for near, far in ends]
                    for n in range(2):
                        os.kill(all_.servants[n][program], signal.SIGKILL)
                        for end in ends[n]:
                            read_to_end(end)
                        write_until_it_comes(event, fds[2])
                    moved_on(all_, event, fds)


@case("a session that comes when the first one has ended has the same")
def _(suite):
    with sessions(suite) as all_:
        event = all_.new_event()
        fds = all_.to_clients(event)
        all_.list[0].client.close()
        read_to_end(all_.list[0].service)
        late = all_.add()
        fds.append(all_.cross(late.service, late.client, event))
        check(id_of(fds[2]) == id_of(fds[1]), "the client gets another one")
        moved_on(all_, event, fds)


@case("two guest programs share nothing")
def _(suite):
    stage = suite.stage("services", kind=ServiceStage)
    with sessions(suite, 1, stage) as all_:
        guest, directory = stage.guest, stage.path
        stage.path = lambda name: directory(f"second-{name}")
        try:
            stage.start_guest()
            second = stage.guest
            stage.guest = guest
            with Session(stage) as other:
                event = all_.new_event()
                fds = [*all_.to_clients(event), all_.cross(other.service, other.client, event)]
                check(id_of(fds[0]) != id_of(fds[1]), "two machines have one object")
                home = all_.cross(other.client, other.service, fds[0])
                check(id_of(home) != id_of(event), "what the other program was given is known")
            second.stop()
            second.check_quiet()
        finally:
            stage.guest, stage.path = guest, directory


for program in ("fdferry-host", "fdferry-guest"):
    for number in (signal.SIGKILL, signal.SIGSTOP):
        @case(f"{program} that has got {number.name} leaves each session an eventfd of its own")
        def _(suite, program=program, number=number):
            with ServiceStage(suite) as stage, Sessions(stage, 2) as all_:
                parent = stage.host if program == "fdferry-host" else stage.guest
                event = all_.new_event()
                one = all_.list[0]
                first = all_.cross(one.service, one.client, event)
                os.kill(parent.pid, number)
                all_.list[1].client.settimeout(SLOW)
                try:
                    second = all_.cross(all_.list[1].service, all_.list[1].client, event)
                finally:
                    os.kill(parent.pid, signal.SIGCONT)
                wait_until("the session says so", lambda: "the parent process" in parent.errors())
                check(id_of(first) != id_of(second), "they are the same")
                os.eventfd_write(event, 1)
                wait_until("a count comes", lambda: count_of(first) + count_of(second) == 1, SLOW)
                for session in all_.list:
                    session.sync()


class ForgedGuest(contextlib.ExitStack):
    """Sessions with fdferry-host of somebody who may write any link and name."""

    def __init__(self, stage):
        super().__init__()
        self.stage, self.fds = stage, []
        self.callback(lambda: close_all(self.fds))

    def session(self, link):
        end = self.enter_context(channel.connect(self.stage.chan))
        end.send(hello(b"stream", link=link) + open_socket(ROOT, root=1))
        service = self.enter_context(self.stage.compositor.accept("stream"))
        return end, service

    def open(self, session, name):
        """What the service gets for an eventfd of that name."""
        end, service = session
        id = 2 + len(self.fds)
        end.send(open_event(id, name=name, role=OTHER))
        end.wait_for(lambda: any(entry[1] == id for entry in end.got(Type.EVENT_ROLE)))
        end.send(stream_data(ROOT, b"x", [id]))
        return self.keep(service)

    def keep(self, sock):
        _, fds = receive(sock)
        self.fds += fds
        check(len(fds) == 1, f"{len(fds)} fds come")
        return fds[0]

    def given(self, session):
        """The name of a new eventfd that the service passes; and the service's fd."""
        end, service = session
        self.fds.append(os.eventfd(0, os.EFD_CLOEXEC))
        seen = len(end.got(Type.OPEN))
        send_fds(service, b"x", [self.fds[-1]])
        end.wait_for(lambda: len(end.got(Type.OPEN)) > seen)
        return int.from_bytes(end.got(Type.OPEN)[-1][3][16:24], "little"), self.fds[-1]


@contextlib.contextmanager
def forged(suite):
    stage = suite.stage("services", kind=ServiceStage)
    with ForgedGuest(stage) as guest:
        yield guest
    stage.check(SLOW)


MINE, ANOTHER, NONE = bytes(range(16)), bytes(range(1, 17)), bytes(16)


@case("an eventfd's name is worth nothing on another link")
def _(suite):
    with forged(suite) as guest:
        mine = guest.session(MINE)
        name, original = guest.given(mine)
        check(name > 1 << 63, f"the host gives the name {name:#x}")
        check(id_of(guest.open(guest.session(MINE), name)) == id_of(original), "not the original")
        replica = guest.open(mine, 5)
        check(id_of(guest.open(guest.session(MINE), 5)) == id_of(replica), "not the same")
        for link in (ANOTHER, NONE):
            session = guest.session(link)
            check(id_of(guest.open(session, name)) != id_of(original), "another link's original")
            check(id_of(guest.open(session, 5)) != id_of(replica), "another link's replica")


@case("names that the host has not given are nobody's")
def _(suite):
    with forged(suite) as guest:
        session = guest.session(MINE)
        name, original = guest.given(session)
        fds = [guest.open(guest.session(MINE), name + n) for n in (1, 2, -1)]
        check(len({id_of(fd) for fd in [original, *fds]}) == 4, "a name that is only near it")
        following, another = guest.given(guest.session(MINE))
        check(following == name + 1, f"the next name is {following:#x}")
        check(id_of(another) not in [id_of(fd) for fd in fds], "it is what the guest has forged")


@case("a thousand eventfds that a guest names are bounded, and the next guest has room")
def _(suite):
    with forged(suite) as guest:
        end, service = guest.session(MINE)
        for first in range(2, 2002, 50):
            end.send(b"".join(open_event(first + n, name=first + n, role=OTHER)
                              for n in range(50)))
            end.wait_for(lambda: len(end.got(Type.EVENT_ROLE)) == first + 48, SLOW)
        alone = [entry for entry in end.got(Type.EVENT_ROLE) if entry[2] != OTHER]
        check(len(alone) == 2000 - 1024, f"{len(alone)} of 2000 are the session's alone")
        other = guest.session(ANOTHER)
        name, _ = guest.given(other)
        check(name, "the other one gets no name")
        end.send(event_add(2) + stream_data(ROOT, b"x", [2]))
        check(os.eventfd_read(guest.keep(service)) == 1, "no count comes")

"""What a session, and all sessions of a VM, may take: exactly that and no more, and it comes back."""

import os
import re
import signal

import channel
import opaque
import peers
from channel import MORE, POOL, Type, open_device, open_memory, open_pipe, open_socket, stream_data
from harness import Stage, case_list, check, wait_until
from opaque import KINDS, ServiceStage
from wayland import Ended, message

CASES, case = case_list("budgets")

AMOUNTS = re.compile(r"^  (\S.*?) {2,}(\d+) used, (\d+) at most, limit (\d+)$", re.MULTILINE)


def service_guest(stage):
    return opaque.HostileGuest(stage, "stream")


# ---- how each kind is taken: n more of it, from the id `first` on ----

def take_fds(peer, n, first):
    for id in range(first, first + n):
        peer.end.send(open_device(id))


def take_streams(peer, n, first):
    for id in range(first, first + n):
        peer.end.send(open_pipe(id, channel.READ))


def take_memory(peer, n, first):
    peer.end.send(open_memory(first, POOL, n))


def take_objects(peer, n, first):
    for _ in range(n):
        peer.end.send(channel.messages(message(1, 0, peer.next_id)))
        peer.next_id += 1


def take_pending(peer, n, first):
    peer.end.send(channel.messages(b"", [first] * n))


def take_frames(peer, n, first):
    """A record of which the rest never comes is kept."""
    for id in range(first, first + n):
        peer.end.send(open_socket(id, KINDS["records"]) + stream_data(id, b"x", more=MORE))


# The option's name, the budget's, who takes it and how, and what sessions have from the beginning.
KINDS_OF_BUDGET = (
    ("fds", "fds", (ServiceStage, service_guest), take_fds, 1),
    ("streams", "streams", (ServiceStage, service_guest), take_streams, 1),
    ("frames", "waiting frames", (ServiceStage, service_guest), take_frames, 0),
    ("memory", "bytes of memory", (Stage, peers.HostileGuest), take_memory, 0),
    ("pending-fds", "pending fds", (Stage, peers.HostileGuest), take_pending, 0),
)


def check_over(peer, whose, name, limit, option):
    text = peer.end.wait_end()
    check(text == f"over the {whose}'s budget of {name}: {limit} ({option})",
          f"the reason is {text!r}")


def stats_of(host, title):
    """What a program that prints its stats says of a VM now: name to used, at most, limit."""
    before = len(host.errors())
    os.kill(host.pid, signal.SIGUSR1)
    head = f"{title}\n"
    wait_until(lambda: f"{host.name} prints of {title}: {host.errors()[before:]}",
               lambda: "fds in flight" in host.errors()[before:].partition(head)[2])
    text = host.errors()[before:].partition(head)[2]
    return {name: (int(used), int(most), int(limit)) for name, used, most, limit in
            list(AMOUNTS.findall(text))[:11]}  # with that of sessions


def used_by_guests(host, name):
    return stats_of(host, "local guests")[name][0]


def session_process(stage, begin):
    """The session that begin() makes, and the process that serves it."""
    before = stage.host.settled_files()
    peer = begin()
    return peer, stage.host.servant(before)


for option, name, (kind, guest), take, initially in KINDS_OF_BUDGET:
    @case(f"a session may have exactly --max-{option}")
    def _(suite, option=option, name=name, kind=kind, guest=guest, take=take, has=initially):
        limit = 12 * (4096 if option == "memory" else 1)
        with kind(suite, host=[f"--max-{option}", str(limit)]) as stage:
            with guest(stage) as peer:
                take(peer, limit - has, 10)
                peer.sync()
                take(peer, 1, 100)
                check_over(peer, "session", name, limit, f"--max-{option}")
            stage.check()
            with guest(stage) as peer:  # the next one has all of it
                take(peer, limit - has, 10)
                peer.sync()
                peer.finish()
            stage.check()

    @case(f"the sessions of a VM may have exactly --max-vm-{option} together")
    def _(suite, option=option, name=name, kind=kind, guest=guest, take=take, has=initially):
        unit = 4096 if option == "memory" else 1
        limit = 20 * unit
        with kind(suite, host=[f"--max-vm-{option}", str(limit), "--stats"]) as stage:
            witness = used_by_guests(stage.host, name)
            check(witness == has, f"the witness has {witness}")
            first, process = session_process(stage, lambda: guest(stage))
            with first, guest(stage) as second:
                take(first, 10 * unit, 10)
                first.sync()
                take(second, limit - 10 * unit - 3 * has, 10)
                second.sync()
                used, most, _ = stats_of(stage.host, "local guests")[name]
                check(used == most == limit, f"{used} of {limit} are used")
                take(second, 1, 100)
                check_over(second, "VM", name, limit, f"--max-vm-{option}")
                wait_until("what the session had comes back", lambda: used_by_guests(
                    stage.host, name) == 10 * unit + 2 * has)
                first.sync()
                stage.witness.sync()
                stage.host.expected = f"session process {process} crashed: SIGKILL"
                os.kill(process, signal.SIGKILL)
                wait_until("what a killed session had comes back",
                           lambda: used_by_guests(stage.host, name) == has)
            with guest(stage) as third:
                take(third, limit - 2 * has, 10)
                third.sync()
                third.finish()
            stage.check()
            stage.witness.close()
            stage.host.stop()
            last = stage.host.errors().rpartition("local guests\n")[2]
            left = {name: used for name, used, *_ in AMOUNTS.findall(last) if used != "0"}
            check(not left, f"in the end there are left: {left}")


@case("a session may have exactly --max-objects, and a VM --max-vm-objects")
def _(suite):
    for option, whose in (("--max-objects", "session"), ("--max-vm-objects", "VM")):
        with Stage(suite, host=[option, "60", "--stats"]) as stage:
            with peers.HostileGuest(stage) as peer:
                witness = used_by_guests(stage.host, "objects") - (peer.next_id - 1)
                free = 60 - (peer.next_id - 1) - (witness if whose == "VM" else 0)
                take_objects(peer, free - 1, 0)
                peer.sync()
                take_objects(peer, 1, 0)
                check_over(peer, whose, "objects", 60, option)
            wait_until("what the session had comes back",
                       lambda: used_by_guests(stage.host, "objects") == witness)
            with stage.client() as client:
                client.sync()
            stage.check()


@case("messages may come in a burst, and then only at the rate")
def _(suite):
    for prefix, whose in (("--max", "session"), ("--max-vm", "VM")):
        options = [f"{prefix}-rate", "1", f"{prefix}-burst", "600"]
        with Stage(suite, host=options) as stage:
            with peers.HostileGuest(stage) as peer:
                take_objects(peer, 400, 0)
                peer.sync()
                peer.end.send(channel.ping() * 600)
                check_over(peer, whose, "messages per second", 1, f"{prefix}-rate")


@case("a registry counts as many messages, as its compositor sends them")
def _(suite):
    with Stage(suite, host=["--max-rate", "1", "--max-burst", "600"]) as stage:
        with peers.HostileGuest(stage) as peer:
            for _ in range(20):
                peer.end.send(channel.messages(message(1, 1, peer.next_id)))
                peer.next_id += 1
            check_over(peer, "session", "messages per second", 1, "--max-rate")
        stage.check()


@case("who does not read what it has asked for is told so at --max-unsent")
def _(suite):
    for option, whose in (("--max-unsent", "session"), ("--max-vm-unsent", "VM")):
        with Stage(suite, host=[option, "64K"]) as stage:
            with peers.HostileGuest(stage) as peer:
                for _ in range(50):  # as much, but read
                    peer.end.send(channel.ping() * 1000)
                    peer.end.wait_for(lambda: len(peer.end.got(Type.PONG)) == 1000)
                    peer.end.frames.clear()
                for _ in range(50):
                    peer.end.send(channel.ping() * 1000)
                check_over(peer, whose, "unsent bytes", 1 << 16, option)
            stage.check()


@case("a VM may have exactly --max-vm-sessions")
def _(suite):
    with Stage(suite, host=["--max-vm-sessions", "3"]) as stage:
        clients = [stage.client() for _ in range(2)]
        for client in clients:
            client.sync()
        with stage.client() as client:
            try:
                client.sync()
                check(False, "a fourth session is served")
            except Ended as end:
                check("over the VM's budget of sessions (--max-vm-sessions)" in str(end), f"{end}")
        clients.pop().close()

        def served():
            with stage.client() as client:
                try:
                    client.sync()
                    return True
                except Ended:
                    return False
        wait_until("there is room for another one", served)
        clients.pop().close()
        stage.check()


@case("one VM's sessions take nothing from another's")
def _(suite):
    options = ["--max-vm-fds", "20", "--max-vm-streams", "10"]
    with ServiceStage(suite, host=options) as one, ServiceStage(suite, host=options) as other:
        with service_guest(one) as hog, service_guest(other) as guest:
            take_fds(hog, 17, 10)
            hog.sync()
            take_fds(guest, 17, 10)
            guest.sync()
            take_fds(hog, 2, 100)
            check_over(hog, "VM", "fds", 20, "--max-vm-fds")
            guest.sync()
        one.check()
        other.check()


@case("a VM that connects too often is turned away, which makes few lines")
def _(suite):
    with Stage(suite, host=["--connection-rate", "1:20"]) as stage:
        turned_away = 0
        for _ in range(200):
            with channel.connect(stage.chan) as end:
                end.send(channel.hello(b"teapot"))
                turned_away += end.wait_end() == "too many connections per second (--connection-rate)"
        check(turned_away > 0, "none is")
        lines = [line for line in stage.host.errors().splitlines() if "(--connection-rate)" in line]
        check(1 <= len(lines) <= max(1, turned_away // 4), f"{turned_away}: {lines}")
        stage.check()


@case("what sessions leave in a service that does not accept stays charged until it is read")
def _(suite):
    with ServiceStage(suite, host=["--stats"]) as stage:
        def used(name):
            return used_by_guests(stage.host, name)
        before = {name: used(name) for name in ("sessions", "fds", "fds in flight")}
        with open("/dev/null", "rb") as null:
            for n in range(1, 4):
                with stage.connect("stream") as client:
                    opaque.send_fds(client, b"x", [null.fileno(), null.fileno()])
                    wait_until(f"{2 * n} are under way", lambda: used("fds in flight") == 2 * n)
                wait_until("the session ends", lambda: used("sessions") == before["sessions"])
        check(used("fds in flight") == 6, f"{used('fds in flight')} are")
        check(used("fds") == before["fds"] + 6, f"{used('fds')} are charged")
        for n in range(3):
            with stage.compositor.accept("stream") as service:
                data, fds = opaque.receive(service)
                check(data == b"x" and len(fds) == 2, f"{data!r} with {fds} comes")
                check(opaque.read_to_end(service) == b"", "more comes")
                opaque.close_all(fds)
        wait_until("all of it comes back", lambda: {name: used(name) for name in before} == before)
        stage.check()

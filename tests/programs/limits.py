"""What a session may take is bounded, and what bounds it is told."""

import os
import resource

from harness import SLOW, Stage, case_list, check, wait_until
from hostile_client import Prepared, commit
from opaque import ServiceStage, close_all, read_to_end, receive
from passing import Passing, sealed
from wayland import Ended, memfd

CASES, case = case_list("limits")

FEW_FILES = 64


def end_of(client):
    """The client is told why, instead of an answer."""
    try:
        client.sync(SLOW)
    except Ended as end:
        return str(end)
    return None


def limited_stage(suite, kind=Stage, guest=False, **limits):
    """A stage of which one program may not have more: hard limits, which it cannot raise."""
    def set_limits():
        for name, value in limits.items():
            resource.setrlimit(getattr(resource, name), (value, value))
    popen = {"preexec_fn": set_limits}
    suite.host_popen, suite.guest_popen = ({}, popen) if guest else (popen, {})
    try:
        return kind(suite)
    finally:
        suite.host_popen = suite.guest_popen = {}


@case("a host out of fds ends the session that wants more, with an error, and nothing else")
def _(suite):
    with limited_stage(suite, RLIMIT_NOFILE=FEW_FILES) as stage:
        for _ in range(3):
            prepared = Prepared(stage)
            fd = prepared.fd(memfd(4096))
            for _ in range(2 * FEW_FILES):
                prepared.pool(fd)
            text = end_of(prepared.client)
            prepared.close()
            check(text, f"the client is told {text!r}")
            stage.check()
        check(stage.host.alive(), "the host ended")


@case("a host out of fds turns clients away and takes others once there are some again")
def _(suite):
    with limited_stage(suite, RLIMIT_NOFILE=FEW_FILES // 2) as stage:
        clients = [stage.client() for _ in range(FEW_FILES)]
        told = [text for text in (end_of_or_answer(client) for client in clients) if text]
        check(told, "the limit is too high for this case")
        stage.witness.sync()
        for client in clients:
            client.close()
        wait_until("the sessions end",
                   lambda: stage.host.census() <= stage.baseline[stage.host.name])
        with stage.client() as client:
            client.sync(SLOW)
        stage.check()
        return f"{len(clients) - len(told)} of {len(clients)} were served at once"


def end_of_or_answer(client):
    """None where the client is served; else what it is told, or that it waits."""
    try:
        client.sync(0.2)
    except Ended as end:
        return str(end) or "nothing"
    except TimeoutError:
        return "nothing yet"
    return None


@case("--max-memory ends the session that wants more, and says so")
def _(suite):
    with Stage(suite, ["--max-memory", "1M"]) as stage:
        prepared = Prepared(stage)
        size = (1 << 20) - 64 * 256  # and what the surface shows
        pool = prepared.pool(prepared.fd(memfd(size)), size)
        commit(prepared, pool, 0, 64, 64, 256)
        prepared.client.sync()
        prepared.pool(prepared.fd(memfd(4096)))
        text = end_of(prepared.client)
        prepared.close()
        check(text and "--max-memory" in text, f"the client is told {text!r}")
        stage.check()


@case("--max-memory is given back with the pools")
def _(suite):
    with Stage(suite, ["--max-memory", "1M"]) as stage:
        prepared = Prepared(stage)
        fd = prepared.fd(memfd(1 << 20))
        for _ in range(20):
            pool = prepared.pool(fd, 1 << 20)
            prepared.client.request(pool, 1)  # destroy
            prepared.client.sync()
        prepared.close()
        stage.check()


@case("--max-fds ends the session that wants more, and says so")
def _(suite):
    with Stage(suite, ["--max-fds", "10"]) as stage:
        prepared = Prepared(stage)
        fd = prepared.fd(memfd(4096))
        for _ in range(11):
            prepared.pool(fd)
        text = end_of(prepared.client)
        prepared.close()
        check(text and "--max-fds" in text, f"the client is told {text!r}")
        stage.check()


@case("--max-objects ends the session that wants more, and says so")
def _(suite):
    with Stage(suite, ["--max-objects", "40"]) as stage:
        prepared = Prepared(stage)
        for _ in range(40):
            prepared.client.request(prepared.compositor, 0, prepared.client.new_id())
        text = end_of(prepared.client)
        prepared.close()
        check(text and "--max-objects" in text, f"the client is told {text!r}")
        stage.check()


# Who sends, and which of the programs is out of fds: where they come in, and where they are made.
for origin, guest in (("client", True), ("client", False), ("service", True), ("service", False)):
    @case(f"a {'guest' if guest else 'host'} out of fds never gives fewer than a {origin} has sent")
    def _(suite, origin=origin, guest=guest):
        with limited_stage(suite, ServiceStage, guest, RLIMIT_NOFILE=FEW_FILES) as stage:
            for count in (2, 40, 100, 253):
                passing = Passing(stage, origin)
                pipes = [fd for _ in range(count) for fd in os.pipe()]
                passing.pass_fds(*pipes[::2])
                data, fds = receive(passing.receiver)
                close_all(fds + pipes)
                check(len(fds) == (count if data else 0), f"{len(fds)} of {count} fds come")
                check(data or count > 2, "two are too many")
                check(not data or count < FEW_FILES, f"{count} fds are none too many")
                if not data:
                    read_to_end(passing.sender)
                passing.close()
                stage.check(SLOW)


@case("--max-memory bounds what is announced for a service, and is given back")
def _(suite):
    with ServiceStage(suite, host=["--max-memory", "1M"]) as stage:
        passing = Passing(stage, "client")
        for _ in range(5):
            passing.pass_one(passing.keep(sealed(512 << 10, b"contents")))
        passing.pass_fds(passing.keep(sealed((1 << 20) + 1, b"contents")))
        read_to_end(passing.receiver)
        read_to_end(passing.sender)
        check("--max-memory" in stage.host.errors(), stage.host.errors())
        passing.close()
        stage.check()

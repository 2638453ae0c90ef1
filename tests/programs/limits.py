"""What a session may take is bounded, and what bounds it is told."""

import resource

from harness import Stage, case_list, check, wait_until
from hostile_client import Prepared, commit
from wayland import Ended, memfd

CASES, case = case_list("limits")

FEW_FILES = 64


def end_of(client):
    """The client is told why, instead of an answer."""
    try:
        client.sync(10)
    except Ended as end:
        return str(end)
    return None


def limited_stage(suite, **limits):
    """A stage whose host may not have more: the limits are hard, so that it cannot raise them."""
    def set_limits():
        for name, value in limits.items():
            resource.setrlimit(getattr(resource, name), (value, value))
    suite.host_popen = {"preexec_fn": set_limits}
    try:
        return Stage(suite)
    finally:
        suite.host_popen = {}


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
            client.sync(10)
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
        pool = prepared.pool(prepared.fd(memfd(1 << 20)), 1 << 20)
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

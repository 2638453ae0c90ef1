"""Many clients: what each leaves behind is nothing."""

from harness import SLOW, case_list, check, resident_mib
from wayland import memfd

CASES, case = case_list("endurance")

SUCCESSIVE = 1000
ROUNDS, AT_ONCE = 20, 50
GROWTH_MIB = 8  # of a parent


def parents(stage):
    return [program.pid for program in stage.programs()]


def check_growth(stage, before):
    after = [resident_mib(pid) for pid in parents(stage)]
    check(max(a - b for a, b in zip(after, before)) < GROWTH_MIB,
          f"the parents have grown from {before} to {after} MiB")


def small_session(client, fd):
    """A pool more than others have."""
    shm = client.bind("wl_shm")
    client.request(shm, 0, client.new_id(), 4096, fds=[fd])
    client.sync()


@case(f"{SUCCESSIVE} clients one after another leave no process and no fd")
def _(suite):
    stage = suite.stage("endurance", host=["--connection-rate", "100000"])
    before = [resident_mib(pid) for pid in parents(stage)]
    fd = memfd(4096)
    for n in range(SUCCESSIVE):
        with stage.client() as client:
            if n % 10 == 0:
                small_session(client, fd)
            else:
                client.sync()
    stage.check(SLOW)
    check_growth(stage, before)


@case(f"{AT_ONCE} clients at a time, {ROUNDS} times, leave no process and no fd")
def _(suite):
    stage = suite.stage("endurance", host=["--connection-rate", "100000"])
    before = [resident_mib(pid) for pid in parents(stage)]
    fd = memfd(4096)
    for _ in range(ROUNDS):
        clients = [stage.client() for _ in range(AT_ONCE)]
        for client in clients:
            client.get_registry()
        for client in clients:
            client.sync(SLOW)
        for client in clients[:5]:
            small_session(client, fd)
        for client in clients:
            client.close()
    stage.check(SLOW)
    check_growth(stage, before)


@case("clients that connect and leave without a word, 100 at a time")
def _(suite):
    stage = suite.stage("endurance", host=["--connection-rate", "100000"])
    clients = [stage.client() for _ in range(100)]
    for client in clients:
        client.close()
    stage.check(SLOW)

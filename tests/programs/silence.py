"""The other side says nothing, is gone, comes back, or is not there yet: nobody waits in vain."""

import contextlib
import os
import signal

import channel
from channel import Type
from harness import SLOW, Stage, case_list, check, processes_of, wait_until
from kills import recorded
from peers import HostileHost
from surroundings import patient

CASES, case = case_list("silence")
TIMEOUT = int(patient(5))  # seconds, in which who is not stopped answers
HASTY = ["--ping-interval", "1", "--ping-timeout", str(TIMEOUT)]
SILENT = f"no answer for {TIMEOUT} s"
PATIENT = ["--ping-interval", "1", "--ping-timeout", "600"]


@contextlib.contextmanager
def stopped(pid):
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def check_told(client, says):
    text = client.wait_end(SLOW)
    client.close()
    check(text and says in text, f"the client is told {text!r}, not of «{says}»")


@case("a guest does not wait for a host that is stopped longer than it is told to")
def _(suite):
    with Stage(suite, guest=HASTY) as stage:
        session, servants = recorded(stage, 10)
        with stopped(servants["fdferry-host"]):
            check_told(session.client, f"lost: {SILENT}")
            stage.witness.sync()  # which is quiet, too, but answered for
        session.close()
        stage.check()
        check(SILENT in stage.guest.errors(), stage.guest.errors())


@case("a host does not wait for a guest that is stopped longer than it is told to")
def _(suite):
    with Stage(suite, host=HASTY) as stage:
        session, servants = recorded(stage, 10)
        connection = stage.compositor.connections[-1]
        with stopped(servants["fdferry-guest"]):
            wait_until("the compositor is rid of the client", lambda: connection.closed, SLOW)
            stage.witness.sync()
        check_told(session.client, f"lost: {SILENT}")
        session.close()
        stage.check()
        check(SILENT in stage.host.errors(), stage.host.errors())


@case("with more patience, a session goes on when the other side does, however many pings later")
def _(suite):
    with Stage(suite, PATIENT, PATIENT, channel.Interposer) as stage:
        for name in ("fdferry-host", "fdferry-guest"):
            session, servants = recorded(stage, 10)
            silent = HostileHost(stage)
            with stopped(servants[name]):
                silent.end.wait_for(lambda: len(silent.end.got(Type.PING)) >= 3, SLOW)
            session.client.sync()
            silent.sync()
            silent.finish()
            silent.close()
            session.close()
            stage.check()


def kill_all(host):
    for pid in processes_of(host.pid):
        os.kill(pid, signal.SIGKILL)
    host.stop(0)


# How the host goes, and what its clients are told.
ENDS = [(lambda host: host.stop(), "fdferry-host is stopping"),
        (kill_all, "between guest and host was lost")]


@case("a host that is started again is found, and what the old one served has ended")
def _(suite):
    with Stage(suite) as stage:
        for end, says in ENDS:
            sessions = [recorded(stage, n)[0] for n in (0, 5, 16)]
            end(stage.host)
            for session in sessions:
                check_told(session.client, says)
                session.close()
            check_told(stage.witness, says)
            check_told(stage.client(), "cannot reach")
            stage.start_host()
            stage.witness = stage.client()
            stage.check()


@case("clients that are too early are told so one by one, and the next one is served")
def _(suite):
    with Stage(suite) as stage:
        stage.guest.stop()
        stage.host.stop()
        stage.witness.close()
        stage.start_guest()
        for _ in range(3):
            check_told(stage.client(), f"cannot reach {stage.chan.connect}")
        stage.start_host()
        stage.witness = stage.client()
        stage.check()

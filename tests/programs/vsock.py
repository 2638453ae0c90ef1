"""What only a channel over AF_VSOCK has: its addresses, its buffers, its resets."""

import os
import select
import signal
import socket

import channel
from channel import Type, frame, hello
from harness import DEADLINE, Stage, case_list, check, processes_of, wait_until
from peers import PRELUDE
from surroundings import LOOPBACK
from wayland import message

CASES, case = case_list("vsock")

ROOM = 1 << 20         # that both programs ask for
OVERHEAD = ROOM // 16  # of it that the kernel may keep for itself
UNREAD = (0, 1, 5000, 200000, 900000)


@case("REFUSE arrives, however much its sender has left unread")
def _(suite):
    with Stage(suite) as stage:
        for length in UNREAD:
            rest = frame(Type.PING, bytes(length), length=length)
            with channel.connect(stage.chan) as end:
                end.send(hello(b"teapot") + rest)
                text = end.wait_end()
                check(text == "no such service here: teapot",
                      f"with {length} bytes unread, what arrives is {text!r}")
        stage.check()


@case("a client that is too many is told so, however much it has sent")
def _(suite):
    with Stage(suite, host=["--max-sessions", "1"]) as stage:  # the witness is one
        for length in UNREAD:
            with stage.client() as another:
                another.send(message(1, 0, another.new_id()) * (length // 12))
                text = another.wait_end()
                check(text and "too many sessions (1)" in text,
                      f"with {length} bytes sent, it is told {text!r}")
        stage.check()


def stop_and_fill(program, end):
    """How many bytes a program's kernel takes for it while it does nothing."""
    stopped = processes_of(program.pid)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    # a kernel sends no more than it would take itself
    for option in (socket.SO_VM_SOCKETS_BUFFER_MAX_SIZE, socket.SO_VM_SOCKETS_BUFFER_SIZE):
        end.socket.setsockopt(socket.AF_VSOCK, option, 4 * ROOM)
    end.socket.setblocking(False)
    sent = 0
    try:
        while select.select([], [end.socket], [], DEADLINE if sent < ROOM - OVERHEAD else 1)[1]:
            sent += end.socket.send(bytes(65536))
    except BlockingIOError:
        pass
    finally:
        end.socket.setblocking(True)
        end.close()
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    return sent


@case("a host that does nothing takes 1 MiB")
def _(suite):
    with Stage(suite) as stage:
        end = channel.connect(stage.chan)
        sent = stop_and_fill(stage.host, end)
        check(ROOM - OVERHEAD <= sent <= ROOM, f"{sent} bytes are taken")
        stage.check()
        return f"{sent} bytes"


@case("a guest that does nothing takes 1 MiB")
def _(suite):
    with Stage(suite, channel=channel.Interposer) as stage:
        stage.interposer.want()
        with stage.client() as client:
            end = stage.interposer.take()
            end.wait_for(lambda: end.got(Type.HELLO))
            sent = stop_and_fill(stage.guest, end)
            check(ROOM - OVERHEAD <= sent <= ROOM, f"{sent} bytes are taken")
            client.wait_end()
        stage.check()
        return f"{sent} bytes"


@case("the host's log names its guest by CID and port")
def _(suite):
    with Stage(suite, host=["--log-level", "info"]) as stage:
        with channel.connect(stage.chan) as end:
            _, port = end.socket.getsockname()
            expected = f"connection from vsock cid {LOOPBACK} port {port}"
            wait_until(lambda: f"{expected!r} in the log: {stage.host.errors()}",
                       lambda: expected in stage.host.errors())
        stage.check()


@case("a port that nobody listens at is told to the client, and tried again for the next")
def _(suite):
    with Stage(suite) as stage:
        stage.host.kill()
        with stage.client() as client:
            text = client.wait_end()
            check(text and f"cannot reach {stage.chan.connect}" in text, f"it is told {text!r}")
        stage.start_host()
        with stage.client() as client:
            client.sync()


def wait_for_bytes(end):
    """They stay unread."""
    check(select.select([end.socket], [], [], DEADLINE)[0], "nothing comes")


@case("a peer that closes with bytes unread ends the session, on either side")
def _(suite):
    with Stage(suite, channel=channel.Interposer) as stage:
        with channel.connect(stage.chan) as end:
            end.send(hello() + channel.messages(PRELUDE))
            wait_for_bytes(end)
        stage.check()
        stage.interposer.want()
        with stage.client() as client:
            end = stage.interposer.take()
            wait_for_bytes(end)
            end.close()
            text = client.wait_end()
            check(text and text.isprintable(), f"the client is told {text!r}")
        stage.check()

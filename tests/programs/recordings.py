"""Sessions that are recorded, and played again on another compositor."""

import os
import signal
import stat
import struct
import subprocess
import sys

from compositor import GLOBALS
from harness import Program, Stage, case_list, check, wait_until
from surroundings import patient
from wayland import memfd, words

CASES, case = case_list("recordings")

HERE = os.path.dirname(os.path.abspath(__file__))
SUPPORT = os.path.join(os.path.dirname(HERE), "support")
HEAD = struct.Struct("<8sHHIHHI64s")
PIECE = struct.Struct("<QIHH")
FRAME = struct.Struct("<IHHII")
MESSAGES, MEM_WRITE = 7, 12
SIZE = 4096
PATTERN = bytes(range(256)) * (SIZE // 256)
GONE = 3  # status of a replay that a compositor did not survive

# Dies of the first wl_surface.commit.
MORTAL = """
import os, sys, time
sys.dont_write_bytecode = True
sys.path[:0] = sys.argv[2:]
import compositor
take = compositor.Connection.take
def mortal(self, target, opcode, body):
    if (self.objects.get(target), opcode) == ("wl_surface", 6):
        os.unlink(sys.argv[1])
        os._exit(1)
    take(self, target, opcode, body)
compositor.Connection.take = mortal
compositor.Compositor(sys.argv[1])
time.sleep(100000)
"""


def frames_of(path):
    """[(direction, type, id, payload)]"""
    with open(path, "rb") as file:
        data = file.read()
    magic, version, *_ = HEAD.unpack_from(data)
    check((magic, version) == (b"FDFERREC", 1), f"the head says {magic} {version}")
    streams, frames, at = [b"", b""], [], HEAD.size
    while at < len(data):
        _, length, direction, _ = PIECE.unpack_from(data, at)
        at += PIECE.size + length
        streams[direction] += data[at - length:at]
        while len(streams[direction]) >= FRAME.size:
            size, kind, _, number, _ = FRAME.unpack_from(streams[direction])
            if len(streams[direction]) < FRAME.size + size:
                break
            frames.append((direction, kind, number,
                           streams[direction][FRAME.size:FRAME.size + size]))
            streams[direction] = streams[direction][FRAME.size + size:]
    check(at == len(data) and streams == [b"", b""], "the file ends within a frame")
    return frames


def play(suite, stage, recording, *options):
    """What a replay says, and its status."""
    program = Program(suite, "fdferry-guest", [
        "--connect", stage.chan.connect, "--replay", recording, *options], ready=False)
    output, status = program.wait(patient(120))
    program.check_quiet()
    return output + program.errors(), status


def paint(client):
    """A surface with a buffer of PATTERN; its id."""
    compositor, shm = client.bind("wl_compositor"), client.bind("wl_shm")
    surface, pool, buffer = client.new_id(), client.new_id(), client.new_id()
    fd = memfd(SIZE)
    os.pwrite(fd, PATTERN, 0)
    client.request(compositor, 0, surface)
    client.request(shm, 0, pool, SIZE, fds=[fd])
    client.request(pool, 0, buffer, 0, 32, 32, 128, 1)
    client.request(surface, 1, buffer, 0, 0)
    client.request(surface, 2, 0, 0, 32, 32)
    client.request(surface, 6)
    client.sync()
    os.close(fd)
    return surface


def record(suite, side, act):
    """The path of the recording of a client that acts."""
    path = suite.path("recording")
    with Stage(suite, **{side: ["--record", path]}) as stage:
        with stage.client() as client:
            act(client)
        stage.check()
    return path + ".2"  # the witness came first


def painted(compositor):
    """What the newest client's pool has, and the bound names by interface."""
    connection = compositor.connections[-1]
    wait_until("the commit", lambda: connection.got("wl_surface", 6))
    names = [words(body)[0] for body in connection.got("wl_registry", 0)]
    return os.pread(connection.pools[-1], SIZE, 0), names


for side in ("guest", "host"):
    @case(f"what the {side} has recorded reaches a compositor with other names")
    def _(suite, side=side):
        recording = record(suite, side, paint)
        other = dict(reversed(GLOBALS.items()))
        with Stage(suite, globals_=other) as stage:
            before = len(stage.compositor.connections)
            program = Program(suite, "fdferry-guest", [
                "--connect", stage.chan.connect, "--replay", recording, "--hold",
                "--log-level", "info"], ready=False)
            wait_until("the replay connects", lambda: len(stage.compositor.connections) > before)
            pixels, names = painted(stage.compositor)
            status = program.stop()
            program.check_quiet()
            stage.check()
        check(pixels == PATTERN, "the pool has other bytes")
        expected = [list(other).index(name) + 1 for name in ("wl_compositor", "wl_shm")]
        check(names == expected, f"bound are {names}, not {expected}")
        check(status == 0, f"status {status}")


@case("a replay that holds its windows is complete when a signal ends it")
def _(suite):
    # No answer comes to the last request: once it is there, nothing is waited for but a signal.
    recording = record(suite, "guest", lambda client: client.request(paint(client), 6))
    with Stage(suite) as stage:
        before = len(stage.compositor.connections)
        program = Program(suite, "fdferry-guest", [
            "--connect", stage.chan.connect, "--replay", recording, "--hold", "--speed", "max"],
            ready=False)
        wait_until("the replay connects", lambda: len(stage.compositor.connections) > before)
        connection = stage.compositor.connections[-1]
        wait_until("its last request", lambda: len(connection.got("wl_surface", 6)) == 2)
        program.popen.send_signal(signal.SIGTERM)
        output, status = program.wait()
        program.check_quiet()
        stage.check()
        check(status == 0 and "ended early" not in output, f"status {status}: {output}")
        check("was lost" not in stage.host.errors(), stage.host.errors())


@case("a recording has what crossed, in files of their owner alone")
def _(suite):
    path = suite.path("recording")
    with Stage(suite, guest=["--record", path]) as stage:
        with stage.client() as client:
            paint(client)
        stage.check()
    for name in (path, path + ".2"):
        mode = stat.S_IMODE(os.stat(name).st_mode)
        check(mode == 0o600, f"{name} has the mode {mode:o}")
    rows = b"".join(payload[24:] for _, kind, _, payload in frames_of(path + ".2")
                    if kind == MEM_WRITE)
    check(rows == PATTERN, f"{len(rows)} bytes of rows are recorded, or other ones")


@case("an existing file is never written to")
def _(suite):
    path = suite.path("recording")
    with open(path, "wb") as file:
        file.write(b"mine")
    with Stage(suite, host=["--record", path]) as stage:
        stage.check()
        frames_of(path + ".2")
    with open(path, "rb") as file:
        check(file.read() == b"mine", "the file has changed")


@case("a session that cannot be recorded goes on")
def _(suite):
    with Stage(suite, guest=["--record", "/nowhere/file"]) as stage:
        with stage.client() as client:
            client.sync()
        stage.check()
        check("not recorded: cannot create /nowhere/file" in stage.guest.errors(),
              f"no word of it: {stage.guest.errors()}")


@case("a global that the compositor does not have ends a replay with its name")
def _(suite):
    recording = record(suite, "guest", paint)
    few = {name: version for name, version in GLOBALS.items() if name != "wl_shm"}
    with Stage(suite, globals_=few) as stage:
        text, status = play(suite, stage, recording)
        stage.check()
    check(status == 1 and "the compositor has no wl_shm" in text, f"status {status}: {text}")


@case("what is no recording, and what is none of Wayland, is refused")
def _(suite):
    path = suite.path("recording")
    with open(path, "wb") as file:
        file.write(b"FDFERREX" + bytes(80))
    stage = suite.stage()
    text, status = play(suite, stage, path)
    check(status == 1 and "not a recording" in text, f"status {status}: {text}")
    with open(path, "wb") as file:
        file.write(HEAD.pack(b"FDFERREC", 1, 1, 0, 0, 4, 0, b"dbus"))
    text, status = play(suite, stage, path)
    check(status == 1 and "another service" in text, f"status {status}: {text}")
    stage.check()


@case("20 seeds of mutations leave the pair as it was")
def _(suite):
    recording = record(suite, "guest", paint)
    stage = suite.stage()
    for seed in range(20):
        text, status = play(suite, stage, recording, "--speed", "max", "--mutate", str(seed))
        check(status == 0, f"seed {seed}: status {status}: {text}")
        check(f"seed {seed}: " in text, text)
    stage.check()


def act_at_length(client):
    """The commit and what it needs are among requests that it does not need."""
    compositor = client.bind("wl_compositor")
    surface = client.new_id()
    client.request(compositor, 0, surface)
    for _ in range(10):
        client.request(compositor, 1, client.new_id())
    for n in range(10):
        client.request(surface, 2, 0, 0, n, n)
    client.request(surface, 6)
    client.sync()


def requests_of(frames):
    """[(object, opcode)] of what goes to the host."""
    return [(struct.unpack_from("<IHH", payload)[0], struct.unpack_from("<IHH", payload)[1])
            for direction, kind, _, payload in frames if direction == 0 and kind == MESSAGES]


@case("what a compositor dies of is reduced to the requests that it takes")
def _(suite):
    recording = record(suite, "guest", act_at_length)
    socket = suite.path("mortal")
    script = suite.path("mortal.py")
    with open(script, "w") as file:
        file.write(MORTAL)
    restart = (f"{sys.executable} {script} {socket} {HERE} {SUPPORT} </dev/null >/dev/null 2>&1 & "
               f"until test -S {socket}; do sleep 0.05; done")
    first = subprocess.Popen([sys.executable, script, socket, HERE, SUPPORT], start_new_session=True)
    wait_until("the mortal compositor", lambda: os.path.exists(socket), patient(20))
    chan = suite.path("chan")
    host = Program(suite, "fdferry-host", ["--listen", f"unix:{chan}", "--compositor", socket])
    guest = Program(suite, "fdferry-guest", [
        "--connect", f"unix:{chan}", "--replay", recording, "--mutate", "0", "--speed", "max",
        "--restart-command", restart], ready=False)
    text, status = guest.wait(patient(300))
    guest.check_quiet()
    host.check_quiet()
    host.kill()
    guest.kill()
    first.kill()
    first.wait()
    check(status == GONE, f"status {status}: {text}{guest.errors()}")
    check("failing seed: 0" in text and f"minimised recording: {recording}.min" in text, text)
    left = requests_of(frames_of(recording + ".min"))
    # get_registry; sync, as ids have no gaps; bind, create_surface, commit
    check(left == [(1, 1), (1, 0), (2, 0), (4, 0), (5, 6)], f"left are {left}")



@case("a replay proves its token")
def _(suite):
    recording = record(suite, "guest", paint)
    token = suite.path("token")
    with open(os.open(token, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
        file.write(b"a token of the test, long enough")
    with Stage(suite, host=["--token-file", token], guest=["--token-file", token]) as stage:
        text, status = play(suite, stage, recording, "--token-file", token, "--speed", "max")
        check(status == 0, f"with the token: status {status}: {text}")
        text, status = play(suite, stage, recording)
        check(status == 1, f"without the token: status {status}: {text}")
        stage.check()

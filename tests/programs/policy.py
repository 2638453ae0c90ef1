"""What a guest may see and do: the policy file, denied requests, security contexts."""

import contextlib
import os
import re
import shutil
import signal
import subprocess

from channel import Interposer, hello, messages
from harness import SLOW, Program, Skip, Stage, case_list, check, wait_until
from peers import PRELUDE, REGISTRY, HostileGuest
from surroundings import Channel
from wayland import Client, Ended, message

CASES, case = case_list("policy")
HOST, GUEST = "fdferry-host", "fdferry-guest"
SET_TRANSFORM, SET_SCALE, COMMIT = 7, 8, 6  # of wl_surface
COMPOSITOR, NEW = REGISTRY + 1, REGISTRY + 2  # object ids


def write(path, *lines):
    with open(path, "w") as file:
        file.write("\n".join(lines) + "\n")


def policy_file(suite, *lines, name="work.policy"):
    path = suite.path(name)
    write(path, *lines)
    return path


def globals_of(display):
    """interface: version, as a new client is offered them."""
    with Client(display) as client:
        client.get_registry()
        client.sync()
        return {name: version for name, (_, version) in client.globals.items()}


def reloaded(stage, path, *lines):
    write(path, *lines)
    stage.host.popen.send_signal(signal.SIGHUP)


@case("a policy file hides, caps and allows globals")
def _(suite):
    path = policy_file(suite, "[globals]", "allow = zwlr_screencopy_manager_v1:2",
                       "allow = wl_seat:3", "deny = wl_output")
    with Stage(suite, ["--policy", path]) as stage:
        offered = globals_of(stage.display)
        check(offered.get("zwlr_screencopy_manager_v1") == 2, offered)
        check(offered.get("wl_seat") == 3 and "wl_output" not in offered, offered)
        check("wl_shm" in offered, offered)
        with stage.client() as client:
            client.bind("wl_output", version=1, name=5)
            text = client.wait_end()
            check(text and "a global that was never offered" in text, f"it is told {text!r}")
        stage.check()


@case("SIGHUP: new sessions go by the file as it is now, older ones as it was")
def _(suite):
    path = policy_file(suite, "[globals]", "deny = wl_output")
    with Stage(suite, ["--policy", path, "--deny", "wl_seat"]) as stage, stage.client() as old:
        old.sync()
        reloaded(stage, path, "[globals]", "deny = wl_shm")
        offered = wait_until("a new client sees wl_output", lambda: (
            lambda seen: seen if "wl_output" in seen else None)(globals_of(stage.display)))
        check("wl_shm" not in offered, offered)
        check("wl_seat" not in offered, "the command line counts no longer")
        old.get_registry()
        old.sync()
        check("wl_shm" in old.globals and "wl_output" not in old.globals, old.globals)
        old.close()
        stage.check()


def reason_for_a_new_client(stage):
    """Why it is turned away; None if it is not."""
    with stage.client() as client:
        try:
            client.sync()
        except Ended as ended:
            return str(ended)
    return None


@case("SIGHUP: new sessions go by the new limits of their VM")
def _(suite):
    path = policy_file(suite, "[limits]", "max-vm-sessions = 1")
    with Stage(suite, ["--policy", path]) as stage:  # the witness is one
        text = reason_for_a_new_client(stage)
        check(text and "--max-vm-sessions" in text, f"it is told {text!r}")
        reloaded(stage, path, "[limits]", "max-vm-sessions = 5")
        wait_until("a new client is served", lambda: reason_for_a_new_client(stage) is None)
        reloaded(stage, path, "[limits]", "connection-rate = 1:1")
        wait_until("a new client comes too soon",
                   lambda: "--connection-rate" in (reason_for_a_new_client(stage) or ""))
        stage.check()


@case("SIGHUP: a file that is wrong or gone is told of, and the old policy stays")
def _(suite):
    path = policy_file(suite, "[globals]", "deny = wl_output")
    with Stage(suite, ["--policy", path]) as stage:
        for wrong, says in ((["[globals]", "deny = wl_shm", "denny = wl_seat"],
                             f"{path}:3: denny: unknown key in this section"),
                            (["[requests]", "deny-request = wl_surface.comit"],
                             f"{path}:2: deny-request = wl_surface.comit: the interface has no")):
            reloaded(stage, path, *wrong)
            wait_until(lambda: stage.host.errors(), lambda: says in stage.host.errors())
            offered = globals_of(stage.display)
            check("wl_output" not in offered and "wl_shm" in offered, offered)
        os.unlink(path)
        stage.host.popen.send_signal(signal.SIGHUP)
        wait_until(lambda: stage.host.errors(),
                   lambda: f"{path}: No such file or directory" in stage.host.errors())
        check("wl_output" not in globals_of(stage.display), "the policy is gone")
        stage.check()


def surface_of(client):
    compositor, surface = client.bind("wl_compositor"), client.new_id()
    client.request(compositor, 0, surface)
    return surface


@case("a denied request ends its session with an error, and the compositor does not see it")
def _(suite):
    path = policy_file(suite, "[requests]", "deny-request = wl_surface.set_buffer_transform")
    with Stage(suite, ["--policy", path]) as stage, stage.connected_client() as client:
        surface = surface_of(client)
        client.request(surface, SET_SCALE, 2)
        client.sync()
        client.request(surface, SET_TRANSFORM, 1)
        client.request(surface, COMMIT)
        text = client.wait_end()
        check(text and "set_buffer_transform: denied by the host's policy" in text,
              f"the client is told {text!r}")
        connection = client.connection
        check(connection.got("wl_surface", SET_SCALE), "a request that is not denied is lost")
        check(not connection.got("wl_surface", SET_TRANSFORM), "the denied request has arrived")
        check(not connection.got("wl_surface", COMMIT), "what came after it has arrived")
        client.close()
        stage.check()


@case("an ignored request is left out, and the session goes on")
def _(suite):
    with Stage(suite, ["--ignore-request", "wl_surface.set_buffer_transform"]) as stage, \
            stage.connected_client() as client:
        surface = surface_of(client)
        for _ in range(10):
            client.request(surface, SET_TRANSFORM, 1)
            client.request(surface, SET_SCALE, 2)
        client.sync()
        connection = client.connection
        check(len(connection.got("wl_surface", SET_SCALE)) == 10, connection.requests)
        check(not connection.got("wl_surface", SET_TRANSFORM), "the request has arrived")
        client.close()
        stage.check()


@case("a guest that only says it is ours can neither bind what is hidden nor make what is denied")
def _(suite):
    path = policy_file(suite, "[globals]", "allow = wl_seat:5", "deny = wl_output",
                       "[requests]", "deny-request = wl_surface.set_buffer_transform")
    with Stage(suite, ["--policy", path], channel=Interposer) as stage:
        for request, says in (
                (message(REGISTRY, 0, 6, "zwlr_screencopy_manager_v1", 1, NEW), "never offered"),
                (message(REGISTRY, 0, 5, "wl_output", 1, NEW), "never offered"),
                (message(REGISTRY, 0, 3, "wl_seat", 6, NEW), "a version that was never offered"),
                (message(REGISTRY, 0, 3, "wl_output", 1, NEW), "a global of another interface"),
                (message(COMPOSITOR, 0, NEW) + message(NEW, SET_TRANSFORM, 1),
                 "set_buffer_transform: denied by the host's policy")):
            guest = HostileGuest(stage, prepared=False)
            guest.end.send(hello() + messages(PRELUDE))
            guest.end.wait_for(lambda guest=guest: b"wl_seat" in guest.end.message_bytes())
            connection = guest.connection()
            guest.end.send(messages(message(REGISTRY, 0, 1, "wl_compositor", 4, COMPOSITOR)))
            guest.end.send(messages(request))
            guest.expect_end(says)
            guest.close()
            check([body for _, opcode, body in connection.requests if opcode == SET_TRANSFORM] == [] and
                  len(connection.got("wl_registry", 0)) <= 1, connection.requests)
        stage.check()


@case("limits of a policy file hold")
def _(suite):
    path = policy_file(suite, "[limits]", "max-objects = 20")
    with Stage(suite, ["--policy", path]) as stage:
        with stage.client() as client:
            for _ in range(20):
                surface_of(client)
            text = client.wait_end()
            check(text and "objects" in text, f"the client is told {text!r}")
        stage.check()
    path = policy_file(suite, "[limits]", "max-sessions = 1")
    with Stage(suite, ["--policy", path]) as stage, stage.client() as second:
        text = second.wait_end()
        check(text and "too many sessions (1)" in text, f"the client is told {text!r}")
        stage.witness.sync()


# ---- security contexts ----

@contextlib.contextmanager
def running(suite, name, argv, ready, **environment):
    """A compositor, once ready(its log) is true. Yields a function that reads its log."""
    path = suite.path(f"{name}.log")
    with open(path, "wb") as log:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                   env=suite.environment(**environment))

    def read():
        with open(path, errors="replace") as log:
            return log.read()
    try:
        wait_until(lambda: f"{name} starts: {read()}", lambda: ready(read()), SLOW)
        yield read
    finally:
        process.terminate()
        process.wait()


def context_compositor(suite, socket, **environment):
    program = os.path.join(suite.build, "tests", "support", "context-compositor")
    return running(suite, "context-compositor", [program, socket],
                   lambda log: "ready" in log, **environment)


class Pair:
    """Host and guest for a compositor that is not the suite's."""

    def __init__(self, suite, compositor, host=()):
        chan, self.display = Channel(suite.path("chan")), suite.path("display")
        self.host = Program(suite, HOST, ["--listen", chan.listen, "--compositor", compositor,
                                          *host])
        self.guest = Program(suite, GUEST, ["--connect", chan.connect, "--display", self.display])

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        for program in (self.guest, self.host):
            program.stop()
            if kind is None:
                program.check_quiet()


@case("each session has a security context of its own, which ends with it")
def _(suite):
    socket = suite.path("compositor")
    path = policy_file(suite, "[globals]", "allow = *", name="Work VM.policy")
    with context_compositor(suite, socket) as log:
        with Pair(suite, socket, ["--policy", path]) as pair:
            with Client(pair.display) as first, Client(pair.display) as second:
                for client in (first, second):
                    client.get_registry()
                    client.sync()
                    check("wl_seat" in client.globals, client.globals)
                    check("zwlr_screencopy_manager_v1" not in client.globals,
                          "the compositor does not know of the context")
                name = os.path.basename(path).removesuffix(".policy")
                contexts = re.findall(
                    rf"context of (\d+): engine fdferry, app {re.escape(name)}\n", log())
                check(len(set(contexts)) == 2, log())
                check(sorted(re.findall(r"client of (\d+)", log())) == sorted(contexts), log())
                check("end of" not in log(), log())
            wait_until(lambda: f"contexts end: {log()}",
                       lambda: sorted(re.findall(r"end of (\d+)", log())) == sorted(contexts))
        left = [name for name in os.listdir(suite.directory) if name.startswith("fdferry-")]
        check(not left, f"files are left: {left}")


@case("a machine has the name that it is given, or none")
def _(suite):
    socket = suite.path("compositor")
    with context_compositor(suite, socket) as log:
        with Pair(suite, socket, ["--vm-name", "play", "--require-security-context"]) as pair:
            globals_of(pair.display)
            check("engine fdferry, app play\n" in log(), log())
        with Pair(suite, socket) as pair:
            globals_of(pair.display)
            check("engine fdferry, app (none)\n" in log(), log())


@case("without a security context, a compositor with contexts sees an ordinary client")
def _(suite):
    socket = suite.path("compositor")
    with context_compositor(suite, socket) as log:
        with Pair(suite, socket, ["--no-security-context", "--allow", "*"]) as pair:
            check("zwlr_screencopy_manager_v1" in globals_of(pair.display), "it is hidden")
        check("context of" not in log(), log())


@case("a context that the compositor refuses is no session")
def _(suite):
    socket = suite.path("compositor")
    with context_compositor(suite, socket, REFUSE_CONTEXTS="1"):
        with Pair(suite, socket) as pair, Client(pair.display) as client:
            text = client.wait_end()
            check(text and text.endswith("cannot make a security context of the compositor"),
                  f"it is told {text!r}")
            wait_until("the log says where", lambda: f"compositor at {socket}: " in pair.host.errors())


@case("where contexts are required, a compositor without them serves nobody")
def _(suite):
    with Stage(suite) as stage:
        with Pair(suite, stage.compositor.path, ["--require-security-context"]) as pair:
            for _ in range(2):
                with Client(pair.display) as client:
                    text = client.wait_end()
                    check(text and "has no security contexts, which the host requires" in text,
                          f"the client is told {text!r}")
        stage.check()


@case("a compositor is asked once for its contexts, and again when it is another one")
def _(suite):
    with Stage(suite) as stage:
        for _ in range(3):
            before = len(stage.compositor.connections)
            globals_of(stage.display)
            check(len(stage.compositor.connections) == before + 1, "it is asked again")
        path = stage.compositor.path
        stage.compositor.close()
        stage.witness.wait_end()
        with context_compositor(suite, path) as log:
            globals_of(stage.display)
            check("context of" in log(), f"it is not asked: {log()}")
        stage.compositor = stage.make_compositor(None)
        for expected in (2, 3, 4):  # the first session is preceded by the question
            globals_of(stage.display)
            connections = stage.compositor.connections
            check(len(connections) == expected, f"{len(connections)} connections")


# ---- --explain-policy ----

def explain(suite, compositor, *options):
    process = Program(suite, HOST, ["--explain-policy", "--compositor", compositor, *options],
                      ready=False)
    output, status = process.wait()
    check(status == 0, process.errors())
    process.check_quiet()
    rows = {}
    for line in output.splitlines():
        words = line.split(None, 3)
        if len(words) == 4 and words[1].isdigit():
            rows[words[0]] = (int(words[1]), words[2], words[3])
    return output, rows


@case("--explain-policy says of each global what a client sees, and which rule says so")
def _(suite):
    path = policy_file(suite, "[globals]", "allow = wl_seat:3", "deny = wl_output",
                       "[requests]", "deny-request = wl_surface.offset")
    with Stage(suite) as stage:
        output, rows = explain(suite, stage.compositor.path, "--policy", path, "--allow",
                               "zwlr_screencopy_manager_v1:1", "--deny", "wl_shm",
                               "--ignore-request", "wl_surface.set_buffer_scale")
        check(rows == {
            "wl_compositor": (4, "4", "default"),
            "wl_shm": (1, "hidden", "--deny"),
            "wl_seat": (5, "3", f"allow ({path}:2)"),
            "wl_data_device_manager": (3, "3", "default"),
            "wl_output": (4, "hidden", f"deny ({path}:3)"),
            "zwlr_screencopy_manager_v1": (3, "1", "--allow"),
            "test_thing_v1": (1, "hidden", "no protocol file describes it (--protocol)"),
        }, output)
        check(re.search(rf"^wl_surface.offset +ends the session +deny-request \({path}:5\)$",
                        output, re.MULTILINE), output)
        check(re.search(r"^wl_surface.set_buffer_scale +is left out +--ignore-request$", output,
                        re.MULTILINE), output)
        check("security context: none, the compositor does not have them\n" in output, output)
        output, rows = explain(suite, stage.compositor.path)
        check(rows["zwlr_screencopy_manager_v1"][1:] == ("hidden", "default: privileged"), output)
        stage.check()


@case("a rule about an interface that nobody knows is warned of with its line, also by --explain-policy")
def _(suite):
    path = policy_file(suite, "[globals]", "deny = zwlr_screncopy_manager_v1")
    options = ["--policy", path, "--allow", "wl_sheat:3"]
    expected = ["--allow wl_sheat:3", f"{path}:2: deny = zwlr_screncopy_manager_v1"]
    with Stage(suite, options) as stage:
        explained = Program(suite, HOST, ["--explain-policy", "--compositor",
                                          stage.compositor.path, *options], ready=False)
        check(explained.wait()[1] == 0, explained.errors())
        for program in (stage.host, explained):
            check(program.errors().splitlines() ==
                  [f"fdferry-host: warn: {rule}: no such interface is known" for rule in expected],
                  program.errors())


@case("--explain-policy tells what a compositor hides from a security context")
def _(suite):
    socket = suite.path("compositor")
    with context_compositor(suite, socket):
        output, rows = explain(suite, socket, "--allow", "*", "--vm-name", "play")
        check("security context: engine fdferry, app id play\n" in output, output)
        check(rows["wl_seat"] == (7, "7", "--allow"), output)
        check(rows["zwlr_screencopy_manager_v1"] == (
            3, "hidden", "the compositor hides it from security contexts"), output)
        output, rows = explain(suite, socket, "--allow", "*", "--no-security-context")
        check(rows["zwlr_screencopy_manager_v1"] == (3, "3", "--allow"), output)


@case("--explain-policy agrees with what a client of Weston sees")
def _(suite):
    weston = shutil.which("weston")
    if weston is None:
        raise Skip("there is no weston")
    socket = os.path.join(suite.directory, "wayland-policy")
    with running(suite, "weston", [weston, "--backend=headless-backend.so", "--idle-time=0",
                                   "--socket=wayland-policy"],
                 lambda log: os.path.exists(socket)):
        output, rows = explain(suite, socket)
        seen = {name: version for name, (_, version, _) in rows.items() if version != "hidden"}
        with Pair(suite, socket) as pair:
            offered = {name: str(version) for name, version in globals_of(pair.display).items()}
        check(seen == offered and "wl_compositor" in seen, f"{output}\n{offered}")
        check(len(rows) > len(seen), "nothing is hidden")
    return f"{len(rows)} globals"


@case("what cannot be explained is one line and a status that is not 0")
def _(suite):
    path = policy_file(suite, "[globals]", "denny = wl_shm")
    with Stage(suite) as stage:
        for options, says in ((["--compositor", "/none"], "cannot ask the compositor at /none"),
                              (["--compositor", stage.compositor.path, "--policy", path],
                               f"{path}:2: denny: unknown key in this section")):
            process = Program(suite, HOST, ["--explain-policy", *options], ready=False)
            output, status = process.wait()
            lines = process.errors().splitlines()
            check(status == 1 and output == "" and len(lines) == 1 and says in lines[0],
                  f"{options}: {status} {output!r} {lines}")

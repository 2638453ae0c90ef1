"""The programs as a user, a script and a service manager meet them."""

import os
import re
import signal
import socket

from compositor import Compositor
from harness import (SLOW, Program, Stage, activated, case_list, check, listen, processes_of,
                     wait_until)
from wayland import Client, Ended

CASES, case = case_list("command line")
HOST, GUEST = "fdferry-host", "fdferry-guest"

LONG = "/" + 110 * "x"
MANY = [word for n in range(33) for word in ("--service", f"s{n}=unix:/s{n}")]
XML = """<protocol name="test"><interface name="test_thing_v1" version="1">
<request name="destroy" type="destructor"/></interface></protocol>"""

# program, arguments, status, what the line says; {dir} is an empty directory
WRONG = [
    (HOST, ["--no-such-option"], 2, "unknown option '--no-such-option'"),
    (HOST, ["-x"], 2, "unknown option '-x'"),
    (HOST, [], 2, "--listen is missing"),
    (HOST, ["--listen"], 2, "--listen: its value is missing"),
    (HOST, ["--listen", "unix:{dir}/a", "word"], 2, "unexpected argument 'word'"),
    (HOST, ["--listen", "unix:{dir}/a", "--", "true"], 2, "unexpected argument 'true'"),
    (HOST, ["--listen", "unix:{dir}/a", "--listen", "unix:{dir}/b"], 2, "given twice"),
    (HOST, ["--listen", "unix:"], 2, "the path is missing"),
    (HOST, ["--listen", "{dir}/a"], 2, "must be unix:PATH"),
    (HOST, ["--listen", "unix:" + LONG], 2, "too long"),
    (HOST, ["--listen", "vsock:port"], 2, "not a number"),
    (HOST, ["--listen", "vsock:99999999999"], 2, "not a number"),
    (HOST, ["--listen", "vsock:x:1"], 2, "not a number"),
    (HOST, ["--listen", "vsock:1", "--allow-uid", "1"], 2, "--allow-uid is not for --listen vsock"),
    (HOST, ["--listen", "unix:{dir}/a", "--require-security-context", "--no-security-context"], 2,
     "contradicts another option"),
    (HOST, ["--listen", "unix:{dir}/a", "--resolver", "x"], 2, "unix:PATH or vhost-user:PATH"),
    (HOST, ["--listen", "unix:{dir}/a", "--max-fds-in-flight", "252"], 2, "at least 253"),
    (HOST, ["--listen", "unix:{dir}/a", "--protocol", ""], 2, "the name is missing"),
    (HOST, ["--listen", "unix:{dir}/a", "--compositor", ""], 2, "missing"),
    (HOST, ["--listen", "unix:{dir}/a", "--compositor", LONG], 1, "too long"),
    (HOST, ["--listen", "unix:{dir}/a", "--service", "sound"], 2, "must be NAME=unix:PATH"),
    (HOST, ["--listen", "unix:{dir}/a", "--service", "sound=/x"], 2, "must be unix:PATH"),
    (HOST, ["--listen", "unix:{dir}/a", "--service", "sound=vsock:1"], 2, "must be unix:PATH"),
    (HOST, ["--listen", "unix:{dir}/a", "--service", "sound=unix:"], 2, "the path is missing"),
    (HOST, ["--listen", "unix:{dir}/a", "--service", "sound=unix:" + LONG], 2, "too long"),
    (HOST, ["--listen", "unix:{dir}/a", "--service", "a b=unix:/x"], 2, "the name must be"),
    (HOST, ["--listen", "unix:{dir}/a", "--service", "=unix:/x"], 2, "the name must be"),
    (HOST, ["--listen", "unix:{dir}/a", "--service", 65 * "n" + "=unix:/x"], 2, "the name must"),
    (HOST, ["--listen", "unix:{dir}/a", "--service", "n=unix:/x", "--service", "n=unix:/y"], 2,
     "named already"),
    (HOST, ["--listen", "unix:{dir}/a", *MANY], 2, "too many services"),
    (HOST, ["--listen", "unix:{dir}/a", "--shm-mode", "copy"], 2, "must be refuse, snapshot or"),
    (HOST, ["--listen", "unix:{dir}/a", "--on-unsupported", "no"], 2, "must be close, drop or"),
    (HOST, ["--listen", "unix:{dir}/a", "--max-file-copy", "-1"], 2, "not a number"),
    (HOST, ["--listen", "unix:{dir}/a", "--service", "wayland=unix:x"], 2, "absolute path"),
    (HOST, ["--listen", "unix:{dir}/a", "--allow", "no such"], 2, "--allow no such"),
    (HOST, ["--listen", "unix:{dir}/a", "--allow", ""], 2, "--allow"),
    (HOST, ["--listen", "unix:{dir}/a", "--allow", "wl_seat:"], 2, "version"),
    (HOST, ["--listen", "unix:{dir}/a", "--allow", "wl_seat:0"], 2, "version"),
    (HOST, ["--listen", "unix:{dir}/a", "--allow", "wl_seat:x"], 2, "version"),
    (HOST, ["--listen", "unix:{dir}/a", "--allow", "wl_seat:4294967296"], 2, "version"),
    (HOST, ["--listen", "unix:{dir}/a", "--deny", "wl_seat:3"], 2, "--deny"),
    (HOST, ["--listen", "unix:{dir}/a", "--deny", "*"], 2, "--deny"),
    (HOST, ["--listen", "unix:{dir}/a", "--deny-request", "wl_shm"], 2, "INTERFACE.REQUEST"),
    (HOST, ["--listen", "unix:{dir}/a", "--deny-request", "wl_shm.no"], 1, "has no such request"),
    (HOST, ["--listen", "unix:{dir}/a", "--ignore-request", "wl_shm.create_pool"], 1, "only be"),
    (HOST, ["--listen", "unix:{dir}/a", "--policy", "{dir}/none"], 1,
     "the policy {dir}/none: No such file"),
    (HOST, ["--listen", "unix:{dir}/a", "--policy", "{dir}/file"], 1, "{dir}/file:1: must be"),
    (HOST, ["--listen", "unix:{dir}/a", "--vm-name", "a/b"], 2, "must be 1 to 64"),
    (HOST, ["--listen", "unix:{dir}/a", "--max-memory", "0"], 2, "too small"),
    (HOST, ["--listen", "unix:{dir}/a", "--max-memory", "-1"], 2, "not a number"),
    (HOST, ["--listen", "unix:{dir}/a", "--max-memory", "1T"], 2, "not a number"),
    (HOST, ["--listen", "unix:{dir}/a", "--max-memory", "G"], 2, "not a number"),
    (HOST, ["--listen", "unix:{dir}/a", "--max-memory", "99999999999G"], 2, "too large"),
    (HOST, ["--listen", "unix:{dir}/a", "--max-throughput", "65535"], 2, "at least 64K"),
    (HOST, ["--listen", "unix:{dir}/a", "--max-vm-throughput", "17G"], 2, "at most 16G"),
    (HOST, ["--listen", "unix:{dir}/a", "--max-objects", "0"], 2, "too small"),
    (HOST, ["--listen", "unix:{dir}/a", "--max-fds", "4294967296"], 2, "too large"),
    (HOST, ["--listen", "unix:{dir}/a", "--max-sessions", "0"], 2, "too small"),
    (HOST, ["--listen", "unix:{dir}/a", "--max-sessions", "1x"], 2, "not a number"),
    (HOST, ["--listen", "unix:{dir}/a", "--ping-interval", "0"], 2, "too small"),
    (HOST, ["--listen", "unix:{dir}/a", "--ping-interval", "5", "--ping-timeout", "4"], 2,
     "--ping-timeout 4: shorter than --ping-interval 5"),
    (HOST, ["--listen", "unix:{dir}/a", "--log-level", "loud"], 2, "must be error, warn"),
    (HOST, ["--listen", "unix:{dir}"], 1, "cannot listen at unix:{dir}"),
    (HOST, ["--listen", "unix:{dir}/none/a"], 1, "No such file or directory"),
    (HOST, ["--listen", "unix:{dir}/file"], 1, "cannot listen at unix:{dir}/file"),
    (HOST, ["--listen", "unix:{dir}/taken"], 1, "Address already in use"),
    (HOST, ["--listen", "unix:{dir}/a", "--protocol", "{dir}/none.xml"], 1,
     "the protocol {dir}/none.xml: No such file"),
    (HOST, ["--listen", "unix:{dir}/a", "--protocol", "{dir}"], 1, "{dir}"),
    (HOST, ["--listen", "unix:{dir}/a", "--protocol", "{dir}/file"], 1, "{dir}/file:"),
    (HOST, ["--listen", "unix:{dir}/a", "--protocol", "{dir}/other.xml"], 1, "{dir}/other.xml:"),
    (GUEST, ["--no-such-option"], 2, "unknown option"),
    (GUEST, [], 2, "--connect is missing"),
    (GUEST, ["--connect", "unix:x", "word"], 2, "unexpected argument 'word' (a command goes after"),
    (GUEST, ["--connect", "unix:x", "--"], 2, "the command after -- is missing"),
    (GUEST, ["--connect", "tcp:x"], 2, "must be unix:PATH or vsock:[CID:]PORT"),
    (GUEST, ["--connect", "vhost-user:/x"], 2, "must be unix:PATH or vsock:[CID:]PORT"),
    (GUEST, ["--connect", "unix:" + LONG], 2, "too long"),
    (GUEST, ["--connect", "unix:x", "--display", ""], 2, "missing"),
    (GUEST, ["--connect", "unix:x", "--display", "a/b"], 2, "must be a name or an absolute path"),
    (GUEST, ["--connect", "unix:x", "--display", LONG], 1, "too long"),
    (GUEST, ["--connect", "unix:x", "--display", "{dir}/taken"], 1, "another program"),
    (GUEST, ["--connect", "unix:x", "--display", "{dir}/file"], 1, "no socket"),
    (GUEST, ["--connect", "unix:x", "--display", "{dir}/none/a"], 1, "No such file or directory"),
    (GUEST, ["--connect", "unix:x", "--display", "{dir}/a", "--max-sessions", ""], 2, "number"),
    (GUEST, ["--connect", "unix:x", "--display", "{dir}/a", "--protocol", "{dir}/file"], 1, "file"),
    (GUEST, ["--connect", "unix:x", "--display", "{dir}/a", "--log-level", ""], 2, "must be"),
    (GUEST, ["--connect", "unix:x", "--ping-timeout", "19"], 2, "shorter than --ping-interval 20"),
    (GUEST, ["--connect", "unix:x", "--ping-timeout", "-1"], 2, "not a number"),
    (GUEST, ["--connect", "unix:x", "--service", "sound"], 2, "must be NAME=unix:PATH"),
    (GUEST, ["--connect", "unix:x", "--service", "so/und=unix:/x"], 2, "the name must be"),
    (GUEST, ["--connect", "unix:x", "--service", "n=unix:/x", "--service", "n=unix:/y"], 2,
     "named already"),
    (GUEST, ["--connect", "unix:x", "--service", "a=unix:/x", "--service", "b=seqpacket:/x"], 2,
     "the same path"),
    (GUEST, ["--connect", "unix:x", "--display", "/x", "--service", "b=unix:/x"], 2,
     "the same path"),
    (GUEST, ["--connect", "unix:x", "--service", "b=unix:{dir}/taken"], 1,
     "cannot listen for the service b at {dir}/taken: Address already in use"),
    (GUEST, ["--connect", "unix:x", "--service", "a=unix:{dir}/a", "--service",
             "b=seqpacket:{dir}/taken"], 1, "Address already in use"),
    (GUEST, ["--connect", "unix:x", "--service", "b=unix:{dir}/file"], 1, "cannot listen"),
    (GUEST, ["--connect", "unix:x", "--service", "b=unix:{dir}/none/b"], 1, "No such file"),
    (GUEST, ["--connect", "unix:x", "--shm-mode", "share"], 2, "must be refuse, snapshot or diff"),
    (GUEST, ["--connect", "unix:x", "--on-unsupported", ""], 2, "must be close, drop or devnull"),
    (GUEST, ["--connect", "unix:x", "--max-file-copy", "1T"], 2, "not a number"),
    (GUEST, ["--connect", "unix:x", "--max-file-copy", "99999999999G"], 2, "too large"),
]

# program, arguments, XDG_RUNTIME_DIR, what the line says
RUNTIME_DIRS = [
    (HOST, ["--listen", "unix:{dir}/a"], None, "XDG_RUNTIME_DIR"),
    (HOST, ["--listen", "unix:{dir}/a", "--compositor", "wayland-7"], "", "XDG_RUNTIME_DIR"),
    (HOST, ["--listen", "unix:{dir}/a"], "{dir}/none", "No such file"),
    (HOST, ["--listen", "unix:{dir}/a"], "{dir}/file", "no directory"),
    (GUEST, ["--connect", "unix:x"], None, "XDG_RUNTIME_DIR is not set"),
    (GUEST, ["--connect", "unix:x", "--display", "wayland-7"], "", "XDG_RUNTIME_DIR is not set"),
    (GUEST, ["--connect", "unix:x"], "some/where", "no absolute path"),
    (GUEST, ["--connect", "unix:x"], "{dir}/none", "No such file"),
    (GUEST, ["--connect", "unix:x"], "{dir}/file", "no directory"),
]


def make_directory(suite):
    """With a file, a socket that somebody listens at, and protocols that are none."""
    directory = suite.path("files")
    os.mkdir(directory, 0o700)
    for name, content in (("file", "not a protocol\n"), ("other.xml", "<svg></svg>"),
                          ("test.xml", XML)):
        with open(os.path.join(directory, name), "w") as file:
            file.write(content)
    return directory


def check_refusal(suite, directory, program, arguments, status, says, environment=()):
    """One line on stderr, nothing on stdout, the status, and no socket left behind."""
    before = sorted(os.listdir(directory))
    fill = [argument.replace("{dir}", directory) for argument in arguments]
    if program == HOST and "--compositor" not in fill and not environment:
        fill = ["--compositor", f"{directory}/taken", *fill]
    process = Program(suite, program, fill, environment, ready=False)
    output, got = process.wait()
    told = f"{' '.join(fill)} ends with {got}: {process.errors()!r}"
    lines = process.errors().splitlines()
    check(got == status and output == "", told)
    check(len(lines) == 1 and lines[0].startswith(program + ": "), told)
    check(says.replace("{dir}", directory) in lines[0], told)
    check(sorted(os.listdir(directory)) == before, f"{told}; left {os.listdir(directory)}")


@case("every mistake in the arguments is one clear line and a status that is not 0")
def _(suite):
    directory = make_directory(suite)
    with listen(f"{directory}/taken"):
        for program, arguments, status, says in WRONG:
            check_refusal(suite, directory, program, arguments, status, says)
    return f"{len(WRONG)} mistakes"


@case("an XDG_RUNTIME_DIR that is needed and of no use is named")
def _(suite):
    directory = make_directory(suite)
    with listen(f"{directory}/taken"):
        for program, arguments, value, says in RUNTIME_DIRS:
            value = value and value.replace("{dir}", directory)
            check_refusal(suite, directory, program, arguments, 1, says,
                          {"XDG_RUNTIME_DIR": value})


@case("help and version go to stdout with status 0, whatever else is given")
def _(suite):
    for program in (HOST, GUEST):
        for arguments, says in ((["--help"], f"Usage: {program} "), (["--version"], f"{program} "),
                                (["--stats", "--help"], "Usage:")):
            process = Program(suite, program, arguments, ready=False)
            output, status = process.wait()
            check(status == 0 and output.startswith(says) and process.errors() == "",
                  f"{program} {arguments}: {status} {output!r} {process.errors()!r}")
    output, _ = Program(suite, HOST, ["--help"], ready=False).wait()
    for option in ("listen", "compositor", "allow", "deny", "protocol", "max-memory"):
        check(f"--{option}" in output, f"--help does not tell of --{option}")
    check("session-fd" not in output, "--help tells of what is not for users")


@case("help to a full disk does not end with status 0")
def _(suite):
    for program in (HOST, GUEST):
        process = Program(suite, program, ["--help"], ready=False,
                          launcher=["sh", "-c", 'exec "$@" >/dev/full', "sh"])
        _, status = process.wait()
        check(status != 0, f"{program} --help >/dev/full ends with {status}")


@case("a client is told that there is no compositor")
def _(suite):
    with Stage(suite) as stage:
        stage.compositor.close()
        with stage.client() as client:
            text = client.wait_end()
        check(text and text.endswith("cannot connect to the compositor"), f"it is told {text!r}")
        wait_until("the log says where",  # by the parent, which the session has told
                   lambda: stage.compositor.path in stage.host.errors())
        check(stage.host.alive() and stage.guest.alive(), "a program ended")
        stage.compositor = Compositor(stage.compositor.path)  # for the end of the stage
        with stage.client() as client:
            client.sync()


@case("a client is told that the compositor does not answer")
def _(suite):
    compositor, chan, display = (suite.path(name) for name in ("silent", "chan", "display"))
    with listen(compositor):
        host = Program(suite, HOST, ["--listen", f"unix:{chan}", "--compositor", compositor])
        guest = Program(suite, GUEST, ["--connect", f"unix:{chan}", "--display", display])
        with Client(display) as client:
            text = client.wait_end(2 * SLOW)
        check(text and text.endswith("no answer from the compositor"), f"it is told {text!r}")
        wait_until("the log says where", lambda: f"compositor at {compositor}: " in host.errors())
        for program in (guest, host):
            check(program.stop() == 0, program.errors())


@case("a client is told that the host cannot be reached")
def _(suite):
    path = suite.path("display")
    guest = Program(suite, GUEST, ["--connect", f"unix:{path}-none", "--display", path])
    with Client(path) as client:
        text = client.wait_end()
    check(text and f"cannot reach unix:{path}-none" in text, f"it is told {text!r}")
    check(f"cannot reach unix:{path}-none" in guest.errors(), guest.errors())
    check(guest.stop() == 0, "SIGTERM")


STATUSES = [(["true"], 0), (["sh", "-c", "exit 7"], 7), (["sh", "-c", "kill -9 $$"], 128 + 9),
            (["sh", "-c", "kill -TERM $$"], 128 + 15), (["/no/such/program"], 127),
            (["no-such-program-here"], 127)]


@case("-- COMMAND is run as a client, and its status is the guest's")
def _(suite):
    path = suite.path("display")
    start = [GUEST, ["--connect", "unix:/none", "--display", path, "--"]]
    for command, expected in STATUSES:
        process = Program(suite, start[0], [*start[1], *command], ready=False)
        _, status = process.wait()
        check(status == expected, f"{command}: {status}, expected {expected}: {process.errors()}")
        check(not os.path.exists(path) and not os.path.exists(path + ".lock"), "files are left")
        lines = process.errors().splitlines()
        check(len(lines) == (1 if expected == 127 else 0), f"{command}: {lines}")
    script = 'test -S "$WAYLAND_DISPLAY" && echo "$WAYLAND_DISPLAY $WAYLAND_SOCKET."'
    process = Program(suite, start[0], [*start[1], "sh", "-c", script],
                      {"WAYLAND_SOCKET": "9", "WAYLAND_DISPLAY": "other"}, ready=False)
    output, status = process.wait()
    check((output, status) == (f"{path} .\n", 0), f"the command sees {output!r}")


@case("-- COMMAND keeps its own options, stdin, stdout and limits")
def _(suite):
    path = suite.path("display")
    script = 'echo "$@"; ulimit -Sn; ulimit -Hn; ls /proc/self/fd | wc -l'
    process = Program(suite, GUEST, ["--connect", "unix:/none", "--display", path, "--", "sh", "-c",
                                     script, "sh", "--help", "--connect"], ready=False)
    output, status = process.wait()
    lines = output.split("\n")
    check(status == 0 and lines[0] == "--help --connect", output)
    check([lines[1], lines[2]] == os.popen("ulimit -Sn; ulimit -Hn").read().split(), output)
    check(lines[3].strip() == "4", f"the command has inherited fds: {lines[3]} are open")


@case("-- COMMAND is ended when the guest is")
def _(suite):
    path = suite.path("display")
    guest = Program(suite, GUEST, ["--connect", "unix:/none", "--display", path, "--",
                                   "sleep", "60"])
    wait_until("the command runs", lambda: len(processes_of(guest.pid)) >= 3)
    check(guest.stop() in (0, 128 + 15), "status after SIGTERM")


@case("--oneshot serves one client and ends")
def _(suite):
    with Stage(suite) as stage:
        chan, display = suite.path("chan"), suite.path("display")
        host = Program(suite, HOST, ["--listen", f"unix:{chan}", "--compositor",
                                     stage.compositor.path, "--oneshot"])
        guest = Program(suite, GUEST, ["--connect", f"unix:{chan}", "--display", display,
                                       "--oneshot"])
        with Client(display) as client:
            client.sync()
            try:
                Client(display).close()
                check(False, "a second client is let in")
            except (ConnectionRefusedError, FileNotFoundError):
                pass
            client.sync()
        for program in (host, guest):
            check(program.wait()[1] == 0, f"{program.name}: {program.errors()}")
        check(not os.path.exists(chan) and not os.path.exists(display), "sockets are left")


@case("--print-ready prints READY when clients can connect, and nothing else")
def _(suite):
    path = suite.path("display")
    guest = Program(suite, GUEST, ["--connect", "unix:/none", "--display", path])
    Client(path).close()
    guest.popen.send_signal(signal.SIGTERM)
    output, status = guest.wait()
    check(output == "" and status == 0, f"stdout after READY: {output!r}, status {status}")


@case("the first free display is taken, and a name that is taken is not")
def _(suite):
    directory = make_directory(suite)
    environment = {"XDG_RUNTIME_DIR": directory}
    first = Program(suite, GUEST, ["--connect", "unix:/none"], environment)
    second = Program(suite, GUEST, ["--connect", "unix:/none"], environment)
    names = {"wayland-0", "wayland-0.lock", "wayland-1", "wayland-1.lock"}
    check(names <= set(os.listdir(directory)), os.listdir(directory))
    third = Program(suite, GUEST, ["--connect", "unix:/none", "--display", "wayland-1"],
                    environment, ready=False)
    _, status = third.wait()
    check(status == 1 and "another program" in third.errors(), third.errors())
    for program in (first, second):
        check(program.stop() == 0, program.errors())
    check(not names & set(os.listdir(directory)), os.listdir(directory))


@case("sockets and locks of programs that were killed do not keep new ones from starting")
def _(suite):
    with Stage(suite) as stage:
        for program, start in ((stage.host, stage.start_host), (stage.guest, stage.start_guest)):
            os.kill(program.pid, signal.SIGKILL)
            program.popen.wait()
            start()
            stage.witness.sync()
            with stage.client() as client:
                client.sync()


@case("SIGTERM, SIGINT and SIGHUP end both programs with status 0, their sockets and children")
def _(suite):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        stage = Stage(suite)
        with stage:
            stage.host.popen.send_signal(number)
            text = stage.witness.wait_end()
            stage.witness.close()
            check(stage.host.stop(None) == 0, f"host: {stage.host.errors()}")
            check(not os.path.exists(stage.chan.path), "the channel's socket is left")
            check(text and "fdferry-host is stopping" in text, f"the client is told {text!r}")
            check(stage.guest.stop(number) == 0, f"guest: {stage.guest.errors()}")
            left = set(os.listdir(stage.directory)) - {"wayland-0"}
            check(not left, f"files are left: {left}")
            for program in stage.programs():
                program.check_quiet()


@case("a terminal that is closed ends a guest and its sessions in good order, but not with nohup")
def _(suite):
    with Stage(suite) as stage:
        stage.guest.settled_files()
        os.killpg(stage.guest.pid, signal.SIGHUP)
        text = stage.witness.wait_end()
        check(text and "fdferry-guest is stopping" in text, f"the client is told {text!r}")
        check(stage.guest.stop(None) == 0, stage.guest.errors())
        check(not os.path.exists(stage.display), "the display's socket is left")
        start = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh"]
        display = suite.path("display")
        guest = Program(suite, GUEST, ["--connect", f"unix:{stage.chan.path}", "--display",
                                       display], launcher=start)
        os.killpg(guest.pid, signal.SIGHUP)
        with Client(display) as client:
            client.sync()
        check(guest.stop() == 0, guest.errors())
        stage.start_guest()


@case("SIGTERM ends a guest whose clients are told why, also when they read nothing")
def _(suite):
    with Stage(suite) as stage, stage.connected_client() as silent:
        silent.get_registry()
        check(stage.guest.stop() == 0, stage.guest.errors())
        for client in (stage.witness, silent):
            text = client.wait_end()
            check(text and "fdferry-guest is stopping" in text, f"the client is told {text!r}")


@case("a service manager's sockets are used, and left to it")
def _(suite):
    with Stage(suite) as stage:
        chan, display = suite.path("chan"), suite.path("display")
        with listen(chan) as chan_socket, listen(display) as display_socket:
            host = activated(suite, HOST, ["--compositor", stage.compositor.path], [chan_socket])
            guest = activated(suite, GUEST, ["--connect", f"unix:{chan}"], [display_socket])
            for _ in range(2):
                with Client(display) as client:
                    client.sync()
            for program in (host, guest):
                check(program.stop() == 0, program.errors())
            check(os.path.exists(chan) and os.path.exists(display), "a socket was removed")


@case("what a service manager passes wrongly is one clear line")
def _(suite):
    directory = make_directory(suite)
    with listen(f"{directory}/s") as good, socket.socket(socket.AF_UNIX) as bad, \
            listen(f"{directory}/c"), socket.create_server(("127.0.0.1", 0)) as network:
        host = ["--compositor", f"{directory}/c"]
        for program, arguments, sock, count in (
                (HOST, host, bad, "1"), (HOST, host, good, "2"), (HOST, host, good, "0"),
                (HOST, [*host, "--listen", f"unix:{directory}/a"], good, "1"),
                (HOST, host, network, "1"), (GUEST, ["--connect", "unix:x"], network, "1"),
                (GUEST, ["--connect", "unix:x"], bad, "1"),
                (GUEST, ["--connect", "unix:x"], good, "x"),
                (GUEST, ["--connect", "unix:x", "--display", f"{directory}/a"], good, "1")):
            process = activated(suite, program, arguments, [sock], count, ready=False)
            _, status = process.wait()
            lines = process.errors().splitlines()
            check(status == 1 and len(lines) == 1 and lines[0].startswith(program + ": "),
                  f"{program} {arguments} {count}: {status} {lines}")


@case("NOTIFY_SOCKET is told READY=1 once clients can connect")
def _(suite):
    for name in (suite.path("notify"), "@fdferry-programs-" + str(os.getpid())):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(name.replace("@", "\0"))
            notify.settimeout(SLOW)
            display = suite.path("display")
            guest = Program(suite, GUEST, ["--connect", "unix:/none", "--display", display, "--",
                                           "sh", "-c", "echo ${NOTIFY_SOCKET-gone}"],
                            {"NOTIFY_SOCKET": name}, ready=False)
            check(notify.recv(100).decode().split("\n")[0] == "READY=1", "not READY=1")
            check(guest.wait()[0] == "gone\n", "the command sees NOTIFY_SOCKET")
            host = Program(suite, HOST, ["--listen", f"unix:{suite.path('chan')}", "--compositor",
                                         "/none"], {"NOTIFY_SOCKET": name})
            check(notify.recv(100).decode().split("\n")[0] == "READY=1", "not READY=1")
            host.stop()


def offered(suite, host, guest=()):
    """What a client is offered of the compositor's globals: interface: version."""
    with Stage(suite, host, guest) as stage, stage.client() as client:
        client.get_registry()
        client.sync()
        return {name: version for name, (_, version) in client.globals.items()}


@case("--protocol adds a protocol where both programs are given it")
def _(suite):
    xml = ["--protocol", make_directory(suite) + "/test.xml"]
    for host, guest, expected in ((xml, xml, 1), (xml, [], None), ([], xml, None), ([], [], None)):
        got = offered(suite, host, guest).get("test_thing_v1")
        check(got == expected, f"host {host}, guest {guest}: {got}")


CAPTURE = "zwlr_screencopy_manager_v1"
POLICIES = [
    ([], {CAPTURE: None, "wl_seat": 5, "wl_output": 4}),
    (["--allow", CAPTURE], {CAPTURE: 3, "wl_seat": 5}),
    (["--allow", CAPTURE + ":2"], {CAPTURE: 2}),
    (["--allow", CAPTURE + ":99"], {CAPTURE: 3}),
    (["--allow", "*"], {CAPTURE: 3, "wl_seat": 5}),
    (["--allow", "*", "--deny", CAPTURE], {CAPTURE: None, "wl_seat": 5}),
    (["--allow", CAPTURE, "--deny", CAPTURE], {CAPTURE: None}),
    (["--deny", "wl_output", "--allow", "wl_seat:3"], {"wl_output": None, "wl_seat": 3}),
    (["--allow", "wl_seat:3", "--allow", "wl_seat:4"], {"wl_seat": 4}),
]


@case("--allow and --deny say what a client is offered, and at which version")
def _(suite):
    for options, expected in POLICIES:
        got = offered(suite, options)
        for name, version in expected.items():
            check(got.get(name) == version, f"{options}: {name} is offered at {got.get(name)}")


@case("--max-sessions turns away the client that is too many, who is told why")
def _(suite):
    for options in ({"host": ["--max-sessions", "2"]}, {"guest": ["--max-sessions", "2"]}):
        with Stage(suite, **options) as stage:  # the witness is one
            with stage.client() as client:
                client.sync()
                with stage.client() as another:
                    text = another.wait_end()
                    check(text and "too many sessions (2)" in text, f"it is told {text!r}")
                client.sync()
            stage.check()
            wait_until("there is room again", lambda: is_served(stage))


def is_served(stage):
    with stage.client() as client:
        try:
            client.sync()
        except Ended:
            return False
        return True


@case("--trace prints messages like WAYLAND_DEBUG")
def _(suite):
    with Stage(suite, ["--trace"], ["--trace"]) as stage:
        stage.witness.get_registry()
        stage.witness.sync()
        for program in stage.programs():
            for line in (r"^\[\d+\.\d{6}\] -> wl_display#1\.get_registry\(new id wl_registry#3\)$",
                         r'^\[\d+\.\d{6}\] <- wl_registry#3\.global\(1, "wl_compositor", 4\)$',
                         r"^\[\d+\.\d{6}\] <- wl_callback#\d+\.done\(\d+\)$"):
                check(re.search(line, program.errors(), re.M), f"{program.name}: no {line}")


STATS = re.compile(r"^  messages  (\d+) requests \(\d+ bytes\), (\d+) events", re.M)


@case("--stats prints what crossed when a session ends, and at the end")
def _(suite):
    with Stage(suite, ["--stats"], ["--stats"]) as stage:
        stage.witness.close()
        for program in stage.programs():
            wait_until(f"{program.name} prints", lambda: STATS.search(program.errors()))
            check(f"{program.name}: session 1\n" in program.errors(), program.errors())
        stage.guest.stop()
        stage.host.stop()
        for program in stage.programs():
            check("sessions that have ended\n  sessions  1\n" in program.errors(), program.errors())
            check(STATS.findall(program.errors()) == 2 * [("1", "2")], program.errors())


@case("SIGUSR1 prints what has crossed so far, of the parent and of every session")
def _(suite):
    with Stage(suite) as stage, stage.client() as client:
        client.sync()
        for program in stage.programs():
            os.kill(program.pid, signal.SIGUSR1)
            for title in ("sessions that have ended", "session 1", "session 2"):
                wait_until(lambda: f"{program.name} prints of {title}: {program.errors()}",
                           lambda: f"{program.name}: {title}\n" in program.errors())
        client.sync()
        stage.witness.sync()


@case("session processes inherit no fd that is not theirs")
def _(suite):
    with Stage(suite) as stage:
        for program in stage.programs():
            serving = max(program.settled_files().values(), key=len)
            # the standard ones, --session-fd, both peers, and what an event loop needs
            check(len(serving) <= 14, f"a session process of {program.name} has open: {serving}")
            sockets = [link for links in program.open_files().values() for link in links
                       if link.startswith("socket:")]
            check(len(sockets) == len(set(sockets)), f"processes of {program.name} share a socket")

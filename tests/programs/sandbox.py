"""Session processes that do what their sandbox forbids: they die, and nobody else notices.

tests/support/forbidden.c is preloaded into the programs, so that a process which serves a client makes
any system call that it is told to.
"""

import ctypes
import ctypes.util
import os
import signal
import sys
import time

from compositor import PASTED
from harness import Program, Skip, Stage, case_list, check, wait_until
from kills import N_STEPS, recorded
from opaque import ServiceStage, close_all, read_to_end, receive, send_fds

CASES, case = case_list("sandbox")
LINES_APART = 0.12  # seconds: a program says at most ten of these in one
LIBRARY = "tests/support/forbidden.so"
FORBIDDEN = (
    "socket", "connect", "bind", "listen", "accept4", "execve", "execveat", "vfork", "clone3",
    "kill", "tkill", "pidfd_open", "process_vm_readv", "kcmp", "mount", "umount2", "chroot",
    "unshare", "setns", "setuid", "capset", "unlinkat", "mkdirat", "renameat2", "fchmodat",
    "io_uring_setup", "userfaultfd", "bpf", "perf_event_open", "keyctl", "memfd_secret", "reboot")
OF_SERVICES = ("socket", "execve", "kill", "mount", "io_uring_setup", "userfaultfd")
# Runs a program in a kernel that lacks some system calls.
WITHOUT = """import ctypes, os, sys
lib = ctypes.CDLL(sys.argv[1])
lib.seccomp_init.restype = ctypes.c_void_p
calls = ctypes.c_void_p(lib.seccomp_init(0x7fff0000))
for name in sys.argv[2].split(","):
    number = lib.seccomp_syscall_resolve_name(name.encode())
    if lib.seccomp_rule_add(calls, 0x00050026, number, 0) < 0:
        sys.exit(1)
if lib.seccomp_load(calls) < 0:
    sys.exit(1)
os.execv(sys.argv[3], sys.argv[3:])"""


def seccomp_library():
    name = ctypes.util.find_library("seccomp")
    if not name:
        raise Skip("there is no libseccomp")
    return name


def number_of(name):
    return ctypes.CDLL(seccomp_library()).seccomp_syscall_resolve_name(name.encode())


def make_call(pid, name):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.sigqueue(pid, int(signal.SIGUSR2), ctypes.c_void_p(number_of(name))) < 0:
        raise OSError(ctypes.get_errno(), "sigqueue")


def provoked(suite, kind=Stage, **options):
    """A stage whose programs do what they are told."""
    library = os.path.join(suite.build, LIBRARY)
    if not os.path.exists(library):
        raise Skip(f"there is no {LIBRARY}")
    environment = {
        "LD_PRELOAD": library,
        "ASAN_OPTIONS": suite.environment()["ASAN_OPTIONS"] + ":verify_asan_link_order=0"}
    stage = kind(suite, environment=environment, **options)
    for program in stage.programs():
        program.expected = "crashed: SIGSYS"
    return stage


def check_killed(program, before, pid, name):
    says = f"process {pid} called {name} ({number_of(name)}), which its sandbox forbids"
    wait_until(lambda: f"{program.name} says «{says}»: {program.errors()[before:]!r}",
               lambda: says in program.errors()[before:])
    wait_until(f"{program.name} says how it ended",
               lambda: f"process {pid} crashed: SIGSYS" in program.errors()[before:])
    check("went through" not in program.errors(), f"{name} was let through")


for program in ("fdferry-host", "fdferry-guest"):
    @case(f"{program}: a session that does what is forbidden dies, is told of, and costs nobody else")
    def _(suite, program=program):
        with provoked(suite) as stage:
            for name in FORBIDDEN:
                session, servants = recorded(stage, 4)
                which = stage.host if program == "fdferry-host" else stage.guest
                before = len(which.errors())
                time.sleep(LINES_APART)
                try:
                    make_call(servants[program], name)
                    check_killed(which, before, servants[program], name)
                    session.client.wait_end()
                    stage.witness.sync()
                finally:
                    session.close()
                stage.at_rest()
            stage.check()
        return f"{len(FORBIDDEN)} system calls"

    @case(f"{program}: so does the session of a service")
    def _(suite, program=program):
        with provoked(suite, ServiceStage) as stage:
            which = stage.host if program == "fdferry-host" else stage.guest
            for name in OF_SERVICES:
                files = which.settled_files()
                with stage.client() as session:
                    session.sync()
                    servant = which.servant(files)
                    before = len(which.errors())
                    make_call(servant, name)
                    check_killed(which, before, servant, name)
                    read_to_end(session.client)
                stage.witness.sync()
                stage.at_rest()
            stage.check()


@case("with --no-sandbox both programs warn, and let it happen")
def _(suite):
    with provoked(suite, host=["--no-sandbox"], guest=["--no-sandbox"]) as stage:
        session, servants = recorded(stage, 4)
        try:
            for program in stage.programs():
                check(program.errors().count("--no-sandbox: ") == 1,
                      f"{program.name} says {program.errors()!r}")
                make_call(servants[program.name], "unlinkat")
                wait_until("the call is made", lambda: "went through" in program.errors())
            session.client.sync()
        finally:
            session.close()
        stage.check()


def lacking(suite, *calls):
    return {"launcher": [sys.executable, "-c", WITHOUT, seccomp_library(), ",".join(calls)]}


@case("without seccomp, a host does not start unless it is told to, and a guest warns")
def _(suite):
    lacks = lacking(suite, "seccomp")
    host = Program(suite, "fdferry-host", ["--listen", "unix:" + suite.path("chan")],
                   ready=False, **lacks)
    _, status = host.wait()
    check(status == 1 and "no seccomp filters" in host.errors(), f"{status}: {host.errors()}")
    suite.host_popen = suite.guest_popen = lacks
    try:
        with Stage(suite, host=["--no-sandbox"]) as stage:
            check(stage.guest.errors().count("no seccomp filters") == 1, stage.guest.errors())
            with stage.client() as client:
                client.sync()
            stage.check()
    finally:
        suite.host_popen = suite.guest_popen = {}


@case("without Landlock, both programs warn once, and files are still out of the host's reach")
def _(suite):
    lacks = lacking(suite, "landlock_create_ruleset")
    suite.host_popen = suite.guest_popen = lacks
    try:
        with Stage(suite) as stage:
            for program in stage.programs():
                check(program.errors().count("no Landlock") == 1, program.errors())
            session, _ = recorded(stage, N_STEPS)
            try:
                check(session.pasted() == PASTED, "the paste is wrong")
            finally:
                session.close()
            stage.check()
    finally:
        suite.host_popen = suite.guest_popen = {}


@case("what a session may still open is the same file, pipe or eventfd that it has")
def _(suite):
    stage = suite.stage("services", kind=ServiceStage)
    with stage.client() as session:
        read, write = os.pipe()
        fds = [os.eventfd(3), read, os.open("/dev/zero", os.O_RDWR)]
        got = []
        try:
            send_fds(session.client, b"fds", fds)
            data, got = receive(session.service)
            check(data == b"fds" and len(got) == 3, f"{data!r} with {len(got)} fds")
            os.write(write, b"through the pipe")
            check(os.read(got[1], 100) == b"through the pipe", "the pipe's bytes are wrong")
            check(os.read(got[2], 4) == bytes(4), "the device is wrong")
            check(int.from_bytes(os.read(got[0], 8), "little") == 3, "the count is wrong")
        finally:
            close_all(got + fds)
            os.close(write)
    stage.check()


@case("files that are read on demand are served from inside")
def _(suite):
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise Skip("there is no /dev/fuse for us")
    contents = bytes(range(256)) * 2000
    path = suite.path("file")
    with open(path, "wb") as file:
        file.write(contents)
    small = ["--max-file-copy", "1K"]
    with ServiceStage(suite, host=small, guest=small) as stage, stage.client() as session:
        for sender, receiver in ((session.client, session.service),
                                 (session.service, session.client)):
            original = os.open(path, os.O_RDONLY)
            send_fds(sender, b"file", [original])
            data, got = receive(receiver)
            try:
                check(data == b"file" and len(got) == 1, f"{data!r} with {len(got)} fds")
                check(os.path.samestat(os.fstat(got[0]), os.fstat(original)) is False,
                      "the file is the original")
                with open(got[0], "rb", closefd=False) as file:
                    check(file.read() == contents, "the contents are wrong")
            finally:
                close_all([*got, original])
        session.sync()
        session.close()
        stage.check()

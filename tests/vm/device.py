"""A compositor and services are here, their clients in a machine, whose vsock device is
fdferry-host or the kernel."""

import contextlib
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import tempfile

from backports import Missing
from compositors import Sway, Weston
from guest import CONNECT, SECONDS, Guest
from processes import Failure, Process, find_program, wait_until
from surroundings import patient
from vsock_device import VhostUser

HERE = os.path.dirname(os.path.abspath(__file__))
FILES = os.path.join(os.path.dirname(HERE), "clients", "files")
NEEDS = {"sway": "sway", "swaybg": "swaybg", "grim": "grim", "foot": "foot", "wtype": "wtype",
         "wl-copy": "wl-clipboard", "wl-paste": "wl-clipboard", "wayland-info": "wayland-utils"}
TYPED = "Grüße an die Maschine: zażółć, 12 € & (you)?"
TYPE = "application/octet-stream"
MOJO_CASES = ("bootstrap", "round-trip", "regions")


def check_programs():
    for program, package in NEEDS.items():
        if not find_program(program):
            raise Missing(f"{program} is not installed (package {package})")


def behind_guest(build, command, options=()):
    """The command, run by fdferry-guest."""
    guest = os.path.join(build, "guest-proxy", "fdferry-guest")
    return [guest, "--connect", CONNECT, *options, "--", *command]


def terminal(typed, *options):
    """A command: shows a text until a line is typed, which goes to a file."""
    return ["foot", f"--config={FILES}/foot.ini", *options, "sh", f"{FILES}/prompt", typed]


class Desk:
    """A compositor, and fdferry-host before it."""

    def __init__(self, build, directory, device, compositor):
        self.build, self.directory, self.device = build, directory, device
        self.processes = []
        self.environment = {"PATH": os.environ["PATH"], "HOME": directory, "LANG": "C.UTF-8",
                            "XDG_RUNTIME_DIR": directory, "SHELL": "/bin/sh"}
        self.screen = compositor(directory, (640, 480), self.environment)
        self.environment["WAYLAND_DISPLAY"] = self.screen.display

    def path(self, name):
        return os.path.join(self.directory, name)

    def start(self, name, *command, stdin=None):
        process = Process(name, command, self.environment, self.directory, stdin=stdin)
        self.processes.append(process)
        return process

    def start_host(self):
        program = os.path.join(self.build, "host-proxy", "fdferry-host")
        self.host = self.start(
            "fdferry-host", program, "--listen", self.device.listen, "--print-ready",
            "--compositor", self.screen.display, "--service", f"mojo=unix:{self.path('mojo')}",
            "--log-level", "info")
        wait_until("fdferry-host is ready", lambda: "READY" in self.host.output())

    def run(self, *command):
        return subprocess.run(command, env=self.environment, cwd=self.directory,
                              timeout=patient(SECONDS),
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, check=False).stdout

    def wait_for_picture(self, what, condition):
        """The screen, once it is the same twice and the condition holds for it."""
        last = None

        def found():
            nonlocal last
            before, last = last, self.screen.shot()
            return last if before and last == before and condition(last) else None
        return wait_until(what, found, deadline=SECONDS, pause=patient(0.3))

    def picture_of(self, command):
        client = self.start(command[0], *command)
        picture = self.wait_for_picture("a window", lambda shot: shot != self.screen.empty)
        client.stop()
        return picture

    def wait_for_the_same(self, picture, guest):
        try:
            self.wait_for_picture("the same picture", lambda shot: shot == picture)
        except Failure as failure:
            raise Failure(f"{failure}: {self.screen.shot().difference(picture)}\n"
                          + "\n".join(guest.machine.last_words())) from None

    def close(self):
        for process in reversed(self.processes):
            process.stop()
        self.screen.stop()


class Trial:
    """What has to hold with a machine, in the order of `tests`, which raise Failure."""

    def __init__(self, desk):
        """Has a picture to compare with, something in the clipboard, a keyboard and a service."""
        self.desk = desk
        self.guest = None  # the machine, once it runs
        desk.start("keyboard", "wtype", "-s", "100000000", "x")
        self.picture = desk.picture_of(terminal(desk.path("typed")))
        self.payload = random.Random(1).randbytes(64 << 20)
        with open(desk.path("payload"), "wb") as file:
            file.write(self.payload)
        with open(desk.path("payload"), "rb") as file:
            desk.start("wl-copy", "wl-copy", "--foreground", "--type", TYPE, stdin=file)
        desk.start("mojo-service", os.path.join(desk.build, "examples", "mojo", "mojo-service"),
                   "--listen", f"unix:{desk.path('mojo')}", "--accept", str(len(MOJO_CASES)))

    def a_terminal_in_the_machine_looks_as_one_here(self):
        self.desk.wait_for_the_same(self.picture, self.guest)

    def what_is_typed_here_arrives_there(self):
        # it stays, because the focus goes with the keyboard that was used last
        self.desk.start("typist", "wtype", "-d", "5", f"{TYPED}\n", "-s", "100000000")
        typed = self.guest.wait_for("typed")
        if typed != TYPED:
            raise Failure(f"{typed!r} arrives, not {TYPED!r}")

    def what_is_copied_here_is_pasted_there(self):
        pasted = self.guest.wait_for("pasted").split()[0]
        if pasted != hashlib.sha256(self.payload).hexdigest():
            raise Failure("what is pasted is not the 64 MiB that were copied")

    def what_is_copied_there_is_pasted_here(self):
        copied = self.guest.wait_for("copying").split()[0]

        def pasted():
            data = self.desk.run("wl-paste", "--no-newline", "--type", TYPE)
            return data if data != self.payload else None
        data = wait_until("another clipboard", pasted, deadline=SECONDS, pause=1)
        if hashlib.sha256(data).hexdigest() != copied:
            raise Failure(f"{len(data)} bytes are pasted, and not the ones that were copied")

    def a_service_of_unknown_protocol_is_served(self):
        for name in MOJO_CASES:
            said = self.guest.wait_for("mojo")
            if said != f"{name} 0":
                raise Failure(f"mojo-client says: {said}")

    def the_machine_ends_and_the_host_goes_on(self):
        status = self.guest.status()
        if status != 0:
            raise Failure(f"the command ends with status {status}")
        self.desk.host.check_runs()

    tests = (a_terminal_in_the_machine_looks_as_one_here, what_is_typed_here_arrives_there,
             what_is_copied_here_is_pasted_there, what_is_copied_there_is_pasted_here,
             a_service_of_unknown_protocol_is_served, the_machine_ends_and_the_host_goes_on)

    def a_machine_that_is_killed_leaves_nothing_behind(self):
        """The second one of this host, so a machine may come back, too."""
        with Guest(self.desk.device, behind_guest(
                self.desk.build, terminal("/run/typed"))) as guest:
            self.desk.wait_for_picture("the terminal of another machine",
                                       lambda shot: shot == self.picture)
            guest.kill()
            self.desk.wait_for_picture("an empty screen",
                                       lambda shot: shot == self.desk.screen.empty)
        self.desk.host.check_runs()

    def the_host_ends_when_it_is_told_to(self):
        status = self.desk.host.stop()
        path = self.desk.device.socket
        if status != 0 or (path and os.path.exists(path)):
            raise Failure(f"status {status}: {self.desk.host.output()[-300:]}")

    last_tests = (a_machine_that_is_killed_leaves_nothing_behind, the_host_ends_when_it_is_told_to)


class Window:
    """What has to hold on a desk with nothing but a screen, and a picture of another such one."""

    command = ["weston-image", f"{FILES}/card.png"]

    def __init__(self, desk, picture):
        self.desk, self.picture = desk, picture

    def a_window_on_weston_looks_as_one_here(self):
        command = behind_guest(self.desk.build, self.command)
        with Guest(self.desk.device, command) as guest:
            self.desk.wait_for_the_same(self.picture, guest)

    def a_window_is_shown_from_the_machines_memory(self):
        """Nothing of it has come by the channel, which the host tells in its statistics."""
        command = behind_guest(self.desk.build, self.command)
        with Guest(self.desk.device, command) as guest:
            self.desk.wait_for_the_same(self.picture, guest)
            self.desk.host.popen.send_signal(signal.SIGUSR1)
            counts = wait_until("statistics of a session", self.counts, deadline=SECONDS)
        if int(counts.group(1)) == 0 or int(counts.group(2)) != 0:
            raise Failure(f"{counts.group(1)} pools and {counts.group(2)} bytes have come: "
                          + self.desk.host.output()[-2000:])

    def counts(self):
        return re.search(r"session [0-9]+\n(?:  .*\n)*?  fds .*?([0-9]+) pools?.*\n"
                         r"  memory .* ([0-9]+) received", self.desk.host.output())


@contextlib.contextmanager
def desk_of(build, device, compositor):
    with contextlib.ExitStack() as stack:
        directory = tempfile.mkdtemp(prefix="fdferry-device.")
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        os.chmod(directory, 0o711)  # sway runs as nobody where we are root
        desk = Desk(build, directory, device(directory), compositor)
        stack.callback(desk.close)
        desk.start_host()
        yield desk


def run(build, add, device=VhostUser):
    """add(test, trial) calls the test, notes how it ended and returns whether that was well. The
    first that fails is the last."""
    device.check(build)
    check_programs()
    with desk_of(build, device, Sway) as desk:
        trial = Trial(desk)
        options = ["--display", "/run/user/wayland-9", "--service", "mojo=unix:/run/user/mojo"]
        command = [os.path.join(HERE, "desk"), FILES, build, "/run/user/mojo"]
        with Guest(desk.device, behind_guest(build, command, options)) as trial.guest:
            well = all(add(test, trial) for test in Trial.tests)
        if well:
            all(add(test, trial) for test in Trial.last_tests)


def run_window(build, add, device=VhostUser,
               test=Window.a_window_on_weston_looks_as_one_here):
    """The same for a single window, on Weston."""
    device.check(build)
    with desk_of(build, device, Weston) as desk:
        picture = desk.picture_of(Window.command)
    with desk_of(build, device, Weston) as desk:  # which puts a first window where the other did
        add(test, Window(desk, picture))

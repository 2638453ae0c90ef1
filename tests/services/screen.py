"""X11: Xvfb, and clients on a display of the guest's, compared pixel by pixel."""

import os
import re
import socket
import struct
import time

from case import case_list, is_root
from processes import Failure, wait_until
from surroundings import patient
from trial import Service

SOCKETS = "/tmp/.X11-unix"  # where X libraries look for display N
FAMILY_WILD = 65535
STILL = 4  # screenshots in a row that must be equal, and
PAUSE = 0.2  # seconds between them
ELSEWHERE = 10  # seconds after which a still picture that is not the expected one counts
CLIENT_IDS = 0x1FFFFF  # of an id: what the client chose
COOKIE = bytes(range(16))
MARKER = "here is the ferry"
QUIET = {  # no animation, no blinking, no bus
    "NO_AT_BRIDGE": "1", "GTK_A11Y": "none", "GSETTINGS_BACKEND": "memory",
    "GDK_BACKEND": "x11", "QT_QPA_PLATFORM": "xcb",
}
GTK_SETTINGS = """\
[Settings]
gtk-enable-animations=0
gtk-cursor-blink=0
gtk-font-name=DejaVu Sans 10
"""


class Screen(Service):
    title, name = "X11", "x11"
    needs = ("Xvfb", "xwd")

    def __init__(self, trial):
        super().__init__(trial)
        self.lock = self.taken = None
        self.authority = trial.local("authority")
        with open(self.authority, "wb") as file:
            file.write(authority_entry())
        server = self.start("Xvfb", ["Xvfb", "-displayfd", "1", "-screen", "0", "1024x768x24",
                                     "-auth", self.authority, "-nolisten", "tcp", "-noreset"])
        number = wait_until("Xvfb has a display", lambda: display_of(server), deadline=20)
        self.path = os.path.join(SOCKETS, f"X{number}")
        self.empty = self.shot()

    def guest_path(self, directory):
        """Takes the first display that is free, as a server would."""
        os.makedirs(SOCKETS, exist_ok=True)
        for number in range(50, 1000):
            path = os.path.join(SOCKETS, f"X{number}")
            try:
                with open(f"/tmp/.X{number}-lock", "x") as lock:
                    lock.write(f"{os.getpid():10}\n")
            except FileExistsError:
                continue
            if is_free(path):
                self.lock, self.taken = lock.name, path
                return path
            os.unlink(lock.name)
        raise Failure("there is no free display")

    def client_environment(self, path):
        return {**QUIET, "DISPLAY": f":{path.rpartition('X')[2]}", "XAUTHORITY": self.authority}

    def shot(self):
        """What is on the screen, asked of the server itself."""
        environment = {**self.trial.environment, **self.client_environment(self.path)}
        return self.trial.run_bytes(["xwd", "-root", "-silent"], environment)

    def close(self):
        if self.lock:
            remove(self.taken)  # a guest that was killed leaves it behind
            os.unlink(self.lock)


CASES, case = case_list(Screen)


def authority_entry():
    """For every host and display; the client sends the cookie, and the server compares."""
    def counted(data):
        return struct.pack(">H", len(data)) + data
    return (struct.pack(">H", FAMILY_WILD) + counted(b"") + counted(b"")
            + counted(b"MIT-MAGIC-COOKIE-1") + counted(COOKIE))


def display_of(server):
    server.check_runs()
    match = re.search(r"^(\d+)\n", server.output(), re.MULTILINE)
    return match and match.group(1)


def remove(path):
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def is_free(path):
    """Neither a file nor an abstract name, which X libraries try first."""
    if os.path.exists(path):
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(f"\0{path}") != 0


def window(trial, process):
    """The screen, once process shows something there and nothing moves any more.

    The second trial knows what it waits for, and gives up early only when another picture has been
    still for long."""
    history = []
    since = time.monotonic()

    def settled():
        nonlocal history, since
        process.check_runs()
        picture = trial.service.shot()
        if history and picture != history[-1]:
            history, since = [], time.monotonic()
        history.append(picture)
        if len(history) < STILL or picture == trial.service.empty:
            return None
        if trial.expected in (None, picture) or time.monotonic() - since > patient(ELSEWHERE):
            return picture
        return None
    return wait_until("a window that stands still", settled, pause=PAUSE)


@case("xdpyinfo prints the same about the display", needs=("xdpyinfo",))
def xdpyinfo(trial):
    text = trial.run(["xdpyinfo", "-queryExtensions"])
    return re.sub(r"^name of display:.*", "", text, flags=re.MULTILINE)


@case("xterm shows the same pixels", needs=("xterm",))
def xterm(trial):
    return window(trial, start_xterm(trial))


@case("xterm's window is in the tree of the server", needs=("xterm", "xwininfo"))
def xterm_tree(trial):
    start_xterm(trial)

    def tree():
        text = trial.run(["xwininfo", "-root", "-tree"], path=trial.service.path)
        return text if MARKER in text else None
    return without_client(wait_until("the window is there", tree))


def without_client(text):
    """Ids without the part that says whose they are: it counts the clients that there were."""
    return re.sub(r"0x[0-9a-f]+", lambda match: hex(int(match[0], 16) & CLIENT_IDS), text)


def start_xterm(trial):
    return trial.client(["xterm", "-fn", "fixed", "-T", MARKER, "-e", "/bin/sh", "-c",
                         f"echo {MARKER}; exec sleep 1000"])


# MIT-SHM: what cannot cross is refused as a server refuses it, and the client does without.

GIVE_NULL = {"host": ("--on-unsupported", "devnull"), "guest": ("--on-unsupported", "devnull")}
XSHM = ("xshm",)
ALONE = ("unshare", "--ipc")  # as in a virtual machine: a name there means nothing here


def xshm(trial, way, *launcher):
    return trial.run([*launcher, trial.built("xshm"), way]).splitlines()


def falls_back(way, *launcher):
    """Refused, and still the same two pictures."""
    def through(trial):
        answer, *pictures = xshm(trial, way, *launcher)
        if not answer.startswith("refused"):
            raise Failure(f"the server says: {answer}")
        if pictures != trial.expected[1:]:
            raise Failure(f"{pictures} instead of {trial.expected[1:]}")
        trial.case.note = answer
    return through


def attached(way):
    """Without the pair: attached, and two different pictures."""
    def run(trial):
        answer, first, second = xshm(trial, way)
        if answer != "attached" or first == second:
            raise Failure(f"the server says: {answer}, {first}, {second}")
        return [answer, first, second]
    return run


case("a client whose memory the server cannot attach gets an error and does without",
     built=XSHM, **GIVE_NULL, through=falls_back("fd"))(attached("fd"))
case("a client that cannot map the server's memory does without",
     built=XSHM, **GIVE_NULL, through=falls_back("get"))(attached("get"))
case("a client whose System V memory is not here gets an error and does without",
     checks=(is_root,), needs=("unshare",), built=XSHM, through=falls_back("sysv", *ALONE))(
    attached("sysv"))
case("memory in which both take turns is the same with --shm-mode diff",
     built=XSHM, host=("--shm-mode", "diff"), guest=("--shm-mode", "diff"))(attached("fd"))
case("the server's memory is the same with --shm-mode diff",
     built=XSHM, host=("--shm-mode", "diff"), guest=("--shm-mode", "diff"))(attached("get"))


def connection_ends(trial):
    status, output = trial.try_run([trial.built("xshm"), "fd"])
    if status == 0:
        raise Failure(f"the memory has crossed: {output}")
    trial.expect_log("guest", "memory", trial.service.name)


case("memory ends the connection where nothing else is asked for", built=XSHM,
     through=connection_ends)(attached("fd"))


@case("a program of Qt shows the same pixels without MIT-SHM", needs=("designer",), **GIVE_NULL)
def designer(trial):
    return window(trial, trial.client(["designer"]))


@case("a program of GTK shows the same pixels without MIT-SHM", needs=("gtk3-demo", "unshare"),
      checks=(is_root,), **GIVE_NULL)
def gtk3_demo(trial):
    settings = os.path.join(trial.environment["HOME"], ".config/gtk-3.0/settings.ini")
    os.makedirs(os.path.dirname(settings))
    with open(settings, "w") as file:
        file.write(GTK_SETTINGS)
    return window(trial, trial.client([*ALONE, "gtk3-demo"]))

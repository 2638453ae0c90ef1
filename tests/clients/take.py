"""One take: a compositor, perhaps the pair, and one client that cannot tell the difference."""

import os
import subprocess
import time

from compositors import COMPOSITORS
from pair import Pair
from processes import MARK, Failure, Process, find_program, kill_marked, wait_until
from surroundings import patient

STILL = 4  # screenshots in a row that must be equal, and
PAUSE = 0.2  # seconds between them
ELSEWHERE = 10  # seconds after which a still picture that is not the expected one counts

# No animation, no blinking cursor, one font, no bus, no GPU.
GTK_SETTINGS = """\
[Settings]
gtk-enable-animations=0
gtk-cursor-blink=0
gtk-font-name=DejaVu Sans 10
"""
GSETTINGS = """\
[org/gnome/desktop/interface]
cursor-blink=false
enable-animations=false
"""
HOME_FILES = {
    ".config/gtk-3.0/settings.ini": GTK_SETTINGS,
    ".config/gtk-4.0/settings.ini": GTK_SETTINGS,
    ".config/glib-2.0/settings/keyfile": GSETTINGS,
}
CLIENT_ENVIRONMENT = {
    "GDK_BACKEND": "wayland",
    "GSETTINGS_BACKEND": "keyfile",
    "GSK_RENDERER": "cairo",
    "GTK_A11Y": "none",
    "NO_AT_BRIDGE": "1",
    "QT_QPA_PLATFORM": "wayland",
    "LIBGL_ALWAYS_SOFTWARE": "1",
}


class Take:
    def __init__(self, case, directory, build=None, expected=None):
        """With `build`, the client goes through the pair of that build directory."""
        self.directory = directory
        self.expected = expected
        self.processes = []
        self.pair = None
        os.mkdir(directory, 0o711)
        self.environment = self.make_home()
        compositor_class, _ = COMPOSITORS[case.compositor]
        self.compositor = compositor_class(directory, case.size, self.environment)
        self.direct = self.display = self.compositor.display
        try:
            if build:
                self.pair = Pair(build, directory, self.direct, self.unmarked(), case.allow)
                self.display = self.pair.display
        except Failure:
            self.compositor.stop()
            raise

    def make_home(self):
        home = os.path.join(self.directory, "home")
        for path, text in HOME_FILES.items():
            os.makedirs(os.path.dirname(os.path.join(home, path)), exist_ok=True)
            with open(os.path.join(home, path), "w") as file:
                file.write(text)
        runtime = os.path.join(self.directory, "clients")
        os.mkdir(runtime, 0o700)
        return {
            "PATH": os.environ.get("PATH", os.defpath), "HOME": home, "LANG": "C.UTF-8",
            "XDG_RUNTIME_DIR": runtime, "SHELL": "/bin/sh", MARK: self.directory,
        }

    def unmarked(self):
        """The proxies are looked after by Pair and not killed with the clients."""
        options = {name: value for name, value in os.environ.items() if name.endswith("SAN_OPTIONS")}
        return {**{k: v for k, v in self.environment.items() if k != MARK}, **options}

    def path(self, name):
        return os.path.join(self.directory, name)

    def client_environment(self, display):
        return {**self.environment, **CLIENT_ENVIRONMENT, "WAYLAND_DISPLAY": display}

    def start(self, command, display=None, stdin=None):
        """Start a client on the display of this take, or on the one given."""
        process = Process(os.path.basename(command[0]), command,
                          self.client_environment(display or self.display), self.directory,
                          stdin=stdin)
        self.processes.append(process)
        return process

    def run(self, command, display=None, deadline=30):
        """Run a client to its end and return what it printed."""
        path = self.path("output")
        with open(path, "wb") as output, open(self.path(f"{command[0]}.log"), "ab") as log:
            try:
                status = subprocess.run(
                    [find_program(command[0]), *command[1:]], cwd=self.directory,
                    env=self.client_environment(display or self.display),
                    stdin=subprocess.DEVNULL, stdout=output, stderr=log, timeout=patient(deadline),
                    start_new_session=True).returncode
            except subprocess.TimeoutExpired:
                raise Failure(f"{command[0]} does not end within {deadline} s")
        if status != 0:
            raise Failure(f"{command[0]} ends with status {status}")
        with open(path, "rb") as output:
            return output.read()

    def shot(self):
        return self.compositor.shot()

    def window(self, expected=None):
        """The screen, once a window is there and nothing moves any more.

        The first take waits for STILL equal screenshots in a row. The second knows what it
        waits for, and gives up early only when another picture has been still for long."""
        history = []
        still_since = time.monotonic()

        def settled():
            nonlocal history, still_since
            self.check_clients_run()
            picture = self.shot()
            if history and picture.encoded != history[-1].encoded:
                history = []
                still_since = time.monotonic()
            history.append(picture)
            if len(history) < STILL or picture == self.compositor.empty:
                return None
            if expected is None or picture == expected \
                    or time.monotonic() - still_since > patient(ELSEWHERE):
                return picture
            return None
        return wait_until("a window that stands still", settled, pause=PAUSE)

    def check_clients_run(self):
        for process in self.processes:
            process.check_runs()

    def stop_clients(self):
        for process in self.processes:
            process.stop(patience=2)

    def finish(self):
        """End everything; with a pair, check that it is idle again and ends cleanly."""
        try:
            self.stop_clients()
            if self.pair:
                self.pair.check_idle()
                self.pair.stop()
        finally:
            self.abandon()

    def abandon(self):
        """End everything without a question."""
        for process in self.processes:
            process.stop(patience=0)
        if self.pair:
            self.pair.kill()
        self.compositor.stop()
        kill_marked(self.directory)

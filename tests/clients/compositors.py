"""The two compositors, headless, both with nothing on screen but one colour."""

import os
import socket
import struct

from picture import Picture
from processes import Failure, Process, wait_until
from surroundings import DEADLINE, patient

BACKGROUND = 0x203040

WESTON_INI = f"""\
[core]
idle-time=0
[shell]
panel-position=none
background-color=0xff{BACKGROUND:06x}
locking=false
animation=none
startup-animation=none
close-animation=none
focus-animation=none
[terminal]
font=DejaVu Sans Mono
font-size=14
"""

SWAY_CONFIG = f"""\
output HEADLESS-1 mode {{width}}x{{height}} position 0 0 bg #{BACKGROUND:06x} solid_color
default_border none
focus_follows_mouse no
xwayland disable
"""


def ping(display):
    """One wl_display.sync and its answer, over a connection of our own."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(DEADLINE)
        connection.connect(display)
        connection.sendall(struct.pack("=IHHI", 1, 0, 12, 2))
        return len(connection.recv(12)) == 12


def answers(display):
    try:
        return ping(display)
    except OSError:
        return False


class Compositor:
    """Runs in `directory`; `display` is the absolute path of its socket."""

    def __init__(self, directory, size, environment):
        self.directory = os.path.join(directory, type(self).__name__.lower())
        os.mkdir(self.directory, 0o700)
        self.size = size
        self.environment = dict(environment)
        self.process = None
        self.start()
        try:
            wait_until(f"{self.process.name} answers", self.is_up, deadline=20)
            self.environment.update(XDG_RUNTIME_DIR=os.path.dirname(self.display),
                                    WAYLAND_DISPLAY=self.display)
            self.empty = wait_until(f"{self.process.name} shows its background", self.background,
                                    deadline=20)
        except Failure as failure:
            self.stop()
            raise Failure(f"{failure}; see {self.process.log}")

    def is_up(self):
        if self.process.has_ended():
            raise Failure(f"{self.process.name} ended at once")
        return answers(self.display)

    def background(self):
        picture = self.shot()
        return picture if picture.is_plain(BACKGROUND) else None

    def run_tool(self, command):
        tool = Process(command[0], command, self.environment, self.directory)
        if tool.popen.wait(patient(30)) != 0:
            raise Failure(f"{command[0]} failed: {tool.output().strip()[-200:]}")

    def stop(self):
        self.process.stop()


class Weston(Compositor):
    screenshooter = "weston-screenshooter"

    def start(self):
        config = os.path.join(self.directory, "weston.ini")
        with open(config, "w") as file:
            file.write(WESTON_INI)
        self.display = os.path.join(self.directory, "wayland-weston")
        width, height = self.size
        # --debug opens the screenshooter to every client
        self.process = Process("weston", [
            "weston", "--backend=headless-backend.so", "--use-pixman", "--debug",
            f"--width={width}", f"--height={height}", f"--config={config}",
            f"--socket={os.path.basename(self.display)}",
        ], {**self.environment, "XDG_RUNTIME_DIR": self.directory}, self.directory)

    def shot(self):
        """weston-screenshooter writes a file named after the time into its directory."""
        self.run_tool([self.screenshooter])
        name, = (name for name in os.listdir(self.directory) if name.endswith(".png"))
        path = os.path.join(self.directory, name)
        with open(path, "rb") as file:
            encoded = file.read()
        os.unlink(path)
        return Picture(encoded)


class Sway(Compositor):
    def start(self):
        width, height = self.size
        config = os.path.join(self.directory, "config")
        with open(config, "w") as file:
            file.write(SWAY_CONFIG.format(width=width, height=height))
        runtime = os.path.join(self.directory, "runtime")
        os.mkdir(runtime, 0o700)
        if os.geteuid() == 0:
            os.chmod(self.directory, 0o711)
            os.chown(runtime, 65534, 65534)
        self.display = os.path.join(runtime, "wayland-1")
        self.process = Process("sway", ["sway", "--config", config], {
            **self.environment, "XDG_RUNTIME_DIR": runtime, "WLR_BACKENDS": "headless",
            "WLR_LIBINPUT_NO_DEVICES": "1", "WLR_RENDERER": "pixman",
        }, self.directory, unprivileged=True)

    def shot(self):
        path = os.path.join(self.directory, "shot.ppm")
        self.run_tool(["grim", "-t", "ppm", path])
        with open(path, "rb") as file:
            return Picture(file.read())


COMPOSITORS = {
    # name: (class, programs that it needs)
    "weston": (Weston, ["weston", "weston-screenshooter"]),
    "sway": (Sway, ["sway", "swaybg", "grim"]),
}

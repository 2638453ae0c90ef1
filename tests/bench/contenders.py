"""Ways from a client to the compositor."""

import os
import shutil

import processes
from processes import Failed

COMPOSITOR = "wayland-bench"


class Place:
    """Where everything listens, logs and is found."""

    def __init__(self, runtime_dir, build):
        self.dir = runtime_dir
        self.build = build
        self.env = {"XDG_RUNTIME_DIR": runtime_dir, "WAYLAND_DISPLAY": COMPOSITOR}

    def path(self, name):
        return os.path.join(self.dir, name)

    def program(self, name):
        for folder, _, files in os.walk(self.build):
            path = os.path.join(folder, name)
            if name in files and os.access(path, os.X_OK):
                return path
        raise Failed(f"{name} is not in {self.build}")

    def start(self, log_name, *argv):
        with open(self.path(log_name + ".log"), "ab") as log:
            return processes.start(list(argv), log, self.env)


class Contender:
    """Nothing between client and compositor; the others derive from this one."""

    name = "direct"
    ignored = ()  # commands of helpers that are not part of the proxy

    def __init__(self, place):
        self.place = place
        self.processes = []
        self.display = place.path(COMPOSITOR)

    def check(self):
        """Raises Failed where this contender is not there."""

    def launch(self):
        """Starts the processes, each noted in self.processes at once."""

    def start(self):
        try:
            self.launch()
        except (Failed, OSError):
            self.stop()
            raise

    def stop(self):
        processes.stop(self.processes)
        self.processes = []

    def roots(self):
        return {process.pid for process in self.processes}

    def alive(self):
        return all(process.poll() is None for process in self.processes)

    def add(self, *argv):
        process = self.place.start(self.name, *argv)
        self.processes.append(process)
        return process


class Relay(Contender):
    """Two hops that copy bytes and pass fds."""

    name = "relay"

    def launch(self):
        relay = self.place.program("bench-relay")
        self.display = self.place.path("wayland-relay")
        channel = self.place.path("relay-channel")
        processes.wait_ready(self.add(relay, channel, COMPOSITOR))
        processes.wait_ready(self.add(relay, self.display, channel))


class Waypipe(Contender):
    name = "waypipe"
    ignored = ("sleep",)

    def check(self):
        if shutil.which("waypipe") is None:
            raise Failed("waypipe is not installed")

    def launch(self):
        channel = self.place.path("waypipe-channel")
        self.display = self.place.path("wayland-waypipe")
        host = self.add("waypipe", "-c", "none", "-s", channel, "client")
        processes.wait_path(channel, host)
        guest = self.add("waypipe", "-c", "none", "-s", channel, "--display", self.display,
                         "server", "--", "sleep", "infinity")
        processes.wait_path(self.display, guest)

    def stop(self):
        super().stop()
        for name in ("waypipe-channel", "wayland-waypipe"):
            if os.path.lexists(self.place.path(name)):
                os.unlink(self.place.path(name))


class Fdferry(Contender):
    name = "fdferry"

    def check(self):
        self.place.program("fdferry-host")
        self.place.program("fdferry-guest")

    def launch(self):
        channel = "unix:" + self.place.path("chan")
        self.display = self.place.path("wayland-fd")
        processes.wait_ready(self.add(self.place.program("fdferry-host"), "--listen", channel,
                                      "--compositor", COMPOSITOR, "--print-ready"))
        processes.wait_ready(self.add(self.place.program("fdferry-guest"), "--connect", channel,
                                      "--display", self.display, "--print-ready"))


ALL = {contender.name: contender for contender in (Contender, Relay, Waypipe, Fdferry)}

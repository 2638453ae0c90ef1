"""Ways from a client to the compositor, and to a service of a protocol that nobody knows."""

import os
import shutil

import processes
from processes import Failed

COMPOSITOR = "wayland-bench"
SERVICE = "service-bench"


class Place:
    """Where everything listens, logs and is found."""

    def __init__(self, runtime_dir, build, has_service):
        self.dir = runtime_dir
        self.build = build
        self.has_service = has_service
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
        self.service = place.path(SERVICE)  # None: carries nothing but Wayland

    def check(self):
        """Raises Failed where this contender is not there."""

    def launch(self):
        """Starts the processes, each noted in self.processes at once."""

    def launch_service(self):
        """The same for the way to the service."""

    def start(self):
        try:
            self.launch()
            if self.place.has_service:
                self.launch_service()
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
        self.display = self.place.path("wayland-relay")
        self.add_hops(self.display, COMPOSITOR)

    def launch_service(self):
        self.service = self.place.path("service-relay")
        self.add_hops(self.service, SERVICE)

    def add_hops(self, path, upstream):
        relay = self.place.program("bench-relay")
        channel = path + "-channel"
        processes.wait_ready(self.add(relay, channel, upstream))
        processes.wait_ready(self.add(relay, path, channel))


class Waypipe(Contender):
    name = "waypipe"
    ignored = ("sleep",)

    def __init__(self, place):
        super().__init__(place)
        self.service = None

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
    region = "auto"
    host_options = ()

    def check(self):
        self.place.program("fdferry-host")
        self.place.program("fdferry-guest")

    def launch(self):
        self.display = self.place.path("wayland-" + self.name)
        self.add_pair("chan-" + self.name, ("--compositor", COMPOSITOR), ("--display", self.display))

    def launch_service(self):
        self.service = self.place.path("service-" + self.name)
        self.add_pair("service-chan-" + self.name,
                      ("--service", "bench=unix:" + self.place.path(SERVICE)),
                      ("--service", "bench=unix:" + self.service))

    def add_pair(self, channel, host_options, guest_options):
        channel = "unix:" + self.place.path(channel)
        # All workloads together are more than a VM's desktop.
        processes.wait_ready(self.add(self.place.program("fdferry-host"), "--listen", channel,
                                      *host_options, *self.host_options,
                                      "--max-vm-burst", "4000000000",
                                      "--connection-rate", "1000000",
                                      "--region", self.region, "--print-ready"))
        processes.wait_ready(self.add(self.place.program("fdferry-guest"), "--connect", channel,
                                      *guest_options, "--region", self.region,
                                      "--print-ready"))


class Inline(Fdferry):
    """fdferry without a shared region: pixels go through the channel."""

    name = "inline"
    region = "none"


ALL = {contender.name: contender for contender in (Contender, Relay, Waypipe, Fdferry, Inline)}

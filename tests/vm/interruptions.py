"""What interrupts a machine and what serves it: sessions go on, or end with a reason on both sides.

fdferry-host is the machine's vsock device, outside; in the machine, patron is one client after the
other. The compositor is that of the programs' suite: its connections tell which session is which.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import struct
import tempfile

import guest
from compositor import Compositor
from harness import Failure, Program, Suite, check, children_of, fds_of, wait_until
from harness import processes_of
from spares import has_spares
from vsock_device import VhostUser

HERE = os.path.dirname(os.path.abspath(__file__))
SECONDS = guest.SECONDS
LOST = "the connection between guest and host was lost: "
TURNS = 3  # of pings that nobody answers, before the machine goes on


def pid_of(connection):
    """The session process on the host."""
    credentials = connection.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return struct.unpack("=3i", credentials)[0]


def wake_ups(pid):
    """How often a process has gone to sleep so far."""
    with open(f"/proc/{pid}/status") as status:
        return int(status.read().split("nonvoluntary_ctxt_switches:")[0].split()[-1])


class Guest(guest.OrderedGuest):
    """The machine of patron, and a monitor of QEMU."""

    def __init__(self, build, directory, device, options):
        self.device = device
        super().__init__(
            device, [os.path.join(HERE, "patron"), "--build", build, *options], directory,
            [*guest.socket_options(directory, "monitor"), "-mon", "chardev=monitor,mode=control",
             "-action", "reboot=reset"], 4 * SECONDS)
        try:
            self.monitor = self.connect("monitor").makefile("rw")
            self.wait_for_message("QMP")
            self.command("qmp_capabilities")
        except BaseException:
            self.close()
            raise

    def command(self, name, **arguments):
        """QEMU's answer."""
        self.monitor.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
        self.monitor.flush()
        answer = self.wait_for_message("error", "return")
        if "error" in answer:
            raise Failure(f"QEMU: {name}: {answer['error']}")
        return answer["return"]

    def wait_for_message(self, *kinds):
        while True:
            try:
                line = self.monitor.readline()
            except OSError:
                line = ""
            if not line:
                raise Failure("\n".join(["QEMU has ended", *self.machine.last_words()]))
            message = json.loads(line)
            if any(kind in message or message.get("event") == kind for kind in kinds):
                return message

    def replace_device(self):
        """Takes the vsock device out of its slot and puts in a new one."""
        self.command("device_del", id="device")
        self.wait_for_message("DEVICE_DELETED")
        self.command("chardev-remove", id="vsock")
        self.command("chardev-add", id="vsock", backend={"type": "socket", "data": {
            "server": False, "addr": {"type": "unix", "data": {"path": self.device.socket}}}})
        self.command("device_add", driver="vhost-user-vsock-pci", id="device", bus="plug",
                     chardev="vsock")

    @contextlib.contextmanager
    def stopped(self):
        self.machine.qemu.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.machine.qemu.send_signal(signal.SIGCONT)

    @contextlib.contextmanager
    def paused(self):
        self.command("stop")
        try:
            yield
        finally:
            self.command("cont")


class Scene(contextlib.ExitStack):
    """fdferry-host, a compositor before it, and a machine behind it."""

    def __init__(self, build, directory, options):
        super().__init__()
        self.suite = Suite(build, directory)
        self.options = options
        self.device = VhostUser(directory)
        self.compositor = Compositor(os.path.join(directory, "wayland-0"))
        self.callback(self.compositor.close)
        try:
            self.start_host()
            self.guest = self.enter_context(
                Guest(build, directory, self.device, options))
            self.session = self.next_session()
            self.baseline = self.settled()
        except BaseException:
            self.close()
            raise

    def start_host(self):
        """The one that was there before must have ended."""
        self.host = Program(self.suite, "fdferry-host", [
            "--listen", self.device.listen, "--compositor", self.compositor.path,
            "--log-level", "info", *self.options])
        self.callback(self.host.kill)
        self.log_read = 0

    def host_log(self):
        """What it has said since the last check."""
        return self.host.errors()[self.log_read:]

    def next_session(self):
        """The connection of the client that says next that it is served."""
        self.guest.wait_for("served")
        return self.compositor.connections[-1]

    def device_pid(self):
        """The process that is the vsock device."""
        for pid in children_of(self.host.pid):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/comm") as name:
                if name.read() == "fdferry-vsock\n":
                    return pid
        return None

    def census(self):
        return (*self.host.census(), fds_of(self.device_pid()))

    def settled(self):
        last, same = None, 0

        def at_rest():
            nonlocal last, same
            before, last = last, self.census()
            same = same + 1 if last == before else 0
            return last if same > 5 and has_spares(self.host.pid) else None
        return wait_until("the host comes to rest", at_rest, SECONDS)

    def has_nothing_left(self):
        """Fewer it may have: some are closed when a session first lends what it gets."""
        return all(now <= then for now, then in zip(self.census(), self.baseline))

    def check(self):
        """What has to hold after each interruption, with one client served."""
        check(self.host.alive(), f"fdferry-host died: {self.host.errors()[-800:]}")
        self.host.check_quiet()
        wait_until(lambda: f"the host's (children, fds, the device's fds) were {self.baseline}, "
                   f"are {self.census()}", self.has_nothing_left, SECONDS)
        left = [line for line in self.guest.said if line.startswith(("left: ", "failure: "))]
        check(not left, f"in the machine: {left}")
        self.guest.said.clear()
        self.log_read = len(self.host.errors())


class Trial:
    """Steps with one machine, in the order of `tests`, each of which raises Failure."""

    def __init__(self, scene):
        self.scene, self.guest, self.host = scene, scene.guest, scene.host

    def check_goes_on(self, interruption):
        """While it lasts, pings stay without an answer; then the session is the same."""
        session = self.scene.session
        with interruption:
            pid = pid_of(session)
            before = wake_ups(pid)
            wait_until("pings without an answer", lambda: wake_ups(pid) >= before + TURNS, SECONDS)
        self.check_is_served(session)
        self.scene.check()

    def check_is_served(self, session):
        before = session.serial
        wait_until(lambda: f"more answers; the host said {self.host.errors()[-800:]}",
                   lambda: session.serial >= before + TURNS, SECONDS)
        check(session is self.scene.compositor.connections[-1], "it is another session")

    def check_host_tells(self, session, why=""):
        """And that the compositor is rid of the client."""
        wait_until(lambda: f"a session's end; the host said {self.host.errors()[-800:]}",
                   lambda: session.closed, SECONDS)
        wait_until(lambda: f"«{LOST}{why}», but the host said {self.host.errors()[-800:]}",
                   lambda: f"{LOST}{why}" in self.scene.host_log(), SECONDS)

    def check_client_is_told(self, why=""):
        told = self.guest.wait_for("told")
        check(told.startswith(f"{LOST}{why}"), f"the client is told {told!r}")

    def check_next_is_served(self):
        self.scene.session = self.scene.next_session()
        self.scene.check()


class Patience(Trial):
    """Sessions that wait: what only stops them for a while leaves them as they are."""

    options = ("--ping-interval", "1", "--ping-timeout", "3600")

    def a_session_goes_on_when_qemu_was_stopped(self):
        self.check_goes_on(self.guest.stopped())

    def a_session_goes_on_when_the_machine_was_paused(self):
        self.check_goes_on(self.guest.paused())

    def a_session_ends_when_the_driver_loses_the_device(self):
        self.guest.order("rebind")
        self.check_client_is_told()
        self.check_host_tells(self.scene.session)
        self.check_next_is_served()

    def a_session_ends_when_the_machine_is_reset(self):
        self.guest.command("system_reset")
        self.check_host_tells(self.scene.session)
        self.check_next_is_served()

    def a_session_ends_when_the_machine_reboots(self):
        self.guest.order("reboot")
        self.check_host_tells(self.scene.session)
        self.check_next_is_served()

    def nothing_is_left_when_all_ends_in_good_order(self):
        self.guest.order("end")
        status = self.guest.status()
        check(status == 0, f"fdferry-guest ends with status {status}")
        status = self.host.stop()
        check(status == 0 and not os.path.exists(self.scene.device.socket),
              f"fdferry-host ends with status {status}: {self.host.errors()[-300:]}")

    tests = (a_session_goes_on_when_qemu_was_stopped, a_session_goes_on_when_the_machine_was_paused,
             a_session_ends_when_the_driver_loses_the_device,
             a_session_ends_when_the_machine_is_reset, a_session_ends_when_the_machine_reboots,
             nothing_is_left_when_all_ends_in_good_order)


class Haste(Trial):
    """Sessions that do not wait for long, and a host that is killed under a running machine."""

    options = ("--ping-interval", "1", "--ping-timeout", "15")
    SILENT = "no answer for 15 s"

    def a_session_ends_when_qemu_is_stopped_for_longer_than_it_waits(self):
        with self.guest.stopped():
            self.check_host_tells(self.scene.session, self.SILENT)
        self.check_client_is_told(self.SILENT)
        self.check_next_is_served()

    def a_session_ends_when_the_host_is_killed(self):
        self.host.kill()
        self.check_client_is_told(self.SILENT)

    def a_new_device_finds_a_host_that_was_started_again(self):
        """QEMU 7.2 does not connect again by itself."""
        self.scene.start_host()
        self.guest.replace_device()
        self.check_next_is_served()

    def a_session_goes_on_without_the_hosts_parent_process(self):
        """What serves it ends with the machine, at the latest."""
        host = self.scene.host
        host.popen.kill()
        host.popen.wait()
        self.check_is_served(self.scene.session)
        self.guest.kill()
        wait_until(lambda: f"the processes of a host that was killed end: {host.errors()[-300:]}",
                   lambda: not processes_of(host.pid), SECONDS)
        host.check_quiet()

    tests = (a_session_ends_when_qemu_is_stopped_for_longer_than_it_waits,
             a_session_ends_when_the_host_is_killed,
             a_new_device_finds_a_host_that_was_started_again,
             a_session_goes_on_without_the_hosts_parent_process)


def run(build, add):
    """add(test, trial) calls the test, notes how it ended and returns whether that was well. The
    first of a trial that fails is its last."""
    VhostUser.check(build)
    for trial in (Patience, Haste):
        with contextlib.ExitStack() as stack:
            directory = tempfile.mkdtemp(prefix="fdferry-vm.")
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
            scene = stack.enter_context(Scene(build, directory, trial.options))
            all(add(test, trial(scene)) for test in trial.tests)

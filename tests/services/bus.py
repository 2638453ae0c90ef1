"""D-Bus: a private bus, and a service and clients that pass fds by three libraries.

A daemon knows its peer by SO_PEERCRED, and the peer is the host proxy: with EXTERNAL, the identity
of whoever is in the guest is the host proxy's. DBUS_COOKIE_SHA1 proves who may read a keyring, and
so works for every uid on both sides; ANONYMOUS tells nothing.
"""

import functools
import os
import re
import subprocess
import sys

from case import case_list, is_root
from processes import Failure, wait_until
from trial import NOBODY, Service

PEERS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "peers")
CONFIGURATION = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={path}</listen>
  <auth>{auth}</auth>
  {extra}
  <limit name="max_message_unix_fds">64</limit>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*" eavesdrop="false"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
"""
DAEMON = ("org.freedesktop.DBus", "/org/freedesktop/DBus")


@functools.cache
def interpreter(module):
    """A Python that has the module: Debian's packages are for its own one only."""
    for python in (sys.executable, "/usr/bin/python3"):
        if os.path.exists(python) and subprocess.run(
                [python, "-c", f"import {module}"], stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL).returncode == 0:
            return python
    return None


def has_gi():
    return None if interpreter("gi") else "no Python has gi (package python3-gi)"


def has_dbus():
    return None if interpreter("dbus") else "no Python has dbus (package python3-dbus)"


def has_sdbus():
    return None if interpreter("ctypes; ctypes.CDLL('libsystemd.so.0')") \
        else "there is no libsystemd.so.0 (package libsystemd0)"


LIBRARIES = {"gdbus": has_gi, "libdbus": has_dbus, "sdbus": has_sdbus}


class Bus(Service):
    title, name = "D-Bus", "bus"
    needs = ("dbus-daemon",)
    auth, extra = "EXTERNAL", ""

    def __init__(self, trial):
        super().__init__(trial)
        self.path = trial.local("bus")
        configuration = trial.local("bus.conf")
        with open(configuration, "w") as file:
            file.write(CONFIGURATION.format(path=self.path, auth=self.auth, extra=self.extra))
        daemon = self.start("dbus-daemon", ["dbus-daemon", f"--config-file={configuration}",
                                            "--nofork", "--nopidfile"])
        self.wait_for_socket(daemon, self.path)

    def client_environment(self, path):
        return {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={path}"}


class AnonymousBus(Bus):
    title = "D-Bus, ANONYMOUS"
    auth, extra = "ANONYMOUS", "<allow_anonymous/>"


class CookieBus(Bus):
    """Daemon and clients have one HOME, as over a file system that guest and host share."""
    title = "D-Bus, DBUS_COOKIE_SHA1"
    auth = "DBUS_COOKIE_SHA1"


class Peer(Service):
    """Two programs without a daemon between them: both read message by message."""
    title, name = "D-Bus, peer to peer", "peer"
    checks = (has_gi,)

    def __init__(self, trial):
        super().__init__(trial)
        self.path = trial.local("peer")
        start_service(trial, self, "peer", self.path)


CASES, case = case_list(Bus)


def address(path):
    return f"unix:path={path}"


def start_service(trial, owner, role, path):
    """Our service, connected to the bus at path or listening there; owner is Trial or Service."""
    command = [interpreter("gi"), os.path.join(PEERS, "service.py"), role, address(path)]
    process = owner.start("service", command)

    def is_ready():
        process.check_runs()
        return "READY" in process.output()
    wait_until("the service is ready", is_ready)
    return process


def client_command(trial, library, *action, path=None):
    module = {"gdbus": "gi", "libdbus": "dbus"}.get(library, "ctypes")
    role = "peer" if isinstance(trial.service, Peer) else "bus"
    return [interpreter(module), os.path.join(PEERS, "client.py"), library, role,
            address(path or trial.path), *action]


# Real programs.

def busctl(*arguments):
    return lambda trial: trial.run(["busctl", f"--address={address(trial.path)}", *arguments])


def gdbus(*arguments):
    return lambda trial: trial.run(["gdbus", arguments[0], "--address", address(trial.path),
                                    *arguments[1:]])


@case("busctl list has the same names and users", needs=("busctl",))
def busctl_list(trial):
    """The process of a name may differ: it is the host proxy."""
    rows = [line.split() for line in busctl("list", "--no-legend")(trial).splitlines()]
    return sorted((row[0], row[3]) for row in rows)


case("busctl introspect shows the same interface", needs=("busctl",))(
    busctl("introspect", *DAEMON))
case("busctl call returns the same names", needs=("busctl",))(
    busctl("call", *DAEMON, DAEMON[0], "ListNames"))
case("gdbus introspect shows the same interface", needs=("gdbus",))(
    gdbus("introspect", "--dest", DAEMON[0], "--object-path", DAEMON[1]))
case("gdbus call returns the same names", needs=("gdbus",))(
    gdbus("call", "--dest", DAEMON[0], "--object-path", DAEMON[1],
          "--method", f"{DAEMON[0]}.ListNames"))


# fds both ways.

def add_exchange(library):
    @case(f"{library} client passes and gets pipes, sockets and sealed memory",
          checks=(has_gi, LIBRARIES[library]))
    def with_client(trial):
        start_service(trial, trial, "bus", trial.service.path)
        return trial.run(client_command(trial, library, "exchange"))


def add_peer_exchange(library):
    @case(f"{library} client passes and gets pipes, sockets and sealed memory", Peer,
          checks=(LIBRARIES[library],))
    def with_peer(trial):
        return trial.run(client_command(trial, library, "exchange"))


for each in LIBRARIES:
    add_exchange(each)
add_peer_exchange("gdbus")
add_peer_exchange("sdbus")


@case("the service itself may be on the other side", checks=(has_gi, has_sdbus))
def service_in_guest(trial):
    start_service(trial, trial, "bus", trial.path)
    return trial.run(client_command(trial, "sdbus", "exchange", path=trial.service.path))


@case("client and service may both be on the other side", checks=(has_gi, has_sdbus))
def both_in_guest(trial):
    start_service(trial, trial, "bus", trial.path)
    return trial.run(client_command(trial, "sdbus", "exchange"))


@case("many clients at once do not get each other's", checks=(has_gi, has_sdbus))
def many(trial):
    start_service(trial, trial, "bus", trial.service.path)
    command = client_command(trial, "sdbus", "send", "memfd", "source", "sink", "stream", "records")
    clients = [trial.start(f"client-{number}", command) for number in range(12)]
    for client in clients:
        wait_until("the client ends", client.has_ended)
    return [(client.popen.returncode, client.output()) for client in clients]


@case("clients that are killed in the middle leave nothing behind", checks=(has_gi, has_sdbus))
def killed(trial):
    """Each a little later in its exchange, however fast that is here."""
    start_service(trial, trial, "bus", trial.service.path)
    command = client_command(trial, "sdbus", "exchange")
    for lines in range(0, 40, 4):
        client = trial.start(f"client-{lines}", command)
        wait_until("the client gets further", lambda: client.has_ended() or
                   client.output().count("\n") >= lines)
        client.stop(patience=0)
    trial.run(client_command(trial, "sdbus", "send"))  # hears of the last notes
    return trial.run(command)


# What cannot cross.

def with_another(trial, action):
    """Runs action while another client has a connection, which must go on as if nothing was."""
    start_service(trial, trial, "bus", trial.service.path)
    go_on = trial.local("go-on")
    other = trial.client(client_command(trial, "gdbus", "twice", go_on))

    def has_begun():
        other.check_runs()
        return "source wrote" in other.output()
    wait_until("the other client has sent its first fd", has_begun)
    result = action(trial)
    open(go_on, "w").close()
    wait_until("the other client ends", other.has_ended)
    if other.popen.returncode != 0:
        raise Failure(f"the other client: {other.output()}")
    return result, other.output()


def send_directory(trial):
    return trial.run(client_command(trial, "gdbus", "send", "memfd", "directory"))


def send_directory_in_vain(trial):
    command = client_command(trial, "gdbus", "send", "memfd", "directory")
    status, output = trial.try_run(command)
    if status == 0:
        raise Failure(f"the directory has crossed: {output}")
    trial.expect_log("guest", "directory", trial.service.name)


def directory_is_refused(trial):
    _, other = with_another(trial, send_directory_in_vain)
    if other != trial.expected[1]:
        raise Failure(f"the other client: {other}")


@case("a directory ends the connection that it was sent on, and no other", checks=(has_gi,),
      through=directory_is_refused)
def directory(trial):
    return with_another(trial, send_directory)


def directory_or_null(trial):
    start_service(trial, trial, "bus", trial.service.path)
    return send_directory(trial)


def expect_dev_null(trial):
    output = directory_or_null(trial)
    if output != trial.expected.replace("a directory", "the null device"):
        raise Failure(output)


case("a directory becomes /dev/null where that is asked for", checks=(has_gi,),
     guest=("--on-unsupported", "devnull"), through=expect_dev_null)(directory_or_null)


# Who one is.

def identity(*libraries):
    def run(trial):
        return [trial.run(client_command(trial, library, "whoami")) for library in libraries]
    return run


def identity_is_nobody(trial):
    """sd-bus lets the daemon say who it is, GDBus and libdbus claim to be somebody."""
    uid, = identity("sdbus")(trial)
    if int(uid) != NOBODY:
        raise Failure(f"the bus takes the client for {uid.strip()}")
    for library in ("gdbus", "libdbus"):
        status, output = trial.try_run(client_command(trial, library, "whoami"))
        if status == 0:
            raise Failure(f"{library} is accepted as {output.strip()}")


ALL_LIBRARIES = tuple(LIBRARIES.values())
case("the uid is that of the host proxy, where it is the client's", checks=ALL_LIBRARIES)(
    identity(*LIBRARIES))
case("the uid is that of the host proxy, not the client's, who may not claim another",
     checks=(is_root, *ALL_LIBRARIES), host_as_nobody=True, through=identity_is_nobody)(
    identity(*LIBRARIES))
case("the uid is the client's, whoever the host proxy is", CookieBus,
     checks=(is_root, has_gi, has_dbus), host_as_nobody=True)(identity("gdbus", "libdbus"))


def anonymous(trial):
    """The daemon answers, and cannot say who asks."""
    answers = []
    for library in ("gdbus", "libdbus"):
        status, output = trial.try_run(client_command(trial, library, "whoami"))
        answers.append((status, re.findall(r"Could not determine UID", output)))
    return answers


case("the uid is unknown, whoever the host proxy is", AnonymousBus,
     checks=(is_root, has_gi, has_dbus), host_as_nobody=True)(anonymous)


def add_authenticated_exchange(service):
    @case("fds pass and come", service, checks=(has_gi,))
    def with_fds(trial):
        start_service(trial, trial, "bus", trial.service.path)
        return trial.run(client_command(trial, "gdbus", "exchange"))


add_authenticated_exchange(AnonymousBus)
add_authenticated_exchange(CookieBus)

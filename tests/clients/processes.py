"""Processes, files and waiting: everything that a take starts ends with it."""

import os
import shutil
import signal
import subprocess
import time

from surroundings import patient

DEADLINE = 60  # seconds; how long a window, a paste or a proxy may take on a slow machine
MARK = "FDFERRY_CLIENTS_TAKE"  # in the environment of everything a take starts


class Failure(Exception):
    """The case failed; the text says why."""


def wait_until(what, condition, deadline=DEADLINE, pause=0.05):
    """Return the first true value of condition(); fail with `what`, or what it returns, after the deadline."""
    end = time.monotonic() + patient(deadline)
    while True:
        is_late = time.monotonic() > end
        value = condition()
        if value:
            return value
        if is_late:
            raise Failure(f"{what() if callable(what) else what}: not within {patient(deadline)} s")
        time.sleep(pause)


def find_program(name):
    """The path of a program, also where Debian keeps Qt 5's own tools."""
    path = os.environ.get("PATH", os.defpath) + ":/usr/bin:/usr/lib/qt5/bin"
    return shutil.which(name, path=path)


class Process:
    """A program in a session of its own, its output in a log file."""

    def __init__(self, name, command, environment, directory, unprivileged=False, stdin=None):
        self.name = name
        self.log = os.path.join(directory, f"{name}.log")
        # sway refuses to run as root
        nobody = {"user": 65534, "group": 65534, "extra_groups": []} \
            if unprivileged and os.geteuid() == 0 else {}
        with open(self.log, "ab") as log:
            self.popen = subprocess.Popen(
                [find_program(command[0]) or command[0], *command[1:]],
                env=environment, cwd=directory, stdin=stdin or subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True, **nobody)
        self.pid = self.popen.pid

    def output(self):
        with open(self.log, errors="replace") as log:
            return log.read()

    def has_ended(self):
        return self.popen.poll() is not None

    def check_runs(self):
        if self.has_ended():
            raise Failure(f"{self.name} ended: {self.output().strip()[-300:]}")

    def stop(self, patience=5):
        """SIGTERM, then SIGKILL to the whole group. Returns the exit status."""
        if not self.has_ended():
            signal_group(self.pid, signal.SIGTERM)
        try:
            self.popen.wait(patient(patience))
        except subprocess.TimeoutExpired:
            pass
        signal_group(self.pid, signal.SIGKILL)
        return self.popen.wait()


def signal_group(pid, number):
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        pass


def all_pids():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def pids_marked(mark):
    """Processes that carry our mark, wherever they have moved."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for pid in all_pids():
        try:
            with open(f"/proc/{pid}/environ", "rb") as environment:
                if wanted in environment.read().split(b"\0"):
                    found.append(pid)
        except OSError:
            continue
    return found


def pids_of_session(session):
    """Processes of one session, zombies included."""
    found = []
    for pid in all_pids():
        try:
            with open(f"/proc/{pid}/stat") as stat:
                fields = stat.read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session:
            found.append(pid)
    return found


def kill_marked(mark):
    """SIGKILL what a take left behind, until nothing is left."""
    def gone():
        pids = pids_marked(mark)
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        return not pids
    wait_until("processes that do not end by SIGKILL", gone, deadline=10)

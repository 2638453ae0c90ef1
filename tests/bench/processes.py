"""Starts programs, reads their CPU clocks and memory, and leaves none of them behind."""

import collections
import ctypes
import os
import select
import signal
import subprocess
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
TICKS = os.sysconf("SC_CLK_TCK")

libc = ctypes.CDLL(None)

Stat = collections.namedtuple("Stat", "pid comm state ppid session children_cpu")


class Failed(Exception):
    """Something that was to be measured did not work."""


def adopt_orphans():
    """Processes whose parent ends become ours, so that they are seen and ended."""
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def read_stat(pid):
    with open(f"/proc/{pid}/stat") as file:
        head, tail = file.read().rsplit(")", 1)
    fields = tail.split()
    return Stat(int(pid), head.split("(", 1)[1], fields[0], int(fields[1]), int(fields[3]),
                (int(fields[13]) + int(fields[14])) / TICKS)


def all_stats():
    for pid in os.listdir("/proc"):
        if pid.isdigit():
            try:
                yield read_stat(pid)
            except OSError:
                pass  # ended meanwhile


def members(roots):
    """Everything that the processes `roots` started: they lead sessions of their own."""
    found = {}
    stats = list(all_stats())
    grown = True
    while grown:
        new = [stat for stat in stats if stat.pid not in found
               and (stat.session in roots or stat.ppid in found or stat.pid in roots)]
        found.update((stat.pid, stat) for stat in new)
        grown = bool(new)
    return list(found.values())


def clock_of(pid):
    """CPU seconds of a process with all its threads, precise to nanoseconds."""
    try:
        return time.clock_gettime((~pid << 3) | 2)  # what clock_getcpuclockid() returns
    except OSError:
        return 0


def cpu_of(roots):
    """CPU seconds of all members, and of the children that they have waited for."""
    return sum(clock_of(stat.pid) + stat.children_cpu for stat in members(roots))


def private_pss(pid):
    """Proportional set size without memfds, in bytes."""
    total = 0
    counted = False
    with open(f"/proc/{pid}/smaps") as file:
        for line in file:
            words = line.split(None, 5)
            if not words[0].endswith(":"):
                counted = len(words) < 6 or not words[5].startswith("/memfd:")
            elif words[0] == "Pss:" and counted:
                total += int(words[1]) * 1024
    return total


def pss_of(roots, ignored):
    total = 0
    for stat in members(roots):
        if stat.comm not in ignored and stat.state != "Z":
            try:
                total += private_pss(stat.pid)
            except PermissionError as error:
                raise Failed(f"memory of {stat.comm}: {error.strerror}") from error
            except OSError:
                pass  # ended meanwhile
    return total


def fds_of(roots):
    """The number of open fds of each member."""
    counts = {}
    for stat in members(roots):
        try:
            counts[stat.pid] = len(os.listdir(f"/proc/{stat.pid}/fd"))
        except PermissionError as error:
            raise Failed(f"fds of {stat.comm}: {error.strerror}") from error
        except OSError:
            pass  # ended meanwhile
    return counts


def set_cpus(roots, cpus):
    for stat in members(roots):
        try:
            for thread in os.listdir(f"/proc/{stat.pid}/task"):
                os.sched_setaffinity(int(thread), cpus)
        except PermissionError as error:
            raise Failed(f"CPUs of {stat.comm}: {error.strerror}") from error
        except OSError:
            pass  # ended meanwhile


class Lines:
    """Lines from a pipe, each within a time limit."""

    def __init__(self, pipe):
        self.fd = pipe.fileno()
        self.rest = b""

    def next(self, deadline):
        while b"\n" not in self.rest:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.fd], [], [], left)[0]:
                raise Failed("timed out")
            more = os.read(self.fd, 65536)
            if not more:
                return None
            self.rest += more
        line, self.rest = self.rest.split(b"\n", 1)
        return line.decode(errors="replace")


def start(argv, log, env=None, cpus=None, stdin=subprocess.DEVNULL):
    """A process that leads a session of its own and ends with this one."""
    def prepare():
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if cpus is not None:
            os.sched_setaffinity(0, cpus)
    return subprocess.Popen(argv, stdin=stdin, stdout=subprocess.PIPE, stderr=log,
                            env={**os.environ, **(env or {})}, start_new_session=True,
                            preexec_fn=prepare)


def wait_ready(process, seconds=10):
    """Reads on until the line READY."""
    lines = Lines(process.stdout)
    deadline = time.monotonic() + seconds
    while True:
        line = lines.next(deadline)
        if line is None:
            raise Failed(f"{process.args[0]} ended before it was ready")
        if line == "READY":
            return


def wait_path(path, process, seconds=10):
    deadline = time.monotonic() + seconds
    while not os.path.exists(path):
        if process.poll() is not None or time.monotonic() > deadline:
            raise Failed(f"{process.args[0]} does not listen on {path}")
        time.sleep(0.01)


def reap_orphans(pids):
    for pid in pids:
        try:
            while os.waitpid(pid, os.WNOHANG)[0] > 0:
                pass
        except OSError:
            pass  # its own parent does that


def stop(processes, seconds=3):
    """Ends the processes and all that they started; what they leave unread is read."""
    roots = {process.pid for process in processes}
    for process in reversed(processes):
        process.terminate()
    deadline = time.monotonic() + seconds
    for process in processes:
        try:
            process.wait(max(0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    number = signal.SIGTERM
    while True:
        left = members(roots)
        reap_orphans([stat.pid for stat in left])
        alive = [stat.pid for stat in left if stat.state != "Z"]
        if not alive or time.monotonic() > deadline + seconds:
            break
        for pid in alive:
            try:
                os.kill(pid, number)
            except OSError:
                pass
        if time.monotonic() > deadline:
            number = signal.SIGKILL
        time.sleep(0.02)
    for process in processes:
        process.stdout.close()

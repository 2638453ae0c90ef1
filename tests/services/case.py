"""What a case is, and how each file of cases makes its list."""

import dataclasses
import difflib
import itertools
import os
import pprint
import stat
from typing import Callable

from processes import find_program

# Where what is missing comes from (Debian).
PACKAGES = {
    "busctl": "systemd",
    "dbus-daemon": "dbus",
    "gdbus": "libglib2.0-bin",
    "pipewire": "pipewire",
    "pw-cat": "pipewire-bin",
    "pw-cli": "pipewire-bin",
    "pw-dump": "pipewire-bin",
    "pw-link": "pipewire-bin",
    "Xvfb": "xvfb",
    "xterm": "xterm",
    "xdpyinfo": "x11-utils",
    "xwininfo": "x11-utils",
    "xwd": "x11-apps",
    "designer": "qttools5-dev-tools",
    "gtk3-demo": "gtk-3-examples",
    "unshare": "util-linux",
    "xshm": "libxcb1-dev and libxcb-shm0-dev",
}


@dataclasses.dataclass
class Case:
    says: str
    service: Callable  # of a Trial: starts the real service and has its socket's path
    run: Callable  # of a Trial: returns what must be the same through the pair
    needs: tuple = ()  # programs
    built: tuple = ()  # programs of this directory
    through: Callable = None  # of a Trial: what must hold through the pair instead
    host: tuple = ()  # options
    guest: tuple = ()
    host_as_nobody: bool = False
    checks: tuple = ()  # functions that return None or why the case cannot run here
    note: str = ""  # set by run: printed beside the time

    @property
    def name(self):
        return f"{self.service.title}: {self.says}"

    def missing(self, build):
        """None, or why this case cannot run."""
        for program in [*self.service.needs, *self.needs]:
            if not find_program(program):
                return f"{program} is not installed (package {PACKAGES[program]})"
        for program in self.built:
            if not os.path.exists(built_path(build, program)):
                return f"{program} was not built (packages {PACKAGES[program]})"
        if self.host_as_nobody and not is_reachable(build):
            return f"only its owner can reach {build}"
        for check in [*self.service.checks, *self.checks]:
            reason = check()
            if reason:
                return reason
        return None


def case_list(default_service):
    """A list of cases, and the decorator that adds a function to it under a sentence."""
    cases = []

    def case(says, service=default_service, **options):
        def add(function):
            cases.append(Case(says, service, function, **options))
            return function
        return add
    return cases, case


def built_path(build, program):
    return os.path.join(build, "tests", "services", program)


def is_reachable(directory):
    """By everybody."""
    while os.stat(directory).st_mode & stat.S_IXOTH:
        if directory == "/":
            return True
        directory = os.path.dirname(directory)
    return False


def is_root():
    return None if os.geteuid() == 0 else "only root can have a part of it run elsewhere"


def difference(first, second):
    """None, or the first lines that two results do not have in common."""
    if first == second:
        return None
    if isinstance(first, bytes) and isinstance(second, bytes):
        return difference_of_bytes(first, second)
    lines = difflib.unified_diff(lines_of(first), lines_of(second), "direct", "then", n=1,
                                 lineterm="")
    return "\n# ".join(["they differ:", *itertools.islice(lines, 40)])


def difference_of_bytes(first, second):
    if len(first) != len(second):
        return f"{len(first)} bytes and then {len(second)}"
    places = [place for place, pair in enumerate(zip(first, second)) if pair[0] != pair[1]]
    return f"{len(places)} of {len(first)} bytes differ, the first at {places[0]}"


def lines_of(value):
    return (value if isinstance(value, str) else pprint.pformat(value, width=100)).splitlines()

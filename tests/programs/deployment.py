"""What starts the programs: units and launchers. None is started here, but what they say is checked."""

import os
import pathlib
import re
import shlex
import shutil
import subprocess

from harness import SLOW, Program, Skip, case_list, check

CASES, case = case_list("deployment")
ROOT = pathlib.Path(__file__).resolve().parents[2]
ROOMS = {"fdferry-guest": "guest-proxy", "fdferry-host": "host-proxy"}


def run(suite, *command, **changes):
    """Status, stdout, stderr."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=SLOW, env=suite.environment(**changes), check=False)
    return done.returncode, done.stdout, done.stderr


def require(program, package):
    if not shutil.which(program):
        raise Skip(f"{program} is not installed (package {package})")


def units(suite):
    """A directory of all units as they are installed, but that they start what was built."""
    directory = pathlib.Path(suite.path("units"))
    directory.mkdir()
    for program, room in ROOMS.items():
        built = pathlib.Path(suite.build, room)
        for unit in [*built.glob("*.service"), *(ROOT / room).glob("*.socket")]:
            text = re.sub(r"^ExecStart=\S+/", f"ExecStart={built}/", unit.read_text(), flags=re.M)
            (directory / unit.name).write_text(text)
    return directory


@case("the units are such as systemd takes without a word")
def _(suite):
    require("systemd-analyze", "systemd")
    directory = units(suite)
    names = sorted(path.name for path in directory.iterdir())
    check(len(names) == 6, f"not all are there: {names}")
    # the colon: after ours come the system's own, which ours refer to
    status, output, errors = run(suite, "systemd-analyze", "--user", "verify", "--man=no", *(
        str(directory / name) for name in names), SYSTEMD_UNIT_PATH=f"{directory}:")
    check(status == 0 and output + errors == "", f"{status}: {output}{errors}")
    return f"{len(names)} units"


def exec_start(text, settings=()):
    """What a service would run, as far as these units need it: %i, %I, %t, ${X} and $X."""
    for specifier, value in (("%i", "box"), ("%I", "box"), ("%t", "/run/user/1"), ("%E", "/none")):
        text = text.replace(specifier, value)
    environment = {}
    for line in re.findall(r"^Environment=(.*)", text, re.M):
        environment.update(word.split("=", 1) for word in shlex.split(line))
    environment.update(settings)
    words = []
    for word in re.search(r"^ExecStart=(.*)", text, re.M)[1].split():
        name = word.strip("${}")
        words += ([word] if not word.startswith("$") else
                  [environment[name]] if word.startswith("${") else shlex.split(environment[name]))
    return words


# unit, settings of its file, what it runs after the program
STARTS = [
    ("fdferry-guest.service", {}, ["--connect", "vsock:7000"]),
    ("fdferry-guest.service", {"FDFERRY_OPTIONS": "--service 'a=unix:/b c' --trace"},
     ["--connect", "vsock:7000", "--service", "a=unix:/b c", "--trace"]),
    ("fdferry-host.service", {}, []),
    ("fdferry-host@.service", {},
     ["--listen", "unix:/run/user/1/fdferry/box", "--title-prefix", "[box] "]),
    ("fdferry-host@.service", {"FDFERRY_LISTEN": "vsock:7001", "FDFERRY_OPTIONS": "--stats"},
     ["--listen", "vsock:7001", "--title-prefix", "[box] ", "--stats"]),
]


@case("what the units run is understood, with and without settings of one's own")
def _(suite):
    directory = units(suite)
    for unit, settings, expected in STARTS:
        program, *arguments = exec_start((directory / unit).read_text(), settings)
        check(arguments == expected, f"{unit}: {arguments}")
        # --help comes last, and what is wrong before it is told
        process = Program(suite, os.path.basename(program), [*arguments, "--help"], ready=False)
        output, status = process.wait()
        check(status == 0 and output.startswith("Usage: "), f"{unit}: {process.errors()}")

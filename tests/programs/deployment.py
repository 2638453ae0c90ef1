"""What starts the programs: units and launchers. No machine is started here, but what they say is
checked, and that launchers run what they print."""

import json
import os
import pathlib
import re
import shlex
import shutil
import stat
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


LAUNCHERS = {"qemu-vsock": "qemu-system-x86_64", "qemu-vhost-user": "qemu-system-x86_64",
             "crosvm": "crosvm", "cloud-hypervisor": "cloud-hypervisor",
             "firecracker": "firecracker"}
KERNEL, DISK, INITRD = "/a 'kernel'", "/b/disk \"1\".img", "/c/initrd"

# In the place of fdferry-host and of each VMM: writes down its arguments, one a line.
STUB = """#!/bin/sh
case $0 in
*/fdferry-host)
	trap 'echo ended >>"$RECORDS/host.end"; exit 0' TERM
	for word; do [ "$word" = --print-ready ] || printf '%s\\n' "$word"; done >"$RECORDS/host.tmp"
	mv "$RECORDS/host.tmp" "$RECORDS/host"
	case $1 in --print-ready) echo READY; exec >/dev/null; while :; do sleep 0.01; done ;; esac
	;;
*)
	until [ -e "$RECORDS/host" ]; do sleep 0.01; done
	printf '%s\\n' "$@" >"$RECORDS/vmm"
	for word; do case $word in */config.json) cat "$word" >"$RECORDS/config" ;; esac; done
	exit 7
	;;
esac
"""


class Stubs:
    """Programs that only write down how they were started."""

    def __init__(self, suite):
        self.suite = suite
        self.directory = pathlib.Path(suite.path("stubs"))
        self.directory.mkdir()
        for name in ("fdferry-host", *LAUNCHERS.values()):
            stub = self.directory / name
            stub.write_text(STUB)
            stub.chmod(stub.stat().st_mode | stat.S_IXUSR)

    def run(self, *command):
        """Status, stdout, and what was written down."""
        records = pathlib.Path(self.suite.path("records"))
        records.mkdir()
        status, output, errors = run(
            self.suite, *command, RECORDS=str(records), INITRD=INITRD, MEMORY="512",
            PATH=f"{self.directory}:{os.environ['PATH']}")
        check(not errors, f"{command}: {errors}")
        return status, output, {path.name: path.read_text() for path in records.iterdir()}


@case("a launcher runs what it prints, and leaves nothing behind")
def _(suite):
    stubs = Stubs(suite)
    for name, vmm in LAUNCHERS.items():
        launcher = str(ROOT / "examples/vm" / name)
        status, script, records = stubs.run(launcher, "--print", KERNEL, DISK, "--more", "a b")
        check(status == 0 and not records, f"{name} --print: {status}, has run {records}")
        status, output, records = stubs.run(launcher, KERNEL, DISK, "--more", "a b")
        check(status == 7 and output == "", f"{name}: {status} {output}")
        check(records.pop("host.end", "") == "ended\n", f"{name}: fdferry-host goes on")
        left = [entry for entry in os.listdir(suite.directory) if entry.startswith("fdferry-vm")]
        check(not left, f"{name} leaves {left}")
        _, _, printed = stubs.run("sh", "-euc", script)
        check(records == printed, f"{name}: runs {records}, prints {printed}")
        words = records["vmm"].splitlines()
        check("--more" in words and "a b" in words, f"{vmm}: {words}")
        described = records["vmm"] + records.get("config", "")
        check("512" in described and INITRD in described, f"{vmm} is not told all: {described}")


@case("a launcher that fdferry-host fails for starts no machine")
def _(suite):
    stubs = Stubs(suite)
    (stubs.directory / "fdferry-host").write_text("#!/bin/sh\nexit 3\n")
    for name in LAUNCHERS:
        status, _, records = stubs.run(str(ROOT / "examples/vm" / name), KERNEL, DISK)
        check(status == 1 and not records, f"{name}: {status} {records}")


@case("what launchers tell fdferry-host is understood")
def _(suite):
    stubs = Stubs(suite)
    output, _ = Program(suite, "fdferry-host", ["--help"], ready=False).wait()
    skipped = []
    for name in LAUNCHERS:
        if name == "qemu-vhost-user" and "vhost-user" not in output:
            skipped.append(name)
            continue
        _, _, records = stubs.run(str(ROOT / "examples/vm" / name), KERNEL, DISK)
        process = Program(suite, "fdferry-host", [*records["host"].splitlines(), "--help"],
                          ready=False)
        _, status = process.wait()
        check(status == 0, f"{name}: {process.errors()}")
    return f"not {', '.join(skipped)}" if skipped else None


@case("the machine that Firecracker is given has the kernel and the disk in its description")
def _(suite):
    stubs = Stubs(suite)
    _, _, records = stubs.run(str(ROOT / "examples/vm/firecracker"), KERNEL, DISK)
    config = json.loads(records["config"])
    check(config["boot-source"]["kernel_image_path"] == KERNEL, config)
    check(config["boot-source"]["initrd_path"] == INITRD, config)
    check(config["drives"][0]["path_on_host"] == DISK, config)
    socket = config["vsock"]["uds_path"]
    check(f"unix:{socket}_7000" in records["host"].splitlines(), f"{socket}: {records['host']}")


@case("launchers tell what they are for, and what is wrong")
def _(suite):
    for name in LAUNCHERS:
        launcher = str(ROOT / "examples/vm" / name)
        status, output, _ = run(suite, launcher, "--help", XDG_RUNTIME_DIR=None)
        check(status == 0 and "ested" in output and "KERNEL DISK" in output, f"{name}: {output}")
        for arguments in ([], ["--print"], ["--print", KERNEL], [KERNEL]):
            status, output, errors = run(suite, launcher, *arguments)
            check(status == 2 and errors.startswith("usage: "), f"{name} {arguments}: {errors}")
        status, output, errors = run(suite, launcher, KERNEL, DISK, XDG_RUNTIME_DIR=None)
        check(status == 2 and "XDG_RUNTIME_DIR: is not set" in errors, f"{name}: {errors}")
    for arguments in (["--output"], ["--output", ""], ["--outputs"]):
        status, _, errors = run(suite, str(ROOT / "examples/demo"), *arguments)
        check(status == 2 and errors.startswith("demo: "), f"demo {arguments}: {errors}")


ENTRY = "[Desktop Entry]\nType=Application\nName={}\nIcon={}\nCategories={}\nExec={}\n"
# of a guest that nobody trusts: file, content
PROGRAMS = {
    "a.desktop": ENTRY.format("Ähm = \x1b[31m1\\n", "a-b", "Utility;GTK;", "rm -rf /") +
    "[Desktop Action x]\nName=Other\nNoDisplay=true\n",
    "b.desktop": ENTRY.format("B", "/etc/b.png", "X\x1fY", "b"),
    "no icon.desktop": ENTRY.format("C", "", "", "c"),
    "..c\nExec=d.desktop": ENTRY.format("D", "", "", "d"),
    "hidden.desktop": ENTRY.format("E", "", "", "e") + "NoDisplay=true\n",
    "link.desktop": "[Desktop Entry]\nType=Link\nName=F\n",
}
STARTS_IT = ("Exec=ssh box systemd-run --user --quiet --collect -p ExitType=cgroup "
             "gio launch /usr/share/applications/")


@case("the menu gets what the guest's has, and the guest says only what it is called")
def _(suite):
    directory = pathlib.Path(suite.path("menu"))
    guest, host = directory / "guest", directory / "host" / "applications"
    guest.mkdir(parents=True)
    host.mkdir(parents=True)
    for name, content in PROGRAMS.items():
        (guest / name).write_text(content)
    ssh = directory / "ssh"
    ssh.write_text("#!/bin/sh\n[ $# = 2 ] && [ \"$1\" = box ] || exit 1\n"
                   f"eval \"$(printf '%s\\n' \"$2\" | sed 's,/usr/share/applications,{guest},')\"\n")
    ssh.chmod(0o755)
    for old in ("fdferry.box.old.desktop", "fdferry.boxes.old.desktop", "other.desktop"):
        (host / old).write_text("")

    def menu(*arguments):
        status, output, errors = run(
            suite, str(ROOT / "examples/vm/menu"), *arguments, XDG_DATA_HOME=str(host.parent),
            PATH=f"{directory}:{os.environ['PATH']}")
        return status, output + errors, {path.name: path.read_text() for path in host.iterdir()}

    status, output, entries = menu("box")
    check(status == 0 and not output, f"{status}: {output}")
    check(set(entries) == {"fdferry.box.a.desktop", "fdferry.box.b.desktop",
                           "fdferry.boxes.old.desktop", "other.desktop"}, entries.keys())
    check(entries["fdferry.box.a.desktop"].splitlines() == [
        "[Desktop Entry]", "Type=Application", "Name=Ähm = [31m1n (box)", "Icon=a-b",
        "Categories=Utility;GTK;", STARTS_IT + "a.desktop"], entries["fdferry.box.a.desktop"])
    lines = entries["fdferry.box.b.desktop"].splitlines()
    check(lines[3:] == ["Icon=application-x-executable", "Categories=", STARTS_IT + "b.desktop"],
          lines)
    ssh.write_text("#!/bin/sh\nexit 255\n")
    status, _, entries = menu("box")
    check(status == 255 and len(entries) == 4, f"without ssh: {status} {entries.keys()}")
    status, output, entries = menu("--remove", "box")
    check(status == 0 and set(entries) == {"fdferry.boxes.old.desktop", "other.desktop"}, entries)
    for wrong in ([], ["-oProxyCommand=x"], ["a b"], ["a.b"], ["--remove"], ["a", "b"]):
        status, output, _ = menu(*wrong)
        check(status == 2 and output.startswith("usage: "), f"{wrong}: {status} {output}")

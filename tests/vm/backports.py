"""Packages of Debian's backports, fetched once and kept unpacked, which need not be installed."""

import os
import platform
import shutil
import subprocess
import tempfile

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
FETCH_SECONDS = 600
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"

APT_CONF = """\
Dir::Etc::SourceList "{root}/sources.list";
Dir::Etc::SourceParts "-";
Dir::Etc::Preferences "-";
Dir::Etc::PreferencesParts "-";
Dir::State "{root}/state";
Dir::State::Status "{root}/status";
Dir::Cache "{root}/cache";
APT::Sandbox::User "{user}";
APT::Install-Recommends "false";
"""


class Missing(Exception):
    """What the machine needs is not to be had here; the text says why."""


def cache_directory():
    """FDFERRY_CACHE, or the usual place of such things."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.environ.get("FDFERRY_CACHE") or os.path.join(base, "fdferry")


def cached(name, programs, fill):
    """The directory of that name in the cache. fill(new, scratch) makes it, with these programs, where
    it is not there: whole, or not at all. Raises Missing."""
    current = os.path.join(cache_directory(), name)
    if not os.path.exists(current):
        try:
            fetch(current, ("apt-get", "dpkg-deb", *programs), fill)
        except Missing as missing:
            raise Missing(f"{name} cannot be had: {missing}") from missing
    return current


def fetch(current, programs, fill):
    for program in programs:
        if not shutil.which(program, path=PATH):
            raise Missing(f"{program} is not installed")
    cache = os.path.dirname(current)
    os.makedirs(cache, mode=0o755, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="new.", dir=cache) as scratch:
        new = os.path.join(scratch, "new")
        os.mkdir(new)
        fill(new, scratch)
        os.chmod(new, 0o755)
        os.rename(new, current)


class Apt:
    """One that knows these suites, and of the system's own state a copy of what is installed."""

    def __init__(self, scratch, suites):
        self.archives = os.path.join(scratch, "cache", "archives")
        for directory in ("state/lists/partial", "cache/archives/partial"):
            os.makedirs(os.path.join(scratch, directory))
        shutil.copy("/var/lib/dpkg/status", scratch)
        with open(os.path.join(scratch, "sources.list"), "w") as file:
            for suite in suites:
                file.write(f"deb [signed-by={KEYRING}] {mirror()} {suite} main\n")
        with open(os.path.join(scratch, "apt.conf"), "w") as file:
            user = "root" if os.geteuid() == 0 else ""
            file.write(APT_CONF.format(root=scratch, user=user))
        self.environment = {**os.environ, "APT_CONFIG": os.path.join(scratch, "apt.conf"),
                            "LC_ALL": "C"}
        self.run("apt-get", "-q", "update")

    def run(self, *command, directory=None):
        return run(command, self.environment, directory)


def release():
    """The code name of this Debian."""
    system = platform.freedesktop_os_release()
    if system.get("ID") != "debian" or "VERSION_CODENAME" not in system:
        raise Missing("it comes from Debian's backports, and this is not Debian")
    return system["VERSION_CODENAME"]


def mirror():
    """Where this system gets its own packages."""
    sites = run(["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages",
                 f"Codename: {release()}"]).split()
    return sites[0] if sites else "http://deb.debian.org/debian"


def run(command, environment=None, directory=None):
    """What it prints. One that fails raises Missing."""
    try:
        done = subprocess.run(command, env={**(environment or os.environ), "PATH": PATH},
                              cwd=directory, stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=FETCH_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(str(error)) from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise Missing(f"{command[0]}: {said[-1] if said else 'failed'}")
    return done.stdout

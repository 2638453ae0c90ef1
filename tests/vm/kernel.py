"""A kernel for the machine: Debian's package from backports, fetched once and kept unpacked."""

import gzip
import lzma
import os
import platform
import shutil
import subprocess
import tempfile

PACKAGE = "linux-image-amd64"  # the newest of its suite
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
FETCH_SECONDS = 600

APT_CONF = """\
Dir::Etc::SourceList "{root}/sources.list";
Dir::Etc::SourceParts "-";
Dir::Etc::Preferences "-";
Dir::Etc::PreferencesParts "-";
Dir::State "{root}/state";
Dir::State::Status "/var/lib/dpkg/status";
Dir::Cache "{root}/cache";
APT::Sandbox::User "{user}";
"""


class Missing(Exception):
    """What the machine needs is not to be had here; the text says why."""


def cache_directory():
    """FDFERRY_CACHE, or the usual place of such things."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.environ.get("FDFERRY_CACHE") or os.path.join(base, "fdferry")


class Kernel:
    """`image` is the ELF file to boot; `modules` are found below `tree`."""

    def __init__(self, directory):
        self.tree = os.path.join(directory, "tree")
        self.image = os.path.join(directory, "vmlinux")
        self.version, = os.listdir(os.path.join(self.tree, "lib", "modules"))
        self.modules = os.path.join(self.tree, "lib", "modules", self.version)
        self.dependencies = self.read_dependencies()
        with open(os.path.join(self.modules, "modules.builtin")) as file:
            self.builtin = {module_name(line.strip()) for line in file}

    def read_dependencies(self):
        """{name: (path, the names that it depends on)}"""
        found = {}
        with open(os.path.join(self.modules, "modules.dep")) as file:
            for line in file:
                path, _, others = line.partition(":")
                found[module_name(path)] = path, [module_name(other) for other in others.split()]
        return found

    def load_order(self, names):
        """The paths of these modules and of all that they need, each after what it needs."""
        order = []
        for name in names:
            if name in self.builtin:
                continue
            if name not in self.dependencies:
                raise Missing(f"Linux {self.version} of Debian has no module {name}")
            path, others = self.dependencies[name]
            for each in [*self.load_order(others), path]:
                if each not in order:
                    order.append(each)
        return order

    def module(self, path):
        """The module itself, as insmod takes it."""
        full = os.path.join(self.modules, path)
        opener = lzma.open if path.endswith(".xz") else open
        with opener(full, "rb") as file:
            return file.read()


def module_name(path):
    return os.path.basename(path).split(".")[0].replace("-", "_")


def get_kernel():
    """From the cache; else it is fetched. Raises Missing."""
    cache = cache_directory()
    current = os.path.join(cache, "kernel")
    if not os.path.exists(current):
        fetch(cache, current)
    return Kernel(current)


def fetch(cache, current):
    """`current` is there at once and whole, or not at all."""
    for program in ("apt-get", "dpkg-deb", "depmod", "xz", "zstd"):
        if not shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"):
            raise Missing(f"{program} is not installed, so there is no kernel")
    if platform.machine() != "x86_64":
        raise Missing(f"there is no kernel for {platform.machine()} here")
    os.makedirs(cache, mode=0o755, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="kernel.", dir=cache) as scratch:
        tree = os.path.join(scratch, "new", "tree")
        os.makedirs(tree)
        run(["dpkg-deb", "-x", download(scratch), tree])
        boot = os.path.join(tree, "boot")
        image, = (name for name in os.listdir(boot) if name.startswith("vmlinuz-"))
        version = image.removeprefix("vmlinuz-")
        run(["depmod", "-b", tree, version])
        with open(os.path.join(scratch, "new", "vmlinux"), "wb") as file:
            file.write(unpacked(os.path.join(boot, image)))
        os.chmod(os.path.join(scratch, "new"), 0o755)
        os.rename(os.path.join(scratch, "new"), current)


def download(scratch):
    """The package, with an apt that knows backports and nothing of the system's own state."""
    for directory in ("state/lists/partial", "cache/archives/partial"):
        os.makedirs(os.path.join(scratch, directory))
    with open(os.path.join(scratch, "sources.list"), "w") as file:
        file.write(f"deb [signed-by={KEYRING}] {mirror()} {release()}-backports main\n")
    with open(os.path.join(scratch, "apt.conf"), "w") as file:
        user = "root" if os.geteuid() == 0 else ""
        file.write(APT_CONF.format(root=scratch, user=user))
    environment = {**os.environ, "APT_CONFIG": os.path.join(scratch, "apt.conf"), "LC_ALL": "C"}
    run(["apt-get", "-q", "update"], environment)
    # the package that has the kernel in it is what this one depends on
    depends = run(["apt-cache", "depends", "--important", PACKAGE], environment)
    names = [line.split()[-1] for line in depends.splitlines() if "Depends: linux-image-" in line]
    if not names:
        raise Missing(f"{release()}-backports has no {PACKAGE}")
    run(["apt-get", "-q", "download", names[0]], environment, scratch)
    package, = (name for name in os.listdir(scratch) if name.endswith(".deb"))
    return os.path.join(scratch, package)


def release():
    """The code name of this Debian."""
    system = platform.freedesktop_os_release()
    if system.get("ID") != "debian" or "VERSION_CODENAME" not in system:
        raise Missing("the kernel comes from Debian's backports, and this is not Debian")
    return system["VERSION_CODENAME"]


def mirror():
    """Where this system gets its own packages."""
    sites = run(["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages",
                 f"Codename: {release()}"]).split()
    return sites[0] if sites else "http://deb.debian.org/debian"


def run(command, environment=None, directory=None):
    """What it prints. One that fails says why the kernel cannot be had."""
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    try:
        done = subprocess.run(command, env={**(environment or os.environ), "PATH": path},
                              cwd=directory, stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=FETCH_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"the kernel cannot be had: {error}") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise Missing(f"the kernel cannot be had: {command[0]}: {said[-1] if said else 'failed'}")
    return done.stdout


def unpacked(path):
    """The ELF file within a bzImage: QEMU boots it through its PVH note, which spares the guest
    the unpacking. Documentation/arch/x86/boot.rst: setup_sects, payload_offset, payload_length."""
    with open(path, "rb") as file:
        image = file.read()
    sectors = image[0x1f1] or 4
    protected = (sectors + 1) * 512
    offset = protected + int.from_bytes(image[0x248:0x24c], "little")
    length = int.from_bytes(image[0x24c:0x250], "little")
    payload = image[offset:offset + length - 4]  # without the size at its end
    if payload.startswith(b"\x1f\x8b"):
        return gzip.decompress(payload)
    if payload.startswith(b"\xfd7zX"):
        return lzma.decompress(payload)
    if payload.startswith(b"\x28\xb5\x2f\xfd"):
        return subprocess.run(["zstd", "-dc"], input=payload, capture_output=True,
                              check=True).stdout
    raise Missing("the kernel is compressed with something unknown")

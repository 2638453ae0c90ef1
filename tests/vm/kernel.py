"""A kernel for the machine: Debian's package from backports, fetched once and kept unpacked."""

import gzip
import lzma
import os
import platform
import subprocess

from backports import Apt, Missing, cached, release, run

PACKAGE = "linux-image-amd64"  # the newest of its suite


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
    return Kernel(cached("kernel", ("depmod", "xz", "zstd"), fill))


def fill(new, scratch):
    if platform.machine() != "x86_64":
        raise Missing(f"there is none for {platform.machine()} here")
    tree = os.path.join(new, "tree")
    os.mkdir(tree)
    run(["dpkg-deb", "-x", download(scratch), tree])
    boot = os.path.join(tree, "boot")
    image, = (name for name in os.listdir(boot) if name.startswith("vmlinuz-"))
    run(["depmod", "-b", tree, image.removeprefix("vmlinuz-")])
    with open(os.path.join(new, "vmlinux"), "wb") as file:
        file.write(unpacked(os.path.join(boot, image)))


def download(scratch):
    """The package."""
    apt = Apt(scratch, [f"{release()}-backports"])
    # the package that has the kernel in it is what this one depends on
    depends = apt.run("apt-cache", "depends", "--important", PACKAGE)
    names = [line.split()[-1] for line in depends.splitlines() if "Depends: linux-image-" in line]
    if not names:
        raise Missing(f"{release()}-backports has no {PACKAGE}")
    apt.run("apt-get", "-q", "download", names[0], directory=scratch)
    package, = (name for name in os.listdir(scratch) if name.endswith(".deb"))
    return os.path.join(scratch, package)


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

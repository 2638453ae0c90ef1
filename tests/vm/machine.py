"""A throw-away QEMU machine that runs one command in a copy of this machine's file system.

Its root is this one's over read-only 9p, below a tmpfs that takes what it changes: programs built
here run there, with the libraries that are here. The processor is emulated (TCG), or within such a
machine virtual (KVM)."""

import gzip
import os
import selectors
import shlex
import shutil
import signal
import struct
import subprocess
import tempfile
import time

from backports import Missing
from kernel import get_kernel

BUSYBOX = "/bin/busybox"
INIT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "init")
# What the root needs, in this order.
ROOT_MODULES = ("9p", "9pnet_virtio", "overlay")
# What is emulated copies byte by byte where a processor claims to be fast with that (ERMS).
ACCELERATORS = {"tcg": ("-accel", "tcg,thread=multi", "-cpu", "max,erms=off"),
                # of what an emulated processor has, less than max is sure to work one level deeper
                "kvm": ("-accel", "kvm", "-cpu", "qemu64")}
BOOT_OPTIONS = ("console=hvc0 quiet panic=-1 mitigations=off nokaslr no_timer_check tsc=reliable "
                "random.trust_cpu=on cryptomgr.notests")
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
               "HOME": "/root", "TERM": "dumb", "LC_ALL": "C.UTF-8", "TMPDIR": "/run/tmp",
               "XDG_RUNTIME_DIR": "/run/user"}


class Crash(Exception):
    """The machine ended without a status of the command; the text has its last words."""


def emulator():
    """Its path, or Missing is raised."""
    for path, package in (("qemu-system-x86_64", "qemu-system-x86"), (BUSYBOX, "busybox-static")):
        if not shutil.which(path):
            raise Missing(f"{path} is not installed (package {package})")
    if needs_libraries(BUSYBOX):
        raise Missing(f"{BUSYBOX} is not the static one (package busybox-static)")
    return shutil.which("qemu-system-x86_64")


def needs_libraries(path):
    """Whether an ELF file names an interpreter (elf.h: PT_INTERP), as dynamic programs do."""
    with open(path, "rb") as file:
        data = file.read(4096)
    start, = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    return any(struct.unpack_from("<I", data, start + number * size)[0] == 3
               for number in range(count))


class Machine:
    """Runs from __init__ on. Everything that it has ends with close()."""

    def __init__(self, command, modules=(), memory=2048, processors=1, shared_memory=False,
                 environment=(), options=(), accelerator="tcg"):
        """`memory` in MiB; `options` are QEMU's. With `shared_memory`, it is a memfd that
        vhost-user devices are given. `accelerator` is one of ACCELERATORS."""
        qemu = emulator()
        self.directory = tempfile.mkdtemp(prefix="fdferry-vm.")
        self.rest = b""
        try:
            kernel = get_kernel()
            self.write_initrd(kernel, [*ROOT_MODULES, *modules],
                              job(command, {**ENVIRONMENT, **dict(environment)}))
            self.output, output = os.pipe()
            try:
                self.start([qemu, *ACCELERATORS[accelerator],
                            *self.arguments(kernel, memory, processors, shared_memory),
                            "-chardev", f"file,id=output,path=/proc/self/fd/{output}",
                            *options], output)
            finally:
                os.close(output)
        except BaseException:
            shutil.rmtree(self.directory)
            raise

    def path(self, name):
        return os.path.join(self.directory, name)

    def write_initrd(self, kernel, modules, job_text):
        order = kernel.load_order(modules)
        archive = Archive()
        for directory in ("bin", "dev", "proc", "sys", "modules", "outside", "changes", "root"):
            archive.add_directory(directory)
        with open(BUSYBOX, "rb") as file:
            archive.add_file("bin/busybox", file.read())
        with open(INIT, "rb") as file:
            archive.add_file("init", file.read())
        names = [os.path.basename(path).removesuffix(".xz") for path in order]
        for name, path in zip(names, order):
            archive.add_file(f"modules/{name}", kernel.module(path))
        archive.add_file("modules/order", "".join(f"{name}\n" for name in names).encode())
        archive.add_file("job", job_text.encode())
        with open(self.path("initrd"), "wb") as file:
            file.write(gzip.compress(archive.finish(), 1))

    def arguments(self, kernel, memory, processors, shared_memory):
        arguments = [
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-machine", "q35" + (",memory-backend=memory" if shared_memory else ""),
            "-smp", str(processors), "-m", str(memory),
            "-kernel", kernel.image, "-initrd", self.path("initrd"), "-append", BOOT_OPTIONS,
            "-device", "virtio-serial-pci", "-device", "virtio-rng-pci",
            "-chardev", f"file,id=console,path={self.path('console')}",
            "-device", "virtconsole,chardev=console",
            "-device", "virtserialport,chardev=output,name=output",
            "-chardev", f"file,id=status,path={self.path('status')}",
            "-device", "virtserialport,chardev=status,name=status",
            "-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap",
            "-device", "virtio-9p-pci,fsdev=root,mount_tag=root",
        ]
        if shared_memory:
            arguments += ["-object",
                          f"memory-backend-memfd,id=memory,size={memory}M,share=on"]
        return arguments

    def start(self, command, output):
        with open(self.path("qemu"), "wb") as log:
            self.qemu = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                         pass_fds=[output], start_new_session=True)

    def lines(self, seconds):
        """What the command prints, line by line, until it has ended. TimeoutError after so many
        seconds in which the machine has not ended."""
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self.output, selectors.EVENT_READ)
            while True:
                line, found, self.rest = self.rest.partition(b"\n")
                if found:
                    yield line.decode(errors="replace").rstrip("\r")
                    continue
                self.rest = line
                if not selector.select(max(deadline - time.monotonic(), 0)):
                    raise TimeoutError(f"the machine has not ended within {seconds} s")
                data = os.read(self.output, 65536)
                if not data:
                    break
                self.rest += data
        if self.rest:
            yield self.rest.decode(errors="replace")

    def status(self):
        """The command's exit status, once lines() has come to its end."""
        self.qemu.wait()
        with open(self.path("status")) as file:
            text = file.read().strip()
        if not text:
            raise Crash("\n".join(["the machine ended without a status", *self.last_words()]))
        return int(text)

    def last_words(self):
        """The end of what QEMU and the kernel have said."""
        words = []
        for name in ("qemu", "console"):
            if os.path.exists(self.path(name)):
                with open(self.path(name), errors="replace") as file:
                    words += [f"{name}: {line.rstrip()}" for line in file.readlines()[-15:]]
        return words

    def close(self):
        if self.qemu.poll() is None:
            self.qemu.send_signal(signal.SIGKILL)
            self.qemu.wait()
        os.close(self.output)
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def job(command, environment):
    """The shell script that the machine runs."""
    variables = [f"{name}={value}" for name, value in environment.items()]
    words = shlex.join(["exec", "env", "-i", *variables, *command])
    return f"cd {shlex.quote(os.getcwd())}\n{words}\n"


class Archive:
    """A cpio archive of the "newc" kind, which the kernel unpacks as its first root."""

    def __init__(self):
        self.parts = []
        self.entries = 0

    def add(self, name, mode, data=b""):
        self.entries += 1
        encoded = name.encode() + b"\0"
        numbers = (self.entries, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
        header = b"070701" + b"".join(b"%08x" % number for number in numbers)
        self.parts += [padded(header + encoded), padded(data)]

    def add_directory(self, name):
        self.add(name, 0o040755)

    def add_file(self, name, data):
        self.add(name, 0o100755, data)

    def finish(self):
        self.add("TRAILER!!!", 0)
        return b"".join(self.parts)


def padded(data):
    return data + bytes(-len(data) % 4)

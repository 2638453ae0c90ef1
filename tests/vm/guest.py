"""A machine whose vsock device is a fdferry-host outside, and what its command says."""

import contextlib
import os
import queue
import signal
import subprocess
import threading

from kernel import Missing
from machine import Machine
from processes import Failure

MODULES = ("vmw_vsock_virtio_transport",)
SECONDS = 150  # that one step of a machine may take on a busy host
CONNECT = "vsock:2:7000"


def check_host(build):
    """Raises Missing where fdferry-host cannot be such a device."""
    host = os.path.join(build, "host-proxy", "fdferry-host")
    usage = subprocess.run([host, "--help"], capture_output=True, text=True, check=True).stdout
    if "vhost-user" not in usage:
        raise Missing("this fdferry-host is no vsock device (--listen vhost-user:PATH)")


class Guest(contextlib.ExitStack):
    """Runs from __init__ on. `options` are QEMU's. The device is in a slot, so that it can be
    taken out."""

    def __init__(self, socket, command, options=(), lasts=2 * SECONDS):
        super().__init__()
        self.lasts = lasts
        self.machine = self.enter_context(Machine(
            command, MODULES, shared_memory=True,
            options=["-chardev", f"socket,id=vsock,path={socket}", "-device", "pcie-root-port,id=plug",
                     "-device", "vhost-user-vsock-pci,id=device,bus=plug,chardev=vsock", *options]))
        self.said = []
        self.lines = queue.SimpleQueue()
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        try:
            for line in self.machine.lines(self.lasts):
                self.lines.put(line)
        except (TimeoutError, OSError):
            pass
        self.lines.put(None)

    def wait_for(self, word):
        """What follows "word: " in the next line that begins so."""
        while True:
            try:
                line = self.lines.get(timeout=SECONDS)
            except queue.Empty:
                raise Failure(f"the machine does not say «{word}» but {self.said}") from None
            if line is None:
                raise Failure("\n".join([f"the machine ends without «{word}» and said {self.said}",
                                         *self.machine.last_words()]))
            if line.startswith(f"{word}: "):
                return line.removeprefix(f"{word}: ")
            self.said.append(line)

    def status(self):
        self.reader.join(SECONDS)
        return self.machine.status()

    def kill(self):
        self.machine.qemu.send_signal(signal.SIGKILL)
        self.machine.qemu.wait()
        self.reader.join()

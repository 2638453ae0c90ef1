"""A machine one of whose devices is a fdferry-host outside, or leads to it, and what its command says."""

import contextlib
import os
import queue
import signal
import socket
import threading

from machine import Machine
from processes import Failure, wait_until
from surroundings import patient

SECONDS = 150  # that one step of a machine may take on a busy host
CONNECT = "vsock:2:7000"


def socket_options(directory, name):
    """QEMU's, for a chardev that is a socket of that name."""
    path = os.path.join(directory, name)
    return ["-chardev", f"socket,id={name},path={path},server=on,wait=off"]


class Guest(contextlib.ExitStack):
    """Runs from __init__ on. `device` is a VhostUser, a Kernel or a Gpu, `options` are QEMU's."""

    def __init__(self, device, command, options=(), lasts=2 * SECONDS):
        super().__init__()
        self.lasts = lasts
        self.machine = self.enter_context(Machine(
            command, device.modules, shared_memory=True, accelerator=device.accelerator,
            options=[*device.options, *options]))
        self.said = []
        self.lines = queue.SimpleQueue()
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        try:
            for line in self.machine.lines(patient(self.lasts)):
                self.lines.put(line)
        except (TimeoutError, OSError):
            pass
        self.lines.put(None)

    def wait_for(self, word):
        """What follows "word: " in the next line that begins so."""
        while True:
            try:
                line = self.lines.get(timeout=patient(SECONDS))
            except queue.Empty:
                raise Failure(f"the machine does not say «{word}» but {self.said}") from None
            if line is None:
                raise Failure("\n".join([f"the machine ends without «{word}» and said {self.said}",
                                         *self.machine.last_words()]))
            if line.startswith(f"{word}: "):
                return line.removeprefix(f"{word}: ")
            self.said.append(line)

    def status(self):
        self.reader.join(patient(SECONDS))
        return self.machine.status()

    def kill(self):
        self.machine.qemu.send_signal(signal.SIGKILL)
        self.machine.qemu.wait()
        self.reader.join()


class OrderedGuest(Guest):
    """One whose command is given orders (orders.py). Its sockets are in a directory."""

    def __init__(self, device, command, directory, options=(), lasts=2 * SECONDS):
        self.directory = directory
        super().__init__(device, command, [
            *socket_options(directory, "orders"),
            "-device", "virtserialport,chardev=orders,name=orders", *options], lasts)
        try:
            self.orders = self.connect("orders")
        except BaseException:
            self.close()
            raise

    def connect(self, name):
        def connected():
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            try:
                sock.connect(os.path.join(self.directory, name))
            except OSError:
                sock.close()
                return None
            return self.enter_context(sock)
        return wait_until(f"QEMU listens for {name}", connected, SECONDS)

    def order(self, word):
        self.orders.sendall(f"{word}\n".encode())

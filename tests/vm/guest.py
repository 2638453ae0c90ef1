"""A machine one of whose devices is a fdferry-host outside, or leads to it, and what its command says."""

import contextlib
import queue
import signal
import threading

from machine import Machine
from processes import Failure
from surroundings import patient

SECONDS = 150  # that one step of a machine may take on a busy host
CONNECT = "vsock:2:7000"


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

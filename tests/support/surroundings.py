"""What is said of a run from outside: what carries the channel, and how patient tests must be.

FDFERRY_TEST_CHANNEL=vsock  AF_VSOCK over the loopback device, in place of a UNIX socket
FDFERRY_TEST_PATIENCE=N     all deadlines are N times as long: the machine is slow
"""

import itertools
import os
import socket

VSOCK = os.environ.get("FDFERRY_TEST_CHANNEL") == "vsock"
PATIENCE = float(os.environ.get("FDFERRY_TEST_PATIENCE", "1"))
LOOPBACK = 1  # the CID of the machine itself

ports = itertools.count(7000)


def patient(seconds):
    return seconds * PATIENCE


DEADLINE = patient(10)  # seconds; what happens at all takes far less


def is_wanted(name, parts):
    """Whether a case of that name is to run: it has one of the parts in it, if there are any."""
    return not parts or any(part in name for part in parts)


class Channel:
    """Where a host listens and a guest connects. `path` is used by a UNIX socket only."""

    def __init__(self, path):
        self.path = path
        self.port = next(ports) if VSOCK else None
        self.listen = f"vsock:{self.port}" if VSOCK else f"unix:{path}"
        self.connect = f"vsock:{LOOPBACK}:{self.port}" if VSOCK else f"unix:{path}"

    def address(self):
        """Of a Python socket: of the listener, and to connect to."""
        return (LOOPBACK, self.port) if VSOCK else self.path

    @staticmethod
    def socket():
        return socket.socket(socket.AF_VSOCK if VSOCK else socket.AF_UNIX,
                             socket.SOCK_STREAM | socket.SOCK_CLOEXEC)

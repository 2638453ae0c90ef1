"""What buffers take of a machine, and of the programs that carry them."""

import re

from harness import fds_of
from spares import children_of, has_spares

BUFFERS = "/sys/kernel/debug/dma_buf/bufinfo"


def dmabufs():
    """(all dma-bufs of the machine, bytes of them)"""
    with open(BUFFERS) as file:
        total, = re.findall(r"Total (\d+) objects, (\d+) bytes", file.read())
    return tuple(map(int, total))


def of(pid):
    """The same, and the fds of a program and its children; None while it is not at rest."""
    if not has_spares(pid):
        return None
    return *dmabufs(), sum(map(fds_of, [pid, *children_of(pid)]))

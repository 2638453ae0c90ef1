"""The session processes that each program keeps ready, as they are seen from outside."""

import contextlib
import os

SPARES = 2  # common/base/workers.c


def children_of(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as children:
            return [int(child) for child in children.read().split()]
    except OSError:
        return []


def links_of(pid):
    """What its fds are, without those that it closes meanwhile."""
    links = set()
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                links.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return links


def sockets_among(links):
    return sum(link.startswith("socket:") for link in links)


def is_spare(links):
    """It waits to be given a session: neither still starting nor already with one."""
    return sockets_among(links) == 1 and "anon_inode:[eventpoll]" in links


def has_spares(pid):
    """The program with that pid has as many as it keeps: what it has open will not change by itself."""
    return sum(is_spare(links_of(child)) for child in children_of(pid)) == SPARES

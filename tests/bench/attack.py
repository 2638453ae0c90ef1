#!/usr/bin/env python3
"""A guest that takes all that fdferry-host's budgets give it, as fast as they let it.

    attack.py ADDRESS           the UNIX socket of a host with the default limits
    attack.py ADDRESS rows N    likewise, but N sessions send rows of pixels as fast as they are read

Prints READY once it has what it can have, then goes on sending until it gets SIGTERM, and prints how
many requests, or KiB of rows, per second that were.
"""

import os
import select
import signal
import sys
import time

sys.dont_write_bytecode = True
for place in ("programs", "support"):
    sys.path.insert(1, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", place))
import channel  # noqa: E402
from channel import POOL, READ, Type  # noqa: E402
from wayland import message, split, words  # noqa: E402

FDS, MEMORY, OBJECTS, PENDING = 4096, 2 << 30, 262144, 1024
PINGS = 200000          # more than are answered while nobody reads the answers
VM_RATE, VM_FACTOR = 200000, 4
SENDERS = 4             # sessions that send
SHARE = 0.95            # of the rate
TICK = 0.02             # seconds
COMPOSITOR, SURFACE = 3, 4


def connect(address):
    chan = channel.Channel(address)
    end = channel.connect(chan)
    end.send(channel.hello() + channel.messages(message(1, 1, 2)))
    end.wait_for(lambda: b"wl_compositor" in end.message_bytes())
    return end


def hold_fds(end):
    """Fds, half of them pipes, and the memory of the others; and ids without their message."""
    pools = FDS // 2
    for id in range(1, pools + 1):
        end.send(channel.open_memory(id, POOL, MEMORY // pools))
    for id in range(pools + 1, FDS + 1):
        end.send(channel.open_pipe(id, READ))
    for _ in range(PENDING // 128):
        end.send(channel.messages(b"", [1] * 128))


def hold_objects(end):
    """One callback after the other, of which no id is used again."""
    for first in range(3, OBJECTS + 1, 2000):
        ids = range(first, min(first + 2000, OBJECTS + 1))
        end.send(channel.messages(b"".join(message(1, 0, id) for id in ids)))
        end.wait_for(lambda: message(ids[-1], 0, 0)[:8] in end.message_bytes())
        size = len(end.message_bytes())
        end.frames.clear()
        end.send(channel.frame(Type.CREDIT, arg=size))


def hold_unsent(end):
    """Answers that are never read."""
    for _ in range(PINGS // 1000):
        end.send(channel.ping() * 1000)


def hold(address):
    """Each of the sessions that a VM can have at the edge."""
    held = []
    for _ in range(VM_FACTOR):
        end = connect(address)
        hold_fds(end)
        held.append(end)
    for take in (hold_objects, hold_unsent):
        end = connect(address)
        take(end)
        held.append(end)
    return held


def name_of_compositor(end):
    """Its number among the globals."""
    for target, opcode, body in split(end.message_bytes())[0]:
        if (target, opcode) == (2, 0) and b"wl_compositor" in body:
            return words(body)[0]
    raise EOFError("there is no wl_compositor")


REQUEST = message(SURFACE, 2, 0, 0, 1, 1)  # small, and the compositor has to look at it


class Sender:
    """Sends within the window of messages: beyond it, the session would end for that."""

    def __init__(self, address):
        self.end = connect(address)
        setup = message(2, 0, name_of_compositor(self.end), "wl_compositor", 4, COMPOSITOR)
        setup += message(COMPOSITOR, 0, SURFACE)
        self.end.frames.clear()
        self.end.send(channel.messages(setup))
        self.sent = 0
        self.credit = channel.MESSAGE_WINDOW - len(setup) - len(message(1, 1, 2))

    def drain(self):
        while select.select([self.end.socket], [], [], 0)[0]:
            if not self.end.read(time.monotonic() + 1):
                sys.exit(f"a session was ended: {self.end.reason()}")
        self.credit += sum(arg for _, id, arg, _ in self.end.got(Type.CREDIT) if id == 0)
        self.end.frames.clear()

    def send(self, n):
        while n > 0 and self.credit >= len(REQUEST):
            some = min(n, 2048, self.credit // len(REQUEST))
            self.end.send(channel.messages(REQUEST * some))
            self.credit -= len(REQUEST) * some
            self.sent += some
            n -= some


class Writer:
    """Writes over a pool again and again."""

    ROWS = 256 << 10  # bytes

    def __init__(self, address):
        self.end = connect(address)
        self.end.send(channel.open_memory(1, POOL, self.ROWS))
        self.end.socket.setblocking(False)
        self.frame = memoryview(channel.mem_write(1, 0, bytes(self.ROWS)))
        self.done = self.sent = 0

    def fileno(self):
        return self.end.socket.fileno()

    def send(self):
        self.done += self.end.socket.send(self.frame[self.done:])
        if self.done == len(self.frame):
            self.sent += self.ROWS
            self.done = 0


def write(writers):
    """Until ended. There are few messages: bytes are what it is about."""
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    start = time.monotonic()
    while not ended:
        for writer in select.select([], writers, [], 0.1)[1]:
            writer.send()
    return sum(writer.sent for writer in writers) / 1024 / (time.monotonic() - start)


def send(senders):
    """At just less than the rate, until ended."""
    per_tick = int(VM_RATE * SHARE * TICK / len(senders))
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    start = next_tick = time.monotonic()
    while not ended:
        for sender in senders:
            sender.drain()
            sender.send(per_tick)
        next_tick += TICK
        time.sleep(max(0, next_tick - time.monotonic()))
    return sum(sender.sent for sender in senders) / (time.monotonic() - start)


def main():
    address = sys.argv[1]
    held = hold(address)
    rows = "rows" in sys.argv[2:]
    senders = [(Writer if rows else Sender)(address)
               for _ in range(int(sys.argv[3]) if rows else SENDERS)]
    print("READY", flush=True)
    print(f"{write(senders) if rows else send(senders):.0f}", flush=True)
    del held  # until here


if __name__ == "__main__":
    main()

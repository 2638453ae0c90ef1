"""Calls service.py, by gdbus, libdbus or sdbus, with fds both ways, and prints what both ends say.

client.py LIBRARY bus|peer ADDRESS exchange        everything that crosses
client.py LIBRARY bus|peer ADDRESS send KIND...    one message with these fds
client.py LIBRARY bus|peer ADDRESS twice FILE      a pipe, and one more once FILE is there
client.py LIBRARY bus ADDRESS whoami               the uid that the bus knows
"""

import os
import sys
import time

import fds
import libraries

ALL = ["memfd", "source", "sink", "stream", "records"]
ROUNDS = 10


def send(library, kinds):
    made = [fds.make(kind) for kind in kinds]
    texts = library.call("Describe", "ah", [each.fd for each in made])
    for each in made:
        each.sent()
    for text in texts + [each.report() for each in made]:
        print(f"sent: {text}", flush=True)


def fetch(library, kinds):
    for fd in library.call("Make", "as", kinds):
        print(f"fetched: {fds.describe(fd)}")
    for text in library.call("Report", "", []):
        print(f"fetched: {text}", flush=True)


def exchange(library):
    for kind in ALL:
        send(library, [kind])
        fetch(library, [kind])
    send(library, ALL + ALL)
    fetch(library, ALL + ALL)
    # Right behind messages without fds, so that the receiver may find all of them in one read.
    for number in range(ROUNDS):
        for note in ("before", "and before"):
            library.tell("Note", [f"{note} {number}"])
        send(library, ["source", "memfd"])


def twice(library, path):
    send(library, ["source"])
    while not os.path.exists(path):
        time.sleep(0.05)
    send(library, ["source"])


def whoami(library):
    print(library.uid())


def main():
    name, role, address, action, *rest = sys.argv[1:]
    library = libraries.LIBRARIES[name](address, role == "bus")
    if action == "exchange":
        exchange(library)
    elif action == "send":
        send(library, rest)
    elif action == "twice":
        twice(library, *rest)
    else:
        whoami(library)


main()

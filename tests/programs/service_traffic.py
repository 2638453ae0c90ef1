"""Much through one session: a long conversation, and a long stream either way. Nothing is timed."""

import concurrent.futures
import os
import random
import socket
import struct

from harness import SLOW, case_list, check
from opaque import ServiceStage, Session, close_all, receive, send_fds
from passing import sealed

CASES, case = case_list("service traffic")

MESSAGES = 10000
FDS_EVERY = 5  # so many messages: of both sides
LENGTH_MAX = 3000
HEAD = struct.Struct("<HB")  # length of the body, number of fds
STREAM_MIB = 1024
BLOCK = 1 << 20


def word_of(number, index):
    return b"%d of message %d" % (index, number)


def open_pipe(word):
    read, write = os.pipe()
    os.write(write, word)
    os.close(write)
    return read


def fds_of_message(number):
    if number % FDS_EVERY != 0:
        return []
    kinds = (open_pipe, lambda word: sealed(len(word), word))
    count = 1 + number // FDS_EVERY % 3
    return [kinds[(number + i) % 2](word_of(number, i)) for i in range(count)]


def body_of(number):
    length = 1 + number * 7919 % LENGTH_MAX
    return (b"%d;" % number * length)[:length]


def send_message(sock, number):
    """Plain bytes go ahead: the kernel joins them with those that fds came with, where it may."""
    body, fds = body_of(number), fds_of_message(number)
    sock.sendall(HEAD.pack(len(body), len(fds)))
    check(send_fds(sock, body, fds) == len(body), "a message is sent in part")
    close_all(fds)


def read_part(sock, size):
    """So many bytes, and the fds that come with the first of them."""
    data, fds = receive(sock, size)
    while len(data) < size:
        more, late = receive(sock, size - len(data))
        check(more and not late, f"{len(late)} fds come late, or the end within a message")
        data += more
    return data, fds


def read_message(sock, number):
    head, early = read_part(sock, HEAD.size)
    length, n_fds = HEAD.unpack(head)
    check(not early, f"message {number}: {len(early)} fds come early")
    body, fds = read_part(sock, length)
    check(body == body_of(number) and len(fds) == n_fds,
          f"message {number} is {body[:40]!r} with {len(fds)} fds, not {n_fds}")
    for i, fd in enumerate(fds):
        words = os.read(fd, 100), os.read(fd, 100)
        check(words == (word_of(number, i), b""), f"message {number}: its fd {i} has {words}")
    close_all(fds)


def send_blocks(sock, block, count):
    """No two of them are the same, nor any two parts of one."""
    for number in range(count):
        block[:8] = number.to_bytes(8, "little")
        sock.sendall(block)
    sock.shutdown(socket.SHUT_WR)


def read_block(sock, block):
    view, done = memoryview(block), 0
    while done < len(block):
        n = sock.recv_into(view[done:])
        check(n > 0, f"the end after {done} bytes of a block")
        done += n


def read_blocks(sock, expected, count):
    """Every byte is compared."""
    block = bytearray(len(expected))
    for number in range(count):
        expected[:8] = number.to_bytes(8, "little")
        read_block(sock, block)
        check(block == expected, f"block {number} is another one")
    check(sock.recv(1) == b"", "more comes than was sent")


@case(f"{MESSAGES} messages there and back arrive as they were sent, with their fds")
def _(suite):
    stage = suite.stage("services", kind=ServiceStage)
    with Session(stage) as session:
        for number in range(0, MESSAGES, 2):
            send_message(session.client, number)
            read_message(session.service, number)
            send_message(session.service, number + 1)
            read_message(session.client, number + 1)
    stage.check(deadline=SLOW)


@case(f"a stream of {STREAM_MIB} MiB either way arrives as it was sent")
def _(suite):
    stage = suite.stage("services", kind=ServiceStage)
    noise = random.Random(1).randbytes(BLOCK)
    with Session(stage) as session, concurrent.futures.ThreadPoolExecutor(1) as thread:
        for sender, receiver in ((session.client, session.service),
                                 (session.service, session.client)):
            sending = thread.submit(send_blocks, sender, bytearray(noise), STREAM_MIB)
            read_blocks(receiver, bytearray(noise), STREAM_MIB)
            sending.result()
    stage.check(deadline=SLOW)

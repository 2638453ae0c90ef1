"""Both programs at the hands of somebody who speaks the frames of services, well or badly."""

import random
import socket
import struct

import channel
from channel import MAX_STREAM, Type, frame, hello, mem_write, open_device, open_memory, open_socket
from channel import FILE, open_event, stream_data
from frames import ENDS, GOES_ON
from harness import Failure, case_list, check
from opaque import ROOT, SIDES, HostileGuest, HostileHost, ServiceStage, read_exactly, receive
from opaque import close_all, read_to_end
from service_frames import SHARED_TABLES, TABLES, one, valid_frames

CASES, case = case_list("hostile services")


def stage_of(suite):
    return suite.stage("services", channel=channel.Interposer, kind=ServiceStage)


def sharing_stage_of(suite):
    return suite.stage("sharing", channel=channel.Interposer, kind=ServiceStage,
                       host=["--shm-mode", "diff"], guest=["--shm-mode", "diff"])


def add(name, function, sides=SIDES, stage_of=stage_of):
    """function(stage, side) is run against each program, and all is over after it."""
    for side in sides:
        @case(f"{side.program}: {name}")
        def _(suite, side=side):
            stage = stage_of(suite)
            function(stage, side)
            stage.check(deadline=20)


def judge(peer, expected, what):
    try:
        peer.sync()
        ended = False
    except (EOFError, OSError) as end:
        check(not isinstance(end, TimeoutError), f"{what}: neither an answer nor an end")
        ended = True
    check(not (ended and expected == GOES_ON), f"{what}: ends: {peer.end.reason()!r}")
    check(ended or expected != ENDS, f"{what}: goes on")
    if ended:
        try:
            peer.expect_end()
        except Failure as failure:
            raise Failure(f"{what}: {failure}")
    else:
        peer.finish()


def run_table(prefix, table):
    def run(stage, side):
        for name, expected, make in table():
            with side(stage, "stream") as peer:
                peer.end.send(make(peer))
                judge(peer, expected, f"{prefix} {name}".strip())
            stage.witness.sync()
    return run


for tables, place in ((TABLES, stage_of), (SHARED_TABLES, sharing_stage_of)):
    for prefix, table in tables:
        what = table.__name__.replace("_rows", "")
        add(f"each frame of «{what}» ends its session or is taken", run_table(prefix, table),
            stage_of=place)

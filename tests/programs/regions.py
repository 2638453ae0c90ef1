"""The memory that a guest on the host's kernel shares with it, and guests that use it badly."""

import fcntl
import os
import struct

import channel
from channel import FILE, POOL, Type, frame, hello, mem_resize, mem_write, open_memory, region
from hostile_channel import judge
from frames import ENDS, GOES_ON
from harness import Skip, case_list, check
from peers import BINDS, PRELUDE, SHM, HostileGuest
from surroundings import VSOCK
from wayland import message

CASES, case = case_list("regions")
FEATURE = 4
STEP = 65536
ROWS = 64
SIZE = 0x7fff0000  # the most that is used, less than twice --max-memory
HOSTS = (SIZE // STEP - SIZE // STEP // 4) * STEP  # where the host's part begins, if both know of it
SHRINK_GROW_SEAL = 7


class RegionGuest(HostileGuest):
    """Has what the host shares as region_fd, if anything."""

    def __init__(self, stage, features=FEATURE, boot_id=None):
        super().__init__(stage, prepared=False)
        self.end.fds = []
        boot_id = channel.this_boot_id() if boot_id is None else boot_id
        self.end.send(hello(features=features, boot_id=boot_id) + channel.messages(PRELUDE))
        self.end.wait_for(lambda: b"wl_output" in self.end.message_bytes())
        self.end.send(channel.messages(BINDS))
        self.features = struct.unpack_from("<IHHI", self.end.got(Type.WELCOME)[0][3])[3]
        self.sync()

    def close(self):
        super().close()
        for fd in self.end.fds:
            os.close(fd)


def stage_of(suite, name="plain", **options):
    if VSOCK:
        raise Skip("the channel is no UNIX socket")
    return suite.stage(name, **options)


def identity(fd):
    return os.fstat(fd).st_dev, os.fstat(fd).st_ino


@case("host: a region comes with WELCOME, and keeps its size")
def _(suite):
    stage = stage_of(suite)
    with RegionGuest(stage) as guest, RegionGuest(stage) as other:
        check(guest.features & FEATURE, "WELCOME does not tell of the region")
        check(len(guest.end.fds) == 1, f"{len(guest.end.fds)} fds came with it")
        fd = guest.end.fds[0]
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        check(seals & SHRINK_GROW_SEAL == SHRINK_GROW_SEAL, f"its seals are {seals:#x}")
        check(os.fstat(fd).st_size == SIZE, f"it has {os.fstat(fd).st_size} bytes")
        check(os.fstat(fd).st_blocks == 0, "it takes memory before it is used")
        check(identity(fd) != identity(other.end.fds[0]), "two guests share one region")
    stage.check()


@case("host: a guest that does not ask, or runs elsewhere, gets no region")
def _(suite):
    stage = stage_of(suite)
    for options in ({"features": 0}, {"boot_id": bytes(16)}, {"boot_id": bytes(range(16))}):
        with RegionGuest(stage, **options) as guest:
            check(not guest.end.fds, f"{options}: a region comes")
            check(not guest.features & FEATURE, f"{options}: WELCOME tells of one")
            guest.end.send(open_memory(1, POOL, 0) + region(Type.REGION_MAP, id=1))
            judge(guest, ENDS, "REGION_MAP")
    stage.check()


@case("host: --region none, and --record, share nothing")
def _(suite):
    for options in (["--region", "none"], ["--record", suite.path("recording")]):
        stage = stage_of(suite, f"region {options[0]}", host=options)
        with RegionGuest(stage) as guest:
            check(not guest.end.fds and not guest.features & FEATURE, f"{options}: a region comes")
        stage.check()


def pool(id=1, offset=0, length=STEP):
    return open_memory(id, POOL, 0) + region(Type.REGION_MAP, offset, length, id)


def named(guest, id=1, size=4096):
    """create_pool of what is open."""
    new = guest.next_id
    guest.next_id += 1
    return channel.messages(message(SHM, 0, new, size), [id]), new


HOSTILE = (
    ("a range and its end", GOES_ON, pool() + frame(Type.CLOSE, id=1) + region(Type.REGION_UNMAP)),
    ("a range of all there is", GOES_ON, pool(length=SIZE)),
    ("a range that begins within a page", ENDS, pool(offset=1)),
    ("a range that ends within a page", ENDS, pool(length=STEP + 1)),
    ("a range of nothing", ENDS, pool(length=0)),
    ("a range past the end", ENDS, pool(offset=SIZE, length=STEP)),
    ("a range whose end overflows", ENDS, pool(offset=(1 << 64) - STEP, length=2 * STEP)),
    ("a length that overflows", ENDS, pool(offset=STEP, length=(1 << 64) - STEP)),
    ("two ranges that are one", ENDS, pool() + pool(2)),
    ("two ranges that overlap", ENDS, pool(1, STEP, 2 * STEP) + pool(2, 0, 2 * STEP)),
    ("two ranges side by side", GOES_ON, pool() + pool(2, STEP)),
    ("a range for a file", ENDS,
     open_memory(1, FILE, 4) + region(Type.REGION_MAP, id=1)),
    ("a range for a pool that has bytes", ENDS,
     open_memory(1, POOL, 4096) + region(Type.REGION_MAP, id=1)),
    ("a range for nothing", ENDS, region(Type.REGION_MAP, id=1)),
    ("a range for the session", ENDS, region(Type.REGION_MAP)),
    ("a range for a pool that is closed", ENDS,
     pool() + frame(Type.CLOSE, id=1) + region(Type.REGION_MAP, STEP, id=1)),
    ("a range that was never mapped, unmapped", ENDS, region(Type.REGION_UNMAP)),
    ("half a range, unmapped", ENDS, pool(length=2 * STEP) + region(Type.REGION_UNMAP)),
    ("a range, unmapped twice", ENDS, pool() + 2 * region(Type.REGION_UNMAP)),
    ("a range that is unmapped too early, mapped again", ENDS,
     pool() + region(Type.REGION_UNMAP) + pool(2)),
    ("an unmapping about a pool", ENDS, pool() + region(Type.REGION_UNMAP, id=1)),
    ("ranges without end", ENDS, open_memory(1, POOL, 0) + b"".join(
        region(Type.REGION_MAP, (n % 30000) * STEP, STEP, 1) for n in range(32000))),
    ("rows for a range", ENDS, pool() + mem_write(1, 0, bytes(16))),
    ("a size for a range", ENDS, pool() + mem_resize(1, 4096)),
)

for name, expected, data in HOSTILE:
    @case(f"host: {name}")
    def _(suite, name=name, expected=expected, data=data):
        stage = stage_of(suite)
        with RegionGuest(stage) as guest:
            guest.end.send(data)
            judge(guest, expected, name)
            check("no region" not in guest.end.reason(), "it is not about the region")
        stage.check()


@case("host: a guest that knows of it has no pools in the host's part")
def _(suite):
    stage = stage_of(suite)
    for offset, length, expected in ((HOSTS - STEP, STEP, GOES_ON), (HOSTS - STEP, 2 * STEP, ENDS),
                                     (HOSTS, STEP, ENDS), (SIZE - STEP, STEP, ENDS)):
        with RegionGuest(stage, features=FEATURE | ROWS) as guest:
            check(guest.features & ROWS, "WELCOME does not have the bit")
            guest.end.send(pool(offset=offset, length=length))
            judge(guest, expected, f"{length} bytes at {offset:#x}")
    stage.check()


@case("host: a guest says once that it has the region, and which part is the host's")
def _(suite):
    stage = stage_of(suite)
    part = (HOSTS, SIZE // STEP * STEP - HOSTS)
    for told, expected in (((part,), GOES_ON), ((part, part), ENDS), (((0, SIZE),), ENDS),
                           (((HOSTS, STEP),), ENDS)):
        with RegionGuest(stage, features=FEATURE | ROWS) as guest:
            guest.end.send(b"".join(region(Type.REGION_MAP, *one) for one in told))
            judge(guest, expected, f"{told}")
    stage.check()


@case("host: a guest tells of no rows in a pool")
def _(suite):
    stage = stage_of(suite)
    with RegionGuest(stage, features=FEATURE | ROWS) as guest:
        guest.end.send(pool() + frame(Type.REGION_ROWS, bytes(32), id=1))
        judge(guest, ENDS, "REGION_ROWS")
    stage.check()


@case("host: a pool whose memfd was given away is not moved to the region")
def _(suite):
    stage = stage_of(suite)
    with RegionGuest(stage) as guest:
        request, _ = named(guest)
        guest.end.send(open_memory(1, POOL, 0) + request + region(Type.REGION_MAP, id=1))
        judge(guest, ENDS, "REGION_MAP")
    stage.check()


@case("host: a pool that is larger than its range, and a buffer beyond it")
def _(suite):
    stage = stage_of(suite)
    for first, later in ((STEP + 1, 0x7fffffff), (STEP, STEP + 1)):
        with RegionGuest(stage) as guest:
            request, new = named(guest, size=first)
            guest.end.send(pool() + request + channel.messages(message(new, 2, later)))
            judge(guest, GOES_ON, f"a pool of {later} bytes")
            buffer = guest.next_id
            guest.next_id += 1
            guest.end.send(channel.messages(message(new, 0, buffer, STEP, 1, 1, 4, 0)))
            guest.sync()
            asked = guest.connection().got("wl_shm_pool", 0)
            check(asked, "the compositor does not hear of the buffer")
            offset = struct.unpack_from("<i", asked[-1], 4)[0]
            check(offset == 0x7fffffff, f"it is told of one at {offset}")
    stage.check()

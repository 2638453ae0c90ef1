"""dma-bufs, by both programs in their sandboxes: a client's are udmabufs, and so are their copies."""

import contextlib
import fcntl
import glob
import hashlib
import itertools
import mmap
import os
import struct

import drm
from channel import HOST_ID, Type, frame, messages
from compositor import GLOBALS, XRGB8888
from harness import SLOW, Skip, Stage, case_list, check, wait_until
from peers import SHM, HostileGuest
from surroundings import LOOPBACK, VSOCK
from virtio_gpu import GpuBuffer, Resolver, open_render_node, resource_of, whole_pages
from wayland import message, take_string

CASES, case = case_list("dma-bufs")
DEVICE = "/dev/udmabuf"
LINK = "/dmabuf:"          # what /proc calls one, with what its maker does
UDMABUF_CREATE = 0x40187542
UDMABUF_FLAGS_CLOEXEC = 1
DMABUF, FEATURE = 9, 2     # of the channel
GLOBAL = "zwp_linux_dmabuf_v1"
WIDTH, HEIGHT, STRIDE = 61, 33, 256
SIZE = STRIDE * HEIGHT
PAGE = mmap.PAGESIZE
BUFFERS = 100               # that come and go


class Buffer:
    """Memory, and a dma-buf of it."""

    stride, offset = STRIDE, 0

    def __init__(self, size=SIZE):
        size = whole_pages(size)
        memory = os.memfd_create("buffer", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(memory, size)
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        self.data = mmap.mmap(memory, size)
        device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
        create = bytearray(struct.pack("=IIQQ", memory, UDMABUF_FLAGS_CLOEXEC, 0, size))
        self.fd = fcntl.ioctl(device, UDMABUF_CREATE, create)
        os.close(device)
        os.close(memory)

    def close(self):
        self.data.close()
        os.close(self.fd)


class Painter:
    """A client with a surface, which shows buffers."""

    def __init__(self, stage):
        self.client = stage.connected_client()
        self.connection = self.client.connection
        self.dmabuf = self.client.bind(GLOBAL)
        compositor = self.client.bind("wl_compositor", 4)
        self.surface = self.client.new_id()
        self.client.request(compositor, 0, self.surface)

    def make(self, buffer):
        params, made = self.client.new_id(), self.client.new_id()
        self.client.request(self.dmabuf, 1, params)
        self.client.request(params, 1, 0, buffer.offset, buffer.stride, 0, 0,
                            fds=[buffer.fd])
        self.client.request(params, 3, made, WIDTH, HEIGHT, XRGB8888, 0)
        self.client.request(params, 0)
        return made

    def show(self, made, *damage):
        self.client.request(self.surface, 1, made, 0, 0)
        self.client.request(self.surface, 9, *damage)
        self.client.request(self.surface, 6)
        self.client.sync(SLOW)

    def destroy(self, made):
        self.client.request(made, 0)
        self.client.sync(SLOW)

    def take_copy(self):
        """The compositor's newest fd: the caller's."""
        self.client.sync(SLOW)
        return self.connection.planes.pop()


OPTIONS = {"globals_": GLOBALS | {GLOBAL: 3}}


def need_device():
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        raise Skip(f"no {DEVICE}")


@contextlib.contextmanager
def staged(suite, **options):
    """Of its own where there are options."""
    need_device()
    if options:
        with Stage(suite, **OPTIONS, **options) as stage:
            yield stage
            stage.check(SLOW)
    else:
        stage = suite.stage("dma-bufs", **OPTIONS)
        yield stage
        stage.check(SLOW)


def contents(fd):
    with mmap.mmap(fd, SIZE, prot=mmap.PROT_READ) as data:
        return data[:]


def copies_of(program):
    """How many dma-bufs its session processes have open."""
    return sum(link.startswith(LINK) for links in program.open_files().values() for link in links)


@case("what a client draws is in the compositor's copy, which is a dma-buf")
def _(suite):
    with staged(suite) as stage, contextlib.closing(Buffer()) as buffer:
        painter = Painter(stage)
        buffer.data[:] = os.urandom(len(buffer.data))
        made = painter.make(buffer)
        painter.show(made, 0, 0, WIDTH, HEIGHT)
        copy = painter.take_copy()
        check(os.readlink(f"/proc/self/fd/{copy}").startswith(LINK), "the copy is a dma-buf")
        shown = contents(copy)
        for row in range(HEIGHT):
            at = row * STRIDE
            check(shown[at:at + 4 * WIDTH] == buffer.data[at:at + 4 * WIDTH], f"row {row}")
        before = shown
        buffer.data[:] = os.urandom(len(buffer.data))
        painter.show(made, 5, 7, 1, 1)
        shown = contents(copy)
        at = 7 * STRIDE + 4 * 5
        check(shown[at:at + 4] == buffer.data[at:at + 4], "the pixel that was damaged")
        check(shown[:at] + shown[at + 4:] == before[:at] + before[at + 4:], "only that one")
        os.close(copy)
        painter.client.close()


@case("a copy goes when the compositor has let it go, and not before")
def _(suite):
    with staged(suite) as stage, contextlib.closing(Buffer()) as buffer:
        painter = Painter(stage)
        made = painter.make(buffer)
        copy = painter.take_copy()
        check(copies_of(stage.host) == 1, "the session has its copy")
        painter.destroy(made)
        check(copies_of(stage.host) == 1, "the compositor still has it")
        os.close(copy)
        wait_until("the session closes it", lambda: copies_of(stage.host) == 0, SLOW)
        painter.client.close()


@case("buffers that come and go leave nothing, and --trace and --stats tell of them")
def _(suite):
    with staged(suite, host=["--stats"], guest=["--trace"]) as stage, contextlib.closing(Buffer()) as buffer:
        painter = Painter(stage)
        for _ in range(BUFFERS):
            made = painter.make(buffer)
            painter.destroy(made)
            os.close(painter.take_copy())
        for program in stage.programs():
            wait_until(f"{program.name} closes them", lambda: copies_of(program) == 0, SLOW)
        check("dma-buf of udmabuf" in stage.guest.errors(), stage.guest.errors()[-800:])
        painter.client.close()
        wait_until("they were counted", lambda: f"{BUFFERS} dma-bufs" in stage.host.errors(), SLOW)


# ---- other protocols ----

DRM, SCREENCOPY, EXPORT = "wl_drm", "zwlr_screencopy_manager_v1", "zwlr_export_dmabuf_manager_v1"
LINEAR = (0, 0)


@contextlib.contextmanager
def painting(suite, globals_, allowed=()):
    """A client, whose session has these globals, too."""
    need_device()
    host = [word for name in allowed for word in ("--allow", name)]
    with Stage(suite, globals_=GLOBALS | {GLOBAL: 3} | globals_, host=host) as stage:
        painter = Painter(stage)
        yield painter
        painter.client.close()
        stage.check(SLOW)


def rows_of(data):
    return [data[at:at + 4 * WIDTH] for at in range(0, SIZE, STRIDE)]


@case("wl_drm's buffers are right, and its device is the guest's")
def _(suite):
    if not glob.glob("/dev/dri/renderD*"):
        raise Skip("no render node")
    with painting(suite, {DRM: 2}) as painter, contextlib.closing(Buffer()) as buffer:
        client = painter.client
        drm_id = client.bind(DRM)
        client.sync(SLOW)
        made = client.new_id()
        path = take_string(client.got(drm_id, 0)[0], 0)[0]
        check(path in glob.glob("/dev/dri/renderD*"), path)
        buffer.data[:] = os.urandom(len(buffer.data))
        client.request(drm_id, 3, made, WIDTH, HEIGHT, XRGB8888, 0, STRIDE, 0, 0, 0, 0,
                       fds=[buffer.fd])
        painter.show(made, 0, 0, WIDTH, HEIGHT)
        copy = painter.take_copy()
        check(rows_of(contents(copy)) == rows_of(buffer.data), "what the compositor has")
        os.close(copy)


@case("a capture is in the client's dma-buf when it is ready")
def _(suite):
    with painting(suite, {}, [SCREENCOPY]) as painter, contextlib.closing(Buffer()) as buffer:
        client, connection = painter.client, painter.connection
        manager, output = client.bind(SCREENCOPY), client.bind("wl_output")
        made, frame_id = painter.make(buffer), client.new_id()
        client.request(manager, 0, frame_id, 0, output)
        client.request(frame_id, 0, made)
        copy = painter.take_copy()
        screen = os.urandom(SIZE)
        with mmap.mmap(copy, SIZE) as data:
            data[:] = screen
        os.close(copy)
        connection.event(frame_id, 2, 0, 0, 0)
        client.wait_for(lambda: client.got(frame_id, 2), SLOW)
        check(rows_of(buffer.data) == rows_of(screen), "what the client has")


@case("a client gets a copy of a screen's dma-buf, which is one")
def _(suite):
    with painting(suite, {EXPORT: 1}, [EXPORT]) as painter, \
            contextlib.closing(Buffer()) as screen:
        client, connection = painter.client, painter.connection
        manager, output = client.bind(EXPORT), client.bind("wl_output")
        frame_id = client.new_id()
        client.request(manager, 0, frame_id, 0, output)
        client.sync(SLOW)
        screen.data[:] = os.urandom(len(screen.data))
        connection.event(frame_id, 0, WIDTH, HEIGHT, 0, 0, 0, 0, XRGB8888, *LINEAR, 1)
        connection.event(frame_id, 1, 0, SIZE, 0, STRIDE, 0, fds=[screen.fd])
        connection.event(frame_id, 2, 0, 0, 0)
        client.wait_for(lambda: client.got(frame_id, 2), SLOW)
        copy = client.fds.pop()
        check(os.readlink(f"/proc/self/fd/{copy}").startswith(LINK), "the copy is a dma-buf")
        check(rows_of(contents(copy)) == rows_of(screen.data), "what the client has")
        os.close(copy)


# ---- devices, and what draws with them ----

RECTANGLES = ((0, 0, WIDTH, HEIGHT, (10, 20, 30)), (5, 7, 20, 11, (200, 100, 50)),
              (WIDTH - 3, HEIGHT - 1, 3, 1, (255, 0, 255)))


def show(painter, picture):
    """Has a client's picture shown; the colours that the compositor has of it then, and whether it
    has the client's own memory."""
    made = painter.make(picture)
    painter.show(made, 0, 0, WIDTH, HEIGHT)
    with contextlib.closing(drm.Picture(painter.take_copy(), picture.stride,
                                        picture.offset)) as copy:
        seen, is_own = colours(copy), same(copy.fd, picture.fd)
    painter.destroy(made)
    return seen, is_own


def same(a, b):
    return os.fstat(a).st_ino == os.fstat(b).st_ino


def filled(rectangles):
    """Rows of (r, g, b)."""
    rows = [[None] * WIDTH for _ in range(HEIGHT)]
    for x, y, width, height, colour in rectangles:
        for row in rows[y:y + height]:
            row[x:x + width] = [colour] * width
    return rows


def colours(picture):
    """The same of a picture."""
    return [[(row[at + 2], row[at + 1], row[at]) for at in range(0, len(row), 4)]
            for row in picture.rows(WIDTH, HEIGHT)]


def digest(rows):
    return hashlib.sha256(repr(rows).encode()).hexdigest()


@contextlib.contextmanager
def card_of(driver):
    card = drm.open_card(driver)
    try:
        yield card
    finally:
        os.close(card)


# Of a card: pictures, each with the colours that are to be seen.

def noises(make):
    for _ in range(3):
        with contextlib.closing(make()) as picture:
            painted = colours(picture)
            check(painted[0] != painted[1], "there is something to be seen")
            yield picture, painted


def dumb_buffers(card):
    yield from noises(lambda: drm.Dumb(card, WIDTH, HEIGHT))


def gbm_buffers(card):
    with contextlib.closing(drm.Gbm(card)) as gbm:
        yield from noises(lambda: gbm.paint(WIDTH, HEIGHT))


def egl_buffers(card):
    with contextlib.closing(drm.Gbm(card)) as gbm, \
            contextlib.closing(drm.Egl(gbm, WIDTH, HEIGHT)) as egl:
        for n in range(1, 1 + len(RECTANGLES)):
            with contextlib.closing(egl.draw(RECTANGLES[:n])) as picture:
                yield picture, filled(RECTANGLES[:n])


PICTURES = {"dumb buffers": dumb_buffers, "GBM's buffers": gbm_buffers,
            "buffers that OpenGL ES has drawn": egl_buffers}

for driver, (kind, pictures) in itertools.product(("vgem", "virtio_gpu"), PICTURES.items()):
    @case(f"{driver}: {kind} are shown right")
    def _(suite, driver=driver, pictures=pictures):
        with card_of(driver) as card, staged(suite) as stage:
            painter = Painter(stage)
            for picture, painted in pictures(card):
                check(show(painter, picture) == (painted, False), "what the compositor has")
            painter.client.close()


# ---- buffers of the GPU ----

@contextlib.contextmanager
def resolved(suite, path):
    """A stage with a resolver at path, and a render node."""
    need_device()
    node = open_render_node()
    if node is None:
        raise Skip("no virtio-gpu")
    one_vm = ["--allow-cid", str(LOOPBACK)] if VSOCK else []
    options = {"host": ["--stats", "--resolver", f"unix:{path}", *one_vm], "guest": ["--stats"]}
    try:
        with staged(suite, **options) as stage:
            yield stage, node
    finally:
        os.close(node)


@contextlib.contextmanager
def with_gpu(suite, path):
    with resolved(suite, path) as (stage, node), \
            contextlib.closing(GpuBuffer(node, WIDTH, HEIGHT, STRIDE)) as buffer:
        buffer.data[:] = os.urandom(len(buffer.data))
        yield stage, buffer


def check_not_copied(stage, count):
    """What both programs say of a session that is over."""
    for program in (stage.guest, stage.host):
        wait_until("it is counted", lambda: f"{count} of them not copied" in program.errors(),
                   SLOW)
    check("memory    0 bytes sent, 0 received" in stage.host.errors(), stage.host.errors())


@case("a buffer of virtio-gpu is the compositor's own, where the host's resolver knows it")
def _(suite):
    with contextlib.closing(Resolver()) as resolver, \
            with_gpu(suite, resolver.path) as (stage, buffer):
        resolver.know(buffer)
        painter = Painter(stage)
        made = painter.make(buffer)
        painter.show(made, 0, 0, WIDTH, HEIGHT)
        found = painter.take_copy()
        check(same(found, buffer.fd), "the compositor has what the resolver gave")
        check(set(resolver.asked) == {buffer.resource}, f"it was asked for {resolver.asked}")
        os.close(found)
        painter.destroy(made)
        painter.client.close()
        check_not_copied(stage, 1)
        check(f"{4 * WIDTH * HEIGHT} not copied" in stage.guest.errors(), stage.guest.errors())


@case("virtio_gpu: buffers of every kind are the compositor's own, where the host's resolver knows them")
def _(suite):
    with card_of("virtio_gpu") as card, contextlib.closing(Resolver()) as resolver, \
            resolved(suite, resolver.path) as (stage, node):
        painter = Painter(stage)
        count = 0
        for kind, pictures in PICTURES.items():
            for picture, painted in pictures(card):
                picture.resource = resource_of(node, picture.fd)
                resolver.know(picture)
                check(show(painter, picture) == (painted, True), f"what the compositor has: {kind}")
                count += 1
        painter.client.close()
        check_not_copied(stage, count)


@case("one that the resolver does not know cannot be shown")
def _(suite):
    with contextlib.closing(Resolver()) as resolver, \
            with_gpu(suite, resolver.path) as (stage, buffer):
        client = stage.connected_client()
        dmabuf = client.bind(GLOBAL)
        params = client.new_id()
        client.request(dmabuf, 1, params)
        client.request(params, 1, 0, 0, STRIDE, 0, 0, fds=[buffer.fd])
        client.request(params, 2, WIDTH, HEIGHT, XRGB8888, 0)
        client.sync(SLOW)
        check(set(resolver.asked) == {buffer.resource}, f"it was asked for {resolver.asked}")
        check("it is not known" in stage.host.errors(), stage.host.errors())
        client.close()


@case("without a resolver, buffers of virtio-gpu are copied")
def _(suite):
    with with_gpu(suite, "/nowhere") as (stage, buffer):
        painter = Painter(stage)
        made = painter.make(buffer)
        painter.show(made, 0, 0, WIDTH, HEIGHT)
        copy = painter.take_copy()
        check(not same(copy, buffer.fd), "the compositor has a copy")
        check(contents(copy)[:4 * WIDTH] == buffer.data[:4 * WIDTH], "of the same bytes")
        check("cannot connect to the resolver" in stage.host.errors(), stage.host.errors())
        os.close(copy)
        painter.client.close()


def is_offered(stage):
    with stage.client() as client:
        client.get_registry()
        client.sync(SLOW)
        return GLOBAL in client.globals


for program in ("host", "guest"):
    @case(f"--no-dmabuf of the {program} hides the global")
    def _(suite, program=program):
        with staged(suite) as stage:
            check(is_offered(stage), "it is there without the option")
        with staged(suite, **{program: ["--no-dmabuf"]}) as stage:
            check(not is_offered(stage), "it is hidden")


# ---- a guest that may say anything ----

def open_dmabuf(id, size=SIZE, access=2, plane=0):
    return frame(Type.OPEN, struct.pack("<QII", size, access, plane), id=id, arg=DMABUF)


def pool_of(guest):
    """wl_shm.create_pool of what is no pool."""
    guest.next_id += 1
    return messages(message(SHM, 0, guest.next_id - 1, SIZE), (1,))


HOSTILE = (
    ("with no size", lambda _: open_dmabuf(1, 0)),
    ("larger than the session's memory", lambda _: open_dmabuf(1, 1 << 50)),
    ("of all there is", lambda _: open_dmabuf(1, (1 << 64) - 1)),
    ("for writing only", lambda _: open_dmabuf(1, access=1)),
    ("by a plane that nobody knows", lambda _: open_dmabuf(1, plane=7)),
    ("by a handle, which was not agreed to", lambda _: open_dmabuf(1, plane=1)),
    ("with an id of the host's", lambda _: open_dmabuf(HOST_ID | 1)),
    ("twice", lambda _: 2 * open_dmabuf(1)),
    ("that changes its size", lambda _: (
        open_dmabuf(1) + frame(Type.MEM_RESIZE, struct.pack("<Q", PAGE), id=1))),
    ("that is to be a pool", lambda guest: open_dmabuf(1) + pool_of(guest)),
    ("with rows behind its end", lambda _: (
        open_dmabuf(1) +
        frame(Type.MEM_WRITE, struct.pack("<QIIII", SIZE, 1, 1, 1, 0) + b"x", id=1))),
)

@case("one that makes no sense ends its session")
def _(suite):
    with staged(suite) as stage:
        for name, make in HOSTILE:
            with HostileGuest(stage, features=FEATURE) as guest:
                guest.end.send(make(guest))
                text = guest.end.wait_end()
                check(text and text.isprintable(), f"{name}: the reason is {text!r}")


@case("a guest that did not offer them cannot open any")
def _(suite):
    with staged(suite) as stage, HostileGuest(stage) as guest:
        guest.end.send(open_dmabuf(1))
        guest.expect_end("OPEN of an unknown kind")

"""Weston of Debian's backports, whose OpenGL is drawn by the processor: a compositor that imports real dma-bufs and
needs no GPU. Here, it shows buffers that were made on the machine's virtio-gpu."""

import contextlib
import glob
import os
import shutil
import tempfile

import backports
import dmabufs
import drm
from compositors import Weston as AnyWeston
from processes import Failure, Process, wait_until
from surroundings import LOOPBACK, Channel
from virtio_gpu import Resolver, open_render_node, resource_of
from window import Toplevel

PACKAGES = ("weston", "libegl-mesa0", "libgl1-mesa-dri", "libgbm1")
SIZE = dmabufs.WIDTH, dmabufs.HEIGHT  # of the screen, too
# It takes the first device that it finds, and then only what that has made: it must not find one.
HIDE = 'mkdir -p /dev/dri && mount -t tmpfs none /dev/dri && exec "$@"'


def get_weston():
    """The tree that its packages were unpacked into, with what they need and is not installed here."""
    return backports.cached("weston", (), fill)


def fill(new, scratch):
    release = backports.release()
    apt = backports.Apt(scratch, [release, f"{release}-backports"])
    apt.run("apt-get", "-q", "-y", "--download-only", "-t", f"{release}-backports", "install",
            "--reinstall", *PACKAGES)
    for package in glob.glob(os.path.join(apt.archives, "*.deb")):
        backports.run(["dpkg-deb", "-x", package, new])


class Weston(AnyWeston):
    def __init__(self, directory):
        tree = get_weston()
        self.programs = os.path.join(tree, "usr", "bin")
        library, = glob.glob(os.path.join(tree, "usr", "lib", "*-linux-gnu"))
        modules = [path for room in ("libweston-*", "weston")
                   for path in glob.glob(os.path.join(library, room, "*.so"))]
        super().__init__(directory, SIZE, {
            "PATH": os.environ["PATH"], "LD_LIBRARY_PATH": f"{library}:{library}/weston",
            "WESTON_MODULE_MAP": ";".join(f"{os.path.basename(path)}={path}" for path in modules)})

    def start(self):
        self.screenshooter = os.path.join(self.programs, "weston-screenshooter")
        self.display = os.path.join(self.directory, "wayland-weston")
        width, height = self.size
        self.process = Process("weston", [
            "unshare", "--mount", "sh", "-c", HIDE, "sh", os.path.join(self.programs, "weston"),
            "--no-config", "--backend=headless", "--renderer=gl", "--shell=kiosk", "--debug",
            "--idle-time=0", f"--width={width}", f"--height={height}",
            f"--socket={os.path.basename(self.display)}",
        ], {**self.environment, "XDG_RUNTIME_DIR": self.directory}, self.directory)

    def background(self):
        return self.shot()

    def seen(self):
        """Rows of (r, g, b)."""
        return [[tuple(row[at:at + 3]) for at in range(0, len(row), 3)] for row in self.shot().rows]


class Trial:
    """What has to hold, in the order of `tests`, which raise Failure."""

    def __init__(self, build, directory, weston, resolver):
        """With a resolver, buffers are named, else copied."""
        self.weston, self.resolver = weston, resolver
        self.count = 0
        channel = Channel(os.path.join(directory, "channel"))
        options = ["--resolver", f"unix:{resolver.path}", "--allow-cid", str(LOOPBACK)] \
            if resolver else []
        self.host = self.start(build, directory, "host", [
            "--listen", channel.listen, "--compositor", weston.display, "--stats", *options])
        display = os.path.join(directory, "wayland-0")
        self.guest = self.start(build, directory, "guest", [
            "--connect", channel.connect, "--display", display])
        self.node, self.card = open_render_node(), drm.open_card("virtio_gpu")
        self.window = Toplevel(display)

    @staticmethod
    def start(build, directory, name, options):
        program = Process(f"fdferry-{name}", [
            os.path.join(build, f"{name}-proxy", f"fdferry-{name}"), "--print-ready", *options],
            {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": directory}, directory)
        wait_until(f"fdferry-{name} is ready", lambda: "READY" in program.output())
        return program

    def compare(self, pictures):
        for picture, painted in pictures(self.card):
            if self.resolver:
                picture.resource = resource_of(self.node, picture.fd)
                self.resolver.know(picture)
            made = self.window.buffer_of(picture, *SIZE)
            self.window.show(made, *SIZE)
            self.count += 1
            wait_until("the screen shows it", lambda: self.weston.seen() == painted)
            self.window.destroy(made)

    def dumb_buffers_are_shown_right(self):
        self.compare(dmabufs.dumb_buffers)

    def buffers_of_gbm_are_shown_right(self):
        self.compare(dmabufs.gbm_buffers)

    def what_opengl_es_has_drawn_is_shown_right(self):
        self.compare(dmabufs.egl_buffers)

    def only_copies_have_gone_over_the_channel(self):
        self.window.client.close()
        wait_until("the host has counted", lambda: "session 1\n" in self.host.output())
        said = self.host.output()
        uncopied = f"{self.count} of them not copied" in said, \
            "memory    0 bytes sent, 0 received" in said
        if f"{self.count} dma-bufs" not in said or set(uncopied) != {self.resolver is not None}:
            raise Failure(said)

    tests = (dumb_buffers_are_shown_right, buffers_of_gbm_are_shown_right,
             what_opengl_es_has_drawn_is_shown_right, only_copies_have_gone_over_the_channel)

    def said(self):
        """By the programs, for a test that has failed."""
        return "\n".join(f"{program.name}: {line}" for program in (self.host, self.guest, self.weston.process)
                         for line in program.output().splitlines()[-8:])

    def close(self):
        self.window.client.close()
        os.close(self.node)
        os.close(self.card)
        self.guest.stop()
        self.host.stop()


def run(build, add):
    """add(test, trial, way) calls the test, notes how it ended and returns whether that was well."""
    if not os.path.exists(dmabufs.DEVICE):
        raise backports.Missing(f"there is no {dmabufs.DEVICE}")
    with contextlib.ExitStack() as stack:
        directory = tempfile.mkdtemp(prefix="fdferry-weston.")
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        weston = Weston(directory)
        stack.callback(weston.stop)
        resolver = stack.enter_context(contextlib.closing(Resolver()))
        for way, known in (("copied", None), ("by handle", resolver)):
            place = os.path.join(directory, way)
            os.mkdir(place, 0o700)
            with contextlib.closing(Trial(build, place, weston, known)) as trial:
                all(add(test, trial, f"{way}, ") for test in Trial.tests)

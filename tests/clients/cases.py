"""The table of cases: what real clients must show, print, copy and paste alike."""

import dataclasses
import hashlib
import os
import random
import re
from typing import Callable

import moving
import replayed
from compositors import COMPOSITORS
from picture import Picture, count_squares
from processes import DEADLINE, Failure, find_program, wait_until
from surroundings import patient

FILES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "files")

# Where a program that is missing comes from (Debian).
PACKAGES = {
    "weston": "weston",
    "sway": "sway",
    "swaybg": "swaybg",
    "grim": "grim",
    "foot": "foot",
    "wl-copy": "wl-clipboard",
    "wl-paste": "wl-clipboard",
    "wtype": "wtype",
    "wayland-info": "wayland-utils",
    "gtk3-demo": "gtk-3-examples",
    "gtk3-icon-browser": "gtk-3-examples",
    "gtk4-demo": "gtk-4-examples",
    "gtk4-icon-browser": "gtk-4-examples",
    "designer": "qttools5-dev-tools and qtwayland5",
    "chromium": "chromium",
}


@dataclasses.dataclass
class Case:
    name: str
    says: str  # what holds, as a sentence that follows the name
    compositor: str
    run: Callable  # of a Take; returns what both takes must have in common
    needs: tuple
    size: tuple = (640, 480)
    allow: tuple = ()  # globals that the host must be told to allow
    compare: Callable = None  # of both results; returns None or the difference

    def missing(self):
        """None, or what to install before this case can run."""
        for program in [*COMPOSITORS[self.compositor][1], *self.needs]:
            if not find_program(program):
                package = PACKAGES.get(program, "weston")
                return f"{program} is not installed (package {package})"
        return None

    def difference(self, first, second):
        return (self.compare or plain_difference)(first, second)


def plain_difference(first, second):
    if isinstance(first, Picture):
        return first.difference(second)
    return None if first == second else f"{first!r} and {second!r}"


# Windows that stand still: the screens are equal, pixel by pixel.

def window(command):
    def run(take):
        take.start([word.format(files=FILES, dir=take.directory) for word in command])
        return take.window(take.expected)
    return run


CHROMIUM = [
    "chromium", "--ozone-platform=wayland", "--no-sandbox", "--test-type", "--disable-gpu",
    "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--password-store=basic",
    "--user-data-dir={dir}/chromium", "file://{files}/page.html",
]
SMALL, LARGE = (640, 480), (1024, 768)
STILL_WINDOWS = [
    # compositor, size, command
    ("weston", SMALL, ["weston-eventdemo"]),
    ("weston", SMALL, ["weston-clickdot"]),
    ("weston", SMALL, ["weston-cliptest"]),
    ("weston", SMALL, ["weston-editor"]),
    ("weston", SMALL, ["weston-fullscreen"]),
    ("weston", SMALL, ["weston-image", "{files}/card.png"]),
    ("weston", SMALL, ["weston-resizor"]),
    ("weston", SMALL, ["weston-scaler"]),
    ("weston", SMALL, ["weston-transformed"]),
    ("weston", LARGE, ["weston-terminal", "--shell={files}/shell"]),
    ("sway", SMALL, ["foot", "--config={files}/foot.ini", "{files}/shell"]),
    ("sway", LARGE, ["gtk3-demo"]),
    ("sway", LARGE, ["gtk3-icon-browser"]),
    ("sway", LARGE, ["gtk4-demo"]),
    ("sway", LARGE, ["gtk4-icon-browser"]),
    ("sway", LARGE, ["designer"]),
    ("sway", LARGE, CHROMIUM),
]


def subsurfaces(take):
    """Synchronized, without GL: only its two spinners depend on the time of the start."""
    take.start(["weston-subsurfaces", "-r1", "-n"])
    return take.window()


def differ_in_spinners(first, second):
    """Tolerates what differs within two boxes of the size of a spinner."""
    if count_squares(first.differing(second), side=70) > 2:
        return f"more than two spinners: {first.difference(second)}"
    return None


# Windows that move: see moving.py.

MOVING_WINDOWS = [
    # name, sentence, program, run
    ("simple-shm", "paints every frame as of one moment", "weston-simple-shm", moving.simple_shm),
    *((" ".join(["simple-damage", *options]), "leaves no trace of its moving ball",
       "weston-simple-damage", moving.simple_damage(*options))
      for options in (
          [],
          ["--scale=2"],
          ["--transform=90"],
          ["--use-viewport"],
          ["--use-damage-buffer"],
          ["--rotating-transform"],
          ["--use-viewport", "--scale=2", "--use-damage-buffer", "--transform=flipped-90"],
          ["--rotating-transform", "--scale=3", "--use-damage-buffer"],
      )),
]


# The globals that clients see.

PRIVILEGED, UNKNOWN = "denied unless allowed", "may be hidden"
FILTER = {
    "weston_debug_v1": PRIVILEGED,
    "weston_desktop_shell": PRIVILEGED,
    "weston_screenshooter": PRIVILEGED,
    "zwp_input_panel_v1": PRIVILEGED,
    "zwp_input_method_manager_v2": PRIVILEGED,
    "zwp_virtual_keyboard_manager_v1": PRIVILEGED,
    "zwlr_data_control_manager_v1": PRIVILEGED,
    "zwlr_export_dmabuf_manager_v1": PRIVILEGED,
    "zwlr_foreign_toplevel_manager_v1": PRIVILEGED,
    "zwlr_gamma_control_manager_v1": PRIVILEGED,
    "zwlr_input_inhibit_manager_v1": PRIVILEGED,
    "zwlr_layer_shell_v1": PRIVILEGED,
    "zwlr_output_manager_v1": PRIVILEGED,
    "zwlr_output_power_manager_v1": PRIVILEGED,
    "zwlr_screencopy_manager_v1": PRIVILEGED,
    "zwlr_virtual_pointer_manager_v1": PRIVILEGED,
    "org_kde_kwin_idle": PRIVILEGED,
    "ext_idle_notifier_v1": PRIVILEGED,
    "org_kde_kwin_server_decoration_manager": UNKNOWN,
    "zwp_linux_dmabuf_v1": UNKNOWN,
    "wl_drm": UNKNOWN,
    "zwp_linux_explicit_synchronization_v1": UNKNOWN,
}
REWRITTEN = {"wp_presentation"}  # the clock is one that the client has
GLOBAL = re.compile(r"interface: '(\w+)',\s+version:\s+(\d+)")


def wayland_info(take):
    """{interface: (version, what wayland-info prints of it)}"""
    globals_seen = {}
    for line in take.run(["wayland-info"]).decode().splitlines():
        match = GLOBAL.match(line)
        if match:
            interface = match.group(1)
            globals_seen[interface] = (int(match.group(2)), [])
        else:
            globals_seen[interface][1].append(line)
    return globals_seen


def compare_globals(hidden):
    """`hidden` says of a verdict of FILTER whether it must, may or must not hide a global."""
    def compare(direct, other):
        wrong = [f"{name} is only there through the pair" for name in other.keys() - direct.keys()]
        for name, (version, details) in direct.items():
            rule = hidden.get(FILTER.get(name), "must not")
            if name not in other:
                wrong += [f"{name} is missing"] if rule == "must not" else []
            elif rule == "must":
                wrong.append(f"{name} is not hidden")
            elif other[name][0] > version:
                wrong.append(f"{name} has version {other[name][0]}, directly {version}")
            elif other[name] != (version, details) and other[name][0] == version \
                    and name not in REWRITTEN:
                wrong.append(f"{name} is described differently")
        return "; ".join(wrong) or None
    return compare


SHOWN_BY_DEFAULT = compare_globals({PRIVILEGED: "must", UNKNOWN: "may"})
SHOWN_IF_ALL_ARE_ALLOWED = compare_globals({PRIVILEGED: "may", UNKNOWN: "may"})
GLOBALS = [
    # compositor, sentence, allow, compare
    ("weston", "sees the globals of Weston but the privileged ones", (), SHOWN_BY_DEFAULT),
    ("sway", "sees the globals of sway but the privileged ones", (), SHOWN_BY_DEFAULT),
    ("sway", "sees every global with --allow '*'", ("*",), SHOWN_IF_ALL_ARE_ALLOWED),
]


def presentation(take):
    """Times of presentation follow the commits, on the client's clock."""
    client = take.start(["stdbuf", "-oL", "weston-presentation-shm"])
    commit_to_presented = re.compile(r"^ *\d+: .* c2p +(-?\d+) ms,", re.M)

    def feedback():
        client.check_runs()
        delays = [int(delay) for delay in commit_to_presented.findall(client.output())]
        return delays if len(delays) >= 30 else None
    delays = wait_until("30 times of presentation", feedback)
    if not 0 <= min(delays) <= max(delays) < 1000 * patient(DEADLINE):
        raise Failure(f"frames are shown between {min(delays)} and {max(delays)} ms after commit")
    return "feedback in time"


# Copy and paste. Without data-control, a client needs a keyboard to get at the clipboard.

def with_keyboard(take):
    """A seat has a keyboard as long as this one waits before it types."""
    take.start(["wtype", "-s", "100000000", "x"], display=take.direct)
    wait_until("the seat has a keyboard", lambda: re.search(
        rb"capabilities: .*keyboard", take.run(["wayland-info"], display=take.direct)))


PAYLOADS = {
    "text": ("text/plain;charset=utf-8", "Grüße: zażółć gęślą jaźń, 你好, 🙂\n".encode() * 100),
    "64 MiB": ("application/octet-stream", None),
}


def write_payload(take, payload):
    """Returns the path, the MIME type and the checksum."""
    mime, data = PAYLOADS[payload]
    data = data or random.Random(payload).randbytes(64 << 20)
    path = take.path("payload")
    with open(path, "wb") as file:
        file.write(data)
    return path, mime, hashlib.sha256(data).hexdigest()


def clipboard(payload, source, destination, options=()):
    def run(take):
        ends = {"direct": take.direct, "pair": take.display}
        path, mime, checksum = write_payload(take, payload)
        with_keyboard(take)
        with open(path, "rb") as data:
            take.start(["wl-copy", *options, "--foreground", "--type", mime],
                       display=ends[source], stdin=data)
        wait_until("the copied type is on offer", lambda: mime in offered_types(take, options))
        pasted = take.run(["wl-paste", *options, "--no-newline", "--type", mime],
                          display=ends[destination], deadline=60)
        if hashlib.sha256(pasted).hexdigest() != checksum:
            raise Failure(f"{len(pasted)} bytes are pasted, and not the ones that were copied")
        return checksum
    return run


def offered_types(take, options):
    try:
        return take.run(["wl-paste", *options, "--list-types"], display=take.direct).decode()
    except Failure:
        return ""  # nothing is copied yet


DATA_CONTROL = ("zwlr_data_control_manager_v1",)
ROUTES = [("direct", "pair"), ("pair", "direct"), ("pair", "pair")]
CLIPBOARD = [
    # name, payload, options, allow
    ("clipboard, text", "text", (), ()),
    ("clipboard, 64 MiB", "64 MiB", (), ()),
    ("primary selection, text", "text", ("--primary",), ()),
    ("data-control, text", "text", (), DATA_CONTROL),
    ("data-control, 64 MiB", "64 MiB", (), DATA_CONTROL),
]


# A screenshot taken through the pair shows what a direct one shows.

def screencopy(*options):
    def run(take):
        take.start(["foot", f"--config={FILES}/foot.ini", f"{FILES}/shell"], display=take.direct)
        take.window()
        command = ["grim", *options, "-t", "ppm", "-"]
        direct = Picture(take.run(command, display=take.direct))
        through = Picture(take.run(command))
        if through != direct:
            direct.save(take.path("grim-direct.png"))
            through.save(take.path("grim-through.png"))
            raise Failure(through.difference(direct))
        return through
    return run


# Keys typed by wtype, which makes a keymap of its own for every text, arrive in foot.

TYPED = "Grüße an fdferry: zażółć, 12 € & (you)?"


def typing(typist):
    def run(take):
        ends = {"direct": take.direct, "pair": take.display}
        with_keyboard(take)
        path = take.path("typed")
        take.start(["foot", f"--config={FILES}/foot.ini", "sh", "-c",
                    'stty -echo; echo ready; IFS= read -r line; printf %s "$line" >"$0.part"; '
                    'mv "$0.part" "$0"; exec sleep 1000000', path])
        take.window()
        take.run(["wtype", "-d", "5", f"{TYPED}\n"], display=ends[typist])
        wait_until("the line that was typed", lambda: os.path.exists(path))
        with open(path) as file:
            typed = file.read()
        if typed != TYPED:
            raise Failure(f"{typed!r} arrives, not {TYPED!r}")
        return typed
    return run


# What was recorded, played by fdferry-guest: see replayed.py.

REPLAYS = [
    ("weston", LARGE, ["weston-terminal", "--shell={files}/shell"]),
    ("weston", SMALL, ["weston-clickdot"]),
    ("sway", SMALL, ["foot", "--config={files}/foot.ini", "{files}/shell"]),
]
MUTATIONS = [
    ("weston", SMALL, ["weston-clickdot"]),
    ("sway", SMALL, ["foot", "--config={files}/foot.ini", "{files}/shell"]),
]


def all_cases():
    def short(command):
        return os.path.basename(command[0])

    for compositor, size, command in STILL_WINDOWS:
        yield Case(short(command), "looks the same", compositor, window(command),
                   (command[0],), size=size)
    yield Case("weston-subsurfaces", "looks the same but for its spinners", "weston", subsurfaces,
               ("weston-subsurfaces",), compare=differ_in_spinners)
    for name, says, program, run in MOVING_WINDOWS:
        yield Case(name, says, "weston", run, (program,), size=(320, 260))
    yield Case("presentation-shm", "is told when its frames were shown", "weston", presentation,
               ("weston-presentation-shm",))
    for compositor, says, allow, compare in GLOBALS:
        yield Case("wayland-info", says, compositor, wayland_info, ("wayland-info",),
                   allow=allow, compare=compare)
    for name, payload, options, allow in CLIPBOARD:
        for source, destination in ROUTES:
            yield Case(name, f"is copied {source} and pasted {destination}", "sway",
                       clipboard(payload, source, destination, options),
                       ("wl-copy", "wl-paste", "wtype", "wayland-info"), allow=allow)
    for options in ([], ["-g", "37,21 301x203"]):
        yield Case(" ".join(["grim", *options]), "takes the same screenshot", "sway",
                   screencopy(*options), ("foot",), allow=("zwlr_screencopy_manager_v1",))
    for typist in ("direct", "pair"):
        yield Case("wtype", f"types into foot ({typist} → pair)", "sway", typing(typist),
                   ("foot", "wtype", "wayland-info"), allow=("zwp_virtual_keyboard_manager_v1",))
    for compositor, size, command in REPLAYS:
        yield Case(f"replay of {command[0]}", f"looks the same on {compositor}", compositor,
                   replayed.window(compositor, size, command, FILES), (command[0],), size=size)
    for compositor, size, command in MUTATIONS:
        yield Case(f"{command[0]}, mutated", f"leaves {compositor} and the host alive", compositor,
                   replayed.mutations(compositor, size, command, FILES), (command[0],), size=size)

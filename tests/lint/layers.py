"""Which room includes which: the layer table of common/DESIGN.md.

Besides: a source includes its own header first, and only common/base/scm.c speaks SCM_RIGHTS.
"""

import re

import sources

# What each room may include, itself besides.
LAYERS = {
    "protocol/wayland": (),
    "protocol/channel": (),
    "base": (),
    "wire": ("base", "protocol/wayland"),
    "channel": ("base", "protocol/channel"),
    "fdpass": ("base", "wire", "channel", "protocol/channel"),
    "relay": ("base", "wire", "channel", "fdpass", "protocol/channel"),
    "program": ("base", "wire", "channel", "fdpass", "relay", "protocol/channel"),
}
LAYERS["guest-proxy"] = (*LAYERS["program"], "program")
LAYERS["host-proxy"] = (*LAYERS["guest-proxy"], "protocol/wayland")  # it is a client, too

INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)
COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)


def room_of(path):
    """path is as an #include has it: below common/, or below the root."""
    parts = path.split("/")
    if parts[0] == "protocol" and len(parts) > 1:
        return "protocol/" + parts[1].removesuffix(".h").removesuffix(".c")
    return parts[0]


def check(path):
    name = path.as_posix().removeprefix("common/")
    room = room_of(name)
    if room not in LAYERS:
        return []
    text = COMMENT.sub("", (sources.ROOT / path).read_text())
    included = INCLUDE.findall(text)
    problems = [
        f"{path}: includes {other}, but {room} is not above {room_of(other)}"
        for other in included
        if room_of(other) != room and room_of(other) not in LAYERS[room]
    ]
    own = path.with_suffix(".h")
    if path.suffix == ".c" and (sources.ROOT / own).is_file():
        if included[:1] != [name.removesuffix(".c") + ".h"]:
            problems.append(f"{path}: does not include its own header first")
    if "SCM_RIGHTS" in text and name != "base/scm.c":
        problems.append(f"{path}: speaks SCM_RIGHTS, which base/scm.c is for")
    return problems


def unknown_rooms():
    tops = ("common", "guest-proxy", "host-proxy", "protocol")
    for path in sources.files(".c", ".h"):
        name = path.as_posix().removeprefix("common/")
        if path.parts[0] in tops and room_of(name) not in LAYERS:
            yield f"{path}: in a room that the table does not have"


problems = list(unknown_rooms())
for path in sources.files(".c", ".h"):
    problems += check(path)
sources.report(problems)

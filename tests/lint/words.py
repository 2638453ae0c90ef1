"""What no file has: words of unfinished work, assert(false), a last line without its newline, and
header guards that are not the header's path."""

import re

import sources

# Put together, so that this file does not have them.
UNFINISHED = re.compile(r"\b(" + "|".join(("TO" "DO", "FIX" "ME", "X" "XX")) + r")\b")
ASSERT_FALSE = re.compile(r"\bassert\s*\(\s*(false|0)\s*\)")


def guard_of(path):
    name = path.as_posix().removeprefix("common/")
    return re.sub(r"[^A-Za-z0-9]", "_", name).upper()


def check(path):
    data = (sources.ROOT / path).read_bytes()
    if b"\0" in data or "corpus" in path.parts:
        return []  # a picture, or any bytes
    problems = []
    if data and not data.endswith(b"\n"):
        problems.append(f"{path}: does not end with a newline")
    text = data.decode(errors="replace")
    for number, line in enumerate(text.splitlines(), 1):
        for word in UNFINISHED.findall(line):
            problems.append(f"{path}:{number}: {word}")
        if path.suffix in (".c", ".h") and ASSERT_FALSE.search(line):
            problems.append(f"{path}:{number}: {line.strip()}")
    if path.suffix == ".h":
        guard = guard_of(path)
        if not text.startswith(f"#ifndef {guard}\n#define {guard}\n"):
            problems.append(f"{path}: does not begin with its guard {guard}")
        if not text.endswith("\n#endif\n"):
            problems.append(f"{path}: does not end with its guard")
    return problems


sources.report([problem for path in sources.files() for problem in check(path)])

"""The project's own files, for the lints beside this one."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
SKIP = 77  # meson's exit status for a test that cannot be run here


def walk():
    for path, dirs, names in os.walk(ROOT):
        here = pathlib.Path(path)
        dirs[:] = [
            d
            for d in dirs
            if d not in (".git", "__pycache__") and not (here / d / "meson-private").is_dir()
        ]
        yield from ((here / name).relative_to(ROOT) for name in names)


def files(*suffixes):
    """Paths below ROOT, those that git ignores left out; of all suffixes if none is given."""
    git = ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(git, capture_output=True, check=True, text=True).stdout
        paths = [pathlib.Path(name) for name in listed.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        paths = list(walk())  # a tree without its history
    return sorted(
        {p for p in paths if (not suffixes or p.suffix in suffixes) and (ROOT / p).is_file()}
    )


def report(problems):
    """Prints what is wrong, and ends the program."""
    for problem in problems:
        print(problem)
    sys.exit(1 if problems else 0)

"""Every header compiles alone, twice: headers.py BUILD-DIRECTORY COMPILER...

Include directories and macros are those of the build's compile_commands.json.
"""

import concurrent.futures
import json
import os
import pathlib
import shlex
import subprocess
import sys

import sources

build, compiler = pathlib.Path(sys.argv[1]), sys.argv[2:]
WARNINGS = ["-Wall", "-Wextra", "-Werror", "-Wno-unused-function"]


def flags():
    """In the order they are first met. The room's own directory comes with its header."""
    commands = build / "compile_commands.json"
    if not commands.is_file():
        print("no compile_commands.json: the build was not made by ninja")
        sys.exit(sources.SKIP)
    found = {}
    for entry in json.loads(commands.read_text()):
        words = shlex.split(entry["command"])
        for word, following in zip(words, words[1:] + [""]):
            if word.startswith(("-I", "-D")):
                found[(word,)] = None
            elif word == "-isystem":
                found[(word, following)] = None
    return [word for flag in found for word in flag]


def check(header, flags):
    text = f'#include "{sources.ROOT / header}"\n' * 2
    command = [*compiler, "-std=gnu11", "-fsyntax-only", *WARNINGS, *flags, "-x", "c", "-"]
    done = subprocess.run(command, input=text, cwd=build, capture_output=True, text=True)
    return [] if done.returncode == 0 else [f"{header}:\n{done.stderr}"]


flags = flags()
headers = sources.files(".h")
with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    results = pool.map(lambda header: check(header, flags), headers)
    sources.report([problem for result in results for problem in result])

"""The example Mojo peers, directly and through the two programs, with equal results."""

import os
import subprocess
import sys

from harness import COMPLAINT, case_list, check

CASES, case = case_list("mojo")

COMPARE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../examples/mojo/compare")
MINUTES = 5
FORMATS = {"legacy": ("bootstrap", "nested", "introduce"), "normal": ("all",),
           "ipcz": ("bootstrap", "nested", "introduce")}


def add(header, names):
    @case(f"messages with {header} headers, and their handles, are the same through the pair")
    def _(suite):
        arguments = [part for name in names for part in ("--case", name)]
        done = subprocess.run(
            [sys.executable, COMPARE, "--build", suite.build, "--header", header, "--pause-ms",
             "100", *arguments], env=suite.environment(), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            timeout=MINUTES * 60)
        check(done.returncode == 0 and not COMPLAINT.search(done.stdout),
              f"compare ends with {done.returncode}:\n{done.stdout[-3000:]}")
        check("direct and proxied are equal" in done.stdout, done.stdout[-3000:])


for header, names in FORMATS.items():
    add(header, names)

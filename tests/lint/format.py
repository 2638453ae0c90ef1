"""clang-format has nothing to say about any C file: format.py CLANG-FORMAT

Another major version than the one .clang-format is for formats otherwise; it is not asked.
"""

import re
import subprocess
import sys

import sources

MAJOR = 14

if len(sys.argv) < 2 or not sys.argv[1]:
    print("skipped: there is no clang-format")
    sys.exit(sources.SKIP)
command = sys.argv[1]
version = subprocess.run([command, "--version"], capture_output=True, text=True).stdout
found = re.search(r"version (\d+)", version)
if found is None or int(found[1]) != MAJOR:
    print(f"skipped: not clang-format {MAJOR}: {version.strip()}")
    sys.exit(sources.SKIP)

paths = [str(path) for path in sources.files(".c", ".h")]
done = subprocess.run([command, "--dry-run", "--Werror", *paths], cwd=sources.ROOT)
sys.exit(1 if done.returncode != 0 else 0)

"""shellcheck has nothing to say of any shell script. Its path is the argument, or nothing."""

import subprocess
import sys

import sources


def is_script(path):
    with open(sources.ROOT / path, "rb") as file:
        first = file.readline(100)
    return path.suffix == ".sh" or first.startswith(b"#!") and first.split()[-1].endswith(b"sh")


if not sys.argv[1]:
    print("shellcheck is not installed")
    sys.exit(sources.SKIP)
scripts = [str(path) for path in sources.files() if is_script(path)]
done = subprocess.run([sys.argv[1], "--external-sources", "--source-path=SCRIPTDIR", *scripts],
                      cwd=sources.ROOT, check=False)
sys.exit(1 if done.returncode or not scripts else 0)

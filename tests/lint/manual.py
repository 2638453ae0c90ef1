"""What has to be in a man page: every option that --help tells of, and every key of the policy file.

Arguments: the two programs, in the order host, guest.
"""

import re
import subprocess
import sys

import sources

OPTION = re.compile(r"^  --([a-z-]+)", re.MULTILINE)
# A row of a table of options that has a section: {"name", ..., setter, "section"}.
KEY = re.compile(r'\{"([a-z-]+)",[^{}]*?\w*set_\w+,\s*\\?\s*"([a-z]+)"\}')
TABLES = ("host-proxy/options.c", "common/program/options.h")


def read(path):
    return (sources.ROOT / path).read_text()


def missing_options(program, page):
    help_text = subprocess.run([program, "--help"], capture_output=True, text=True, check=True)
    text = read(page)
    for option in OPTION.findall(help_text.stdout):
        if f"*--{option}*" not in text:
            yield f"{page}: does not tell of --{option}"


def policy_sections(text):
    parts = re.split(r"^## \[(\w+)\]$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2]))


def missing_keys(page):
    sections = policy_sections(read(page))
    keys = [key for table in TABLES for key in KEY.findall(read(table))]
    if not keys:
        yield f"no keys were found in {TABLES}"
    for name, section in keys:
        if f"*{name}* = " not in sections.get(section, ""):
            yield f"{page}: does not tell of {name} in [{section}]"


host, guest = sys.argv[1:]
sources.report([
    *missing_options(host, "host-proxy/fdferry-host.1.scd"),
    *missing_options(guest, "guest-proxy/fdferry-guest.1.scd"),
    *missing_keys("host-proxy/fdferry-policy.5.scd"),
])

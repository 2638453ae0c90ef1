"""Clients that were recorded once, and are played by fdferry-guest on a fresh compositor."""

import os
import signal

from compositors import COMPOSITORS, ping
from pair import Proxies
from processes import Failure, Process, signal_group, wait_until
from surroundings import patient

SEEDS = range(1, 21)


def window(compositor, size, command, files):
    """The window that is replayed is the one that the client shows."""
    def run(take):
        words = fill(command, take, files)
        if take.pair is None:
            take.start(words)
            return take.window()
        recording = record(take, compositor, size, words)
        take.processes.append(replay(take, recording, "--hold"))
        return take.window(take.expected)
    return run


def mutations(compositor, size, command, files):
    """Whatever the requests are, the compositor answers others afterwards."""
    def run(take):
        words = fill(command, take, files)
        if take.pair is None:
            take.start(words)
            take.window()
            return "alive"
        recording = record(take, compositor, size, words)
        for seed in SEEDS:
            process = replay(take, recording, "--speed", "max", "--mutate", str(seed))
            status = process.popen.wait(patient(60))
            if status != 0:
                raise Failure(f"seed {seed}: status {status}: {process.output().strip()[-300:]}")
        if not ping(take.display):
            raise Failure("the pair does not answer any more")
        return "alive"
    return run


def fill(command, take, files):
    return [word.format(files=files, dir=take.directory) for word in command]


def replay(take, recording, *options):
    program = os.path.join(take.pair.build, "guest-proxy", "fdferry-guest")
    return Process("replay", [program, "--connect", take.pair.channel.connect,
                              "--replay", recording, "--log-level", "info", *options],
                   take.environment, take.directory)


def record(take, compositor, size, words):
    """Returns the path of a recording of a client that has shown its window and was ended."""
    directory = take.path("recorded")
    os.mkdir(directory, 0o711)
    recording = os.path.join(directory, "session")
    screen = COMPOSITORS[compositor][0](directory, size, take.environment)
    proxies = Proxies(take.pair.build, directory, take.unmarked())
    client = None
    try:
        proxies.start_host("--compositor", screen.display)
        proxies.start_guest("--display", "fdferry-0", "--record", recording)
        display = os.path.join(proxies.directory, "fdferry-0")
        client = Process("recorded", words, take.client_environment(display), directory)
        wait_until("the recorded window", lambda: shows_a_window(screen, take.expected))
        signal_group(client.pid, signal.SIGKILL)  # its window is still there at the end
        client.stop()
        proxies.stop()
    finally:
        if client:
            client.stop(patience=0)
        proxies.kill()
        screen.stop()
    return recording


def shows_a_window(screen, expected):
    picture = screen.shot()
    return picture != screen.empty and (isinstance(expected, str) or picture == expected)

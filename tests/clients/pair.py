"""fdferry-host and fdferry-guest between a client and its compositor."""

import os
import re
import time

from compositors import ping
from processes import Failure, Process, pids_of_session, wait_until
from spares import has_spares
from surroundings import Channel, patient

SANITIZER = re.compile(r"ERROR: \w+Sanitizer.*|\S+: runtime error:.*|.*Assertion .* failed.*")


class Proxies:
    """The two programs as processes; what makes them a pair is up to the class that starts them."""

    def __init__(self, build, directory, environment):
        self.build = build
        self.directory = os.path.join(directory, "pair")
        os.mkdir(self.directory, 0o700)
        self.environment = {**environment, "XDG_RUNTIME_DIR": self.directory}
        self.channel = Channel(f"{self.directory}/chan")
        self.programs = []

    def start_host(self, *options, **process_options):
        path = os.path.join(self.build, "host-proxy", "fdferry-host")
        self.start("host", path, ["--listen", self.channel.listen, *options], **process_options)

    def start_guest(self, *options):
        path = os.path.join(self.build, "guest-proxy", "fdferry-guest")
        self.start("guest", path, ["--connect", self.channel.connect, *options])

    def start(self, name, program, options, **process_options):
        process = Process(name, [program, "--print-ready", *options], self.environment,
                          self.directory, **process_options)
        self.programs.append(process)

        def is_ready():
            process.check_runs()
            return "READY" in process.output().split("\n")
        wait_until(f"{name} prints READY", is_ready, deadline=20)

    def census(self):
        """Of each program: how many processes it has, and how many fds its parent has open."""
        return {program.name: (len(pids_of_session(program.pid)), self.open_fds(program.pid))
                for program in self.programs}

    @staticmethod
    def open_fds(pid):
        """Without the files kept for later clients, of which there is one of each content."""
        directory = f"/proc/{pid}/fd"
        count = 0
        kept = set()
        for name in os.listdir(directory):
            path = f"{directory}/{name}"
            content = None
            try:
                if "memfd:fdferry-file" in os.readlink(path):
                    with open(path, "rb") as file:
                        content = file.read()
            except FileNotFoundError:
                continue  # closed meanwhile
            if content is None or content in kept:
                count += 1
            kept.add(content)
        return count

    def settled_census(self):
        def settled():
            first = self.census()
            time.sleep(patient(0.3))
            at_rest = all(has_spares(program.pid) for program in self.programs)
            return first if at_rest and first == self.census() else None
        return wait_until("the idle pair comes to rest", settled, deadline=20)

    def check_idle(self):
        """Nothing of the clients that have gone may remain."""
        for program in self.programs:
            program.check_runs()
        try:
            wait_until("idle", lambda: self.census() == self.baseline, deadline=15)
        except Failure:
            raise Failure("(processes, fds of the parent) do not return to idle: "
                          f"{self.baseline} before, {self.census()} after")

    def stop(self):
        """Both must end cleanly by SIGTERM, without a complaint of a sanitizer."""
        for program in reversed(self.programs):
            status = program.stop()
            if status != 0:
                raise Failure(f"{program.name} ends with status {status} after SIGTERM")
        if self.complaints():
            raise Failure(self.complaints())

    def complaints(self):
        """What sanitizers and assertions have said."""
        return "; ".join(f"{program.name}: {match.group(0)}" for program in self.programs
                         for match in SANITIZER.finditer(program.output()))

    def kill(self):
        for program in self.programs:
            program.stop(patience=0)


class Pair(Proxies):
    """`display` is the absolute path of the socket that clients use."""

    def __init__(self, build, directory, compositor, environment, allow=()):
        super().__init__(build, directory, environment)
        self.display = os.path.join(self.directory, "fdferry-0")
        try:
            self.start_host("--compositor", compositor,
                            *(word for name in allow for word in ("--allow", name)))
            self.start_guest("--display", "fdferry-0")
            ping(self.display)
            self.baseline = self.settled_census()
        except (Failure, OSError) as failure:
            self.kill()
            raise Failure(f"the pair does not start: {failure}")

"""One trial: a real service, perhaps the pair, and clients that cannot tell the difference."""

import os
import socket
import subprocess

from case import built_path
from pair import Proxies
from processes import MARK, Failure, Process, find_program, kill_marked, wait_until
from surroundings import patient

NOBODY = 65534


class ServicePair(Proxies):
    """`path` is the socket in the guest that clients use instead of the service's own."""

    def __init__(self, build, directory, environment, case, service):
        super().__init__(build, directory, environment)
        self.path = service.guest_path(self.directory)
        if case.host_as_nobody:
            os.chown(self.directory, NOBODY, NOBODY)
        try:
            self.start_host("--service", f"{service.name}=unix:{service.path}", *case.host,
                            unprivileged=case.host_as_nobody)
            self.start_guest("--service", f"{service.name}=unix:{self.path}", *case.guest)
            self.touch()
            self.baseline = self.settled_census()
        except (Failure, OSError) as failure:
            self.kill()
            raise Failure(f"the pair does not start: {failure}\n{self.logs()}")

    def touch(self):
        """The first connection may leave what is kept for the others."""
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self.path)

    def logs(self):
        return "\n".join(f"# {program.name}: {line}" for program in self.programs
                         for line in program.output().splitlines()[-10:])

    def log(self, name):
        return next(program.output() for program in self.programs if program.name == name)


class Trial:
    """`path` is the socket that clients use, `service.path` the service's own."""

    def __init__(self, case, directory, build, through_pair=False, expected=None):
        self.case, self.directory, self.build = case, directory, build
        self.expected = expected  # what the direct trial returned
        self.processes = []
        self.service = self.pair = None
        os.mkdir(directory, 0o711)
        self.environment = self.make_home()
        try:
            self.service = case.service(self)
            self.path = self.service.path
            if through_pair:
                self.pair = ServicePair(build, directory, self.unmarked(), case, self.service)
                self.path = self.pair.path
        except BaseException:
            self.abandon()
            raise

    def make_home(self):
        home = os.path.join(self.directory, "home")
        runtime = os.path.join(self.directory, "clients")
        os.mkdir(home, 0o700)
        os.mkdir(runtime, 0o700)
        return {
            "PATH": os.environ.get("PATH", os.defpath), "HOME": home, "LANG": "C.UTF-8",
            "XDG_RUNTIME_DIR": runtime, "SHELL": "/bin/sh", "PYTHONDONTWRITEBYTECODE": "1",
            MARK: self.directory,
        }

    def unmarked(self):
        """The proxies are looked after by the pair and not killed with the clients."""
        options = {name: value for name, value in os.environ.items() if name.endswith("SAN_OPTIONS")}
        return {**{k: v for k, v in self.environment.items() if k != MARK}, **options}

    def local(self, name):
        return os.path.join(self.directory, name)

    def built(self, program):
        return built_path(self.build, program)

    def start(self, name, command, environment=None):
        """Start a program that ends with the trial; its output is in NAME.log."""
        process = Process(name, command, {**self.environment, **(environment or {})},
                          self.directory)
        self.processes.append(process)
        return process

    def client_environment(self, path=None):
        return {**self.environment, **self.service.client_environment(path or self.path)}

    def client(self, command, path=None):
        """Start a client of the socket of this trial, or of the one given."""
        return self.start(os.path.basename(command[0]), command,
                          self.service.client_environment(path or self.path))

    def try_run(self, command, path=None, deadline=60, environment=None):
        """Run a client to its end: its status, and what it printed."""
        done = self.execute(command, environment or self.client_environment(path), deadline,
                            subprocess.STDOUT)
        return done.returncode, done.stdout.decode(errors="replace")

    def execute(self, command, environment, deadline, stderr):
        try:
            return subprocess.run(
                [find_program(command[0]), *command[1:]], cwd=self.directory, env=environment,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr,
                timeout=patient(deadline), start_new_session=True)
        except subprocess.TimeoutExpired as expired:
            said = (expired.output or b"").decode(errors="replace")[-1000:]
            raise Failure(f"{command[0]} does not end within {deadline} s and has said: {said}")

    def run(self, command, path=None, **options):
        """What a client prints that must end well."""
        status, output = self.try_run(command, path, **options)
        if status != 0:
            raise Failure(f"{' '.join(command)} ends with status {status}: {output[-1000:]}")
        return output

    def run_bytes(self, command, environment, deadline=60):
        """What a program prints on stdout that must end well."""
        done = self.execute(command, environment, deadline, subprocess.DEVNULL)
        if done.returncode != 0:
            raise Failure(f"{command[0]} ends with status {done.returncode}")
        return done.stdout

    def expect_log(self, name, *words):
        """One line of that proxy's log must have all these words."""
        def found():
            return next((line for line in self.pair.log(name).splitlines()
                         if all(word in line for word in words)), None)
        try:
            return wait_until("", found, deadline=10)
        except Failure:
            raise Failure(f"no line of the {name} proxy's log has {words}\n{self.pair.logs()}")

    def finish(self):
        """End everything; with a pair, check that it is idle again and ends cleanly."""
        try:
            for process in reversed(self.processes):
                if process not in self.service.processes:
                    process.stop(patience=2)
            if self.pair:
                self.pair.check_idle()
                self.pair.stop()
        finally:
            self.abandon()

    def abandon(self):
        """End everything without a question."""
        for process in reversed(self.processes):
            process.stop(patience=0)
        if self.pair:
            self.pair.kill()
        if self.service:
            self.service.close()
        kill_marked(self.directory)


class Service:
    """What is served. Subclasses start it in __init__ and set `path`."""

    title = None  # in the names of cases
    name = None  # for --service
    needs = ()
    checks = ()

    def __init__(self, trial):
        self.trial = trial
        self.processes = []

    def start(self, name, command, environment=None):
        process = self.trial.start(name, command, environment)
        self.processes.append(process)
        return process

    def wait_for_socket(self, process, path):
        def listens():
            process.check_runs()
            with socket.socket(socket.AF_UNIX) as probe:
                return probe.connect_ex(path) == 0
        wait_until(f"{process.name} listens", listens, deadline=20)

    def guest_path(self, directory):
        """Where the guest proxy is to listen."""
        return os.path.join(directory, self.name)

    def client_environment(self, path):
        """What a client needs to find the service at path."""
        return {}

    def close(self):
        """What is left when its processes have ended."""

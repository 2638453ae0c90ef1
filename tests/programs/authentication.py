"""Who may have a session: tokens that both sides prove, users, virtual machines."""

import contextlib
import hashlib
import hmac
import os
import signal
import socket
import struct
import subprocess
import sys

import channel
from channel import Type, connect, frame, hello
from harness import DEADLINE, SLOW, Program, Skip, case_list, check, children_of, wait_until
from services import GUEST, HOST, Pair, check_end
from surroundings import VSOCK

CASES, case = case_list("authentication")

TOKEN = b"0123456789abcdef0123456789abcdef"
REFUSED = 6  # the reason AUTHENTICATION
FEATURE_TOKEN = 1
SERVICE = ["--service", "one=unix:{dir}/one"]
CLIENT = ["--service", "one=unix:{dir}/display"]


def write_token(pair, name, token=TOKEN, mode=0o600):
    path = pair.path(name)
    with open(path, "wb", opener=lambda *file: os.open(*file, mode)) as file:
        file.write(token)
    os.chmod(path, mode)
    return path


class TokenPair(Pair):
    """The pair with a service, each program with a token, without one (None), or not started."""

    def __init__(self, suite, host, guest, host_options=()):
        super().__init__(suite)
        self.host_arguments = [*SERVICE, *host_options, *self.token("host-token", host)]
        self.guest_arguments = [*CLIENT, *self.token("guest-token", guest)]
        self.listener = self.service("one")

    def token(self, name, token):
        return [] if token is None else ["--token-file", write_token(self, name, token)]

    def check_refused(self, *texts):
        """Neither a connection to the service nor a byte of the client's gets through."""
        with self.client("display") as client:
            with contextlib.suppress(BrokenPipeError):  # it has ended already
                client.sendall(b"a secret of the client")
            check_end_or_reset(client)
        self.check_told(*texts)
        self.listener.setblocking(False)
        try:
            self.listener.accept()
            check(False, "the service was connected to")
        except BlockingIOError:
            pass
        finally:
            self.listener.settimeout(DEADLINE)


def check_end_or_reset(client):
    with contextlib.suppress(ConnectionResetError):
        check_end(client)


@case("a pair with the same token carries what a pair without one does")
def _(suite):
    for host, guest in ((TOKEN, TOKEN), (TOKEN + b"\n", TOKEN)):
        with TokenPair(suite, host, guest) as pair:
            pair.check_carried(pair.listener, pair.client("display"))
            check(TOKEN.decode() not in pair.host.errors() + pair.guest.errors(), "it was logged")


@case("a side without a token, or with another one, is refused before anything begins")
def _(suite):
    rows = ((TOKEN, None, "the guest has none"), (None, TOKEN, "the host has none"),
            (TOKEN, TOKEN[::-1], "did not prove"))
    for host, guest, text in rows:
        with TokenPair(suite, host, guest) as pair:
            pair.check_refused(text, text)


@case("a token that others may read, or that is not there, is not used")
def _(suite):
    with TokenPair(suite, None, None) as pair:
        rows = ((write_token(pair, "open", mode=0o640), "must have mode 0600"),
                (write_token(pair, "short", b"secret"), "too short"),
                (write_token(pair, "long", bytes(1026)), "too long"),
                (pair.path("none"), "does not exist"), (pair.directory, "not a regular file"))
        for path, text in rows:
            for name, where in ((HOST, ["--listen", "unix:" + pair.path("other")]),
                                (GUEST, ["--connect", pair.chan.connect])):
                services = pair.fill(["--service", "one=unix:{dir}/third"])
                program = Program(suite, name, [*where, *services, "--token-file", path],
                                  ready=False)
                _, status = program.wait()
                check(status == 1, f"{name} {path}: status {status}")
                check(text in program.errors(), f"{name} {path}: {program.errors()}")


@case("a token can be replaced while the programs run, and is not used once others may read it")
def _(suite):
    with TokenPair(suite, TOKEN, TOKEN) as pair:
        pair.check_carried(pair.listener, pair.client("display"))
        write_token(pair, "host-token", TOKEN[::-1])
        pair.check_refused("did not prove")
        write_token(pair, "guest-token", TOKEN[::-1])
        pair.check_carried(pair.listener, pair.client("display"))
        os.chmod(pair.path("host-token"), 0o644)
        pair.check_refused("must have mode 0600", "cannot read its token")


def token_hello(service=b"one"):
    data = bytearray(hello(service))
    struct.pack_into("<I", data, 16 + 8, FEATURE_TOKEN)
    return bytes(data)


def challenge_of(end):
    end.wait_for(lambda: end.got(Type.CHALLENGE))
    payload = end.got(Type.CHALLENGE)[0][3]
    check(len(payload) == 32, f"a challenge of {len(payload)} bytes")
    return payload


def proof(role, challenge, nonce, said, token=TOKEN):
    digest = hashlib.sha256(said[16:]).digest()
    return hmac.new(token, role + challenge + nonce + digest, hashlib.sha256).digest()


def check_turned_away(end, what):
    text = end.wait_end()
    check([arg for _, _, arg, _ in end.got(Type.REFUSE)] == [REFUSED], f"{what}: {end.frames}")
    check(not end.got(Type.PROOF), f"{what}: the host has proved something to a stranger")
    return text


@case("another implementation of the proof is believed, and the host's is right")
def _(suite):
    with TokenPair(suite, TOKEN, None) as pair, connect(pair.chan) as end:
        end.send(token_hello())
        challenge, nonce = challenge_of(end), os.urandom(32)
        end.send(frame(Type.PROOF, nonce + proof(b"fdferry-guest", challenge, nonce,
                                                 token_hello())))
        end.wait_for(lambda: end.got(Type.WELCOME))
        check([entry[0] for entry in end.frames] ==
              [Type.CHALLENGE, Type.PROOF, Type.WELCOME], f"{end.frames}")
        expected = proof(b"fdferry-host", challenge, nonce, token_hello())
        check(end.got(Type.PROOF)[0][3] == bytes(32) + expected, "the host's proof")


@case("proofs that were overheard, cut, of the other role or of another service prove nothing")
def _(suite):
    with TokenPair(suite, TOKEN, None) as pair:
        nonce, old = os.urandom(32), []

        def answers(challenge):
            said = token_hello()
            right = nonce + proof(b"fdferry-guest", challenge, nonce, said)
            old.append(right)
            yield "overheard", frame(Type.PROOF, old[0])
            yield "of the host", frame(Type.PROOF, nonce + proof(b"fdferry-host", challenge,
                                                                 nonce, said))
            yield "of another service", frame(Type.PROOF, nonce + proof(
                b"fdferry-guest", challenge, nonce, token_hello(b"two")))
            yield "with another token", frame(Type.PROOF, nonce + proof(
                b"fdferry-guest", challenge, nonce, said, TOKEN[:-1]))
            yield "too short", frame(Type.PROOF, right[:-1])
            yield "too long", frame(Type.PROOF, right + b"\0")
            yield "empty", frame(Type.PROOF)
            yield "none", channel.ping()
            yield "cut", frame(Type.PROOF, right)[:-1]
            yield "the challenge", frame(Type.PROOF, challenge + challenge)

        with connect(pair.chan) as end:
            end.send(token_hello())
            first = challenge_of(end)
            names = [name for name, _ in answers(first)]
        old[:] = [nonce + proof(b"fdferry-guest", first, nonce, token_hello())]
        seen = {first}
        for index, name in enumerate(names):
            with connect(pair.chan) as end:
                end.send(token_hello())
                challenge = challenge_of(end)
                check(challenge not in seen, "a challenge came twice")
                seen.add(challenge)
                end.send(list(answers(challenge))[index][1])
                end.half_close()
                check_turned_away(end, name)
        pair.check_told("did not prove")


@case("who is turned away is named in the log, and leaves nothing behind")
def _(suite):
    with TokenPair(suite, TOKEN, None) as pair:
        for _ in range(30):
            with connect(pair.chan) as end:
                end.send(hello(b"one"))
                check_turned_away(end, "a guest without a token")
        pair.check_told("was turned away")
        lines = [line for line in pair.host.errors().splitlines() if "turned away" in line]
        who = "vsock cid 1 port" if VSOCK else "a local program"
        check(all(who in line for line in lines), f"{lines[:2]}")
        wait_until("the sessions end", lambda: len(pair.host.open_files()) <= 2)


AS_ANOTHER_USER = """import os, socket, sys
os.setgroups([]); os.setgid(12345); os.setuid(12345)
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
try: sock.sendall(bytes.fromhex(sys.argv[2]))
except BrokenPipeError: pass
try: sys.stdout.buffer.write(sock.recv(1 << 16))
except ConnectionResetError: pass"""


def answer_to_another_user(path, said):
    """What comes first from who listens there."""
    return subprocess.run([sys.executable, "-c", AS_ANOTHER_USER, path, said.hex()],
                          stdout=subprocess.PIPE, check=True).stdout


def connect_as_another_user(path):
    """The type of the first frame that comes, and its arg."""
    _, kind, _, _, arg = struct.unpack_from("<IHHII", answer_to_another_user(path, hello(b"one")))
    return kind, arg


@case("users other than ours and root are turned away, unless they are named")
def _(suite):
    if VSOCK or os.geteuid() != 0:
        raise Skip("needs root and a UNIX socket")
    for options, expected in (((), (Type.REFUSE, REFUSED)),
                              (("--allow-uid", "12346"), (Type.REFUSE, REFUSED)),
                              (("--allow-uid", "12345"), (Type.WELCOME, 0))):
        with TokenPair(suite, None, None, options) as pair:
            for directory in (suite.directory, pair.directory):
                os.chmod(directory, 0o755)
            os.chmod(pair.chan.path, 0o777)
            got = connect_as_another_user(pair.chan.path)
            check(got == expected, f"{options}: {got}")
            if expected[0] == Type.REFUSE:
                pair.check_told("uid 12345 was turned away")
            else:
                pair.listener.accept()[0].close()
            pair.check_carried(pair.listener, pair.client("display"))


LINGERING = """import array, os, socket, struct, sys
def lingering():
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    sock.connect(listener.getsockname())
    peer, _ = listener.accept()
    sock.setblocking(False)
    try:
        while True: sock.send(bytes(65536))
    except BlockingIOError: pass
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
    return sock, peer
os.setgroups([]); os.setgid(12345); os.setuid(12345)
peers = []
for _ in range(int(sys.argv[2])):
    with socket.socket(socket.AF_UNIX, int(sys.argv[3])) as end:
        end.connect(sys.argv[1])
        sock, peer = lingering()
        peers.append(peer)
        with sock:
            try: end.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [sock.fileno()]))])
            except PermissionError: sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes(8))
print("sent", flush=True)
sys.stdin.read()"""
MANY = 100  # more than there are threads to close what waits


@contextlib.contextmanager
def lingering_sockets(pid, path, kind=socket.SOCK_STREAM):
    """Another user connects while a process is stopped, and is gone but for sockets in the connections whose
    close(2) waits for an hour.
    """
    os.kill(pid, signal.SIGSTOP)
    with subprocess.Popen([sys.executable, "-c", LINGERING, path, str(MANY), str(int(kind))],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as sender:
        try:
            check(sender.stdout.readline() == b"sent\n", "nothing could be sent")
            yield
        finally:
            sender.stdin.close()


def check_not_kept_waiting(host, path, check_served):
    with lingering_sockets(host.pid, path):
        os.kill(host.pid, signal.SIGCONT)
        check_served()
        wait_until("what was sent is closed", lambda: len(os.listdir(f"/proc/{host.pid}/task")) == 1)
    with lingering_sockets(host.pid, path):
        os.kill(host.pid, signal.SIGTERM)
        os.kill(host.pid, signal.SIGCONT)
        check(host.wait()[1] == 0, "SIGTERM")


@case("who is turned away cannot keep the host waiting")
def _(suite):
    if VSOCK or os.geteuid() != 0:
        raise Skip("needs root and a UNIX socket")
    with TokenPair(suite, None, None) as pair:
        for directory in (suite.directory, pair.directory):
            os.chmod(directory, 0o755)
        os.chmod(pair.chan.path, 0o777)
        check_not_kept_waiting(pair.host, pair.chan.path,
                               lambda: pair.check_carried(pair.listener, pair.client("display")))


GET_FEATURES = struct.pack("<III", 1, 1, 0)  # a VMM's first message: request, version, size
FEATURES_SIZE = len(GET_FEATURES) + 8


def vmm(path):
    """The connection of a VMM, which has been answered."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(SLOW)
    sock.connect(path)
    check_served(sock)
    return sock


def check_served(sock):
    sock.sendall(GET_FEATURES)
    answer = sock.recv(1 << 16)
    check(len(answer) == FEATURES_SIZE, f"the VMM gets {answer}")


def comm_of(pid):
    with open(f"/proc/{pid}/comm") as file:
        return file.read().strip()


def open_to_all(suite, path):
    os.chmod(suite.directory, 0o755)
    os.chmod(path, 0o777)


@case("vhost-user: a VMM of another user is turned away, unless it is named")
def _(suite):
    if VSOCK or os.geteuid() != 0:
        raise Skip("needs root and a UNIX socket")
    for options, served in (((), False), (("--allow-uid", "12346"), False),
                            (("--allow-uid", "12345"), True)):
        path = suite.path("vm")
        host = Program(suite, HOST, ["--listen", f"vhost-user:{path}", "--service",
                                     "one=unix:/nowhere", *options])
        open_to_all(suite, path)
        answer = answer_to_another_user(path, GET_FEATURES)
        check(len(answer) == (FEATURES_SIZE if served else 0), f"{options}: {answer}")
        told = "uid 12345 was turned away" in host.errors()
        check(told != served, f"{options}: {host.errors()}")
        vmm(path).close()
        host.stop()
        host.check_quiet()


@case("vhost-user: a VMM that is turned away cannot keep the host waiting")
def _(suite):
    if VSOCK or os.geteuid() != 0:
        raise Skip("needs root and a UNIX socket")
    path = suite.path("vm")
    host = Program(suite, HOST, ["--listen", f"vhost-user:{path}", "--service", "one=unix:/nowhere"])
    open_to_all(suite, path)
    check_not_kept_waiting(host, path, lambda: vmm(path).close())
    host.check_quiet()


SO_PASSRIGHTS = 83


def ask_resolver(path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(DEADLINE)
        sock.connect(path)
        sock.sendall(b'{"GetBuffer":{"id":7}}')
        check(sock.recv(100) == b'"Invalid"', "the resolver's answer")


@case("vhost-user: who is turned away by the resolver cannot keep the GPU waiting")
def _(suite):
    if VSOCK or os.geteuid() != 0:
        raise Skip("needs root and a UNIX socket")
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.getsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS)
    except OSError:
        raise Skip("this kernel lets everybody send fds")
    path = suite.path("gpu")
    resolver = path + ".resolver"
    host = Program(suite, HOST, ["--listen", "unix:" + suite.path("chan"), "--service",
                                 "one=unix:/nowhere", "--resolver", "vhost-user:" + path])
    open_to_all(suite, resolver)
    with vmm(path):
        device, = (pid for pid in children_of(host.pid) if comm_of(pid) == "fdferry-gpu")
        ask_resolver(resolver)
        with lingering_sockets(device, resolver, socket.SOCK_SEQPACKET):
            os.kill(device, signal.SIGCONT)
            ask_resolver(resolver)
    host.stop()
    host.check_quiet()


@case("vhost-user: SIGHUP reads the policy again, and the VM keeps its device")
def _(suite):
    path, policy = suite.path("vm"), suite.path("work.policy")
    with open(policy, "w") as file:
        file.write("[globals]\ndeny = wl_output\n")
    host = Program(suite, HOST, ["--listen", f"vhost-user:{path}", "--service", "one=unix:/nowhere",
                                 "--policy", policy, "--log-level", "info"])
    with vmm(path) as sock:
        with open(policy, "a") as file:
            file.write("[limits]\nmax-vm-sessions = 3\n")
        os.killpg(host.pid, signal.SIGHUP)
        wait_until("the policy is read", lambda: "what " + policy + " says now" in host.errors())
        check_served(sock)
    vmm(path).close()
    host.stop()
    host.check_quiet()


@case("a virtual machine that is not named is turned away")
def _(suite):
    if not VSOCK:
        raise Skip("needs AF_VSOCK")
    with TokenPair(suite, None, None, ("--allow-cid", "77")) as pair:
        pair.check_refused("vsock cid 1 was turned away", "not allowed to connect")
    with TokenPair(suite, None, None, ("--allow-cid", "77", "--allow-cid", "1")) as pair:
        pair.check_carried(pair.listener, pair.client("display"))


@case("only a port below 1024 is privileged, and the guest has one if it may")
def _(suite):
    if not VSOCK or os.geteuid() != 0:
        raise Skip("needs root and AF_VSOCK")
    with TokenPair(suite, None, None, ("--require-privileged-port",)) as pair:
        for _ in range(3):
            pair.check_carried(pair.listener, pair.client("display"))
        with connect(pair.chan) as end:  # from a port of the kernel's choice
            end.send(hello(b"one"))
            check_turned_away(end, "an ordinary port")
        pair.check_told("--require-privileged-port")

"""A guest and a host that may do anything, each with the rest of its session around it."""

import channel
from channel import HOST_ID, Type, hello, welcome
from harness import check
from wayland import SERVER_ID, message, split

REGISTRY, SHM, SEAT, KEYBOARD, COMPOSITOR = range(2, 7)
PRELUDE = message(1, 1, REGISTRY)
BINDS = (message(REGISTRY, 0, 2, "wl_shm", 1, SHM) + message(REGISTRY, 0, 3, "wl_seat", 5, SEAT) +
         message(SEAT, 1, KEYBOARD) + message(REGISTRY, 0, 1, "wl_compositor", 4, COMPOSITOR))


class HostileGuest:
    """Talks to fdferry-host; behind it is the suite's own compositor."""

    program = "host"
    bit, other = 0, HOST_ID

    def __init__(self, stage, prepared=True, features=0):
        self.stage = stage
        self.before = len(stage.compositor.connections)
        self.end = channel.connect(stage.chan)
        self.next_id = COMPOSITOR + 1
        if prepared:
            self.end.send(hello(features=features) + channel.messages(PRELUDE))
            self.end.wait_for(lambda: b"wl_output" in self.end.message_bytes())
            self.end.send(channel.messages(BINDS))
            self.sync()

    def connection(self):
        return self.stage.compositor.connections[self.before]

    def sync(self):
        """Through to the compositor and back."""
        callback = self.next_id
        self.next_id += 1
        self.end.send(channel.messages(message(1, 0, callback)))
        self.end.wait_for(lambda: (callback, 0) in
                          [event[:2] for event in split(self.end.message_bytes())[0]])
        self.end.frames = [entry for entry in self.end.frames if entry[0] != Type.MESSAGES]

    def valid_messages(self, refs=(), n_refs=None):
        """A request that takes an fd where there are refs, else one that takes none."""
        new = self.next_id
        self.next_id += 1
        data = message(SHM, 0, new, 4096) if refs or n_refs else message(1, 0, new)
        return channel.messages(data, refs, n_refs)

    def check_told(self, text, expected):
        """The other side is told why."""
        check(text and text.isprintable(), f"the end has no readable reason: {text!r}")
        check(expected is None or expected in text, f"the reason is {text!r}, not {expected!r}")

    def expect_end(self, expected=None):
        self.check_told(self.end.wait_end(), expected)

    def finish(self):
        self.end.half_close()
        self.end.wait_end()

    def close(self):
        self.end.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class HostileHost:
    """Talks to fdferry-guest; before it is the suite's own client."""

    program = "guest"
    bit, other = HOST_ID, 0

    def __init__(self, stage, prepared=True):
        self.stage = stage
        stage.interposer.want()
        self.client = stage.client()
        self.end = stage.interposer.take()
        self.next_id = SERVER_ID
        if prepared:
            self.end.wait_for(lambda: self.end.got(Type.HELLO))
            self.client.get_registry()
            self.end.wait_for(lambda: self.end.message_bytes())
            self.end.send(welcome() + channel.messages(b"".join(
                message(REGISTRY, 0, name, interface, version) for name, interface, version in
                ((1, "wl_compositor", 4), (2, "wl_shm", 1), (3, "wl_seat", 5)))))
            self.client.wait_for(lambda: "wl_seat" in self.client.globals)
            self.client.send(BINDS)
            self.client.next_id = COMPOSITOR + 1
            self.sync()

    def sync(self):
        """Through to the client: what it asks is answered from here."""
        callback = self.client.new_id()
        self.client.request(1, 0, callback)
        self.end.wait_for(lambda: message(1, 0, callback) in self.end.message_bytes())
        self.end.send(channel.messages(message(callback, 0, 1) + message(1, 1, callback)))
        self.client.wait_for(lambda: self.client.got(callback, 0))

    def valid_messages(self, refs=(), n_refs=None):
        data = message(KEYBOARD, 0, 1, 3) if refs or n_refs else message(SEAT, 0, 3)
        return channel.messages(data, refs, n_refs)

    def check_told(self, text, expected):
        check(text and text.isprintable(), f"the client is told {text!r}")
        check(expected is None or expected in text,
              f"the client is told {text!r}, not {expected!r}")

    def expect_end(self, expected=None):
        text = self.client.wait_end()
        self.check_told(text, expected)
        self.end.wait_end()

    def finish(self):
        self.end.half_close()
        self.client.wait_end()
        self.end.wait_end()

    def close(self):
        self.client.close()
        self.end.close()


SIDES = (HostileGuest, HostileHost)

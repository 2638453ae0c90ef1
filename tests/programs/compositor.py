"""A very small compositor: it answers what a client waits for, and sends what it is told to."""

import os
import selectors
import socket
import threading

from wayland import FDS_MAX, SERVER_ID, message, split, take_string, words

# interface: version; a global's name is its place from 1
GLOBALS = {
    "wl_compositor": 4,
    "wl_shm": 1,
    "wl_seat": 5,
    "wl_data_device_manager": 3,
    "wl_output": 4,
    "zwlr_screencopy_manager_v1": 3,  # privileged
    "test_thing_v1": 1,               # in no protocol file that is installed
}

# Requests that make an object: the interface it gets, and the word that is its id.
MAKES = {
    ("wl_compositor", 0): ("wl_surface", 0),
    ("wl_shm", 0): ("wl_shm_pool", 0),
    ("wl_shm_pool", 0): ("wl_buffer", 0),
    ("wl_seat", 0): ("wl_pointer", 0),
    ("wl_seat", 1): ("wl_keyboard", 0),
    ("wl_data_device_manager", 1): ("wl_data_device", 0),
    ("wl_surface", 3): ("wl_callback", 0),
    ("zwp_linux_dmabuf_v1", 1): ("zwp_linux_buffer_params_v1", 0),
    ("zwp_linux_buffer_params_v1", 3): ("wl_buffer", 0),
    ("wl_drm", 3): ("wl_buffer", 0),
    ("zwlr_screencopy_manager_v1", 0): ("zwlr_screencopy_frame_v1", 0),
    ("zwlr_export_dmabuf_manager_v1", 0): ("zwlr_export_dmabuf_frame_v1", 0),
    ("zwp_linux_explicit_synchronization_v1", 1): ("zwp_linux_surface_synchronization_v1", 0),
    ("zwp_linux_surface_synchronization_v1", 2): ("zwp_linux_buffer_release_v1", 0),
    ("wp_linux_drm_syncobj_manager_v1", 1): ("wp_linux_drm_syncobj_surface_v1", 0),
    ("wp_linux_drm_syncobj_manager_v1", 2): ("wp_linux_drm_syncobj_timeline_v1", 0),
}
DRM_PATH = "/dev/dri/renderD200"  # of no device
XRGB8888 = 0x34325258  # of DRM

PASTED = b"what was copied"


def paste(pipe):
    try:
        os.write(pipe, PASTED)
    except BrokenPipeError:
        pass  # the session has ended
    os.close(pipe)


class Connection:
    """The compositor's end of one session."""

    def __init__(self, sock, globals_):
        self.socket = sock
        self.globals = globals_
        self.objects = {1: "wl_display"}
        self.rest = b""
        self.fds = []         # that came and that nobody has taken
        self.pools = []       # fds
        self.planes = []      # fds of dma-bufs
        self.requests = []    # (interface, opcode, body), all that came
        self.paused = False   # reads nothing
        self.closed = False
        self.serial = 0

    def send(self, data, fds=()):
        fds = list(fds)
        try:
            while len(fds) > FDS_MAX:
                n = socket.send_fds(self.socket, [data[:1]], fds[:FDS_MAX])
                data, fds = data[n:], fds[FDS_MAX:]
            if fds:
                n = socket.send_fds(self.socket, [data], fds)
                data = data[n:]
            self.socket.sendall(data)
        except OSError:
            pass

    def event(self, target, opcode, *args, fds=()):
        self.send(message(target, opcode, *args), fds)

    def object_of(self, interface):
        """The newest object of an interface."""
        return max(number for number, name in list(self.objects.items()) if name == interface)

    def has(self, interface):
        return interface in list(self.objects.values())

    def got(self, interface, opcode):
        return [body for *request, body in list(self.requests) if request == [interface, opcode]]

    def read(self):
        """False when the session has ended."""
        try:
            data, fds, _, _ = socket.recv_fds(self.socket, 65536, FDS_MAX)
        except OSError:
            return False
        self.fds += fds
        if not data:
            return False
        messages, self.rest = split(self.rest + data)
        for request in messages:
            self.take(*request)
        return True

    def take(self, target, opcode, body):
        interface = self.objects.get(target)
        self.requests.append((interface, opcode, body))
        if (interface, opcode) in MAKES:
            made, place = MAKES[interface, opcode]
            self.objects[words(body)[place]] = made
        if interface == "wl_display" and opcode == 0:
            callback = words(body)[0]
            self.serial += 1
            self.send(message(callback, 0, self.serial) + message(1, 1, callback))
        elif interface == "wl_display":
            self.objects[words(body)[0]] = "wl_registry"
            self.send(b"".join(
                message(words(body)[0], 0, name, interface, version)
                for name, (interface, version) in enumerate(self.globals.items(), 1)))
        elif interface == "wl_registry":
            self.bind(body)
        elif (interface, opcode) == ("wl_data_device_manager", 1):
            self.offer(words(body)[0])
        elif (interface, opcode) == ("wl_shm", 0) and self.fds:
            self.pools.append(self.fds.pop(0))
        elif (interface, opcode) in (("zwp_linux_buffer_params_v1", 1), ("wl_drm", 3)) and self.fds:
            self.planes.append(self.fds.pop(0))
        elif (interface, opcode) == ("wl_data_offer", 1) and self.fds:
            paste(self.fds.pop(0))

    def bind(self, body):
        interface, at = take_string(body, 4)
        new = words(body[at:])[1]
        self.objects[new] = interface
        if interface == "wl_shm":
            self.send(message(new, 0, 0) + message(new, 0, 1))
        elif interface == "wl_seat":
            self.event(new, 0, 3)
        elif interface == "zwp_linux_dmabuf_v1":
            self.event(new, 1, XRGB8888, 0, 0)  # linear
        elif interface == "wl_drm":
            self.send(message(new, 0, DRM_PATH) + message(new, 1, XRGB8888) + message(new, 3, 1))

    def offer(self, device):
        """A selection with one type."""
        self.objects[SERVER_ID] = "wl_data_offer"
        self.send(message(device, 0, SERVER_ID) + message(SERVER_ID, 0, "text/plain") +
                  message(device, 5, SERVER_ID))

    def close(self):
        """As abruptly as by SIGKILL."""
        self.closed = True
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def release(self):
        self.closed = True
        for fd in self.fds + self.pools + self.planes:
            os.close(fd)
        self.fds, self.pools, self.planes = [], [], []
        self.socket.close()


class Compositor:
    """Serves in a thread. `connections` are all that came, oldest first."""

    def __init__(self, path, globals_=None):
        self.path = path
        self.globals = GLOBALS if globals_ is None else globals_
        self.connections = []
        self.selector = selectors.DefaultSelector()
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.listener.bind(f"{path}.new")
        self.listener.listen(256)
        os.rename(f"{path}.new", path)  # who finds it may connect
        self.wake, self.waker = socket.socketpair()
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.selector.register(self.wake, selectors.EVENT_READ)
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        while True:
            for key, _ in self.selector.select():
                if key.fileobj is self.wake:
                    return
                if key.fileobj is self.listener:
                    self.accept()
                elif key.data.paused:
                    self.selector.unregister(key.fileobj)  # for good
                elif not key.data.read():
                    self.selector.unregister(key.fileobj)
                    key.data.release()

    def accept(self):
        sock, _ = self.listener.accept()
        connection = Connection(sock, self.globals)
        self.connections.append(connection)
        self.selector.register(sock, selectors.EVENT_READ, connection)

    def close(self):
        if not self.thread.is_alive():
            return
        self.waker.send(b"x")
        self.thread.join()
        for connection in self.connections:
            if not connection.closed or connection.socket.fileno() >= 0:
                connection.release()
        self.selector.close()
        for sock in (self.listener, self.wake, self.waker):
            sock.close()
        os.unlink(self.path)

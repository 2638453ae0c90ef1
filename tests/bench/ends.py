"""The two ends of a way through a machine's vsock: what serves there, and who asks here."""

import contextlib
import glob
import os

import contenders
import processes

CHANNEL_PORT = 7000
SERVICE_PORT = 7002
READY_SECONDS = 100  # that a program may take in a machine in a machine
DRIVER = "/sys/bus/virtio/drivers/vmw_vsock_virtio_transport"
VSOCK_DEVICE = "0x0013"
KERNELS_SLOT = "10"  # hexadecimal: where vhost_vsock's device is on the bus, beside the other one


class Ends(contextlib.ExitStack):
    """Programs that end with it."""

    def __init__(self, place):
        super().__init__()
        self.place = place

    def start(self, name, program, *arguments):
        process = self.place.start(name, self.place.program(program), *arguments)
        self.callback(processes.stop, [process])
        processes.wait_ready(process, READY_SECONDS)

    def start_servers(self):
        self.start("compositor", "bench-compositor", contenders.COMPOSITOR)
        self.start("service", "bench-service", contenders.SERVICE)

    def start_host(self, listen, *options):
        self.start("fdferry-host", "fdferry-host", "--listen", listen, "--print-ready",
                   "--connection-rate", "1000000", "--compositor", contenders.COMPOSITOR,
                   "--service", "bench=unix:" + self.place.path(contenders.SERVICE), *options)

    def serve_vsock(self):
        """By the kernel: a channel, and the service itself."""
        self.start_host(f"vsock:{CHANNEL_PORT}")
        self.start("service", "bench-service", f"vsock:{SERVICE_PORT}")

    def serve_vhost_user(self, listen):
        """The same two."""
        path = self.place.path(contenders.SERVICE)
        self.start_host(listen, "--vsock-port", f"{SERVICE_PORT}=unix:{path}")


def vsock_devices():
    """{whether it is vhost_vsock's: name}"""
    names = [os.path.basename(path) for path in glob.glob("/sys/bus/virtio/devices/*")
             if open(os.path.join(path, "device")).read().strip() == VSOCK_DEVICE]
    return {f":{KERNELS_SLOT}.0/" in os.path.realpath(f"/sys/bus/virtio/devices/{name}"): name
            for name in names}


class Way:
    """A fdferry-guest, and the address of the service without one."""

    def __init__(self, ends, name, cid):
        self.name = name
        self.plain_service = f"vsock:{cid}:{SERVICE_PORT}"
        self.display = ends.place.path(f"wayland-{name}")
        self.service = ends.place.path(f"service-{name}")
        ends.start("fdferry-guest", "fdferry-guest", "--connect", f"vsock:{cid}:{CHANNEL_PORT}",
                   "--print-ready", "--display", self.display,
                   "--service", "bench=unix:" + self.service)

    def take_device(self):
        """Where there are two devices, the driver gets the one of this way: it takes only one."""
        devices = vsock_devices()
        if len(devices) < 2:
            return
        wanted = devices[self.name == "vhost_vsock"]
        for name in devices.values():
            if name != wanted and os.path.exists(os.path.join(DRIVER, name)):
                self.write("unbind", name)
        if not os.path.exists(os.path.join(DRIVER, wanted)):
            self.write("bind", wanted)

    @staticmethod
    def write(action, name):
        with open(os.path.join(DRIVER, action), "w") as file:
            file.write(name)

"""What a machine's vsock device is, and what a fdferry-host outside listens at, then."""

import os
import subprocess

from backports import Missing

MODULES = ("vmw_vsock_virtio_transport",)


class VhostUser:
    """fdferry-host is the vsock device. It is in a slot, so that it can be taken out."""

    accelerator = "tcg"
    modules = MODULES  # of the machine

    def __init__(self, directory):
        self.socket = os.path.join(directory, "vsock.sock")
        self.listen = f"vhost-user:{self.socket}"
        self.options = ["-chardev", f"socket,id=vsock,path={self.socket}",
                        "-device", "pcie-root-port,id=plug",
                        "-device", "vhost-user-vsock-pci,id=device,bus=plug,chardev=vsock"]

    @staticmethod
    def check(build):
        """Raises Missing where fdferry-host cannot be such a device."""
        host = os.path.join(build, "host-proxy", "fdferry-host")
        usage = subprocess.run([host, "--help"], capture_output=True, text=True, check=True).stdout
        if "vhost-user" not in usage:
            raise Missing("this fdferry-host is no vsock device (--listen vhost-user:PATH)")


class NestedVhostUser(VhostUser):
    """The same for a machine within a machine, which has what the host shares pages with."""

    accelerator = "kvm"

    @staticmethod
    def check(build):
        VhostUser.check(build)
        for path in ("/dev/kvm", "/dev/udmabuf"):
            if not os.path.exists(path):
                raise Missing(f"there is no {path}")


class Kernel:
    """The kernel is (vhost_vsock), which takes a machine that has it: one within such a machine."""

    accelerator = "kvm"
    modules = MODULES
    socket = None
    listen = "vsock:7000"
    cid = "3"
    options = ["-device", f"vhost-vsock-pci,guest-cid={cid}"]

    def __init__(self, directory):
        pass

    @staticmethod
    def check(build):
        for path in ("/dev/vhost-vsock", "/dev/kvm"):
            if not os.path.exists(path):
                raise Missing(f"there is no {path}")

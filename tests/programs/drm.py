"""Buffers of DRM devices, as clients make them: dumb ones, GBM's, and what EGL has drawn into those."""

import ctypes
import fcntl
import glob
import mmap
import os
import struct

from harness import Failure, Skip

XRGB8888 = 0x34325258
VERSION = 0xC0406400        # DRM_IOCTL_VERSION
CREATE_DUMB = 0xC02064B2
PRIME_HANDLE_TO_FD = 0xC00C642D
CLOSE = 0x40086409          # DRM_IOCTL_GEM_CLOSE
SYNC = 0x40086200           # DMA_BUF_IOCTL_SYNC
SYNC_READ, SYNC_WRITE, SYNC_START, SYNC_END = 1, 2, 0, 4
NAME_BYTES = 64

USE_SCANOUT, USE_RENDERING, USE_LINEAR = 1, 4, 16  # GBM_BO_USE_*
MOD_INVALID = (1 << 56) - 1

PLATFORM_GBM = 0x31D7
OPENGL_ES_API, OPENGL_ES2_BIT = 0x30A0, 4
NATIVE_VISUAL_ID, RENDERABLE_TYPE, SURFACE_TYPE, WINDOW_BIT = 0x302E, 0x3040, 0x3033, 4
CONTEXT_CLIENT_VERSION, NONE = 0x3098, 0x3038
COLOR_BUFFER_BIT, SCISSOR_TEST = 0x4000, 0x0C11


def driver_of(node):
    name = ctypes.create_string_buffer(NAME_BYTES)
    version = bytearray(struct.pack("=iiiiQQQQQQ", 0, 0, 0, 0, NAME_BYTES,
                                    ctypes.addressof(name), 0, 0, 0, 0))
    fcntl.ioctl(node, VERSION, version)
    return name.value.decode()


def open_card(driver):
    """The primary node of a driver: the caller's."""
    for path in sorted(glob.glob("/dev/dri/card*")):
        node = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        if driver_of(node) == driver:
            return node
        os.close(node)
    raise Skip(f"no device of {driver}")


class Picture:
    """A dma-buf with rows of XRGB8888, which belongs to it."""

    def __init__(self, fd, stride, offset=0):
        self.fd, self.stride, self.offset = fd, stride, offset

    def sync(self, flags):
        fcntl.ioctl(self.fd, SYNC, struct.pack("=Q", flags))

    def paint(self):
        """Noise, by its mapping."""
        size = os.lseek(self.fd, 0, os.SEEK_END)
        self.sync(SYNC_START | SYNC_WRITE)
        with mmap.mmap(self.fd, size) as data:
            data[:] = os.urandom(size)
        self.sync(SYNC_END | SYNC_WRITE)

    def rows(self, width, height):
        size = os.lseek(self.fd, 0, os.SEEK_END)
        self.sync(SYNC_START | SYNC_READ)
        with mmap.mmap(self.fd, size, prot=mmap.PROT_READ) as data:
            found = [data[at:at + 4 * width] for at in
                     range(self.offset, self.offset + height * self.stride, self.stride)]
        self.sync(SYNC_END | SYNC_READ)
        return found

    def close(self):
        os.close(self.fd)


class Dumb(Picture):
    """Painted with noise."""

    def __init__(self, card, width, height):
        dumb = bytearray(struct.pack("=IIIIIIQ", height, width, 32, 0, 0, 0, 0))
        fcntl.ioctl(card, CREATE_DUMB, dumb)
        *_, handle, stride, _ = struct.unpack("=IIIIIIQ", dumb)
        prime = bytearray(struct.pack("=IIi", handle, os.O_RDWR | os.O_CLOEXEC, -1))
        fcntl.ioctl(card, PRIME_HANDLE_TO_FD, prime)
        fcntl.ioctl(card, CLOSE, struct.pack("=II", handle, 0))
        super().__init__(struct.unpack("=IIi", prime)[2], stride)
        self.paint()


# ---- Mesa ----

def library(name, package, **results):
    """results: what functions return, where that is no int."""
    try:
        found = ctypes.CDLL(name)
    except OSError:
        raise Skip(f"{package} is not installed") from None
    for function, result in results.items():
        getattr(found, function).restype = result
    return found


def need(value, what):
    if not value:
        raise Failure(what)
    return value


class Gbm:
    """A GBM device, of a node that stays the caller's."""

    def __init__(self, card):
        pointer = ctypes.c_void_p
        os.environ["MESA_LOADER_DRIVER_OVERRIDE"] = "kms_swrast"  # Mesa's own, for any device
        self.gbm = library("libgbm.so.1", "libgbm1", gbm_create_device=pointer,
                           gbm_bo_create=pointer, gbm_bo_map=pointer, gbm_surface_create=pointer,
                           gbm_surface_lock_front_buffer=pointer,
                           gbm_bo_get_modifier=ctypes.c_uint64)
        self.device = pointer(need(self.gbm.gbm_create_device(card), "gbm_create_device"))

    def picture_of(self, bo):
        modifier = self.gbm.gbm_bo_get_modifier(bo)
        need(modifier in (0, MOD_INVALID), f"it is linear, not {modifier:#x}")
        fd = self.gbm.gbm_bo_get_fd(bo)
        need(fd >= 0, "gbm_bo_get_fd")
        return Picture(fd, self.gbm.gbm_bo_get_stride(bo), self.gbm.gbm_bo_get_offset(bo, 0))

    def paint(self, width, height):
        """A buffer that was painted with noise by gbm_bo_map."""
        gbm, stride, token = self.gbm, ctypes.c_uint32(), ctypes.c_void_p()
        bo = ctypes.c_void_p(need(gbm.gbm_bo_create(
            self.device, width, height, XRGB8888, USE_SCANOUT | USE_LINEAR), "gbm_bo_create"))
        data = need(gbm.gbm_bo_map(bo, 0, 0, width, height, 2, ctypes.byref(stride),
                                   ctypes.byref(token)), "gbm_bo_map")
        for y in range(height):
            ctypes.memmove(data + y * stride.value, os.urandom(4 * width), 4 * width)
        gbm.gbm_bo_unmap(bo, token)
        picture = self.picture_of(bo)
        gbm.gbm_bo_destroy(bo)
        return picture

    def close(self):
        self.gbm.gbm_device_destroy(self.device)


class Egl:
    """A window of EGL's on a GBM device: OpenGL ES draws, its software driver where there is no other."""

    def __init__(self, gbm, width, height):
        pointer = ctypes.c_void_p
        self.gbm, self.height = gbm, height
        self.egl = library("libEGL.so.1", "libegl1", eglGetPlatformDisplay=pointer,
                           eglCreateContext=pointer, eglCreatePlatformWindowSurface=pointer)
        self.gl = library("libGLESv2.so.2", "libgles2")
        egl = self.egl
        self.display = pointer(need(egl.eglGetPlatformDisplay(PLATFORM_GBM, gbm.device, None),
                                    "eglGetPlatformDisplay"))
        need(egl.eglInitialize(self.display, None, None), "eglInitialize")
        need(egl.eglBindAPI(OPENGL_ES_API), "eglBindAPI")
        config = self.choose_config()
        self.window = pointer(need(gbm.gbm.gbm_surface_create(
            gbm.device, width, height, XRGB8888, USE_RENDERING | USE_LINEAR),
            "gbm_surface_create"))
        self.surface = pointer(need(egl.eglCreatePlatformWindowSurface(
            self.display, config, self.window, None), "eglCreatePlatformWindowSurface"))
        version = (ctypes.c_int * 3)(CONTEXT_CLIENT_VERSION, 2, NONE)
        self.context = pointer(need(egl.eglCreateContext(self.display, config, None, version),
                                    "eglCreateContext"))
        need(egl.eglMakeCurrent(self.display, self.surface, self.surface, self.context),
             "eglMakeCurrent")

    def choose_config(self):
        configs, n, visual = (ctypes.c_void_p * 64)(), ctypes.c_int(), ctypes.c_int()
        wanted = (ctypes.c_int * 5)(SURFACE_TYPE, WINDOW_BIT, RENDERABLE_TYPE, OPENGL_ES2_BIT, NONE)
        need(self.egl.eglChooseConfig(self.display, wanted, configs, 64, ctypes.byref(n)),
             "eglChooseConfig")
        for config in configs[:n.value]:
            config = ctypes.c_void_p(config)
            self.egl.eglGetConfigAttrib(self.display, config, NATIVE_VISUAL_ID,
                                        ctypes.byref(visual))
            if visual.value == XRGB8888:
                return config
        raise Failure("no configuration of XRGB8888")

    def draw(self, rectangles):
        """Filled rectangles (x, y, width, height, (r, g, b)) from the top, the colours in bytes."""
        gl = self.gl
        gl.glEnable(SCISSOR_TEST)
        for x, y, width, height, colour in rectangles:
            gl.glScissor(x, self.height - y - height, width, height)
            gl.glClearColor(*(ctypes.c_float(part / 255) for part in colour), ctypes.c_float(1))
            gl.glClear(COLOR_BUFFER_BIT)
        gl.glFinish()
        need(self.egl.eglSwapBuffers(self.display, self.surface), "eglSwapBuffers")
        front = ctypes.c_void_p(need(self.gbm.gbm.gbm_surface_lock_front_buffer(self.window),
                                     "gbm_surface_lock_front_buffer"))
        picture = self.gbm.picture_of(front)
        self.gbm.gbm.gbm_surface_release_buffer(self.window, front)
        return picture

    def close(self):
        self.egl.eglMakeCurrent(self.display, None, None, None)
        self.egl.eglDestroyContext(self.display, self.context)
        self.egl.eglDestroySurface(self.display, self.surface)
        self.gbm.gbm.gbm_surface_destroy(self.window)
        self.egl.eglTerminate(self.display)

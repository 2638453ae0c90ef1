"""One interface to the three D-Bus libraries that programs use. Each is imported only if it is
asked for. `call` takes strings or fds and returns strings or fds; `tell` expects no reply."""

import ctypes
import os

NAME = INTERFACE = "org.fdferry.Fds"
PATH = "/org/fdferry/Fds"
BUS = "org.freedesktop.DBus"
BUS_PATH = "/org/freedesktop/DBus"
SECONDS = 30


class GDBus:
    def __init__(self, address, is_bus):
        from gi.repository import Gio, GLib
        self.gio, self.glib = Gio, GLib
        flags = Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT
        if is_bus:
            flags |= Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION
        self.connection = Gio.DBusConnection.new_for_address_sync(address, flags, None, None)
        self.name = NAME if is_bus else None

    def call(self, method, signature, values):
        fd_list = self.gio.UnixFDList.new()
        if signature == "ah":
            values = [fd_list.append(fd) for fd in values]
        parameters = self.glib.Variant(f"({signature})", (values,) if signature else ())
        reply, received = self.connection.call_with_unix_fd_list_sync(
            self.name, PATH, INTERFACE, method, parameters, None, self.gio.DBusCallFlags.NONE,
            SECONDS * 1000, fd_list, None)
        results, = reply.unpack()
        if reply.get_type_string() == "(ah)":
            received = received.steal_fds()
            return [received[handle] for handle in results]
        return results

    def tell(self, method, texts):
        message = self.gio.DBusMessage.new_method_call(self.name, PATH, INTERFACE, method)
        message.set_body(self.glib.Variant("(as)", (texts,)))
        message.set_flags(self.gio.DBusMessageFlags.NO_REPLY_EXPECTED)
        self.connection.send_message(message, self.gio.DBusSendMessageFlags.NONE)

    def uid(self):
        parameters = self.glib.Variant("(s)", (self.connection.get_unique_name(),))
        reply = self.connection.call_sync(BUS, BUS_PATH, BUS, "GetConnectionUnixUser", parameters,
                                          None, self.gio.DBusCallFlags.NONE, SECONDS * 1000, None)
        return reply.unpack()[0]


class LibDBus:
    def __init__(self, address, is_bus):
        import dbus
        import dbus.lowlevel
        self.dbus = dbus
        kind = dbus.bus.BusConnection if is_bus else dbus.connection.Connection
        self.connection = kind(address)
        self.name = NAME if is_bus else None

    def call(self, method, signature, values):
        if signature == "ah":
            values = [self.dbus.types.UnixFd(fd) for fd in values]
        results = self.connection.call_blocking(
            self.name, PATH, INTERFACE, method, signature, (values,) if signature else (),
            timeout=SECONDS)
        return [result.take() if isinstance(result, self.dbus.types.UnixFd) else str(result)
                for result in results]

    def tell(self, method, texts):
        message = self.dbus.lowlevel.MethodCallMessage(self.name, PATH, INTERFACE, method)
        message.append(texts, signature="as")
        message.set_no_reply(True)
        self.connection.send_message(message)

    def uid(self):
        return int(self.connection.get_unix_user(self.connection.get_unique_name()))


class SdBus:
    """By ctypes: there is no binding for Python in Debian that passes fds."""

    def __init__(self, address, is_bus):
        self.library = ctypes.CDLL("libsystemd.so.0")
        self.bus = ctypes.c_void_p()
        self.check("sd_bus_new", ctypes.byref(self.bus))
        self.check("sd_bus_set_address", self.bus, address.encode())
        self.check("sd_bus_set_bus_client", self.bus, int(is_bus))
        self.check("sd_bus_negotiate_fds", self.bus, 1)
        self.check("sd_bus_start", self.bus)
        self.name = NAME.encode() if is_bus else None

    def check(self, function, *arguments):
        result = getattr(self.library, function)(*arguments)
        if result < 0:
            raise OSError(-result, f"{function}: {os.strerror(-result)}")
        return result

    def message(self, method, name, path, interface):
        message = ctypes.c_void_p()
        self.check("sd_bus_message_new_method_call", self.bus, ctypes.byref(message), name,
                   path.encode(), interface.encode(), method.encode())
        return message

    def append(self, message, kind, value):
        value = value.encode() if kind == b"s" else ctypes.byref(ctypes.c_int(value))
        self.check("sd_bus_message_append_basic", message, ctypes.c_char(kind), value)

    def append_array(self, message, kind, values):
        self.check("sd_bus_message_open_container", message, ctypes.c_char(b"a"), kind)
        for value in values:
            self.append(message, kind, value)
        self.check("sd_bus_message_close_container", message)

    def ask(self, message):
        """The reply. Takes the message."""
        reply = ctypes.c_void_p()
        self.check("sd_bus_call", self.bus, message, ctypes.c_uint64(SECONDS * 1_000_000), None,
                   ctypes.byref(reply))
        self.library.sd_bus_message_unref(message)
        return reply

    def read_array(self, reply):
        array, kind = ctypes.c_char(), ctypes.c_char_p()
        self.check("sd_bus_message_peek_type", reply, ctypes.byref(array), ctypes.byref(kind))
        kind = kind.value
        self.check("sd_bus_message_enter_container", reply, ctypes.c_char(b"a"), kind)
        values = []
        value = ctypes.c_char_p() if kind == b"s" else ctypes.c_int()
        while self.check("sd_bus_message_read_basic", reply, ctypes.c_char(kind),
                         ctypes.byref(value)) > 0:
            values.append(value.value.decode() if kind == b"s" else os.dup(value.value))
        return values

    def call(self, method, signature, values):
        message = self.message(method, self.name, PATH, INTERFACE)
        if signature:
            self.append_array(message, signature[1:].encode(), values)
        reply = self.ask(message)
        results = self.read_array(reply)
        self.library.sd_bus_message_unref(reply)
        return results

    def tell(self, method, texts):
        message = self.message(method, self.name, PATH, INTERFACE)
        self.append_array(message, b"s", texts)
        self.check("sd_bus_message_set_expect_reply", message, 0)
        self.check("sd_bus_send", self.bus, message, None)
        self.library.sd_bus_message_unref(message)

    def uid(self):
        name = ctypes.c_char_p()
        self.check("sd_bus_get_unique_name", self.bus, ctypes.byref(name))
        message = self.message("GetConnectionUnixUser", BUS.encode(), BUS_PATH, BUS)
        self.append(message, b"s", name.value.decode())
        reply = self.ask(message)
        uid = ctypes.c_uint32()
        self.check("sd_bus_message_read_basic", reply, ctypes.c_char(b"u"), ctypes.byref(uid))
        self.library.sd_bus_message_unref(reply)
        return uid.value


LIBRARIES = {"gdbus": GDBus, "libdbus": LibDBus, "sdbus": SdBus}

"""A D-Bus service whose methods take and return fds, on GDBus.

service.py bus ADDRESS     takes its name on a bus
service.py peer ADDRESS    listens itself: a client without a bus
"""

import sys

import fds
from gi.repository import Gio, GLib

NAME = INTERFACE = "org.fdferry.Fds"
PATH = "/org/fdferry/Fds"
XML = f"""<node><interface name='{INTERFACE}'>
<method name='Describe'><arg type='ah' direction='in'/><arg type='as' direction='out'/></method>
<method name='Make'><arg type='as' direction='in'/><arg type='ah' direction='out'/></method>
<method name='Report'><arg type='as' direction='out'/></method>
<method name='Note'><arg type='as' direction='in'/></method>
</interface></node>"""


class Service:
    """Describe says what was sent; Make sends, and Report then says what became of it."""

    def __init__(self):
        self.made = []
        self.notes = []

    def register(self, connection):
        node = Gio.DBusNodeInfo.new_for_xml(XML)
        connection.register_object(PATH, node.interfaces[0], self.handle_call, None, None)

    def handle_call(self, _connection, _sender, _path, _interface, method, parameters, invocation):
        received = invocation.get_message().get_unix_fd_list()
        received = received.steal_fds() if received else []
        handler = getattr(self, f"handle_{method.lower()}")
        handler(invocation, received, *parameters.unpack())

    def handle_describe(self, invocation, received, handles):
        """Tells also what came with the notes since: an fd of a message that is not theirs."""
        texts = [fds.describe(received[handle]) for handle in handles]
        texts += [f"{len(received)} fds", *self.notes]
        self.notes = []
        invocation.return_value(GLib.Variant("(as)", (texts,)))

    def handle_note(self, invocation, received, texts):
        self.notes += [f"{text} with {len(received)} fds" for text in texts]
        invocation.return_value(None)

    def handle_make(self, invocation, _received, kinds):
        self.made = [fds.make(kind) for kind in kinds]
        fd_list = Gio.UnixFDList.new()
        handles = [fd_list.append(made.fd) for made in self.made]
        for made in self.made:
            made.sent()
        value = GLib.Variant("(ah)", (handles,))
        invocation.return_value_with_unix_fd_list(value, fd_list)

    def handle_report(self, invocation, _received):
        texts = [made.report() for made in self.made]
        invocation.return_value(GLib.Variant("(as)", (texts,)))


def serve_bus(address, service):
    flags = Gio.DBusConnectionFlags
    connection = Gio.DBusConnection.new_for_address_sync(
        address, flags.AUTHENTICATION_CLIENT | flags.MESSAGE_BUS_CONNECTION, None, None)
    service.register(connection)
    Gio.bus_own_name_on_connection(connection, NAME, Gio.BusNameOwnerFlags.NONE,
                                   lambda *_: print("READY", flush=True), None)
    return connection


def serve_peer(address, service):
    server = Gio.DBusServer.new_sync(address, Gio.DBusServerFlags.NONE, Gio.dbus_generate_guid(),
                                     None, None)
    connections = set()

    def handle_closed(connection, _by_peer, _error):
        connection.get_stream().close(None)
        connections.discard(connection)

    def handle_connection(_server, connection):
        connections.add(connection)
        connection.connect("closed", handle_closed)
        service.register(connection)
        return True
    server.connect("new-connection", handle_connection)
    server.start()
    print("READY", flush=True)
    return server, connections


def main():
    serve = {"bus": serve_bus, "peer": serve_peer}[sys.argv[1]]
    held = serve(sys.argv[2], Service())
    GLib.MainLoop().run()
    del held


main()

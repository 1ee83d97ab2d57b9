"""A place on this machine that others connect to."""

import errno
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from socketserver import BaseRequestHandler, ThreadingTCPServer

from e2e_deploy.errors import UnavailableError
from e2e_deploy.runtime.sinks.streams.address import Address
from e2e_deploy.runtime.sinks.streams.links import hang_up, prepared

MAX_CONNECTIONS = 16
_HINTS = {
    errno.EADDRINUSE: "name another port, 0 takes any that is free",
    errno.EACCES: "ports below 1024 are the system's, name a higher one",
}


class Server(ThreadingTCPServer):
    """Accepts connections, and has ``talk`` called with each in a thread of its own.

    Raises:
        UnavailableError: the port is taken, or the address is not this machine's.
    """

    daemon_threads, block_on_close = True, False
    # A run that was restarted finds its old connections in TIME_WAIT. Elsewhere the option would share a used port.
    allow_reuse_address = os.name == "posix"
    allow_reuse_port = False

    def __init__(self, address: Address, talk: Callable[[socket.socket], None]) -> None:
        self.talk = talk
        self._connections: set[socket.socket] = set()
        self.address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        try:
            super().__init__((address.host, address.port), _Handler)
        except OSError as error:
            hint = _HINTS.get(error.errno or 0, "this machine is 127.0.0.1")
            raise UnavailableError(
                f"{address.name} cannot be served: {error.strerror}; {hint}"
            ) from None
        self._thread = threading.Thread(
            target=self.serve_forever, args=(0.1,), name="e2e-deploy server", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """That it is served at."""
        return int(self.server_address[1])

    def verify_request(self, request: object, client_address: object) -> bool:
        """Whether there is room for one more."""
        return len(self._connections) < MAX_CONNECTIONS

    def talk_with(self, connection: socket.socket) -> None:
        """One connection, from its beginning to its end."""
        self._connections.add(connection)
        try:
            with suppress(OSError):  # gone before it began
                self.talk(prepared(connection))
        finally:
            self._connections.discard(connection)

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients come and go; that is no news."""

    def close(self) -> None:
        """Accept nothing more, and end every connection."""
        self.shutdown()
        self.server_close()
        for connection in list(self._connections):
            hang_up(connection)
        self._thread.join()


class _Handler(BaseRequestHandler):
    server: Server

    def handle(self) -> None:
        self.server.talk_with(self.request)

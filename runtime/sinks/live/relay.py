"""A TCP connection of a native library that can be cut from outside."""

import socket
from contextlib import suppress
from threading import Lock, Thread

from e2e_deploy.runtime.sinks.live.addresses import LOOPBACK

_PIECE = 256 * 1024
_PATIENCE_S = 5.0


class Relay:
    """Listens on this machine, and hands on to a server what comes, and back.

    Rerun waits for ever for a viewer that is there and takes nothing (rerun-sdk 0.41: ``disconnect`` after a flush that
    took too long). Once the relay is cut, it does not.

    Args:
        host: of the server.
        port: of the server.

    Attributes:
        port: where it listens.

    Raises:
        OSError: the server does not answer.
    """

    def __init__(self, host: str, port: int) -> None:
        socket.create_connection((host, port), _PATIENCE_S).close()
        self._server = host, port
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port: int = self._listener.getsockname()[1]
        self._changing = Lock()
        self._open: list[socket.socket] = []
        self._is_cut = False
        self._pumps: list[Thread] = []
        Thread(target=self._accept, name="e2e-deploy relay", daemon=True).start()

    def finish(self) -> None:
        """Wait a little until what was given is handed on and the server says goodbye; then cut."""
        for pump in self._pumps:
            pump.join(_PATIENCE_S)
        self.cut()

    def cut(self) -> None:
        """End every connection now."""
        with self._changing:
            self._is_cut = True
            for each in (self._listener, *self._open):
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()
            self._open.clear()

    def _accept(self) -> None:
        while True:
            try:
                ours, _ = self._listener.accept()
            except OSError:  # it is cut
                return
            try:
                theirs = socket.create_connection(self._server, _PATIENCE_S)
            except OSError:
                ours.close()
                continue
            theirs.settimeout(None)
            with self._changing:
                if self._is_cut:
                    ours.close()
                    theirs.close()
                    return
                self._open += [ours, theirs]
                for one, other in ((ours, theirs), (theirs, ours)):
                    pump = Thread(
                        target=_pump, args=(one, other), name="e2e-deploy relay", daemon=True
                    )
                    self._pumps.append(pump)
                    pump.start()


def _pump(one: socket.socket, other: socket.socket) -> None:
    """Hand on what comes until one side ends; then the other is told so."""
    with suppress(OSError):
        while piece := one.recv(_PIECE):
            other.sendall(piece)
    with suppress(OSError):
        other.shutdown(socket.SHUT_WR)

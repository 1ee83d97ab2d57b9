"""A client's connection: cut where what it sends or takes lasts too long, kept where it only stops sending."""

import asyncio
import logging
from typing import Any

from e2e_deploy.packages import require
from e2e_deploy.runtime.serve.limits import HEADERS_S, MAX_CONNECTIONS

# What strangers send is no news; the metrics count it.
_SILENT = logging.getLogger("e2e_deploy.serve.connection")
_SILENT.propagate = False
_SILENT.addHandler(logging.NullHandler())


def connection_class(stuck_s: float) -> Any:
    """A class of uvicorn's protocol for HTTP/1.1 with the limits of this server.

    uvicorn waits for ever for the head of a request and for clients that do not read, and takes a client that closes
    its half of a connection for gone, though it may still wait for its answer.

    Args:
        stuck_s: seconds in which a client must have taken an answer.

    Raises:
        UnavailableError: uvicorn is not installed.
    """
    library = require("uvicorn.protocols.http.h11_impl", "serve")
    base: Any = library.H11Protocol

    class Connection(base):  # type: ignore[misc]
        """One connection."""

        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            self.logger = _SILENT
            self._head: asyncio.TimerHandle | None = None
            self._stuck: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            """Take a client, unless there are too many: their connections alone cost files and memory."""
            super().connection_made(transport)
            if len(self.connections) > MAX_CONNECTIONS:
                transport.abort()
                return
            self._watch_head()

        def connection_lost(self, error: Exception | None) -> None:
            """Forget it."""
            for timer in (self._head, self._stuck):
                if timer is not None:
                    timer.cancel()
            super().connection_lost(error)
            self._unset_keepalive_if_required()  # uvicorn leaves it where there was an error

        def data_received(self, data: bytes) -> None:
            """Bytes of a request; those of a head must all come soon."""
            super().data_received(data)
            self._watch_head()

        def on_response_complete(self) -> None:
            """Wait for the next request; the head of one that came meanwhile is half there at most."""
            super().on_response_complete()
            self._watch_head()

        def eof_received(self) -> bool:
            """The client sends no more: what it has asked for wholly it gets."""
            cycle = self.cycle
            if cycle is None or cycle.response_complete or cycle.more_body:
                return False
            cycle.keep_alive = False
            return True

        def pause_writing(self) -> None:
            """The client takes less than it is sent."""
            super().pause_writing()
            self._stuck = self.loop.call_later(stuck_s, self.transport.abort)

        def resume_writing(self) -> None:
            """It has taken it."""
            if self._stuck is not None:
                self._stuck.cancel()
                self._stuck = None
            super().resume_writing()

        def timeout_keep_alive_handler(self) -> None:
            """Nothing came after an answer; a client that has not taken the answer is not waited for either."""
            super().timeout_keep_alive_handler()
            self.loop.call_later(stuck_s, self.transport.abort)

        def shutdown(self) -> None:
            """The server ends."""
            super().shutdown()
            if self.transport.is_closing():
                self.loop.call_later(stuck_s, self.transport.abort)

        def _watch_head(self) -> None:
            """Start or stop the time for a head, by whether one is awaited."""
            cycle = self.cycle
            awaited = (cycle is None or cycle.response_complete) and not self.transport.is_closing()
            if awaited and self._head is None:
                self._head = self.loop.call_later(HEADERS_S, self.transport.abort)
            elif not awaited and self._head is not None:
                self._head.cancel()
                self._head = None

    return Connection

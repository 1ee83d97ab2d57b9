"""A WebSocket server for Foxglove: the messages of ROS 2 with their definitions, as a robot's bridge would serve them.

It is on this machine only unless another host is named. Foxglove's own app is a web page, so the server answers pages
of every origin (foxglove-sdk has no check); it takes nothing from them but what they want to see.
"""

import logging
import time
from pathlib import Path
from typing import Any

from e2e_deploy.errors import UnavailableError
from e2e_deploy.packages import require
from e2e_deploy.runtime.backends.layout import Outcome
from e2e_deploy.runtime.ros.cdr import definition, serialise
from e2e_deploy.runtime.ros.topics import Published
from e2e_deploy.runtime.sinks.live.addresses import Place, url_host
from e2e_deploy.runtime.sinks.live.live_sink import LiveSink, message_of
from e2e_deploy.runtime.sinks.opening import Opening
from e2e_deploy.runtime.sources.source import SourceFrame
from e2e_deploy.runtime.steps.step import Facts

PORT = 8765
SETTLED_S = 1.0  # foxglove-sdk tells of a subscriber before it sends to it
BACKLOG = 16  # messages that wait for a client, about two frames of them; then the oldest goes


class FoxgloveSink(LiveSink):
    """Serves the newest results to Foxglove; only what somebody looks at is serialised.

    Args:
        out: ``foxglove:``, ``foxglove:PORT`` (0 takes a free one) or ``foxglove:HOST:PORT``, and ``?prefix=/robot``.
        opening: what it is opened for.

    Attributes:
        url: that Foxglove opens.

    Raises:
        UnavailableError: the port is taken, the host is none of this machine's, or a package is not installed.
        UsageError: no such address.
    """

    def __init__(self, out: str, opening: Opening) -> None:
        place = Place.parse(out, ("prefix",))
        host, port = place.socket(PORT)
        super().__init__(opening, place.settings.get("prefix", ""))
        self._foxglove = require("foxglove", "robotics")
        # What clients do wrong is no news to print; a program that has logging of its own still gets it.
        logging.getLogger("foxglove").addHandler(logging.NullHandler())
        self._channels: dict[str, Any] = {}
        self._latched: dict[str, bytes] = {}
        self._wanted: dict[str, float] = {}  # topics and when somebody subscribed last
        self._context = self._foxglove.Context()
        # Now: a client that is there when a channel comes may subscribe to it too early for the server's own good.
        for topic, message, _ in self._topics.advertised(is_metric=opening.is_metric):
            self._channel(topic, message.type_name)
        try:
            self._server = self._foxglove.start_server(
                name="e2e-deploy",
                host=host,
                port=port,
                context=self._context,
                server_listener=_Listener(self._wanted),
                message_backlog_size=BACKLOG,
            )
        except RuntimeError as error:
            raise UnavailableError(
                f"the server for Foxglove cannot use {url_host(host)}:{port}: {message_of(error)}; name another port, "
                "0 takes any that is free"
            ) from None
        self.url = f"ws://{url_host(host)}:{self._server.port}"
        self.name = f"Foxglove {self.url}"

    def write(self, frame: SourceFrame, result: Outcome, facts: Facts) -> None:
        """Send a frame and its results, and what is latched to those who came just now."""
        super().write(frame, result, facts)
        for topic, since_s in list(self._wanted.items()):
            if time.monotonic() - since_s > SETTLED_S:
                del self._wanted[topic]  # after this last time
            if topic in self._latched:
                self._channels[topic].log(self._latched[topic], log_time=self.stamp_ns)

    def send(self, published: Published) -> None:
        """Send a message to those who look at its topic."""
        topic, message = published.topic, published.message
        channel = self._channel(topic, message.type_name)
        if not (published.latched or channel.has_sinks()):
            return
        data = serialise(message)
        if published.latched:
            self._latched[topic] = data
        channel.log(data, log_time=self.stamp_ns)

    def close(self) -> list[Path]:
        """End the server; no file was written."""
        self._server.stop()
        for channel in self._channels.values():
            channel.close()
        return []

    def _channel(self, topic: str, type_name: str) -> Any:
        if topic not in self._channels:
            schema = self._foxglove.Schema(
                name=type_name, encoding="ros2msg", data=definition(type_name).encode()
            )
            self._channels[topic] = self._foxglove.Channel(
                topic, message_encoding="cdr", schema=schema, context=self._context
            )
        return self._channels[topic]


class _Listener:
    """What the server calls, in a thread of its own: no message is sent there, where it may hold a lock."""

    def __init__(self, wanted: dict[str, float]) -> None:
        self._wanted = wanted

    def on_subscribe(self, client: Any, channel: Any) -> None:
        self._wanted[channel.topic] = time.monotonic()

    def on_unsubscribe(self, client: Any, channel: Any) -> None:
        """Nothing is kept of a client."""

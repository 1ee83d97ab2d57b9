"""The messages of ROS 2 on Zenoh, as zenoh-bridge-ros2dds exchanges them.

A topic's name without its first slash is the key, and the bytes of CDR are the value (zenoh-plugin-ros2dds 1.x).
rmw_zenoh has other keys and an attachment, and is not served.

Nothing is looked for on the network: who wants the messages connects to this process, on this machine only, or this
process to the router, bridge or peer that is named.
"""

import json
import re
from pathlib import Path
from typing import Any

from e2e_deploy.errors import E2EDeployError, UnavailableError, UsageError
from e2e_deploy.packages import require
from e2e_deploy.runtime.ros.cdr import serialise
from e2e_deploy.runtime.ros.topics import Published
from e2e_deploy.runtime.sinks.live.addresses import LOOPBACK, Place
from e2e_deploy.runtime.sinks.live.live_sink import LiveSink, message_of
from e2e_deploy.runtime.sinks.opening import Opening

LISTENS = f"tcp/{LOOPBACK}:7447"  # where Zenoh's programs look by themselves
PATIENCE_MS = 3000
_ENDPOINT = re.compile(
    r"(tcp|udp|tls|quic|ws)/([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):[0-9]{1,5}"
)


class ZenohSink(LiveSink):
    """Publishes results; what nobody subscribes to is not even serialised, and what a link cannot take is dropped.

    Args:
        out: ``zenoh:`` listens at LISTENS, ``zenoh:tcp/HOST:PORT`` connects; settings are ``prefix=/robot`` of the
            topics, ``listen=tcp/HOST:PORT`` instead, and ``scouting=on``, which looks for others by multicast.
        opening: what it is opened for.

    Raises:
        UnavailableError: nobody answers there, the port is taken, or a package is not installed.
        UsageError: no such address.
    """

    def __init__(self, out: str, opening: Opening) -> None:
        place = Place.parse(out, ("prefix", "listen", "scouting"))
        connects, listens = place.where, place.settings.get("listen", "")
        scouting = place.settings.get("scouting", "off")
        if scouting not in ("on", "off"):
            raise UsageError(f"`out` {place.out}: scouting is on or off")
        if not connects and not listens:
            listens = LISTENS
        for endpoint in filter(None, (connects, listens)):
            if not _ENDPOINT.fullmatch(endpoint):
                raise UsageError(
                    f"`out` {place.out} names no endpoint of Zenoh; that is PROTOCOL/HOST:PORT, such as {LISTENS}"
                )
        super().__init__(opening, place.settings.get("prefix", ""))
        self._zenoh = require("zenoh", "robotics")
        require("rosbags", "robotics")  # now, and not with the first frame
        self.name = f"Zenoh {connects or listens}"
        self._publishers: dict[str, Any] = {}
        self._session = self._open(connects, listens, scouting=scouting == "on")
        for topic, message, latched in self._topics.advertised(is_metric=opening.is_metric):
            self._publisher(topic, message.type_name, latched=latched)

    def send(self, published: Published) -> None:
        """Publish a message, if somebody wants it or may ask for it later.

        Raises:
            E2EDeployError: Zenoh has ended.
        """
        try:
            publisher = self._publisher(
                published.topic, published.message.type_name, latched=published.latched
            )
            if published.latched or publisher.matching_status.matching:
                publisher.put(serialise(published.message))
        except self._zenoh.ZError as error:
            raise E2EDeployError(f"{self.name} takes nothing more: {message_of(error)}") from None

    def close(self) -> list[Path]:
        """End the session; no file was written."""
        self._session.close()
        return []

    def _open(self, connects: str, listens: str, *, scouting: bool) -> Any:
        settings = {
            "mode": "peer",
            "connect/endpoints": [connects] if connects else [],
            "connect/timeout_ms": PATIENCE_MS,
            "connect/exit_on_failure": True,
            "listen/endpoints": [listens] if listens else [],
            "listen/exit_on_failure": True,
            "scouting/multicast/enabled": scouting,
            "timestamping/enabled": True,  # by which the last message of a topic is kept
            "transport/shared_memory/enabled": False,  # a process that is killed would leave it behind
        }
        config = self._zenoh.Config()
        for key, value in settings.items():
            config.insert_json5(key, json.dumps(value))
        try:
            return self._zenoh.open(config)
        except self._zenoh.ZError as error:
            said = message_of(error)
            what = (
                f"nobody answers at {connects} within {PATIENCE_MS / 1000:g} s: start the router, bridge or peer first"
                if connects and "connect" in said.lower()
                else f"Zenoh cannot listen at {listens} ({said}): to reach the router, bridge or peer that is there, "
                f"give zenoh:{listens}; to listen elsewhere, zenoh:?listen=tcp/{LOOPBACK}:7448"
            )
            raise UnavailableError(what) from None

    def _publisher(self, topic: str, type_name: str, *, latched: bool) -> Any:
        if topic not in self._publishers:
            zenoh, key = self._zenoh, topic.removeprefix("/")
            how = {
                "encoding": zenoh.Encoding.APPLICATION_CDR.with_schema(type_name),
                "congestion_control": zenoh.CongestionControl.DROP,
            }
            if latched:  # the bridge asks for its last message, as others may
                ext = zenoh.ext
                self._publishers[topic] = ext.declare_advanced_publisher(
                    self._session, key, **how, cache=ext.CacheConfig(1), publisher_detection=True
                )
            else:
                self._publishers[topic] = self._session.declare_publisher(key, **how)
        return self._publishers[topic]

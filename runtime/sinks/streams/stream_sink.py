"""The sink that sends coloured results as a live video: to a receiver, or to all that connect."""

import socket
import threading
from contextlib import suppress
from pathlib import Path

from e2e_deploy.errors import E2EDeployError
from e2e_deploy.runtime.backends.layout import Outcome
from e2e_deploy.runtime.sinks.sink import Canvas, Painter
from e2e_deploy.runtime.sinks.streams.address import parse_address
from e2e_deploy.runtime.sinks.streams.encoder import LiveEncoder
from e2e_deploy.runtime.sinks.streams.links import Link, TcpLink, UdpLink, reached, why
from e2e_deploy.runtime.sinks.streams.pace import Pace
from e2e_deploy.runtime.sinks.streams.packing import described, mpeg_ts, rtp
from e2e_deploy.runtime.sinks.streams.receiver import Audience, Receiver
from e2e_deploy.runtime.sinks.streams.rtsp.conversation import RtspConversation
from e2e_deploy.runtime.sinks.streams.rtsp.publisher import published
from e2e_deploy.runtime.sinks.streams.server import Server
from e2e_deploy.runtime.sinks.video_file import PICTURES_FPS
from e2e_deploy.runtime.sources.source import SourceFrame
from e2e_deploy.runtime.steps.step import Facts

DESCRIBE_S = 4.0  # for which a client waits for the first frame


class StreamSink:
    """H.264 of the results, alone or beside the frames: over RTSP, or as MPEG-TS over UDP or TCP.

    A stream runs in real time: frames of a live source at the times of their capture, those of a file at its own. A
    receiver that is slow or away costs the run nothing; it misses frames, and begins again at a key frame.

    Args:
        address: ``udp://host:port``, ``tcp://host:port`` or ``rtsp://host/path``; with ``?listen`` served here.
        painter: colours the results.
        fps: average rate of the source; None takes PICTURES_FPS.
        live: whether the source is.
        side_by_side: the frame on the left.

    Attributes:
        name: scheme, host and port.
        port: of the address, where it is served the one that was taken.
        dropped: frames that did not reach a receiver that was there before; of all receivers.

    Raises:
        UsageError: another address.
        UnavailableError: the port is taken, or there is no encoder.
        E2EDeployError: nobody is there, or the stream is refused.
    """

    on_main_thread = False

    def __init__(
        self,
        address: str,
        painter: Painter,
        *,
        fps: float | None,
        live: bool,
        side_by_side: bool,
    ) -> None:
        self._address = parse_address(address)
        self.name, rate = self._address.name, fps or PICTURES_FPS
        self._encoder = LiveEncoder(self.name, rate)
        self._packing = rtp(rate) if self._address.scheme == "rtsp" else mpeg_ts(rate)
        self._pace = Pace(live=live, fps=rate)
        self._audience = Audience()
        self._key: bytes | None = None  # the last key frame; all have the same parameter sets
        self._began = threading.Event()
        self._server: Server | None = None
        if self._address.listen:
            self._server = Server(self._address, self._talk)
            self._address = self._address.at(self._server.port)
            self.name = self._address.name
        else:
            try:
                receiver = Receiver(self._connect(), self._connect)
            except OSError as error:
                refused = isinstance(error, ConnectionRefusedError)
                hint = "; with ?listen at its end it is served here, and others connect"
                hint = hint if refused else ""
                raise E2EDeployError(
                    f"nobody takes the stream at {self.name}: {why(error)}{hint}"
                ) from None
            self._audience.add(receiver)
            receiver.start()
        self.port = self._address.port
        self._canvas = Canvas(painter, self.name, side_by_side=side_by_side)

    @property
    def dropped(self) -> int:
        """Frames that did not reach a receiver."""
        return self._audience.dropped

    def write(self, frame: SourceFrame, result: Outcome, facts: Facts) -> None:
        """Send one frame to those who are there.

        Raises:
            UsageError: a picture of another size than the first.
            E2EDeployError: it cannot be encoded.
        """
        time_s = self._pace(frame)
        if self._key is not None and not self._audience.all:
            return  # nobody looks
        picture = self._canvas(frame, result, facts)
        coded = self._encoder(picture, time_s, key=self._audience.wants_key)
        if coded.is_key:
            self._key = coded.data
            self._began.set()
        self._audience.put(self._packing(coded))

    def close(self) -> list[Path]:
        """End the stream; no file was written.

        Raises:
            E2EDeployError: its receiver was lost and did not come back.
        """
        self._audience.close(self._packing.close())
        if self._server is not None:
            self._server.close()
            return []
        for receiver in self._audience.all:
            if receiver.lost:
                raise E2EDeployError(f"{self.name} was lost and did not come back: {receiver.lost}")
        return []

    def _connect(self) -> Link:
        address = self._address
        if address.scheme == "rtsp":
            return published(address, described(self._key))
        if address.scheme == "tcp":
            return TcpLink(reached(address.host, address.port, socket.SOCK_STREAM))
        return UdpLink(reached(address.host, address.port, socket.SOCK_DGRAM))

    def _talk(self, connection: socket.socket) -> None:
        """Serve one connection until it ends."""
        if self._address.scheme == "rtsp":
            RtspConversation(connection, self._address, self._sdp, self._audience).run()
            return
        receiver = Receiver(TcpLink(connection))
        if not self._audience.add(receiver):
            return
        receiver.start()
        try:
            while not receiver.gone:
                with suppress(TimeoutError):
                    if not connection.recv(4096):  # it left; what it says is of no interest
                        return
        finally:
            self._audience.remove(receiver)

    def _sdp(self) -> str | None:
        return described(self._key) if self._began.wait(DESCRIBE_S) else None

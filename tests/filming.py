"""A camera that films into a stream of ours, and receivers that know nothing of us: FFmpeg's."""

import io
import itertools
import socket
import threading
import time
from dataclasses import replace

import av
import numpy as np

from e2e_deploy.runtime.sinks.sink import Painter
from e2e_deploy.runtime.sinks.streams.stream_sink import StreamSink
from e2e_deploy.runtime.sources.pattern import PatternSource, read_number
from tests.plain_bundle import plain_depth

HW = (96, 160)
FPS = 30


class Filming:
    """A sink that is fed, and what was painted: number: uint8 RGB [H, W, 3]; number: when its frame was captured."""

    def __init__(self, manifest, address, *, side_by_side=False, live=True, hw=HW):
        self.manifest, self._hw = manifest, hw
        self.painted, self.captured_s = {}, {}
        self.sink = StreamSink(
            address, self._painter(), fps=FPS, live=live, side_by_side=side_by_side
        )
        self._source = iter(PatternSource(*hw, fps=0))
        self._own = self._painter()

    def _painter(self):
        painter = Painter(self.manifest, "spectral", is_video=True)
        painter.fixed = (0.0, 1.0)  # each picture is known, whichever came before
        return painter

    def write(self, captured_s):
        """One frame that was captured then."""
        frame = replace(next(self._source), captured_s=captured_s)
        depth = plain_depth(frame.rgb).astype(np.float32)
        self.painted[frame.index] = self._own(depth, {})
        self.captured_s[frame.index] = captured_s
        self.sink.write(frame, depth, {})
        return frame.index

    def film(self, stop):
        """Frames in real time, until ``stop`` is set."""
        start_s = time.monotonic()
        for number in itertools.count():
            if stop.wait(max(0.0, start_s + number / FPS - time.monotonic())):
                return
            self.write(start_s + number / FPS)


def served_at(camera, path="", credentials=""):
    """The address that receivers open."""
    scheme = camera.sink.name.partition(":")[0]
    return f"{scheme}://{credentials}127.0.0.1:{camera.sink.port}{path}"


def received(url, count=None, **options):
    """(RGB, FFmpeg's frame) of the first ``count`` frames that FFmpeg gets there; of all to its end if None."""
    quick = {"fflags": "nobuffer", "analyzeduration": "100000", "rtsp_transport": "tcp"}
    form = "rtsp" if url.startswith("rtsp") else "mpegts"
    with av.open(url, format=form, options=quick | options, timeout=5) as container:
        return list(decoded(container, count))


def decoded(container, count=None):
    """As ``received``, of an open container."""
    stream = container.streams.video[0]
    stream.thread_type = "SLICE"
    for frame in itertools.islice(container.decode(stream), count):
        yield frame.to_ndarray(format="rgb24"), frame


def decoded_bytes(data, count=None):
    """As ``received``, of MPEG-TS that came."""
    with av.open(io.BytesIO(data), format="mpegts") as container:
        return list(decoded(container, count))


def numbers_of(frames):
    """The numbers that were painted into the frames on the left, before they were coded."""
    return [read_number(rgb[:, : HW[1]]) for rgb, _ in frames]


class Listener:
    """Takes connections one after the other; ``parts`` are their bytes."""

    def __init__(self, leave_after=None):
        self.parts, self._leave_after = [], leave_after or []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            number = len(self.parts)
            self.parts.append(b"")
            limit = self._leave_after[number] if number < len(self._leave_after) else float("inf")
            with connection:
                while len(self.parts[number]) < limit and (data := connection.recv(65536)):
                    self.parts[number] += data

    def wait(self, number, size):
        """Until so many bytes came over that connection."""
        until_s = time.monotonic() + 10
        while len(self.parts) <= number or len(self.parts[number]) < size:
            assert time.monotonic() < until_s, "too little came"
            time.sleep(0.01)

    def leave(self):
        """Take no further connection."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)

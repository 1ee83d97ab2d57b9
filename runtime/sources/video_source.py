"""Video files as a source, decoded on the CPU by FFmpeg (PyAV)."""

from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path

import av
from av.container.input import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from e2e_deploy.errors import SourceError
from e2e_deploy.runtime.sources.source import BaseSource, SourceFrame, check_size
from e2e_deploy.runtime.sources.video.completeness import PacketReader
from e2e_deploy.runtime.sources.video.decoding import (
    METADATA_ERRORS,
    MOST_HELD,
    Decoded,
    Decoder,
    choose_stream,
    frames_per_second,
    reason,
)
from e2e_deploy.runtime.sources.video.frame_filter import Look
from e2e_deploy.runtime.sources.video.order import in_order
from e2e_deploy.runtime.sources.video.timeline import FrameTime, Timeline
from e2e_deploy.system.files import open_regular

# What FFmpeg may read: this file, as one of these containers. Playlists (HLS, DASH, concat) are not among them,
# because they open other files and network addresses.
_ONE_LOCAL_FILE = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,ivf,mxf,nut,dv,h264,hevc,mjpeg,"
    "yuv4mpegpipe",
}


class VideoSource(BaseSource):
    """A video file, every frame of it, upright, with square pixels and in SDR colours.

    ``fps`` is the average or guessed rate and times nothing: every frame has its own time. ``total`` is what the header
    says, which need not be true.

    Args:
        path: of the file.
        stream: index of a video stream among all of the file's; None takes the best.

    Raises:
        SourceError: not a video, or no such stream; or, while iterating, the file ends early.
    """

    def __init__(self, path: Path, *, stream: int | None = None) -> None:
        super().__init__(str(path), files=[path])
        self._path, self._wanted = path, stream
        with self.open() as container:
            video = choose_stream(container, self.name, stream)
            self.fps = frames_per_second(video)
            self.total = video.frames or None
            height, width = video.codec_context.height, video.codec_context.width
            if not height:
                raise SourceError(
                    f"{self.name} is not a video that can be decoded: it does not say its size"
                )
            check_size(self.name, height, width)

    def open(self) -> InputContainer:
        """The file, opened by FFmpeg; to be closed by whoever calls.

        Raises:
            SourceError: it cannot be read, or is no video.
        """
        try:
            open_regular(self._path).close()
            return av.open(
                f"file:{self._path}", options=_ONE_LOCAL_FILE, metadata_errors=METADATA_ERRORS
            )
        except (OSError, av.FFmpegError) as error:
            raise SourceError(
                f"{self.name} is not a video that can be decoded: {reason(error)}"
            ) from None

    def __iter__(self) -> Iterator[SourceFrame]:
        self._begin()
        count = 0
        duration_s, broken = 0.0, ""
        with self.open() as container:
            stream = choose_stream(container, self.name, self._wanted)
            stream.thread_type = "AUTO"
            packets = PacketReader(self._path, container, stream)
            decoder = Decoder(container, stream, self)
            timeline = Timeline(decoder.start_s, self.note)
            try:
                for rgb, stamp_s, duration_s in self._pictures(packets, decoder):
                    time = timeline.place(stamp_s, duration_s)
                    yield SourceFrame(
                        rgb,
                        count,
                        time.pts_s,
                        self._path.stem,
                        source=self.name,
                        shown_s=time.shown_s,
                        duration_s=time.duration_s,
                    )
                    count += 1
            except av.FFmpegError as error:
                broken = reason(error)
            if missing := packets.missing(duration_s):
                raise SourceError(
                    f"{self.name} is cut off: {missing}; {count} frames could be decoded"
                )
            if broken:
                raise SourceError(f"{self.name} breaks off after frame {count}: {broken}")
        if count == 0:
            why = f": {decoder.why}" if decoder.why else ""
            raise SourceError(f"{self.name} holds no frame that can be decoded{why}")

    def _pictures(self, packets: PacketReader, decoder: Decoder) -> Iterator[Decoded]:
        """All of them.

        A decoder's threads are some packets ahead, and PyAV (18.1) asks no further for what they hold at the end once
        one of them met damage. So the last ones are decoded again then, by one thread.
        """
        keys = deque([0])  # the last one that MOST_HELD packets follow, and later ones
        last_s, skipped = float("-inf"), 0  # of the last frame, and what was left out until it
        for number, packet in enumerate(packets):
            if packet.is_keyframe:
                keys.append(number)
            if len(keys) > 1 and keys[1] <= number - MOST_HELD:
                keys.popleft()
            for each in decoder(packet):
                last_s, skipped = last_s if each.pts_s is None else each.pts_s, self.skipped
                yield each
        most = self.skipped
        for each in decoder(None):
            last_s, skipped = last_s if each.pts_s is None else each.pts_s, self.skipped
            yield each
        if waiting := {time_s for time_s in decoder.waiting_s if time_s > last_s}:
            again = BaseSource(self.name)
            for each in self._from(keys[0], again):
                if each.pts_s in waiting:
                    waiting.remove(each.pts_s)
                    yield each
            self.skipped = max(most, skipped + min(len(waiting), again.skipped))

    def _from(self, number: int, source: BaseSource) -> Iterator[Decoded]:
        """The pictures from a packet on, by one thread, told to ``source``."""
        with self.open() as container:
            stream = choose_stream(container, self.name, self._wanted)
            stream.thread_count = 1
            decoder = Decoder(container, stream, source)
            packets = islice(PacketReader(self._path, container, stream), number, None)
            for packet in chain(packets, [None]):
                yield from decoder(packet)

    def _not_trimmed(self, packet: "Packet[VideoStream]") -> "Packet[VideoStream]":
        if packet.is_discard:
            raise SourceError(
                f"{self.name} was trimmed without encoding it again: decode it on the CPU"
            )
        return packet

    def first_look(self) -> tuple[Look, bool]:
        """How its first picture is stored, and whether it is from the best video stream.

        Raises:
            SourceError: there is none.
        """
        with self.open() as container:
            stream = choose_stream(container, self.name, self._wanted)
            best = container.streams.best("video")
            with suppress(av.FFmpegError):
                for picture in container.decode(stream):
                    look = Look.of(picture, stream.sample_aspect_ratio)
                    return look, best is not None and best.index == stream.index
        raise SourceError(f"{self.name} holds no frame that can be decoded")

    def times(self) -> Iterator[FrameTime]:
        """The times of its frames, in the order of presentation; nothing is decoded.

        Raises:
            SourceError: frames are there that must not be shown; or the file ends early.
        """
        with self.open() as container:
            stream = choose_stream(container, self.name, self._wanted)
            packets = PacketReader(self._path, container, stream)
            decoder = Decoder(container, stream, self)
            timeline = Timeline(decoder.start_s, self.note)
            time = FrameTime(None, None, 0.0)
            for shown in in_order(map(self._not_trimmed, packets), decoder, timeline):
                time = shown.time
                yield time
            if missing := packets.missing(time.duration_s):
                raise SourceError(f"{self.name} is cut off: {missing}")

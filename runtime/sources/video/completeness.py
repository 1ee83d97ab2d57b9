"""Whether a video file ends early. A number of samples in a header is no promise; what shows it is this.

- Bytes: the sample table (mp4, mov), segment (mkv, webm), list of chunks (avi), header (wmv) or last packet (ts) says
  more than the file holds.
- Time: the header's duration (mkv, webm, flv) is longer than what came.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import av
from av.container.input import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from e2e_deploy.runtime.sources.video.decoding import reason
from e2e_deploy.system.files import open_regular

LOOSE_S = 1.0  # by which a header may say too much in a file that lacks no byte
_SEGMENT = b"\x18\x53\x80\x67"
_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_TIMED = ("matroska", "flv")


class PacketReader:
    """The packets of one stream of a file, in the file's order, and whether it ends early.

    Args:
        path: of the file.
        container: it, opened.
        stream: to read.
    """

    def __init__(self, path: Path, container: InputContainer, stream: VideoStream) -> None:
        self._path, self._container, self._stream = path, container, stream
        # Where packets end, in the container's time: of any stream, and of pictures and sound alone.
        self._end_s = self._seen_or_heard_s = 0.0
        self._broken = ""

    def __iter__(self) -> "Iterator[Packet[VideoStream]]":
        """Until the end, or until FFmpeg can read no further; packets without data are left out."""
        try:
            for packet in self._container.demux():
                stamp = packet.dts if packet.pts is None else packet.pts
                if stamp is not None and packet.time_base is not None:
                    end_s = float((stamp + (packet.duration or 0)) * packet.time_base)
                    self._end_s = max(self._end_s, end_s)
                    if packet.stream.type in ("video", "audio"):  # a subtitle may last for an hour
                        self._seen_or_heard_s = max(self._seen_or_heard_s, end_s)
                if packet.stream_index == self._stream.index and packet.size:
                    yield cast("Packet[VideoStream]", packet)
        except av.FFmpegError as error:
            self._broken = reason(error)

    def missing(self, frame_s: float) -> str:
        """What shows that the file ends early, once it was read, for people; empty for a whole one.

        Of a file that was moved or deleted meanwhile nothing can be asked, and it was read to its end.

        Args:
            frame_s: duration of a frame.
        """
        form = self._container.format.name.partition(",")[0]
        try:
            size = self._path.stat().st_size
            promised = _SIZES[form](self._path, self._stream, size) if form in _SIZES else size
        except FileNotFoundError:
            return self._broken
        lacks = f"{size:,} of {promised:,} bytes are there" if promised > size else ""
        if lacks and form not in _TIMED:
            return lacks
        if form in _TIMED and self._container.duration is not None:
            duration_s = self._container.duration / av.time_base
            end_s, slack_s = (
                (self._seen_or_heard_s, frame_s / 2) if lacks else (self._end_s, LOOSE_S)
            )
            if duration_s - end_s > slack_s:
                return lacks or f"it ends at {self._end_s:.2f} s of {duration_s:.2f} s"
        return self._broken


def _sample_table(path: Path, stream: VideoStream, size: int) -> int:
    return max((entry.pos + entry.size for entry in stream.index_entries), default=0)


def _segment(path: Path, stream: VideoStream, size: int) -> int:
    """End of the segment: its id, then its size, whose first byte's leading zeros say its length (RFC 8794, 4)."""
    head = _head(path, 4096)
    at = head.find(_SEGMENT) + len(_SEGMENT)
    if at < len(_SEGMENT) or len(head) < at + 8 or not head[at]:
        return 0
    length = 9 - head[at].bit_length()
    value = int.from_bytes(head[at : at + length]) & ((1 << 7 * length) - 1)
    unknown = value == (1 << 7 * length) - 1
    return 0 if unknown else at + length + value


def _movi_list(path: Path, stream: VideoStream, size: int) -> int:
    """End of the last list that holds pictures; what is lost behind it is but an index.

    From a gigabyte on there are several, each in a RIFF of its own (OpenDML).
    """
    end = at = 0
    with open_regular(path) as file:
        while at < size:
            file.seek(at)
            head = file.read(1 << 20)
            found = re.search(rb"LIST(.{4})movi", head, re.DOTALL)
            if head[:4] != b"RIFF" or found is None:
                break
            end = at + found.start() + 8 + int.from_bytes(found[1], "little")
            length = int.from_bytes(head[4:8], "little")
            at += 8 + length + length % 2
    return end


def _asf_size(path: Path, stream: VideoStream, size: int) -> int:
    """What the File Properties Object says (ASF specification, 3.2); 0 of a broadcast."""
    head = _head(path, 1 << 16)
    at = head.find(_FILE_PROPERTIES)
    return 0 if at < 0 else int.from_bytes(head[at + 40 : at + 48], "little")


def _transport_packets(path: Path, stream: VideoStream, size: int) -> int:
    """``size``, rounded up to whole packets: of 188 bytes, with a time stamp (m2ts) or parity before or after them."""
    head = _head(path, 5 * 204)
    for length in (188, 192, 204):
        start = 4 if length == 192 else 0
        if all(head[at : at + 1] == b"\x47" for at in range(start, 4 * length, length)):
            return -(-size // length) * length
    return size


def _head(path: Path, count: int) -> bytes:
    with open_regular(path) as file:
        return file.read(count)


_SIZES: dict[str, Callable[[Path, VideoStream, int], int]] = {
    "mov": _sample_table,
    "matroska": _segment,
    "avi": _movi_list,
    "asf": _asf_size,
    "mpegts": _transport_packets,
}

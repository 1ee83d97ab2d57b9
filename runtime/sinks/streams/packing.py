"""Coded frames as what goes over a network: MPEG-TS packets, or RTP packets with what describes them."""

import base64
import re
from fractions import Fraction
from typing import NamedTuple

import av

from e2e_deploy.runtime.sinks.streams.encoder import TICKS, Coded
from e2e_deploy.runtime.sinks.video_file import rate_of

RTP_TYPE = 96  # the first that has no fixed meaning
_MAX_RTP = 1400  # bytes, which fit any network with what is put around them
_PARAMETER_SETS = {7, 8}  # NAL unit types of H.264
_SPLIT = re.compile(b"\0\0\0?\1")


class Chunk(NamedTuple):
    """What one frame became.

    Attributes:
        parts: in the order of sending; of RTP one packet each.
        is_key: whether a receiver can begin with it.
    """

    parts: tuple[bytes, ...]
    is_key: bool


class _Written:
    """A file for a muxer, of which what came is taken away."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def taken(self) -> tuple[bytes, ...]:
        parts, self._parts = tuple(self._parts), []
        return parts


class Packing:
    """FFmpeg's muxer of one format, into memory."""

    def __init__(self, container: str, options: dict[str, str], fps: float) -> None:
        self._written = _Written()
        self._container = av.open(
            self._written, "w", format=container, options={"flush_packets": "1", **options}
        )
        self._stream = self._container.add_mux_stream("h264", rate=rate_of(fps))
        self._stream.time_base = Fraction(1, TICKS)

    def __call__(self, coded: Coded) -> Chunk:
        """Pack one frame."""
        packet = av.Packet(coded.data)
        packet.pts = packet.dts = coded.tick
        packet.time_base = Fraction(1, TICKS)
        packet.is_keyframe, packet.stream = coded.is_key, self._stream
        self._container.mux(packet)
        return Chunk(self._written.taken(), coded.is_key)

    def close(self) -> Chunk:
        """What says that nothing more comes."""
        self._container.close()
        return Chunk(self._written.taken(), is_key=False)


def mpeg_ts(fps: float) -> Packing:
    """Packets of 188 bytes; each frame with the tables, so that any key frame is one to begin with."""
    options = {
        "mpegts_flags": "pat_pmt_at_frames",
        "max_delay": "0",
        "omit_video_pes_length": "0",  # a receiver need not wait for the next frame to see where one ends
    }
    return Packing("mpegts", options, fps)


def rtp(fps: float) -> Packing:
    """RTP of RFC 6184 with RTCP's reports, and a goodbye at the end."""
    options = {"packetsize": f"{_MAX_RTP}", "payload_type": f"{RTP_TYPE}", "rtpflags": "send_bye"}
    return Packing("rtp", options, fps)


def is_control(packet: bytes) -> bool:
    """Whether it is RTCP and no RTP (RFC 5761, section 4)."""
    return 192 <= packet[1] <= 223


def described(key_frame: bytes | None) -> str:
    """The SDP of an H.264 stream over RTP; with a key frame in Annex B also its parameter sets (RFC 6184, 8.1)."""
    how = "packetization-mode=1"
    units = [unit for unit in _SPLIT.split(key_frame or b"") if unit]
    if sets := [unit for unit in units if unit[0] & 31 in _PARAMETER_SETS]:
        texts = ",".join(base64.b64encode(each).decode() for each in sets)
        how += f";profile-level-id={sets[0][1:4].hex().upper()};sprop-parameter-sets={texts}"
    lines = [
        "v=0",
        "o=- 0 0 IN IP4 127.0.0.1",
        "s=e2e-deploy",
        "c=IN IP4 0.0.0.0",
        "t=0 0",
        "a=control:*",
        f"m=video 0 RTP/AVP {RTP_TYPE}",
        f"a=rtpmap:{RTP_TYPE} H264/{TICKS}",
        f"a=fmtp:{RTP_TYPE} {how}",
        "a=control:video",
    ]
    return "\r\n".join([*lines, ""])

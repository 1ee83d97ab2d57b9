"""Packets of a video in the order of presentation, with the times of their frames; nothing is decoded."""

from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from typing import Any, NamedTuple

from e2e_deploy.runtime.sources.video.decoding import Decoder
from e2e_deploy.runtime.sources.video.timeline import FrameTime, Timeline

MOST_REORDERED = 16  # frames that any codec here may decode before one that is shown earlier


class Shown(NamedTuple):
    """A frame that was not decoded.

    Attributes:
        stamp_s: its time in seconds as the container says it, and the decoder will.
        time: its time among the others.
        number: of its packet, in the order of decoding.
    """

    stamp_s: float
    time: FrameTime
    number: int


def in_order(
    packets: Iterable[Any], decoder: Decoder, timeline: Timeline, codec: str = ""
) -> Iterator[Shown]:
    """The frames of packets as they will be shown. Packets that give no frame of their own are counted, and left out.

    Args:
        packets: in the order of decoding.
        decoder: of their stream.
        timeline: of their source.
        codec: by FFmpeg's name, where some packets may hold pictures that are not shown.
    """
    waiting: list[tuple[float, int, float]] = []
    stamp_s = duration_s = 0.0
    last: int | None = None
    for number, packet in enumerate(packets):
        if packet.is_discard or _is_hidden(codec, packet):
            continue
        back = last is not None and packet.dts is not None and packet.dts < last
        last = packet.dts if packet.dts is not None else last
        stamp_s, duration_s = decoder.packet_time(packet, stamp_s + duration_s)
        while waiting and (back or len(waiting) > MOST_REORDERED):
            yield _next(waiting, timeline)  # all of them, where a recording begins that was joined
        heappush(waiting, (stamp_s, number, duration_s))
    while waiting:
        yield _next(waiting, timeline)


def _next(waiting: list[tuple[float, int, float]], timeline: Timeline) -> Shown:
    stamp_s, number, duration_s = heappop(waiting)
    return Shown(stamp_s, timeline.place(stamp_s, duration_s), number)


def _is_hidden(codec: str, packet: Any) -> bool:
    """Whether a packet holds a picture that others refer to and nobody sees (RFC 6386, 9.1).

    In VP9 and AV1 such a picture shares its packet with one that is seen.
    """
    return codec == "vp8" and not memoryview(packet)[0] & 0x10

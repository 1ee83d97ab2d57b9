"""A video file in stretches that begin at key frames: found without decoding, and each decoded for itself.

Frames are those of ``VideoSource``, with the same pixels and times, whoever decodes which stretch.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import av
from av.container.input import InputContainer

from e2e_deploy.errors import SourceError
from e2e_deploy.runtime.sources.video.completeness import PacketReader
from e2e_deploy.runtime.sources.video.decoding import Decoded, Decoder, choose_stream
from e2e_deploy.runtime.sources.video.order import MOST_REORDERED, Shown, in_order
from e2e_deploy.runtime.sources.video.timeline import FrameTime, Timeline
from e2e_deploy.runtime.sources.video_source import VideoSource

LEAST = 64  # frames of a stretch: opening a file costs about as much as decoding a few
TRIED = 24  # first frames, which must be those that the packets promise
FULL = 0.75  # share of them that must come; others may be damaged


class Mark(NamedTuple):
    """What tells a packet from all others of its stream."""

    number: int
    dts: int | None
    pts: int | None
    pos: int | None
    size: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """Frames that can be decoded from one key frame on.

    Attributes:
        start: the packet of that; None begins with the file.
        before: that of the stretch before, the same for the first.
        packets: how many from ``start`` on hold its frames; None takes the whole file, in which their
            numbers alone tell frames.
        interlaced: pictures are of two moments, and are deinterlaced by those beside them.
    """

    start: Mark | None
    before: Mark | None
    packets: int | None
    interlaced: bool


@dataclass(frozen=True)
class Plan:
    """All frames of a file.

    Attributes:
        frames: in order of presentation, each with its stretch.
        missing: what shows that the file ends early, for people; empty for a whole one.
        notes: what was found out, a sentence each.
    """

    frames: list[tuple[Shown, Stretch]]
    missing: str
    notes: list[str] = field(default_factory=list)


def plan(path: Path, least: int = LEAST) -> Plan:
    """The frames of a video file, by its packets; only the first few are decoded.

    Where packets are not what frames come of (fields, times that are not stored), all are decoded once, and the file is
    one stretch.

    Args:
        path: of the file.
        least: frames that a stretch holds at least.

    Raises:
        SourceError: it is no video, or holds no frame.
    """
    source = VideoSource(path)
    keys: dict[int, Mark] = {}
    with source.open() as container:
        stream = choose_stream(container, source.name)
        packets = PacketReader(path, container, stream)
        decoder = Decoder(container, stream, source)
        timeline = Timeline(decoder.start_s, source.note)
        marked = _marking(packets, keys)
        shown = list(in_order(marked, decoder, timeline, stream.codec_context.name))
        missing = packets.missing(shown[-1].time.duration_s if shown else 0.0)
    first, interlaced = _first_look(source)
    found = _agreed(shown, first)
    if found is None:
        return _counted(source)
    stretches = _cut(found, keys, least, interlaced=interlaced)
    return Plan(list(zip(found, stretches, strict=True)), missing, source.notes)


def _marking(packets: PacketReader, keys: dict[int, Mark]) -> Iterator[Any]:
    for number, packet in enumerate(packets):
        if packet.is_keyframe:
            keys[number] = _mark(number, packet)
        yield packet


def _mark(number: int, packet: Any) -> Mark:
    return Mark(number, packet.dts, packet.pts, packet.pos, packet.size)


def _first_look(source: VideoSource) -> tuple[list[float | None], bool]:
    """The times of the first frames as they are decoded, and whether any picture was interlaced."""
    times: list[float | None] = []
    with source.open() as container:
        stream = choose_stream(container, source.name)
        decoder = Decoder(container, stream, source)
        if stream.codec_context.has_b_frames and container.format.name == "avi":
            return [None], False  # it stores the order of decoding, and no times
        stream.thread_count = 1
        packets = PacketReader(source.files[0], container, stream)
        frames = _decoded(decoder, packets)
        with suppress(av.FFmpegError):  # of what is damaged each frame says so when it is its turn
            times += [each.pts_s for each in islice(frames, TRIED)]
        return times, decoder.is_interlaced


def _agreed(shown: list[Shown], first: list[float | None]) -> list[Shown] | None:
    """Those of the promised frames that come, if frames come as their packets promise; else None.

    A recording that begins in the middle of another has packets at first whose frames need what is not there. A few
    others may be damaged; where every second one gives no frame, packets hold fields.
    """
    stamps: list[float | None] = [each.stamp_s for each in shown]
    if not first or None in first or not set(first) <= set(stamps):
        return None
    begin, end = stamps.index(first[0]), stamps.index(first[-1])
    return shown[begin:] if len(first) >= FULL * (end + 1 - begin) else None


def _counted(source: VideoSource) -> Plan:
    """By decoding all of them."""
    stretch = Stretch(None, None, None, interlaced=False)
    frames, missing = [], ""
    try:
        for frame in source:
            time = FrameTime(frame.pts_s, frame.shown_s, frame.duration_s)
            frames.append((Shown(0.0, time, 0), stretch))
    except SourceError as error:
        if not frames:
            raise
        missing = str(error)
    source.note(
        f"{source.name} was decoded once to count its frames, since its packets do not tell"
    )
    return Plan(frames, missing, source.notes)


def _cut(
    shown: list[Shown], keys: dict[int, Mark], least: int, *, interlaced: bool
) -> Iterator[Stretch]:
    """The stretch of each frame. A key frame begins one: what is shown from there on needs nothing from before it."""
    lowest, sound = shown[-1].number, []
    for at in range(len(shown) - 1, 0, -1):
        lowest = min(lowest, shown[at].number)
        if shown[at].number == lowest and lowest in keys:  # no later one is stored before it
            sound.append(at)
    begins = [0]
    for at in reversed(sound):
        if at - begins[-1] >= least:
            begins.append(at)
    before = start = None
    for begin, end in zip(begins, [*begins[1:], len(shown)], strict=True):
        before, start = start, keys[shown[begin].number] if begin else None
        last = max(frame.number for frame in shown[begin:end])
        stretch = Stretch(start, before, last + 1 - (start.number if start else 0), interlaced)
        yield from [stretch] * (end - begin)


def frames_of(
    source: VideoSource, stretch: Stretch, wanted: Sequence[tuple[int, float]]
) -> Iterator[Decoded | str]:
    """Frames of a stretch, in order, each as soon as it is decoded; a text says why one cannot be.

    Args:
        source: the file; counts what is damaged, and takes notes.
        stretch: of its plan.
        wanted: which frames of it, in order: their places in the plan, and ``Shown.stamp_s``.

    Raises:
        SourceError: it cannot be read, or is not what was planned.
    """
    if stretch.packets is None:
        yield from _by_number(source, [number for number, _ in wanted])
        return
    waiting = deque(stamp_s for _, stamp_s in wanted)
    left = Counter[float | None](waiting)
    # A decoder that began at the key frame may lack what makes a frame whole: so again from the one before.
    for is_last in (False, True):
        margin = is_last or stretch.interlaced
        with source.open() as container, suppress(av.FFmpegError):
            reading = _Reading(source, container, stretch, margin=margin)
            for picture in reading:
                if reading.lacks_neighbours:
                    break
                if not left[picture.pts_s]:
                    continue
                while is_last and waiting[0] != picture.pts_s:
                    left[waiting[0]] -= 1
                    yield _damaged(source, waiting.popleft())
                if waiting[0] != picture.pts_s:
                    break
                left[waiting.popleft()] -= 1
                yield picture
                if not waiting:
                    return
    for stamp_s in waiting:
        yield _damaged(source, stamp_s)


def _damaged(source: VideoSource, stamp_s: float) -> str:
    return f"{source.name} is damaged at {stamp_s:.3f} s: no frame could be decoded"


def _by_number(source: VideoSource, numbers: Sequence[int]) -> Iterator[Decoded | str]:
    waiting = deque(numbers)
    for frame in source:
        if waiting and frame.index == waiting[0]:
            waiting.popleft()
            yield Decoded(frame.rgb, frame.pts_s, frame.duration_s)
        if not waiting:
            return
    for _ in waiting:
        yield f"{source.name} has fewer frames than when it was listed"


class _Reading:
    """The frames that come of a stretch's packets.

    Args:
        source: takes notes.
        container: it, opened.
        stretch: of it.
        margin: begin with the stretch before, and go on after the end, for pictures that need those beside them.
    """

    def __init__(
        self, source: VideoSource, container: InputContainer, stretch: Stretch, *, margin: bool
    ) -> None:
        assert stretch.packets is not None
        self._source, self._container, self._margin = source, container, margin
        self._mark = stretch.before if margin else stretch.start
        self._count = stretch.packets
        if margin:
            began, begins = (mark.number if mark else 0 for mark in (stretch.before, stretch.start))
            self._count += begins - began + MOST_REORDERED
        self._stream = choose_stream(container, source.name)
        self._stream.thread_count = 1  # others decode beside this one
        self._decoder = Decoder(container, self._stream, source)

    @property
    def lacks_neighbours(self) -> bool:
        """Whether pictures turn out to need those beside them, which were not asked for."""
        return self._decoder.is_interlaced and not self._margin

    def __iter__(self) -> Iterator[Decoded]:
        if self._mark is None:
            yield from _decoded(self._decoder, islice(self._packets(), self._count))
            return
        if (packets := self._sought(self._mark)) is not None:
            yield from _decoded(self._decoder, islice(packets, self._count))
            return
        with self._source.open() as container:  # its index leads elsewhere: from its first byte
            stream = self._stream = choose_stream(container, self._source.name)
            stream.thread_count = 1
            decoder = self._decoder = Decoder(container, stream, self._source)
            self._container = container
            packets = islice(self._packets(), self._mark.number, None)
            first = next(packets, None)
            if first is None or _mark(self._mark.number, first) != self._mark:
                raise SourceError(f"{self._source.name} is not what it was when it was listed")
            yield from _decoded(decoder, islice(chain([first], packets), self._count))

    def _packets(self) -> Iterator[Any]:
        return iter(PacketReader(self._source.files[0], self._container, self._stream))

    def _sought(self, mark: Mark) -> Iterator[Any] | None:
        """The packets from a mark on; None if it is not found by seeking."""
        stamp = mark.pts if mark.dts is None else mark.dts
        if stamp is None:
            return None
        try:
            self._container.seek(stamp, stream=self._stream)
        except av.FFmpegError:
            return None
        packets = self._packets()
        for packet in packets:
            if _mark(mark.number, packet) == mark:
                return chain([packet], packets)
            if packet.dts is None or mark.dts is None or packet.dts > mark.dts:
                return None
        return None


def _decoded(decoder: Decoder, packets: Iterable[Any]) -> Iterator[Decoded]:
    for packet in chain(packets, [None]):
        yield from decoder(packet)

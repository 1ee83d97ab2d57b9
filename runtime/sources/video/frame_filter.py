"""Decoded pictures as frames: progressive, square pixels, upright, 8-bit SDR RGB. FFmpeg's own filters do it."""

import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.filter import Graph
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, ColorTrc

from e2e_deploy.errors import SourceError
from e2e_deploy.runtime.sources.source import check_size
from e2e_deploy.runtime.sources.video.tone_mapping import (
    HLG,
    PQ,
    SDR,
    TYPICAL_PEAK_NITS,
    WHITE_NITS,
    write_cube,
)

# Signs of a, b, c, d of a display matrix, which sends (x, y) to (ax + cy, bx + dy): what brings the picture there.
_TURNS: dict[tuple[int, int, int, int], tuple[tuple[str, str], ...]] = {
    (1, 0, 0, 1): (),
    (0, 1, -1, 0): (("transpose", "clock"),),
    (-1, 0, 0, -1): (("hflip", ""), ("vflip", "")),
    (0, -1, 1, 0): (("transpose", "cclock"),),
    (-1, 0, 0, 1): (("hflip", ""),),
    (1, 0, 0, -1): (("vflip", ""),),
    (0, 1, 1, 0): (("transpose", "cclock_flip"),),
    (0, -1, -1, 0): (("transpose", "clock_flip"),),
}
_UPRIGHT = (1, 0, 0, 1)
# ITU-T H.273, table 4: matrix coefficients, and FFmpeg's name of each; 0 is RGB, 2 is not specified.
_MATRICES = {
    1: "bt709",
    4: "fcc",
    5: "bt601",
    6: "bt601",
    7: "smpte240m",
    9: "bt2020",
    10: "bt2020",
}
_BT2020_PRIMARIES = int(ColorPrimaries.BT2020)
_HDR = {int(ColorTrc.SMPTE2084): PQ, int(ColorTrc.ARIB_STD_B67): HLG}
_WIDEST_PIXEL = 8  # an aspect ratio beyond it is nonsense in a header


@dataclass(frozen=True)
class Look:
    """How a decoded picture is to be read; a change of it needs other filters.

    Attributes:
        hw: (H, W) as stored.
        pixels: FFmpeg's name of the pixel format.
        matrix: FFmpeg's name of the YUV matrix; untagged pictures are BT.709 from HD on, else BT.601.
        full_range: whether black is 0 and white the highest value.
        transfer: PQ, HLG, BT.2020 for SDR in those primaries, or empty for SDR as screens show it.
        wide: whether the primaries are those of BT.2020.
        peak_nits: brightest value that the content was mastered for (PQ).
        aspect: width of a pixel by its height.
        turn: signs of the display matrix's a, b, c, d.
        interlaced: whether two moments are in one picture.
    """

    hw: tuple[int, int]
    pixels: str
    matrix: str
    full_range: bool
    transfer: str
    wide: bool
    peak_nits: float
    aspect: Fraction
    turn: tuple[int, int, int, int]
    interlaced: bool

    @classmethod
    def of(
        cls, picture: VideoFrame, aspect: Fraction | None, known: "Look | None" = None
    ) -> "Look":
        """The look of a picture whose stream says that pixel ``aspect``; turn and light are ``known``'s if given."""
        height, width = picture.height, picture.width
        primaries = int(picture.color_primaries)
        transfer = _HDR.get(int(picture.color_trc), "")
        wide = primaries == _BT2020_PRIMARIES
        if transfer and primaries == int(ColorPrimaries.UNSPECIFIED):
            wide = True
        if wide and not transfer:
            transfer = SDR
        pixels = picture.format.name
        # Of JPEG, which has one matrix at any size, FFmpeg's decoder tags it.
        untagged = "bt2020" if wide else "bt709" if width >= 1280 or height > 576 else "bt601"
        sides = (aspect.numerator, aspect.denominator) if aspect else (1, 1)
        sane = max(sides) <= _WIDEST_PIXEL * min(sides) if min(sides) > 0 else False
        peak_nits = 0.0
        if transfer == PQ:
            peak_nits = known.peak_nits if known and known.transfer == PQ else _peak_nits(picture)
        return cls(
            hw=(height, width),
            pixels=pixels,
            matrix=_MATRICES.get(int(picture.colorspace), untagged),
            full_range=_is_full_range(picture),
            transfer=transfer,
            wide=wide,
            peak_nits=peak_nits,
            aspect=Fraction(*sides) if sane else Fraction(1),
            turn=known.turn if known else _turn(picture),
            interlaced=picture.interlaced_frame,
        )

    @property
    def needs(self) -> list[str]:
        """What its pictures need before they are frames, beyond another way of storing them; in words."""
        table = {
            "turning": self.turn != _UPRIGHT,
            "stretching to square pixels": self.aspect != 1,
            "deinterlacing": self.interlaced,
            "other colours": bool(self.transfer),
            "full-range YUV": self.full_range and "yuv" in self.pixels,
        }
        return [words for words, needed in table.items() if needed]

    @property
    def upright_hw(self) -> tuple[int, int]:
        """(H, W) of the frames that come of it; stretched widths are even."""
        height, width = self.hw
        if self.aspect != 1:
            width = max(2, 2 * round(width * self.aspect / 2))
        return (height, width) if self.turn[0] else (width, height)

    def notes(self) -> Iterator[str]:
        """What was done to its pictures, in sentences that are worth saying once."""
        if self.transfer in (PQ, HLG):
            yield f"HDR ({self.transfer}) is tone-mapped to SDR, with reference white at {WHITE_NITS:g} cd/m2"
        elif self.transfer:
            yield "BT.2020 colours are brought into those of BT.709"
        if self.aspect != 1:
            sides = f"{self.aspect.numerator}:{self.aspect.denominator}"
            yield f"the video's pixels are not square ({sides}): stretched in width"
        if self.interlaced:
            yield "the video is interlaced: deinterlaced, one frame of two fields"


def _is_full_range(picture: VideoFrame) -> bool:
    """Untagged YUV is limited, all else is full."""
    if picture.color_range == ColorRange.UNSPECIFIED:
        return picture.format.is_rgb or picture.format.name.startswith(("yuvj", "gray", "pal"))
    return picture.color_range == ColorRange.JPEG or picture.format.name.startswith("yuvj")


def _turn(picture: VideoFrame) -> tuple[int, int, int, int]:
    """The nearest quarter turn, mirrored or not, of a picture's display matrix."""
    side_data: Any = picture.side_data
    matrix = next((bytes(s) for s in side_data if s.type == Type.DISPLAYMATRIX), b"")
    if len(matrix) < 36:
        return _UPRIGHT
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix[:36])

    def agreement(turn: tuple[int, int, int, int]) -> int:
        return sum(sign * value for sign, value in zip(turn, (a, b, c, d), strict=True))

    return max(_TURNS, key=agreement)


def _peak_nits(picture: VideoFrame) -> float:
    """What the mastering display could show (AVMasteringDisplayMetadata of libavutil), else what is typical."""
    side_data: Any = picture.side_data
    for entry in side_data:
        if entry.type == Type.MASTERING_DISPLAY_METADATA and len(bytes(entry)) >= 88:
            *_, num, den, _, known = struct.unpack("=22i", bytes(entry)[:88])
            if known and den > 0 and WHITE_NITS <= num / den <= 10000:
                return float(num / den)
    return TYPICAL_PEAK_NITS


READ_EVERY = 8
"""Key pictures that follow sooner are taken as the one before. A PyAV picture (18.1) whose side data was read and that
side data hold each other until the garbage collector comes: of a clip opened again and again, 300 MiB of pictures."""


class FrameFilter:
    """The way of one stream's decoded pictures to frames; filters are made anew when the look changes.

    Args:
        name: of the source, for messages.
        time_base: of the stream.
        note: is told what is done to the pictures, a sentence each.

    Attributes:
        was_interlaced: whether a picture so far was of two moments.
    """

    def __init__(self, name: str, time_base: Fraction, note: Callable[[str], None]) -> None:
        self._name, self._time_base, self._note = name, time_base, note
        self.was_interlaced = False
        self._look: Look | None = None
        self._unread = 0
        self._graph: Graph | None = None

    def __call__(self, picture: VideoFrame, aspect: Fraction | None) -> Iterator[VideoFrame]:
        """The frames that are ready once this picture is there, in rgb24 with their times.

        Args:
            picture: as it was decoded.
            aspect: of its pixels, width by height, as the stream says it.

        Raises:
            SourceError: frames of a size that cannot be processed, or no place for the temporary file of HDR's curves.
            av.FFmpegError: the filters do not take such pictures.
        """
        look = Look.of(picture, aspect, None if self._reads(picture) else self._look)
        self.was_interlaced |= look.interlaced
        if self._look is not None and self._look.interlaced:
            look = replace(
                look, interlaced=True
            )  # progressive pictures pass through; the filter stays
        if look != self._look:
            check_size(self._name, *look.upright_hw)
            yield from self.flush()
            self._graph = self._made(look)
            self._look = look
            for sentence in look.notes():
                self._note(sentence)
        assert self._graph is not None
        self._graph.push(picture)
        yield from self._ready()

    def _reads(self, picture: VideoFrame) -> bool:
        """Whether this picture's side data is looked at: its turn and its light change at key pictures at most."""
        self._unread += 1
        look = self._look
        if (
            look is None
            or look.hw != (picture.height, picture.width)
            or (picture.key_frame and self._unread >= READ_EVERY)
        ):
            self._unread = 0
            return True
        return False

    def flush(self) -> Iterator[VideoFrame]:
        """What the filters still hold."""
        if self._graph is not None:
            self._graph.push(None)
            yield from self._ready()
            self._graph = self._look = None

    def _ready(self) -> Iterator[VideoFrame]:
        assert self._graph is not None
        while True:
            try:
                frame = self._graph.vpull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            yield frame

    def _made(self, look: Look) -> Graph:
        graph = Graph()
        height, width = look.hw
        source = graph.add(
            "buffer",
            video_size=f"{width}x{height}",
            pix_fmt=look.pixels,
            time_base=str(self._time_base),
        )
        range_name = "full" if look.full_range else "limited"
        colours = f"in_color_matrix={look.matrix}:in_range={range_name}"
        stretched = 2 * round(width * look.aspect / 2) if look.aspect != 1 else width
        nodes = [source]
        with ExitStack() as stack:
            if look.interlaced:
                nodes.append(graph.add("bwdif", "mode=send_frame:deint=interlaced"))
            nodes.append(graph.add("scale", f"w={stretched}:h={height}:{colours}"))
            if look.transfer:
                cube = stack.enter_context(self._cube(look))
                nodes.append(graph.add("format", "gbrp16"))
                nodes.append(graph.add("lut3d", file=str(cube), interp="tetrahedral"))
            nodes.append(graph.add("format", "rgb24"))
            nodes += [graph.add(name, options) for name, options in _TURNS[look.turn]]
            nodes.append(graph.add("buffersink"))
            graph.link_nodes(*nodes)
            graph.configure()
        return graph

    @contextmanager
    def _cube(self, look: Look) -> Iterator[Path]:
        """The table that brings its colours to SDR, as a file: FFmpeg reads no other way, and once."""
        with ExitStack() as stack:
            try:
                folder = stack.enter_context(tempfile.TemporaryDirectory())
                cube = Path(folder) / "sdr.cube"
                write_cube(cube, look.transfer, look.peak_nits, wide=look.wide)
            except OSError as error:
                raise SourceError(
                    f"{self._name} is {look.transfer}, and its way to SDR takes a temporary file: "
                    f"{error.strerror or error}; set TMPDIR to a folder that can be written"
                ) from None
            yield cube

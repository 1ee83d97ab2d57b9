"""A moving picture without a camera, whose frames carry their number in their pixels. For trials and tests."""

import time
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from e2e_deploy.errors import UsageError
from e2e_deploy.frames import MIN_SIDE_PX
from e2e_deploy.runtime.sources.source import BaseSource, SourceFrame, check_size

Rgb = npt.NDArray[np.uint8]

MIN_FPS, MAX_FPS = 0.01, 10_000.0
COLUMNS, ROWS = 8, 3  # cells of the number: 24 bits, highest first


def _cell(height: int, width: int) -> int:
    """Side of a cell in pixels; three rows of eight fit into any frame."""
    return max(MIN_SIDE_PX // COLUMNS, min(height // (2 * ROWS), width // COLUMNS, 16))


def paint_number(rgb: Rgb, number: int) -> None:
    """Write the lowest 24 bits of ``number`` into the upper left corner of uint8 RGB [H, W, 3], white for 1."""
    side = _cell(rgb.shape[0], rgb.shape[1])
    bits = (number >> np.arange(COLUMNS * ROWS - 1, -1, -1)) & 1
    cells = np.kron(bits.reshape(ROWS, COLUMNS), np.ones((side, side), dtype=np.int64))
    rgb[: ROWS * side, : COLUMNS * side] = (255 * cells)[..., None]


def read_number(rgb: npt.NDArray[np.generic]) -> int:
    """The number painted into a picture, from the middles of its cells; survives lossy coding and grey depth maps.

    Args:
        rgb: [H, W, 3] or [H, W], of the size it was painted at, any type and range.
    """
    grey = np.asarray(rgb, dtype=np.float64)
    grey = grey.mean(axis=2) if grey.ndim == 3 else grey
    side = _cell(*grey.shape)
    cells = grey[: ROWS * side, : COLUMNS * side].reshape(ROWS, side, COLUMNS, side)
    edge = side // 4
    means = cells[:, edge : side - edge, :, edge : side - edge].mean(axis=(1, 3)).ravel()
    white = means > (1 if grey.max() <= 1 else 255) / 2
    return int((white * (1 << np.arange(COLUMNS * ROWS - 1, -1, -1))).sum())


class PatternSource(BaseSource):
    """Boxes that move over a ground, as a camera would give them.

    Args:
        height: of the frames.
        width: of the frames.
        fps: rate in real time, and a live source; 0 gives frames as fast as they are taken, and a file-like one.
        total: frames in all; None never ends.

    Raises:
        SourceError: a size that cannot be processed.
        UsageError: a rate outside MIN_FPS to MAX_FPS that is not 0.
    """

    def __init__(
        self, height: int = 480, width: int = 640, *, fps: float = 30.0, total: int | None = None
    ) -> None:
        name = f"test pattern {width}x{height}"
        if fps and not MIN_FPS <= fps <= MAX_FPS:
            raise UsageError(
                f"a test pattern has {MIN_FPS} to {MAX_FPS:g} frames a second, or 0 to be taken; not {fps:g}"
            )
        super().__init__(name, fps=fps or None, total=total)
        check_size(name, height, width)
        self.is_live = fps > 0
        self._hw = height, width
        down, right = np.arange(height)[:, None] / height, np.arange(width)[None] / width
        self._ground = np.empty((height, width, 3), dtype=np.uint8)
        for channel, shade in enumerate((40 + 160 * down, 200 - 120 * down, 60 + 120 * right)):
            self._ground[..., channel] = shade

    def _picture(self, number: int) -> Rgb:
        height, width = self._hw
        rgb = self._ground.copy()
        for box, colour in enumerate(((220, 60, 60), (60, 90, 220), (240, 220, 80))):
            side = max(2, height // (4 + box))
            top = (height - side) * (box + 1) // 4
            left = (number * (box + 1) * width // 120) % max(1, width - side)
            rgb[top : top + side, left : left + side] = colour
        paint_number(rgb, number)
        return rgb

    def __iter__(self) -> Iterator[SourceFrame]:
        self._begin()
        start = time.monotonic()
        frame_s = 1 / (self.fps or 30.0)
        number = 0
        while not self._stopping.is_set() and (self.total is None or number < self.total):
            pts_s = number * frame_s
            if self.is_live and self._stopping.wait(max(0.0, start + pts_s - time.monotonic())):
                return
            yield SourceFrame(
                self._picture(number),
                number,
                pts_s,
                "test",
                source=self.name,
                shown_s=pts_s,
                duration_s=frame_s,
            )
            number += 1

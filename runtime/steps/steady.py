"""Steady depth: every map of a video brought to the scale and shift of the ones before it.

Affine-invariant depth changes its scale and shift from frame to frame, which is seen as flicker and felt by everything
that compares frames. Knows: depth maps in the order of the video. Does not know: pictures, flow, metres, colours (the
display range is smoothed apart from this, in ``colormap.DisplayRange``).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from e2e_deploy.runtime.backends.layout import Result
from e2e_deploy.system.opencv import cv2

Float64 = npt.NDArray[np.float64]

CELLS = 3072  # of the small map that is fitted: 48x64 for a frame of 480x640
KEEP = 0.6  # share of cells that a fit keeps: up to 40 % may move, appear or vanish
FITS = 4
REFITS = 3
CUT = 0.08  # median residual in units of the reference's range; 0.2 to 0.3 between unrelated scenes, 0.01 within one
SETTLE = 100  # frames whose mean scale and shift, of the model's to ours, are kept from then on
AVERAGE = 0.01  # weight of a new frame in that mean
ANCHOR = 0.01  # of the way back to the kept one per frame: it takes some seconds


@dataclass(frozen=True)
class Alignment:
    """How one map was changed: ``steady = scale * depth + shift``.

    Attributes:
        scale: positive.
        shift: in units of depth.
        residual: median distance to the reference after the fit, in units of the reference's range; 0 without one.
        cut: the map did not fit the ones before it (by that residual), so it begins anew with scale 1 and shift 0.
    """

    scale: float = 1.0
    shift: float = 0.0
    residual: float = 0.0
    cut: bool = False


def trimmed_fit(x: Float64, y: Float64) -> tuple[float, float]:
    """(scale, shift) of the line through most of the points, whatever the others do.

    First least squares, refitted to the KEEP share with the smallest residuals (concentration steps of Rousseeuw's
    least trimmed squares). Then, REFITS times, the reduced major axis of all points within 3 robust standard deviations
    of the last line: its slope is the ratio of the spreads of y and x. Regression of y on x would be too flat by the
    noise in x, and depth would shrink with every frame. With the same relative noise in both, this slope is right, and
    since fitting x to y gives the inverse line, what is left of error has no preferred sign to add up in.

    Returns a scale of 0 when there is no rising line: one of the two is constant, or they are not correlated.

    Args:
        x: [N], N > 0.
        y: [N].
    """
    count = max(1, int(KEEP * x.size))
    kept_x, kept_y = x, y
    for _ in range(FITS):
        slope, _, mean_x, mean_y = _line(kept_x, kept_y)
        residual = np.abs(slope * (x - mean_x) + mean_y - y)
        nearest = np.argpartition(residual, count - 1)[:count]
        kept_x, kept_y = x[nearest], y[nearest]
    for _ in range(REFITS):
        inside = residual <= 3 * 1.4826 * float(np.median(residual)) + 1e-9
        _, slope, mean_x, mean_y = _line(x[inside], y[inside])
        residual = np.abs(slope * (x - mean_x) + mean_y - y)
    return slope, mean_y - slope * mean_x


def _line(x: Float64, y: Float64) -> tuple[float, float, float, float]:
    """Slope of y on x and of the reduced major axis, and the means of x and y; slopes of 0 do not rise."""
    mean_x, mean_y = float(x.mean()), float(y.mean())
    x, y = x - mean_x, y - mean_y
    xx, xy, yy = float(x @ x), float(x @ y), float(y @ y)
    if xy <= 0 or xx <= 1e-12 * x.size:
        return 0.0, 0.0, mean_x, mean_y
    return xy / xx, float(np.sqrt(yy / xx)), mean_x, mean_y


class Stabiliser:
    """Keeps the scale and shift of a video's depth steady. For one video, its maps in order, one thread.

    Each map is fitted to the one before it as that was given out: nothing else is as close to it, and both have the
    same noise. Small errors would add up over hours, so the mean relation to the model's own scale and shift over the
    first SETTLE frames is kept slowly (``AVERAGE``, ``ANCHOR``). A scene cut starts anew.
    """

    def __init__(self) -> None:
        self._reference: Float64 | None = None
        self._count = 0
        self._own = np.zeros(2)  # (g, h): the mean raw map is (1 + g) * ours + h
        self._kept = np.zeros(2)  # the same when the first frames had passed
        self.last = Alignment()

    def reset(self) -> None:
        """Forget what was seen: the next map is taken as it is."""
        self._reference = None

    def __call__(self, depth: Result) -> Result:
        """The map [H, W] float32 in the scale and shift of the ones before it; ``last`` says how it was changed.

        Values may leave [0, 1] by the change of scale. NaN and infinity stay where they are and are left out of the
        fit; a map without a finite cell passes unchanged and is forgotten.
        """
        small = _small(depth)
        valid = np.isfinite(small)
        if not valid.any():
            self.last = Alignment()
            return depth
        reference = self._reference
        if reference is None or reference.shape != small.shape:
            return self._begin(depth, small, cut=reference is not None)
        both = valid & np.isfinite(reference)
        if not both.any():
            return self._begin(depth, small, cut=True)
        x, y = small[both], reference[both]
        scale, shift = trimmed_fit(x, y)
        low, high = np.partition(y, (y.size // 50, y.size - 1 - y.size // 50))[
            [y.size // 50, y.size - 1 - y.size // 50]
        ]
        residual = float(np.median(np.abs(scale * x + shift - y))) / max(float(high - low), 1e-6)
        if scale == 0.0 or residual > CUT:
            return self._begin(depth, small, cut=True, residual=residual)
        self.last = Alignment(scale, shift, residual)
        steady = scale * small + shift
        followed = np.where(valid, steady, reference)
        self._count += 1
        own = np.array([1.0 / scale - 1.0, -shift / scale])
        self._own += max(AVERAGE, 1.0 / self._count) * (own - self._own)
        if self._count <= SETTLE:
            self._kept = self._own.copy()
        away = ANCHOR * (self._own - self._kept)
        self._reference = followed + away[0] * followed + away[1]
        self._own -= away
        result = np.multiply(depth, np.float32(scale))
        result += np.float32(shift)
        return result

    def _begin(self, depth: Result, small: Float64, *, cut: bool, residual: float = 0.0) -> Result:
        self._reference = small
        self._count = 1
        self._own, self._kept = np.zeros(2), np.zeros(2)
        self.last = Alignment(residual=residual, cut=cut)
        return depth


def _small(depth: Result) -> Float64:
    """The map as means of square blocks, about CELLS of them."""
    height, width = depth.shape
    block = max(1, round(float(np.sqrt(depth.size / CELLS))))
    rows, columns = max(1, height // block), max(1, width // block)
    cut = depth[: rows * block, : columns * block]  # whole blocks: OpenCV is three times as fast
    small = cv2.resize(cut, (columns, rows), interpolation=cv2.INTER_AREA).astype(np.float64)
    small[~np.isfinite(small)] = np.nan
    return small

"""Metres as 12-bit codes, as lerobot's videos of depth store them, and the statistics of codes.

    code = rint(4095 * (log(metres + shift) - log(least + shift)) / (log(most + shift) - log(least + shift)))

Seen in lerobot 0.6.1 (``lerobot.datasets.depth_utils``), which has it from BEHAVIOR-1K: near depth gets more codes than
far depth.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from e2e_deploy.runtime.backends.layout import Result

Codes = npt.NDArray[np.uint16]
Float64 = npt.NDArray[np.float64]

TOP = 4095
LEAST_M, MOST_M, SHIFT_M = 0.01, 10.0, 3.5  # lerobot's own
QUANTILES = (0.01, 0.10, 0.50, 0.90, 0.99)


@dataclass(frozen=True)
class DepthCodes:
    """The codes of a range: 0 is ``LEAST_M``, and what is unknown, as of lerobot's cameras; TOP is ``most_m``.

    Attributes:
        most_m: metres from which on all are TOP.
    """

    most_m: float = MOST_M

    def store(self, metres: Result) -> Codes:
        """Codes uint16 [H, W] of metres [H, W]; what is nearer than LEAST_M or NaN is 0, what is farther is TOP."""
        known = np.nan_to_num(metres, nan=0.0, posinf=self.most_m, neginf=0.0)
        low, high = np.log(LEAST_M + SHIFT_M), np.log(self.most_m + SHIFT_M)
        logs = np.log(np.maximum(known, LEAST_M) + np.float32(SHIFT_M))
        codes = np.rint((logs - low) * (TOP / (high - low))).clip(0, TOP)
        return np.asarray(codes, dtype=np.uint16)

    def metres(self, codes: npt.ArrayLike) -> Float64:
        """Metres of codes, as lerobot reads them."""
        low, high = np.log(LEAST_M + SHIFT_M), np.log(self.most_m + SHIFT_M)
        values = np.exp(np.asarray(codes) * ((high - low) / TOP) + low) - SHIFT_M
        return np.asarray(values.clip(LEAST_M, self.most_m), dtype=np.float64)

    def told(self) -> dict[str, Any]:
        """As entries of a feature's ``info``, by which lerobot reads it."""
        return {
            "video.depth_min": LEAST_M,
            "video.depth_max": self.most_m,
            "video.shift": SHIFT_M,
            "video.use_log": True,
        }


class CodeStatistics:
    """Statistics of all pixels of an episode, or of all episodes, in metres. Few bytes, whatever their number.

    lerobot takes some pixels of some frames in their place; the meaning is the same.

    Args:
        codes: their meaning.
    """

    def __init__(self, codes: DepthCodes) -> None:
        self._metres = codes.metres(np.arange(TOP + 1))
        self._counts = np.zeros(TOP + 1, dtype=np.int64)
        self.frames = 0

    def add(self, codes: Codes) -> None:
        """Count the pixels of a frame."""
        self._counts += np.bincount(codes.ravel(), minlength=TOP + 1)
        self.frames += 1

    def told(self) -> dict[str, Any]:
        """As lerobot keeps them: each a nested list [1, 1, 1], and ``count`` of frames [1]. Needs a frame."""
        there = np.flatnonzero(self._counts)
        values, weights = self._metres[there], self._counts[there] / self._counts.sum()
        mean = float(values @ weights)
        told: dict[str, float] = {
            "min": float(values[0]),
            "max": float(values[-1]),
            "mean": mean,
            "std": float(np.sqrt((values - mean) ** 2 @ weights)),
        }
        reached = np.cumsum(self._counts[there])
        for share in QUANTILES:
            place = int(np.searchsorted(reached, share * reached[-1]))
            told[f"q{round(100 * share):02d}"] = float(values[place])
        return {name: [[[value]]] for name, value in told.items()} | {"count": [self.frames]}

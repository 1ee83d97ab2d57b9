"""Angular errors pooled over a whole set in bounded memory, which can be put down and picked up again.

Knows: a histogram in steps of a thousandth of a degree, exact sums and counts. Does not know: files of a set.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from e2e_deploy.errors import DataError
from e2e_deploy.metrics import ANGLE_LIMITS_DEG, NormalsMetrics, angular_error_deg
from e2e_deploy.system.files import read_bytes, whole_file
from e2e_deploy.train.normals_axes import AxesComparison, AxesFit

Array = npt.NDArray[Any]

STEPS_PER_DEG = 1000
"""The pooled median is exact to half a step."""
_BINS = 180 * STEPS_PER_DEG + 1
_SUMS, _AXES = 2 + len(ANGLE_LIMITS_DEG), 43


class PooledAngles:
    """Every valid pixel of every image with the same weight, as DSINE evaluates normals.

    Attributes:
        images: how many were added, those included in which no pixel was valid.
    """

    def __init__(self) -> None:
        self.images = 0
        self._bins = np.zeros(_BINS, np.int64)
        self._sums = np.zeros(_SUMS)  # of angles, of their squares, and counts below the limits
        self._axes = AxesComparison()

    def add(self, pred: Array, target: Array, valid: Array) -> NormalsMetrics:
        """Add one image and give its own metrics; arguments and errors as of ``metrics.angular_error_deg``."""
        error = angular_error_deg(pred, target, valid)
        error = error[np.isfinite(error)]
        bins = np.bincount(np.rint(error * STEPS_PER_DEG).astype(np.int64), minlength=_BINS)
        below = [np.count_nonzero(error < limit) for limit in ANGLE_LIMITS_DEG]
        sums = np.array([error.sum(), np.square(error).sum(), *below])
        metrics = _metrics(bins, sums)
        self._axes.add(pred, target, valid)
        self._bins += bins
        self._sums += sums
        self.images += 1
        return metrics

    def result(self) -> NormalsMetrics:
        """Metrics over everything added so far; ValueError where there is no pixel."""
        return _metrics(self._bins, self._sums)

    def axes(self) -> AxesFit | None:
        """The axes in which all of it agrees best."""
        return self._axes.result()

    def save(self, path: Path) -> None:
        """Write everything, whole or not at all; E2EDeployError where it cannot be written."""
        content = io.BytesIO()
        numbers = np.concatenate([[float(self.images)], self._sums, self._axes.numbers()])
        np.savez(content, bins=self._bins, numbers=numbers)
        with whole_file(path) as partial:
            partial.write_bytes(content.getvalue())

    @classmethod
    def load(cls, path: Path) -> "PooledAngles":
        """What ``save`` wrote.

        Raises:
            DataError: missing, damaged, or something else.
        """
        pooled = cls()
        try:
            content = io.BytesIO(read_bytes(path, 2**24))
            with np.load(content, allow_pickle=False) as stored:
                bins, numbers = stored["bins"], stored["numbers"]
        except Exception as error:  # whatever zipfile and NumPy make of damaged bytes
            raise DataError(f"{path}: cannot be read ({error})") from error
        fits = bins.shape == (_BINS,) and bins.dtype == np.int64 and (bins >= 0).all()
        if not fits or numbers.shape != (1 + _SUMS + _AXES,) or not np.isfinite(numbers).all():
            raise DataError(f"{path}: not what an evaluation of normals writes")
        pooled.images, pooled._bins = int(numbers[0]), bins
        pooled._sums = numbers[1 : 1 + _SUMS].copy()
        pooled._axes = AxesComparison.from_numbers(numbers[1 + _SUMS :])
        return pooled


def _metrics(bins: npt.NDArray[np.int64], sums: npt.NDArray[np.float64]) -> NormalsMetrics:
    count = int(bins.sum())
    if count == 0:
        raise ValueError("no valid pixel was added")
    total = np.cumsum(bins)
    # The middle, or the mean of the two middles.
    middles = np.searchsorted(total, [(count - 1) // 2 + 1, count // 2 + 1])
    below = [float(number / count) for number in sums[2:]]
    return NormalsMetrics(
        mean_deg=float(sums[0] / count),
        median_deg=float(middles.mean() / STEPS_PER_DEG),
        rmse_deg=float(np.sqrt(sums[1] / count)),
        below_5=below[0],
        below_7_5=below[1],
        below_11_25=below[2],
        below_22_5=below[3],
        below_30=below[4],
        num_valid=count,
    )

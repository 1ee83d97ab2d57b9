"""Whether two sets of normals are in the same axes, or one of them has an axis mirrored or two exchanged.

Knows: the covariance of predicted and true components, pooled over pixels, and the 48 signed permutations of x, y, z.
Does not know: data sets, files, angular metrics.
"""

from dataclasses import dataclass
from itertools import permutations, product
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

MAX_GAIN = 0.2
"""A correlation that rises by more than this in other axes is no accident: a mirrored x, with a third of the
variance, gains 0.6 for a perfect model and 0.2 for one that correlates by a third; noise gains a few hundredths."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AxesFit:
    """The axes in which a prediction agrees best with the truth."""

    axes: str
    """The truth's x, y, z in components of the prediction: ``x y z`` when both agree, ``-x y z`` mirrored, ``y x z``
    exchanged."""
    correlation: float
    """Of all components together in those axes, -1 to 1."""
    as_given: float
    """The same in the axes as they are."""

    @property
    def differ(self) -> bool:
        """Whether other axes fit so much better that the given ones must be wrong."""
        return self.correlation - self.as_given > MAX_GAIN


class AxesComparison:
    """Pools normals over images, then names the signed permutation of the axes that fits best.

    Means are taken out, so a model that gives one constant vector agrees with nothing rather than with whatever axis
    most of the truth points along. With ``about_mean`` False they stay in, for two sides that are both trusted: the
    correlation is then the mean cosine.
    """

    def __init__(self, *, about_mean: bool = True) -> None:
        self._about_mean = about_mean
        self._count = 0
        self._sums = np.zeros((2, 3))
        self._products = np.zeros((6, 6))

    def add(self, pred: Array, target: Array, valid: Array) -> None:
        """Add one image: normals [H, W, 3] of any length, valid [H, W] bool; zero vectors count nowhere."""
        both = np.concatenate([np.asarray(pred), np.asarray(target)], axis=-1)[np.asarray(valid)]
        pairs = both.astype(np.float64).reshape(-1, 2, 3)
        length = np.linalg.norm(pairs, axis=-1, keepdims=True)
        known = (length > 0).all(axis=(1, 2))
        pairs = pairs[known] / length[known]
        self._count += len(pairs)
        self._sums += pairs.sum(axis=0)
        flat = pairs.reshape(-1, 6)
        self._products += flat.T @ flat

    def merge(self, other: "AxesComparison") -> None:
        """Add everything that ``other`` was given."""
        self._count += other._count
        self._sums += other._sums
        self._products += other._products

    def numbers(self) -> npt.NDArray[np.float64]:
        """All of it as 43 numbers, for ``from_numbers``."""
        return np.concatenate([[self._count], self._sums.ravel(), self._products.ravel()])

    @classmethod
    def from_numbers(cls, numbers: npt.NDArray[np.float64]) -> "AxesComparison":
        """What ``numbers`` gave, means taken out."""
        comparison = cls()
        comparison._count = int(numbers[0])
        comparison._sums = numbers[1:7].reshape(2, 3).copy()
        comparison._products = numbers[7:].reshape(6, 6).copy()
        return comparison

    def result(self) -> AxesFit | None:
        """The best axes; None where either side does not vary, so that there is nothing to compare."""
        if not self._count:
            return None
        mean = self._sums.reshape(6) / self._count * self._about_mean
        covariance = self._products / self._count - np.outer(mean, mean)
        variances = np.trace(covariance[:3, :3]), np.trace(covariance[3:, 3:])
        if min(variances) < 1e-9:  # rounding makes the smallest ones negative
            return None
        spread = np.sqrt(variances[0] * variances[1])
        cross = covariance[:3, 3:] / spread  # [component of the prediction, component of the truth]
        fits = {
            (order, signs): float(
                sum(s * cross[i, j] for j, (i, s) in enumerate(zip(order, signs, strict=True)))
            )
            for order in permutations(range(3))
            for signs in product((1, -1), repeat=3)
        }
        order, signs = max(fits, key=lambda key: fits[key])
        names = ("-" * (s < 0) + "xyz"[i] for i, s in zip(order, signs, strict=True))
        return AxesFit(
            axes=" ".join(names),
            correlation=fits[order, signs],
            as_given=fits[(0, 1, 2), (1, 1, 1)],
        )

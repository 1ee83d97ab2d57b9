"""How far predicted masks and mattes are from the true ones; nothing is fitted."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureMetrics:
    """Errors of values in [0, 1]; of several pictures the means over them."""

    mae: float
    """Mean absolute error, over pixels and channels."""
    mse: float
    """Mean squared error."""
    num_valid: int
    """Pixels that were compared."""


def picture_metrics(pred: Array, target: Array, valid: Array) -> PictureMetrics:
    """Compare ``pred`` with ``target``, both [H, W] or [H, W, 3] in [0, 1], where ``valid`` [H, W] is true.

    Raises:
        ValueError: shapes differ, no pixel is valid, or a valid pixel is NaN or infinite.
    """
    x, y = np.asarray(pred, dtype=np.float64), np.asarray(target, dtype=np.float64)
    mask = np.asarray(valid, dtype=bool)
    if x.shape != y.shape or mask.shape != y.shape[:2]:
        raise ValueError(
            f"prediction, target and mask do not fit: {x.shape}, {y.shape}, {mask.shape}"
        )
    x, y = x[mask], y[mask]
    if not y.size:
        raise ValueError("no pixel is valid")
    for name, values in (("prediction", x), ("target", y)):
        if not np.isfinite(values).all():
            raise ValueError(f"the {name} is NaN or infinite where it is valid")
    return PictureMetrics(
        mae=float(np.abs(x - y).mean()),
        mse=float(np.square(x - y).mean()),
        num_valid=int(mask.sum()),
    )


def mean_picture_metrics(per_image: Iterable[PictureMetrics]) -> PictureMetrics:
    """Mean over images, every image with the same weight; ``num_valid`` is the sum.

    Raises:
        ValueError: there is no image.
    """
    rows = list(per_image)
    if not rows:
        raise ValueError("the mean of no images was asked for")
    return PictureMetrics(
        mae=float(np.mean([row.mae for row in rows])),
        mse=float(np.mean([row.mse for row in rows])),
        num_valid=sum(row.num_valid for row in rows),
    )

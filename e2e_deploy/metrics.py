"""Accuracy of depth and normals against ground truth, and parity of one result with another.

Knows: float64 NumPy formulas on the arrays of one image, and how images are pooled.
Does not know: data sets, backends, limits, torch.

The depth protocol is the one of Marigold and E2E-FT: least-squares scale and shift per image over
its valid pixels, clip to the data set's range, metrics per image, mean over images. The normals
protocol is the one of DSINE: angular errors pooled over every valid pixel of the data set.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

Space = Literal["depth", "disparity", "sqrt-disparity"]
"""What scale and shift of a distance may be unknown in."""

MIN_DEPTH = 1e-6
"""Aligned depth is raised to this before logarithms and ratios, as the published protocol does."""

MIN_DISPARITY = 1e-3
"""Aligned disparity is raised to this before it is inverted, as the published protocol does."""

RELATIVE_FLOOR = 0.05
"""Smallest denominator of the parity ratios, in units of the [0, 1] depth.

The zero of affine-invariant depth is arbitrary, so a ratio to a depth near it measures nothing."""

MIN_PIXELS = 3
"""Scale and shift fit one or two pixels exactly, whatever was predicted."""

MIN_SPREAD = 1e-6
"""A truth whose farthest and nearest pixel differ by less than this share of its mean is the same depth everywhere;
every prediction fits that with a scale of zero."""

ANGLE_LIMITS_DEG = (5.0, 7.5, 11.25, 22.5, 30.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class DepthMetrics:
    """Depth accuracy of one image, or the mean over images; ratios are fractions, not per cent."""

    abs_rel: float
    """mean(|d - d*| / d*)"""
    sq_rel: float
    """mean((d - d*)^2 / d*), in the target's unit"""
    rmse: float
    """In the target's unit."""
    rmse_log: float
    """Natural logarithm."""
    log10: float
    """mean(|log10 d - log10 d*|)"""
    silog: float
    """100 sqrt(var(log d - log d*)), KITTI's scale-invariant logarithmic error"""
    delta1: float
    """Share of pixels with max(d / d*, d* / d) < 1.25"""
    delta2: float
    """The same for 1.25^2"""
    delta3: float
    """The same for 1.25^3"""
    negative_scale: float
    """1 where the fitted scale is negative, else 0; over images the share of them. The other numbers cannot tell such
    a prediction, which is inverted, from a right one."""
    num_valid: int
    """Pixels that were compared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NormalsMetrics:
    """Angular accuracy pooled over pixels; angles in degrees, shares as fractions."""

    mean_deg: float
    median_deg: float
    rmse_deg: float
    below_5: float
    below_7_5: float
    below_11_25: float
    below_22_5: float
    below_30: float
    num_valid: int


def align_scale_shift(pred: Array, target: Array, valid: Array) -> tuple[float, float]:
    """Least-squares ``(scale, shift)`` such that ``scale * pred + shift`` is closest to ``target``.

    Sums are centred, so a nearly constant prediction keeps its precision. A constant prediction
    gives scale 0 and the mean of the target.

    Args:
        pred: any shape, any real type.
        target: same shape.
        valid: same shape; true where both count.

    Raises:
        ValueError: shapes differ, no pixel is valid, or a valid pixel is NaN or infinite.
    """
    x, y = _valid_pixels(pred, target, valid)
    return _fit(x, y)


def why_unmeasurable(target: Array, valid: Array) -> str | None:
    """Why no depth can be measured against ``target`` [H, W] where ``valid`` [H, W] is true, or None if it can."""
    y = np.asarray(target, dtype=np.float64)[np.asarray(valid, dtype=bool)]
    if y.size == 0:
        return "no valid pixel"
    if y.size < MIN_PIXELS:
        return f"fewer than {MIN_PIXELS} valid pixels"
    if np.ptp(y) <= MIN_SPREAD * abs(y.mean()):
        return "the same depth everywhere"
    return None


def depth_metrics(
    pred: Array,
    target: Array,
    valid: Array,
    *,
    space: Space = "depth",
    min_depth: float = 1e-5,
    max_depth: float = float("inf"),
    fit_where: Array | None = None,
) -> DepthMetrics:
    """Align ``pred`` to ``target`` and measure it (protocol of arXiv 2409.11355, section 5).

    Args:
        pred: [H, W], affine-invariant in ``space``.
        target: [H, W], depth in any unit, positive where valid; ground truth given as disparity
            passes through ``depth_from_disparity`` first.
        valid: [H, W] bool.
        space: where scale and shift are fitted; ``"disparity"`` fits ``pred`` to ``1 / target`` and inverts,
            ``"sqrt-disparity"`` to its square root, squares and inverts (DepthMaster, arXiv 2501.02576).
        min_depth: lower end of the data set's range, in the target's unit.
        max_depth: upper end of it.
        fit_where: [H, W] bool, the pixels whose valid ones scale and shift are fitted on; None takes all.

    Raises:
        ValueError: shapes differ, no pixel is valid or fitted on, a valid pixel is NaN or infinite, or a valid
            target is not positive.
    """
    x, y = _valid_pixels(pred, target, valid)
    if y.min() <= 0:
        raise ValueError(f"target depth must be positive where valid, got a minimum of {y.min():g}")
    if fit_where is None:
        fitted, known = x, y
    else:
        chosen = np.asarray(fit_where, dtype=bool)[np.asarray(valid, dtype=bool)]
        fitted, known = x[chosen], y[chosen]
    if known.size == 0:
        raise ValueError("there is no valid pixel to fit scale and shift on")
    if space == "depth":
        scale, shift = _fit(fitted, known)
        aligned = scale * x + shift
    elif space == "disparity":
        scale, shift = _fit(fitted, 1.0 / known)
        aligned = 1.0 / np.maximum(scale * x + shift, MIN_DISPARITY)
    elif space == "sqrt-disparity":
        scale, shift = _fit(fitted, known**-0.5)
        aligned = 1.0 / np.maximum((scale * x + shift) ** 2, MIN_DISPARITY)
    else:
        raise ValueError(f"space must be one of {', '.join(get_args(Space))}, got {space!r}")
    aligned = np.maximum(np.clip(aligned, min_depth, max_depth), MIN_DEPTH)
    return _compare(aligned, y, negative_scale=scale < 0)


def depth_from_disparity(
    disparity_px: Array, *, focal_px: float = 1.0, baseline_m: float = 1.0, offset_px: float = 0.0
) -> tuple[Float64, Mask]:
    """Depth ``focal * baseline / (disparity + offset)`` and where it is valid.

    The defaults give depth up to an unknown scale, which the alignment removes. ``offset_px`` is
    the difference of the two principal points (``doffs`` in Middlebury calibrations).

    Returns:
        depth: [H, W] float64, metres, 0 where invalid.
        valid: [H, W] bool; disparity is finite and positive, before and after the offset.
    """
    disparity = np.asarray(disparity_px, dtype=np.float64)
    valid = np.isfinite(disparity) & (disparity > 0) & (disparity + offset_px > 0)
    shifted = np.where(valid, disparity, 1.0 - offset_px) + offset_px
    return np.where(valid, focal_px * baseline_m / shifted, 0.0), valid


def mean_depth_metrics(per_image: Iterable[DepthMetrics]) -> DepthMetrics:
    """Mean over images, every image with the same weight; ``num_valid`` is the sum.

    Raises:
        ValueError: there is no image.
    """
    rows = list(per_image)
    if not rows:
        raise ValueError("the mean of no images was asked for")
    means: dict[str, Any] = {
        f.name: float(np.mean([getattr(row, f.name) for row in rows]))
        for f in fields(DepthMetrics)
        if f.name != "num_valid"
    }
    return DepthMetrics(**means, num_valid=sum(row.num_valid for row in rows))


def angular_error_deg(pred: Array, target: Array, valid: Array) -> Float64:
    """Angle between predicted and true normals, [H, W] float64 in degrees, NaN where invalid.

    Vectors need not have unit length. A pixel also counts as invalid where the target is the zero
    vector; a zero prediction is an error of 90 degrees, as a cosine of 0 gives.

    Args:
        pred: [H, W, 3].
        target: [H, W, 3].
        valid: [H, W] bool.

    Raises:
        ValueError: shapes do not fit, or a valid pixel is NaN or infinite.
    """
    a, b = np.asarray(pred, dtype=np.float64), np.asarray(target, dtype=np.float64)
    mask = np.asarray(valid, dtype=bool)
    if a.shape != b.shape or a.ndim != 3 or a.shape[-1] != 3:
        raise ValueError(f"normals must both be [H, W, 3]: got {a.shape} and {b.shape}")
    if mask.shape != a.shape[:2]:
        raise ValueError(f"the mask of normals {a.shape} must be {a.shape[:2]}, got {mask.shape}")
    mask = mask & (np.abs(b).sum(axis=-1) > 0)
    _require_finite(a[mask], "prediction")
    _require_finite(b[mask], "target")
    a, b = np.where(mask[..., None], a, 0.0), np.where(mask[..., None], b, 0.0)
    # atan2 keeps small angles exact, where arccos of a dot product near 1 does not.
    angle = np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b), axis=-1), (a * b).sum(axis=-1)))
    angle[np.abs(a).sum(axis=-1) == 0] = 90.0
    return np.where(mask, angle, np.nan)


class NormalsAccumulator:
    """Pools angular errors over all valid pixels of a data set."""

    def __init__(self) -> None:
        # The median needs every value; float32 keeps a pooled data set below a gigabyte.
        self._errors_deg: list[npt.NDArray[np.float32]] = []

    def add(self, pred: Array, target: Array, valid: Array) -> None:
        """Add one image; arguments and errors as in ``angular_error_deg``."""
        error = angular_error_deg(pred, target, valid)
        self._errors_deg.append(error[np.isfinite(error)].astype(np.float32))

    def merge(self, other: "NormalsAccumulator") -> None:
        """Add everything that ``other`` was given."""
        self._errors_deg += other._errors_deg

    def result(self) -> NormalsMetrics:
        """Metrics over everything added so far.

        Raises:
            ValueError: no valid pixel was added.
        """
        error = np.concatenate(self._errors_deg) if self._errors_deg else np.empty(0, np.float32)
        if error.size == 0:
            raise ValueError("no valid pixel was added")
        below = [float(np.mean(error < limit)) for limit in ANGLE_LIMITS_DEG]
        return NormalsMetrics(
            mean_deg=float(error.mean(dtype=np.float64)),
            median_deg=float(np.median(error)),
            rmse_deg=float(np.sqrt(np.mean(np.square(error, dtype=np.float64)))),
            below_5=below[0],
            below_7_5=below[1],
            below_11_25=below[2],
            below_22_5=below[3],
            below_30=below[4],
            num_valid=error.size,
        )


def aligned_abs_rel(candidate: Array, reference: Array) -> float:
    """Parity: AbsRel of ``candidate``, scale and shift aligned, against ``reference``.

    Args:
        candidate: [H, W] depth in [0, 1] of the backend under test.
        reference: same shape, depth in [0, 1]; denominators below ``RELATIVE_FLOOR`` are
            raised to it.

    Raises:
        ValueError: shapes differ, or a value is NaN or infinite.
    """
    x, y = _valid_pixels(candidate, reference, None)
    scale, shift = _fit(x, y)
    return float(np.mean(_relative_error(scale * x + shift, y)))


def share_within(candidate: Array, reference: Array, tolerance: float = 0.02) -> float:
    """Parity: share of pixels whose relative error is at most ``tolerance``; nothing is aligned.

    Arguments and errors as in ``aligned_abs_rel``.
    """
    x, y = _valid_pixels(candidate, reference, None)
    return float(np.mean(_relative_error(x, y) <= tolerance))


def psnr(candidate: Array, reference: Array, peak: float = 1.0) -> float:
    """Peak signal-to-noise ratio in decibels; infinite for equal arrays.

    Raises:
        ValueError: shapes differ, or a value is NaN or infinite.
    """
    x, y = _valid_pixels(candidate, reference, None)
    mse = float(np.mean((x - y) ** 2))
    return float("inf") if mse == 0 else float(10 * np.log10(peak**2 / mse))


def _fit(x: Float64, y: Float64) -> tuple[float, float]:
    x_mean, y_mean = x.mean(), y.mean()
    x_centred = x - x_mean
    variance = np.dot(x_centred, x_centred)
    scale = np.dot(x_centred, y - y_mean) / variance if np.ptp(x) > 0 and variance > 0 else 0.0
    return float(scale), float(y_mean - scale * x_mean)


def _compare(d: Float64, target: Float64, *, negative_scale: bool) -> DepthMetrics:
    difference, log_difference = d - target, np.log(d) - np.log(target)
    ratio = np.maximum(d / target, target / d)
    return DepthMetrics(
        abs_rel=float(np.mean(np.abs(difference) / target)),
        sq_rel=float(np.mean(difference**2 / target)),
        rmse=float(np.sqrt(np.mean(difference**2))),
        rmse_log=float(np.sqrt(np.mean(log_difference**2))),
        log10=float(np.mean(np.abs(log_difference)) / np.log(10)),
        silog=float(100 * np.std(log_difference)),
        delta1=float(np.mean(ratio < 1.25)),
        delta2=float(np.mean(ratio < 1.25**2)),
        delta3=float(np.mean(ratio < 1.25**3)),
        negative_scale=float(negative_scale),
        num_valid=d.size,
    )


def _relative_error(candidate: Float64, reference: Float64) -> Float64:
    error: Float64 = np.abs(candidate - reference) / np.maximum(np.abs(reference), RELATIVE_FLOOR)
    return error


def _valid_pixels(pred: Array, target: Array, valid: Array | None) -> tuple[Float64, Float64]:
    x, y = np.asarray(pred, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if x.shape != y.shape:
        raise ValueError(f"both arrays must have one shape: got {x.shape} and {y.shape}")
    mask = np.ones(x.shape, dtype=bool) if valid is None else np.asarray(valid, dtype=bool)
    if mask.shape != x.shape:
        raise ValueError(f"the mask must have the array's shape: got {mask.shape} and {x.shape}")
    x, y = x[mask], y[mask]
    if x.size == 0:
        raise ValueError("there is no valid pixel to compare")
    _require_finite(x, "prediction")
    _require_finite(y, "target")
    return x, y


def _require_finite(values: Float64, name: str) -> None:
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        raise ValueError(f"the {name} holds {bad} NaN or infinite values at valid pixels")

"""Metres from affine-invariant distances: scale and shift from points or a plane whose distance is known.

Metric depth is along the optical axis (z), as in REP-118. Nothing here runs unless it is asked for: without it every
sidecar says ``"metric": false``.
"""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy_format

from e2e_deploy.errors import InputError, UsageError
from e2e_deploy.kinds import KINDS
from e2e_deploy.names import ResultKind
from e2e_deploy.runtime.backends.layout import Result
from e2e_deploy.runtime.camera.lens import Camera
from e2e_deploy.runtime.sources.source import SourceFrame
from e2e_deploy.runtime.steps.step import Facts, Step
from e2e_deploy.system.files import read_bytes, read_npy_header
from e2e_deploy.system.text import clean

Float64 = npt.NDArray[np.float64]

TOLERANCE = 0.1  # a point is an inlier when the fit is within this share of its distance
MIN_POINTS = 4
MIN_INLIERS = (
    0.5  # share of points; fewer than half say that picture and points do not belong together
)
MIN_PLANE_INLIERS = 0.1  # of a plane, only the part that nothing stands on is seen
PAIRS = (
    500  # at half the points wrong, one pair in four is good: 500 pairs miss with a chance of 1e-62
)
MAX_POINTS = 2000
BISQUARE = 4.685  # standard deviations: 95 % as good as least squares where noise is Gaussian
MAX_POINTS_BYTES = 64 * 1024**2  # over two million points; MAX_POINTS of them are used
MAX_PLANE_M = 50.0
DISTANCES = tuple(kind.name for kind in KINDS.values() if kind.power)
# What 16-bit files hold of metric depth, in metres: its codes 1 to 65535 are millimetres, 0 is unknown.
MILLIMETRES_16 = (0.001, 65.535)


@dataclass(frozen=True)
class MetricFit:
    """``metres ** power = scale * value + shift``, with the power of the kind: 1 of depth, -1 of disparity.

    Attributes:
        scale: positive.
        shift: in metres to that power.
        space: kind of the value.
        points: how many were given and could be used.
        inliers: share of them within TOLERANCE.
        residual_m: median distance of the inliers from the fit, in metres.
        residual: the same as a share of their own distance.
    """

    scale: float
    shift: float
    space: ResultKind
    points: int
    inliers: float
    residual_m: float
    residual: float

    def apply(self, depth: Result) -> Result:
        """Depth [H, W] in metres, float32; NaN where the fit puts a pixel at or behind the camera, or beyond all."""
        value = depth * np.float32(self.scale) + np.float32(self.shift)
        value[~(value > 0)] = np.nan
        power = KINDS[self.space].power
        return value if power == 1 else np.asarray(value ** np.float32(1 / power), np.float32)


def fit_metric(
    depth: Result,
    points: npt.ArrayLike,
    *,
    space: ResultKind = "depth",
    min_inliers: float = MIN_INLIERS,
) -> MetricFit:
    """Scale and shift that bring distances to points of known distance, whatever up to half of them say.

    The best of PAIRS lines through two points each (RANSAC, scored by truncated squares as MSAC), then Tukey's
    bisquare on its inliers by reweighted least squares. The same input gives the same fit.

    Args:
        depth: affine-invariant [H, W], of the kind ``space``.
        points: [N, 3] rows of column, row (pixels of ``depth``) and distance along the optical axis in metres.
        space: kind of the map, a distance; an affine map of it is metres to the kind's power.
        min_inliers: share of the points that must agree.

    Raises:
        UsageError: ``depth`` is no [H, W], ``points`` no [N, 3], ``space`` no distance or ``min_inliers`` no share.
        InputError: fewer than MIN_POINTS lie in the picture, they do not tell a scale, or too few agree.
    """
    if space not in DISTANCES:
        raise UsageError(f"`space` is {space!r}; distances are {', '.join(DISTANCES)}")
    if not 0 < min_inliers <= 1:
        raise UsageError(f"`min_inliers` is {min_inliers}; it is a share above 0 and up to 1")
    power = KINDS[space].power
    d, z = _pick(depth, points)
    target = z**power
    first, second = np.random.default_rng(0).integers(0, d.size, (2, PAIRS))
    run = d[second] - d[first]
    usable = np.abs(run) > 1e-6
    scales = (target[second] - target[first])[usable] / run[usable]
    shifts = target[first][usable] - scales * d[first][usable]
    rising = scales > 0
    if not rising.any():
        raise InputError(
            "the metric points do not tell a scale: the model sees no difference in depth between them, or the "
            "opposite one; points both near and far are needed"
        )
    scales, shifts = scales[rising], shifts[rising]
    errors = np.stack([_error(a, b, d, z, power) for a, b in zip(scales, shifts, strict=True)])
    best = int(np.argmin((np.minimum(errors, TOLERANCE) ** 2).sum(axis=1)))
    scale, shift = _refine(float(scales[best]), float(shifts[best]), d, z, power)
    error = _error(scale, shift, d, z, power)
    inside = error <= TOLERANCE
    share = float(inside.mean())
    if share < min_inliers or scale <= 0:
        raise InputError(
            f"the metric points do not fit the picture: {share:.0%} of {d.size} are within {TOLERANCE:.0%} of one "
            f"scale and shift, at least {min_inliers:.0%} must be; check that they are columns, rows and metres of "
            "this camera"
        )
    return MetricFit(
        scale,
        shift,
        space,
        int(d.size),
        share,
        float(np.median(error[inside] * z[inside])),
        float(np.median(error[inside])),
    )


def as_points(points: npt.ArrayLike) -> Float64:
    """Metric points as an array [N, 3].

    Raises:
        UsageError: they are something else.
    """
    try:
        rows = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError):
        raise UsageError("metric points are rows of three numbers: column, row, metres") from None
    if rows.ndim != 2 or rows.shape[1] != 3:
        raise UsageError(
            f"metric points are rows of column, row and metres, [N, 3], not {list(rows.shape)}"
        )
    return rows


def _pick(depth: Result, points: npt.ArrayLike) -> tuple[Float64, Float64]:
    """(model's depth, metres) of the points inside the picture, evenly thinned to MAX_POINTS."""
    rows = as_points(points)
    if depth.ndim != 2:
        raise UsageError(f"metric points fit one map [H, W], not {list(depth.shape)}")
    height, width = depth.shape
    column, row = np.rint(rows[:, 0]), np.rint(rows[:, 1])  # NaN is in no picture
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    inside &= (rows[:, 2] > 0) & np.isfinite(rows[:, 2])
    d = depth[row[inside].astype(int), column[inside].astype(int)].astype(np.float64)
    z = rows[inside, 2]
    d, z = d[np.isfinite(d)], z[np.isfinite(d)]
    if d.size < MIN_POINTS:
        raise InputError(
            f"{d.size} metric points lie in the {width}x{height} picture; at least {MIN_POINTS} are needed"
        )
    chosen = np.unique(np.linspace(0, d.size - 1, min(d.size, MAX_POINTS)).astype(int))
    return d[chosen], z[chosen]


def _error(scale: float, shift: float, d: Float64, z: Float64, power: float) -> Float64:
    """Distance of the fit from each point, as a share of the point's own; infinite behind the camera."""
    value = scale * d + shift
    metres = np.where(value > 0, np.where(value > 0, value, 1.0) ** (1.0 / power), np.inf)
    return np.abs(metres - z) / z


def _refine(
    scale: float, shift: float, d: Float64, z: Float64, power: float
) -> tuple[float, float]:
    """Tukey's bisquare from a start: relative residuals, so that a far point weighs no more than a near one.

    Wrong points that lie within TOLERANCE by chance lose all weight; Huber's would keep pulling.
    """
    inside = _error(scale, shift, d, z, power) <= TOLERANCE
    d, z = d[inside], z[inside]
    if d.size < 2:
        return scale, shift
    target = z**power
    for _ in range(10):
        residual = np.abs((scale * d + shift) - target) / target
        sigma = max(1.4826 * float(np.median(residual)), 1e-9)
        weight = (1.0 - np.minimum(1.0, residual / (BISQUARE * sigma)) ** 2) ** 2 / target**2
        mean_d, mean_t = np.average(d, weights=weight), np.average(target, weights=weight)
        variance = float(np.sum(weight * (d - mean_d) ** 2))
        if variance <= 0:
            return scale, shift
        scale = float(np.sum(weight * (d - mean_d) * (target - mean_t))) / variance
        shift = float(mean_t - scale * mean_d)
    return scale, shift


def plane_points(
    hw: tuple[int, int],
    camera: Camera,
    distance_m: float,
    normal: tuple[float, float, float],
) -> Float64:
    """Where a plane would be seen: [N, 3] rows of column, row, metres, for ``fit_metric``.

    Args:
        hw: (H, W) of the picture.
        camera: of the picture.
        distance_m: of the plane from the camera, positive.
        normal: toward the plane, in optical axes; (0, 1, 0) is the ground under a camera that looks straight ahead.

    Raises:
        UsageError: a distance or normal that describes no plane, or one that this camera does not see.
    """
    direction = np.asarray(normal, dtype=np.float64)
    length = float(np.linalg.norm(direction))
    if not (distance_m > 0 and np.isfinite(distance_m) and length > 0 and np.isfinite(length)):
        raise UsageError(
            f"a plane needs a positive distance and a normal: got {distance_m} m and {normal}"
        )
    step = max(1, int(np.sqrt(hw[0] * hw[1] / MAX_POINTS)))
    v, u = (grid.ravel() for grid in np.mgrid[: hw[0] : step, : hw[1] : step])
    toward = camera.rays(u, v) @ (direction / length)
    seen = toward * MAX_PLANE_M > distance_m  # nearer than MAX_PLANE_M along the optical axis
    if np.count_nonzero(seen) < MIN_POINTS:
        raise UsageError(
            f"this camera does not see a plane {distance_m:g} m away in the direction "
            f"({', '.join(f'{value:.3g}' for value in normal)}) within {MAX_PLANE_M:.0f} m"
        )
    return np.stack([u[seen], v[seen], distance_m / toward[seen]], axis=1)


def read_points(path: Path) -> Float64:
    """Points [N, 3] from a .npy file, or from text with column, row, metres a line (commas or spaces; # comments).

    Raises:
        InputError: missing, not a regular file, larger than MAX_POINTS_BYTES, or not of that form.
    """
    try:
        data = read_bytes(path, MAX_POINTS_BYTES)
        points = _npy(data) if path.suffix.lower() == ".npy" else _text(data)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} holds no table of numbers: {clean(str(error))}") from None
    if points.ndim != 2 or points.shape[1] != 3 or not len(points):
        raise InputError(
            f"{path} must hold rows of column, row and metres; it holds {list(points.shape)}"
        )
    return points


def _npy(data: bytes) -> Float64:
    """Numbers of a .npy file whose header promises no more than there is, and no Python objects."""
    if not data.startswith(npy_format.MAGIC_PREFIX):
        raise ValueError("it does not begin as a .npy file does")
    stream = io.BytesIO(data)
    shape, _, dtype = read_npy_header(stream)
    promised, held = math.prod(shape) * dtype.itemsize, len(data) - stream.tell()
    if dtype.kind not in "fiu" or promised != held:
        raise ValueError(
            f"its header promises {dtype} {list(shape)}, {promised:,} bytes, and {held:,} follow"
        )
    stream.seek(0)
    return np.asarray(np.load(stream, allow_pickle=False), dtype=np.float64)


def _text(data: bytes) -> Float64:
    lines = data.decode("utf-8-sig").replace(",", " ").splitlines()
    if not any(line.partition("#")[0].strip() for line in lines):
        return np.empty((0, 3))
    return np.asarray(np.loadtxt(lines, ndmin=2), dtype=np.float64)


def metric(
    points_for: Callable[[tuple[int, int]], npt.ArrayLike],
    *,
    space: ResultKind = "depth",
    min_inliers: float = MIN_INLIERS,
) -> Step:
    """A step that turns each map of distances into metres by its own fit.

    A map whose fit fails becomes NaN, which readers of depth take for "nothing known here"; its sidecar says why. An
    older fit is not used in its place, because the model's scale changes from frame to frame.

    Args:
        points_for: (H, W) of a map -> its points, as ``fit_metric`` takes them.
        space: as ``fit_metric``.
        min_inliers: as ``fit_metric``.
    """

    def step(frame: SourceFrame, depth: Result, facts: Facts) -> Result:
        facts["metric"] = True
        facts["kind"] = "depth"
        facts["units"] = "metres along the optical axis; NaN (0 in 16 bits) where unknown"
        facts["meaning"] = "metric depth"
        facts["range"] = list(MILLIMETRES_16)
        try:
            points = points_for((depth.shape[0], depth.shape[1]))
            fit = fit_metric(depth, points, space=space, min_inliers=min_inliers)
        except InputError as error:
            facts["metric_fit"] = {"failed": str(error)}
            return np.full_like(depth, np.nan)
        facts["metric_fit"] = vars(fit)
        return fit.apply(depth)

    return step

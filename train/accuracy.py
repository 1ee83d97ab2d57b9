"""Accuracy of any predictor on a data set, by the published protocols.

Depth: scale and shift per image, clip to the data set's range, mean over images; disparity is fitted as disparity.
Normals: angles pooled over all valid pixels. Masks and mattes: as they are, mean over images. Knows no backend: a
predictor is a function from frame to result.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from e2e_deploy.errors import DataError, E2EDeployError
from e2e_deploy.kinds import KINDS
from e2e_deploy.metrics import (
    DepthMetrics,
    NormalsAccumulator,
    NormalsMetrics,
    Space,
    depth_metrics,
    mean_depth_metrics,
    why_unmeasurable,
)
from e2e_deploy.names import ResultKind, TaskName
from e2e_deploy.train.data.files import write_picture
from e2e_deploy.train.data.sample import Sample
from e2e_deploy.train.normals_axes import AxesComparison, AxesFit
from e2e_deploy.train.picture_metrics import (
    PictureMetrics,
    mean_picture_metrics,
    picture_metrics,
)
from e2e_deploy.train.pictures import Picture, captioned_rows, comparison_row
from e2e_deploy.train.row_table import write_table

Array = npt.NDArray[Any]
Metrics = DepthMetrics | NormalsMetrics | PictureMetrics

Predict = Callable[[npt.NDArray[np.uint8]], npt.NDArray[Any]]
"""Frame uint8 [H, W, 3] to one result, [H, W] or [H, W, 3], at frame size."""

NUM_WORST = 8

NOTES: dict[ResultKind, str] = {
    "depth": "inverted depth",
    "disparity": "inverted disparity",
    "sqrt-disparity": "inverted disparity",
    "normals": "normals in other axes",
}
"""What a ``problem`` is in a few words, for what is said with every output of such a model."""

CRITERION: dict[ResultKind, str] = {
    "depth": "abs_rel",
    "disparity": "abs_rel",
    "sqrt-disparity": "abs_rel",
    "normals": "mean_deg",
    "mask": "mae",
    "matte": "mae",
}
"""The metric that tells a better model, smaller is better."""

MAX_NEGATIVE_SCALES = 0.25
"""Largest share of images whose fitted scale may be negative. Chance gives a half and an inverted model gives nearly
all; a good one gives a few per cent, on pictures with hardly any depth to see."""


class Readable(Protocol):
    """What is measured on: ``FolderDataset`` and anything like it."""

    @property
    def left_out(self) -> Mapping[str, int]:
        """Images of the set that can never be read, by reason."""
        ...

    def __len__(self) -> int: ...

    def read(self, index: int) -> Sample:
        """Sample ``index``."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class JointMetrics:
    """Of a model that gives depth and normals at once."""

    depth: DepthMetrics
    normals: NormalsMetrics


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Accuracy over a data set."""

    kinds: tuple[ResultKind, ...]
    """Of the results that were measured."""
    metrics: Metrics | JointMetrics
    num_images: int
    """Images measured."""
    left_out: dict[str, int]
    """Images that were not measured, by reason: those of the data set that cannot be read, and those whose truth
    nothing can be measured against."""
    worst: tuple[str, ...]
    """Paths of the worst images, worst first."""
    problem: str | None
    """A sentence if the numbers belong to inverted depth or to normals in other axes, which makes them worthless."""
    note: str = ""
    """The problem in a few words, as of ``NOTES``; of several results with one, theirs together."""
    ran: str = ""
    """What was measured, in words: a backend, a checkpoint in PyTorch, or diffusers' pipeline and how it samples."""

    def values(self) -> dict[str, float]:
        """The metrics by name, after their result's where there are several; the pixel count left out."""
        if isinstance(self.metrics, JointMetrics):
            of_kind = asdict(self.metrics)
            return {
                f"{kind}_{name}": value
                for kind, values in of_kind.items()
                for name, value in _numbers(values).items()
            }
        return _numbers(asdict(self.metrics))


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {k: float(v) for k, v in metrics.items() if k != "num_valid"}


def criterion_of(kinds: Sequence[ResultKind]) -> str:
    """Name, in ``Evaluation.values``, of the metric that decides: that of the first result."""
    name = CRITERION[kinds[0]]
    return name if len(kinds) == 1 else f"{kinds[0]}_{name}"


def joined(depth: Evaluation, normals: Evaluation) -> Evaluation:
    """Two results of the same images as one evaluation."""
    assert isinstance(depth.metrics, DepthMetrics)
    assert isinstance(normals.metrics, NormalsMetrics)
    problems = [each.problem for each in (depth, normals) if each.problem]
    return replace(
        depth,
        kinds=("depth", "normals"),
        metrics=JointMetrics(depth=depth.metrics, normals=normals.metrics),
        problem="; ".join(problems) or None,
        note=" and ".join(each.note for each in (depth, normals) if each.note),
    )


def spread_indices(length: int, limit: int | None) -> Sequence[int]:
    """At most ``limit`` of ``range(length)``, evenly spread; the same every time."""
    if limit is None or limit >= length:
        return range(length)
    return [i * length // limit for i in range(limit)]


def measure_accuracy(
    predict: Predict,
    dataset: Readable,
    *,
    kind: ResultKind,
    limit: int | None = None,
    depth_range_m: tuple[float, float] = (1e-5, float("inf")),
    on_progress: Callable[[int, int], None] | None = None,
    rows_path: Path | None = None,
    worst_sheet: Path | None = None,
) -> Evaluation:
    """Measure ``predict`` on ``dataset``.

    Args:
        predict: frame to result; called once an image.
        dataset: samples with ground truth.
        kind: of the result: a distance, normals, a mask or a matte.
        limit: measure this many images, evenly spread; None for all.
        depth_range_m: aligned depth is clipped to it, as the published protocol does per data set.
        on_progress: called with (images done, images in all).
        rows_path: .csv or .parquet file with one row of metrics per image.
        worst_sheet: PNG with the eight worst images: rgb, target, prediction.

    Raises:
        DataError: a sample cannot be read, or no image has a valid pixel.
        E2EDeployError: a prediction has a wrong shape, or is NaN or infinite where it counts.
    """
    measured = Measurement(kind, depth_range_m=depth_range_m)
    measured.left_out.update(dataset.left_out)
    worst: list[tuple[float, int, Picture]] = []  # a heap, the least bad on top
    indices = spread_indices(len(dataset), limit)
    for done, index in enumerate(indices, start=1):
        sample = dataset.read(index)
        prediction = measured.add(index, sample, predict)
        if worst_sheet is not None and prediction is not None:
            target, valid = target_of(sample, kind)
            picture = comparison_row(sample.rgb, target, prediction, valid, kind)
            heapq.heappush(worst, (_badness(measured.rows[index][1]), index, picture))
            if len(worst) > NUM_WORST:
                heapq.heappop(worst)
        if on_progress is not None:
            on_progress(done, len(indices))
    result = measured.result()
    if rows_path is not None:
        rows = measured.rows.values()
        write_table(rows_path, [{"path": path} | asdict(metrics) for path, metrics in rows])
    if worst_sheet is not None:
        pictures = [
            picture for _, _, picture in sorted(worst, key=lambda row: row[:2], reverse=True)
        ]
        by_path = dict(measured.rows.values())
        captions = [f"{_badness(by_path[path]):.4f}  {path}" for path in result.worst]
        write_picture(worst_sheet, captioned_rows(pictures, captions))
    return result


class Measurement:
    """What has been measured so far; the measurements of several processes add up to that of one.

    Attributes:
        rows: path and metrics by index of the image.
        left_out: images that were not measured, by reason.
    """

    def __init__(
        self,
        kind: ResultKind,
        *,
        depth_range_m: tuple[float, float] = (1e-5, float("inf")),
    ) -> None:
        self.rows: dict[int, tuple[str, Metrics]] = {}
        self.left_out = Counter[str]()
        self._kind, self._range_m = kind, depth_range_m
        self._pooled, self._axes = NormalsAccumulator(), AxesComparison()

    def add(self, index: int, sample: Sample, predict: Predict) -> Array | None:
        """Measure one image; gives the prediction, or None if its truth leaves nothing to measure.

        Raises:
            E2EDeployError: the prediction has a wrong shape, or is NaN or infinite where it counts.
        """
        target, valid = target_of(sample, self._kind)
        reason = _why_left_out(target, valid, self._kind)
        if reason is not None:
            self.left_out[reason] += 1
            return None
        prediction = np.asarray(predict(sample.rgb))
        metrics: Metrics
        try:
            if KINDS[self._kind].form == "distance":
                metrics = distance_metrics(prediction, target, valid, self._range_m, self._kind)
            elif self._kind == "normals":
                metrics = _normals(prediction, target, valid, self._pooled)
                self._axes.add(prediction, target, valid)
            else:
                metrics = picture_metrics(prediction, target, valid)
        except ValueError as error:
            raise E2EDeployError(
                f"{sample.path}: the prediction cannot be measured: {error}"
            ) from error
        self.rows[index] = sample.path, metrics
        return prediction

    def merge(self, other: "Measurement") -> None:
        """Add what another process measured, of other images."""
        self.rows = dict(sorted((self.rows | other.rows).items()))
        self.left_out.update(other.left_out)
        self._pooled.merge(other._pooled)
        self._axes.merge(other._axes)

    def result(self) -> Evaluation:
        """Accuracy over all images.

        Raises:
            DataError: none could be measured.
        """
        if not self.rows:
            counts = "; ".join(f"{reason}: {count}" for reason, count in self.left_out.items())
            num = sum(self.left_out.values())
            raise DataError(f"none of the {num} images can be measured for {self._kind} ({counts})")
        metrics, problem = self._over_all([metrics for _, metrics in self.rows.values()])
        worst = sorted(self.rows, key=lambda i: (_badness(self.rows[i][1]), i), reverse=True)
        return Evaluation(
            kinds=(self._kind,),
            metrics=metrics,
            num_images=len(self.rows),
            left_out=dict(self.left_out),
            worst=tuple(self.rows[i][0] for i in worst[:NUM_WORST]),
            problem=problem,
            note=NOTES.get(self._kind, "") if problem else "",
        )

    def _over_all(self, rows: Sequence[Metrics]) -> tuple[Metrics, str | None]:
        """The metrics of the set, and its problem."""
        if KINDS[self._kind].form == "distance":
            depth_rows = [row for row in rows if isinstance(row, DepthMetrics)]
            return mean_depth_metrics(depth_rows), depth_problem(depth_rows, self._kind)
        if self._kind == "normals":
            return self._pooled.result(), axes_problem(self._axes.result())
        pictures = [row for row in rows if isinstance(row, PictureMetrics)]
        return mean_picture_metrics(pictures), None


def depth_problem(per_image: Sequence[DepthMetrics], kind: ResultKind = "depth") -> str | None:
    """A sentence if more than ``MAX_NEGATIVE_SCALES`` of the images have a negative fitted scale, else None."""
    negative = sum(metrics.negative_scale > 0 for metrics in per_image)
    if negative <= MAX_NEGATIVE_SCALES * len(per_image):
        return None
    return (
        f"the {kind} is inverted: the fitted scale is negative in {negative} of {len(per_image)} images "
        f"(at most {MAX_NEGATIVE_SCALES:.0%} may be)"
        "; check the task and family it was opened with"
        + (", or, if you trained it, set a loss.direction_weight" if kind == "depth" else "")
    )


def axes_problem(fit: AxesFit | None) -> str | None:
    """A sentence if the normals agree far better in other axes, else None."""
    if fit is None or not fit.differ:
        return None
    return (
        f"the normals are in other axes than the truth: x, y, z of the truth are {fit.axes} of the model "
        f"(correlation {fit.correlation:.2f}, {fit.as_given:.2f} as they are); check normals.axes of the data set "
        "and the family of the model"
    )


def _why_left_out(target: Array, valid: Array, kind: ResultKind) -> str | None:
    if KINDS[kind].form == "distance":
        return why_unmeasurable(target, valid)
    return None if valid.any() else "no valid pixel"


def distance_metrics(
    prediction: Array,
    target: Array,
    valid: Array,
    range_m: tuple[float, float],
    kind: ResultKind,
    fit_where: Array | None = None,
) -> DepthMetrics:
    """Metrics of one prediction of distance [H, W], aligned in the space of its kind.

    Arguments and errors as of ``metrics.depth_metrics``.
    """
    low, high = range_m
    return depth_metrics(
        prediction,
        target,
        valid,
        space=cast(Space, kind),
        min_depth=low,
        max_depth=high,
        fit_where=fit_where,
    )


def _normals(prediction: Array, target: Array, valid: Array, pooled: NormalsAccumulator) -> Metrics:
    pooled.add(prediction, target, valid)
    single = NormalsAccumulator()
    single.add(prediction, target, valid)
    return single.result()


def target_of(
    sample: Sample, kind: ResultKind
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """What a result of ``kind`` is measured against, and where bool [H, W]: depth in metres [H, W] or another truth.

    Raises:
        DataError: the sample has none.
    """
    if KINDS[kind].form == "distance":
        return sample.depth_m, sample.valid
    truths: dict[ResultKind, tuple[npt.NDArray[np.float32] | None, TaskName]] = {
        "normals": (sample.normals, "normals"),
        "mask": (sample.mask, "segmentation"),
        "matte": (sample.matte, "matting"),
    }
    target, task = truths.get(kind, (None, "depth"))
    if target is None:
        raise DataError(f"{sample.path} has no {kind} to measure against")
    return target, sample.known(task)


def _badness(metrics: Metrics) -> float:
    if isinstance(metrics, DepthMetrics):
        return metrics.abs_rel
    return metrics.mean_deg if isinstance(metrics, NormalsMetrics) else metrics.mae

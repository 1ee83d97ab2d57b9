"""Accuracy of any predictor on a data set, by the published protocols.

Depth: scale and shift per image, clip to the data set's range, mean over images. Normals: angles
pooled over all valid pixels. Knows no backend: a predictor is a function from frame to result.
"""

import csv
import heapq
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from e2e_deploy.errors import DataError, E2EDeployError
from e2e_deploy.metrics import (
    DepthMetrics,
    NormalsAccumulator,
    NormalsMetrics,
    depth_metrics,
    mean_depth_metrics,
    why_unmeasurable,
)
from e2e_deploy.names import TaskName
from e2e_deploy.train.data.files import write_bytes, write_picture
from e2e_deploy.train.data.sample import Sample
from e2e_deploy.train.normals_axes import AxesComparison, AxesFit
from e2e_deploy.train.pictures import Picture, captioned_rows, comparison_row

Array = npt.NDArray[Any]
Metrics = DepthMetrics | NormalsMetrics

Predict = Callable[[npt.NDArray[np.uint8]], npt.NDArray[Any]]
"""Frame uint8 [H, W, 3] to depth [H, W] or normals [H, W, 3], at frame size."""

NUM_WORST = 8

NOTES: dict[TaskName, str] = {"depth": "inverted depth", "normals": "normals in other axes"}
"""What a ``problem`` is in a few words, for what is said with every output of such a model."""

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
class Evaluation:
    """Accuracy over a data set."""

    task: TaskName
    metrics: Metrics
    num_images: int
    """Images measured."""
    left_out: dict[str, int]
    """Images that were not measured, by reason: those of the data set that cannot be read, and those whose truth
    nothing can be measured against."""
    worst: tuple[str, ...]
    """Paths of the worst images, worst first."""
    problem: str | None
    """A sentence if the numbers belong to inverted depth or to normals in other axes, which makes them worthless."""
    ran: str = ""
    """What was measured, in words: a backend, a checkpoint in PyTorch, or diffusers' pipeline and how it samples."""

    def values(self) -> dict[str, float]:
        """The metrics by name, the pixel count left out."""
        return {k: float(v) for k, v in asdict(self.metrics).items() if k != "num_valid"}


def spread_indices(length: int, limit: int | None) -> Sequence[int]:
    """At most ``limit`` of ``range(length)``, evenly spread; the same every time."""
    if limit is None or limit >= length:
        return range(length)
    return [i * length // limit for i in range(limit)]


def measure_accuracy(
    predict: Predict,
    dataset: Readable,
    *,
    task: TaskName,
    limit: int | None = None,
    depth_range_m: tuple[float, float] = (1e-5, float("inf")),
    on_progress: Callable[[int, int], None] | None = None,
    csv_path: Path | None = None,
    worst_sheet: Path | None = None,
) -> Evaluation:
    """Measure ``predict`` on ``dataset``.

    Args:
        predict: frame to result; called once an image.
        dataset: samples with ground truth.
        task: depth or normals.
        limit: measure this many images, evenly spread; None for all.
        depth_range_m: aligned depth is clipped to it, as the published protocol does per data set.
        on_progress: called with (images done, images in all).
        csv_path: one row of metrics per image.
        worst_sheet: PNG with the eight worst images: rgb, target, prediction.

    Raises:
        DataError: a sample cannot be read, or no image has a valid pixel.
        E2EDeployError: a prediction has a wrong shape, or is NaN or infinite where it counts.
    """
    measured = Measurement(task, depth_range_m=depth_range_m)
    measured.left_out.update(dataset.left_out)
    worst: list[tuple[float, int, Picture]] = []  # a heap, the least bad on top
    indices = spread_indices(len(dataset), limit)
    for done, index in enumerate(indices, start=1):
        sample = dataset.read(index)
        prediction = measured.add(index, sample, predict)
        if worst_sheet is not None and prediction is not None:
            target, valid = _target(sample, task)
            picture = comparison_row(sample.rgb, target, prediction, valid)
            heapq.heappush(worst, (_badness(measured.rows[index][1]), index, picture))
            if len(worst) > NUM_WORST:
                heapq.heappop(worst)
        if on_progress is not None:
            on_progress(done, len(indices))
    result = measured.result()
    if csv_path is not None:
        _write_csv(csv_path, list(measured.rows.values()))
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
        task: TaskName,
        *,
        depth_range_m: tuple[float, float] = (1e-5, float("inf")),
    ) -> None:
        self.rows: dict[int, tuple[str, Metrics]] = {}
        self.left_out = Counter[str]()
        self._task, self._range_m = task, depth_range_m
        self._pooled, self._axes = NormalsAccumulator(), AxesComparison()

    def add(self, index: int, sample: Sample, predict: Predict) -> Array | None:
        """Measure one image; gives the prediction, or None if its truth leaves nothing to measure.

        Raises:
            E2EDeployError: the prediction has a wrong shape, or is NaN or infinite where it counts.
        """
        target, valid = _target(sample, self._task)
        reason = _why_left_out(target, valid, self._task)
        if reason is not None:
            self.left_out[reason] += 1
            return None
        prediction = np.asarray(predict(sample.rgb))
        metrics: Metrics
        try:
            if self._task == "depth":
                metrics = _depth(prediction, target, valid, self._range_m)
            else:
                metrics = _normals(prediction, target, valid, self._pooled)
                self._axes.add(prediction, target, valid)
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
            raise DataError(f"none of the {num} images can be measured for {self._task} ({counts})")
        is_depth, rows = self._task == "depth", list(self.rows.values())
        depth_rows = [metrics for _, metrics in rows if isinstance(metrics, DepthMetrics)]
        problem = depth_problem(depth_rows) if is_depth else axes_problem(self._axes.result())
        worst = sorted(self.rows, key=lambda i: (_badness(self.rows[i][1]), i), reverse=True)
        return Evaluation(
            task=self._task,
            metrics=mean_depth_metrics(depth_rows) if is_depth else self._pooled.result(),
            num_images=len(rows),
            left_out=dict(self.left_out),
            worst=tuple(self.rows[i][0] for i in worst[:NUM_WORST]),
            problem=problem,
        )


def depth_problem(per_image: Sequence[DepthMetrics]) -> str | None:
    """A sentence if more than ``MAX_NEGATIVE_SCALES`` of the images have a negative fitted scale, else None."""
    negative = sum(metrics.negative_scale > 0 for metrics in per_image)
    if negative <= MAX_NEGATIVE_SCALES * len(per_image):
        return None
    return (
        f"the depth is inverted: the fitted scale is negative in {negative} of {len(per_image)} images "
        f"(at most {MAX_NEGATIVE_SCALES:.0%} may be); train it with a loss.direction_weight"
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


def _why_left_out(target: Array, valid: Array, task: TaskName) -> str | None:
    if task == "depth":
        return why_unmeasurable(target, valid)
    return None if valid.any() else "no valid pixel"


def _depth(
    prediction: Array,
    target: Array,
    valid: Array,
    range_m: tuple[float, float],
) -> Metrics:
    low, high = range_m
    return depth_metrics(prediction, target, valid, min_depth=low, max_depth=high)


def _normals(prediction: Array, target: Array, valid: Array, pooled: NormalsAccumulator) -> Metrics:
    pooled.add(prediction, target, valid)
    single = NormalsAccumulator()
    single.add(prediction, target, valid)
    return single.result()


def _target(
    sample: Sample, task: TaskName
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    if task == "depth":
        return sample.depth_m, sample.valid
    if sample.normals is None:
        raise DataError(f"{sample.path} has no normals to measure against")
    return sample.normals, sample.known(task)


def _badness(metrics: Metrics) -> float:
    return metrics.abs_rel if isinstance(metrics, DepthMetrics) else metrics.mean_deg


def _write_csv(path: Path, rows: Sequence[tuple[str, Metrics]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["path", *asdict(rows[0][1])])
    writer.writerows([name, *asdict(metrics).values()] for name, metrics in rows)
    write_bytes(path, text.getvalue().encode())

"""Accuracy of any predictor on a data set, by the published protocols.

Depth: scale and shift per image, clip to the data set's range, mean over images. Normals: angles
pooled over all valid pixels. Knows no backend: a predictor is a function from frame to result.
"""

import csv
import heapq
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from e2e_deploy.errors import DataError, E2EDeployError
from e2e_deploy.metrics import (
    DepthMetrics,
    NormalsAccumulator,
    NormalsMetrics,
    depth_metrics,
    mean_depth_metrics,
)
from e2e_deploy.tasks import TaskName
from e2e_deploy.train.files import write_bytes, write_picture
from e2e_deploy.train.pictures import Picture, captioned_rows, comparison_row
from e2e_deploy.train.sample import Sample

Array = npt.NDArray[Any]
Alignment = Literal["depth", "disparity"]
Metrics = DepthMetrics | NormalsMetrics

Predict = Callable[[npt.NDArray[np.uint8]], npt.NDArray[Any]]
"""Frame uint8 [H, W, 3] to depth [H, W] or normals [H, W, 3], at frame size."""

NUM_WORST = 8


class Readable(Protocol):
    """What is measured on: ``FolderDataset`` and anything like it."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> Sample:
        """Sample ``index``."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalResult:
    """Accuracy over a data set."""

    task: TaskName
    metrics: Metrics
    num_images: int
    """Images measured."""
    num_empty: int
    """Images left out because nothing in them is valid."""
    worst: tuple[str, ...]
    """Paths of the worst images, worst first."""

    def values(self) -> dict[str, float]:
        """The metrics by name, the pixel count left out."""
        return {k: float(v) for k, v in asdict(self.metrics).items() if k != "num_valid"}


def spread_indices(length: int, limit: int | None) -> Sequence[int]:
    """At most ``limit`` of ``range(length)``, evenly spread; the same every time."""
    if limit is None or limit >= length:
        return range(length)
    return [i * length // limit for i in range(limit)]


def evaluate(
    predict: Predict,
    dataset: Readable,
    *,
    task: TaskName,
    alignment: Alignment = "depth",
    limit: int | None = None,
    depth_range_m: tuple[float, float] = (1e-5, float("inf")),
    on_progress: Callable[[int, int], None] | None = None,
    csv_path: Path | None = None,
    worst_sheet: Path | None = None,
) -> EvalResult:
    """Measure ``predict`` on ``dataset``.

    Args:
        predict: frame to result; called once an image.
        dataset: samples with ground truth.
        task: depth or normals.
        alignment: what ``predict`` gives for depth: affine depth, or disparity (fitted to 1 / depth).
        limit: measure this many images, evenly spread; None for all.
        depth_range_m: aligned depth is clipped to it, as the published protocol does per data set.
        on_progress: called with (images done, images in all).
        csv_path: one row of metrics per image.
        worst_sheet: PNG with the eight worst images: rgb, target, prediction.

    Raises:
        DataError: a sample cannot be read, or no image has a valid pixel.
        E2EDeployError: a prediction has a wrong shape, or is NaN or infinite where it counts.
    """
    indices = spread_indices(len(dataset), limit)
    rows: list[tuple[str, Metrics]] = []
    worst: list[tuple[float, int, Picture | None]] = []  # a heap, the least bad on top
    pooled = NormalsAccumulator()
    for done, index in enumerate(indices, start=1):
        sample = dataset.read(index)
        target, valid = _target(sample, task)
        if valid.any():
            prediction = np.asarray(predict(sample.rgb))
            try:
                if task == "depth":
                    metrics = _depth(prediction, target, valid, alignment, depth_range_m)
                else:
                    metrics = _normals(prediction, target, valid, pooled)
            except ValueError as error:
                raise E2EDeployError(
                    f"{sample.path}: the prediction cannot be measured: {error}"
                ) from error
            picture = None
            if worst_sheet is not None:
                shown = 1 / np.maximum(prediction, 1e-6) if alignment == "disparity" else prediction
                picture = comparison_row(sample.rgb, target, shown, valid)
            heapq.heappush(worst, (_badness(metrics), len(rows), picture))
            rows.append((sample.path, metrics))
            if len(worst) > NUM_WORST:
                heapq.heappop(worst)
        if on_progress is not None:
            on_progress(done, len(indices))
    if not rows:
        raise DataError(f"none of the {len(indices)} images has a valid pixel to measure {task} on")
    worst.sort(reverse=True)
    if csv_path is not None:
        _write_csv(csv_path, rows)
    if worst_sheet is not None:
        pictures = [picture for _, _, picture in worst if picture is not None]
        captions = [f"{_badness(rows[i][1]):.4f}  {rows[i][0]}" for _, i, _ in worst]
        write_picture(worst_sheet, captioned_rows(pictures, captions))
    depth_rows = [metrics for _, metrics in rows if isinstance(metrics, DepthMetrics)]
    return EvalResult(
        task=task,
        metrics=mean_depth_metrics(depth_rows) if task == "depth" else pooled.result(),
        num_images=len(rows),
        num_empty=len(indices) - len(rows),
        worst=tuple(rows[i][0] for _, i, _ in worst),
    )


def _depth(
    prediction: Array,
    target: Array,
    valid: Array,
    alignment: Alignment,
    range_m: tuple[float, float],
) -> Metrics:
    low, high = range_m
    return depth_metrics(prediction, target, valid, space=alignment, min_depth=low, max_depth=high)


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
    return sample.normals, sample.valid & sample.normals.any(axis=-1)


def _badness(metrics: Metrics) -> float:
    return metrics.abs_rel if isinstance(metrics, DepthMetrics) else metrics.mean_deg


def _write_csv(path: Path, rows: Sequence[tuple[str, Metrics]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["path", *asdict(rows[0][1])])
    writer.writerows([name, *asdict(metrics).values()] for name, metrics in rows)
    write_bytes(path, text.getvalue().encode())

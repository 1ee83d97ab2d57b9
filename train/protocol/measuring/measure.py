"""One model on one set: predictions made comparable, measured and averaged as the protocol says.

Knows: spaces of alignment, rows that are picked up, which pixels scale and shift are fitted on.
Does not know: models, backends, folders of sets.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from e2e_deploy.errors import DataError, E2EDeployError
from e2e_deploy.kinds import KINDS
from e2e_deploy.metrics import DepthMetrics, mean_depth_metrics, why_unmeasurable
from e2e_deploy.names import Measure, ResultKind
from e2e_deploy.system.records import read_record
from e2e_deploy.train.accuracy import (
    Predict,
    axes_problem,
    depth_problem,
    distance_metrics,
    target_of,
)
from e2e_deploy.train.data.sample import Sample
from e2e_deploy.train.protocol.measuring.angles import PooledAngles
from e2e_deploy.train.protocol.measuring.rows import Row, RowLog
from e2e_deploy.train.protocol.sets import EvaluationSet

Array = npt.NDArray[Any]


class Samples(Protocol):
    """What is measured on: ``PairedSet`` and anything like it."""

    @property
    def left_out(self) -> Mapping[str, int]:
        """Images of the set that can never be read, by reason."""
        ...

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Of the picture of sample ``index``, the same wherever the set lies."""
        ...

    def read(self, index: int) -> Sample:
        """Sample ``index``."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What was measured on a set."""

    metrics: dict[str, float]
    rows: list[Row]
    left_out: dict[str, int]
    problem: str | None


def measure_of(kind: ResultKind) -> Measure | None:
    """What a set must have truth for to measure a result of ``kind``; None where nothing is measured of it."""
    forms: dict[str, Measure] = {"distance": "depth", "vectors": "normals"}
    return forms.get(KINDS[kind].form)


def measure_set(
    predict: Predict,
    samples: Samples,
    each: EvaluationSet,
    kind: ResultKind,
    indices: Sequence[int],
    log: Path,
    *,
    on_progress: Callable[[int], None] = lambda done: None,
    on_note: Callable[[str], None] = lambda note: None,
) -> Measured:
    """Measure what ``log`` has no row of yet, then average everything.

    Args:
        predict: uint8 RGB [H, W, 3] to the result of ``kind`` at that size.
        samples: of the set.
        each: what the set is.
        kind: depth, disparity, sqrt-disparity or normals.
        indices: of the samples to measure.
        log: file of the rows; pooled angles lie beside it.
        on_progress: called with the images done.
        on_note: told what was picked up.

    Raises:
        DataError: a sample cannot be read, or none can be measured.
        E2EDeployError: a prediction has a wrong shape, is NaN or infinite where it counts, or a file cannot be
            written.
        UsageError: another process measures the same.
    """
    expected = [(index, samples.name(index)) for index in indices]
    with RowLog(log, expected, on_note) as rows:
        pool = _Pool(log.with_suffix(".angles.npz"), rows, on_note) if kind == "normals" else None
        for index, name in expected[len(rows.rows) :]:
            on_progress(len(rows.rows))
            row = _measure(predict, samples.read(index), each, kind, pool, index, name)
            rows.append(row)
            if pool is not None:
                pool.save()
        on_progress(len(expected))
        return _average(each.title, rows.rows, samples, pool, kind)


class _Pool:
    """Pooled angles beside the rows, brought to the same number of images."""

    def __init__(self, path: Path, log: RowLog, on_note: Callable[[str], None]) -> None:
        self.path, self.angles = path, PooledAngles()
        if not log.rows:
            return
        try:
            self.angles = PooledAngles.load(path)
            if self.angles.images > len(log.rows):
                raise DataError(
                    f"{path}: of {self.angles.images} images, of which rows are missing"
                )
        except DataError as error:
            on_note(f"{error}; measured anew")
            self.angles = PooledAngles()
        log.keep(self.angles.images)

    def save(self) -> None:
        self.angles.save(self.path)


def _measure(
    predict: Predict,
    sample: Sample,
    each: EvaluationSet,
    kind: ResultKind,
    pool: _Pool | None,
    index: int,
    name: str,
) -> Row:
    target, valid = target_of(sample, kind)
    reason = why_unmeasurable(target, valid) if pool is None else None
    if pool is not None and not valid.any():
        reason = "no valid pixel"
    if reason is not None:
        if pool is not None:
            pool.angles.images += 1
        return Row(index=index, picture=name, ms=None, metrics=None, left_out=reason)
    start = time.perf_counter()
    prediction = np.asarray(predict(sample.rgb))
    ms = 1000 * (time.perf_counter() - start)
    try:
        metrics = (
            distance_metrics(
                *(prediction, target, valid, each.range_m, kind),
                fit_where=fitted_pixels(target.shape, each.align_longest_px),
            )
            if pool is None
            else pool.angles.add(prediction, target, valid)
        )
    except ValueError as error:
        raise E2EDeployError(
            f"{sample.path}: the prediction cannot be measured: {error}"
        ) from error
    numbers = {key: float(value) for key, value in asdict(metrics).items()}
    return Row(index=index, picture=name, ms=ms, metrics=numbers, left_out=None)


def fitted_pixels(shape: tuple[int, ...], longest_px: int | None) -> Array | None:
    """Pixels that scale and shift are fitted on, bool [H, W]; None: all.

    Published: a nearest-neighbour upsampling by ``longest_px / max(H, W)`` of an array [1, H, W], which torch takes
    for signals of H channels: it leaves out columns and keeps every row.
    """
    if longest_px is None or max(shape) <= longest_px:
        return None
    factor = longest_px / max(shape)
    count = int(np.floor(shape[1] * factor))
    columns = np.floor(np.arange(count, dtype=np.float32) * np.float32(1 / factor)).astype(np.int64)
    chosen = np.zeros(shape, bool)
    chosen[:, np.minimum(columns, shape[1] - 1)] = True
    return chosen


def _depth_metrics(row: Row) -> DepthMetrics:
    numbers = dict[str, Any](row.metrics or {})
    numbers["num_valid"] = int(numbers.get("num_valid", 0))
    metrics, problems = read_record(DepthMetrics, numbers, complete=True)
    if metrics is None:
        raise DataError(f"the row of {row.picture} is damaged ({problems[0]}); remove its file")
    return metrics


def _average(
    title: str, rows: Sequence[Row], samples: Samples, pool: _Pool | None, kind: ResultKind
) -> Measured:
    left_out = Counter(dict(samples.left_out))
    left_out.update(row.left_out for row in rows if row.left_out is not None)
    measured = [row for row in rows if row.left_out is None]
    if not measured:
        counts = "; ".join(f"{reason}: {count}" for reason, count in left_out.items())
        raise DataError(f"{title}: none of its images can be measured ({counts})")
    if pool is not None:
        metrics, problem = asdict(pool.angles.result()), axes_problem(pool.angles.axes())
    else:
        images = [_depth_metrics(row) for row in measured]
        metrics, problem = asdict(mean_depth_metrics(images)), depth_problem(images, kind)
    return Measured(
        metrics={name: float(value) for name, value in metrics.items()},
        rows=list(rows),
        left_out=dict(left_out),
        problem=problem,
    )

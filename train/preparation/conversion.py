"""Samples of an official data set converted into a folder data set: in parallel, resumable, every bad file named.

Knows: jobs, workers, atomic writing, the statistics file, the report.
Does not know: any official layout (``hypersim`` and ``vkitti2`` give the jobs and read the files).

``<dst>/<split>.csv`` holds one line of statistics per finished sample. A sample is complete when its
line and its files exist; a killed run loses at most the samples in flight.
"""

import csv
import io
import math
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from e2e_deploy.errors import DataError, E2EDeployError, UsageError
from e2e_deploy.names import OnBad
from e2e_deploy.train.data.encoding import UINT16_MAX, encode_depth, encode_normals
from e2e_deploy.train.data.files import read_bytes, write_bytes, write_picture
from e2e_deploy.train.data.folder_spec import (
    DEFAULT_SPLITS,
    SPEC_FILE,
    FolderSpec,
    load_spec,
    save_spec,
)
from e2e_deploy.train.data.sample import BadSample, Sample, suspect_unit

Progress = Callable[[int, int], None]
"""Called with (samples done, samples in all)."""

COLUMNS = (
    "stem",
    "height",
    "width",
    "valid_share",
    "saturated_share",
    "min_m",
    "median_m",
    "max_m",
)


@dataclass(frozen=True, slots=True)
class Job:
    """One sample to convert."""

    split: str
    stem: str
    sources: tuple[Path, ...]
    """Official files, in the order the data set's reader expects."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareReport:
    """What a preparation did."""

    num_written: int
    num_kept: int
    """Samples that were complete already."""
    num_absent: int
    """Samples that belong to the data set but of which nothing was downloaded."""
    bad: tuple[BadSample, ...]
    suspicions: tuple[str, ...]
    """Sentences about the whole set, such as a unit that looks wrong."""
    notes: tuple[str, ...] = ()
    """Sentences about what was assumed."""


Row = dict[str, str]
_Outcome = tuple[Job, Row | None, str]


def convert_all(
    jobs: Sequence[Job],
    convert: Callable[[Job], Sample],
    dst: Path,
    spec: FolderSpec,
    *,
    size: tuple[int, int],
    num_absent: int = 0,
    workers: int = 1,
    on_bad: OnBad = "skip",
    on_progress: Progress | None = None,
) -> PrepareReport:
    """Convert ``jobs`` into the folder data set ``dst``; samples that are complete are kept.

    Args:
        jobs: what to convert.
        convert: reads one job at the stored size, a picklable function; raises ``DataError`` when bad.
        dst: folder to write; made if needed.
        spec: its ``dataset.toml``, with 16-bit PNG depth and 8-bit PNG normals.
        size: (height, width) that ``convert`` returns; samples stored at another size are redone.
        num_absent: passed on to the report.
        workers: processes; 1 works in this one.
        on_bad: skip a bad sample and report it, or stop at the first.
        on_progress: called after every sample.

    Raises:
        DataError: ``on_bad`` is stop and a sample is bad, or there is nothing to prepare at all.
        UsageError: ``dst`` holds a data set with another ``dataset.toml``, or a sample in another split.
    """
    if not jobs:
        raise DataError(f"nothing to prepare for {dst}: {num_absent} samples listed, none found")
    if (dst / SPEC_FILE).exists() and load_spec(dst) != spec:
        raise UsageError(f"{dst} was prepared with other settings: choose an empty folder")
    save_spec(dst, spec)
    splits = sorted({job.split for job in jobs})
    rows = {split: read_statistics(dst, split) for split in {*splits, *DEFAULT_SPLITS}}
    _check_splits(jobs, rows, dst)
    _save_statistics(dst, {split: rows[split] for split in splits})
    stored_size = {"height": str(size[0]), "width": str(size[1])}
    todo = [
        job
        for job in jobs
        if not (
            stored_size.items() <= rows[job.split].get(job.stem, {}).items()
            and all(file.exists() for file in _targets(dst, spec, job))
        )
    ]
    done, bad = len(jobs) - len(todo), list[BadSample]()
    with _outcomes(partial(_convert_one, convert, dst, spec), todo, workers) as outcomes:
        for job, row, reason in outcomes:
            done += 1
            if row is None:
                if on_bad == "stop":
                    raise DataError(f"bad sample {job.stem}: {reason}")
                bad.append(BadSample(job.stem, reason))
            else:
                with (dst / f"{job.split}.csv").open("a") as file:
                    file.write(_line(row) + "\n")
                rows[job.split][job.stem] = row
            if on_progress is not None:
                on_progress(done, len(jobs))
    _save_statistics(dst, {split: rows[split] for split in splits})
    medians = [float(row["median_m"]) for split in splits for row in rows[split].values()]
    suspicion = suspect_unit(float(np.median(medians))) if medians else None
    return PrepareReport(
        num_written=len(todo) - len(bad),
        num_kept=len(jobs) - len(todo),
        num_absent=num_absent,
        bad=tuple(bad),
        suspicions=(suspicion,) if suspicion else (),
    )


def _check_splits(jobs: Sequence[Job], rows: Mapping[str, Mapping[str, Row]], dst: Path) -> None:
    """UsageError where a sample is in another split already, for it would then be in two."""
    for job in jobs:
        for split in rows:
            if split != job.split and job.stem in rows[split]:
                raise UsageError(
                    f"{dst} has {job.stem} in the split {split}, and it would now be in {job.split} too: choose an "
                    "empty folder"
                )


def read_statistics(dst: Path, split: str) -> dict[str, Row]:
    """Rows of ``<dst>/<split>.csv`` by stem; a line torn by a killed run, or of something else, is left out."""
    path = dst / f"{split}.csv"
    if not path.exists():
        return {}
    whole_lines = read_bytes(path).decode(errors="replace").rpartition("\n")[0]
    rows = csv.DictReader(io.StringIO(whole_lines))
    return {row["stem"]: row for row in rows if _is_whole(row)}


def _is_whole(row: Mapping[str, str | None]) -> bool:
    try:
        return row.keys() == set(COLUMNS) and all(
            math.isfinite(float(row[column] or "")) for column in COLUMNS[1:]
        )
    except ValueError:
        return False


def _convert_one(
    convert: Callable[[Job], Sample], dst: Path, spec: FolderSpec, job: Job
) -> _Outcome:
    try:
        sample = convert(job)
    except DataError as error:
        return job, None, str(error)
    if not sample.valid.any():
        return job, None, f"{sample.path}: no valid depth pixel"
    stored = encode_depth(sample.depth_m, spec.unit_m)
    rgb_path, depth_path, *normals_path = _targets(dst, spec, job)
    write_picture(depth_path, stored)
    if normals_path and sample.normals is not None:
        write_picture(normals_path[0], encode_normals(sample.normals))
    # Last, because readers list the pictures.
    write_picture(rgb_path, sample.rgb)
    return job, _statistics(job, sample, float(np.mean(stored == UINT16_MAX))), ""


def _statistics(job: Job, sample: Sample, saturated_share: float) -> Row:
    depth = sample.depth_m[sample.valid]
    height, width = sample.valid.shape
    values = (sample.valid.mean(), saturated_share, depth.min(), np.median(depth), depth.max())
    texts = (job.stem, str(height), str(width), *(f"{value:.6g}" for value in values))
    return dict(zip(COLUMNS, texts, strict=True))


def _targets(dst: Path, spec: FolderSpec, job: Job) -> list[Path]:
    kinds = ("rgb", "depth", "normals") if spec.normals_format else ("rgb", "depth")
    return [dst / job.split / kind / f"{job.stem}.png" for kind in kinds]


@contextmanager
def _outcomes(
    work: Callable[[Job], _Outcome], jobs: Sequence[Job], workers: int
) -> Iterator[Iterator[_Outcome]]:
    if workers <= 1:
        yield map(work, jobs)
        return
    # Spawned, because forking a process that has threads (torch, OpenCV) can hang.
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield pool.map(work, jobs, chunksize=4)
    except BrokenProcessPool as error:
        raise E2EDeployError(
            "a worker process died (out of memory?): run it again to continue, with fewer `workers`"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _save_statistics(dst: Path, rows: Mapping[str, Mapping[str, Row]]) -> None:
    for split, by_stem in rows.items():
        lines = [",".join(COLUMNS), *(_line(by_stem[stem]) for stem in sorted(by_stem))]
        write_bytes(dst / f"{split}.csv", ("\n".join(lines) + "\n").encode())


def _line(row: Row) -> str:
    # No value can hold a comma: stems come from official names, the rest are numbers.
    return ",".join(row[column] for column in COLUMNS)

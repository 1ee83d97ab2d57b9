"""What one model got on one set, as a JSON file: what a row of any page of results is made of.

    <folder>/<model>-<8 hex>/<measure>-<set>.json          the result
    <folder>/<model>-<8 hex>/<measure>-<set>.rows.jsonl    one line an image, see ``measuring.rows``

The eight digits are of everything that decides the numbers: model, kind, backend, device, precision, settings.
Knows: the record and its file. Does not know: how it is measured or shown.
"""

import hashlib
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from e2e_deploy.errors import DataError
from e2e_deploy.names import Measure, ProtocolName, ResultKind, SetName, TaskName
from e2e_deploy.system.files import whole_file
from e2e_deploy.system.json_files import read_json, to_json
from e2e_deploy.system.records import Count, CountOrZero, Limits, read_record
from e2e_deploy.train.protocol.published import COLUMNS

Setting = bool | int | float | str | None

HEADLINES: dict[Measure, set[str]] = {
    "depth": {"abs_rel", "delta1"},
    "normals": {"mean_deg", "below_11_25"},
}
"""The metrics that the published tables print."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """What is measured: everything about a model that decides its numbers."""

    model: str
    """As it was named: a folder or ``owner/name``."""
    identity: str
    """SHA-256 of the bundle's manifest, or of what the checkpoint is made of."""
    checkpoint: str
    """SHA-256 of the checkpoint's weights: what it and every bundle of it have in common."""
    family: str
    task: TaskName
    kind: ResultKind
    """What the measured numbers are: depth, disparity, sqrt-disparity or normals."""
    backend: str
    """pytorch for a checkpoint, diffusers for its own pipeline, else the bundle's backend."""
    device: str
    precision: str
    settings: dict[str, Setting]
    """What was asked for besides: ``steps`` and ``ensemble`` of a baseline, for example. In order, as told."""

    def label(self) -> str:
        """How tables call it: the model, the backend and the precision."""
        return f"{Path(self.model).name} ({self.backend}, {self.precision})"

    def key(self) -> str:
        """Eight hex digits of all of it but the name."""
        told = asdict(self) | {"model": ""}
        return hashlib.sha256(to_json(told).encode()).hexdigest()[:8]

    def folder_name(self) -> str:
        """Name of its folder of results: the model's own and ``key``."""
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(self.model).name).strip("-.")
        return f"{name[:60] or 'model'}-{self.key()}"


@dataclass(frozen=True, kw_only=True, slots=True)
class SetResult:
    """One row: a model on a set."""

    schema: Literal[1] = 1
    protocol: ProtocolName
    measure: Measure
    set: SetName
    contender: Contender
    num_images: Count
    """Images measured."""
    num_published: Count
    """Images that the published numbers are of."""
    pictures: str
    """SHA-256 of the names of the images that were asked for, in order."""
    left_out: dict[str, CountOrZero]
    """Images that were not measured, by reason."""
    metrics: dict[str, float]
    """``DepthMetrics`` or ``NormalsMetrics`` by name; shares are fractions, angles degrees, lengths metres."""
    ms_per_image: Annotated[float, Limits(0)]
    """Median time of one prediction from frame to result in the host's memory, without reading and measuring."""
    differences: list[str]
    """What is not as published, a clause each; empty: nothing is known to differ."""
    problem: str | None
    """A sentence if the numbers belong to inverted depth or to normals in other axes, which makes them worthless."""
    versions: dict[str, str]
    """Of the packages that computed it, and of Python."""
    measured_at: str
    """UTC, ISO 8601."""
    hardware: str = ""
    """Name of the processor or GPU that computed it, which ``ms_per_image`` is of."""

    def file(self, folder: Path) -> Path:
        """Where it lies below the folder of all results."""
        return result_file(folder, self.contender, self.measure, self.set)

    def pair(self) -> tuple[float, float]:
        """What the published tables print: AbsRel and delta1 in per cent, or mean angle and per cent below 11.25."""
        if self.measure == "depth":
            return 100 * self.metrics["abs_rel"], 100 * self.metrics["delta1"]
        return self.metrics["mean_deg"], 100 * self.metrics["below_11_25"]


def result_file(folder: Path, contender: Contender, measure: Measure, name: SetName) -> Path:
    """Where the result of a model on a set lies below the folder of all results."""
    return folder / contender.folder_name() / f"{measure}-{name}.json"


def write_result(folder: Path, result: SetResult) -> Path:
    """Write it, whole or not at all; gives the file.

    Raises:
        E2EDeployError: it cannot be written.
    """
    path = result.file(folder)
    with whole_file(path) as partial:
        partial.write_text(to_json(asdict(result), indent=1) + "\n", encoding="utf-8")
    return path


def read_result(path: Path) -> SetResult:
    """The result in ``path``.

    Raises:
        DataError: missing, damaged, or no such record; all mistakes are named.
    """
    table = read_json(path, error=DataError)
    result, problems = read_record(SetResult, table, complete=True, clean_texts=True)
    if result is not None and result.set not in COLUMNS[result.measure]:
        problems.append(f"set is {result.set!r}, which has no truth for {result.measure}")
    if result is not None and (missing := HEADLINES[result.measure] - result.metrics.keys()):
        problems.append(f"metrics has no {', '.join(sorted(missing))}")
    if result is None or problems:
        raise DataError(f"{path} is no result of an evaluation: {'; '.join(problems)}")
    return result


def read_results(folder: Path) -> list[SetResult]:
    """Every result below ``folder``, by model and set.

    Raises:
        DataError: it is no folder, holds no result, or a damaged one.
    """
    files = sorted(folder.glob("*/*.json")) if folder.is_dir() else []
    if not files:
        raise DataError(f"{folder} holds no results; evaluate a model with `protocol` first")
    return [read_result(path) for path in files]

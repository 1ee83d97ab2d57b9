"""A model through every set of the protocol that is on disk: opened, measured or picked up, written down.

Knows: which sets fit a result, what differs from what is published, files of results. Does not know: models, backends.
"""

import hashlib
import os
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from e2e_deploy.errors import DataError, UsageError
from e2e_deploy.names import Measure, ResultKind, SetName
from e2e_deploy.nvidia.hardware import cpu_name, cuda_device_name
from e2e_deploy.packages import installed_versions
from e2e_deploy.train.accuracy import Predict, spread_indices
from e2e_deploy.train.protocol.catalogue import (
    SETS,
    SetVariants,
    find_set,
    held_sets,
    not_here,
    open_set,
    variant_differences,
)
from e2e_deploy.train.protocol.layouts.pairs import PairedSet
from e2e_deploy.train.protocol.measuring.measure import measure_of, measure_set
from e2e_deploy.train.protocol.result import (
    Contender,
    SetResult,
    read_result,
    result_file,
    write_result,
)
from e2e_deploy.train.protocol.sets import EvaluationSet

Array = npt.NDArray[Any]

ROWS_SUFFIX = ".rows.jsonl"
DAMAGED = "data damaged"
PACKAGES = (
    *("e2e-deploy", "numpy", "torch", "diffusers", "onnxruntime", "onnxruntime-gpu", "openvino"),
    *("tensorrt-cu12", "tensorrt-cu13", "tensorrt-rtx"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A model as the protocol sees it."""

    contender: Contender
    """With the kind of its first result; every other result is a contender of its own."""
    kinds: tuple[ResultKind, ...]
    results: Callable[[npt.NDArray[np.uint8], int | None, str | None], Mapping[ResultKind, Array]]
    """uint8 RGB [H, W, 3], the longest edge its network sees and the domain it is told to every result, by kind."""
    fixed: Callable[[tuple[int, int], int], str | None]
    """What its network sees of a picture of (H, W) instead of this longest edge, in words; None where it obeys."""
    resolution: int | None
    """Asked for in place of the protocol's; None: the protocol's."""
    takes_domain: bool = False
    """Whether it obeys a domain; it is then told that of each set."""
    note: str = ""
    """What must be said with everything of it, for example "untrained weights"."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Missing:
    """A set that was not measured."""

    measure: Measure
    name: SetName
    reason: str
    """In a few words."""
    told: str
    """In full, with how to get it."""


@dataclass(frozen=True, slots=True)
class OpenedSet:
    """A set that is on disk, and what is measured on it."""

    each: EvaluationSet
    kind: ResultKind
    """Of the result that is measured."""
    samples: PairedSet
    indices: Sequence[int]
    contender: Contender

    @property
    def pictures(self) -> str:
        """SHA-256 of the names of the images to measure."""
        names = "\n".join(self.samples.name(index) for index in self.indices)
        return hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class ProtocolReport:
    """What one model got by the protocol."""

    results: list[SetResult]
    """One a set, in the order of the protocol."""
    missing: list[Missing]
    """Sets that are not here."""
    folder: Path
    """Where the results, and the rows they are means of, were written."""

    @property
    def problems(self) -> list[str]:
        """Sentences about numbers that are worthless, such as those of inverted depth."""
        return [
            f"{result.contender.label()} on {result.set}: {result.problem}"
            for result in self.results
            if result.problem is not None
        ]


def require_sets(root: Path, names: Sequence[SetName]) -> None:
    """Refuse before a model is loaded what cannot be measured.

    Args:
        root: folder of all sets.
        names: those that were named; none: any one will do.

    Raises:
        DataError: ``root`` is no folder, a named set is not below it, or none is.
    """
    if not os.path.isdir(root):  # also of a name that no file system takes
        raise DataError(f"{root} is not a folder; expected the folder of all evaluation sets")
    for name in names:
        measures = [measure for measure in SETS if name in SETS[measure]]
        if not any(find_set(root, measure, name) for measure in measures):
            raise DataError(not_here(root, measures[0], name))
    if not held_sets(root):
        raise DataError(f"{root} holds no set of the protocol: {_expected(list(SETS))}")


def _expected(measures: Sequence[Measure]) -> str:
    """Where any set with truth for these would lie."""
    places = [each.places[0] for measure in measures for each in SETS[measure].values()]
    return (
        f"expected {', '.join(places[:-1])} or {places[-1]} in it; docs/evaluation.md says how to get each, "
        "and naming one in `sets` does, too"
    )


def run_protocol(
    model: Model,
    root: Path,
    folder: Path,
    *,
    names: Sequence[SetName] | None,
    variants: SetVariants,
    limit: int | None,
    on_progress: Callable[[int, int], None],
    on_note: Callable[[str], None],
) -> tuple[ProtocolReport, list[OpenedSet]]:
    """Measure ``model`` on the sets below ``root`` and write ``folder``; what is there already is not measured again.

    Args:
        model: what is measured.
        root: folder of all sets.
        folder: of all results.
        names: sets to measure; None: every one that is here and has truth for a result of the model.
        variants: how sets are read.
        limit: measure this many images a set, evenly spread; None for all.
        on_progress: called with (images done, images in all).
        on_note: told what was picked up, and every result in a line.

    Returns:
        The report, and the sets as they were opened.

    Raises:
        UsageError: the model gives nothing that is measured, or nothing that a named set has truth for.
        DataError: a named set is not here, no set is, or one is damaged.
        E2EDeployError: a prediction cannot be measured, or a file cannot be written.
    """
    opened, missing = _open(model, root, names, variants, limit)
    total, done = sum(len(each.indices) for each in opened), 0

    def progress(now: int) -> None:
        on_progress(done + now, total)

    results = []
    for each in opened:
        result = _finished(each, folder, on_note)
        if result is None:
            result = _measured(model, each, folder, variants, progress, on_note)
            write_result(folder, result)
        done += len(each.indices)
        progress(0)
        on_note(_in_a_line(each.each, result))
        results.append(result)
    return ProtocolReport(results=results, missing=missing, folder=folder), opened


def _open(
    model: Model,
    root: Path,
    names: Sequence[SetName] | None,
    variants: SetVariants,
    limit: int | None,
) -> tuple[list[OpenedSet], list[Missing]]:
    kinds = {measure_of(kind): kind for kind in reversed(model.kinds) if measure_of(kind)}
    if not kinds:
        raise UsageError(
            f"the model gives {', '.join(model.kinds)}, which the protocol does not measure; it measures "
            "depth, disparity and normals"
        )
    for name in names or ():
        if not any(name in SETS[measure] for measure in kinds if measure):
            raise UsageError(
                f"{name} has no truth for {', '.join(kinds.values())}, which the model gives"
            )
    opened, missing = list[OpenedSet](), list[Missing]()
    for measure in SETS:
        for name, each in SETS[measure].items():
            if measure not in kinds or (names is not None and name not in names):
                continue
            try:
                samples = open_set(root, measure, name, variants)
            except DataError as error:
                if names is not None:
                    raise
                here = find_set(root, measure, name) is not None
                reason = DAMAGED if here else "data not here"
                missing.append(Missing(measure=measure, name=name, reason=reason, told=str(error)))
                continue
            kind = kinds[measure]
            contender = replace(model.contender, kind=kind)
            if model.takes_domain:
                settings = contender.settings | {"domain": each.domain}
                contender = replace(contender, settings=settings)
            indices = spread_indices(len(samples), limit)
            opened.append(OpenedSet(each, kind, samples, indices, contender))
    if not opened:
        damaged = [each.told for each in missing if each.reason == DAMAGED]
        asked = [measure for measure in SETS if measure in kinds]
        raise DataError(
            f"{root} holds no set of the protocol with truth for {', '.join(kinds.values())} that can be read: "
            + ("; ".join(damaged) if damaged else _expected(asked))
        )
    return opened, missing


def _finished(opened: OpenedSet, folder: Path, on_note: Callable[[str], None]) -> SetResult | None:
    path = result_file(folder, opened.contender, opened.each.task, opened.each.name)
    if not path.is_file():
        return None
    try:
        result = read_result(path)
    except DataError as error:
        on_note(f"{error}; measured anew")
        return None
    if result.pictures != opened.pictures:
        on_note(f"{path} is of other images of {opened.each.title}; measured anew")
        return None
    on_note(
        f"{opened.each.title} was measured before; remove {path.with_suffix('')}.* to repeat it"
    )
    return result


def _measured(
    model: Model,
    opened: OpenedSet,
    folder: Path,
    variants: SetVariants,
    on_progress: Callable[[int], None],
    on_note: Callable[[str], None],
) -> SetResult:
    each = opened.each
    measured = measure_set(
        predictor(model, opened),
        opened.samples,
        each,
        opened.kind,
        opened.indices,
        rows_file(folder, opened),
        on_progress=on_progress,
        on_note=on_note,
    )
    times = [row.ms for row in measured.rows if row.ms is not None]
    return SetResult(
        schema=1,
        protocol="e2e-ft",
        measure=each.task,
        set=each.name,
        contender=opened.contender,
        num_images=len(times),
        num_published=each.num_images,
        pictures=opened.pictures,
        left_out=measured.left_out,
        metrics=measured.metrics,
        ms_per_image=median(times),
        differences=_differences(model, opened, variants, len(times)),
        problem=measured.problem,
        versions={"python": platform.python_version(), **installed_versions(PACKAGES)},
        hardware=_hardware(opened.contender.device),
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def rows_file(folder: Path, opened: OpenedSet) -> Path:
    """Where the rows of a model on a set lie below the folder of all results."""
    path = result_file(folder, opened.contender, opened.each.task, opened.each.name)
    return path.with_suffix(ROWS_SUFFIX)


def _hardware(device: str) -> str:
    """Name of what ``device``, in a backend's words, is; the processor's where it is no CUDA device."""
    if re.match("(cuda|nvidia)", device, re.IGNORECASE) is None:
        return cpu_name()
    index = re.search(r"(?:cuda:|device )(\d+)", device, re.IGNORECASE)
    return cuda_device_name(int(index[1]) if index else 0)


def predictor(model: Model, opened: OpenedSet) -> Predict:
    """The one result of ``model`` that is measured on a set, at the set's processing resolution and domain."""
    seen = opened.each.resolution if model.resolution is None else model.resolution
    domain = opened.each.domain if model.takes_domain else None
    return lambda frame: model.results(frame, seen, domain)[opened.kind]


def _differences(
    model: Model, opened: OpenedSet, variants: SetVariants, num_measured: int
) -> list[str]:
    """What is not as published, a clause each."""
    each, found = opened.each, list[str]()
    published = f"{each.resolution} px" if each.resolution else "the pictures' own size"
    height, width = opened.samples.read(opened.indices[0]).rgb.shape[:2]
    fixed = model.fixed((height, width), each.resolution)
    if fixed is not None:
        found.append(f"{fixed}; published: {published}")
    if model.resolution is not None:
        longest = max(height, width)
        seen, asked = model.resolution or longest, each.resolution or longest
        if seen != asked:  # in the words of a bundle of that size
            seen_as = f"pictures of {width}x{height} are seen with a longest edge of {seen} px"
            found.append(f"{seen_as}; published: {published}")
    if num_measured != each.num_images:
        found.append(f"{num_measured} of the {each.num_images} published images")
    if model.contender.precision != "fp32":
        found.append(f"{model.contender.precision}; published: fp32")
    domain = opened.contender.settings.get("domain", each.domain)
    if domain != each.domain:
        found.append(f"domain {domain}; published: {each.domain}")
    if model.note:
        found.append(model.note)
    return found + variant_differences(each, variants)


def _in_a_line(each: EvaluationSet, result: SetResult) -> str:
    first, second = result.pair()
    words = (
        f"AbsRel {first:.2f} %, delta1 {second:.2f} %"
        if each.task == "depth"
        else f"mean {first:.2f} degrees, {second:.2f} % below 11.25"
    )
    images = f"{result.num_images} image{'' if result.num_images == 1 else 's'}"
    return f"{each.title}: {words} ({images}, {result.ms_per_image:.0f} ms for one)"

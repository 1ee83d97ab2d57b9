"""Accuracy of what is deployed, a bundle, or of a checkpoint, ours or in diffusers' pipeline, on a folder data set.

Knows: what is measured on what. Does not know: how a model is opened, how a number is computed.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from e2e_deploy.bundle.bundle import is_bundle
from e2e_deploy.errors import UsageError
from e2e_deploy.names import Opponent, ResultKind, Spacing, TaskName
from e2e_deploy.system.files import require_writable
from e2e_deploy.train.accuracy import Evaluation, measure_accuracy
from e2e_deploy.train.data.folder import FolderDataset, split_folder
from e2e_deploy.train.data.folder_spec import SPEC_FILE, load_spec
from e2e_deploy.train.protocol.catalogue import held_sets
from e2e_deploy.train.row_table import check_table
from e2e_deploy.verbs.subject import Subject, check_arguments, check_limit, open_subject

TASK_OF: dict[ResultKind, TaskName] = {
    **dict.fromkeys(("depth", "disparity", "sqrt-disparity"), "depth"),
    "normals": "normals",
    "mask": "segmentation",
    "matte": "matting",
}
"""What a data set must have truth for to measure a result."""


def evaluate(
    model: str | Path,
    data: str | Path,
    *,
    split: str = "test",
    limit: int | None = None,
    backend: Opponent = "auto",
    device: str = "auto",
    task: TaskName | None = None,
    family: str | None = None,
    resolution: int | None = None,
    result: ResultKind | None = None,
    steps: int | None = None,
    spacing: Spacing | None = None,
    ensemble: int | None = None,
    seed: int | None = None,
    rows: str | Path | None = None,
    worst: str | Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    on_note: Callable[[str], None] = lambda note: None,
) -> Evaluation:
    """Measure ``model`` on the folder data set ``data``, by the published protocols.

    Depth: scale and shift are fitted to each picture's truth, the result is clipped to the data set's range, and
    metrics are means over pictures. Normals: angles in degrees, pooled over all valid pixels.

    Args:
        model: a bundle's folder, which runs as deployed; or a checkpoint (folder or ``owner/name@revision``), which
            runs in PyTorch float32, in our single step or with ``backend="diffusers"`` in diffusers' own pipeline.
        data: folder data set, see ``train/data/folder.py``.
        split: its part.
        limit: measure this many pictures, evenly spread; None for all.
        backend: of a bundle; a named one that is not here is an error. Of a checkpoint: auto, or diffusers for the
            published baselines, Marigold or its LCM in several steps and in ensembles.
        device: auto, cpu, cuda or cuda:N.
        task: of a checkpoint whose configs do not tell: depth or normals.
        family: of a checkpoint whose configs do not tell.
        resolution: of a checkpoint: longest edge that the network sees, in pixels; 0 keeps the pictures' own.
        result: of a model that gives several: the one to measure; None for the first.
        steps: of diffusers' pipeline; None for the checkpoint's ``default_denoising_steps``.
        spacing: of its DDIM timesteps; None for what the checkpoint's scheduler says.
        ensemble: predictions that it aligns and merges for each picture; None for one.
        seed: of its noise, the same for every picture; None for 1234, as the published evaluations have it.
        rows: .csv or .parquet file for one row of metrics per picture.
        worst: PNG with the eight worst pictures: rgb, target, prediction.
        on_progress: called with (pictures done, pictures in all).
        on_note: told what runs, in one line, before the first picture, and what must be known of it.

    Returns:
        The metrics. ``ran`` says what ran, a seed included; ``problem`` says if they belong to inverted depth or to
        normals in other axes.

    Raises:
        UsageError: an argument that has no use for this model, no such split or no truth for the task, or a file
            that cannot be written.
        BundleError, CheckpointError: damaged, or nothing of that kind.
        UnavailableError: the backend or device is not here.
        DataError: a sample cannot be read, or none can be measured.
        E2EDeployError: a prediction is NaN or infinite, or a file cannot be written after all.
    """
    data = Path(data)
    table = None if rows is None else Path(rows)
    sheet = None if worst is None else Path(worst)
    drawn: dict[str, Any] = {"steps": steps, "spacing": spacing, "ensemble": ensemble, "seed": seed}
    drawn = {name: value for name, value in drawn.items() if value is not None}
    of_checkpoints = {"task": task, "family": family, "resolution": resolution}
    check_arguments(is_bundle(model), backend, drawn, of_checkpoints)
    check_limit(limit)
    if table is not None:
        check_table(table)
        require_writable(table, table.suffix.lower(), outside=data)
    if sheet is not None:
        require_writable(sheet, ".png", outside=data)
    if os.path.isdir(data) and not (data / SPEC_FILE).exists() and (held := held_sets(data)):
        raise UsageError(
            f"{data} holds no {SPEC_FILE}, but sets of the published protocol ({', '.join(held)}); "
            "measure on them with `protocol`"
        )
    split_folder(data, load_spec(data), split)  # a wrong name is said before the model is loaded
    with open_subject(
        model,
        backend=backend,
        device=device,
        task=task,
        family=family,
        resolution=resolution,
        drawn=drawn,
        on_note=on_note,
    ) as subject:
        kind = _chosen(subject, result, on_note)
        dataset = FolderDataset(data, split, task=TASK_OF[kind])
        evaluation = measure_accuracy(
            lambda frame: subject.results(frame, None, None)[kind],
            dataset,
            kind=kind,
            limit=limit,
            depth_range_m=(max(dataset.spec.min_m, 1e-5), dataset.spec.max_m),
            on_progress=on_progress,
            rows_path=table,
            worst_sheet=sheet,
        )
    return replace(evaluation, ran=subject.ran)


def _chosen(
    subject: Subject, result: ResultKind | None, on_note: Callable[[str], None]
) -> ResultKind:
    """The result to measure; UsageError where there is none of this kind, or no truth for it is ever stored."""
    kinds = subject.kinds
    if result is not None and result not in kinds:
        raise UsageError(f"`result` is {result!r}, and the model gives {' and '.join(kinds)}")
    kind = kinds[0] if result is None else result
    if kind not in TASK_OF:
        raise UsageError(
            f"a folder data set holds no truth for {kind}; what can be measured is {', '.join(TASK_OF)}"
        )
    if len(kinds) > 1 and result is None:
        on_note(f"of {' and '.join(kinds)} the {kind} is measured; `result` names another")
    return kind

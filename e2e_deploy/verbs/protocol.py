"""Accuracy of a model by a published protocol: on the field's data sets, comparable with papers.

Knows: what is asked of a whole evaluation, and where its files go. Does not know: sets, metrics, how a model is opened.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from e2e_deploy.bundle.bundle import is_bundle
from e2e_deploy.errors import UsageError
from e2e_deploy.names import (
    KITTI_MASKS,
    PROTOCOLS,
    SET_NAMES,
    KittiMask,
    Opponent,
    ProtocolName,
    SetName,
    Spacing,
    TaskName,
)
from e2e_deploy.system.files import make_folder, require_writable
from e2e_deploy.train.data.files import write_picture
from e2e_deploy.train.protocol.catalogue import SetVariants
from e2e_deploy.train.protocol.measuring.rows import read_rows
from e2e_deploy.train.protocol.measuring.sheet import worst_sheet
from e2e_deploy.train.protocol.result import Contender, Setting
from e2e_deploy.train.protocol.run import (
    Model,
    OpenedSet,
    ProtocolReport,
    predictor,
    require_sets,
    rows_file,
    run_protocol,
)
from e2e_deploy.train.row_table import check_table, write_table
from e2e_deploy.verbs.subject import Subject, check_arguments, check_limit, open_subject

RESULTS = Path("results")


def evaluate_protocol(
    model: str | Path,
    root: str | Path,
    *,
    protocol: ProtocolName = "e2e-ft",
    sets: Sequence[SetName] | None = None,
    results: str | Path = RESULTS,
    kitti_mask: KittiMask = "eigen",
    published_input: bool = True,
    limit: int | None = None,
    backend: Opponent = "auto",
    device: str = "auto",
    task: TaskName | None = None,
    family: str | None = None,
    resolution: int | None = None,
    steps: int | None = None,
    spacing: Spacing | None = None,
    ensemble: int | None = None,
    seed: int | None = None,
    rows: str | Path | None = None,
    worst: str | Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    on_note: Callable[[str], None] = lambda note: None,
) -> ProtocolReport:
    """Measure ``model`` on the published evaluation sets below ``root``, as the paper of E2E-FT does.

    docs/evaluation.md says what is as published and what is not, and how to get the sets. A result of distance is
    aligned by least squares, scale and shift per image, in the space of its kind: depth in depth, disparity in
    1 / depth, its square root in that of 1 / depth. A result is written as soon as its set is done, and a row as soon
    as its image is: an evaluation that was stopped goes on where it was.

    Args:
        model: a bundle's folder, which runs as deployed; or a checkpoint (folder or ``owner/name@revision``), which
            runs in PyTorch float32, in our single step or with ``backend="diffusers"`` in diffusers' own pipeline.
        root: folder of all sets, each where ``docs/evaluation.md`` says.
        protocol: of E2E-FT (arXiv 2409.11355): the depth sets of Marigold, the normals sets of DSINE.
        sets: names of sets; None: every one that is here.
        results: folder of results, one folder in it a model and its settings.
        kitti_mask: eigen as published, or garg.
        published_input: of normals sets: pictures as the published evaluation shows them, stretched and tinted; False
            leaves them as they are.
        limit: measure this many pictures of each set, evenly spread; None for all.
        backend: of a bundle; of a checkpoint auto or diffusers.
        device: auto, cpu, cuda or cuda:N.
        task: of a checkpoint whose configs do not tell.
        family: of a checkpoint whose configs do not tell.
        resolution: of a checkpoint: longest edge that the network sees, in pixels, instead of the protocol's; 0 keeps
            the pictures' own.
        steps: of diffusers' pipeline, see ``evaluate``.
        spacing: of its timesteps.
        ensemble: of its predictions.
        seed: of its noise.
        rows: .csv or .parquet file with one row a picture.
        worst: PNG with the ten worst pictures of each set: rgb, truth, prediction.
        on_progress: called with (pictures done, pictures in all).
        on_note: told what runs, what was measured before, and each result in a line.

    Returns:
        The results, and which sets are missing. ``problems`` says if numbers are worthless.

    Raises:
        UsageError: an argument that has no use for this model, a set without truth for it, or a file that cannot be
            written.
        BundleError, CheckpointError: damaged, or nothing of that kind.
        UnavailableError: the backend, device or a package is not here.
        DataError: a set that was named is not here, none is, or one is damaged.
        E2EDeployError: a prediction is NaN or infinite, or a file cannot be written after all.
    """
    root, results = Path(root), Path(results)
    table = None if rows is None else Path(rows)
    sheet = None if worst is None else Path(worst)
    drawn: dict[str, Any] = {"steps": steps, "spacing": spacing, "ensemble": ensemble, "seed": seed}
    drawn = {name: value for name, value in drawn.items() if value is not None}
    of_checkpoints = {"task": task, "family": family, "resolution": resolution}
    check_arguments(is_bundle(model), backend, drawn, of_checkpoints)
    check_limit(limit)
    _check_choices(protocol, sets, kitti_mask)
    if table is not None:
        check_table(table)
        require_writable(table, table.suffix.lower(), outside=root)
    if sheet is not None:
        require_writable(sheet, ".png", outside=root)
    require_sets(root, sets or ())
    make_folder(results)
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
        asked: dict[str, Setting] = {
            "kitti_mask": None if kitti_mask == "eigen" else kitti_mask,
            "published_input": None if published_input else False,
            "limit": limit,
            "resolution": resolution,
        }
        ready = _model(subject, {**subject.settings, **asked}, resolution)
        report, opened = run_protocol(
            ready,
            root,
            results,
            names=sets,
            variants=SetVariants(kitti_mask, published_input),
            limit=limit,
            on_progress=on_progress or (lambda done, total: None),
            on_note=on_note,
        )
        if sheet is not None:
            _write_sheet(sheet, ready, results, opened)
    if table is not None:
        write_table(table, [row for each in opened for row in _table_rows(results, each)])
    return report


def _check_choices(
    protocol: ProtocolName, sets: Sequence[SetName] | None, kitti_mask: KittiMask
) -> None:
    if isinstance(sets, str):  # whose letters are no names of sets
        raise UsageError(f"`sets` is the text {sets!r}; expected a list such as [{sets!r}]")
    for name, value, choices in (
        ("protocol", protocol, PROTOCOLS),
        ("kitti_mask", kitti_mask, KITTI_MASKS),
        *(("sets", each, SET_NAMES) for each in sets or ()),
    ):
        if value not in choices:
            raise UsageError(f"`{name}` is {value!r}; expected {', '.join(choices)}")
    if sets is not None and not sets:
        raise UsageError(f"`sets` is empty; expected some of {', '.join(SET_NAMES)}")


def _model(subject: Subject, settings: dict[str, Setting], resolution: int | None) -> Model:
    return Model(
        contender=Contender(
            model=subject.name,
            identity=subject.identity(),
            checkpoint=subject.weights(),
            family=subject.family,
            task=subject.task,
            kind=subject.kinds[0],
            backend=subject.backend,
            device=subject.device,
            precision=subject.precision,
            settings={name: value for name, value in settings.items() if value is not None},
        ),
        kinds=subject.kinds,
        results=subject.results,
        fixed=subject.fixed,
        resolution=resolution,
        takes_domain=subject.takes_domain,
        note=subject.note,
    )


def _write_sheet(path: Path, model: Model, results: Path, opened: Sequence[OpenedSet]) -> None:
    parts = [
        worst_sheet(
            each.each.title,
            each.samples,
            read_rows(rows_file(results, each)),
            each.kind,
            predictor(model, each),
        )
        for each in opened
    ]
    write_picture(path, np.concatenate(parts))


def _table_rows(results: Path, each: OpenedSet) -> list[dict[str, Any]]:
    return [
        {
            "measure": each.each.task,
            "set": each.each.name,
            "picture": row.picture,
            "ms": row.ms,
            "left_out": row.left_out,
            **(row.metrics or {}),
        }
        for row in read_rows(rows_file(results, each))
    ]

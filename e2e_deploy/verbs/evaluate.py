"""Accuracy of what is deployed, a bundle, or of what it was exported from, a checkpoint, on a folder data set.

Knows: which of the two a name is, and what belongs to which. Does not know: how a number is computed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from e2e_deploy.bundle.bundle import is_bundle
from e2e_deploy.errors import UsageError
from e2e_deploy.names import BackendChoice, TaskName
from e2e_deploy.packages import require
from e2e_deploy.system.files import require_writable
from e2e_deploy.tasks import get_task
from e2e_deploy.train.accuracy import Evaluation, Predict, measure_accuracy
from e2e_deploy.train.data.folder import FolderDataset, split_folder
from e2e_deploy.train.data.folder_spec import load_spec

_Ready = tuple[TaskName, Predict]


def evaluate(
    model: str | Path,
    data: str | Path,
    *,
    split: str = "test",
    limit: int | None = None,
    backend: BackendChoice = "auto",
    device: str = "auto",
    task: TaskName | None = None,
    family: str | None = None,
    resolution: int | None = None,
    csv: str | Path | None = None,
    worst: str | Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    on_note: Callable[[str], None] = lambda note: None,
) -> Evaluation:
    """Measure ``model`` on the folder data set ``data``, by the published protocols.

    Depth: scale and shift are fitted to each picture's truth, the result is clipped to the data set's range, and
    metrics are means over pictures. Normals: angles in degrees, pooled over all valid pixels.

    Args:
        model: a bundle's folder, which runs as deployed; or a checkpoint (folder or ``owner/name@revision``), which
            runs in PyTorch float32.
        data: folder data set, see ``train/data/folder.py``.
        split: its part.
        limit: measure this many pictures, evenly spread; None for all.
        backend: of a bundle; a named one that is not here is an error.
        device: auto, cpu, cuda or cuda:N.
        task: of a checkpoint whose configs do not tell: depth or normals.
        family: of a checkpoint whose configs do not tell.
        resolution: of a checkpoint: longest edge that the network sees, in pixels; 0 keeps the pictures' own.
        csv: file for one row of metrics per picture.
        worst: PNG with the eight worst pictures: rgb, target, prediction.
        on_progress: called with (pictures done, pictures in all).
        on_note: told what runs, in one line, before the first picture.

    Returns:
        The metrics. ``problem`` says if they belong to inverted depth or to normals in other axes.

    Raises:
        UsageError: an argument that has no use for this model, no such split or no truth for the task, or a file
            that cannot be written.
        BundleError, CheckpointError: damaged, or nothing of that kind.
        UnavailableError: the backend or device is not here.
        DataError: a sample cannot be read, or none can be measured.
        E2EDeployError: a prediction is NaN or infinite, or a file cannot be written after all.
    """
    data, opened = Path(data), is_bundle(model)
    files = [None if path is None else Path(path) for path in (csv, worst)]
    _check_arguments(
        is_bundle=opened, backend=backend, task=task, family=family, resolution=resolution
    )
    for path, suffix in zip(files, (".csv", ".png"), strict=True):
        if path is not None:
            require_writable(path, suffix, outside=data)
    split_folder(data, load_spec(data), split)  # a wrong name is said before the model is loaded
    ready = (
        _bundle(model, backend, device, on_note)
        if opened
        else _checkpoint(model, task, family, resolution, device, on_note)
    )
    with ready as (found, predict):
        dataset = FolderDataset(data, split, task=found)
        return measure_accuracy(
            predict,
            dataset,
            task=found,
            limit=limit,
            depth_range_m=(max(dataset.spec.min_m, 1e-5), dataset.spec.max_m),
            on_progress=on_progress,
            csv_path=files[0],
            worst_sheet=files[1],
        )


def _check_arguments(*, is_bundle: bool, backend: str, **of_checkpoints: object) -> None:
    """Refuse what would change nothing."""
    given = [name for name, value in of_checkpoints.items() if value is not None]
    if is_bundle and given:
        raise UsageError(
            f"`{given[0]}` is for checkpoints; a bundle has its own, fixed when it was exported"
        )
    if not is_bundle and backend != "auto":
        raise UsageError(
            f'`backend="{backend}"` is for bundles; a checkpoint runs in PyTorch float32'
        )


@contextmanager
def _bundle(
    folder: str | Path, backend: BackendChoice, device: str, on_note: Callable[[str], None]
) -> Iterator[_Ready]:
    from e2e_deploy.runtime.engine import load

    with load(folder, backend=backend, device=device) as engine:
        on_note(f"backend: {engine.describe()}")
        yield get_task(engine.manifest.task).name, engine.predict


@contextmanager
def _checkpoint(
    spec: str | Path,
    task: TaskName | None,
    family: str | None,
    resolution: int | None,
    device: str,
    on_note: Callable[[str], None],
) -> Iterator[_Ready]:
    require("torch", "export")
    from e2e_deploy.model.checkpoint import open_checkpoint
    from e2e_deploy.model.predictor import Predictor

    checkpoint = open_checkpoint(spec, family=family, task=task)
    on_note(checkpoint.describe())
    predictor = Predictor(checkpoint, resolution=resolution, device=device)
    yield predictor.task, predictor

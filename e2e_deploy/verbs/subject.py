"""What is evaluated: a bundle as deployed, a checkpoint in our single step, or one in diffusers' own pipeline.

Knows: which of them a name is, what belongs to which, how each is opened. Does not know: data sets, metrics.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from e2e_deploy.bundle.bundle import is_bundle
from e2e_deploy.bundle.manifest import MANIFEST
from e2e_deploy.errors import UsageError
from e2e_deploy.model.families import TASKS
from e2e_deploy.names import BackendChoice, Opponent, ResultKind, TaskName
from e2e_deploy.packages import require
from e2e_deploy.system.text import clean

if TYPE_CHECKING:
    from e2e_deploy.runtime.engine import Engine

Array = npt.NDArray[Any]
Frame = npt.NDArray[np.uint8]
Results = Callable[[Frame, int | None, str | None], Mapping[ResultKind, Array]]
"""uint8 RGB [H, W, 3], the longest edge that the network sees and the domain it is told, None for its own, to every
result at the frame's size, by kind."""
DOMAIN = "domain"
"""The setting of a family that an evaluation may choose for each data set."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model that is ready to be measured."""

    name: str
    """As it was given."""
    identity: Callable[[], str]
    """SHA-256 of what decides its numbers; of a checkpoint that takes reading it."""
    weights: Callable[[], str]
    """SHA-256 of the checkpoint's weights, which a bundle of it has as well."""
    family: str
    task: TaskName
    kinds: tuple[ResultKind, ...]
    """Of its results, in order."""
    backend: str
    """pytorch of a checkpoint, diffusers in its own pipeline, else the bundle's."""
    device: str
    precision: str
    ran: str
    """What runs, in one line."""
    results: Results
    fixed: Callable[[tuple[int, int], int], str | None] = field(default=lambda hw, resolution: None)
    """What its network sees of a picture of (H, W) instead of this longest edge, in words; None where it obeys."""
    settings: Mapping[str, bool | int | float | str | None] = field(default_factory=dict)
    takes_domain: bool = False
    """Whether ``results`` obeys a domain."""
    note: str = ""
    """What must be said with every output, such as that its int8 was accepted outside its limit."""


def check_limit(limit: int | None) -> None:
    """UsageError where a limit leaves nothing to measure."""
    if limit is not None and limit < 1:
        raise UsageError(f"`limit` is {limit}; expected at least 1, or None for all")


def check_arguments(
    is_a_bundle: bool,
    backend: Opponent,
    drawn: Mapping[str, object],
    of_checkpoints: Mapping[str, object],
) -> None:
    """Refuse what would change nothing.

    Raises:
        UsageError: an argument of checkpoints for a bundle, of bundles for a checkpoint, or of baselines without one.
    """
    given = [name for name, value in of_checkpoints.items() if value is not None]
    if is_a_bundle and backend == "diffusers":
        raise UsageError(
            '`backend="diffusers"` runs a checkpoint in its own pipeline, and this is a bundle; give the checkpoint '
            "that it was exported from"
        )
    if drawn and backend != "diffusers":
        raise UsageError(
            f'`{next(iter(drawn))}` is for `backend="diffusers"`; without it a model runs in one step, without noise'
        )
    if is_a_bundle and given:
        raise UsageError(
            f"`{given[0]}` is for checkpoints; a bundle has its own, fixed when it was exported"
        )
    if not is_a_bundle and backend not in ("auto", "diffusers"):
        raise UsageError(
            f'`backend="{backend}"` is for bundles; a checkpoint runs in PyTorch float32, or with '
            '`backend="diffusers"` in diffusers\' pipeline'
        )


@contextmanager
def open_subject(
    model: str | Path,
    *,
    backend: Opponent = "auto",
    device: str = "auto",
    task: TaskName | None = None,
    family: str | None = None,
    resolution: int | None = None,
    drawn: Mapping[str, Any] | None = None,
    on_note: Callable[[str], None] = lambda note: None,
) -> Iterator[Subject]:
    """Open a model for the block; arguments and errors as of ``evaluate``.

    ``drawn`` are steps, spacing, ensemble and seed as far as they were given.
    """
    drawn, bundle = drawn or {}, is_bundle(model)
    of_checkpoints = {"task": task, "family": family, "resolution": resolution}
    check_arguments(bundle, backend, drawn, of_checkpoints)
    if backend == "diffusers":
        subject = _baseline(model, task, family, resolution, device, drawn, on_note)
    elif bundle:
        with _bundle(Path(model), backend, device) as deployed:
            _tell(deployed, on_note)
            yield deployed
        return
    else:
        subject = _checkpoint(model, task, family, resolution, device)
    _tell(subject, on_note)
    yield subject


def _tell(subject: Subject, on_note: Callable[[str], None]) -> None:
    on_note(subject.ran)
    if subject.note:
        on_note(f"note: {subject.note}")


@contextmanager
def _bundle(folder: Path, backend: BackendChoice, device: str) -> Iterator[Subject]:
    with ExitStack() as stack:
        engines = _Engines(folder, backend, device, stack)
        engine = engines.current
        manifest = engine.manifest
        yield Subject(
            name=str(folder),
            identity=lambda: hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest(),
            weights=lambda: manifest.checkpoint.sha256,
            family=manifest.family,
            task=manifest.task,
            kinds=tuple(manifest.outputs),
            backend=engine.backend.name,
            device=engine.backend.device,
            precision=manifest.precision,
            ran=f"backend: {engine.describe()}",
            results=engines.results,
            fixed=engines.fixed,
            settings=manifest.settings,
            note=clean(manifest.checkpoint.note),
        )


class _Engines:
    """The engine of a bundle for a picture's own size where the bundle has it, else its first; one at a time."""

    def __init__(self, folder: Path, backend: BackendChoice, device: str, stack: ExitStack) -> None:
        from e2e_deploy.runtime.engine import load

        self._stack = stack
        self._load: Callable[[tuple[int, int] | None], Engine] = lambda size: load(
            folder, backend=backend, device=device, frame_size=size
        )
        self.current = stack.enter_context(self._load(None))
        self._first = self.current.frame_size

    def _size_for(self, hw: tuple[int, int]) -> tuple[int, int]:
        return hw if hw in self.current.manifest.frame_sizes else self._first

    def results(
        self, frame: Frame, resolution: int | None, domain: str | None
    ) -> Mapping[ResultKind, Array]:
        """Its results; both other arguments are fixed in its graph."""
        size = self._size_for((frame.shape[0], frame.shape[1]))
        if size != self.current.frame_size:
            self._stack.pop_all().close()
            self.current = self._stack.enter_context(self._load(size))
        result: Any = self.current.predict(frame)
        each = result.values() if isinstance(result, Mapping) else [result]
        return dict(zip(self.current.manifest.outputs, each, strict=True))

    def fixed(self, hw: tuple[int, int], resolution: int) -> str | None:
        """What differs for pictures of this size, if anything does."""
        manifest, size = self.current.manifest, self._size_for(hw)
        asked, seen = resolution or max(hw), manifest.resolution or max(size)
        if size == hw and seen == asked:
            return None
        fitted = "" if size == hw else f" fitted into frames of {size[1]}x{size[0]}"
        return f"pictures of {hw[1]}x{hw[0]}{fitted} are seen with a longest edge of {seen} px"


def _checkpoint(
    spec: str | Path,
    task: TaskName | None,
    family: str | None,
    resolution: int | None,
    device: str,
) -> Subject:
    require("torch", "export")
    from e2e_deploy.model.checkpoint import open_checkpoint
    from e2e_deploy.model.predictor import Predictor

    checkpoint = open_checkpoint(spec, family=family, task=task)
    sha256 = cache(checkpoint.sha256)  # gigabytes to read
    predictor, told = Predictor(checkpoint, resolution=resolution, device=device), None

    def results(frame: Frame, seen: int | None, domain: str | None) -> dict[ResultKind, Array]:
        nonlocal predictor, told
        if domain is not None and domain != (told or checkpoint.settings[DOMAIN]):
            other = open_checkpoint(spec, family=family, task=task, settings={DOMAIN: domain})
            del predictor  # its weights, before there are others
            predictor, told = Predictor(other, resolution=resolution, device=device), domain
        found = predictor.results(frame, resolution=seen)
        return dict(zip(predictor.outputs, found.values(), strict=True))

    return Subject(
        name=str(spec),
        identity=sha256,
        weights=sha256,
        family=checkpoint.identity.family.name,
        task=predictor.task,
        kinds=predictor.outputs,
        backend="pytorch",
        device=predictor.device,
        precision="fp32",
        ran=checkpoint.describe(),
        results=results,
        settings=checkpoint.settings,
        takes_domain=DOMAIN in checkpoint.settings,
        note=checkpoint.note,
    )


def _baseline(
    spec: str | Path,
    task: TaskName | None,
    family: str | None,
    resolution: int | None,
    device: str,
    drawn: Mapping[str, Any],
    on_note: Callable[[str], None],
) -> Subject:
    require("torch", "export")
    from e2e_deploy.baselines.baseline import Baseline, Sampling
    from e2e_deploy.model.checkpoint import open_checkpoint

    sampling = Sampling(**drawn)
    checkpoint = open_checkpoint(spec, family=family, task=task)
    baseline = Baseline(checkpoint, sampling, resolution=resolution, device=device)
    sha256 = cache(checkpoint.sha256)
    for note in baseline.notes:
        on_note(note)
    return Subject(
        name=str(spec),
        identity=sha256,
        weights=sha256,
        family=checkpoint.identity.family.name,
        task=baseline.task,
        kinds=TASKS[baseline.task],
        backend="diffusers",
        device=baseline.device,
        precision="fp32",
        ran=f"{clean(checkpoint.id)}: {baseline.describe()}",
        results=lambda frame, seen, domain: {
            TASKS[baseline.task][0]: baseline(frame, resolution=seen)
        },
        settings=baseline.settings,
        note=checkpoint.note,
    )

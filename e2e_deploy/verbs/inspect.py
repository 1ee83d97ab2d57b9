"""``inspect``: what a bundle, a checkpoint or a bundle's plans are, without running them."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

from e2e_deploy.bundle.bundle import Bundle, is_bundle, open_bundle
from e2e_deploy.bundle.manifest import Manifest, PlanEntry
from e2e_deploy.errors import InputError, UnavailableError, UsageError
from e2e_deploy.model.checkpoint import is_checkpoint_id, is_lone_unet, open_checkpoint
from e2e_deploy.names import FamilyName, TaskName
from e2e_deploy.runtime.backends.tensorrt.backend import inspect_plan


@dataclass(frozen=True, kw_only=True)
class CheckpointFacts:
    """What a checkpoint was taken for, and what decided it."""

    checkpoint: str
    family: FamilyName
    task: TaskName
    decided: tuple[str, ...]
    """Why that family and that task, a sentence each."""
    note: str
    resolution: int
    """Longest edge in pixels that the network sees by default; 0: the frame's own size."""
    prediction_type: str | None
    zero_terminal_snr: bool
    unet_in_channels: int
    parameters: dict[str, int]
    """By part: unet, vae, text_encoder."""
    sha256: str


@dataclass(frozen=True, kw_only=True)
class PlanFacts:
    """What a plan of a bundle consists of."""

    entry: PlanEntry
    layers: dict[str, int]
    """Number of layers, of them by precision, of reformat layers and of casts."""
    layers_from: str
    """Read from the plan where its GPU is, else as it was noted."""
    not_read: str
    """Why the plan itself was not read; empty when it was."""


def inspect(
    path: str | Path, *, task: TaskName | None = None, family: FamilyName | None = None
) -> Manifest | CheckpointFacts:
    """What ``path`` is: the manifest of a bundle, checked against its files, or the facts of a checkpoint.

    Args:
        path: a bundle's folder, a diffusers folder, or a hub id pinned to a commit.
        task: of a checkpoint, where its configs do not tell.
        family: of a checkpoint, where its configs do not tell.

    Raises:
        InputError: it is neither; a damaged one is a BundleError or a CheckpointError.
        UsageError: a task or family for a bundle, which has its own, or an id without a commit.
    """
    if is_bundle(path):
        for name, value in (("task", task), ("family", family)):
            if value is not None:
                raise UsageError(
                    f"`{name}` is for checkpoints, and {path} is a bundle, which has its own"
                )
        return open_bundle(path).manifest
    text = str(path)
    known = is_checkpoint_id(text) or is_lone_unet(Path(text))  # what to do with that is said below
    if not known and not os.path.lexists(os.path.join(text, "model_index.json")):
        what = "it has neither" if os.path.lexists(text) else "nothing is there"
        raise InputError(
            f"{text} is neither a bundle (a folder with manifest.json) nor a checkpoint (a folder with "
            f"model_index.json, or a hub id owner/name@<commit>): {what}"
        )
    return _of_checkpoint(text, task, family)


def _of_checkpoint(path: str, task: TaskName | None, family: FamilyName | None) -> CheckpointFacts:
    checkpoint = open_checkpoint(path, family=family, task=task)
    return CheckpointFacts(
        checkpoint=checkpoint.id,
        family=checkpoint.identity.family.name,
        task=checkpoint.identity.task,
        decided=checkpoint.identity.reasons,
        note=checkpoint.note,
        resolution=checkpoint.resolution,
        prediction_type=checkpoint.scheduler.get("prediction_type"),
        zero_terminal_snr=bool(checkpoint.scheduler.get("rescale_betas_zero_snr", False)),
        unet_in_channels=checkpoint.unet["in_channels"],
        parameters={
            part: sum(math.prod(stored.shape) for stored in weights.tensors.values())
            for part, weights in checkpoint.weights.items()
        },
        sha256=checkpoint.sha256(),
    )


def inspect_plans(bundle: str | Path | Bundle) -> list[PlanFacts]:
    """What every plan of a bundle consists of.

    Args:
        bundle: its folder, or an opened bundle.

    Raises:
        BundleError: no bundle, or a damaged one.
        UsageError: the bundle holds no plan.
    """
    opened = open_bundle(bundle)
    if not opened.manifest.plans:
        raise UsageError(f'{opened.root} holds no plan; export with `precision="fp16"` for one')
    return [_of_plan(opened, entry) for entry in opened.manifest.plans]


def _of_plan(bundle: Bundle, entry: PlanEntry) -> PlanFacts:
    counts, source, not_read = entry.layers, "noted when it was built", ""
    try:
        graph = bundle.graph_for((entry.frame_size[0], entry.frame_size[1]))
        if entry.backend != "inductor":  # whose packages do not tell
            found, here = inspect_plan(bundle, graph, entry.backend)
            if found == entry:
                counts, source = here, "read from the plan"
    except UnavailableError as error:
        not_read = str(error)
    if not counts:  # built without a GPU, where nothing can read a plan
        counts = _whole_numbers(entry.options.get("network"))
        source = "the graph, before the builder fused it"
    return PlanFacts(entry=entry, layers=counts, layers_from=source, not_read=not_read)


def _whole_numbers(value: object) -> dict[str, int]:
    """``value`` if it is such a table; a manifest may hold anything among a plan's options."""
    table = value if isinstance(value, dict) else {}
    return {key: count for key, count in table.items() if type(count) is int}

"""The checkpoint families as a table, and how a folder's configs reveal which one it is.

A family is what differs between checkpoints that share the SD2 architecture: the axes its normals come in, whether
its decoded normals are clipped, which sizes its network sees, how one recognises it. Reads plain config dictionaries;
knows no torch.
Facts: E2E-FT (arXiv 2409.11355), Marigold v1-0 / v1-1 (arXiv 2312.02145, 2505.09358).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from e2e_deploy.errors import CheckpointError, UsageError
from e2e_deploy.frames import DIFFUSERS_SIZING, E2E_FT_SIZING, Sizing
from e2e_deploy.names import FamilyName, TaskName
from e2e_deploy.tasks import get_task


@dataclass(frozen=True)
class Family:
    """How one kind of checkpoint is run in a single step."""

    name: FamilyName
    title: str
    normals_x_left: bool
    """The network's normals have x to the left; the result's x is to the right, so x changes sign."""
    clip_normals: bool
    """Decoded normals are clipped to [-1, 1] before they are made unit length."""
    sizing: Sizing
    """Processing sizes as its own pipeline has them."""


FAMILIES: dict[str, Family] = {
    "e2e-ft": Family(
        "e2e-ft",
        "E2E-FT (end-to-end fine-tuned)",
        normals_x_left=True,
        clip_normals=False,
        sizing=E2E_FT_SIZING,
    ),
    "marigold": Family(
        "marigold",
        "Marigold, one step",
        normals_x_left=False,
        clip_normals=True,
        sizing=DIFFUSERS_SIZING,
    ),
}

# Recognised so that they are refused by name instead of giving wrong depth.
UNSUPPORTED = {
    "lcm": "Marigold LCM (LCMScheduler)",
    "genpercept": "GenPercept (beta_start equals beta_end, t = 1)",
    "geowizard": "GeoWizard (image embeddings and joint attention)",
    "lotus": "Lotus (task embedding as class labels)",
}

_PIPELINES: dict[str, tuple[str | None, str | None]] = {
    # class name in model_index.json: (family, task); None = the configs cannot tell
    "MarigoldDepthPipeline": ("marigold", "depth"),
    "MarigoldNormalsPipeline": ("marigold", "normals"),
    "MarigoldPipeline": (None, None),
    "StableDiffusionPipeline": (None, None),
}


@dataclass(frozen=True)
class Identity:
    """What a checkpoint was taken for, and which facts decided it."""

    family: Family
    task: TaskName
    reasons: tuple[str, ...]


def get_family(name: str) -> Family:
    """The family called ``name``.

    Raises:
        UsageError: unknown, or known and not supported.
    """
    if name in UNSUPPORTED:
        raise UsageError(
            f"family {name!r} ({UNSUPPORTED[name]}) is not supported; supported: {', '.join(FAMILIES)}"
        )
    if name not in FAMILIES:
        raise UsageError(f"unknown family {name!r}; supported: {', '.join(FAMILIES)}")
    return FAMILIES[name]


def _foreign(scheduler: Mapping[str, Any], unet: Mapping[str, Any]) -> str | None:
    """Key of UNSUPPORTED that the configs point to, or None."""
    if scheduler.get("_class_name") == "LCMScheduler":
        return "lcm"
    if unet.get("class_embed_type") == "projection":
        return "geowizard" if unet.get("projection_class_embeddings_input_dim") == 10 else "lotus"
    if unet.get("cross_attention_dim") == 768 and unet.get("in_channels") == 8:
        return "geowizard"
    if "beta_start" in scheduler and scheduler.get("beta_start") == scheduler.get("beta_end"):
        return "genpercept"
    return None


def identify(
    model_index: Mapping[str, Any],
    scheduler: Mapping[str, Any],
    unet: Mapping[str, Any],
    card: Mapping[str, Any],
    *,
    family: str | None = None,
    task: str | None = None,
) -> Identity:
    """Decide family and task: what the caller names, else the toolkit's own card, else the configs, else the defaults.

    Args:
        model_index: model_index.json of the folder.
        scheduler: scheduler/scheduler_config.json.
        unet: unet/config.json.
        card: e2e_deploy.json, which this toolkit writes beside model_index.json; may be empty.
        family: named by the caller, or None.
        task: named by the caller, or None.

    Raises:
        CheckpointError: the configs show a family that is not supported, or contradict a named task.
        UsageError: an unknown family or task was named.
    """
    foreign = _foreign(scheduler, unet)
    if foreign is not None:
        raise CheckpointError(
            f"the checkpoint is {UNSUPPORTED[foreign]}, which is not supported; supported: {', '.join(FAMILIES)}"
        )
    pipeline = str(model_index.get("_class_name", "none"))
    if pipeline not in _PIPELINES:
        raise CheckpointError(
            f"model_index.json names the pipeline {pipeline!r}; expected one of {', '.join(_PIPELINES)}"
        )
    family_from_class, task_from_class = _PIPELINES[pipeline]
    kind = str(model_index.get("prediction_type") or "")
    if task_from_class is None and kind in ("depth", "normals"):
        task_from_class = kind
    if task is not None and task_from_class is not None and task != task_from_class:
        raise CheckpointError(
            f"the checkpoint says it predicts {task_from_class} ({pipeline}), but the task named is {task}"
        )

    reasons: list[str] = []

    def decide(what: str, named: str | None, from_configs: str | None, default: str) -> str:
        for value, reason in (
            (named, "named by you"),
            (card.get(what), "from e2e_deploy.json"),
            (from_configs, f"from {pipeline}"),
        ):
            if value is not None:
                reasons.append(f"{what} {value}: {reason}")
                return str(value)
        reasons.append(f"{what} {default}: the default, {pipeline} does not tell")
        return default

    chosen_family = get_family(decide("family", family, family_from_class, "e2e-ft"))
    chosen_task = get_task(decide("task", task, task_from_class, "depth")).name
    return Identity(chosen_family, chosen_task, tuple(reasons))

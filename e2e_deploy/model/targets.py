"""The targets of an intrinsic decomposition, as model_index.json of a Marigold-IID checkpoint describes them."""

from collections.abc import Mapping
from typing import Any

from e2e_deploy.errors import CheckpointError
from e2e_deploy.model.families import TASKS
from e2e_deploy.names import ResultKind, TaskName
from e2e_deploy.system.text import clean

_MATERIAL = ["roughness", "metallicity"]
_KINDS: Mapping[tuple[str, str], ResultKind] = {
    # target, prediction_space: kind
    ("albedo", "srgb"): "albedo",
    ("albedo", "linear"): "linear-albedo",
    ("shading", "linear"): "shading",
    ("residual", "linear"): "residual",
}
_TASKS: Mapping[tuple[ResultKind, ...], TaskName] = {
    **{TASKS[task]: task for task in ("appearance", "lighting")},
    ("linear-albedo", "material"): "appearance",
    ("albedo", "shading", "residual"): "lighting",
}


def read_targets(model_index: Mapping[str, Any]) -> tuple[TaskName, tuple[ResultKind, ...]]:
    """The task, and the kinds of its targets in the order in which their latents follow each other.

    Raises:
        CheckpointError: ``target_properties`` is missing or names other targets.
    """
    properties = model_index.get("target_properties")
    names = properties.get("target_names") if isinstance(properties, dict) else None
    if not isinstance(properties, dict) or not isinstance(names, list):
        raise CheckpointError(
            "model_index.json has no `target_properties` with `target_names`, which say what the targets are"
        )
    kinds = tuple(_kind(str(name), properties.get(str(name))) for name in names)
    task = _TASKS.get(tuple(kind for kind in kinds if kind))
    if task is None or None in kinds:
        shown = clean(", ".join(map(str, names)), 200)
        raise CheckpointError(
            f"model_index.json names the targets {shown}; expected albedo and material (sRGB or linear albedo, "
            "roughness and metallicity in one picture), or albedo, shading and residual (linear)"
        )
    return task, tuple(kind for kind in kinds if kind)


def _kind(name: str, said: object) -> ResultKind | None:
    properties = said if isinstance(said, dict) else {}
    space = properties.get("prediction_space", "srgb")
    if space == "stack":
        sub_targets = properties.get("sub_target_names")
        is_material = isinstance(sub_targets, list) and sub_targets[:2] == _MATERIAL
        return "material" if is_material else None
    return _KINDS.get((name, str(space)))

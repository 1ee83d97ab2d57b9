"""How a folder's configs reveal its family and task, or why they do not. Reads plain config dictionaries; no torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from e2e_deploy.errors import CheckpointError, UsageError
from e2e_deploy.model.families import (
    CONTROLNET,
    DPT_HEAD,
    FAMILIES,
    OWN_DECODER,
    REFUSED,
    STORED_PROMPT,
    TASKS,
    Extra,
    Family,
    get_family,
)
from e2e_deploy.model.targets import read_targets
from e2e_deploy.names import FamilyName, ResultKind, TaskName

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Configs:
    """What recognition may look at; a config that is not there is empty.

    Attributes:
        model_index: model_index.json.
        scheduler: scheduler/scheduler_config.json.
        unet: unet/config.json.
        card: e2e_deploy.json, which this toolkit writes beside model_index.json.
        folders: names of the folders and files that lie there.
        blocks: what the UNet's weights belong to, in names like ``mid_block``.
    """

    model_index: Config
    scheduler: Config
    unet: Config
    card: Config
    folders: frozenset[str] = frozenset()
    blocks: frozenset[str] = frozenset()

    @property
    def pipeline(self) -> str:
        """Class of the pipeline that model_index.json names."""
        return str(self.model_index.get("_class_name", "none"))


@dataclass(frozen=True)
class Identity:
    """What a checkpoint was taken for, and which facts decided it."""

    family: Family
    task: TaskName
    reasons: tuple[str, ...]
    extras: tuple[Extra, ...] = ()
    """What of the family's extras is there."""
    targets: tuple[ResultKind, ...] = ()
    """Kinds of its results where the configs say them; empty: as of the family's task."""

    @property
    def parts(self) -> tuple[str, ...]:
        """Folders that are read with their config."""
        replaced = {extra.replaces for extra in self.extras}
        return tuple(part for part in self.family.parts if part not in replaced)

    @property
    def settings(self) -> dict[str, tuple[str, ...] | range]:
        """What is chosen at export, with its values; the first is taken where none is named."""
        each = (self.family.settings, *(extra.settings for extra in self.extras))
        return {name: values for settings in each for name, values in settings.items()}

    def has(self, name: str) -> bool:
        """Whether the extra with that folder or file is there."""
        return any(name in extra.names for extra in self.extras)

    @property
    def outputs(self) -> tuple[ResultKind, ...]:
        """Kinds of its results, in order."""
        return self.targets or self.family.outputs(self.task)


@dataclass(frozen=True)
class Sign:
    """What only one family's configs have. The first sign that is seen decides."""

    family: str
    """Of families.FAMILIES or families.REFUSED."""
    seen: str
    """In words."""
    is_seen: Callable[[Configs], bool]
    others: tuple[FamilyName, ...] = ()
    """Families that have it too, so that one of them all must be named."""


_INTRINSICS = "MarigoldIntrinsicsPipeline"


def _class_inputs(configs: Configs) -> object:
    if configs.unet.get("class_embed_type") != "projection":
        return None
    return configs.unet.get("projection_class_embeddings_input_dim")


def has_constant_betas(scheduler: Config) -> bool:
    """Whether a scheduler_config.json has GenPercept's schedule, which leaves no signal at any step."""
    betas = scheduler.get("beta_start"), scheduler.get("beta_end")
    return betas[0] is not None and betas[0] == betas[1]


def _has_block(block: str) -> Callable[[Configs], bool]:
    return lambda configs: block in configs.blocks


SIGNS: tuple[Sign, ...] = (
    *(
        Sign(name, f"a block {family.unet_block}", _has_block(family.unet_block))
        for name, family in FAMILIES.items()
        if family.unet_block
    ),
    Sign("depthmaster", "a DepthMasterPipeline", lambda c: c.pipeline == "DepthMasterPipeline"),
    Sign("lotus", "a Lotus pipeline", lambda c: c.pipeline in ("LotusDPipeline", "LotusGPipeline")),
    Sign(
        *("stablenormal-turbo-v1", "a YOSONormalsPipeline without a text encoder"),
        lambda c: c.pipeline == "YOSONormalsPipeline" and "text_encoder" not in c.folders,
    ),
    *(
        Sign(
            *("stablenormal-turbo", f"a {name}"),
            lambda c, name=name: c.pipeline == name,  # type: ignore[misc]
            others=("stablenormal-turbo-v1",),
        )
        for name in ("YOSONormalsPipeline", "StableDiffusionControlNetPipeline")
    ),
    Sign(
        *("marigold-iid", f"a {_INTRINSICS}"),
        lambda c: c.pipeline == _INTRINSICS,
    ),
    Sign(
        *("lcm", "an LCMScheduler"),
        lambda c: c.scheduler.get("_class_name") == "LCMScheduler",
    ),
    Sign("geowizard", "a class embedding of 10 numbers", lambda c: _class_inputs(c) == 10),
    Sign(
        *("geowizard-v2", "a class embedding of 4 numbers, noise and v prediction"),
        lambda c: (
            (_class_inputs(c), c.unet.get("in_channels")) == (4, 8)
            and c.scheduler.get("prediction_type") == "v_prediction"
        ),
    ),
    Sign("lotus", "a class embedding", lambda c: _class_inputs(c) is not None),
    Sign(
        *("geowizard", "8 input channels, a context of 768 and no text encoder"),
        lambda c: (
            (c.unet.get("cross_attention_dim"), c.unet.get("in_channels")) == (768, 8)
            # with one it is of Stable Diffusion 1
            and "text_encoder" not in c.folders
            and not c.pipeline.startswith("Marigold")
        ),
    ),
    Sign(
        *("genpercept", "beta_start equal to beta_end"),
        lambda c: has_constant_betas(c.scheduler),
    ),
    *(
        Sign("genpercept", name, lambda c, name=name: name in c.folders)  # type: ignore[misc]
        for name in (DPT_HEAD, *OWN_DECODER, STORED_PROMPT)
    ),
    Sign("genpercept", "a GenPerceptPipeline", lambda c: c.pipeline == "GenPerceptPipeline"),
    Sign("lotus-2", "a FluxPipeline", lambda c: c.pipeline.startswith("Flux")),
    Sign("dvd", "a WanPipeline", lambda c: c.pipeline.startswith("Wan")),
)

_PIPELINES: dict[str, tuple[FamilyName | None, TaskName | None]] = {
    # class name in model_index.json: (family, task); None = it cannot tell
    "MarigoldDepthPipeline": ("marigold", "depth"),
    "MarigoldNormalsPipeline": ("marigold", "normals"),
    "MarigoldPipeline": (None, None),
    "StableDiffusionPipeline": (None, None),
}
_SAID: Mapping[str, TaskName] = {"depth": "depth", "disparity": "disparity", "normals": "normals"}
"""Tasks by ``prediction_type`` of model_index.json; diffusers' MarigoldDepthPipeline has the first two."""


def get_task(name: str) -> TaskName:
    """The task called ``name``.

    Raises:
        UsageError: there is no such task.
    """
    for task in TASKS:
        if task == name:
            return task
    raise UsageError(f"unknown task {name!r}; the tasks are {', '.join(TASKS)}")


def identify(
    configs: Configs,
    *,
    family: str | None = None,
    task: str | None = None,
    default: FamilyName | None = None,
) -> Identity:
    """Decide family and task: what the caller names, else the toolkit's own card, else the configs, else the defaults.

    Args:
        configs: of the folder.
        family: named by the caller, or None.
        task: named by the caller, or None.
        default: family of four channels that tell none, as Stable Diffusion's do, where it is no matter; None refuses
            them, since several families look like that.

    Raises:
        CheckpointError: the configs show a family that is not supported, tell too little, or contradict a named task.
        UsageError: an unknown family or task was named, or one that the family does not do.
    """
    named = family or configs.card.get("family")
    sign = next((sign for sign in SIGNS if sign.is_seen(configs)), None)
    _refuse(configs, sign, named)
    by_pipeline = _PIPELINES.get(configs.pipeline, (None, None))
    from_configs = by_pipeline[0] if sign is None else sign.family
    why = f"from {configs.pipeline}" if sign is None else f"from {sign.seen}"
    takes_rgb_alone = _takes_rgb_alone(configs)
    if named is None and from_configs is None and default is None and takes_rgb_alone:
        raise CheckpointError(
            f"a {configs.pipeline} with {configs.unet.get('in_channels')} input channels does not tell its family: "
            "E2E-FT started from SD without noise, GenPercept and others look the same and need other timesteps; "
            f"name it with `family`: {', '.join(_rgb_alone())}"
        )
    task_from_configs, targets = _task_told(configs, sign)
    if task is not None and task_from_configs is not None and task != task_from_configs:
        raise CheckpointError(
            f"the checkpoint says it predicts {task_from_configs} ({configs.pipeline}), but the task named is {task}"
        )

    reasons: list[str] = []

    def decide(
        what: str, named: str | None, found: str | None, default: str, why: str = why
    ) -> str:
        for value, reason in (
            (named, "named by you"),
            (configs.card.get(what), "from e2e_deploy.json"),
            (found, why),
        ):
            if value is not None:
                reasons.append(f"{what} {value}: {reason}")
                return str(value)
        reasons.append(f"{what} {default}: the default, {configs.pipeline} does not tell")
        return default

    otherwise = default if default and takes_rgb_alone else "e2e-ft"
    chosen = get_family(decide("family", family, from_configs, otherwise))
    extras = _extras(chosen, configs.folders)
    tasks = next((extra.tasks for extra in extras if extra.tasks), tuple(chosen.tasks))
    if not (chosen.tells_task or task or configs.card.get("task") or task_from_configs):
        raise CheckpointError(
            f"{chosen.title} checkpoints do not tell what they do; name it with `task`: {', '.join(tasks)}"
        )
    found, whence = task_from_configs, configs.pipeline
    if found is None and len(tasks) == 1:
        found, whence = tasks[0], f"{chosen.title}, which does nothing else"
    chosen_task = get_task(decide("task", task, found, tasks[0], why=f"from {whence}"))
    chosen.outputs(chosen_task)
    for extra in extras:
        reasons.append(f"{extra.title}: from {' and '.join(extra.names)}")
        if extra.tasks and chosen_task not in extra.tasks:
            raise UsageError(
                f"a {chosen.title} checkpoint with a {extra.title} ({extra.names[0]}) does not do {chosen_task}; "
                f"it does {' or '.join(extra.tasks)}"
            )
    return Identity(chosen, chosen_task, tuple(reasons), extras, targets)


def _refuse(configs: Configs, sign: Sign | None, named: str | None) -> None:
    """Refuse what no family has, or another one than the family that is ``named``.

    Raises:
        CheckpointError: says which.
    """
    if sign is not None and sign.family in REFUSED:
        raise CheckpointError(
            f"the checkpoint has {sign.seen}: {REFUSED[sign.family]}; supported: {', '.join(FAMILIES)}"
        )
    if sign is None and configs.pipeline not in _PIPELINES:
        raise CheckpointError(
            f"model_index.json names the pipeline {configs.pipeline!r}; expected one of {', '.join(_PIPELINES)}"
        )
    if sign is not None and sign.others and named is None:
        raise CheckpointError(
            f"the checkpoint has {sign.seen}, as {' and '.join((sign.family, *sign.others))} have, and its configs do "
            "not tell which it is; name it with `family`"
        )
    if sign is not None and named is not None and named not in (sign.family, *sign.others):
        raise CheckpointError(
            f"the checkpoint has {sign.seen}, as {sign.family} has, but the family named is {named}"
        )


def _task_told(
    configs: Configs, sign: Sign | None
) -> tuple[TaskName | None, tuple[ResultKind, ...]]:
    """The task that model_index.json tells, and the kinds of its targets where it names such.

    Raises:
        CheckpointError: it contradicts itself, or names targets that no task has.
    """
    if sign is not None and get_family(sign.family).targets:
        return read_targets(configs.model_index)
    by_pipeline = _PIPELINES.get(configs.pipeline, (None, None))[1]
    said = _SAID.get(str(configs.model_index.get("prediction_type") or ""))
    if said and by_pipeline and "normals" in {said, by_pipeline} and said != by_pipeline:
        raise CheckpointError(
            f"model_index.json names a {configs.pipeline} whose prediction_type is {said!r}; one of them is wrong"
        )
    return said or by_pipeline, ()


def _extras(family: Family, there: frozenset[str]) -> tuple[Extra, ...]:
    """The family's extras that are there.

    Raises:
        CheckpointError: only some of an extra's folders are there, or two that replace the same.
    """
    found: list[Extra] = []
    for extra in family.extras:
        missing = [name for name in extra.names if name not in there]
        if len(missing) == len(extra.names):
            continue
        if extra.refused:
            raise CheckpointError(f"the checkpoint has {extra.names[0]}: {extra.refused}")
        if missing:
            has = " and ".join(name for name in extra.names if name in there)
            raise CheckpointError(
                f"the checkpoint has {has} without {' and '.join(missing)}; they are used together"
            )
        for other in found:
            if extra.replaces and extra.replaces == other.replaces:
                raise CheckpointError(
                    f"the checkpoint has a {other.title} ({other.names[0]}) and a {extra.title} ({extra.names[0]}), "
                    "of which one is used; remove what is not meant"
                )
        found.append(extra)
    return tuple(found)


def _takes_rgb_alone(configs: Configs) -> bool:
    return configs.unet.get("in_channels") == configs.unet.get("out_channels")


def _rgb_alone() -> list[str]:
    """Families whose UNet takes the rgb latent alone and is a stock one, which no sign tells from others."""
    return [
        name
        for name, family in FAMILIES.items()
        if 1 in family.latents
        and not family.class_labels
        and not family.unet_block
        and CONTROLNET not in family.parts
    ]

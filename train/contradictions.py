"""What cannot be meant in a training run: settings that exclude each other or have no effect together.

Knows: the settings. Does not know: whether files exist, devices.
"""

from collections.abc import Mapping
from typing import Any

from e2e_deploy.system.records import read_record
from e2e_deploy.train.data.resize import STRIDE
from e2e_deploy.train.settings import RANDOM, OptimConfig, TrainConfig, runs_of


def contradictions_of_parts(table: Mapping[str, Any]) -> list[str]:
    """Contradictions inside the sections that can be read although others cannot."""
    optim, _ = read_record(OptimConfig, table.get("optim", {}))
    return _optim_contradictions(optim) if optim is not None else []


def contradictions(config: TrainConfig) -> list[str]:
    """One sentence each, of all runs of ``config``."""
    problems = _contradictions_of_run(config) + _contradictions_of_pretraining(config)
    for number, following in enumerate(runs_of(config)[1:]):
        problems += [
            f"then[{number}]: {problem}"
            for problem in _contradictions_of_run(following)
            if problem not in problems
        ]
    return problems


def _contradictions_of_pretraining(config: TrainConfig) -> list[str]:
    if config.pretrain is None:
        return []
    problems = []
    if config.start.checkpoint != RANDOM:
        problems.append(
            f"pretrain is for start.checkpoint = {RANDOM!r}; {config.start.checkpoint!r} has learned that before"
        )
    if len(config.data) != 1 or config.data[0].size is None:
        problems.append("pretrain needs one [[data]] table with a size")
    return problems


def _contradictions_of_run(config: TrainConfig) -> list[str]:
    problems = _optim_contradictions(config.optim)
    if not config.data:
        problems.append("data is empty; expected at least one [[data]] table")
    if not config.model.train or len(set(config.model.train)) < len(config.model.train):
        problems.append(
            f"model.train is {list(config.model.train)}; expected 'unet', 'vae' or both, each once"
        )
    if config.speed.images_per_pass % config.optim.micro_batch:
        problems.append(
            f"speed.images_per_pass {config.speed.images_per_pass} is not a multiple of "
            f"optim.micro_batch {config.optim.micro_batch}"
        )
    if config.task != "depth" and config.loss.direction_weight is not None:
        problems.append("loss.direction_weight is for depth; normals have their sign in the loss")
    sizes = [(f"data[{i}].size", part.size) for i, part in enumerate(config.data)]
    if config.eval is not None:
        sizes.append(("eval.size", config.eval.size))
    problems += [
        f"{name} is {list(size)}; both sides must be multiples of {STRIDE}"
        for name, size in sizes
        if size is not None and any(side % STRIDE for side in size)
    ]
    if config.model.resolution % STRIDE:
        problems.append(
            f"model.resolution is {config.model.resolution}; not a multiple of {STRIDE}"
        )
    return problems


def _optim_contradictions(optim: OptimConfig) -> list[str]:
    problems = []
    if optim.effective_batch % optim.micro_batch:
        problems.append(
            f"optim.effective_batch {optim.effective_batch} is not a multiple of "
            f"optim.micro_batch {optim.micro_batch}"
        )
    if optim.warmup_steps >= optim.decay_steps:
        problems.append(
            f"optim.warmup_steps {optim.warmup_steps} must be below "
            f"optim.decay_steps {optim.decay_steps}"
        )
    return problems

"""How the steps of a run are done, where its config leaves that open: compiled, recomputed, how many images at once.

What a step computes does not depend on it, but for rounding. Every choice is one sentence for the run's introduction.
Knows: what each is worth on which device. Does not know: how it is done.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from e2e_deploy.errors import UnavailableError, UsageError
from e2e_deploy.train.config.settings import TrainConfig
from e2e_deploy.train.step.compiled import why_not_compiled
from e2e_deploy.train.step.memory import USABLE, Need

WORTH_COMPILING = 500
"""Optimizer steps: compilation takes minutes."""

MOST_IMAGES = 16
"""A pass of more fills a GPU no better."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """How the steps are done."""

    gradient_checkpointing: bool = False
    compiled: bool = False
    micro_batches_per_pass: int = 1
    sharded: bool = False
    sentences: tuple[str, ...] = ()
    """Why, one a choice; for people."""


def choose(
    config: TrainConfig,
    device: torch.device,
    *,
    accumulation: int,
    need: Callable[[], Need | None],
    free: Callable[[], int],
) -> Choices:
    """The config's own words, and for what it leaves open what is fastest here.

    Args:
        config: of the run.
        device: that computes.
        accumulation: micro-batches per step and process.
        need: counts the memory of a pass; None where the size of the pictures is not known.
        free: bytes on the device.

    Raises:
        UnavailableError: compilation is asked for and cannot be done.
        UsageError: a pass is asked for that the steps of one process do not have.
    """
    compiled, why_compiled = _compiled(config, device)
    asked, micro = config.model.gradient_checkpointing, config.optim.micro_batch
    together = config.speed.images_per_pass // micro
    if together > accumulation:
        raise UsageError(
            f"speed.images_per_pass is {config.speed.images_per_pass}, but a process has {accumulation * micro} "
            "images a step"
        )
    fit: int | None = None
    why_memory = "as the config says"
    if asked == "auto" or (not together and device.type == "cuda"):
        fit, why_memory = _images_that_fit(need(), free())
    checkpointing = (fit or 0) < micro * max(together, 1) if asked == "auto" else asked
    if not together:
        together = 1
        if device.type == "cuda" and not checkpointing and not _may_differ(config):
            together = _largest_share(accumulation, min(fit or 0, MOST_IMAGES) // micro)
    told = (
        f"gradient checkpointing {_on(checkpointing)}: "
        f"{why_memory if asked == 'auto' else 'as the config says'}",
        f"{together * micro} image{'s' * (together * micro > 1)} a pass",
        f"compilation {_on(compiled)}: {why_compiled}",
    )
    return Choices(
        gradient_checkpointing=checkpointing,
        compiled=compiled,
        micro_batches_per_pass=together,
        sharded=config.speed.shard,
        sentences=told,
    )


def _compiled(config: TrainConfig, device: torch.device) -> tuple[bool, str]:
    asked, steps = config.speed.compile, config.optim.steps
    if asked is False:
        return False, "as the config says"
    if config.speed.shard:
        return False, "not with speed.shard"
    missing = why_not_compiled(device)
    if asked is True:
        if missing:
            raise UnavailableError(f"{missing}; or set speed.compile = false")
        return True, "as the config says"
    if device.type != "cuda":
        return False, "on a CPU it takes minutes first; speed.compile = true asks for it"
    if missing:
        return False, missing
    if steps < WORTH_COMPILING:
        return False, f"{steps} steps are too few to be worth it"
    return True, "the first steps take minutes"


def _may_differ(config: TrainConfig) -> bool:
    """Whether processes would wait for each other: sharded ones, with sizes that make other passes in each."""
    return config.speed.shard and len({part.size for part in config.data}) > 1


def _images_that_fit(need: Need | None, free: int) -> tuple[int, str]:
    """How many images fit into a pass without gradient checkpointing, and the arithmetic in words."""
    if need is None:
        return 0, "without data.size nobody knows what a pass needs"
    left = int(USABLE * free) - need.fixed
    return max(0, left // need.image), (
        f"an image needs {need.image / 2**30:.1f} GiB without it, beside {need.fixed / 2**30:.1f} GiB of weights, "
        f"gradients and moments; {free / 2**30:.1f} GiB are free"
    )


def _largest_share(accumulation: int, most: int) -> int:
    """The largest divisor of ``accumulation`` that is at most ``most``, at least 1."""
    return max(n for n in range(1, accumulation + 1) if accumulation % n == 0 and n <= max(most, 1))


def _on(is_on: bool) -> str:
    return "on" if is_on else "off"


def largest(sizes: Sequence[tuple[int, int] | None]) -> tuple[int, int] | None:
    """The size with most pixels; None when one is not known."""
    known = [size for size in sizes if size is not None]
    return max(known, key=lambda size: size[0] * size[1]) if len(known) == len(sizes) else None

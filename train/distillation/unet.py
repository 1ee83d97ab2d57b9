"""The UNet with fewer layers at its levels, as BK-SDM removes them (arXiv 2305.15798): which weights stay.

Where a level keeps K of its layers (a residual block and the transformer after it), the way down keeps the first K,
the way up the first K and the last, which alone reads what comes from the level above. The middle stays: one layer less
at each of SD2's levels saves a third of its UNet's work, the middle would save a hundredth.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch

from e2e_deploy.errors import UsageError

_LAYER = re.compile(r"(down|up)_blocks\.(\d+)\.(?:resnets|attentions)\.(\d+)\.")


def thinned(unet: Any, layers: Sequence[int]) -> Any:
    """A UNet with so many layers at each level, the finest first, and copies of the weights that stay.

    Args:
        unet: a diffusers UNet2DConditionModel, which is not changed; the result is on its device, in its dtype, in
            eval mode and without gradients.
        layers: one or more for each level, and nowhere more than there are.

    Raises:
        UsageError: another number of levels, more layers than a level has, as many everywhere, or blocks of a kind that
            is not known.
    """
    present = layers_of(unet)
    _check(layers, present)
    weights = {
        kept: tensor.clone()
        for name, tensor in unet.state_dict().items()
        if (kept := _kept(name, present, layers)) is not None
    }
    with torch.device("meta"):
        thin = type(unet).from_config(unet.config, layers_per_block=list(layers))
    expected = {name: tensor.shape for name, tensor in thin.state_dict().items()}
    if expected != {name: tensor.shape for name, tensor in weights.items()}:
        raise UsageError(
            "the UNet of start.checkpoint is made of blocks from which distil.unet_layers can remove none: leave it out"
        )
    thin.load_state_dict(weights, assign=True)
    return thin.requires_grad_(False).eval()


def layers_of(unet: Any) -> list[int]:
    """Layers of each level, the finest first; the way up has one more."""
    return [len(block.resnets) for block in unet.down_blocks]


def _check(layers: Sequence[int], present: Sequence[int]) -> None:
    if len(layers) != len(present):
        raise UsageError(
            f"distil.unet_layers is {list(layers)}; expected {len(present)} numbers, one for each level of the UNet of "
            "start.checkpoint"
        )
    if any(wanted > there for wanted, there in zip(layers, present, strict=True)):
        raise UsageError(
            f"distil.unet_layers is {list(layers)}, but the levels of the UNet of start.checkpoint have "
            f"{list(present)} layers: expected no more anywhere"
        )
    if list(layers) == list(present):
        raise UsageError(
            f"distil.unet_layers is {list(layers)}, which the UNet of start.checkpoint has already: nothing would be "
            "removed; leave it out"
        )


def _kept(name: str, present: Sequence[int], layers: Sequence[int]) -> str | None:
    """What a weight is called in the UNet with ``layers``; None where it is removed."""
    found = _LAYER.match(name)
    if found is None:
        return name
    way, block, number = found[1], int(found[2]), int(found[3])
    level = block if way == "down" else len(present) - 1 - block
    if way == "up" and number == present[level]:
        number = layers[level]
    elif number >= layers[level]:
        return None
    return f"{name[: found.start(3)]}{number}{name[found.end(3) :]}"

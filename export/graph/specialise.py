"""Exact specialisation: with the timestep, the prompt and the noise fixed, much of the network is a constant.

A list of small passes, each a change of weights and layers that leaves the function as it was; this file knows their
order and what each removes. Knows no ONNX and no checkpoint.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from e2e_deploy.errors import UsageError
from e2e_deploy.export.graph.passes.dpt_head import project_before_doubling
from e2e_deploy.export.graph.passes.geowizard import (
    attend_to_one_token,
    fold_picture_scale,
    share_first_convolution,
)
from e2e_deploy.export.graph.passes.layers import (
    convolve_before_upsampling,
    drop_training_parts,
)
from e2e_deploy.export.graph.passes.stablenormal import keep_features_of_noise
from e2e_deploy.export.graph.passes.tiny_coder import fold_tiny_coder
from e2e_deploy.export.graph.passes.unet import (
    check_unet,
    fold_empty_prompt,
    fold_time_embedding,
    fold_zero_latent,
)
from e2e_deploy.export.graph.passes.vae import fold_latent_scales, merge_single_head_attention
from e2e_deploy.export.graph.specialised_model import SPECIALISED, SpecialisedModel
from e2e_deploy.model.single_step import SingleStepModel

MACS_HW = (576, 768)
"""Picture size of the published timings, at which multiply-adds are counted if no other is named."""


@dataclass(frozen=True)
class Pass:
    """One exact change of a SpecialisedModel."""

    name: str
    run: Callable[[SpecialisedModel], None]


UPSAMPLING = Pass("upsampling", convolve_before_upsampling)
"""Removes 5/9 of the multiply-adds of convolutions after nearest 2x upsampling, for 7/9 more of their weights."""

PASSES: tuple[Pass, ...] = (
    # removes the time MLP and each residual block's projection
    Pass("time embedding", fold_time_embedding),
    # half of conv_in, the zeros, the latent scale
    Pass("zero latent", fold_zero_latent),
    # the projections of cross attention and the prompt
    Pass("empty prompt", fold_empty_prompt),
    # the queries and keys of a cross attention to the one token of a picture, and the norms before them
    Pass("picture token", attend_to_one_token),
    # a multiplication and an addition of each pixel
    Pass("picture scale", fold_picture_scale),
    # the half of a UNet that sees nothing but noise
    Pass("features of noise", keep_features_of_noise),
    # the first convolution of all results but one
    Pass("first convolution", share_first_convolution),
    # four multiplications and additions of each pixel around the layers of an AutoencoderTiny; leaves a latent scale
    Pass("small coder", fold_tiny_coder),
    # x0 and latent scales, quant and post-quant convolutions, log variance, the channel mean of depth
    Pass("latent scales", fold_latent_scales),
    # two of the four projections of each attention in the VAE
    Pass("single-head attention", merge_single_head_attention),
    # three quarters of the 1x1 projections of a DPT head
    Pass("head projections", project_before_doubling),
    # dropout and gradient checkpointing
    Pass("training parts", drop_training_parts),
    UPSAMPLING,
)
"""Every pass in the order they are run; each is exact alone and with any others."""


@dataclass(frozen=True)
class PassReport:
    """What one pass did.

    Parameters include constants. MACs are multiply-adds of matrix products, convolutions and attention for one picture;
    None where they were not counted.
    """

    name: str
    parameters_before: int
    parameters_after: int
    macs_before: int | None
    macs_after: int | None


def count_parameters(model: nn.Module) -> int:
    """Numbers stored in parameters and buffers; a tensor used twice counts once."""
    return sum(t.numel() for t in (*model.parameters(), *model.buffers()))


def count_macs(model: nn.Module, size_hw: tuple[int, int] = MACS_HW) -> dict[str, int]:
    """Multiply-adds of one picture of ``size_hw``, counted on shapes alone: no memory, no arithmetic.

    Returns:
        By module path (``unet``, ``vae.decoder``, ...); the whole model under the empty path.
    """
    shapes = {
        name: torch.empty_like(tensor, device="meta")
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }
    rgb_13HW = torch.empty(1, 3, *size_hw, device="meta", dtype=next(model.parameters()).dtype)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        functional_call(model, shapes, (rgb_13HW,))
    root = type(model).__name__
    found = {"": counter.get_total_flops() // 2}
    for path, by_operator in counter.get_flop_counts().items():
        if path.startswith(f"{root}."):
            found[path.removeprefix(f"{root}.")] = sum(by_operator.values()) // 2
    return found


def specialise(
    model: SingleStepModel,
    *,
    passes: Sequence[Pass] | None = None,
    upsample: bool = True,
    macs_hw: tuple[int, int] | None = None,
    sizes_hw: Sequence[tuple[int, int]] = (),
) -> tuple[SpecialisedModel, list[PassReport]]:
    """The model as an equal and smaller one. CONSUMES ``model``: its layers are changed in place.

    In place because a second copy of a full-size model is 3.8 GB; whoever needs the original computes with it first,
    or passes a copy.

    Args:
        model: on any device (the meta device too), any float dtype; folding is computed in float64.
        passes: which passes, in order; PASSES if None.
        upsample: False leaves out UPSAMPLING, which is kept only where it is measured to be faster.
        macs_hw: (H, W) to count multiply-adds at; None does not count them, which saves about a second a pass on a
            full-size model.
        sizes_hw: every (H, W) that the network will see. Where one of them makes a level of the UNet odd, that level
            keeps its plain upsampling. Empty: multiples of ``model.network_stride`` only.

    Returns:
        A module of rgb [N, 3, H, W] to the same result as ``model``'s, in eval mode and without gradients, and one
        report a pass.

    Raises:
        UsageError: ``macs_hw`` is a size that the module is not made for.
        CheckpointError: the UNet uses time or prompt in a way the passes do not know.
    """
    if macs_hw is not None and not sizes_hw and any(s % model.network_stride for s in macs_hw):
        raise UsageError(
            f"multiply-adds cannot be counted at {macs_hw[0]}x{macs_hw[1]}; "
            f"both sides must be multiples of {model.network_stride}, or the size one of sizes_hw"
        )
    special = SPECIALISED[type(model)](model, sizes_hw).requires_grad_(False)
    for network in special.networks:
        check_unet(network)

    def measure() -> tuple[int, int | None]:
        macs = None if macs_hw is None else count_macs(special, macs_hw)[""]
        return count_parameters(special), macs

    reports = []
    before = measure()
    for step in PASSES if passes is None else passes:
        if step is UPSAMPLING and not upsample:
            continue
        with torch.no_grad():
            step.run(special)
        after = measure()
        reports.append(PassReport(step.name, before[0], after[0], before[1], after[1]))
        before = after
    return special.eval(), reports

"""How much memory a pass needs, counted before the first one, and how much there is.

Knows: weights, gradients, moments, and what the forward pass keeps for the backward pass, counted on tensors without
contents. Does not know: what is chosen because of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from e2e_deploy.packages import require
from e2e_deploy.train.step.forward import TrainingForward
from e2e_deploy.train.step.half_weights import cast_weights

USABLE = 0.9
"""Of the free memory: an allocator's gaps and libraries' workspaces take the rest."""

TRANSIENT = 1.25
"""Times what the backward pass is handed: gradients that live for a moment. At SD2's size benchmarks/speed/
training_memory.py counts 1.02 to 1.04 in all; torch.compile and libraries have buffers of their own."""


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes on the device."""

    fixed: int
    """Weights, their copies in half precision, gradients and AdamW's moments."""
    image: int
    """What one image adds, without gradient checkpointing."""


def need_of(
    forward: TrainingForward,
    size_hw: tuple[int, int],
    device: torch.device,
    dtype: torch.dtype,
    *,
    denoises: bool = False,
    slices: int = 1,
) -> Need:
    """Counted for images of ``size_hw`` and a pass in ``dtype``; ``forward`` is not called, only its shapes are.

    With ``denoises`` the pass ends with the UNet's output, see ``TrainingForward.forward``. What is trained is cut
    into so many ``slices``, one of which is here.
    """
    weights = sum(each.numel() for each in forward.parameters())
    trained = sum(each.numel() for _, each in forward.named_trained())
    half = 0
    if dtype != torch.float32:
        half = sum(2 * each.numel() for _, _, each in cast_weights(forward, forward.float32_layers))
    kept = _kept_for_backward(forward, size_hw, device, dtype, denoises=denoises)
    fixed = 4 * (weights - trained) + half + 4 * 4 * trained // slices
    return Need(fixed, round(TRANSIENT * kept))


def free_bytes(device: torch.device) -> int:
    """Memory that a run on ``device`` may use as it begins, before its weights are there."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(require("psutil", "train").virtual_memory().available)


def _kept_for_backward(
    forward: TrainingForward,
    size_hw: tuple[int, int],
    device: torch.device,
    dtype: torch.dtype,
    *,
    denoises: bool,
) -> int:
    from torch._subclasses.fake_tensor import FakeTensorMode

    held: dict[int, int] = {}
    alive: list[Tensor] = []  # or an address would be given twice

    with FakeTensorMode() as mode:
        named: Mapping[str, Tensor] = dict((*forward.named_parameters(), *forward.named_buffers()))
        half = {id(each) for _, _, each in cast_weights(forward, forward.float32_layers)}
        fakes: dict[str, Any] = {
            name: mode.from_tensor(each)
            .detach()
            .to(device, dtype if id(each) in half else each.dtype)
            .requires_grad_(each.requires_grad)
            for name, each in named.items()
        }
        own = {each.untyped_storage()._cdata for each in fakes.values()}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in own and storage._cdata not in held:
                held[storage._cdata] = storage.nbytes()
                alive.append(tensor)
            return tensor

        given: tuple[Any, ...] = (torch.zeros(1, 3, *size_hw, device=device), None)
        if denoises:
            model = forward.model
            latent_hw = (side // model.stride for side in size_hw)
            xt = torch.zeros(1, model.latent_channels, *latent_hw, device=device)
            given = (given[0], xt, torch.zeros(1, dtype=torch.int64, device=device))
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32),
        ):
            functional_call(forward, fakes, given)
    return sum(held.values())

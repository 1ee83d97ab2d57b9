"""Weights, gradients and moments spread over the processes of a run: torch's FSDP2, a block of a network at a time.

Every process keeps its slice of each trained weight, and of its gradient and moments. A block's weights come together
for its forward and its backward pass; its gradients are summed and cut up as they are made. Frozen parts stay whole.

Knows: which modules are cut up, when they must be whole. Does not know: the optimizer, files.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

BLOCKS = ("ResnetBlock2D", "AutoencoderTinyBlock", "Transformer2DModel", "Attention")
"""Classes of diffusers whose weights come together at once; what is between them belongs to the whole network."""


class Sharding:
    """Cuts up the trained parts of a model, which must be on its device and stay in float32.

    Args:
        parts: trained modules by name, each called as a module or made of children that are.
        device: of this process.
        world: number of processes.
    """

    def __init__(self, parts: Mapping[str, nn.Module], device: torch.device, world: int) -> None:
        mesh = init_device_mesh(device.type, (world,))
        self._roots: list[FSDPModule] = []
        for name, part in parts.items():
            # A VAE is never called itself: its encoder and decoder are.
            for root in part.children() if name == "vae" else (part,):
                for block in _outermost(root):
                    fully_shard(block, mesh=mesh)
                fully_shard(root, mesh=mesh)
                self._roots.append(cast(FSDPModule, root))
        self.modules = tuple(
            module for root in self._roots for module in cast(nn.Module, root).modules()
        )
        """All that is cut up, with what is inside."""
        for module in self._cut():
            # A step is one mean over its pixels, which the gradients' sum is corrected for.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)

    def _cut(self) -> Iterator[FSDPModule]:
        return (module for module in self.modules if isinstance(module, FSDPModule))

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Inside, every process has all weights, and may compute by itself; all enter and leave together.

        Without gradients alone. The weights need as much memory as without sharding meanwhile.
        """
        for module in self._cut():
            module.set_reshard_after_forward(False, recurse=False)
            module.unshard()
        try:
            yield
        finally:
            for module in self._cut():
                module.reshard()
                module.set_reshard_after_forward(module not in self._roots, recurse=False)

    def undo(self, *, keep: bool) -> None:
        """Make the modules what they were, to be written, with their weights on the CPU where ``keep`` says so.

        All processes take part. Nothing is computed with them any more.
        """
        for module in self.modules:
            weights: dict[str, Tensor | None] = dict(module._parameters)
            for name, weight in weights.items():
                if isinstance(weight, DTensor):
                    with torch.no_grad():
                        full: Tensor = weight.full_tensor()
                    kept = full.cpu() if keep else torch.empty(0)
                    module._parameters[name] = nn.Parameter(kept)
        for cut in [*self._cut()]:
            # fully_shard puts a class in front of the module's own.
            cast(Any, cut).__class__ = type(cut).__mro__[2]


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor; the tensor where it is not cut up."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def placed(tensor: Tensor, like: Tensor) -> Tensor:
    """``tensor``, which every process has, cut up as ``like`` is."""
    if not isinstance(like, DTensor):
        return tensor
    mesh: Any = like.device_mesh
    return distribute_tensor(
        tensor.to(like.device), mesh, list(like.placements), src_data_rank=None
    )


def norm_of(gradients: Sequence[Tensor], accelerator: Any) -> Tensor:
    """The norm of all gradients together, the same in all processes."""
    norm = torch.nn.utils.get_total_norm([local(each) for each in gradients])
    if not any(isinstance(each, DTensor) for each in gradients):
        return norm
    squared: Tensor = accelerator.reduce(norm.double() ** 2, "sum")
    return squared.sqrt().to(norm.dtype)


def _outermost(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if type(child).__name__ in BLOCKS:
            yield child
        else:
            yield from _outermost(child)

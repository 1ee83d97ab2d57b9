"""The kernel of norm_kernel.py for every group norm with SiLU of a network, as an operator that compilers keep."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from e2e_deploy.errors import UnavailableError


@torch.library.custom_op("e2e_deploy_benchmarks::group_norm_silu", mutates_args=())
def _group_norm_silu(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, epsilon: float
) -> Tensor:
    if not x.is_cuda:
        return F.silu(F.group_norm(x, groups, weight, bias, epsilon)).contiguous(
            memory_format=torch.channels_last
        )
    from benchmarks.gpu.profiling.norm_kernel import group_norm_silu

    return group_norm_silu(x, weight, bias, groups, epsilon)


@_group_norm_silu.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, groups: int, epsilon: float) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


class HandNorm(nn.Module):
    """A group norm of one map, and SiLU, in one operator; the map comes out channels last."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """[1, C, H, W].

        Raises:
            UnavailableError: there are several maps, which the kernel does not take.
        """
        if x_NCHW.shape[0] != 1:
            raise UnavailableError("the norm written by hand takes one map")
        norm = self.norm
        made: Tensor = _group_norm_silu(
            x_NCHW.contiguous(memory_format=torch.channels_last),
            norm.weight,
            norm.bias,
            norm.num_groups,
            norm.eps,
        )
        return made


def with_hand_norms(body: nn.Module) -> tuple[nn.Module, int]:
    """A copy of a specialised network with HandNorm for every group norm that SiLU follows, and how many there are."""
    body, count = copy.deepcopy(body), 0
    module: Any
    for module in list(body.modules()):
        pairs = (
            (("norm1", "nonlinearity"), ("norm2", "nonlinearity"))
            if hasattr(module, "norm2") and hasattr(module, "nonlinearity")
            else (("conv_norm_out", "conv_act"),)
        )
        for norm_name, act_name in pairs:
            norm = getattr(module, norm_name, None)
            if isinstance(norm, nn.GroupNorm):
                setattr(module, norm_name, HandNorm(norm))
                setattr(module, act_name, nn.Identity())
                count += 1
    return body, count

"""Weights in the run's half precision, cast once an optimizer step instead of by autocast in every pass.

Autocast casts the weight of a convolution or linear layer whenever it computes with it; it remembers casts of trained
weights until its context ends, which is one pass, those of frozen ones not at all. The copies here are the same
numbers, so a pass computes the same bits.

Knows: which weights autocast casts, how their gradients reach the float32 weights. Does not know: the optimizer.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

CAST = (nn.Conv2d, nn.Linear)
"""What autocast computes in half precision, of the layers that these networks have."""


def cast_weights(
    model: nn.Module, exclude: tuple[nn.Module, ...] = ()
) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    """Layer, name and weight of all that autocast casts; ``exclude`` are layers that compute in float32."""
    for module in model.modules():
        if isinstance(module, CAST) and module not in exclude:
            for name, weight in module.named_parameters(recurse=False):
                yield module, name, weight


class HalfWeights:
    """Copies of the weights of ``model`` that are computed with in ``dtype``.

    A copy of a trained weight is a leaf of its own: its gradient is added to the float32 weight's as soon as it is
    there, and freed.

    Args:
        model: on its device, in float32.
        dtype: float16 or bfloat16; float32 makes no copies.
        channels_last: order of the copies of convolutions.
        exclude: layers that compute in float32.
    """

    def __init__(
        self,
        model: nn.Module,
        dtype: torch.dtype,
        *,
        channels_last: bool = False,
        exclude: tuple[nn.Module, ...] = (),
    ) -> None:
        self._places: list[tuple[nn.Module, str, nn.Parameter, nn.Parameter]] = []
        if dtype == torch.float32:
            return
        for module, name, weight in cast_weights(model, exclude):
            order = torch.preserve_format
            if channels_last and weight.ndim == 4:
                order = torch.channels_last
            copy = weight.detach().to(dtype, copy=True, memory_format=order)
            half = nn.Parameter(copy, requires_grad=weight.requires_grad)
            if weight.requires_grad:
                half.register_post_accumulate_grad_hook(_Hook(weight))  # type: ignore[no-untyped-call]  # torch's
            self._places.append((module, name, weight, half))
        trained = [(weight, half) for _, _, weight, half in self._places if half.requires_grad]
        self._weights: list[Tensor] = [weight for weight, _ in trained]
        self._halves: list[Tensor] = [half for _, half in trained]

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """The model computes with copies of its weights as they are now; its own are back afterwards."""
        if not self._places:
            yield
            return
        with torch.no_grad():
            torch._foreach_copy_(self._halves, self._weights)
        try:
            for module, name, _, half in self._places:
                module._parameters[name] = half
            yield
        finally:
            for module, name, weight, half in self._places:
                module._parameters[name] = weight
                half.grad = None  # of a pass that ended early


class _Hook:
    """Adds a copy's gradient to its weight's, which stays in float32 as under autocast."""

    def __init__(self, weight: nn.Parameter) -> None:
        self._weight = weight

    def __call__(self, half: Tensor) -> None:
        assert half.grad is not None
        if self._weight.grad is None:
            self._weight.grad = half.grad.to(
                self._weight.dtype, memory_format=torch.contiguous_format
            )
        else:
            self._weight.grad.add_(half.grad)
        half.grad = None

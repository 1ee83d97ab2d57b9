"""Half precision by design: the module itself carries the types, so a strongly typed builder has nothing to guess.

Weights and activations become fp16 or bf16. These stay fp32, each for a reason:
- statistics of GroupNorm and LayerNorm: a group of SD's decoder sums 2.4 million squares, fp16 ends at 65504;
- attention logits and softmax: the logits of SD2.1 reach -55 616 and beyond (q is scaled before the product, and
  the product is taken in fp32), unless the target fuses attention and accumulates in fp32 by itself, which an
  exported graph leaves to it (export/graph/attention.py);
- the last convolution and everything after it: near 1.0 a step of fp16 is 0.001, which shows as bands in 16-bit depth;
- modules that say so of themselves with ``is_fp32``, such as DepthMaster's Fourier block.

Knows torch modules; knows nothing of ONNX or of plans.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

from e2e_deploy.errors import UsageError
from e2e_deploy.export.graph.attention import HeadsAttention, attend
from e2e_deploy.export.graph.passes.folding import replace_modules
from e2e_deploy.export.graph.wide_products import convolve_by_taps, on_tensor_cores

DTYPES: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
FP32_PARTS = (
    "normalisation statistics",
    "attention logits and softmax",
    "last convolution",
    "result",
)
"""What stays fp32 in a half-precision graph; goes into the manifest."""


class Fp32Island(nn.Module):
    """A module in fp32 inside a half-precision graph: input cast up, result cast back to the input's type."""

    def __init__(self, inner: nn.Module, *, cast_back: bool = True) -> None:
        super().__init__()
        self.inner = inner.float()
        self.cast_back = cast_back

    def forward(self, x: Tensor) -> Tensor:
        """``inner`` on fp32."""
        result: Tensor = self.inner(x.float())
        return result.to(x.dtype) if self.cast_back else result


class LastConvolution(Fp32Island):
    """The decoder's last convolution: half-precision input and weights, float32 sums and result.

    As a float32 convolution it took 1.1 ms at 576x768 on an H200, as products of its taps 0.05 by the roofline.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(conv, cast_back=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, O, H, W] float32."""
        if on_tensor_cores(x):  # the weights were rounded to that type before they became float32
            weight, bias = cast(Tensor, self.inner.weight), cast(Tensor, self.inner.bias)
            return convolve_by_taps(x, weight.to(x.dtype), bias)
        return super().forward(x)


class Attend:
    """A diffusers attention processor for inference: no masks, no dropout, and softmax logits in fp32.

    With ``fused`` the product is left to the runtime's fused kernel, which accumulates in fp32.
    """

    def __init__(self, *, fused: bool) -> None:
        self.fused = fused

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Attention of ``attn`` (diffusers' Attention) on [N, tokens, C] or [N, C, H, W]."""
        residual, is_map = hidden_states, hidden_states.ndim == 4
        N = hidden_states.shape[0]
        x_NTC = hidden_states.flatten(2).transpose(1, 2) if is_map else hidden_states
        if attn.group_norm is not None:
            x_NTC = attn.group_norm(x_NTC.transpose(1, 2)).transpose(1, 2)
        source = x_NTC if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(x_NTC), attn.to_k(source), attn.to_v(source)
        q, k, v = (
            t.view(N, -1, attn.heads, t.shape[-1] // attn.heads).transpose(1, 2) for t in (q, k, v)
        )
        mixed = attend(q * attn.scale, k, v, fused=self.fused)
        out: Tensor = attn.to_out[0](mixed.transpose(1, 2).flatten(2))
        if is_map:
            out = out.transpose(1, 2).reshape(residual.shape)
        if attn.residual_connection:
            out = out + residual
        return out / attn.rescale_output_factor if attn.rescale_output_factor != 1.0 else out


class CastInput(nn.Module):
    """Takes fp32 rgb, runs ``model`` in its own type, gives fp32."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self.dtype = dtype

    def forward(self, rgb_N3HW: Tensor) -> Tensor:
        """Result [N, 1 or 3, H, W] of rgb in [-1, 1]."""
        result: Tensor = self.model(rgb_N3HW.to(self.dtype))
        return result.float()


def _wrap(parent: nn.Module) -> None:
    """Put every normalisation below ``parent`` into an fp32 island."""
    for name, child in parent.named_children():
        if isinstance(child, nn.GroupNorm | nn.LayerNorm):
            setattr(parent, name, Fp32Island(child))
        elif not isinstance(child, Fp32Island):
            _wrap(child)


def _is_transformers(module: Any) -> bool:
    """Whether it is an attention of transformers' CLIP, which has kernels of its own choice."""
    return type(module).__name__ == "CLIPAttention"


def _take_out(model: nn.Module) -> dict[str, nn.Module]:
    """Modules that stay as they are, with their paths; others stand there until they are put back."""
    found = {name: part for name, part in model.named_modules() if getattr(part, "is_fp32", False)}
    for path in found:
        model.set_submodule(path, nn.Identity())
    return found


def set_attention(model: nn.Module, *, fused: bool) -> None:
    """Decide for every attention below ``model`` whether it is left to the runtime's fused kernel."""
    module: Any
    replace_modules(
        model, nn.Module, lambda each: HeadsAttention(each) if _is_transformers(each) else None
    )
    for module in model.modules():
        if hasattr(module, "set_processor") and hasattr(module, "to_q"):
            module.set_processor(Attend(fused=fused))
        elif hasattr(module, "fused"):
            module.fused = fused


def to_precision(model: Any, precision: str, *, fused_attention: bool = False) -> nn.Module:
    """``model`` in ``precision``; it is changed in place, and fp32 is returned as it is.

    Args:
        model: a SpecialisedModel or SingleStepModel.
        precision: fp32, fp16 or bf16.
        fused_attention: the target fuses attention and accumulates in fp32.

    Raises:
        UsageError: unknown precision.
    """
    if precision not in DTYPES:
        raise UsageError(f"unknown precision {precision!r}; supported: {', '.join(DTYPES)}")
    set_attention(model, fused=fused_attention or precision == "fp32")
    if precision == "fp32":
        return cast(nn.Module, model)
    dtype = DTYPES[precision]
    islands = _take_out(model)
    model.to(dtype)
    _wrap(model)
    for path, module in islands.items():
        model.set_submodule(path, Fp32Island(module))
    path = model.last_convolution
    model.set_submodule(path, LastConvolution(model.get_submodule(path)))
    return CastInput(model, dtype)

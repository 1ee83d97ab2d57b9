"""The attentions that are left when the prompt is a constant or there is one head; each replaces a diffusers Attention.

They take what diffusers passes (context, masks) and ignore it. Scales are in the weights. Knows nothing of how the
weights came to be.

N batch, T spatial tokens, C channels, L prompt tokens, h heads, d channels a head.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from e2e_deploy.export.graph.multi_head import multi_head_attention
from e2e_deploy.export.graph.wide_products import on_tensor_cores, product_in_fp32

FUSED_WIDTH = 256
"""Channels a head for which CUDA has fused kernels on tensor cores: FlashAttention's limit, and cuDNN's at most.

Beyond it torch 2.11 took float32 products for the VAE's 512: 2.1 ms at 6912 tokens on an H200, where products in half
precision, their float32 logits written and read, take 0.2 by the roofline."""

MAX_LOGITS = 2**27
"""Logits held at once, of 4 + 2 bytes each (0.75 GiB); more queries come in parts."""


def attend(query: Tensor, key: Tensor, value: Tensor, *, fused: bool) -> Tensor:
    """softmax(query key^T) value over the last two axes, in the dtype of ``value``.

    In an exported graph half precision becomes one node too, in float32 between casts. So TensorRT is asked for its
    half-precision kernel with float32 sums (release notes 11.3; without the casts it may sum in half precision, and the
    logits of SD2.1 overflow), and a runtime without such a kernel has float32 logits.

    Args:
        query: [..., T, d], already scaled.
        key: [..., L, d]; not the same tensor as ``value``, which TensorRT-RTX 1.7 cannot compile.
        value: [..., L, d].
        fused: leave it to one kernel of the runtime, where there is one; else logits and softmax are explicit and at
            least float32.
    """
    half = query.dtype in (torch.float16, torch.bfloat16)
    if torch.onnx.is_in_onnx_export() and (half or (fused and query.dtype == torch.float32)):
        return multi_head_attention(query.float(), key.float(), value.float()).to(value.dtype)
    if fused and not (on_tensor_cores(query) and query.shape[-1] > FUSED_WIDTH):
        return F.scaled_dot_product_attention(query, key, value, scale=1.0)
    if not on_tensor_cores(query):
        return _attend_by_products(query, key, value)
    heads = query.shape[:-2].numel()
    at_once = max(1, MAX_LOGITS // (heads * key.shape[-2]))
    parts = torch.split(query, at_once, dim=-2)
    return torch.cat([_attend_by_products(part, key, value) for part in parts], dim=-2)


def _attend_by_products(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    logits = product_in_fp32(query, key.transpose(-1, -2))
    return torch.matmul(logits.softmax(dim=-1).to(value.dtype), value)


class OneTokenAttention(nn.Module):
    """Cross attention to one token: a softmax over one is 1, so every position gets the same projection of it."""

    def __init__(self, project: nn.Linear) -> None:
        super().__init__()
        self.project = project

    def forward(
        self, hidden_NTC: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any
    ) -> Tensor:
        """[N, 1, C] of the context [N, 1, width]."""
        projected: Tensor = self.project(encoder_hidden_states)
        return projected


class HeadsAttention(nn.Module):
    """Self attention of several heads in the place of transformers' CLIPAttention, with its projections.

    Attributes:
        fused: see ``attend``.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.to_q, self.to_k = attention.q_proj, attention.k_proj
        self.to_v, self.to_out = attention.v_proj, attention.out_proj
        self.heads, self.scale = int(attention.num_heads), float(attention.scale)
        self.fused = True

    def forward(self, hidden_states: Tensor, **_: Any) -> tuple[Tensor, None]:
        """[N, T, C], and nothing in the place of the weights."""
        batch, tokens, _channels = hidden_states.shape
        query, key, value = (
            layer(hidden_states).reshape(batch, tokens, self.heads, -1).transpose(1, 2)
            for layer in (self.to_q, self.to_k, self.to_v)
        )
        mixed_NhTd = attend(query * self.scale, key, value, fused=self.fused)
        return self.to_out(mixed_NhTd.transpose(1, 2).flatten(2)), None


class TwoTokenAttention(nn.Module):
    """Cross attention to two constant tokens, the empty prompt: a softmax over two is the sigmoid of their difference.

    sigmoid(x D + d) E + f with D [C, h] and E [h, C]. Logits that overflow to infinity give the right 0 or 1.
    """

    def __init__(self, gate: nn.Linear, to_out: nn.Linear) -> None:
        super().__init__()
        self.gate = gate
        self.to_out = to_out

    def forward(self, hidden_NTC: Tensor, *_: Any, **__: Any) -> Tensor:
        """[N, T, C]."""
        mixed: Tensor = self.to_out(torch.sigmoid(self.gate(hidden_NTC)))
        return mixed


class ConstantKeysAttention(nn.Module):
    """Cross attention to another number of constant tokens: queries and outputs are projected, the rest is there.

    Attributes:
        fused: see ``attend``.
    """

    keys_1hLd: Tensor
    values_1hLd: Tensor

    def __init__(
        self, to_q: nn.Linear, to_out: nn.Linear, keys_hLd: Tensor, values_hLd: Tensor
    ) -> None:
        super().__init__()
        self.to_q = to_q
        self.to_out = to_out
        self.register_buffer("keys_1hLd", keys_hLd.unsqueeze(0).contiguous())
        self.register_buffer("values_1hLd", values_hLd.unsqueeze(0).contiguous())
        self.fused = True

    def forward(self, hidden_NTC: Tensor, *_: Any, **__: Any) -> Tensor:
        """[N, T, C]."""
        _one, heads, _length, width = self.keys_1hLd.shape
        batch, tokens, _channels = hidden_NTC.shape
        query_NhTd = self.to_q(hidden_NTC).reshape(batch, tokens, heads, width).transpose(1, 2)
        mixed_NhTd = attend(
            query_NhTd,
            self.keys_1hLd.expand(batch, -1, -1, -1),
            self.values_1hLd.expand(batch, -1, -1, -1),
            fused=self.fused,
        )
        mixed: Tensor = self.to_out(mixed_NhTd.transpose(1, 2).flatten(2))
        return mixed


class SingleHeadAttention(nn.Module):
    """Self attention of one head as wide as its input, on a normalised map, the map added: two projections, not four.

    Logits x_i Wq^T Wk x_j^T + bq Wk x_j^T: what depends on i alone cancels in the softmax. The weights of a row sum to
    one, so values and output are one matrix Wo Wv and one bias Wo bv + bo, which the values can take beforehand.

    Attributes:
        fused: see ``attend``.
    """

    def __init__(self, group_norm: nn.GroupNorm, to_q: nn.Linear, to_out: nn.Linear) -> None:
        super().__init__()
        self.group_norm = group_norm
        self.to_q = to_q
        self.to_out = to_out
        self.fused = True

    def forward(self, hidden_NCHW: Tensor, *_: Any, **__: Any) -> Tensor:
        """[N, C, H, W]."""
        tokens_N1TC = self.group_norm(hidden_NCHW).flatten(2).transpose(1, 2).unsqueeze(1)
        mixed_N1TC = attend(
            self.to_q(tokens_N1TC), tokens_N1TC, self.to_out(tokens_N1TC), fused=self.fused
        )
        return mixed_N1TC.squeeze(1).transpose(1, 2).reshape(hidden_NCHW.shape) + hidden_NCHW

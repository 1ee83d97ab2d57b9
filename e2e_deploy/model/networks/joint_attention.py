"""Self attention over the tokens of every result of a picture: GeoWizard's depth and normals see each other.

Each half's queries read the keys and values of both halves, which is plain self attention over the tokens of both, side
by side (GeoWizard, arXiv 2403.12013, section 3.3). So halves that lie one after the other in the batch need a reshape
and nothing else, and whatever computes an attention computes this one.

N pictures, K results, T tokens, C channels.
"""

from functools import cache
from typing import Any

from torch import Tensor

from e2e_deploy.packages import require


@cache
def joint_attention_class() -> Any:
    """Diffusers' Attention for [N K, T, C] whose K results lie one after the other and share keys and values."""
    attention_class: Any = require("diffusers.models.attention_processor", "export").Attention

    class JointAttention(attention_class):  # type: ignore[misc]  # diffusers is untyped
        """Its weights have the names they have in Attention."""

        results: int

        def forward(self, hidden_states: Tensor, *given: Any, **named: Any) -> Tensor:
            """[N K, T, C]."""
            batch, tokens, channels = hidden_states.shape
            joined = hidden_states.reshape(batch // self.results, self.results * tokens, channels)
            mixed: Tensor = super().forward(joined, *given, **named)
            return mixed.reshape(batch, tokens, channels)

    return JointAttention


def join_self_attentions(unet: Any, results: int) -> None:
    """Every self attention of the transformers in ``unet`` becomes a joint one, with the same weights and names."""
    block_class = require("diffusers.models.attention", "export").BasicTransformerBlock
    joint_class = joint_attention_class()
    for block in unet.modules():
        if isinstance(block, block_class) and not block.attn1.is_cross_attention:
            joint = joint_class.__new__(joint_class)
            joint.__dict__ = block.attn1.__dict__
            joint.results = results
            block.attn1 = joint

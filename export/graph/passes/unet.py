"""Passes over the UNet: time, the zero noise latent and the empty prompt are constants, so their layers fold away.

Each changes the SpecialisedModel in place and leaves its function as it was (exact in real arithmetic).

C channels, L prompt tokens, h heads, d channels a head.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from e2e_deploy.errors import CheckpointError
from e2e_deploy.export.graph.attention import (
    ConstantKeysAttention,
    TwoTokenAttention,
)
from e2e_deploy.export.graph.passes.folding import bias_of, linear, replace_modules, set_weights
from e2e_deploy.export.graph.specialised_model import SpecialisedModel
from e2e_deploy.packages import require

# UNet settings under which time, noise and prompt enter nowhere else than where the passes look.
_EXPECTED = {
    "addition_embed_type": (None,),
    "center_input_sample": (None, False),
    "class_embed_type": ("projection", None),
    "class_embeddings_concat": (None, False),
    "dual_cross_attention": (None, False),
    "encoder_hid_dim_type": (None,),
    "num_class_embeds": (None,),
    "resnet_time_scale_shift": (None, "default"),
}


def check_unet(unet: Any) -> None:
    """Refuse a UNet that uses time or prompt in a way the passes do not know.

    Raises:
        CheckpointError: names the setting in the UNet's config.
    """
    for name, allowed in _EXPECTED.items():
        value = getattr(unet.config, name, None)
        if value not in allowed:
            raise CheckpointError(
                f"the unet's config has {name} = {value!r}, which cannot be specialised; "
                f"expected {allowed[-1]!r}: export it without specialisation"
            )
    if any(type(module).__name__ == "ResnetBlockCondNorm2D" for module in unet.modules()):
        raise CheckpointError(
            "the unet's residual blocks take time into their norms, which cannot be specialised; "
            "export it without specialisation"
        )


class NoEmbedding(nn.Module):
    """Stands where the time embedding was; the residual blocks then add nothing."""

    def forward(self, *_: Any) -> None:
        """Nothing, whatever the timestep."""
        return


class BiasPerResult(nn.Module):
    """A convolution of the K results of every picture, one after the other, each with a bias of its own.

    N pictures, C output channels.
    """

    bias_KC11: Tensor

    def __init__(self, conv: nn.Conv2d, bias_KC: Tensor) -> None:
        super().__init__()
        self.register_buffer(
            "bias_KC11", bias_KC.to(conv.weight.dtype)[:, :, None, None].contiguous()
        )
        set_weights(conv, conv.weight, None)
        self.conv = conv

    def forward(self, hidden_NKcHW: Tensor) -> Tensor:
        """[N K, C, H, W]."""
        out: Tensor = self.conv(hidden_NKcHW)
        apart = out.reshape(-1, len(self.bias_KC11), *out.shape[1:])
        return (apart + self.bias_KC11).reshape(out.shape)


def fold_time_embedding(model: SpecialisedModel) -> None:
    """Each residual block's time_emb_proj(silu(emb(T))) becomes part of its conv1 bias; T and the class are fixed.

    Results with a class of their own each have a bias of their own.
    """
    for network in model.networks:
        _fold_time(network, model.timestep, model.class_labels_1D)
    model.class_labels_1D = None


def _fold_time(network: Any, timestep: int, class_labels_1D: Tensor | None) -> None:
    resnet_class = require("diffusers.models.resnet", "export").ResnetBlock2D
    times_1 = torch.tensor([timestep], device=next(network.parameters()).device)
    embedding = copy.deepcopy(network.time_embedding).double()
    time = embedding(network.time_proj(times_1).double())
    if class_labels_1D is not None:
        of_class = copy.deepcopy(network.class_embedding).double()
        time = time + of_class(class_labels_1D.double())
        network.class_embedding = None
    act = getattr(network, "time_embed_act", None)  # a ControlNet has none
    if act is not None:
        time = act(time)
        network.time_embed_act = None
    for block in network.modules():
        if not isinstance(block, resnet_class) or block.time_emb_proj is None:
            continue
        project = block.time_emb_proj
        active = time if block.skip_time_act else block.nonlinearity(time)
        shift_KC = F.linear(active, project.weight.double(), bias_of(project))
        bias_KC = bias_of(block.conv1) + shift_KC
        if len(bias_KC) == 1:
            set_weights(block.conv1, block.conv1.weight, bias_KC[0])
        else:
            block.conv1 = BiasPerResult(block.conv1, bias_KC)
        block.time_emb_proj = None
    network.time_embedding = NoEmbedding()


def fold_zero_latent(model: SpecialisedModel) -> None:
    """conv_in loses the channels that read zeros, and takes the VAE's scaling factor into the rest."""
    for network in model.latent_readers:
        conv = network.conv_in
        weight = conv.weight[:, : model.latent_channels].double() * model.latent_scale
        set_weights(conv, weight, conv.bias)
    model.zero_channels = 0
    model.latent_scale = 1.0


def check_attention(attention: Any) -> None:
    """Refuse a cross attention that is more than projections and a softmax.

    Raises:
        CheckpointError: it normalises or adds something that no SD2-like UNet has.
    """
    norms = ("group_norm", "spatial_norm", "norm_q", "norm_k", "norm_cross")
    if (
        any(getattr(attention, name, None) is not None for name in norms)
        or attention.residual_connection
        or attention.rescale_output_factor != 1.0
        or attention.to_k is None
    ):
        raise CheckpointError(
            "a cross attention of the unet has norms or a residual of its own, which cannot be specialised; "
            "export it without specialisation"
        )


def attend_to_constant(attention: Any, context_LC: Tensor) -> nn.Module:
    """The exact form of a diffusers cross Attention whose context is always ``context_LC`` (float64).

    Raises:
        CheckpointError: as of ``check_attention``.
    """
    check_attention(attention)
    dtype, heads, tokens = attention.to_q.weight.dtype, attention.heads, context_LC.shape[0]
    to_q, to_out = attention.to_q, attention.to_out[0]
    inner, channels = to_q.weight.shape

    def of_context(layer: Any) -> Tensor:
        projected = F.linear(context_LC, layer.weight.double(), bias_of(layer))
        return projected.reshape(tokens, heads, -1).transpose(0, 1)

    keys_hLd, values_hLd = of_context(attention.to_k) * attention.scale, of_context(attention.to_v)
    if tokens != 2:
        return ConstantKeysAttention(to_q, to_out, keys_hLd.to(dtype), values_hLd.to(dtype))
    out_Chd = to_out.weight.double().reshape(-1, heads, inner // heads)
    out_hLC = torch.einsum("chd,hld->hlc", out_Chd, values_hLd)
    query_hdC = to_q.weight.double().reshape(heads, -1, channels)
    query_hd = bias_of(to_q).reshape(heads, -1)
    logits_hLC = torch.einsum("hdc,hld->hlc", query_hdC, keys_hLd)
    logits_hL = torch.einsum("hd,hld->hl", query_hd, keys_hLd)
    return TwoTokenAttention(
        linear(logits_hLC[:, 0] - logits_hLC[:, 1], logits_hL[:, 0] - logits_hL[:, 1], dtype),
        linear((out_hLC[:, 0] - out_hLC[:, 1]).T, out_hLC[:, 1].sum(0) + bias_of(to_out), dtype),
    )


def fold_empty_prompt(model: SpecialisedModel) -> None:
    """Every cross attention takes its smallest form for the one prompt there is; the prompt itself goes."""
    if model.context_1LC is None:
        return
    context_LC = model.context_1LC[0].double()
    attention_class = require("diffusers.models.attention_processor", "export").Attention
    for network in model.networks:
        replace_modules(
            network,
            attention_class,
            lambda child: (
                attend_to_constant(child, context_LC) if child.is_cross_attention else None
            ),
        )
    model.context_1LC = None

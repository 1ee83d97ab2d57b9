"""The single-step model with its constants on the outside, where the passes can fold them away.

Knows how a SingleStepModel is put together; knows nothing of the passes, of ONNX or of frames.

N batch, K results, H W pixels, h w latent pixels, L prompt tokens, C prompt width.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from e2e_deploy.errors import UsageError
from e2e_deploy.model.coders.coder import decode, encode_mean
from e2e_deploy.model.networks.geowizard import GeoWizardModel, for_each_result
from e2e_deploy.model.networks.head_model import HeadModel, read_head
from e2e_deploy.model.networks.stablenormal import StableNormalModel, noise_like
from e2e_deploy.model.networks.unet_features import go_down, go_up, unet_features
from e2e_deploy.model.single_step import (
    SingleStepModel,
    each_alone,
    read_results,
    side_by_side,
)


class SpecialisedModel(nn.Module):
    """The same function as the SingleStepModel it takes the networks of; each pass makes one of its steps empty.

    Attributes:
        unet: the UNet2DConditionModel of the SingleStepModel, changed in place by the passes.
        vae: its AutoencoderKL or AutoencoderTiny, likewise; ``quant_conv`` and ``post_quant_conv`` may be None.
        context_1LC: text encoding of the prompt, None once no layer reads it.
        class_labels_1D: what the UNet's class embedding is given, None once it is folded or where there is none.
        timestep: what the UNet is conditioned on; without effect once the time embedding is folded.
        latent_scale: factor on the encoder's mean latent.
        zero_channels: channels of zeros that follow the rgb latent into the UNet.
        output_scale: factor on the UNet's output that gives the latent the decoder takes.
        stride: pixels a side of one latent pixel.
        sizes_hw: (H, W) that it is going to run at; empty: multiples of the SingleStepModel's ``network_stride``.
    """

    unet: Any  # diffusers is untyped
    vae: Any
    context_1LC: Tensor | None
    class_labels_1D: Tensor | None

    def __init__(self, model: SingleStepModel, sizes_hw: Sequence[tuple[int, int]] = ()) -> None:
        super().__init__()
        self.unet = model.unet
        self.vae = model.vae
        self.register_buffer("context_1LC", model.context_1LC, persistent=False)
        self.register_buffer("class_labels_1D", model.class_labels_1D, persistent=False)
        self.last_convolution = model.last_convolution
        self.kinds = model.kinds
        self.family = model.family
        self.full_z_range = model.full_z_range
        self.timestep = model.timestep
        self.stride = model.stride
        self.sizes_hw = tuple(sizes_hw)
        self.latent_channels = model.latent_channels
        self.latent_scale = model.scaling_factor
        self.zero_channels = model.in_channels - model.latent_channels
        self.output_scale = model.x0_from_output / model.decoding_factor

    @property
    def networks(self) -> tuple[Any, ...]:
        """What is told the time and the prompt; the last one has the downwards blocks whatever the passes fold."""
        return (self.unet,)

    @property
    def latent_readers(self) -> tuple[Any, ...]:
        """Those that the rgb latent enters."""
        return (self.unet,)

    def encode(self, rgb_N3HW: Tensor) -> Tensor:
        """What the UNet takes: [N, 4 or 8, h, w]."""
        latent = encode_mean(self.vae, rgb_N3HW)
        if self.latent_scale != 1.0:
            latent = latent * self.latent_scale
        if self.zero_channels:
            zeros = latent.new_zeros(latent.shape[0], self.zero_channels, *latent.shape[2:])
            latent = torch.cat([latent, zeros], dim=1)
        return latent

    def context(self, rgb_N3HW: Tensor) -> Tensor | None:
        """What the UNet's cross attentions read, [N, L, C]; None once they are folded."""
        context = self.context_1LC
        return None if context is None else context.expand(rgb_N3HW.shape[0], -1, -1)

    def run_unet(self, latent_N8hw: Tensor, context_NLC: Tensor | None) -> Tensor:
        """The UNet's output [N, 4 K, h, w] for what it takes and ``context``."""
        count, labels = latent_N8hw.shape[0], self.class_labels_1D
        output: Tensor = self.unet(
            latent_N8hw,
            self.timestep,
            context_NLC,
            class_labels=None if labels is None else labels.expand(count, -1),
            return_dict=False,
        )[0]
        return output

    def decode(self, output_NKhw: Tensor) -> Tensor:
        """Decoded images of the UNet's output, not clipped: [N, 3 K, H, W], or [N, K, H, W] if only means are left."""
        latent = each_alone(output_NKhw, len(self.kinds))
        if self.output_scale != 1.0:
            latent = latent * self.output_scale
        return side_by_side(decode(self.vae, latent), len(self.kinds))

    def forward(self, rgb_N3HW: Tensor) -> Tensor:
        """Results [N, channels of every kind, H, W] of rgb in [-1, 1], as SingleStepModel.forward."""
        context_NLC = self.context(rgb_N3HW)
        return self.read(self.decode(self.run_unet(self.encode(rgb_N3HW), context_NLC)))

    def read(self, image_NKHW: Tensor) -> Tensor:
        """Results of what ``decode`` gives."""
        return read_results(image_NKHW, self.kinds, self.family, full_z_range=self.full_z_range)


class SpecialisedHeadModel(SpecialisedModel):
    """The same function as the HeadModel it takes the networks of.

    Attributes:
        head: its DPTHead, changed in place by the passes.
        stretch: its own.
    """

    def __init__(self, model: HeadModel, sizes_hw: Sequence[tuple[int, int]] = ()) -> None:
        super().__init__(model, sizes_hw)
        self.head = model.head
        self.stretch = model.stretch

    def run_unet(self, latent_N8hw: Tensor, context_NLC: Tensor | None) -> Any:
        """The features of the UNet's levels, the finest first."""
        return unet_features(self.unet, latent_N8hw, self.timestep, context_NLC)

    def decode(self, output_NKhw: Any) -> Tensor:
        """The head's map [N, 1, H, W] of the features, not clipped."""
        result: Tensor = self.head(output_NKhw)
        return result

    def read(self, image_NKHW: Tensor) -> Tensor:
        """The map as a result [N, 1, H, W] in [0, 1]."""
        return read_head(image_NKHW, self.stretch)


class SpecialisedGeoWizard(SpecialisedModel):
    """The same function as the GeoWizardModel it takes the networks of.

    Attributes:
        class_labels_1D: [K, D], a row a result.
        picture_context: its own, changed in place by the passes; None where there is a prompt.
        shares_first: the UNet takes a picture's latent once, and doubles it after its first convolution.
    """

    picture_context: Any

    def __init__(self, model: GeoWizardModel, sizes_hw: Sequence[tuple[int, int]] = ()) -> None:
        super().__init__(model, sizes_hw)
        self.picture_context = model.picture_context
        self.shares_first = False

    def context(self, rgb_N3HW: Tensor) -> Tensor | None:
        """As of SpecialisedModel; the embedding of each picture where there is no prompt."""
        if self.picture_context is None:
            return super().context(rgb_N3HW)
        context_N1C: Tensor = self.picture_context(rgb_N3HW)
        return context_N1C

    def run_unet(self, latent_N8hw: Tensor, context_NLC: Tensor | None) -> Tensor:
        """As of SpecialisedModel; the results of a picture are evaluated one after the other in the batch."""
        count, labels = len(self.kinds), self.class_labels_1D
        output: Tensor = self.unet(
            latent_N8hw if self.shares_first else for_each_result(latent_N8hw, count),
            self.timestep,
            None if context_NLC is None else for_each_result(context_NLC, count),
            class_labels=None if labels is None else labels.repeat(latent_N8hw.shape[0], 1),
            return_dict=False,
        )[0]
        return side_by_side(output, count)


class SpecialisedStableNormal(SpecialisedModel):
    """The same function as the StableNormalModel it takes the networks of.

    Attributes:
        controlnet: its own, changed in place by the passes.
        seed: its own.
        constant_hw: (h, w) of the latents that the UNet's features of noise are kept for as buffers, see
            ``constant_name``; empty as long as the UNet computes them.
    """

    controlnet: Any

    def __init__(self, model: StableNormalModel, sizes_hw: Sequence[tuple[int, int]] = ()) -> None:
        super().__init__(model, sizes_hw)
        self.controlnet = model.controlnet
        self.seed = model.seed
        self.constant_hw: tuple[tuple[int, int], ...] = ()

    @property
    def networks(self) -> tuple[Any, ...]:
        """Both."""
        return (self.unet, self.controlnet)

    @property
    def latent_readers(self) -> tuple[Any, ...]:
        """The ControlNet alone where the UNet is given noise."""
        return (self.controlnet,) if self.seed is not None else (self.unet, self.controlnet)

    @staticmethod
    def constant_name(latent_hw: tuple[int, int], index: int) -> str:
        """Of the buffer with the UNet's features number ``index``, the finest first and the middle last."""
        return f"noise_{latent_hw[0]}x{latent_hw[1]}_{index}"

    def run_unet(self, latent_N8hw: Tensor, context_NLC: Tensor | None) -> Tensor:
        """As of SpecialisedModel."""
        kept, middle = go_down(self.controlnet, latent_N8hw, self.timestep, context_NLC)
        if not self.constant_hw:
            given = latent_N8hw if self.seed is None else noise_like(latent_N8hw, self.seed)
            output: Tensor = self.unet(
                given,
                self.timestep,
                context_NLC,
                down_block_additional_residuals=kept,
                mid_block_additional_residual=middle,
                return_dict=False,
            )[0]
            return output
        height, width = map(int, latent_N8hw.shape[2:])
        if (height, width) not in self.constant_hw:
            raise UsageError(
                f"the specialised network has no features of noise for {height}x{width} latent pixels: specialise for "
                "this size"
            )
        *kept, middle = (
            each + getattr(self, self.constant_name((height, width), index))
            for index, each in enumerate((*kept, middle))
        )
        hidden = go_up(self.unet, kept, middle, self.timestep, context_NLC)[0]
        if self.unet.conv_norm_out is not None:
            hidden = self.unet.conv_act(self.unet.conv_norm_out(hidden))
        output = self.unet.conv_out(hidden)
        return output


SPECIALISED: dict[type[SingleStepModel], Callable[..., SpecialisedModel]] = {
    SingleStepModel: SpecialisedModel,
    HeadModel: SpecialisedHeadModel,
    GeoWizardModel: SpecialisedGeoWizard,
    StableNormalModel: SpecialisedStableNormal,
}
"""Which class takes which model's networks."""

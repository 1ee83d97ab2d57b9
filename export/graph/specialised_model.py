"""The single-step model with its constants on the outside, where the passes can fold them away.

Knows how a SingleStepModel is put together; knows nothing of the passes, of ONNX or of frames.

N batch, H W pixels, h w latent pixels, L prompt tokens, C prompt width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from e2e_deploy.model.single_step import SingleStepModel, read_depth, read_normals


class SpecialisedModel(nn.Module):
    """The same function as the SingleStepModel it takes the networks of; each pass makes one of its steps empty.

    Attributes:
        unet: the UNet2DConditionModel of the SingleStepModel, changed in place by the passes.
        vae: its AutoencoderKL, likewise; ``quant_conv`` and ``post_quant_conv`` may be None.
        context_1LC: text encoding of the empty prompt, None once no layer reads it.
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

    def __init__(self, model: SingleStepModel, sizes_hw: Sequence[tuple[int, int]] = ()) -> None:
        super().__init__()
        self.unet = model.unet
        self.vae = model.vae
        self.register_buffer("context_1LC", model.context_1LC, persistent=False)
        self.task = model.task
        self.family = model.family
        self.full_z_range = model.full_z_range
        self.timestep = model.timestep
        self.stride = model.stride
        self.sizes_hw = tuple(sizes_hw)
        self.latent_channels = model.latent_channels
        self.latent_scale = model.scaling_factor
        self.zero_channels = (
            model.latent_channels if model.in_channels == 2 * model.latent_channels else 0
        )
        self.output_scale = model.x0_from_output / model.scaling_factor

    def encode(self, rgb_N3HW: Tensor) -> Tensor:
        """What the UNet takes: [N, 4 or 8, h, w]."""
        latent: Tensor = self.vae.encoder(rgb_N3HW)
        if self.vae.quant_conv is not None:
            latent = self.vae.quant_conv(latent)
        if latent.shape[1] > self.latent_channels:  # the second half is the log variance
            latent = latent[:, : self.latent_channels]
        if self.latent_scale != 1.0:
            latent = latent * self.latent_scale
        if self.zero_channels:
            zeros = latent.new_zeros(latent.shape[0], self.zero_channels, *latent.shape[2:])
            latent = torch.cat([latent, zeros], dim=1)
        return latent

    def decode(self, output_N4hw: Tensor) -> Tensor:
        """Decoded image of the UNet's output, not clipped: [N, 3, H, W], or [N, 1, H, W] if only its mean is left."""
        latent = output_N4hw
        if self.output_scale != 1.0:
            latent = latent * self.output_scale
        if self.vae.post_quant_conv is not None:
            latent = self.vae.post_quant_conv(latent)
        image: Tensor = self.vae.decoder(latent)
        return image

    def forward(self, rgb_N3HW: Tensor) -> Tensor:
        """Result [N, 1 or 3, H, W] of rgb in [-1, 1], as SingleStepModel.forward."""
        latent = self.encode(rgb_N3HW)
        context = None
        if self.context_1LC is not None:
            context = self.context_1LC.expand(latent.shape[0], -1, -1)
        image = self.decode(self.unet(latent, self.timestep, context, return_dict=False)[0])
        if self.task == "depth":
            return read_depth(image).unsqueeze(1)
        return read_normals(image, self.family, full_z_range=self.full_z_range)

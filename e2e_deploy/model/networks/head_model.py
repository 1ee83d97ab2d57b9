"""A single-step model whose UNet's features go to a DPT head: no x0 and no VAE decoder.

N batch, H W pixels, h w latent pixels.
"""

from dataclasses import replace
from typing import Any

from torch import Tensor

from e2e_deploy.errors import UsageError
from e2e_deploy.frames import FramePlan
from e2e_deploy.model.networks.dpt_head import DPTHead, result_side
from e2e_deploy.model.networks.unet_features import unet_features
from e2e_deploy.model.single_step import SingleStepModel, read_mean
from e2e_deploy.names import Stretch

PIXELS = 8
"""A side of the head's result for one latent pixel, so the VAE must shrink by as much."""
MIN_RANGE = 1e-6


def read_head(map_N1HW: Tensor, stretch: Stretch) -> Tensor:
    """The head's map as a result [N, 1, H, W] in [0, 1].

    none: as it was trained, by mean squared error on targets from -1 to 1, clipped to them. frame: as GenPercept's
    pipeline has it, the least value of a frame is 0 and the greatest 1; of a flat frame 0 everywhere.
    """
    if stretch == "none":
        return read_mean(map_N1HW).unsqueeze(1)
    low, high = (f(dim=(2, 3), keepdim=True) for f in (map_N1HW.amin, map_N1HW.amax))
    return (map_N1HW - low) / (high - low).clamp(min=MIN_RANGE)


class HeadModel(SingleStepModel):
    """One network evaluation from rgb to one map, by a UNet and a DPT head.

    Attributes:
        unet: diffusers UNet2DConditionModel without its last norm and convolution.
        vae: diffusers AutoencoderKL or AutoencoderTiny; its decoder is not read and may be None.
        head: from the features of every level to the map.
        stretch: as in ``read_head``.
    """

    def __init__(
        self,
        unet: Any,
        vae: Any,
        context_1LC: Tensor,
        *,
        head: DPTHead,
        stretch: Stretch,
        **rest: Any,
    ) -> None:
        vae.decoder = vae.post_quant_conv = None
        super().__init__(unet, vae, context_1LC, **rest)
        self.head = head
        self.stretch = stretch

    @property
    def last_convolution(self) -> str:
        """Path of the module that gives the map."""
        return "head.head.head.4"

    @property
    def result_stride(self) -> int:
        """Where a processing size is a multiple of this, the result has that size."""
        return self.network_stride

    def plan(self, frame_hw: tuple[int, int], resolution: int, pad: int = 0) -> FramePlan:
        """As SingleStepModel's; the head's result is larger where a level of the UNet has an odd side.

        Raises:
            UsageError: also where what is padded comes out at another size, since the padding could not be cut off.
        """
        plan = super().plan(frame_hw, resolution, pad)
        levels = len(self.head.widths)
        height, width = (result_side(side // self.stride, levels) for side in plan.padded_hw)
        plan = replace(plan, result_hw=(height, width))
        if plan.padded_hw not in (plan.resized_hw, plan.result_hw):
            raise UsageError(
                f"with a DPT head sides are padded to multiples of {self.result_stride}; `pad` is {pad}"
            )
        return plan

    def predict_x0(
        self,
        z_N4hw: Tensor,
        xt_N4hw: Tensor | None = None,
        context_NLC: Tensor | None = None,
    ) -> Any:
        """What the head reads: the features of the UNet's levels. There is no noise latent, and no x0."""
        if context_NLC is None:
            context_NLC = self._same_context(z_N4hw.shape[0])
        return unet_features(self.unet, z_N4hw, self.timestep, context_NLC)

    def decode(self, x0_NKhw: Any) -> Tensor:
        """The head's map [N, 1, H, W] of the features; not clipped."""
        result: Tensor = self.head(x0_NKhw)
        return result

    def read(self, image_NKHW: Tensor) -> Tensor:
        """The map as a result [N, 1, H, W] in [0, 1]."""
        return read_head(image_NKHW, self.stretch)

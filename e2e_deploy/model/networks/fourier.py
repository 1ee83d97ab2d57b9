"""DepthMaster's UNet: diffusers' own with a block after the middle that works on the spectrum of its features.

Transforms are products with constant matrices, so that a graph of a fixed size needs no FFT: equal to torch.fft.rfft2
and irfft2 with norm="ortho". Facts: arXiv 2501.02576; depthmaster/modules/unet_2d_blocks.py at 4c1efa1.

N batch, C channels, H W latent pixels at the middle, V = W // 2 + 1 frequencies along W.
"""

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from e2e_deploy.packages import require

GROUPS = 8
MIN_POWER = 1e-36
"""Below it a bin counts as empty; its root's inverse is far inside float32, and so is the gradient of the root."""


@lru_cache(maxsize=64)
def waves(length: int, count: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Cosine and sine of 2 pi u x / ``length``, each [length, count]: x positions, the first ``count`` frequencies u.

    Divided by the root of ``length``. Zero where the mathematics is: there a real signal has a real spectrum.
    """
    turns = np.outer(np.arange(length), np.arange(count)) % length
    angle = 2.0 * np.pi * turns / length
    scale = 1.0 / math.sqrt(length)
    cosine = np.where(4 * turns % (2 * length) == length, 0.0, np.cos(angle)) * scale
    sine = np.where(2 * turns % length == 0, 0.0, np.sin(angle)) * scale
    return cosine, sine


def _constants(x: Tensor, *matrices: npt.NDArray[np.float64]) -> tuple[Tensor, ...]:
    """The matrices in the type and on the device of ``x``; rounded before a trace sees them."""
    numbers = np.float64 if x.dtype == torch.float64 else np.float32
    return tuple(torch.from_numpy(matrix.astype(numbers)).to(x) for matrix in matrices)


def spectrum(x_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary part [N, C, H, V] of the two-dimensional transform of a real map."""
    height, width = x_NCHW.shape[2:]
    cosine, sine = waves(width, width // 2 + 1)
    cosine_WV, minus_sine_WV = _constants(x_NCHW, cosine, -sine)
    cosine_HH, sine_HH = _constants(x_NCHW, *waves(height, height))
    along_real, along_imaginary = x_NCHW @ cosine_WV, x_NCHW @ minus_sine_WV
    real = cosine_HH @ along_real + sine_HH @ along_imaginary
    return real, cosine_HH @ along_imaginary - sine_HH @ along_real


def from_spectrum(real_NCHV: Tensor, imaginary_NCHV: Tensor, width: int) -> Tensor:
    """The real map [N, C, H, W] of half a spectrum; undoes ``spectrum``.

    What cannot be of a real map, the imaginary part of frequencies that are their own opposite, is dropped.
    """
    height, count = real_NCHV.shape[2], width // 2 + 1
    weight_V = np.full(count, 2.0)  # each frequency stands for its opposite as well
    weight_V[0] = 1.0
    if width % 2 == 0:
        weight_V[-1] = 1.0
    cosine_HH, sine_HH = _constants(real_NCHV, *waves(height, height))
    cosine_VW, sine_VW = _constants(
        real_NCHV, *((matrix * weight_V).T for matrix in waves(width, count))
    )
    along_real = cosine_HH @ real_NCHV - sine_HH @ imaginary_NCHV
    along_imaginary = cosine_HH @ imaginary_NCHV + sine_HH @ real_NCHV
    return along_real @ cosine_VW - along_imaginary @ sine_VW


def to_polar(real: Tensor, imaginary: Tensor) -> tuple[Tensor, Tensor]:
    """Magnitude, and angle in (-pi, pi]; pi on the negative real axis, 0 at zero, with finite gradients everywhere.

    The half angle's tangent is |imaginary| / (magnitude + |real|), which loses no digits.
    """
    magnitude = (real * real + imaginary * imaginary).clamp(min=MIN_POWER).sqrt()
    acute = 2.0 * torch.atan(imaginary.abs() / (magnitude + real.abs()))
    turned = torch.where(real < 0, math.pi - acute, acute)
    return magnitude, torch.where(imaginary < 0, -turned, turned)


class FourierBlock(nn.Module):
    """Features [N, C, H, W] joined with what convolutions over the magnitudes and angles of their spectrum make.

    Where an angle is near pi, rounding decides between pi and -pi, as in the published one.
    """

    is_fp32 = True
    """Stays in float32 in half precision: half an angle's digits turn its wave by up to 0.1 %."""

    def __init__(self, channels: int) -> None:
        super().__init__()

        def convolution(size: int, inputs: int = channels) -> nn.Conv2d:
            return nn.Conv2d(inputs, channels, size, padding=size // 2)

        self.norm = nn.GroupNorm(GROUPS, channels)
        self.conv_f1 = convolution(3)
        self.conv_f2 = convolution(3)
        self.conv_f4 = convolution(3)
        self.conv_f3 = convolution(1)
        self.conv_s1 = convolution(3)
        self.conv_s2 = convolution(3)
        self.fuse = convolution(1, 2 * channels)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """[N, C, H, W]."""
        x_NCHW = self.norm(x_NCHW)
        waves_NCHW = F.silu(self.conv_f1(x_NCHW))
        magnitude, angle = to_polar(*spectrum(waves_NCHW))
        magnitude, angle = F.silu(self.conv_f2(magnitude)), F.silu(self.conv_f4(angle))
        changed = from_spectrum(
            magnitude * angle.cos(), magnitude * angle.sin(), waves_NCHW.shape[3]
        )
        of_waves = self.conv_f3(changed + waves_NCHW)
        of_pixels = self.conv_s2(F.silu(self.conv_s1(x_NCHW))) + x_NCHW
        joined: Tensor = self.fuse(torch.cat([of_pixels, of_waves], dim=1))
        return joined


class _AfterMiddle:
    """The hook that runs the block; it looks the block up, as passes may have put another in its place."""

    def __init__(self, unet: Any) -> None:
        self.unet = unet

    def __call__(self, _module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        result: Tensor = self.unet.fftblock(output)
        return result


class FourierUNet:
    """diffusers' UNet2DConditionModel with a FourierBlock, ``fftblock``, after its middle."""

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> Any:
        """The network of a config, which says nothing of the block."""
        unet = require("diffusers", "export").UNet2DConditionModel.from_config(config)
        unet.fftblock = FourierBlock(unet.config.block_out_channels[-1])
        unet.mid_block.register_forward_hook(_AfterMiddle(unet))
        return unet

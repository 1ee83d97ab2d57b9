"""The second half of the UNet's input: zeros, or noise for the ablations.

Knows: how each kind is drawn. Does not know: schedulers or latents of real images.
"""

from typing import Literal

import torch
from torch.nn import functional

NoiseKind = Literal["zeros", "gaussian", "pyramid"]

NUM_LEVELS = 10
DISCOUNT = 0.9
"""Weight of pyramid level i is this to the power of i, where nothing else is asked for."""


def latent_noise(
    kind: NoiseKind,
    shape: tuple[int, int, int, int],
    *,
    generator: torch.Generator,
    strength: float = DISCOUNT,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Latent of ``kind`` on the generator's device.

    ``zeros`` is what E2E-FT trains and deploys with; ``gaussian`` has unit variance; ``pyramid``
    sums Gaussian noise of ever coarser grids (multi-resolution noise), divided by its deviation.

    Args:
        kind: zeros, gaussian or pyramid.
        shape: [B, C, H, W].
        generator: the only source of randomness; its device is the result's.
        strength: weight of pyramid level i is this to the power of i; at 0 the first level alone is left, which is
            as fine as the noise itself.
        dtype: of the result; noise is drawn in float32.

    Raises:
        ValueError: unknown kind.
    """
    device = generator.device
    if kind == "zeros":
        return torch.zeros(shape, device=device, dtype=dtype)
    if kind == "gaussian":
        return torch.randn(shape, generator=generator, device=device).to(dtype)
    if kind == "pyramid":
        return _pyramid(shape, generator, strength).to(dtype)
    raise ValueError(f"noise must be zeros, gaussian or pyramid, got {kind!r}")


def _pyramid(
    shape: tuple[int, int, int, int], generator: torch.Generator, strength: float
) -> torch.Tensor:
    batch, channels, full_height, full_width = shape
    device = generator.device
    noise = torch.randn(shape, generator=generator, device=device)
    height, width = full_height, full_width
    for level in range(NUM_LEVELS):
        ratio = (2 + 2 * torch.rand((), generator=generator, device=device).item()) ** level
        height, width = max(1, int(height / ratio)), max(1, int(width / ratio))
        coarse = torch.randn((batch, channels, height, width), generator=generator, device=device)
        upsampled = functional.interpolate(coarse, size=(full_height, full_width), mode="bilinear")
        noise = noise + strength**level * upsampled
        if height == 1 or width == 1:
            break
    return noise / noise.std()

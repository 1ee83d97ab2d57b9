"""What differs among diffusers' autoencoders around the UNet: AutoencoderKL, and AutoencoderTiny (TAESD's layout).

Every other place takes either for a VAE: an encoder, a decoder, perhaps a 1x1 convolution on either side of the latent,
and a config. Knows no checkpoint.

N batch, C latent channels, H W pixels, h w latent pixels.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn


def encode_mean(vae: Any, rgb_N3HW: Tensor) -> Tensor:
    """The latent [N, C, h, w] of rgb in [-1, 1], before it is scaled: the mean of a KL's distribution.

    What is over beside a multiple of the stride is dropped. A KL does so by itself; a tiny encoder would round up, and
    its image would be larger than the picture.
    """
    if is_tiny(vae.encoder):
        height, width = rgb_N3HW.shape[2:]
        over = height % stride_of(vae), width % stride_of(vae)
        if any(over):
            rgb_N3HW = rgb_N3HW[:, :, : height - over[0], : width - over[1]]
    latent: Tensor = vae.encoder(rgb_N3HW)
    after = getattr(vae, "quant_conv", None)
    if after is not None:
        latent = after(latent)
    channels = vae.config.latent_channels
    # The second half of a KL's is the log variance.
    return latent[:, :channels] if latent.shape[1] > channels else latent


def decode(vae: Any, latent_NChw: Tensor) -> Tensor:
    """The image [N, 1 or 3, H, W] of a latent whose scale was taken off; not clipped."""
    before = getattr(vae, "post_quant_conv", None)
    image: Tensor = vae.decoder(latent_NChw if before is None else before(latent_NChw))
    return image


def decoding_factor(vae: Any) -> float:
    """What a latent is divided by before it is decoded: the scaling factor of what decodes."""
    return float(getattr(vae, "decoding_factor", vae.config.scaling_factor))


class TwoCoders(nn.Module):
    """The encoder of one VAE and the decoder of another, as ``encode_mean`` and ``decode`` take a VAE.

    Attributes:
        config: of the one that encodes.
        decoding_factor: scaling factor of the other.
    """

    def __init__(self, encoding: Any, decoding: Any) -> None:
        super().__init__()
        self.config = encoding.config
        self.decoding_factor = float(decoding.config.scaling_factor)
        self.encoder, self.quant_conv = encoding.encoder, getattr(encoding, "quant_conv", None)
        self.post_quant_conv = getattr(decoding, "post_quant_conv", None)
        self.decoder = decoding.decoder


def is_tiny(half: Any) -> bool:
    """Whether an encoder or decoder is of AutoencoderTiny's layout: one sequence of layers."""
    return isinstance(getattr(half, "layers", None), nn.Sequential)


def end_of(half: Any) -> str:
    """Path of the last convolution in an encoder or decoder."""
    return f"layers.{len(half.layers) - 1}" if is_tiny(half) else "conv_out"


def last_convolution(half: Any) -> nn.Conv2d:
    """The convolution that gives the latent, or the image; a tiny decoder's is in [0, 1] before ``image_of_last``."""
    return cast(nn.Conv2d, half.get_submodule(end_of(half)))


def image_of_last(decoder: Any) -> tuple[float, float]:
    """Factor and offset from what a decoder's last convolution gives to the image in [-1, 1]."""
    return (2.0, -1.0) if is_tiny(decoder) else (1.0, 0.0)


def stride_of(vae: Any) -> int:
    """Pixels a side of one latent pixel."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))


def walk_coder(vae: Any) -> None:
    """Run a VAE without its numbers: what does not fit together fails here, before gigabytes are read.

    Raises:
        ValueError: latent or image come out at another size.
    """
    config = vae.config
    side = 2 * stride_of(vae)
    with torch.no_grad(), torch.device("meta"):
        latent = encode_mean(vae, torch.empty(1, config.in_channels, side, side))
        image = decode(vae, torch.empty(1, config.latent_channels, 2, 2))
    for what, found, wanted in (
        ("its latent", latent.shape, (1, config.latent_channels, 2, 2)),
        ("its result", image.shape, (1, config.out_channels, side, side)),
    ):
        if tuple(found) != wanted:
            raise ValueError(f"{what} has the shape {list(found)}, not {list(wanted)}")

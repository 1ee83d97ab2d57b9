"""A pass over AutoencoderTiny: what surrounds its layers folds into the first and the last of them.

Changes the SpecialisedModel in place and leaves its function as it was (exact in real arithmetic).

N batch, C latent channels, H W pixels, h w latent pixels.
"""

from typing import Any

import torch
from torch import Tensor, nn

from e2e_deploy.export.graph.passes.folding import fold_after, set_weights
from e2e_deploy.export.graph.specialised_model import SpecialisedModel
from e2e_deploy.model.coders.coder import image_of_last, is_tiny, last_convolution

LATENT_BOUND = 3.0
"""Of a tiny decoder: its latent x becomes 3 tanh(x / 3)."""


class RaisedEncoder(nn.Module):
    """A tiny encoder whose first convolution has taken the half of (rgb + 1) / 2.

    The one stays: around the picture there are zeros of what is added up, and no bias is equal to it there.
    """

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, rgb_N3HW: Tensor) -> Tensor:
        """Latent [N, C, h, w] of rgb in [-1, 1]."""
        latent: Tensor = self.layers(rgb_N3HW + 1.0)
        return latent


class BoundedDecoder(nn.Module):
    """A tiny decoder of a latent that was divided by LATENT_BOUND, and whose last convolution gives the image."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, latent_NChw: Tensor) -> Tensor:
        """Image [N, 1 or 3, H, W]."""
        image: Tensor = self.layers(torch.tanh(latent_NChw))
        return image


def _scale_first(layers: Any, factor: float) -> None:
    """Make the first convolution take what is ``factor`` times smaller than before."""
    first = layers[0]
    set_weights(first, first.weight.double() * factor, first.bias)


def fold_tiny_coder(model: SpecialisedModel) -> None:
    """The steps from [-1, 1] to [0, 1] and back, and the bound of the latent, but for one addition and the tanh."""
    vae = model.vae
    if is_tiny(vae.encoder) and not isinstance(vae.encoder, RaisedEncoder):
        _scale_first(vae.encoder.layers, 0.5)
        vae.encoder = RaisedEncoder(vae.encoder.layers)
    if not is_tiny(vae.decoder) or isinstance(vae.decoder, BoundedDecoder):
        return
    factor, offset = image_of_last(vae.decoder)
    last = last_convolution(vae.decoder)
    images = torch.eye(last.out_channels, dtype=torch.float64, device=last.weight.device)
    fold_after(last, factor * images, offset * images.sum(dim=0))
    _scale_first(vae.decoder.layers, LATENT_BOUND)
    vae.decoder = BoundedDecoder(vae.decoder.layers)
    model.output_scale /= LATENT_BOUND

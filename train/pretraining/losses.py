"""The two losses of pretraining, of views that are drawn anew in every step.

SD2 brings an autoencoder and a UNet that knows latents. Random weights bring neither, and end-to-end training of
everything at once then only learns the average depth of a picture's rows: the gradient reaches the encoder through
thirty untrained layers. So, as latent diffusion models are made (arXiv 2112.10752): first the autoencoder on pictures,
depth and normals; then the UNet in one step from the picture's latent to the result's, which costs no decoder.

Knows: models and views. Does not know: optimizers, files.

B images, H' W' pixels of a view, h w latent pixels of a view.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from e2e_deploy.model.coders.coder import decode, encode_mean
from e2e_deploy.model.single_step import SingleStepModel
from e2e_deploy.train.pretraining.views import Pictures, View, random_view

LATENT_PENALTY = 1e-3
"""Weight of the latents' mean square: keeps them near unit size, as the KL term of a VAE would."""

EDGE_WEIGHT = 0.5
"""Weight of the error in differences between neighbours, which keeps edges sharp where L1 alone blurs them."""

KINDS = ("rgb", "depth", "normals")

Loss = Callable[[torch.Generator], Tensor]
"""Of one step; the generator is the only source of chance."""


def autoencoder_loss(model: SingleStepModel, pictures: Pictures, *, batch: int) -> Loss:
    """How far the VAE, without sampling, is from reproducing pictures, depth and normals."""

    def loss(generator: torch.Generator) -> Tensor:
        kind = KINDS[int(torch.randint(len(KINDS), (1,), generator=generator))]
        indices = torch.randint(len(pictures.rgb), (batch,), generator=generator)
        view = random_view(pictures.size_hw, generator)
        images = pictures.batch(kind, indices, view, generator)
        latent = encode_mean(model.vae, images)
        result = decode(model.vae, latent).float()
        reproduced = F.l1_loss(result, images) + EDGE_WEIGHT * differences(result, images)
        penalised: Tensor = reproduced + LATENT_PENALTY * latent.float().square().mean()
        return penalised

    return loss


def set_scaling_factor(model: SingleStepModel, pictures: Pictures) -> None:
    """Make the standard deviation of the latents 1, as SD's 0.18215 does."""
    indices = torch.arange(min(64, len(pictures.rgb)))
    with torch.no_grad():
        images = (pictures.batch(kind, indices, pictures.whole) for kind in KINDS)
        latents = [encode_mean(model.vae, image) for image in images]
    model.vae.register_to_config(scaling_factor=1.0 / float(torch.cat(latents).std()))


def unet_loss(
    model: SingleStepModel, pictures: Pictures, *, batch: int, num_views: int, seed: int
) -> Loss:
    """How far the UNet's latent is from that of the task's result; all views are encoded here, once."""
    sources_n4hw, targets_n4hw = encode_views(model, pictures, num_views=num_views, seed=seed)

    def loss(generator: torch.Generator) -> Tensor:
        indices = torch.randint(len(sources_n4hw), (batch,), generator=generator)
        predicted = model.predict_x0(sources_n4hw[indices]).float()
        return F.smooth_l1_loss(predicted, targets_n4hw[indices])

    return loss


def encode_all(
    model: SingleStepModel,
    pictures: Pictures,
    kind: str,
    views: list[View],
    generator: torch.Generator | None = None,
) -> Tensor:
    """Scaled latents [n, 4, h, w] of every image of ``kind``; every 16 images take the next of ``views`` in turn.

    With a generator, rgb is augmented by chance from it.
    """
    chunks: tuple[Tensor, ...] = torch.arange(len(pictures.rgb)).split(16)  # type: ignore[no-untyped-call]  # torch's
    with torch.no_grad():
        parts = [
            model.encode(pictures.batch(kind, indices, views[turn % len(views)], generator))
            for turn, indices in enumerate(chunks)
        ]
    return torch.cat(parts)


def encode_views(
    model: SingleStepModel, pictures: Pictures, *, num_views: int, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Scaled latents of ``num_views`` views of every picture and of the task's result there; [n num_views, 4, h, w]."""
    generator = torch.Generator().manual_seed(seed)
    sources, targets = [], []
    for _ in range(num_views):
        views = [
            random_view(pictures.size_hw, generator) for _ in range(len(pictures.rgb) // 16 + 1)
        ]
        sources.append(encode_all(model, pictures, "rgb", views, generator))
        targets.append(encode_all(model, pictures, model.task, views))
    return torch.cat(sources), torch.cat(targets)


def differences(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute error of the differences between neighbours, vertical and horizontal ones added."""
    vertical = F.l1_loss(a[..., 1:, :] - a[..., :-1, :], b[..., 1:, :] - b[..., :-1, :])
    horizontal = F.l1_loss(a[..., 1:] - a[..., :-1], b[..., 1:] - b[..., :-1])
    return vertical + horizontal

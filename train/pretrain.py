"""What a small model needs before end-to-end training: an autoencoder, and a UNet that has seen latents.

SD2 brings both. A model from random weights brings neither, and end-to-end training of everything at once then only
learns the average depth of a picture's rows: the gradient reaches the encoder through thirty untrained layers. So,
as latent diffusion models are made (arXiv 2112.10752): first the autoencoder on pictures, depth and normals; then the
UNet in one step from the picture's latent to the result's, which costs no decoder; then the end-to-end loop.

Both see views: mirrored windows of the pictures at changing scale, so that a few hundred pictures last longer.

Knows models and one folder data set. Knows nothing of the loop.

B images, H W pixels of a picture, H' W' pixels of a view, h w latent pixels of a view.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from e2e_deploy.errors import DataError
from e2e_deploy.model.single_step import SingleStepModel
from e2e_deploy.train.data.folder import FolderDataset
from e2e_deploy.train.data.resize import fit
from e2e_deploy.train.data.sample import depth_target

log = logging.getLogger(__name__)

LATENT_PENALTY = 1e-3
"""Weight of the latents' mean square: keeps them near unit size, as the KL term of a VAE would."""

EDGE_WEIGHT = 0.5
"""Weight of the error in differences between neighbours, which keeps edges sharp where L1 alone blurs them."""


SMALLEST_VIEW = 0.5
"""Least side of a view as a share of the picture's."""


class View(NamedTuple):
    """A window of a picture, perhaps mirrored, in pixels of the picture."""

    top: int
    left: int
    height: int
    width: int
    flip: bool


def random_view(size_hw: tuple[int, int], generator: torch.Generator) -> View:
    """A window of the picture's aspect with sides from SMALLEST_VIEW to all of it; every second one mirrored."""
    share, down, right, mirror = torch.rand(4, generator=generator).tolist()
    side = SMALLEST_VIEW + (1 - SMALLEST_VIEW) * share
    height, width = (round(side * length) for length in size_hw)
    top, left = int(down * (size_hw[0] - height + 1)), int(right * (size_hw[1] - width + 1))
    return View(top, left, height, width, mirror < 0.5)


@dataclass(frozen=True)
class Pictures:
    """A whole split in memory, every image in [-1, 1], uint8-quantised to save memory.

    Attributes:
        view_hw: (H', W') that views are resized to.
        rgb: uint8 [n, 3, H, W].
        results: depth (repeated over three channels, 2 to 98 per cent quantiles to 0 and 255, invalid far) or normals,
            uint8 [n, 3, H, W], by task.
    """

    view_hw: tuple[int, int]
    rgb: Tensor
    results: dict[str, Tensor]

    @property
    def size_hw(self) -> tuple[int, int]:
        """(H, W) of the pictures."""
        return (self.rgb.shape[2], self.rgb.shape[3])

    @property
    def whole(self) -> View:
        """The view of everything."""
        return View(0, 0, *self.size_hw, False)

    def batch(self, kind: str, indices: Tensor, view: View) -> Tensor:
        """float32 [B, 3, H', W'] in [-1, 1] of ``kind`` rgb, depth or normals, seen through ``view``.

        Depth spans -1 to 1 again in every view, as a depth target does; normals have unit length, and x changes sign
        in a mirror.
        """
        top, left, height, width, flip = view
        images = (self.rgb if kind == "rgb" else self.results[kind])[indices]
        images = images[:, :, top : top + height, left : left + width].float() / 127.5 - 1.0
        if flip:
            images = images.flip(3)
            if kind == "normals":
                images[:, 0] = -images[:, 0]
        images = F.interpolate(images, self.view_hw, mode="bilinear", antialias=True)
        if kind == "normals":
            images = F.normalize(images, dim=1)
        if kind == "depth":
            near, far = (f(images, dim=(1, 2, 3), keepdim=True) for f in (torch.amin, torch.amax))
            images = (images - near) / (far - near).clamp(min=1 / 255) * 2.0 - 1.0
        return images

    def to(self, device: str) -> "Pictures":
        """The same pictures on ``device``."""
        results = {k: v.to(device) for k, v in self.results.items()}
        return Pictures(self.view_hw, self.rgb.to(device), results)


def load_pictures(root: Path, view_hw: tuple[int, int], *, split: str = "train") -> Pictures:
    """Read a split of a folder data set into memory, at twice the size of its views.

    Raises:
        DataError: the split has no samples, or no depth or normals.
    """
    dataset = FolderDataset(root, split)
    if not (dataset.has_normals and dataset.spec.depth_format):
        raise DataError(f"{root} has depth or normals alone; pretraining needs both")
    rgb, depths, normals = [], [], []
    for index in range(len(dataset)):
        sample = fit(dataset.read(index), 2 * view_hw[0], 2 * view_hw[1])
        depth, valid = depth_target(sample.depth_m, sample.valid)
        assert sample.normals is not None
        if not valid.any():
            continue
        near, far = depth[valid].min(), depth[valid].max()
        unit = np.where(valid, (depth - near) / (far - near), 1.0)
        rgb.append(sample.rgb.transpose(2, 0, 1))
        depths.append(np.repeat((unit * 255)[None], 3, axis=0))
        normals.append((sample.normals.transpose(2, 0, 1) + 1.0) * 127.5)

    def stack(images: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.rint(np.stack(images)).astype(np.uint8))

    return Pictures(view_hw, stack(rgb), {"depth": stack(depths), "normals": stack(normals)})


def _differences(a: Tensor, b: Tensor) -> Tensor:
    vertical = F.l1_loss(a[..., 1:, :] - a[..., :-1, :], b[..., 1:, :] - b[..., :-1, :])
    horizontal = F.l1_loss(a[..., 1:] - a[..., :-1], b[..., 1:] - b[..., :-1])
    return vertical + horizontal


def optimise(
    name: str,
    parameters: list[Tensor],
    loss_of: Callable[[torch.Generator], Tensor],
    *,
    steps: int,
    lr: float,
    seed: int,
) -> None:
    """AdamW with a warm-up of a twentieth and a cosine to zero; logs twenty times."""
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=1e-2, fused=True)
    warm_up = max(1, steps // 20)

    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        return float(0.5 * (1 + np.cos(np.pi * (step - warm_up) / max(1, steps - warm_up))))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    generator = torch.Generator().manual_seed(seed)
    start, total = time.perf_counter(), 0.0
    every = max(1, steps // 20)
    for step in range(1, steps + 1):
        with torch.autocast(parameters[0].device.type, dtype=torch.bfloat16):
            loss = loss_of(generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        total += float(loss.detach())
        if step % every == 0:
            seconds = time.perf_counter() - start
            log.info("%s %d/%d  loss %.4f  %.0f s", name, step, steps, total / every, seconds)
            total = 0.0


def pretrain_autoencoder(
    model: SingleStepModel,
    pictures: Pictures,
    *,
    steps: int,
    batch: int = 8,
    lr: float = 2e-3,
    seed: int = 0,
) -> None:
    """Train the VAE, without sampling, to reproduce pictures, depth and normals; then set its scaling factor.

    The scaling factor makes the latents' standard deviation 1, as SD's 0.18215 does.
    """
    vae = model.vae.requires_grad_(True).train()
    kinds = ("rgb", "depth", "normals")

    def loss_of(generator: torch.Generator) -> Tensor:
        step_kind = kinds[int(torch.randint(len(kinds), (1,), generator=generator))]
        indices = torch.randint(len(pictures.rgb), (batch,), generator=generator)
        view = random_view(pictures.size_hw, generator)
        images = pictures.batch(step_kind, indices, view)
        latent = vae.encode(images).latent_dist.mean
        result = vae.decode(latent, return_dict=False)[0].float()
        reproduced = F.l1_loss(result, images) + EDGE_WEIGHT * _differences(result, images)
        penalised: Tensor = reproduced + LATENT_PENALTY * latent.float().square().mean()
        return penalised

    optimise("autoencoder", list(vae.parameters()), loss_of, steps=steps, lr=lr, seed=seed)
    vae.requires_grad_(False).eval()
    indices = torch.arange(min(64, len(pictures.rgb)))
    with torch.no_grad():
        latents = [
            vae.encode(pictures.batch(k, indices, pictures.whole)).latent_dist.mean for k in kinds
        ]
    scale = 1.0 / float(torch.cat(latents).std())
    vae.register_to_config(scaling_factor=scale)
    model.scaling_factor = scale
    log.info("autoencoder: scaling factor %.4f", scale)


def encode_all(model: SingleStepModel, pictures: Pictures, kind: str, views: list[View]) -> Tensor:
    """Scaled latents [n, 4, h, w] of every image of ``kind``; every 16 images take the next of ``views`` in turn."""
    chunks: tuple[Tensor, ...] = torch.arange(len(pictures.rgb)).split(16)  # type: ignore[no-untyped-call]  # torch's
    with torch.no_grad():
        parts = [
            model.encode(pictures.batch(kind, indices, views[turn % len(views)]))
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
        sources.append(encode_all(model, pictures, "rgb", views))
        targets.append(encode_all(model, pictures, model.task, views))
    return torch.cat(sources), torch.cat(targets)


def pretrain_unet(
    model: SingleStepModel,
    pictures: Pictures,
    *,
    steps: int,
    batch: int = 16,
    lr: float = 1e-3,
    num_views: int = 12,
    seed: int = 0,
) -> None:
    """Train the UNet in one step from picture latents to the latents of the task's result; the VAE stays.

    ``num_views`` views of every picture are encoded once, before the first step.
    """
    unet = model.unet.requires_grad_(True).train()
    sources_n4hw, targets_n4hw = encode_views(model, pictures, num_views=num_views, seed=seed)

    def loss_of(generator: torch.Generator) -> Tensor:
        indices = torch.randint(len(sources_n4hw), (batch,), generator=generator)
        predicted = model.predict_x0(sources_n4hw[indices]).float()
        return F.smooth_l1_loss(predicted, targets_n4hw[indices])

    optimise("unet", list(unet.parameters()), loss_of, steps=steps, lr=lr, seed=seed)
    unet.requires_grad_(False).eval()

"""Views of a data set in memory: mirrored windows of its pictures at changing scale, so that a few hundred last longer.

Knows: one folder data set. Does not know: models.

B images, H W pixels of a picture, H' W' pixels of a view.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from e2e_deploy.errors import DataError
from e2e_deploy.names import OnBad
from e2e_deploy.train.accuracy import spread_indices
from e2e_deploy.train.augmentation.augment import Augmentation
from e2e_deploy.train.data.folder import FolderDataset
from e2e_deploy.train.data.resize import fit
from e2e_deploy.train.data.sample import depth_target

SMALLEST_VIEW = 0.5
"""Least side of a view as a share of the picture's."""

LEAST_DEPTH = 1 / 255
"""Of a view, where its picture has 2: what is flatter stays flatter, since float16 has no more to show there."""


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
    """A whole split in memory.

    Attributes:
        view_hw: (H', W') that views are resized to.
        rgb: uint8 [n, 3, H, W].
        results: by task; depth, 2 to 98 per cent quantiles to 0 and 1, invalid far, float16 [n, 1, H, W], because a
            view of what is near has a small part of a street's depth; normals, -1 to 1 as 0 to 255, uint8 [n, 3, H, W].
        augmentation: what happens to the pictures of views, and to nothing else.
    """

    view_hw: tuple[int, int]
    rgb: Tensor
    results: dict[str, Tensor]
    augmentation: Augmentation | None = None

    @property
    def size_hw(self) -> tuple[int, int]:
        """(H, W) of the pictures."""
        return (self.rgb.shape[2], self.rgb.shape[3])

    @property
    def whole(self) -> View:
        """The view of everything."""
        return View(0, 0, *self.size_hw, False)

    def batch(
        self,
        kind: str,
        indices: Tensor,
        view: View,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """float32 [B, 3, H', W'] in [-1, 1] of ``kind`` rgb, depth or normals, seen through ``view``.

        Depth spans -1 to 1 again in every view, as a depth target does; normals have unit length, and x changes sign
        in a mirror. With a generator, rgb is augmented by chance from it.
        """
        top, left, height, width, flip = view
        images = (self.rgb if kind == "rgb" else self.results[kind])[indices]
        images = images[:, :, top : top + height, left : left + width].float()
        images = images / 127.5 - 1.0 if kind != "depth" else 2.0 * images.repeat(1, 3, 1, 1) - 1.0
        if flip:
            images = images.flip(3)
            if kind == "normals":
                images[:, 0] = -images[:, 0]
        images = F.interpolate(images, self.view_hw, mode="bilinear", antialias=True)
        if kind == "normals":
            images = F.normalize(images, dim=1)
        if kind == "depth":
            near, far = (f(images, dim=(1, 2, 3), keepdim=True) for f in (torch.amin, torch.amax))
            images = (images - near) / (far - near).clamp(min=LEAST_DEPTH) * 2.0 - 1.0
        if kind == "rgb" and generator is not None and self.augmentation is not None:
            images = _photographed(images, self.augmentation, generator)
        return images

    def to(self, device: torch.device | str) -> "Pictures":
        """The same pictures on ``device``."""
        results = {k: v.to(device) for k, v in self.results.items()}
        return Pictures(self.view_hw, self.rgb.to(device), results, self.augmentation)


def load_pictures(
    root: Path | str,
    view_hw: tuple[int, int],
    *,
    split: str = "train",
    limit: int | None = None,
    on_bad: OnBad = "stop",
    augmentation: Augmentation | None = None,
    cache_gb: float | None = None,
) -> Pictures:
    """Read a split of a folder data set into memory, at twice the size of its views.

    Args:
        root: the data set, with depth and normals.
        view_hw: (H', W') of its views.
        split: its part.
        limit: at most so many pictures, evenly spread.
        on_bad: leave damaged samples out, or stop at the first.
        augmentation: of the pictures of views; its windows are not used.
        cache_gb: as of ``FolderDataset``.

    Raises:
        DataError: the split has no sample with depth, the set has depth or normals alone, or ``on_bad`` is stop.
        UsageError: no such split.
    """
    dataset = FolderDataset(root, split, cache_gb=cache_gb)
    if not (dataset.has_normals and dataset.spec.depth_format):
        raise DataError(f"{root} has depth or normals alone; pretraining needs both")
    images: dict[str, list[npt.NDArray[Any]]] = {"rgb": [], "depth": [], "normals": []}
    for index in spread_indices(len(dataset), limit):
        try:
            sample = fit(dataset.read(index), 2 * view_hw[0], 2 * view_hw[1])
        except DataError:
            if on_bad == "stop":
                raise
            continue
        depth, valid = depth_target(sample.depth_m, sample.valid)
        if not valid.any() or sample.normals is None:
            continue
        near, far = depth[valid].min(), depth[valid].max()
        unit = np.where(valid, (depth - near) / (far - near), 1.0)
        images["rgb"].append(sample.rgb)
        images["depth"].append(unit[..., None].astype(np.float16))
        images["normals"].append(np.rint((sample.normals + 1.0) * 127.5).astype(np.uint8))
    if not images["rgb"]:
        raise DataError(f"{root} ({split}): no sample with depth can be read")
    n3hw = {k: torch.from_numpy(np.stack(v).transpose(0, 3, 1, 2)) for k, v in images.items()}
    return Pictures(view_hw, n3hw.pop("rgb"), n3hw, augmentation)


def _photographed(images: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    seeds = torch.randint(2**62, (len(images),), generator=generator).tolist()
    pictures = ((images + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    changed = [
        augmentation.photographed(picture, np.random.default_rng(seed))
        for picture, seed in zip(pictures, seeds, strict=True)
    ]
    stacked = torch.from_numpy(np.stack(changed)).permute(0, 3, 1, 2).contiguous()
    return stacked.to(images.device).float() / 127.5 - 1.0

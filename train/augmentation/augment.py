"""Training samples as ``[augment]`` wants them: a window of the sample first, then what a camera does to its picture.

A window keeps planar depth, normals, masks and mattes as they are: only the principal point and the size of a pixel
change, which no truth of a training knows. Knows: settings, samples. Does not know: where chance comes from.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from e2e_deploy.train.augmentation.photometric import (
    Picture,
    Rng,
    blurred,
    compressed,
    noisy,
    recoloured,
)
from e2e_deploy.train.config.settings import AugmentConfig
from e2e_deploy.train.data.resize import crop, fit
from e2e_deploy.train.data.sample import Sample

_STEPS: tuple[tuple[str, Callable[[Picture, Rng], Picture]], ...] = (
    ("colour", recoloured),
    ("blur", blurred),
    ("noise", noisy),
    ("jpeg", compressed),
)
"""In the order of a camera: light, lens, sensor, file."""


@dataclass(frozen=True)
class Augmentation:
    """What ``settings`` make of samples and of pictures."""

    settings: AugmentConfig

    def __call__(self, sample: Sample, size_hw: tuple[int, int] | None, rng: Rng) -> Sample:
        """A window of ``sample`` at the training size, or at the sample's own, with a photographed picture."""
        size_hw = size_hw or (sample.valid.shape[0], sample.valid.shape[1])
        fitted = fit(self._window(sample, size_hw, rng), *size_hw)
        return replace(fitted, rgb=self.photographed(fitted.rgb, rng))

    def photographed(self, picture: Picture, rng: Rng) -> Picture:
        """``picture``, uint8 RGB `[H, W, 3]`, after each change that its chance lets through."""
        for name, change in _STEPS:
            if rng.random() < getattr(self.settings, name):
                picture = change(np.ascontiguousarray(picture), rng)
        return picture

    def _window(self, sample: Sample, size_hw: tuple[int, int], rng: Rng) -> Sample:
        """A window with the aspect of ``size_hw``, as large as fits or smaller; a whole view stays for ``fit``."""
        if self.settings.smallest_view == 1:
            return sample
        height, width = sample.valid.shape
        share, down, right = rng.uniform(self.settings.smallest_view, 1), *rng.random(2)
        scale = share * min(height / size_hw[0], width / size_hw[1])
        rows, columns = (max(1, round(scale * side)) for side in size_hw)
        top, left = int(down * (height - rows + 1)), int(right * (width - columns + 1))
        return crop(sample, top, left, rows, columns)

"""Samples at the size the network trains on.

Knows: how colour, depth and normals are resampled and cropped. Does not know: tensors, files.
"""

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from e2e_deploy.train.data.encoding import unit_or_zero
from e2e_deploy.train.data.sample import Sample

Array = npt.NDArray[Any]

STRIDE = 8
"""The autoencoder's: image sides must be multiples of it."""

SHORTEST_BLEND = 0.5
"""A bilinear mixture of normals below this length is mostly of nothing, or of opposite directions."""


def crop(sample: Sample, top: int, left: int, height: int, width: int) -> Sample:
    """Cut a window out of every array of ``sample``."""

    def cut(array: Array) -> Array:
        return np.ascontiguousarray(array[top : top + height, left : left + width])

    return replace(
        sample,
        rgb=cut(sample.rgb),
        depth_m=cut(sample.depth_m),
        normals=None if sample.normals is None else cut(sample.normals),
        valid=cut(sample.valid),
        mask=None if sample.mask is None else cut(sample.mask),
        matte=None if sample.matte is None else cut(sample.matte),
    )


def resize(sample: Sample, height: int, width: int) -> Sample:
    """Resample to ``height`` x ``width``, aspect not kept.

    Colour and mattes: area average when shrinking, bilinear when growing. Depth, what is valid, and masks: nearest, so
    that no depth appears between two surfaces and no colour that is no segment's. Normals: bilinear, renormalised,
    zero where the nearest one is zero.
    """
    if sample.valid.shape == (height, width):
        return sample
    size = (width, height)
    shrinks = height < sample.rgb.shape[0]
    normals = sample.normals
    if normals is not None:
        nearest = cv2.resize(normals, size, interpolation=cv2.INTER_NEAREST_EXACT)
        blended = unit_or_zero(
            cv2.resize(normals, size, interpolation=cv2.INTER_LINEAR), SHORTEST_BLEND
        )
        normals = blended * np.any(nearest != 0, axis=-1, keepdims=True)
    smooth = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    mask, matte = sample.mask, sample.matte
    if mask is not None:
        mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT).astype(np.float32)
    if matte is not None:
        matte = cv2.resize(matte, size, interpolation=smooth).astype(np.float32)
    return replace(
        sample,
        rgb=cv2.resize(sample.rgb, size, interpolation=smooth).astype(np.uint8),
        depth_m=cv2.resize(sample.depth_m, size, interpolation=cv2.INTER_NEAREST_EXACT).astype(
            np.float32
        ),
        normals=normals,
        valid=cv2.resize(
            sample.valid.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT
        ).astype(bool),
        mask=mask,
        matte=matte,
    )


def fit(sample: Sample, height: int, width: int) -> Sample:
    """Scale until ``height`` x ``width`` is covered, aspect kept, then cut out the centre."""
    old_height, old_width = sample.valid.shape
    scale = max(height / old_height, width / old_width)
    covered = resize(
        sample,
        max(height, round(old_height * scale)),
        max(width, round(old_width * scale)),
    )
    new_height, new_width = covered.valid.shape
    return crop(covered, (new_height - height) // 2, (new_width - width) // 2, height, width)
